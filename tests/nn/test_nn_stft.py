from __future__ import annotations

import numpy as np
import pytest
import torch

from bcfusion.errors import AudioError, ConfigError
from bcfusion.losses.generator_stft import GeneratorStft
from bcfusion.nn.stft import InverseStft, Stft, Window, window_samples
from bcfusion.nn.streaming import StreamingError

SIZES: list[tuple[int, int, int, Window]] = [
    (512, 100, 400, "hann"),
    (400, 200, 400, "sine"),
    (512, 128, 512, "sqrt_hann"),
    (320, 80, 240, "hann"),
]


@pytest.mark.parametrize(("n_fft", "hop", "win", "window"), SIZES)
def test_frames_are_ffts_of_the_last_samples(n_fft: int, hop: int, win: int, window: Window) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 3, 7 * hop)
    real, imag = Stft(n_fft, hop, win, window, channels=3)(x)
    assert real.shape == imag.shape == (2, 3, n_fft // 2 + 1, 7)
    padded = np.pad(x.double().numpy(), ((0, 0), (0, 0), (win - hop, 0)))
    for j in range(7):
        expected = np.fft.rfft(padded[..., j * hop : j * hop + win] * window_samples(window, win), n=n_fft)
        got = (real + 1j * imag)[..., j].numpy()
        assert np.abs(got - expected).max() < 2e-6 * np.abs(expected).max()


@pytest.mark.parametrize(("n_fft", "hop", "win", "window"), SIZES)
def test_the_inverse_returns_the_waveform_delayed_by_the_overlap(
    n_fft: int, hop: int, win: int, window: Window
) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 1, 20 * hop)
    real, imag = Stft(n_fft, hop, win, window)(x)
    inverse = InverseStft(n_fft, hop, win, window)
    y = inverse(real[:, 0], imag[:, 0])
    assert inverse.lookahead == win - hop
    torch.testing.assert_close(y[..., win - hop :], x[..., : x.shape[-1] - (win - hop)], atol=3e-6, rtol=0)


def test_kernels_are_exact_to_the_last_digits_of_float32() -> None:
    n = 2048
    kernel = Stft(n, 512, n).kernel[:, 0].double()
    angle = np.outer(np.arange(n // 2 + 1, dtype=object), np.arange(n, dtype=object)) % n  # integers of any size
    cosine = np.cos(2 * np.pi * angle.astype(float) / n) * window_samples("hann", n)
    assert (kernel[: n // 2 + 1] - torch.from_numpy(cosine)).abs().max() < 1e-7


def test_the_centred_frames_are_those_of_the_losses() -> None:
    x = torch.randn(1, 1, 2000)
    stft, of_losses = Stft(512, 100, 400), GeneratorStft(512, 100, 400, "hann")
    real, imag = stft(torch.nn.functional.pad(x, (0, 400)))
    frames = torch.complex(real, imag)[0, 0, :, stft.centred : stft.centred + 21]
    torch.testing.assert_close(frames.T, of_losses(x[0])[0], atol=1e-4, rtol=0)


def test_the_inverse_of_a_modified_spectrum_is_the_waveform_with_the_nearest_spectrum() -> None:
    """Griffin & Lim's least squares: no other waveform of the same length comes nearer to it."""
    stft, inverse = Stft(64, 16, 64).double(), InverseStft(64, 16, 64).double()
    generator = torch.Generator().manual_seed(0)
    wanted = torch.randn(2, 1, 33, 40, dtype=torch.float64, generator=generator)
    wanted[1, :, [0, -1]] = 0  # the imaginary part of these bins has no meaning

    def distance(x: torch.Tensor) -> torch.Tensor:
        error = (torch.stack([part[:, 0] for part in stft(x)]) - wanted).square()
        error[:, :, 1:-1] *= 2
        return error[..., 8:-8].sum()

    y = inverse(wanted[0], wanted[1])
    aligned = torch.cat([y[..., 48:], torch.zeros(1, 1, 48, dtype=torch.float64)], dim=-1).requires_grad_()
    (gradient,) = torch.autograd.grad(distance(aligned), aligned)
    (elsewhere,) = torch.autograd.grad(distance(0.5 * aligned), aligned)
    assert gradient[..., 256:-256].abs().max() < 1e-5 * elsewhere.abs().max()


def test_wrong_sizes_are_refused() -> None:
    with pytest.raises(ConfigError, match="0 < hop_length <= win_length <= n_fft"):
        Stft(256, 128, 512)
    with pytest.raises(ConfigError, match="window='hamming' must be one of hann"):
        Stft(256, 128, 256, "hamming")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="leaves gaps at hop_length=256"):
        InverseStft(256, 256, 256, "hann")
    with pytest.raises(AudioError, match=r"takes \(batch, 1, time\)"):
        Stft(256, 128, 256)(torch.zeros(1, 2, 256))
    with pytest.raises(StreamingError, match="300 samples are not whole hops of 128"):
        Stft(256, 128, 256)(torch.zeros(1, 1, 300))
    with pytest.raises(AudioError, match="129 bins"):
        InverseStft(256, 128, 256)(torch.zeros(1, 128, 3), torch.zeros(1, 128, 3))


def test_mixed_precision_does_not_touch_the_transform() -> None:
    stft, inverse, x = Stft(512, 128, 512), InverseStft(512, 128, 512), torch.randn(1, 1, 2560)
    plain = stft(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        real, imag = stft(x)
        y = inverse(real[:, 0].bfloat16(), imag[:, 0].bfloat16())
    assert torch.equal(real, plain[0])
    assert torch.equal(imag, plain[1])
    assert y.dtype == torch.float32
