"""Short-time objective intelligibility as a loss."""

from __future__ import annotations

from torch import Tensor

from bcfusion.losses.surrogate import SurrogateLoss
from bcfusion.requirements import above, require, within

_INTERNAL_RATE = 10_000  # Hz, the rate at which STOI is defined
_LEAST_SAMPLES = 256 + 30 * 128  # of 31 frames: one segment of 30, and the last frame, which pystoi omits as well


class StoiSurrogateLoss(SurrogateLoss):
    """Negative STOI, classic (Taal et al. 2011) or extended (Jensen and Taal 2016), per item, then the mean over items.

    The differentiable form is that of the optional package ``torch_stoi``, which uses the constants of pystoi: equal to
    it at 10 kHz, and close to it at other rates, which pystoi converts with another filter. Segments of 0.4 s of band
    envelopes are correlated, so that neither the level nor the fine structure of the estimate counts: it complements
    other losses and does not suffice alone.

    An item that has no STOI counts as 0, unintelligible, and has no gradient: if its target is silent, or shorter than
    0.41 s, or has less than that within 40 dB of its loudest frame.

    Args:
        sample_rate: Hz.
        extended: the extended form, which also judges the correlation between bands.
        silence_db: RMS level in dBFS at or below which a target is silence.

    Raises:
        ConfigError: ``torch_stoi`` is not installed, or an argument is out of range.
    """

    def __init__(self, sample_rate: int = 16000, extended: bool = False, silence_db: float = -60.0) -> None:
        require(self, above(0, sample_rate=sample_rate), within(-300, 0, silence_db=silence_db))
        super().__init__(sample_rate, silence_db, _INTERNAL_RATE, _LEAST_SAMPLES)
        library = self.library("torch_stoi", "stoi")
        form = library.NegSTOILoss(_INTERNAL_RATE, use_vad=True, extended=extended, do_resample=False)
        self.negative_stoi = self.with_constants(form)

    def measure(self, estimate: Tensor, target: Tensor) -> Tensor:
        values: Tensor = self.negative_stoi(estimate, target)
        return values
