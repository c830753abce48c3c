"""Composite measures of speech enhancement: predicted ratings of signal, background and overall quality."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np

from bcfusion.contracts import Skip
from bcfusion.metrics.base import SHORTEST_SECONDS, SILENCE_POWER, MetricBase, resample
from bcfusion.metrics.frame_distances import (
    log_likelihood_ratio,
    nearest_mean,
    segmental_snr,
    weighted_spectral_slope,
    windowed_frames,
)
from bcfusion.metrics.pesq import Pesq
from bcfusion.requirements import one_of, require

RATES = {"wb": 16_000, "nb": 8_000}
PREDICTION_ORDERS = {"wb": 16, "nb": 10}


class Composite(MetricBase):
    """Predicted ratings from 1 to 5, higher is better, and the segmental SNR in dB that one of them uses.

    Y. Hu and P. C. Loizou, "Evaluation of objective quality measures for speech enhancement", 2008, with the
    coefficients that are used for published values: ``csig`` (distortion of the speech), ``cbak`` (intrusiveness of the
    background) and ``covl`` (overall) are linear in PESQ, the log-likelihood ratio (LLR), the weighted spectral slope
    (WSS) and the segmental SNR (``seg_snr``, -10 to 35 dB), and limited to 1 to 5. Frames are 30 ms long under a Hann
    window, with a hop of a quarter; LLR and WSS are averaged over the 95 % of frames with the smallest distances.
    Frames in which the target is digitally silent are left out: nothing can be predicted from them.

    Everything is computed at 16 kHz with PESQ-WB (``wb``, as in tables of 16 kHz corpora), or at 8 kHz with the raw
    score of P.862 that the coefficients were fitted with (``nb``; the names then end in ``_nb``). Other rates are
    resampled. Both signals are then rounded to 16 bits and clipped at full scale, as in the files that published values
    are computed from: the linear prediction of audio whose upper band is digitally empty depends on nothing but the
    rounding. The segmental SNR compares waveforms: like SI-SDR, it is ruined by a delay of one sample.

    Utterances that :class:`bcfusion.metrics.pesq.Pesq` skips are skipped, also if only rounding makes them silent.

    Args:
        mode: ``wb`` or ``nb``.

    Raises:
        ConfigError: there is no such mode.
    """

    def __init__(self, mode: Literal["wb", "nb"] = "wb") -> None:
        require(self, one_of(RATES, mode=mode))
        self._pesq = Pesq(mode)
        self.mode = mode
        ending = "" if mode == "wb" else "_nb"
        self.names = tuple(f"{name}{ending}" for name in ("csig", "cbak", "covl", "seg_snr"))
        self.higher_is_better = dict.fromkeys(self.names, True)

    def check_rate(self, sample_rate: int) -> None:
        """Refuse a sample rate, in Hz, that :meth:`bcfusion.metrics.pesq.Pesq.check_rate` refuses.

        Raises:
            ConfigError: it is too low for the mode.
        """
        self._pesq.check_rate(sample_rate)

    def _measure(self, estimate: np.ndarray, target: np.ndarray, sample_rate: int) -> dict[str, float]:
        if sample_rate < RATES[self.mode]:
            self._pesq.score(estimate, target, sample_rate)  # skips it, with the reason
        rate = RATES[self.mode]
        if sample_rate != rate and target.size >= SHORTEST_SECONDS * sample_rate:  # PESQ skips shorter ones
            estimate, target = resample(estimate, sample_rate, rate), resample(target, sample_rate, rate)
            sample_rate = rate
        estimate, target = rounded_to_16_bits(estimate), rounded_to_16_bits(target)
        quality = self._pesq.score(estimate, target, sample_rate)[self._pesq.names[0]]
        if self.mode == "nb":
            quality = raw_pesq(quality)
        target_frames, estimate_frames = windowed_frames(target, rate), windowed_frames(estimate, rate)
        active = np.mean(np.square(target_frames), axis=1) > SILENCE_POWER
        if not active.any():
            raise Skip("target is silent")
        target_frames, estimate_frames = target_frames[active], estimate_frames[active]
        llr = log_likelihood_ratio(target_frames, estimate_frames, PREDICTION_ORDERS[self.mode])
        wss = weighted_spectral_slope(target_frames, estimate_frames, rate)
        seg_snr = float(segmental_snr(target_frames, estimate_frames).mean())
        ratings = composite_ratings(quality, nearest_mean(llr), nearest_mean(wss), seg_snr)
        return dict(zip(self.names, (*ratings, seg_snr), strict=True))


def rounded_to_16_bits(signal: np.ndarray) -> np.ndarray:
    """Return ``signal (T,)`` in [-1, 1] as a 16-bit file would return it."""
    return np.clip(np.round(signal * 2.0**15), -(2.0**15), 2.0**15 - 1) / 2.0**15


def composite_ratings(pesq: float, llr: float, wss: float, seg_snr: float) -> tuple[float, float, float]:
    """Return CSIG, CBAK and COVL, each from 1 to 5, from the means of one utterance; ``seg_snr`` is in dB."""
    signal = 3.093 - 1.029 * llr + 0.603 * pesq - 0.009 * wss
    background = 1.634 + 0.478 * pesq - 0.007 * wss + 0.063 * seg_snr
    overall = 1.594 + 0.805 * pesq - 0.512 * llr - 0.007 * wss
    return _rating(signal), _rating(background), _rating(overall)


def _rating(value: float) -> float:
    return value if math.isnan(value) else min(max(value, 1.0), 5.0)


def raw_pesq(listening_quality: float) -> float:
    """Return the raw score of P.862, -0.5 to 4.5, from the listening quality that P.862.1 maps it to."""
    return (4.6607 - math.log(4.0 / (listening_quality - 0.999) - 1.0)) / 1.4945
