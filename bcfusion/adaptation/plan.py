"""How many steps fit into the time, from what steps and scores were measured to take."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tqdm import tqdm

from bcfusion.adaptation.curve import steps_to_score
from bcfusion.errors import TrainingError

__all__ = ["Load", "Pace", "Progress", "Timer"]

MOST_STEPS = 5793  #: of the grid; small networks need no more on ten minutes of sound
_TOGETHER = 1.2  # by which a step takes longer while other processes compute


@dataclass(frozen=True)
class Pace:
    """What was measured, in seconds, on the threads of one process.

    Attributes:
        step: one training step.
        score: the network and the metrics on a second of sound.
    """

    step: float
    score: float


@dataclass(frozen=True)
class Load:
    """What is to be done.

    Attributes:
        held: seconds of sound that are scored in each fold.
        scales: how many times longer the final training is than that of each fold.
        processes: that train folds at once.
    """

    held: Sequence[float]
    scales: Sequence[float]
    processes: int

    def needed(self, steps: int, pace: Pace) -> float:
        """Return the seconds of ``steps`` steps in each fold with their scores, and of the final training."""
        points = len(steps_to_score(steps)) + 2  # and those of the input and the start
        fold = pace.step * steps + points * pace.score * max(self.held)
        waves = math.ceil(len(self.held) / self.processes)
        slower = _TOGETHER if self.processes > 1 else 1.0
        return waves * fold * slower + pace.step * steps * max(self.scales)

    def steps_within(self, seconds: float, pace: Pace) -> int:
        """Return the largest number of steps of the grid that fits.

        Raises:
            TrainingError: not even the first ones do; states how long they take.
        """
        grid = steps_to_score(MOST_STEPS)
        fitting = [steps for steps in grid if self.needed(steps, pace) <= seconds]
        if not fitting:
            raise TrainingError(
                f"{max(seconds, 0):.0f} s are left and the shortest adaptation takes about "
                f"{self.needed(grid[0], pace):.0f} s, {pace.step:.2f} s a step: give more --minutes, or a smaller "
                "network"
            )
        return fitting[-1]


class Progress:
    """A bar of the time that something takes, on a terminal only.

    Args:
        seconds: that it should take.
        say: prints a line.
    """

    def __init__(self, seconds: float, say: Callable[[str], object]) -> None:
        self._bar = tqdm(total=max(1, round(seconds)), unit="s", disable=None, file=sys.stderr, leave=False)
        self._say = say
        self._began = time.monotonic()

    def tick(self) -> None:
        """Move the bar to the time that has passed."""
        passed = min(round(time.monotonic() - self._began), self._bar.total or 0)
        self._bar.update(passed - self._bar.n)

    def say(self, line: str) -> None:
        """Print a line above the bar."""
        self._bar.clear()
        self._say(line)
        self.tick()

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()


class Timer:
    """The seconds that are left of a budget; without one there is no end.

    Args:
        seconds: the budget; None: none.
        started: when it began, by ``time.monotonic()``.
    """

    def __init__(self, seconds: float | None, started: float) -> None:
        self._end = math.inf if seconds is None else started + seconds

    @property
    def left(self) -> float:
        """Seconds that are left."""
        return self._end - time.monotonic()
