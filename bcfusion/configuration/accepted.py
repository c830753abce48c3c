"""The values that a plain key accepts, in the words of a message: numbers, choices, devices, paths."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from bcfusion.configuration.values import shown
from bcfusion.requirements import is_number


@dataclass(frozen=True)
class Number:
    """The numbers that a key accepts.

    Attributes:
        low: lower bound.
        low_allowed: whether the bound itself is accepted.
        high: upper bound, if there is one.
        high_allowed: whether the upper bound itself is accepted.
        whole: whether it must be an integer.
        optional: whether null is accepted.
    """

    low: float = 0.0
    low_allowed: bool = False
    high: float | None = None
    high_allowed: bool = True
    whole: bool = False
    optional: bool = False

    def problem(self, value: Any) -> str | None:
        """Return what is expected instead of ``value``, or None if it is accepted."""
        if value is None and self.optional:
            return None
        fits = is_number(value) and (not self.whole or isinstance(value, int))
        fits = fits and (value > self.low or (self.low_allowed and value == self.low))
        fits = fits and (self.high is None or value < self.high or (self.high_allowed and value == self.high))
        if fits:
            return None
        kind = "a whole number" if self.whole else "a number"
        bound = f"{'of at least' if self.low_allowed else 'above'} {self.low:g}"
        upper = "" if self.high is None else f" and {'of at most' if self.high_allowed else 'below'} {self.high:.10g}"
        return f"must be {kind} {bound}{upper}{' or null' if self.optional else ''}, not {shown(value)}"


@dataclass(frozen=True)
class Choice:
    """The values that a key accepts, if there are only a few."""

    options: tuple[str | bool, ...]

    def problem(self, value: Any) -> str | None:
        """Return what is expected instead of ``value``, or None if it is accepted."""
        if value in self.options:
            return None
        return f"must be {' or '.join(str(option).lower() for option in self.options)}, not {shown(value)}"


@dataclass(frozen=True)
class Devices:
    """What Lightning accepts as devices: ``auto``, a number, also as a string, -1 for all GPUs, or a list of GPUs."""

    def problem(self, value: Any) -> str | None:
        """Return what is expected instead of ``value``, or None if it is accepted."""
        if isinstance(value, list):
            fits = bool(value) and all(FROM_ZERO.problem(index) is None for index in value)
        else:
            number = int(value) if isinstance(value, str) and value.isdecimal() else value
            fits = value == "auto" or number == -1 or COUNT.problem(number) is None
        if fits:
            return None
        return f"must be auto, a whole number of at least 1, -1 for all GPUs, or a list as in [0,1], not {shown(value)}"


@dataclass(frozen=True)
class PathText:
    """A path, as text: YAML takes a bare ``2024`` for a number.

    Attributes:
        optional: whether null is accepted.
    """

    optional: bool = False

    def problem(self, value: Any) -> str | None:
        """Return what is expected instead of ``value``, or None if it is accepted."""
        if (value is None and self.optional) or (isinstance(value, str) and value):
            return None
        write = "" if value is None else ", with quotes around a number"
        return f"must be a path{' or null' if self.optional else ''}{write}, not {shown(value)}"


BOOL = Choice((True, False))
COUNT = Number(low=1, low_allowed=True, whole=True)
COUNT_OR_NULL = Number(low=1, low_allowed=True, whole=True, optional=True)
WEIGHT = Number(low_allowed=True)
FROM_ZERO = Number(low_allowed=True, whole=True)
POSITIVE = Number()
POSITIVE_OR_NULL = Number(optional=True)
SHARE = Number(low_allowed=True, high=1.0)
