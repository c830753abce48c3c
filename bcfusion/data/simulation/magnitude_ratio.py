"""A body sensor simulated from the statistics of its short-time magnitudes relative to the air microphone."""

from __future__ import annotations

import torch
from torch import Tensor

from bcfusion.contracts import Draw
from bcfusion.data.simulation.measured import Curves, Follow, MeasuredSensor, even_frame, smooth_curve
from bcfusion.requirements import at_least

#: octaves of the smoothing of what differs between wearers
WEARER_OCTAVES = 0.5


class MagnitudeRatio(MeasuredSensor):
    """Simulates a body sensor in the short-time Fourier domain: air's phases, air's magnitudes times a drawn ratio.

    The ratio of body to air has, for each frequency, a mean and deviations in dB that were measured on real pairs: one
    from wearer to wearer, drawn once for each speaker and smoothed over frequency, and one from frame to frame, drawn
    from the utterance's generator and smoothed over time and frequency. No response of a single wearer is used, so
    simulated wearers are not limited to those who were measured. The phase is unchanged, so the signal is aligned with
    air. Frames have 32 ms, and four of them overlap. Training and evaluation differ only in the seeds of the draws.

    The mean is taken over the power of an utterance, not over the decibels of single frames, so the long-term spectrum
    is that of the measured sensor for any ``wander``.

    Args:
        calibration: file that ``bcfusion calibrate`` wrote.
        wander: share of the measured deviation with which the ratio changes from frame to frame.
        wearer_spread: share of the measured deviation from wearer to wearer; 0: all wearers equal the mean.
        follow: what the ratio follows: ``spectrum``, ``level`` or ``none``; see
            :class:`~bcfusion.data.simulation.measured.MeasuredSensor`.
        noise: whether the sensor's own noise is added.

    Raises:
        ConfigError: the file is missing or damaged, or an argument is out of range.
    """

    def __init__(
        self,
        calibration: str,
        wander: float = 1.0,
        wearer_spread: float = 1.0,
        follow: Follow = "spectrum",
        noise: bool = True,
    ) -> None:
        super().__init__(calibration, wander, follow, noise, at_least(0, wearer_spread=wearer_spread))
        self.wearer_spread = float(wearer_spread)

    def bins(self, sample_rate: int) -> int:
        """Return the bins of a frame's transform."""
        return even_frame(sample_rate) // 2 + 1

    def frames(self, length: int, sample_rate: int) -> tuple[int, int]:
        """Return frames of 32 ms every 8 ms, the first centred on sample 0."""
        hop = even_frame(sample_rate) // 4
        return length // hop + 1, hop

    def curves(self, draw: Draw) -> Curves:
        """Return the mean of all wearers, plus a level and a smooth curve drawn for this wearer."""
        sample_rate, body = draw.sample_rate, draw.body
        wearers = self.wearers(sample_rate)
        mean = Curves(*(curve.mean(dim=0) for curve in wearers))
        own = torch.randn(1, generator=body), smooth_curve(self.bins(sample_rate), sample_rate, WEARER_OCTAVES, body)
        if len(wearers.response) == 1:
            return mean
        levels = wearers.response.mean(dim=1, keepdim=True)
        level = self.wearer_spread * levels.std() * own[0]
        curve = self.wearer_spread * (wearers.response - levels).std(dim=0) * own[1]
        return mean._replace(response=mean.response + level + curve, noise=mean.noise + level)

    def apply(self, air: Tensor, sample_rate: int, curves: Curves, wandering: Tensor) -> Tensor:
        """Scale each frequency of each frame, then overlap-add."""
        frame = even_frame(sample_rate)
        window = torch.hann_window(frame, device=air.device)
        spectra = torch.stft(
            air[:, 0], frame, frame // 4, window=window, center=True, pad_mode="constant", return_complex=True
        )
        power = spectra.abs().square().transpose(1, 2)
        gain = 10.0 ** (self.short_time_gain(power, curves, wandering, sample_rate) / 20.0)
        scaled = spectra * gain.transpose(1, 2)
        return torch.istft(scaled, frame, frame // 4, window=window, center=True, length=air.shape[-1])[:, None]
