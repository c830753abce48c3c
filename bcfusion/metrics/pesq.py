"""Perceptual evaluation of speech quality, wide-band and narrow-band."""

from __future__ import annotations

from typing import Literal

import numpy as np
from pesq import BufferTooShortError, NoUtterancesError, PesqError, pesq

from bcfusion.contracts import Skip
from bcfusion.metrics.base import MetricBase, is_silent, resample

TABLE_SIZE = 50  # of utterances in the reference implementation, which writes beyond it without a check
SAFE_SECONDS = 19.0  # an utterance takes 0.2 s and its pause as much: more than 50 do not fit in this

NO_UTTERANCE = "target has no utterance"
SILENT_ESTIMATE = "estimate is silent"
TOO_SHORT = "shorter than 0.25 s"
TOO_MANY = "50 utterances or more"


class Pesq(MetricBase):
    """Predicted listening quality (MOS-LQO), 1.0 to 4.6, higher is better; named ``pesq_wb`` or ``pesq_nb``.

    ITU-T P.862.2 for wide-band, P.862 with the mapping of P.862.1 for narrow-band. Wide-band is computed at 16 kHz,
    narrow-band at 8 or 16 kHz; signals of another rate are resampled to 16 kHz first (polyphase), so that 48 kHz speech
    is judged by what lies below 8 kHz, and 8 kHz speech in wide-band mode has no upper band to be judged by.

    Skipped: a target in which no utterance is found, a silent estimate, less than 0.25 s, and a target in which 50
    utterances or more may be found (from about 70 s of read speech on), with which the reference implementation
    overruns its tables and crashes the process or returns nonsense: cut long recordings into utterances.

    Args:
        mode: ``wb`` or ``nb``.

    Raises:
        ValueError: another mode.
    """

    def __init__(self, mode: Literal["wb", "nb"] = "wb") -> None:
        super().__init__()
        if mode not in ("wb", "nb"):
            raise ValueError(f"mode is wb or nb, not {mode!r}")
        self.mode = mode
        self.names = (f"pesq_{mode}",)
        self.higher_is_better = {self.names[0]: True}

    def _measure(self, estimate: np.ndarray, target: np.ndarray, sample_rate: int) -> dict[str, float]:
        if target.size < 0.25 * sample_rate:
            raise Skip(TOO_SHORT)
        if is_silent(target):
            raise Skip(NO_UTTERANCE)
        if is_silent(estimate):
            raise Skip(SILENT_ESTIMATE)
        if sample_rate != 16_000 and (self.mode == "wb" or sample_rate != 8_000):
            estimate, target = resample(estimate, sample_rate, 16_000), resample(target, sample_rate, 16_000)
            sample_rate = 16_000
        if target.size > SAFE_SECONDS * sample_rate and most_utterances(target, sample_rate) >= TABLE_SIZE:
            raise Skip(TOO_MANY)
        try:
            value = float(pesq(sample_rate, target, estimate, self.mode))
        except NoUtterancesError:
            raise Skip(NO_UTTERANCE) from None
        except BufferTooShortError:
            raise Skip(TOO_SHORT) from None
        except PesqError as error:
            message = error.args[0] if error.args else "unknown error"  # the C code's own text, as bytes
            text = message.decode() if isinstance(message, bytes) else str(message)
            raise Skip(f"PESQ failed: {text}") from None
        except ValueError:
            # rate and mode were checked: the score was NaN, as an estimate too faint for single precision gives
            raise Skip(SILENT_ESTIMATE) from None
        return {self.names[0]: value}


def most_utterances(target: np.ndarray, sample_rate: int) -> int:
    """Count the utterances of ``target (T,)`` in the manner of P.862, at the threshold that finds most of them.

    P.862 measures power in windows of 4 ms, drops bursts of up to 4 windows, joins what pauses of up to 50 windows
    separate, and counts what is then at least 50 windows long, with 2 windows of ramp at either end. Its threshold
    comes from an iteration over the filtered signal; the most that any threshold finds is a bound on what it finds.
    """
    size = round(0.004 * sample_rate)
    power = np.square(target[: target.size // size * size]).reshape(-1, size).mean(axis=1)
    return max(_count_utterances(power > level) for level in np.geomspace(1e-4, 0.5, 40) * power.max())


def _count_utterances(active: np.ndarray) -> int:
    """Count the utterances in ``active (windows,)``, whether each window is above the threshold."""
    edges = np.flatnonzero(np.diff(np.concatenate(([False], active, [False])).astype(np.int8)))
    starts, ends = edges[::2], edges[1::2]
    starts, ends = starts[ends - starts > 4], ends[ends - starts > 4]
    if starts.size == 0:
        return 0
    apart = starts[1:] - ends[:-1] > 50
    starts, ends = starts[np.append(True, apart)], ends[np.append(apart, True)]
    return int(np.sum(ends - starts >= 50 - 2 * 2))
