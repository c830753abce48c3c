"""Write what was measured into the manifest."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from bcfusion.data.corpora.manifest import read_manifest
from bcfusion.data.corpora.manifest_columns import csv_table
from bcfusion.data.corpora.manifest_line import ManifestEntry
from bcfusion.data.inspect.alignment import Alignment
from bcfusion.data.inspect.inspection import Inspected, Inspection
from bcfusion.errors import DataError
from bcfusion.files import write_text

__all__ = ["Fixed", "fix"]


@dataclass(frozen=True)
class Fixed:
    """What was written.

    Attributes:
        aligned: lines that got lag and polarity.
        uncertain: lines with a body sensor that got neither, because they are uncertain.
        bandwidths: lines that got a bandwidth.
        inspection: with the entries of the new manifest.
    """

    aligned: int
    uncertain: int
    bandwidths: int
    inspection: Inspection


def fix(inspection: Inspection) -> Fixed:
    """Write lag, polarity and their confidence, and the bandwidth of the main sensor, into the manifest.

    Lag and polarity are written only if the measurement is reliable; otherwise the manifest keeps its values. All other
    columns and lines stay unchanged. The manifest is replaced whole or not at all.

    Raises:
        DataError: the manifest cannot be written, or has changed since it was read.
    """
    changes: dict[int, dict[str, float | int]] = {}
    aligned = uncertain = bandwidths = 0
    lines: list[Inspected] = []
    for place, line in zip(inspection.places, inspection.lines, strict=True):
        values: dict[str, float | int] = {}
        if (found := line.resolved) is not None:
            values |= {"lag": round(found.lag_seconds, 6), "polarity": found.polarity}
            values |= {"lag_confidence": round(found.confidence, 3)}
            aligned += 1
        elif line.measured.alignment is not None:
            uncertain += 1
        if (main := line.measured.sensors.get(inspection.main)) is not None and main.bandwidth > 0:
            values["bandwidth"] = round(main.bandwidth, 1)
            bandwidths += 1
        changes[place] = values
        lines.append(replace(line, entry=_entry(line, found)))
    _rewrite(inspection, changes)
    entries = list(inspection.entries)
    for place, line in zip(inspection.places, lines, strict=True):
        entries[place] = line.entry
    return Fixed(aligned, uncertain, bandwidths, replace(inspection, entries=entries, lines=lines))


def _entry(line: Inspected, found: Alignment | None) -> ManifestEntry:
    """Return the line's new entry, as far as findings depend on it."""
    if found is None:
        return line.entry
    return replace(line.entry, lag=found.lag_seconds, polarity=found.polarity)


def _rewrite(inspection: Inspection, changes: Mapping[int, Mapping[str, float | int]]) -> None:
    manifest = inspection.manifest.resolve()
    now = [entry.id for entry in read_manifest(manifest, inspection.main)]
    if now != [entry.id for entry in inspection.entries]:
        raise DataError(f"{manifest} has changed while it was inspected: run the command again")
    try:
        with manifest.open(encoding="utf-8-sig", newline="") as text:
            content = text.read()
        write_text(manifest, (_csv if manifest.suffix == ".csv" else _jsonl)(content, changes), newline="")
    except OSError as error:
        raise DataError(f"cannot write manifest {manifest}: {error.strerror}") from error


def _jsonl(content: str, changes: Mapping[int, Mapping[str, Any]]) -> str:
    records = [line.rstrip("\r") for line in content.split("\n") if line.strip()]
    for place, values in changes.items():
        if values:
            records[place] = json.dumps(json.loads(records[place]) | dict(values), ensure_ascii=False)
    return "\n".join(records) + "\n"


def _csv(content: str, changes: Mapping[int, Mapping[str, Any]]) -> str:
    columns, lines = csv_table(io.StringIO(content, newline=""))
    records = [cells[: len(columns)] for _, cells in lines]
    columns += [
        name for name in dict.fromkeys(name for values in changes.values() for name in values) if name not in columns
    ]
    for place, values in changes.items():
        records[place] += [""] * (len(columns) - len(records[place]))
        for name, value in values.items():
            records[place][columns.index(name)] = str(value)
    written = io.StringIO(newline="")
    writer = csv.writer(written, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(cells + [""] * (len(columns) - len(cells)) for cells in records)
    return written.getvalue()
