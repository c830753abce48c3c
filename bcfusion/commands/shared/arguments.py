"""Parsers of verbs, and the types of their arguments: each converts a text, or reports which values are accepted."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

__all__ = ["between", "path", "positive_int", "positive_number", "separated", "verb_parser"]

T = TypeVar("T")


def verb_parser(verb: str, text: str) -> argparse.ArgumentParser:
    """Return an empty parser whose help shows ``text``, with its options before the line ``examples:``.

    Args:
        verb: as it is typed after ``bcfusion``.
        text: the ``HELP`` of the verb's module.
    """
    description, _, examples = text.partition("examples:")
    return argparse.ArgumentParser(
        prog=f"bcfusion {verb}",
        description=description,
        epilog="examples:" + examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


def path(text: str) -> Path:
    """Return a path, with ``~`` replaced by the home directory."""
    return Path(text).expanduser()


def positive_int(text: str) -> int:
    """Return a whole number of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number above zero")
    return int(text)


def positive_number(text: str) -> float:
    """Return a finite number above zero."""
    value = _number(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not a number above zero")
    return value


def between(low: float, high: float, kind: type[float] | type[int] = float) -> Callable[[str], float]:
    """Return the type of a number of a ``kind`` from ``low`` to ``high``, both included."""

    def number(text: str) -> float:
        value = _number(text, kind)
        if not low <= value <= high:
            word = "whole number" if kind is int else "number"
            raise argparse.ArgumentTypeError(f"{text} is not a {word} from {low:g} to {high:g}")
        return value

    return number


def separated(entry: Callable[[str], T]) -> Callable[[str], list[T]]:
    """Return the type of one or more values, each of type ``entry``, separated by commas; repeated ones count once."""

    def values(text: str) -> list[T]:
        entries = [part.strip() for part in text.split(",") if part.strip()]
        if not entries:
            raise argparse.ArgumentTypeError("give one or more values, separated by commas")
        return list(dict.fromkeys(map(entry, entries)))

    return values


def _number(text: str, kind: type[float] | type[int] = float) -> float:
    """Return a number; NaN, which no range contains, for anything else."""
    try:
        return kind(text)
    except ValueError:
        return math.nan
