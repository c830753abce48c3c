"""Random changes of one sensor alone: another response, a missing band, more noise of its own.

They stand for what differs between wearers, fits and devices, and so must not be learnt from the recordings of a few.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from bcfusion.audio.level import active_level, amplitude
from bcfusion.data.seeding import generator_for
from bcfusion.data.simulation import pair, uniform
from bcfusion.data.simulation.fir import causal_filter, minimum_phase

#: Hz, between which curves have mean 0 and the given deviation, and in which bands are masked, below half the rate
SPEECH_BAND = (100.0, 4000.0)
#: seconds of the filters; a ripple of half an octave about 100 Hz needs about 20 ms
FILTER_SECONDS = 0.032
#: dB by which a masked band is attenuated, and the octaves of each of its edges
MASK_DEPTH = 40.0
WIDEST_BAND = 6.0  #: octaves
EDGE_OCTAVES = 0.125
#: dB and octaves of the spectrum of the noise about white
NOISE_DEVIATION = 6.0
NOISE_OCTAVES = 1.0
NOISE_RANGE = (-20.0, 120.0)  #: dB below the sensor that noise can be
# curves are drawn at these frequencies, whatever the sample rate, so that the same numbers mean the same curve
_LOWEST, _OCTAVES, _PER_OCTAVE = 31.25, 10, 8


class SensorChanges:
    """Changes the signals of a sensor; each is a function of its seed alone.

    Response and mask are one causal filter of minimum phase, as the response of a sensor itself is: it neither delays
    the sensor against the target nor reaches into the future, which a causal network would not have when it is used. A
    filter of phase zero would do the latter.

    Args:
        equalisation: standard deviation in dB of a random curve over frequency. Its mean from 100 Hz to 4 kHz, over
            octaves, is 0, and the deviation is that over the same band and over crops. 0: none.
        octaves: standard deviation of the Gaussian with which the curve is smoothed: values ``d`` octaves apart have a
            correlation of about ``exp(-d^2 / (4 octaves^2))``.
        mask: share of the crops, in [0, 1], in which a band is attenuated by 40 dB.
        mask_octaves: least and largest width of that band, whose place from 100 Hz to 4 kHz is random.
        noise: least and largest distance in dB of stationary noise below the sensor's active level, drawn uniformly;
            its spectrum is white but for a smooth random curve with a deviation of 6 dB. None: none.

    The arguments are checked by :class:`~bcfusion.data.loading.augmentation.Augmentation`.
    """

    def __init__(
        self,
        equalisation: float = 0.0,
        octaves: float = 0.5,
        mask: float = 0.0,
        mask_octaves: Sequence[float] = (0.5, 1.5),
        noise: Sequence[float] | None = None,
    ) -> None:
        self.equalisation, self.octaves = float(equalisation), float(octaves)
        self.mask, self.mask_octaves = float(mask), pair(mask_octaves)
        self.noise = None if noise is None else pair(noise)

    def __bool__(self) -> bool:
        """Return whether it changes anything."""
        return bool(self.equalisation or self.mask or self.noise)

    def __call__(self, signals: Tensor, seeds: Sequence[int], sample_rate: int) -> Tensor:
        """Change signals of one length.

        Args:
            signals: ``(B, 1, T)`` float32, any T of at least one sample.
            seeds: one for each.
            sample_rate: in Hz.

        Returns:
            ``(B, 1, T)`` on the device of ``signals``; numbers are drawn on the CPU, and the result does not depend on
            what else is in the batch.
        """
        if self.equalisation or self.mask:
            gains = torch.stack([self.gain(seed, sample_rate) for seed in seeds])
            changed = gains.any(dim=1)
            if changed.any():
                filtered = causal_filter(signals, minimum_phase(10.0 ** (gains / 20.0), _taps(sample_rate)))
                signals = torch.where(changed.to(signals.device)[:, None, None], filtered, signals)
        if self.noise is None:
            return signals
        noises = [
            self._noise(seed, item.shape[-1], sample_rate) * active_level(item, sample_rate)
            for seed, item in zip(seeds, signals.cpu(), strict=True)
        ]
        return signals + torch.stack(noises).to(signals)

    def gain(self, seed: int, sample_rate: int) -> Tensor:
        """Return the drawn response in dB ``(F,)``, at equidistant frequencies from 0 to half the sample rate."""
        gain = torch.zeros(_bins(sample_rate))
        if self.equalisation:
            gain = self.equalisation * _curve(seed, "equalisation", sample_rate, self.octaves)
        generator = generator_for(seed, "mask")
        present, width, place = torch.rand(3, generator=generator, dtype=torch.float64).tolist()
        if present < self.mask:
            narrowest, widest = self.mask_octaves
            width = narrowest + (widest - narrowest) * width
            low, high = (math.log2(edge) for edge in _speech_band(sample_rate))
            centre = low + width / 2 + max(0.0, high - low - width) * place
            distance = (_pitch(sample_rate) - centre).abs() - width / 2
            gain = gain - MASK_DEPTH * (0.5 - distance / EDGE_OCTAVES).clamp(0.0, 1.0)
        return gain

    def _noise(self, seed: int, length: int, sample_rate: int) -> Tensor:
        """Return noise ``(1, T)`` for a sensor whose active level is 1."""
        assert self.noise is not None
        power = 10.0 ** (NOISE_DEVIATION / 10.0 * _curve(seed, "noise spectrum", sample_rate, NOISE_OCTAVES))
        taps = minimum_phase((power / power.mean()).sqrt(), _taps(sample_rate))
        generator = generator_for(seed, "noise")
        level = amplitude(-uniform(*self.noise, generator))
        white = torch.randn(1, 1, length + len(taps) - 1, generator=generator)
        return level * causal_filter(white, taps[None])[0, :, len(taps) - 1 :]


def _taps(sample_rate: int) -> int:
    return max(16, round(FILTER_SECONDS * sample_rate))


def _bins(sample_rate: int) -> int:
    return 2 ** math.ceil(math.log2(4 * _taps(sample_rate))) // 2 + 1


def _speech_band(sample_rate: int) -> tuple[float, float]:
    return SPEECH_BAND[0], min(SPEECH_BAND[1], sample_rate / 2.0)


def _pitch(sample_rate: int) -> Tensor:
    """Return the binary logarithm of the frequencies of the bins."""
    return torch.linspace(0.0, sample_rate / 2.0, _bins(sample_rate)).clamp_min(1.0).log2()


def _curve(seed: int, purpose: str, sample_rate: int, octaves: float) -> Tensor:
    white = torch.randn(_OCTAVES * _PER_OCTAVE + 1, generator=generator_for(seed, purpose))
    return _smoothing(sample_rate, octaves) @ white


@lru_cache(maxsize=8)
def _smoothing(sample_rate: int, octaves: float) -> Tensor:
    """Return the matrix ``(F, points)`` that makes curves from white noise.

    They have mean 0 and deviation 1 in the speech band. Beyond the lowest and the highest point, their values hold.
    """
    points = torch.arange(_OCTAVES * _PER_OCTAVE + 1, dtype=torch.float64) / _PER_OCTAVE
    kernel = torch.exp(-0.5 * ((points - points[:, None]) / max(octaves, 0.5 / _PER_OCTAVE)) ** 2)
    kernel /= kernel.norm(dim=1, keepdim=True)
    low, high = (math.log2(edge / _LOWEST) for edge in _speech_band(sample_rate))
    within_band = (points >= low) & (points <= high)
    kernel -= kernel[within_band].mean(dim=0)
    kernel /= kernel[within_band].square().sum(dim=1).mean().sqrt()
    at = ((_pitch(sample_rate).double() - math.log2(_LOWEST)) * _PER_OCTAVE).clamp(0, len(points) - 1)
    before = at.long().clamp_max(len(points) - 2)
    share = (at - before)[:, None]
    return ((1 - share) * kernel[before] + share * kernel[before + 1]).to(torch.float32)
