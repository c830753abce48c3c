"""What happens to samples beyond full scale, so that nothing is clipped without a word."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

__all__ = ["PEAKS", "Level", "Limiter"]

#: what can be done: keep them (floating-point formats), lower the whole file, lower their surroundings, cut them off
PEAKS = ("keep", "scale", "limit", "clip")
LIMITER_SECONDS = 0.005  # over which the gain of a limiter moves, before and after a peak

Samples = NDArray[np.float32]


class Level:
    """Counts samples beyond full scale.

    Attributes:
        overs: number of samples whose magnitude exceeds 1.
        peak: the largest magnitude.
    """

    def __init__(self) -> None:
        self.overs, self.peak = 0, 0.0

    def add(self, samples: Samples) -> None:
        """Measure further samples ``(n,)``."""
        magnitude = np.abs(samples)
        self.overs += int((magnitude > 1).sum())
        self.peak = max(self.peak, float(magnitude.max(initial=0)))


class Limiter:
    """Lowers the surroundings of samples beyond full scale, by a smooth gain; everything else stays as it is.

    The gain is the smallest one that any sample within a window needs, averaged by a Hann window of the same length:
    each average contains only gains that are small enough for the sample in its middle. What comes out in blocks equals
    what would come out at once.

    Args:
        rate: in Hz.

    Attributes:
        gain: the smallest gain so far.
        held: delay of the output in samples, until :meth:`finish`.
    """

    def __init__(self, rate: int) -> None:
        self._reach = max(1, math.ceil(LIMITER_SECONDS * rate))
        self.held = 2 * self._reach
        self.gain = 1.0
        window = torch.hann_window(2 * self._reach + 3, periodic=False, dtype=torch.float64)[1:-1]
        self._window = (window / window.sum())[None, None]
        self._past = np.ones(self.held, dtype=np.float32)  # magnitudes before the samples that wait
        self._waiting = np.zeros(0, dtype=np.float32)

    def push(self, samples: Samples) -> Samples:
        """Take further samples ``(n,)`` and return those that are complete."""
        self._waiting = np.concatenate([self._waiting, samples])
        return self._leave(len(self._waiting) - self.held, self._waiting)

    def finish(self) -> Samples:
        """Return the samples that wait."""
        after = np.concatenate([self._waiting, np.ones(self.held, dtype=np.float32)])
        return self._leave(len(self._waiting), after)

    def _leave(self, count: int, ahead: Samples) -> Samples:
        if count <= 0:
            return np.zeros(0, dtype=np.float32)
        around = np.concatenate([self._past, ahead])  # of the samples 0 to count - 1, with `held` on either side
        done = self._waiting[:count]
        if np.abs(around).max() > 1:
            needed = torch.from_numpy(1 / np.maximum(np.abs(around).astype(np.float64), 1))[None, None]
            smallest = -F.max_pool1d(-needed, 2 * self._reach + 1, stride=1)
            gain = F.conv1d(smallest, self._window)[0, 0, :count].numpy()
            self.gain = min(self.gain, float(gain.min()))
            done = np.clip(done * gain, -1, 1).astype(np.float32)  # rounding
        self._past = around[count : count + self.held]
        self._waiting = self._waiting[count:]
        return done
