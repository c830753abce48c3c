"""A body sensor by its measured transfer function: a short minimum-phase filter that moves with speech."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import fold, pad

from bcfusion.data.simulation.fir import minimum_phase
from bcfusion.data.simulation.measured import Curves, MeasuredSensor, even_frame, mixed, smooth_curve
from bcfusion.errors import ConfigError

#: Hz at which a tilt leaves the response as it is, and the octaves from there that it reaches at most
TILT_CENTRE = 500.0
TILT_OCTAVES = 4.0
#: octaves of the smoothing of random ripples
RIPPLE_OCTAVES = 0.5


class TransferFunction(MeasuredSensor):
    """Simulates a body sensor by responses that were measured on real pairs.

    For each speaker a response is drawn between two of the measured wearers, and in training a smooth random ripple and
    tilt besides; each utterance adds a small ripple of its own (the sensor sits a little differently). It is applied as
    a causal minimum-phase filter, so that the signal is aligned with air as a causal sensor can be. In evaluation
    ripple and tilt are left out, and a speaker has the same response in every run.

    One fixed filter is not what a real throat sensor is. With it, the sensor's noise included, signals have a STOI of
    0.99 against air; those of the real sensor have 0.69 on the four pairs that were calibrated on and 0.72 on four
    others, where the moving filter that this is by default has 0.69 and 0.73. It moves every 16 ms. ``follow_level``:
    the body does not share all of the peaks and valleys that the mouth gives to air's spectrum (weaker fricatives,
    filled valleys), so the response falls in a band where air is loud in it, by the measured slope. ``wander``: what
    that leaves of the measured deviation is drawn, smooth in time and frequency, from the utterance's generator, in
    evaluation too. With ``wander=0 follow_level=false`` the filter is fixed. Long-term spectra are the same in all
    cases.

    The level of the signal is that of the sensor relative to air, as recorded. Gain, polarity and delay are left to
    augmentation (``data.augmentation``).

    Args:
        calibration: file that ``bcfusion calibrate`` wrote.
        wander: share of the measured deviation with which the response changes from frame to frame.
        follow_level: whether the response falls where air is loud.
        ripple: in training, standard deviation over speakers, in dB, of a smooth random curve.
        tilt: in training, standard deviation over speakers, in dB per octave about 500 Hz.
        utterance_ripple: in training, standard deviation over utterances, in dB, of a smooth random curve.
        noise: whether the sensor's own noise is added.
        seconds: length of the filters.

    Raises:
        ConfigError: the file is missing or damaged, or an argument is out of range.
    """

    def __init__(
        self,
        calibration: str,
        wander: float = 1.0,
        follow_level: bool = True,
        ripple: float = 2.0,
        tilt: float = 1.0,
        utterance_ripple: float = 1.0,
        noise: bool = True,
        seconds: float = 0.016,
    ) -> None:
        super().__init__(calibration, wander, follow_level, noise)
        problems = [
            f"TransferFunction: {name}={value!r} must be 0 dB or more"
            for name, value in (("ripple", ripple), ("tilt", tilt), ("utterance_ripple", utterance_ripple))
            if not 0.0 <= value < math.inf
        ]
        if not 0.001 <= seconds <= 0.1:
            problems.append(f"TransferFunction: seconds={seconds!r} must be between 0.001 and 0.1")
        if problems:
            raise ConfigError(problems)
        self.ripple, self.tilt, self.utterance_ripple = float(ripple), float(tilt), float(utterance_ripple)
        self.seconds = float(seconds)

    def bins(self, sample_rate: int) -> int:
        """Those of a transform that holds a frame and its filter's tail, and is four filters long at least."""
        return self._points(sample_rate) // 2 + 1

    def frames(self, length: int, sample_rate: int) -> tuple[int, int]:
        """Frames of 32 ms, half overlapping, the first centred on sample 0."""
        hop = even_frame(sample_rate) // 2
        return -(-length // hop) + 1, hop

    def draw(self, sample_rate: int, body: torch.Generator, generator: torch.Generator, training: bool) -> Curves:
        """Between two wearers; in training with ripples and a tilt."""
        curves = mixed(self.wearers(sample_rate), body)
        if not training:
            return curves
        bins = self.bins(sample_rate)
        frequencies = torch.linspace(0.0, sample_rate / 2.0, bins)
        octaves = torch.log2(frequencies.clamp_min(1.0) / TILT_CENTRE).clamp(-TILT_OCTAVES, TILT_OCTAVES)
        change = self.ripple * smooth_curve(bins, sample_rate, RIPPLE_OCTAVES, body)
        change += self.tilt * torch.randn(1, generator=body) * octaves
        change += self.utterance_ripple * smooth_curve(bins, sample_rate, RIPPLE_OCTAVES, generator)
        return curves._replace(response=curves.response + change)

    def apply(self, air: Tensor, sample_rate: int, curves: Curves, wandering: Tensor) -> Tensor:
        """Each frame, under a Hann window, goes through its own filter; the windows add up to one."""
        count, hop = self.frames(air.shape[-1], sample_rate)
        points = self._points(sample_rate)
        window = torch.hann_window(2 * hop, device=air.device)
        frames = pad(air[:, 0], (hop, count * hop - air.shape[-1])).unfold(-1, 2 * hop, hop)
        spectra = torch.fft.rfft(frames * window, n=points)
        gain = self.short_time_gain(spectra.abs().square(), curves, wandering, sample_rate)
        filters = torch.fft.rfft(minimum_phase(10.0 ** (gain / 20.0), self._taps(sample_rate)), n=points)
        filtered = torch.fft.irfft(spectra * filters, n=points)
        size = (count - 1) * hop + points
        added = fold(filtered.transpose(1, 2), (1, size), (1, points), stride=(1, hop))
        return added[:, 0, :, hop : hop + air.shape[-1]]

    def _taps(self, sample_rate: int) -> int:
        return max(8, round(self.seconds * sample_rate))

    def _points(self, sample_rate: int) -> int:
        taps = self._taps(sample_rate)
        return 2 ** math.ceil(math.log2(max(even_frame(sample_rate) + taps, 4 * taps)))
