from __future__ import annotations

import pytest
import torch
from torch import Tensor

from bcfusion.errors import AudioError, ConfigError
from bcfusion.nn.delay import Delay
from bcfusion.nn.network import WaveformNetwork
from bcfusion.nn.spectral import Complex, Head, SpectralHead, SpectralNetwork, magnitude
from bcfusion.nn.streaming import StreamingError


class Late(WaveformNetwork):
    """Returns its last sensor, 5 samples late, in frames of 4."""

    def __init__(self, sensors: int = 2) -> None:
        super().__init__(8000, sensors, hop=4, causal=True, lookahead=5)
        self.delayed = Delay(5)

    def body(self, inputs: Tensor) -> Tensor:
        assert inputs.shape[-1] % self.hop == 0
        y: Tensor = self.delayed(inputs[:, [self.skip_channel]])
        return y


class Half(SpectralNetwork):
    """Halves the spectrum with a mask of 1/2 everywhere."""

    provides = ("mask",)

    def __init__(self) -> None:
        super().__init__(8000, 1, 64, 16, 64, "hann", causal=True)
        self.head = SpectralHead("mask")

    def spectrum(self, real: Tensor, imag: Tensor) -> tuple[Complex, dict[str, Tensor]]:
        mask = torch.full_like(real[:, 0], 0.5)
        frame = torch.arange(real.shape[-1]).expand_as(mask)
        return self.head((real[:, 0], imag[:, 0]), (mask, torch.zeros_like(mask))), {"mask": frame}


def test_whole_files_are_aligned_and_streams_are_late() -> None:
    network = Late()
    for samples in (1, 3, 4, 5, 17):
        x = torch.randn(2, 2, samples)
        assert torch.equal(network(x), x[:, 1:])
    x = torch.randn(2, 2, 24)
    with network.streaming(2):
        streamed = torch.cat([network(part) for part in x.split(8, dim=-1)], dim=-1)
    assert torch.equal(streamed[..., 5:], x[:, 1:, :-5])
    assert network.delay == 8


def test_a_file_of_no_samples_is_refused() -> None:
    with pytest.raises(AudioError, match="at least one sample"):
        Late(1)(torch.zeros(1, 1, 0))


def test_inputs_of_another_shape_are_refused() -> None:
    network = Late()
    with pytest.raises(AudioError, match=r"Late takes \(batch, 2 sensors, time\), not \(1, 1, 8\)"):
        network(torch.zeros(1, 1, 8))
    with network.streaming(1), pytest.raises(StreamingError, match="6 samples is not a multiple of the hop, 4 samples"):
        network(torch.zeros(1, 2, 6))
    with pytest.raises(ConfigError, match="Late: in_channels=0"):
        Late(0)


def test_provided_frames_are_centred_on_the_file() -> None:
    network = Half()
    for samples in (1, 15, 16, 17, 160):
        x = torch.randn(1, 1, samples)
        output = network(x)
        assert isinstance(output, dict)
        torch.testing.assert_close(output["estimate"], 0.5 * x, atol=1e-6, rtol=0)
        # frame 1 ends at sample 31 and is centred on sample 0, since it begins 32 samples before the file
        assert output["mask"][0, 0].tolist() == list(range(1, samples // 16 + 2))
    assert network.delay == 63


def test_a_window_that_is_not_centred_on_hops_is_refused() -> None:
    class Odd(SpectralNetwork):
        pass

    with pytest.raises(ConfigError, match="win_length=48 must be a multiple of 32, twice hop_length"):
        Odd(8000, 1, 64, 16, 48, "hann", causal=True)


def test_heads_on_an_empty_band() -> None:
    """A mask leaves it empty, whatever the network's output; mapping and addition fill it."""
    nothing = (torch.zeros(1, 3), torch.zeros(1, 3))
    output = (torch.tensor([[1.0, -2.0, 0.0]]), torch.tensor([[0.5, 0.0, 3.0]]))
    masks: tuple[Head, ...] = ("mask", "polar_mask")
    for kind in masks:
        head = SpectralHead(kind)
        assert head.masks
        assert not any(part.any() for part in head(nothing, output))
    others: tuple[Head, ...] = ("mapping", "additive")
    for kind in others:
        head = SpectralHead(kind)
        assert not head.masks
        assert all(torch.equal(got, part) for got, part in zip(head(nothing, output), output, strict=True))


def test_heads_as_complex_arithmetic() -> None:
    sensor, output = torch.randn(2, 5, dtype=torch.complex128), torch.randn(2, 5, dtype=torch.complex128)
    bounded = torch.polar(torch.tanh(output.abs()), output.angle())
    expected = {"mask": sensor * output, "polar_mask": sensor * bounded, "mapping": output, "additive": sensor + output}
    kinds: tuple[Head, ...] = ("mask", "polar_mask", "mapping", "additive")
    for kind in kinds:
        real, imag = SpectralHead(kind)((sensor.real, sensor.imag), (output.real, output.imag))
        torch.testing.assert_close(torch.complex(real, imag), expected[kind], atol=1e-6, rtol=1e-6)
    with pytest.raises(ConfigError, match="head='masking' must be one of mask, polar_mask, mapping, additive"):
        SpectralHead("masking")  # type: ignore[arg-type]


def test_the_magnitude_has_a_gradient_at_silence() -> None:
    x = torch.zeros(3, requires_grad=True)
    magnitude(x, x).sum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()
