"""Perceptual evaluation of speech quality, wide-band and narrow-band."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any, Literal

import numpy as np

from bcfusion.contracts import Skip
from bcfusion.errors import ConfigError
from bcfusion.metrics.base import SHORTEST_SECONDS, TOO_SHORT, MetricBase, is_silent, resample, skip_silence
from bcfusion.requirements import one_of, require

TABLE_SIZE = 50  # utterances in the tables of the reference implementation, which writes past the end unchecked
SAFE_SECONDS = 19.0  # an utterance takes 0.2 s and its pause as much, so fewer than 50 fit

LOWEST_RATE = {"wb": 16_000, "nb": 8_000}  # Hz

NO_UTTERANCE = "target has no utterance"
TOO_MANY = "50 utterances or more"
MISSING = "the package pesq is not installed"


def is_installed() -> bool:
    """Return whether the package is there that computes PESQ; pip compiles it, and has to have a compiler for that."""
    return find_spec("pesq") is not None


class Pesq(MetricBase):
    """Predicted listening quality (MOS-LQO), 1.0 to 4.6, higher is better; named ``pesq_wb`` or ``pesq_nb``.

    ITU-T P.862.2 for wide-band, P.862 with the mapping of P.862.1 for narrow-band. Wide-band is computed at 16 kHz,
    narrow-band at 8 or 16 kHz; signals with another rate are first resampled (polyphase) to 16 kHz, or to 8 kHz if
    theirs is lower, so 48 kHz speech is rated by its content below 8 kHz. Wide-band needs a sample rate of at least 16
    kHz, narrow-band of at least 8 kHz: below, the band that the measure listens to would be empty.

    An utterance is skipped if its rate is too low, if P.862 finds no utterance in the target, if the estimate is
    silent, if it is shorter than 0.25 s, or if 50 or more utterances may be found in the target (from about 70 s of
    read speech on), with which the reference implementation overruns its tables and crashes the process or returns
    nonsense: cut long recordings into utterances. Where the package ``pesq`` is not installed, all are skipped.

    Args:
        mode: ``wb`` or ``nb``.

    Raises:
        ConfigError: there is no such mode.
    """

    def __init__(self, mode: Literal["wb", "nb"] = "wb") -> None:
        require(self, one_of(("wb", "nb"), mode=mode))
        self.mode = mode
        self.names = (f"pesq_{mode}",)
        self.higher_is_better = {self.names[0]: True}

    @property
    def unavailable(self) -> str | None:
        """Why no utterance can be scored on this machine; None if it can."""
        return None if is_installed() else MISSING

    def check_rate(self, sample_rate: int) -> None:
        """Refuse a sample rate, in Hz, at which the upper part of the band that the measure listens to is empty.

        Raises:
            ConfigError: it is below 16000 in wide-band mode, or below 8000 in narrow-band mode.
        """
        lowest = LOWEST_RATE[self.mode]
        other = "; pesq_nb is the measure for 8 kHz" if self.mode == "wb" and sample_rate >= 8_000 else ""
        require(
            self,
            (
                sample_rate >= lowest,
                f"mode={self.mode} needs a sample rate of at least {lowest} Hz, not {sample_rate}{other}",
            ),
        )

    def _measure(self, estimate: np.ndarray, target: np.ndarray, sample_rate: int) -> dict[str, float]:
        try:
            self.check_rate(sample_rate)
        except ConfigError as error:
            raise Skip(str(error)) from None
        if target.size < SHORTEST_SECONDS * sample_rate:
            raise Skip(TOO_SHORT)
        if is_silent(target):
            raise Skip(NO_UTTERANCE)
        skip_silence(estimate=estimate)
        rate = 16_000 if sample_rate >= 16_000 else LOWEST_RATE[self.mode]
        estimate, target = resample(estimate, sample_rate, rate), resample(target, sample_rate, rate)
        sample_rate = rate
        if target.size > SAFE_SECONDS * sample_rate and most_utterances(target, sample_rate) >= TABLE_SIZE:
            raise Skip(TOO_MANY)
        package = _package()
        try:
            value = float(package.pesq(sample_rate, target, estimate, self.mode))
        except package.NoUtterancesError:
            raise Skip(NO_UTTERANCE) from None
        except package.BufferTooShortError:
            raise Skip(TOO_SHORT) from None
        except package.PesqError as error:
            message = error.args[0] if error.args else "unknown error"  # the C code's own text, as bytes
            text = message.decode() if isinstance(message, bytes) else str(message)
            raise Skip(f"PESQ failed: {text}") from None
        except ValueError:
            # rate and mode were checked: the score is NaN because the estimate is too faint for single precision
            raise Skip("estimate is silent") from None
        return {self.names[0]: value}


def _package() -> Any:
    try:
        import pesq
    except ImportError as error:
        raise Skip(MISSING) from error
    return pesq


def most_utterances(target: np.ndarray, sample_rate: int) -> int:
    """Count the utterances of ``target (T,)`` as P.862 does, at the threshold that finds most of them.

    P.862 measures power in windows of 4 ms, drops bursts of up to 4 windows, joins bursts that are separated by pauses
    of up to 50 windows, and counts those that are then at least 50 windows long, including a ramp of 2 windows at
    either end. Its threshold results from an iteration over the filtered signal; the largest count over all thresholds
    is an upper bound.
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
