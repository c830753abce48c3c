"""Perceptual evaluation of speech quality as a loss."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from bcfusion.audio import RateChange
from bcfusion.losses.stft import power
from bcfusion.losses.surrogate import SurrogateLoss
from bcfusion.requirements import at_least, one_of, require, whole, within

_INTERNAL_RATE = 16_000  # Hz, of wide-band PESQ
_LEAST_SAMPLES = 512 + 19 * 256  # of 20 frames, the interval over which the disturbance of a syllable is averaged
_SPEECH_POWER = 1e7  # to which P.862 brings the band below, so that its hearing thresholds apply
_SPEECH_BAND = (350.0, 3250.0)  # Hz
_MARGIN = 5120  # samples of silence that the reference implementation appends, over which it averages as well
_FADE = 15  # samples at either end, as in the reference implementation: the cut of a crop would be a click
_DECAY = 640  # samples after which the response of the input filter is below 1e-7
# Power that bounds the gain, and so the gradient, of an estimate far below the peak of the louder signal, which is 1.
_LEAST_POWER = 1e-6
# At 0 the sixth root of a mean of sixth powers has no gradient, and below 1e-7 sixth powers leave the range of float32.
_LEAST_DISTURBANCE = 1e-3


class PesqSurrogateLoss(SurrogateLoss):
    """Disturbance that wide-band PESQ (ITU-T P.862 and P.862.2) hears, per item, then the mean over items.

    The perceptual model is that of the optional package ``torch_pesq``: frames of 32 ms, 49 Bark bands, partial
    compensation of linear filtering and of gain, loudness by Zwicker's law, and the differences of loudness beyond a
    dead zone, once as they are and once with more weight on what the estimate adds. As ``disturbance`` the loss is what
    P.862 subtracts from 4.5, :math:`0.1 D + 0.0309 D_A`: 0 for a perfect estimate (1e-4 at least), 2 to 4 for a bad
    one. As ``mos`` it is the negative score on the scale of P.862.2, -4.64 to -1. The curve of this scale is flat at
    both ends, so that the worst estimates have the smallest gradient: prefer ``disturbance`` for training.

    Unlike P.862 it does not align the estimate in time: a delay is a disturbance. There are no utterances, each with a
    delay of its own, and no bad intervals that are aligned and judged again. The whole item counts, silence at its ends
    included, but for up to 9 frames at its end. The gain of a frame is smoothed with the frame before it and not
    recursively. With noise and low-pass filtering of real speech the score is about 0.2 from PESQ-WB at
    most. The values are those of the package up to 2 %; the filters before the model, a product of spectra here, take
    less time than its recursive ones, and have a gradient where signals are silent.

    Level does not count, nor does phase, and little of the spectrum's tilt: the loss complements others and does not
    suffice alone. Near the threshold of hearing, as in pauses, its gradient is tens of times as large as in speech.

    An item that has no PESQ counts as 0 and has no gradient: if its target is silent, or shorter than 0.34 s.

    Args:
        sample_rate: Hz, 16000 or more; signals are resampled to 16 kHz.
        value: ``disturbance`` or ``mos``.
        silence_db: RMS level in dBFS at or below which a target is silence. Each item is brought to the level of
            speech, so the noise in a crop that holds a pause alone would be judged as loud speech, with a gradient as
            large as it is faint: choose a level between that of the pauses and that of the quietest speech.

    Raises:
        ConfigError: ``torch_pesq`` is not installed, or an argument is out of range: at a rate below 16 kHz, half of
            the bands would be empty; at one without a small ratio to it, resampling has no gradient.
    """

    def __init__(
        self,
        sample_rate: int = 16000,
        value: Literal["disturbance", "mos"] = "disturbance",
        silence_db: float = -45.0,
    ) -> None:
        require(
            self,
            at_least(_INTERNAL_RATE, sample_rate=sample_rate) or whole(sample_rate=sample_rate),
            one_of(("disturbance", "mos"), value=value),
            within(-300, 0, silence_db=silence_db),
        )
        require(
            self,
            (
                sample_rate == _INTERNAL_RATE or RateChange(sample_rate, _INTERNAL_RATE).has_small_bank,
                f"sample_rate={sample_rate} must have a ratio of small numbers to {_INTERNAL_RATE}",
            ),
        )
        super().__init__(sample_rate, silence_db, _INTERNAL_RATE, _LEAST_SAMPLES)
        self.value = value
        # some of its tables are float64
        model = self.library("torch_pesq", "pesq").PesqLoss(1.0, sample_rate=_INTERNAL_RATE).float()
        self.model = self.with_constants(model)
        self.model.fbank.weighted_norm = self._disturbance_of_frames
        self.model.align_level = self._prepared
        self.model.preemphasize = _as_it_is

    def measure(self, estimate: Tensor, target: Tensor) -> Tensor:
        symmetric, asymmetric = self.model.raw(target, estimate)
        disturbance = 0.1 * symmetric + 0.0309 * asymmetric  # P.862
        return disturbance if self.value == "disturbance" else -_mos(disturbance)

    def _prepared(self, signal: Tensor) -> Tensor:
        """Bring the speech band of ``(B, T)`` to its level and apply the input filter of P.862.2."""
        samples = signal.shape[-1]
        window = signal.new_ones(samples)
        window[:_FADE] = torch.arange(1, _FADE + 1, device=signal.device) / (_FADE + 1)
        window[-_FADE:] = window[:_FADE].flip(0)
        points = -(-(samples + _DECAY) // 1024) * 1024
        spectrum = torch.fft.rfft(signal * window, points)
        frequency = torch.arange(points // 2 + 1, device=signal.device) * (_INTERNAL_RATE / points)
        band = (frequency >= _SPEECH_BAND[0]) & (frequency <= _SPEECH_BAND[1])
        energy = 2.0 / points * (power(spectrum) * band).sum(-1, keepdim=True)
        gain = (_SPEECH_POWER / (energy / (samples + _MARGIN) + _LEAST_POWER)).sqrt()
        forward, recursive = torch.fft.rfft(self.model.pre_filter, points)
        return gain * torch.fft.irfft(spectrum * (forward / recursive), points)[..., :samples]

    def _disturbance_of_frames(self, disturbance: Tensor, p: float) -> Tensor:
        """Return the norm over bands ``(B, frames)`` of ``(B, frames, bands)``."""
        bands = self.model.fbank
        return type(bands).weighted_norm(bands, disturbance, p=p).clamp_min(_LEAST_DISTURBANCE)


def _as_it_is(signal: Tensor) -> Tensor:
    """Take the place of the package's input filter, which has been applied."""
    return signal


def _mos(disturbance: Tensor) -> Tensor:
    """Return the mean opinion score of P.862.2."""
    return 0.999 + 4.0 * torch.sigmoid(1.3669 * (4.5 - disturbance) - 3.8224)
