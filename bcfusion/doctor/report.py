"""The report: a line for each finding, aligned, in groups; or JSON."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from bcfusion import __version__
from bcfusion.doctor.examination import Examined
from bcfusion.doctor.finding import FAIL, NOTE, OK, Finding, counted, worst

__all__ = ["as_json", "coloured", "lines", "summary"]

WIDTH = 18  # of the names
_COLOURS = {OK: "32", NOTE: "33", FAIL: "1;31"}  # of the terminal: green, yellow, bold red
_WORDS = {OK: "ok", NOTE: "note", FAIL: "FAIL"}


def coloured(terminal: bool) -> bool:
    """Return whether the status is printed in colour: in a terminal that can, unless the user wants none."""
    return terminal and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def lines(examined: Iterable[Examined], colour: bool) -> Iterator[str]:
    """Yield the lines of the report, each as soon as it is known; a remedy is a line of its own."""
    group = None
    for each in examined:
        if each.findings and each.check.group != group:
            if group is not None:
                yield ""
            group = each.check.group
            yield group
        for finding in each.findings:
            yield from _lines_of(finding, colour)


def _lines_of(finding: Finding, colour: bool) -> Iterator[str]:
    word = f"{_WORDS[finding.status]:<4}"
    if colour:
        word = f"\x1b[{_COLOURS[finding.status]}m{word}\x1b[0m"
    yield f"  {word}  {finding.name:<{WIDTH}}  {finding.text}".rstrip()
    if finding.remedy:
        yield f"  {'':4}  {'':{WIDTH}}  → {finding.remedy}"


def summary(findings: Sequence[Finding], purposes: Sequence[str]) -> str:
    """Return the last line: whether training and streaming work, as far as they were asked for."""
    number = counted(findings)
    notes = {0: "", 1: "; 1 note"}.get(number[NOTE], f"; {number[NOTE]} notes")
    words = {"train": "training", "stream": "streaming"}
    wanted = [words[purpose] for purpose in purposes]
    if not number[FAIL]:
        if "stream" in purposes and any(each.name == "sound cards" and each.status == NOTE for each in findings):
            notes += "; no sound card: stream --file only"
        return f"{' and '.join(wanted)} should work{notes}"
    problems = "1 problem" if number[FAIL] == 1 else f"{number[FAIL]} problems"
    return f"{' or '.join(wanted)} would fail: {problems} above{notes}"


def as_json(examined: Sequence[Examined]) -> str:
    """Return everything for other programs."""
    findings: list[dict[str, Any]] = [
        {
            "group": each.check.group.partition(":")[0],
            "check": each.check.name,
            "name": finding.name,
            "status": finding.status,
            "text": finding.text,
            "remedy": finding.remedy,
            "concerns": list(each.check.purposes if finding.purposes is None else finding.purposes),
        }
        for each in examined
        for finding in each.findings
    ]
    status = worst(finding for each in examined for finding in each.findings)
    return json.dumps({"bcfusion": __version__, "status": status, "findings": findings}, indent=2, ensure_ascii=False)
