from __future__ import annotations

from argparse import ArgumentTypeError
from collections.abc import Callable
from pathlib import Path

import pytest

from bcfusion.commands.shared.arguments import between, path, positive_int, positive_number, separated, verb_parser


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        (path, "~", Path.home()),
        (positive_int, "12", 12),
        (positive_number, "0.5", 0.5),
        (between(0, 1), "1", 1.0),
        (between(0, 65535, int), "8080", 8080),
        (separated(str), "b, a,,b", ["b", "a"]),
        (separated(positive_number), "3500,7e3", [3500.0, 7000.0]),
    ],
)
def test_a_text_becomes_a_value(kind: Callable[[str], object], text: str, value: object) -> None:
    assert kind(text) == value


@pytest.mark.parametrize(
    ("kind", "texts", "expected"),
    [
        (positive_int, ["0", "-1", "1.5", "many", ""], "is not a whole number above zero"),
        (positive_number, ["0", "inf", "nan", "much", ""], "is not a number above zero"),
        (between(0.001, 10), ["0", "11", "nan", "long"], "is not a number from 0.001 to 10"),
        (between(0, 65535, int), ["-1", "65536", "1.5"], "is not a whole number from 0 to 65535"),
        (separated(str), ["", " ,"], "give one or more values, separated by commas"),
        (separated(positive_int), ["3,0"], "0 is not a whole number above zero"),
    ],
)
def test_any_other_text_is_answered_with_what_is_expected(
    kind: Callable[[str], object], texts: list[str], expected: str
) -> None:
    for text in texts:
        with pytest.raises(ArgumentTypeError, match=expected):
            kind(text)


def test_the_help_of_a_verb_has_its_options_before_its_examples(capsys: pytest.CaptureFixture[str]) -> None:
    parser = verb_parser("sing", "Sing a song.\n\nexamples:\n  bcfusion sing --loud\n")
    parser.add_argument("--loud", action="store_true", help="shout")
    parser.print_help()
    shown = capsys.readouterr().out
    positions = [shown.index(text) for text in ("usage: bcfusion sing", "Sing a song.", "shout", "  bcfusion sing --l")]
    assert positions == sorted(positions)
