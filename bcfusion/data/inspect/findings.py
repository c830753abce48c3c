"""What is wrong with a manifest and its recordings, the worst first, and what to do about it."""

from __future__ import annotations

import shlex
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from bcfusion.contracts import UNKNOWN_SPEAKER
from bcfusion.data.corpora.manifest_line import ManifestEntry
from bcfusion.data.inspect.checks import FILES, FIX, PAIRS, SIGNALS, TARGET, Severity
from bcfusion.data.inspect.criteria import SILENT
from bcfusion.data.inspect.inspection import Inspection

__all__ = ["Finding", "findings"]

_EXAMPLES = 5


@dataclass(frozen=True)
class Finding:
    """One kind of problem.

    Attributes:
        severity: how bad it is.
        what: the problem, in words.
        count: recordings (or speakers) that have it.
        of: recordings (or speakers) that were checked for it.
        advice: what to do.
        examples: the first few, each in a few words.
    """

    severity: Severity
    what: str
    count: int
    of: int
    advice: str
    examples: tuple[str, ...]


def findings(inspection: Inspection) -> list[Finding]:
    """Return all problems, errors first, then by the number of recordings."""
    found = list(_across_lines(inspection))
    # A room response is mostly silence, and its level means nothing.
    checks = [*FILES, *(() if inspection.main == "rir" else SIGNALS)]
    if inspection.main == "air":
        checks += [*TARGET, *PAIRS]
    for check in checks:
        hits = [f"{line.entry.id}: {words}" for line in inspection.lines if (words := check.test(line)) is not None]
        if hits:
            of = len(inspection.lines)
            command = f"bcfusion inspect {shlex.quote(str(inspection.manifest))} --fix"  # ready to paste
            advice = check.advice.replace(FIX, command)
            found.append(Finding(check.severity, check.what, len(hits), of, advice, tuple(hits[:_EXAMPLES])))
    return sorted(found, key=lambda finding: (finding.severity, -finding.count))


def _across_lines(inspection: Inspection) -> Iterator[Finding]:
    entries = inspection.entries
    splits: dict[str, set[str]] = defaultdict(set)
    for entry in entries:
        if entry.speaker != UNKNOWN_SPEAKER:
            splits[entry.speaker].add(entry.split)
    shared = [f"{speaker}: {', '.join(sorted(found))}" for speaker, found in splits.items() if len(found) > 1]
    if shared and inspection.main == "air":
        yield Finding(
            Severity.ERROR,
            "speakers in several splits",
            len(shared),
            len(splits),
            "move all lines of a speaker to one split: scores on known voices are too good",
            tuple(shared[:_EXAMPLES]),
        )
    main = inspection.main
    # of all sensors: several body sensors with the same air file are no repetition
    parts = [(entry, _part(entry)) for entry in entries]
    yield from _twice(parts, "the same part of a file in several lines")
    again = {entry.id for entry in _repeated(parts)}
    targets = [(entry, (entry.paths[main], entry.channels.get(main, 0), entry.offset)) for entry in entries]
    yield from _twice(_crossing([pair for pair in targets if pair[0].id not in again]), f"the same part of {main}")
    # A 32-bit hash alone would collide in a hundred pairs of a million recordings.
    samples: list[tuple[ManifestEntry, object]] = [
        (
            line.entry,
            tuple((name, one.fingerprint, one.levels.level) for name, one in sorted(line.measured.sensors.items())),
        )
        for line in inspection.lines
        if (found := line.measured.sensors.get(main)) is not None and found.levels.level > SILENT
    ]
    distinct = {entry.id for entry, _ in samples} - again
    yield from _twice([pair for pair in samples if pair[0].id in distinct], "the same samples under several names")


def _part(entry: ManifestEntry) -> object:
    """Return the part of its files that a line refers to: file and channel of each sensor, and the offset."""
    files = [(sensor, path, entry.channels.get(sensor, 0)) for sensor, path in sorted(entry.paths.items())]
    return (*files, entry.offset)


def _crossing(keyed: Sequence[tuple[ManifestEntry, object]]) -> list[tuple[ManifestEntry, object]]:
    """Return those whose key is in several splits."""
    splits: dict[object, set[str]] = defaultdict(set)
    for entry, key in keyed:
        splits[key].add(entry.split)
    return [(entry, key) for entry, key in keyed if len(splits[key]) > 1]


def _repeated(keyed: Sequence[tuple[ManifestEntry, object]]) -> list[ManifestEntry]:
    """Return all but the first of those that share a key."""
    seen: set[object] = set()
    repeated = []
    for entry, key in keyed:
        if key in seen:
            repeated.append(entry)
        seen.add(key)
    return repeated


def _twice(keyed: Sequence[tuple[ManifestEntry, object]], what: str) -> Iterator[Finding]:
    groups: dict[object, list[ManifestEntry]] = defaultdict(list)
    for entry, key in keyed:
        groups[key].append(entry)
    twice = [group for group in groups.values() if len(group) > 1]
    if twice:
        across = any(len({entry.split for entry in group}) > 1 for group in twice)
        named = tuple(" = ".join(f"{entry.id} ({entry.split})" for entry in group[:3]) for group in twice[:_EXAMPLES])
        severity = Severity.ERROR if across else Severity.WARNING
        yield Finding(
            severity,
            what + (", of different splits" if across else ""),
            sum(map(len, twice)),
            len(keyed),
            "keep one line of each",
            named,
        )
