"""The body-conduction sensor of the EBEN paper: a zero-phase second-order low-pass and a little noise."""

from __future__ import annotations

import math

import torch
import torchaudio.functional as F
from torch import Tensor

from bcfusion.data.simulation import reflect, settling_time, uniform
from bcfusion.errors import ConfigError


class EbenLowpass:
    """Simulates an in-ear microphone: biquad low-pass run forwards and backwards, then white Gaussian noise.

    Run both ways the filter has no phase, so that the sensor stays aligned with the air microphone, and its response in
    decibels is doubled: with Q 1 it is +1.8 dB at half the cutoff, 0 dB at the cutoff and -22.8 dB an octave above.
    The borders are mirrored until the filter has settled.

    In training cutoff and Q are each multiplied by their own U(1 - spread, 1 + spread); in evaluation they are fixed
    and only the noise is drawn. The noise is part of the sensor and matters: without it STOI, which normalises every
    band, hardly sees the low-pass. Being the sensor's own, it is not reported as ``noise``, which is the room's.

    Source: J. Hauret et al., "Configurable EBEN: Extreme Bandwidth Extension Network to enhance body-conducted speech
    capture", 2023. The biquad is that of R. Bristow-Johnson's audio EQ cookbook.

    Args:
        cutoff_frequency: in Hz.
        q: quality factor. 1/sqrt(2) gives -6.02 dB at the cutoff (two passes of -3.01 dB).
        spread: relative half-width of the training distribution of cutoff and Q, in [0, 1).
        noise_std: standard deviation of the noise relative to that of the low-passed signal (0.005 is 46 dB below it).

    Raises:
        ConfigError: an argument is out of range; or, when called, the cutoff does not lie below half the sample rate.
    """

    def __init__(
        self, cutoff_frequency: float = 600.0, q: float = 1.0, spread: float = 0.2, noise_std: float = 0.005
    ) -> None:
        problems = []
        if not 0.0 < cutoff_frequency < math.inf:
            problems.append(f"EbenLowpass: cutoff_frequency={cutoff_frequency!r} must be a positive number of Hz")
        if not 0.0 < q < math.inf:
            problems.append(f"EbenLowpass: q={q!r} must be a positive number")
        if not 0.0 <= spread < 1.0:
            problems.append(f"EbenLowpass: spread={spread!r} must be at least 0 and less than 1")
        if not 0.0 <= noise_std < math.inf:
            problems.append(f"EbenLowpass: noise_std={noise_std!r} must be 0 or more")
        if problems:
            raise ConfigError(problems)
        self.cutoff_frequency = float(cutoff_frequency)
        self.q = float(q)
        self.spread = float(spread)
        self.noise_std = float(noise_std)

    def __call__(self, air: Tensor, sample_rate: int, generator: torch.Generator, training: bool) -> dict[str, Tensor]:
        """The sensor's signal ``(1, T)`` float32 for clean speech ``air (1, T)``, under the key ``signal``."""
        highest = self.cutoff_frequency * (1.0 + self.spread)
        if highest >= sample_rate / 2:
            raise ConfigError(
                [
                    f"EbenLowpass: a cutoff of up to {highest:g} Hz needs a sample rate above {2 * highest:g} Hz, "
                    f"not {sample_rate}; lower cutoff_frequency or spread"
                ]
            )
        cutoff_frequency, q = self.cutoff_frequency, self.q
        if training:
            cutoff_frequency *= uniform(1.0 - self.spread, 1.0 + self.spread, generator)
            q *= uniform(1.0 - self.spread, 1.0 + self.spread, generator)
        filtered = zero_phase_lowpass(air, sample_rate, cutoff_frequency, q)
        # the population deviation: that of a single sample is 0 and not NaN
        level = self.noise_std * filtered.std(dim=-1, keepdim=True, correction=0)
        noise = torch.randn(filtered.shape, generator=generator, dtype=torch.float32)
        return {"signal": (filtered + level * noise).to(torch.float32)}


def zero_phase_lowpass(signal: Tensor, sample_rate: int, cutoff_frequency: float, q: float) -> Tensor:
    """Second-order low-pass, forwards and backwards, with mirrored borders.

    Args:
        signal: ``(1, T)``, any T of at least one sample.
        sample_rate: in Hz.
        cutoff_frequency: in Hz, below half the sample rate.
        q: quality factor.

    Returns:
        ``(1, T)`` float64: in float32 the poles of a low cutoff at a high rate would be too coarse.
    """
    angle = 2.0 * math.pi * cutoff_frequency / sample_rate
    alpha = math.sin(angle) / (2.0 * q)
    cosine = math.cos(angle)
    numerator = torch.tensor([(1.0 - cosine) / 2.0, 1.0 - cosine, (1.0 - cosine) / 2.0], dtype=torch.float64)
    denominator = torch.tensor([1.0 + alpha, -2.0 * cosine, 1.0 - alpha], dtype=torch.float64)
    # (1 + alpha) z^2 - 2 cosine z + (1 - alpha) has a complex pair of roots above Q 1/2, else two real ones
    discriminant = alpha * alpha - math.sin(angle) ** 2
    if discriminant < 0.0:
        radius = math.sqrt((1.0 - alpha) / (1.0 + alpha))
    else:
        radius = (abs(cosine) + math.sqrt(discriminant)) / (1.0 + alpha)
    pad = settling_time(radius)
    # clamp=True, torchaudio's default, would cut peaks off at +-1 between the two passes
    padded = F.filtfilt(reflect(signal.to(torch.float64), pad), denominator, numerator, clamp=False)
    return padded[..., pad : pad + signal.shape[-1]]
