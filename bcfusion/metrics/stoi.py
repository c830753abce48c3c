"""Short-time objective intelligibility, classic and extended."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from numpy.random import mtrand
from pystoi import stoi

from bcfusion.contracts import Skip
from bcfusion.metrics.base import MetricBase, skip_silence

INTERNAL_RATE = 10_000  # Hz, the rate at which STOI is defined
FRAME_LENGTH = 256  # samples at the internal rate
TOO_SHORT = "fewer than 30 active frames"


class Stoi(MetricBase):
    """Intelligibility from about 0 to 1, higher is better; named ``stoi``, or ``estoi`` if ``extended``.

    C. H. Taal et al., "An algorithm for intelligibility prediction of time-frequency weighted noisy speech", 2011; the
    extended form: J. Jensen and C. H. Taal, "An algorithm for predicting the intelligibility of speech masked by
    modulated noise maskers", 2016. The sample rate is arbitrary; pystoi resamples to 10 kHz.

    An utterance is skipped if target or estimate is silent, or if fewer than 30 frames (0.4 s) are within 40 dB of the
    target's loudest one, for which pystoi returns 1e-5 with a warning.

    Args:
        extended: use the extended form, which also takes the correlation between bands into account.
    """

    def __init__(self, extended: bool = False) -> None:
        self.extended = extended
        self.names = ("estoi" if extended else "stoi",)
        self.higher_is_better = {self.names[0]: True}

    def _measure(self, estimate: np.ndarray, target: np.ndarray, sample_rate: int) -> dict[str, float]:
        skip_silence(target=target, estimate=estimate)
        if math.ceil(target.size * INTERNAL_RATE / sample_rate) <= FRAME_LENGTH:
            raise Skip(TOO_SHORT)  # without a single frame pystoi fails with an IndexError
        with warnings.catch_warnings(), _fixed_global_generator():
            # the warning is the only sign of too few frames that cannot be confused with a bad score
            warnings.filterwarnings("error", message="Not enough STFT frames", category=RuntimeWarning)
            try:
                value = float(stoi(target, estimate, sample_rate, extended=self.extended))
            except RuntimeWarning:
                raise Skip(TOO_SHORT) from None
        return {self.names[0]: value}


@contextmanager
def _fixed_global_generator() -> Iterator[None]:
    """Give NumPy's global generator a fixed state for a while.

    Extended STOI in pystoi adds noise of 1e-16 from it. In a digitally silent band there is nothing but this noise, so
    the score would change from run to run, and the draws would change those of the rest of the program.
    """
    previous = mtrand.get_bit_generator()
    mtrand.set_bit_generator(np.random.MT19937(0))
    try:
        yield
    finally:
        mtrand.set_bit_generator(previous)
