"""Noise that is the same in every file and stream, and the sensor's band folded upwards."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from bcfusion.errors import ConfigError
from bcfusion.nn.bands import Bands
from bcfusion.nn.excitation import FoldedSpectrum, NoiseSpectrum
from bcfusion.nn.stft import InverseStft, Stft

RATE = 16000


def folded(cutoff: float, n_fft: int = 512, hop: int = 128) -> FoldedSpectrum:
    return FoldedSpectrum(RATE, n_fft, hop, cutoff, Bands(RATE, n_fft, n_fft, "hann", 40))


def tone_folded(frequency: float, cutoff: float) -> Tensor:
    """Level in dB of each frequency in Hz of the excitation for a tone, relative to the tone."""
    tone = torch.cos(2 * math.pi * frequency * torch.arange(RATE) / RATE).view(1, 1, -1)
    noise = 1e-4 * torch.randn(tone.shape, generator=torch.Generator().manual_seed(0))
    real, imag = Stft(512, 128, 512)(tone + noise)
    waveform = InverseStft(512, 128, 512)(*folded(cutoff)(real[:, 0], imag[:, 0]))[0, 0, 4000:12000]
    spectrum = torch.fft.rfft(waveform * torch.hann_window(8000), n=RATE).abs() / 2000
    return 20 * (spectrum + 1e-9).log10()


@pytest.mark.parametrize(
    ("cutoff", "source", "copies"),
    [(4000, 1000, [7000]), (2000, 300, [3700, 4300, 7700]), (1000, 300, [1700, 2300, 3700, 4300, 5700, 6300, 7700])],
)
def test_a_tone_is_mirrored_and_copied_as_a_single_tone(cutoff: float, source: float, copies: list[int]) -> None:
    level = tone_folded(source, cutoff)
    for copy in copies:
        assert int(level[copy - 150 : copy + 150].argmax()) == 150
        # 30 Hz to either side there is nothing: the phase advances evenly from frame to frame
        assert level[copy] > level[copy - 30] + 40
        assert level[copy] > level[copy + 30] + 40
    assert level[: int(cutoff) - 100].max() < level[copies[0]] - 40


def test_all_bands_have_the_mean_energy_of_the_sensors_band() -> None:
    tilt = 10 ** (-0.02 * torch.arange(257.0))  # by 40 dB per 100 bins
    noise = torch.randn(2, 257, 400, generator=torch.Generator().manual_seed(1)) * tilt[:, None]
    real, imag = noise
    fold = folded(2000)
    result = fold(real[None], imag[None])
    power = (result[0].square() + result[1].square())[0].mean(-1)
    wanted = (real[:64].square() + imag[:64].square()).mean()
    assert not power[:64].any()
    decibels = 10 * (power[64:] / wanted).log10()
    assert decibels.abs().mean() < 2
    assert decibels.abs().max() < 6


def test_a_cutoff_between_the_steps_of_the_stft_is_refused_with_one_that_fits() -> None:
    with pytest.raises(
        ConfigError, match=r"cutoff_frequency=3400 Hz .* multiple of 62\.5 Hz below 8000 Hz, such as 3375 Hz"
    ):
        folded(3400)
    folded(3375)
    for cutoff, fits in ((0, "62.5"), (8000, "7937.5"), (9000, "7937.5")):
        with pytest.raises(ConfigError, match=rf"cutoff_frequency={cutoff} Hz .* such as {fits} Hz"):
            folded(cutoff)
        folded(float(fits))


def test_the_noise_has_unit_energy_in_every_bin_and_is_that_of_a_waveform() -> None:
    model = NoiseSpectrum(512, 128, 512, "hann")
    real, imag = model(torch.zeros(2, 257, 600))
    assert torch.equal(real[0], real[1])
    power = real[0, :, :256].square() + imag[0, :, :256].square()
    assert power.mean() == pytest.approx(1.0, abs=0.02)
    assert power.mean(1).min() > 0.5
    torch.testing.assert_close(real[..., 256:512], real[..., :256])
    # synthesis and analysis return the same frames: they agree where they overlap
    waveform = InverseStft(512, 128, 512)(real, imag)
    again = Stft(512, 128, 512)(waveform)[0]
    torch.testing.assert_close(again[:, 0, :, 10:500], real[..., 7:497], atol=1e-4, rtol=0)


def test_the_noise_of_a_stream_is_that_of_the_file() -> None:
    model = NoiseSpectrum(128, 32, 128, "hann")
    like = torch.zeros(2, 65, 700)
    whole = model(like)
    with model.streaming(2):
        parts = [model(part) for part in like.split([1, 2, 300, 397], dim=-1)]
    for index in (0, 1):
        assert torch.equal(torch.cat([part[index] for part in parts], dim=-1), whole[index])
