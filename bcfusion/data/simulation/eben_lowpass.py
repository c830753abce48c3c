"""The body-conduction sensor of the EBEN paper: a zero-phase second-order low-pass plus weak noise."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import torch
from scipy.fft import next_fast_len
from torch import Tensor

from bcfusion.contracts import Draw
from bcfusion.data.simulation import Batched, reflect, settling_time, uniform
from bcfusion.requirements import is_number, require, within

SHORTEST_TRANSFORM = 2048  #: of the filter in blocks


class EbenLowpass(Batched):
    """Simulates an in-ear microphone: a biquad low-pass run forwards and backwards, then white Gaussian noise.

    Run in both directions the filter has no phase, so the sensor stays aligned with the air microphone, and its
    response in decibels is doubled: with Q 1 it is +1.8 dB at half the cutoff, 0 dB at the cutoff and -22.8 dB an
    octave above. The borders are mirrored far enough for the filter to settle.

    In training cutoff and Q are each multiplied by a number drawn from U(1 - spread, 1 + spread); in evaluation they
    are fixed and only the noise is drawn. The noise is part of the sensor and matters: without it STOI, which
    normalises every band, is hardly affected by the low-pass. As the sensor's own noise it is not returned as
    ``noise``, which is for room noise.

    Source: J. Hauret et al., "Configurable EBEN: Extreme Bandwidth Extension Network to enhance body-conducted speech
    capture", 2023. The biquad is that of R. Bristow-Johnson's audio EQ cookbook.

    Args:
        cutoff_frequency: in Hz, 10 to 100000.
        q: quality factor, 0.01 to 100; 1/sqrt(2) gives -6.02 dB at the cutoff (two passes of -3.01 dB).
        spread: relative half-width of the training distribution of cutoff and Q, in [0, 1).
        noise_std: standard deviation of the noise, 0 to 10, relative to that of the low-passed signal (0.005 is 46 dB
            below it).

    Raises:
        ConfigError: an argument is out of range; or, by :meth:`check_rate` and when called, the cutoff is not
            below half the sample rate.
    """

    def __init__(
        self, cutoff_frequency: float = 600.0, q: float = 1.0, spread: float = 0.2, noise_std: float = 0.005
    ) -> None:
        require(
            self,
            within(10, 1e5, cutoff_frequency=cutoff_frequency),
            within(0.01, 100, q=q),
            (is_number(spread) and 0.0 <= spread < 1.0, f"spread={spread!r} must be at least 0 and less than 1"),
            within(0, 10, noise_std=noise_std),
        )
        self.cutoff_frequency = float(cutoff_frequency)
        self.q = float(q)
        self.spread = float(spread)
        self.noise_std = float(noise_std)

    def check_rate(self, sample_rate: int) -> None:
        """Refuse a sample rate, in Hz, whose band ends below a cutoff that may be drawn.

        Raises:
            ConfigError: the highest cutoff is not below half the sample rate.
        """
        highest = self.cutoff_frequency * (1.0 + self.spread)
        require(
            self,
            (
                highest < sample_rate / 2,
                f"a cutoff of up to {highest:g} Hz needs a sample rate above {2 * highest:g} Hz, "
                f"not {sample_rate}; lower cutoff_frequency or spread",
            ),
        )

    def batch(self, air: Tensor, draws: Sequence[Draw]) -> dict[str, Tensor]:
        """Simulate ``air (B, 1, T)`` on its device; see :meth:`bcfusion.contracts.BatchSimulator.batch`."""
        sample_rate = draws[0].sample_rate
        self.check_rate(sample_rate)
        cutoffs, qs, noises = [], [], []
        for draw in draws:
            cutoff_frequency, q = self.cutoff_frequency, self.q
            if draw.training:
                cutoff_frequency *= uniform(1.0 - self.spread, 1.0 + self.spread, draw.generator)
                q *= uniform(1.0 - self.spread, 1.0 + self.spread, draw.generator)
            cutoffs.append(cutoff_frequency)
            qs.append(q)
            noises.append(torch.randn(air.shape[1:], generator=draw.generator, dtype=torch.float32))
        filtered = zero_phase_lowpass(air, sample_rate, cutoffs, qs)
        # the population deviation: for a single sample it is 0 and not NaN
        level = self.noise_std * filtered.std(dim=-1, keepdim=True, correction=0)
        noise = torch.stack(noises) if len(noises) > 1 else noises[0][None]
        return {"signal": filtered.add_(level * noise.to(air.device)).to(torch.float32)}


def zero_phase_lowpass(
    signal: Tensor, sample_rate: int, cutoff_frequencies: Sequence[float], qs: Sequence[float]
) -> Tensor:
    """Apply a second-order low-pass forwards and backwards, with mirrored borders; by FFT, so that it runs anywhere.

    Run in both directions a filter has the response ``|H|**2``. For the cookbook's biquad this is, by the bilinear
    transform,
    ``1 / ((1 - x**2)**2 + (x / q)**2)`` with ``x = tan(pi f / sample_rate) / tan(pi cutoff / sample_rate)``.

    Args:
        signal: ``(B, 1, T)``, any T of at least one sample.
        sample_rate: in Hz.
        cutoff_frequencies: one per item, in Hz, below half the sample rate.
        qs: quality factor, one per item.

    Returns:
        ``(B, 1, T)`` float64.
    """
    length, device = signal.shape[-1], signal.device
    # a block's circular convolution wraps around; 200 dB below, in the samples that are kept, that is not seen
    radius = max(_pole_radius(2.0 * math.pi * f / sample_rate, q) for f, q in zip(cutoff_frequencies, qs, strict=True))
    pad = settling_time(radius, decibels=200.0)
    # blocks that fit into the processor's cache: one transform of a signal of 2 s takes four times as long
    size = max(SHORTEST_TRANSFORM, 4 * 2 ** (2 * pad - 1).bit_length())
    if size >= length + 2 * pad:
        size = next_fast_len(length + 2 * pad, real=True)
    step = size - 2 * pad
    blocks = -(-length // step)
    cutoffs = torch.tensor(cutoff_frequencies, dtype=torch.float64)[:, None]
    quality = torch.tensor(qs, dtype=torch.float64)[:, None]
    x = _warped(size) / (math.pi * cutoffs / sample_rate).tan()
    response = 1.0 / ((1.0 - x.square()).square() + (x / quality).square())
    mirrored = torch.nn.functional.pad(reflect(signal, pad), (0, blocks * step - length))
    spectra = torch.fft.rfft(mirrored.unfold(-1, size, step).to(torch.float64)).mul_(response.to(device)[:, None, None])
    filtered = torch.fft.irfft(spectra, n=size)[..., pad : pad + step]
    return filtered.reshape(*signal.shape[:-1], blocks * step)[..., :length]


@lru_cache(maxsize=8)
def _warped(size: int) -> Tensor:
    """Return ``tan(pi f / sample_rate)`` at the frequencies of a transform."""
    with torch.inference_mode(False):
        angles: Tensor = torch.arange(size // 2 + 1, dtype=torch.float64) * (math.pi / size)
        return angles.tan()


def _pole_radius(angle: float, q: float) -> float:
    """Return the radius of the outermost pole of the cookbook's low-pass; ``angle`` pi is half the sample rate."""
    alpha = math.sin(angle) / (2.0 * q)
    # (1 + alpha) z^2 - 2 cos(angle) z + (1 - alpha) has a complex pair of roots if Q > 1/2, else two real roots
    discriminant = alpha * alpha - math.sin(angle) ** 2
    if discriminant < 0.0:
        return math.sqrt((1.0 - alpha) / (1.0 + alpha))
    return (abs(math.cos(angle)) + math.sqrt(discriminant)) / (1.0 + alpha)
