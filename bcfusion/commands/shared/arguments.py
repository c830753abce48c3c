"""Parsers of verbs, and the types of their arguments: each turns a text into a value, or reports what is expected."""

from __future__ import annotations

import argparse
import math
import os
import re
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from bcfusion.commands import USER_ERROR
from bcfusion.commands.shared.characters import typographic_dash
from bcfusion.nearest import did_you_mean

__all__ = ["VerbParser", "between", "path", "positive_int", "positive_number", "separated", "verb_parser"]

T = TypeVar("T")


class VerbParser(argparse.ArgumentParser):
    """A parser that answers a wrong command line in one or two lines: what is wrong, and how to type it."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:
        """Parse as argparse does, after options that do not exist have been refused, which argparse reports last."""
        given = list(sys.argv[1:] if args is None else args)
        options = self._option_string_actions
        for at, argument in enumerate(given):
            if argument == "--":
                break
            name, equals, value = argument.partition("=")
            if dash := typographic_dash(argument, options):
                self.error(dash)
            if re.match(r"--?[A-Za-z]", argument) and name not in options:
                public = [option for option, action in options.items() if action.help != argparse.SUPPRESS]
                hint = did_you_mean("--" + name.lstrip("-"), public) if len(name) > 2 else ""
                self.error(f"there is no option {name}{hint}")
            if equals and f"--{name}" in options and not Path(argument).exists() and self._is_own(given[:at]):
                self.error(f"{argument}: options are typed with dashes\nwrite --{name} {shlex.quote(value)}")
        parsed: tuple[Any, list[str]] = super().parse_known_args(args, namespace)
        return parsed

    def _is_own(self, before: Sequence[str]) -> bool:
        """Return whether an argument stands by itself: the one before it is not an option that takes a value."""
        action = self._option_string_actions.get(before[-1]) if before else None
        return action is None or action.nargs == 0

    def error(self, message: str) -> NoReturn:
        """Print the message and where to read more, and exit with status 2."""
        if "\n" not in message:
            message += f"\nsee {self.prog} --help"
        self.exit(USER_ERROR, f"{self.prog}: {message}\n")


def verb_parser(verb: str, text: str) -> VerbParser:
    """Return an empty parser whose help shows ``text``, with its options before the line ``examples:``.

    Args:
        verb: as it is typed after ``bcfusion``.
        text: the ``HELP`` of the verb's module.
    """
    description, _, examples = text.partition("examples:")
    return VerbParser(
        prog=f"bcfusion {verb}",
        description=description,
        epilog="examples:" + examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


def path(text: str) -> Path:
    """Return a path, with ``~`` replaced by the home directory."""
    return Path(os.path.expanduser(text))  # unlike Path.expanduser, leaves the name of an unknown user as it is


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
