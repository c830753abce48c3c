"""What a check says."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from bcfusion.errors import first_line

__all__ = [
    "FAIL",
    "NOTE",
    "OK",
    "PURPOSES",
    "STATUSES",
    "STORAGE",
    "Check",
    "Finding",
    "counted",
    "fail",
    "note",
    "ok",
    "why",
    "worst",
]

OK, NOTE, FAIL = "ok", "note", "fail"
STATUSES = (OK, NOTE, FAIL)  #: from the best to the worst
PURPOSES = ("train", "stream")
STORAGE = "Storage"  #: the group of the checks that look at folders of the user


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Attributes:
        name: of what was looked at.
        status: ``ok``; ``note``: something does not work, or not well, that training and streaming can do without;
            ``fail``: one of them would fail.
        text: what was found, in one line.
        remedy: what to do; empty if there is nothing to do.
        purposes: what fails; None: those of the check.
    """

    name: str
    status: str
    text: str
    remedy: str = ""
    purposes: Sequence[str] | None = None


@dataclass(frozen=True)
class Check:
    """Something to look at.

    Attributes:
        name: of the check, and of its finding if it gives one.
        group: of the report.
        look: returns what was found; anything may be imported in it.
        needs: names of earlier checks: where one of them has failed, there is no use in this one.
        packages: distributions to install again, where the check ends the interpreter instead of returning.
        repair: the remedy in that case, and where the check does not answer; empty: the usual one.
        purposes: what fails if this check does; empty: neither training nor streaming, and it is no more than a note.
    """

    name: str
    group: str
    look: Callable[[], Iterable[Finding]]
    needs: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()
    repair: str = ""
    purposes: tuple[str, ...] = PURPOSES


def ok(name: str, text: str) -> Finding:
    """Return a finding that all is well."""
    return Finding(name, OK, text)


def note(name: str, text: str, remedy: str = "") -> Finding:
    """Return a finding that concerns neither training nor streaming as such."""
    return Finding(name, NOTE, text, remedy)


def fail(name: str, text: str, remedy: str, purposes: Sequence[str] | None = None) -> Finding:
    """Return a finding that would end a training or a stream; ``purposes`` as in :class:`Finding`."""
    return Finding(name, FAIL, text, remedy, purposes)


def worst(findings: Iterable[Finding]) -> str:
    """Return the worst status among findings; ``ok`` without any."""
    return max((finding.status for finding in findings), key=STATUSES.index, default=OK)


def counted(findings: Iterable[Finding]) -> Mapping[str, int]:
    """Return how many findings have each status."""
    statuses = [finding.status for finding in findings]
    return {status: statuses.count(status) for status in STATUSES}


def why(error: BaseException) -> str:
    """Return an error in one line of at most 160 characters."""
    line = " ".join(first_line(error).split())
    return line if len(line) <= 160 else line[:157] + "..."
