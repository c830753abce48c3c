"""The ranges that constructors demand of their arguments, and the one error that reports all of them.

A constructor states its rules in one call, before anything is built::

    require(
        self,
        at_least(1, channels=channels, strides=strides),
        above(0, speech_level=speech_level),
        (kernel_size % 2 == 1, f"kernel_size={kernel_size} must be odd"),
    )
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bcfusion.errors import ConfigError

__all__ = [
    "Rule",
    "above",
    "ascending",
    "at_least",
    "check_rate",
    "check_rates",
    "is_number",
    "one_of",
    "require",
    "whole",
    "within",
]

Rule = tuple[object, str] | list[str]


def require(owner: object, *rules: Rule) -> None:
    """Raise one error with every rule that is broken; return if there is none.

    Args:
        owner: what takes the arguments: an instance, a class or a name; its name starts each message.
        rules: ``(condition, message)`` pairs, the message without the owner; or lists of messages, as the functions of
            this module return.

    Raises:
        ConfigError: with one line for each broken rule.
    """
    name = owner if isinstance(owner, str) else owner.__name__ if isinstance(owner, type) else type(owner).__name__
    broken: list[str] = []
    for rule in rules:
        if isinstance(rule, list):
            broken += rule
        elif not rule[0]:
            broken.append(rule[1])
    if broken:
        raise ConfigError([f"{name}: {message}" for message in broken])


def at_least(low: float, **values: Any) -> list[str]:
    """Return a message for each argument below ``low``; a sequence needs at least one entry, and each is checked."""
    return _broken(values, f"at least {low:g}", lambda value: value >= low)


def above(low: float, **values: Any) -> list[str]:
    """Return a message for each argument that is not above ``low``; sequences as in :func:`at_least`."""
    return _broken(values, f"above {low:g}", lambda value: value > low)


def within(low: float, high: float, **values: Any) -> list[str]:
    """Return a message for each argument outside ``[low, high]``; sequences as in :func:`at_least`."""
    return _broken(values, f"from {low:g} to {high:g}", lambda value: low <= value <= high)


def ascending(low: float, high: float, **ranges: Any) -> list[str]:
    """Return a message for each argument that is not a range ``[lowest, highest]`` within ``[low, high]``."""
    return [
        f"{name}={list(value) if isinstance(value, Sequence) else value!r} must be two numbers in ascending order, "
        f"from {low:g} to {high:g}"
        for name, value in ranges.items()
        if not isinstance(value, Sequence)
        or len(value) != 2
        or not all(is_number(entry) for entry in value)
        or not low <= value[0] <= value[1] <= high
    ]


def whole(**values: Any) -> list[str]:
    """Return a message for each argument that is not a whole number, or a sequence of them; 2.0 is one."""
    messages = []
    for name, value in values.items():
        several = isinstance(value, Sequence) and not isinstance(value, str)
        if not all(is_number(entry) and entry == int(entry) for entry in (value if several else [value])):
            kind = "whole numbers" if several else "a whole number"
            messages.append(f"{name}={list(value) if several else repr(value)} must be {kind}")
    return messages


def one_of(options: Iterable[object], **values: object) -> list[str]:
    """Return a message for each argument that is not one of ``options``."""
    known = list(options)
    words = ", ".join("null" if option is None else str(option) for option in known)
    return [f"{name}={value!r} must be one of {words}" for name, value in values.items() if value not in known]


def _broken(values: dict[str, Any], expected: str, fits: Any) -> list[str]:
    messages = []
    for name, value in values.items():
        if isinstance(value, Sequence) and not isinstance(value, str):
            if not value or not all(is_number(entry) and fits(entry) for entry in value):
                messages.append(f"{name}={list(value)} must be one or more numbers, each {expected}")
        elif not is_number(value) or not fits(value):
            messages.append(f"{name}={value!r} must be {expected}")
    return messages


def check_rate(part: Any, sample_rate: int) -> None:
    """Let a simulator or metric that has a method ``check_rate(sample_rate)`` refuse the sample rate of a task.

    Args:
        part: anything; without the method it takes every rate.
        sample_rate: in Hz.

    Raises:
        ConfigError: it cannot work at this rate.
    """
    check = getattr(part, "check_rate", None)
    if check is not None:
        check(sample_rate)


def check_rates(section: str, parts: Mapping[str, Any], sample_rate: int) -> None:
    """Let several parts refuse a sample rate, all at once.

    Args:
        section: of the configuration, in which the names of the parts are keys; for messages.
        parts: by name.
        sample_rate: in Hz.

    Raises:
        ConfigError: with every message, each preceded by ``section.name``.
    """
    problems = []
    for name, part in parts.items():
        try:
            check_rate(part, sample_rate)
        except ConfigError as error:
            problems += [f"{section}.{name}: {problem}" for problem in error.problems]
    if problems:
        raise ConfigError(problems)


def is_number(value: object) -> bool:
    """Return whether ``value`` is a finite number; true and false are not."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
