"""A body sensor simulated by its measured transfer function: a short minimum-phase filter that follows the speech."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import fold, pad

from bcfusion.contracts import Draw
from bcfusion.data.simulation.fir import minimum_phase
from bcfusion.data.simulation.measured import Curves, Follow, MeasuredSensor, around, even_frame, mixed, smooth_curve
from bcfusion.requirements import at_least, within

#: Hz at which a tilt is 0 dB, and the octaves on either side after which it is constant
TILT_CENTRE = 500.0
TILT_OCTAVES = 4.0
#: octaves of the smoothing of random ripples
RIPPLE_OCTAVES = 0.5


class TransferFunction(MeasuredSensor):
    """Simulates a body sensor by responses that were measured on real pairs.

    For each speaker a response is drawn between two of the measured wearers, or with ``wearer_spread`` around the mean
    of all of them, in training with a smooth random ripple and tilt added; each utterance adds a small ripple of its
    own (the sensor sits slightly differently). It is applied as a causal minimum-phase filter, so the signal is as well
    aligned with air as causality allows. In evaluation ripple and tilt are left out, and a speaker has the same
    response in every run.

    A fixed filter does not model a real throat sensor. With one, and with the sensor's noise, signals have a STOI of
    0.99 against air; those of 16 real wearers have 0.68, and simulated ones of the same speech 0.66, with a filter that
    changes every 16 ms as measured on other wearers. With ``follow=spectrum`` the response in a band depends on air's
    level in all bands, since the body lacks some of the peaks and valleys that the mouth adds to air's spectrum (weaker
    fricatives, filled valleys); with ``follow=level`` on that in the same band alone, by the measured slope. With
    ``wander`` the rest of the measured deviation is drawn, smooth in time and frequency, from the utterance's
    generator, in evaluation too. With ``wander=0 follow=none`` the filter is fixed. Long-term spectra are the same in
    all cases.

    The level of the signal relative to air is that of the recorded sensor. Gain, polarity and delay are left to
    augmentation (``data.augmentation``).

    Args:
        calibration: file that ``bcfusion calibrate`` wrote.
        wander: share of the measured deviation with which the response changes from frame to frame.
        follow: what the response follows: ``spectrum``, ``level`` or ``none``; see
            :class:`~bcfusion.data.simulation.measured.MeasuredSensor`.
        wearer_spread: None: a speaker's response and noise lie between two of those measured. Else they are drawn from
            a Gaussian with the mean and the covariance of the measured wearers, and this share of their deviation, so
            that simulated speakers are not limited to the range of the few who were measured.
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
        follow: Follow = "spectrum",
        wearer_spread: float | None = None,
        ripple: float = 2.0,
        tilt: float = 1.0,
        utterance_ripple: float = 1.0,
        noise: bool = True,
        seconds: float = 0.016,
    ) -> None:
        rules = (
            at_least(0, ripple=ripple, tilt=tilt, utterance_ripple=utterance_ripple),
            [] if wearer_spread is None else at_least(0, wearer_spread=wearer_spread),
            within(0.001, 0.1, seconds=seconds),
        )
        super().__init__(calibration, wander, follow, noise, *rules)
        self.wearer_spread = wearer_spread
        self.ripple, self.tilt, self.utterance_ripple = float(ripple), float(tilt), float(utterance_ripple)
        self.seconds = float(seconds)

    def bins(self, sample_rate: int) -> int:
        """Return the bins of a transform that holds a frame and its filter's tail, and at least four filters."""
        return self._points(sample_rate) // 2 + 1

    def frames(self, length: int, sample_rate: int) -> tuple[int, int]:
        """Return frames of 32 ms every 16 ms, the first centred on sample 0."""
        hop = even_frame(sample_rate) // 2
        return -(-length // hop) + 1, hop

    def curves(self, draw: Draw) -> Curves:
        """Draw curves of a wearer; in training with ripples and a tilt."""
        sample_rate, body = draw.sample_rate, draw.body
        wearers = self.wearers(sample_rate)
        curves = mixed(wearers, body) if self.wearer_spread is None else around(wearers, self.wearer_spread, body)
        if not draw.training:
            return curves
        bins = self.bins(sample_rate)
        frequencies = torch.linspace(0.0, sample_rate / 2.0, bins)
        octaves = torch.log2(frequencies.clamp_min(1.0) / TILT_CENTRE).clamp(-TILT_OCTAVES, TILT_OCTAVES)
        change = self.ripple * smooth_curve(bins, sample_rate, RIPPLE_OCTAVES, body)
        change += self.tilt * torch.randn(1, generator=body) * octaves
        change += self.utterance_ripple * smooth_curve(bins, sample_rate, RIPPLE_OCTAVES, draw.generator)
        return curves._replace(response=curves.response + change)

    def apply(self, air: Tensor, sample_rate: int, curves: Curves, wandering: Tensor) -> Tensor:
        """Filter each Hann-windowed frame with its own filter, then overlap-add; the windows add up to one."""
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
