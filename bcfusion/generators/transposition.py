"""Spectral transposition: the empty band is filled with copies of the one below, without learning.

Makhoul & Berouti, "High-frequency regeneration in speech coding systems", ICASSP 1979, where the two methods are called
spectral folding and spectral translation.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, gcd, log2, pi
from typing import Literal, get_args

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from bcfusion.nn.cpu import without_onednn
from bcfusion.nn.network import WaveformNetwork
from bcfusion.nn.precision import filter_tensor, full_precision
from bcfusion.requirements import above, at_least, one_of, require

Method = Literal["folding", "translation"]


class Transposition(WaveformNetwork):
    """Add copies of one sensor's band to it, ``(B, in_channels, T) -> (B, 1, T)``. No parameters; not causal.

    The sensor's band extends from 0 to the cutoff c. Above it are bands of the same width, [k c, (k + 1) c] for k = 1,
    2 and so on, the last one cut at half the sample rate. Band k maps the frequency f of the sensor's band to

    - ``translation``: f + k c. Harmonics keep their direction and their spacing.
    - ``folding``: each band is the mirror image of the one below it, so that the spectrum is continuous at each seam:
      (k + 1) c - f if k is odd, f + k c if it is even. With c at a quarter of the sample rate this is the sensor times
      :math:`(-1)^n`.

    A complex filter passes the positive frequencies of the band, a carrier shifts them, and the real part is the new
    band (single-sideband modulation). The filters stop everything that would fall outside the new band: the sensor's
    own band is returned unchanged, and at both ends of a new band ``transition_width`` is filled gradually.

    The gain of each band is constant. By default it follows the tilt of voiced speech: ``tilt`` times the octaves
    between the middle of the sensor's band and that of the new one. The source falls by 12 dB per octave and the
    radiation at the lips rises by 6 (Fant, "Acoustic Theory of Speech Production", 1960), so that -6 dB per octave
    remain: -9.5 dB for the first band, -13.9 for the second.

    Args:
        sample_rate: of input and output, in Hz.
        in_channels: number of sensors.
        cutoff_frequency: c in Hz, rounded to a whole number, so that the carriers repeat with every ``hop``.
        method: ``folding`` or ``translation``.
        gains: of the new bands in dB, lowest first; None: by ``tilt``.
        tilt: dB per octave, see above.
        transition_width: of the filters, in Hz. A new band is left out if it is not wider than two of them.
        attenuation: of the filters' stop bands, in dB, at least 50.
        skip_channel: the sensor that is copied; -1 is the last.

    Attributes:
        gains: of the new bands in dB, given or by ``tilt``.
        hop: samples in which all carriers repeat: the sample rate divided by its greatest common divisor with c.
        delay: half the length of the filters, in samples.

    Raises:
        ConfigError: an argument is out of range, no band is left to fill, or ``gains`` are not one per band.
    """

    kernel: Tensor
    carriers: Tensor

    def __init__(
        self,
        sample_rate: int = 16000,
        in_channels: int = 1,
        cutoff_frequency: float = 4000.0,
        method: Method = "folding",
        gains: Sequence[float] | None = None,
        tilt: float = -6.0,
        transition_width: float = 100.0,
        attenuation: float = 70.0,
        skip_channel: int = 0,
    ) -> None:
        cutoff = round(cutoff_frequency)
        bands = _empty_bands(cutoff, sample_rate / 2, 2 * transition_width)
        require(
            self,
            one_of(get_args(Method), method=method),
            above(0, transition_width=transition_width),
            at_least(50, attenuation=attenuation),
            (
                bool(bands),
                f"cutoff_frequency={cutoff_frequency} Hz leaves no band to copy, or none to fill below "
                f"{sample_rate / 2:g} Hz: bands must be wider than two transition_width={transition_width} Hz",
            ),
            (
                gains is None or len(gains) == len(bands),
                f"gains={gains} must be one per new band, of which there are {len(bands)}",
            ),
        )
        half = ceil((attenuation - 7.95) / (2.285 * 2 * pi * transition_width / sample_rate) / 2)  # Kaiser's formula
        hop = sample_rate // gcd(cutoff, sample_rate)
        super().__init__(sample_rate, in_channels, hop, causal=False, delay=half, skip_channel=skip_channel)
        centres = [(low + high) / 2 for low, high in bands]
        by_tilt = [tilt * log2(centre / (cutoff / 2)) for centre in centres]
        self.gains = tuple(float(gain) for gain in (by_tilt if gains is None else gains))
        filters, carriers = [], []
        for number, ((low, high), gain) in enumerate(zip(bands, self.gains, strict=True), start=1):
            mirrored = method == "folding" and number % 2 == 1
            carrier = (number + 1) * cutoff if mirrored else number * cutoff
            source = (carrier - high, carrier - low) if mirrored else (low - carrier, high - carrier)
            analytic = _analytic_filter(source, half, transition_width, attenuation, sample_rate)
            analytic *= 10.0 ** (gain / 20.0)
            angles = 2 * pi / sample_rate * (carrier * np.arange(hop) % sample_rate)
            # the real part of a e^{jwn}, or of its mirror image conj(a) e^{jwn}
            filters += [analytic.real, analytic.imag if mirrored else -analytic.imag]
            carriers += [np.cos(angles), np.sin(angles)]
        # conv1d correlates: the filters are reversed
        kernel = filter_tensor(np.stack(filters)[:, None, ::-1].copy())  # (2 bands, 1, 2 half + 1)
        self.register_buffer("kernel", kernel, persistent=False)
        waves = filter_tensor(np.stack(carriers)[:, None])  # (2 bands, 1, hop)
        self.register_buffer("carriers", waves, persistent=False)

    def body(self, inputs: Tensor) -> Tensor:
        sensor = inputs[:, self.skip_channel].unsqueeze(1)
        # the filters follow the signal: callers find a network's device by its parameters, of which there are none
        with without_onednn(), full_precision(sensor):
            parts = F.conv1d(sensor, self.kernel.to(sensor), padding=self.kernel.shape[-1] // 2)  # (B, 2 bands, T)
        moved = parts.unflatten(-1, (-1, self.hop)) * self.carriers.to(sensor)
        return sensor + moved.flatten(-2).sum(1, keepdim=True)


def _empty_bands(cutoff: int, highest: float, narrowest: float) -> list[tuple[float, float]]:
    """Return bands (low, high) in Hz as wide as the cutoff, from it up to ``highest``, wider than ``narrowest``."""
    starts = range(cutoff, ceil(highest), cutoff) if cutoff > max(0, narrowest) else ()
    bands = [(float(low), min(low + cutoff, highest)) for low in starts]
    return [(low, high) for low, high in bands if high - low > narrowest]


def _analytic_filter(
    band: tuple[float, float], half: int, transition_width: float, attenuation: float, sample_rate: int
) -> np.ndarray:
    """Return an impulse response ``(2 half + 1,)``, complex, that passes the positive frequencies of ``band``, doubled.

    A low-pass filter with a Kaiser window, moved to the middle of the band; both transitions lie within the band.
    """
    low, high = band
    times = np.arange(-half, half + 1)
    width = high - low - transition_width  # between the points of -6 dB
    lowpass = width / sample_rate * np.sinc(width / sample_rate * times)
    lowpass = lowpass * np.kaiser(2 * half + 1, 0.1102 * (attenuation - 8.7))
    return np.asarray(2 * lowpass * np.exp(2j * pi * (low + high) / 2 / sample_rate * times))
