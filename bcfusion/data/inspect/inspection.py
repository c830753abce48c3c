"""Measure all lines of a manifest in parallel, and combine those of a session."""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
from tqdm import tqdm

from bcfusion import system
from bcfusion.data.corpora.manifest import read_manifest
from bcfusion.data.corpora.manifest_line import ManifestEntry
from bcfusion.data.inspect.alignment import MAX_LAG, Alignment
from bcfusion.data.inspect.certainty import believed, session_alignments, session_of, settled
from bcfusion.data.inspect.measure import Measured, measure
from bcfusion.data.parallel import in_batches
from bcfusion.files import from_json, on_disk

__all__ = ["Inspected", "Inspection", "MeanSpectrum", "inspect_manifest", "main_sensor"]

_BATCH = 4  # lines that a worker gets at once, 50 to 200 ms of work each
_FEW = 16  # for up to this many lines, starting processes takes longer than it saves
_NO_SPECTRUM = np.zeros(0, dtype=np.float32)


@dataclass
class MeanSpectrum:
    """Mean and spread of the spectra of one sensor at one sample rate, accumulated one by one.

    Attributes:
        sample_rate: in Hz.
        total: ``(bands,)``, sum of the spectra in decibels.
        squares: ``(bands,)``, sum of their squares.
        count: number of spectra.
    """

    sample_rate: int
    total: np.ndarray
    squares: np.ndarray
    count: int = 0

    def add(self, spectrum: np.ndarray) -> None:
        """Add one spectrum ``(bands,)``, dB."""
        self.total += spectrum
        self.squares += np.square(spectrum, dtype=np.float64)
        self.count += 1

    @property
    def mean(self) -> np.ndarray:
        """``(bands,)`` dB."""
        return self.total / self.count

    @property
    def deviation(self) -> np.ndarray:
        """``(bands,)`` dB, standard deviation between recordings."""
        return np.sqrt(np.maximum(self.squares / self.count - np.square(self.mean), 0.0))


@dataclass(frozen=True)
class Inspected:
    """One line of a manifest that was measured.

    Attributes:
        entry: the line.
        measured: what its recordings hold.
        session: lag and polarity of its session.
    """

    entry: ManifestEntry
    measured: Measured
    session: Alignment | None = None

    @property
    def resolved(self) -> Alignment | None:
        """Lag and polarity of the session, or the line's own if certain and different; None if both are uncertain."""
        return believed(self.measured.alignment, self.session)


@dataclass(frozen=True)
class Inspection:
    """A manifest that was inspected.

    Attributes:
        manifest: its path.
        main: ``air``, or ``noise`` or ``rir`` in a manifest without speech.
        entries: all its lines.
        lines: those that were measured, in the order of the manifest, without their spectra.
        places: index among ``entries`` of each of ``lines``.
        spectra: of the sensors, by name and sample rate.
    """

    manifest: Path
    main: str
    entries: Sequence[ManifestEntry]
    lines: Sequence[Inspected]
    places: Sequence[int]
    spectra: dict[tuple[str, int], MeanSpectrum] = field(default_factory=dict)


def inspect_manifest(
    path: str | os.PathLike[str],
    limit: int | None = None,
    workers: int | None = None,
    max_lag: float = MAX_LAG,
    progress: bool = True,
) -> Inspection:
    """Measure the recordings of a manifest.

    Memory does not grow with their length, and by less than a kilobyte per line.

    Args:
        path: the manifest, .jsonl or .csv, of speech, noise or room responses.
        limit: number of lines to measure, evenly spread over the manifest; None: all.
        workers: processes; None: one per core.
        max_lag: seconds, the largest lag between body and air that is looked for.
        progress: whether to show a progress bar on a terminal.

    Raises:
        DataError: the manifest is missing, its lines have problems, or a worker process was killed.
    """
    manifest = on_disk(path)
    main = main_sensor(manifest)
    entries = read_manifest(manifest, main)
    places = list(range(len(entries)))
    if limit is not None and limit < len(entries):
        places = sorted({int(place) for place in np.linspace(0, len(entries) - 1, limit)})
    spectra: dict[tuple[str, int], MeanSpectrum] = {}
    found: list[Measured] = []
    chosen = [entries[place] for place in places]
    with tqdm(total=len(chosen), desc="measuring", unit=" files", disable=None if progress else True) as bar:
        count = 1 if len(chosen) <= _FEW else workers or system.cores()
        work = partial(measure, main=main, max_lag=max_lag)
        with closing(in_batches(work, chosen, _BATCH, count, processes=True)) as batches:
            for batch in batches:
                found += [_summed(measured, spectra) for measured in batch]
                bar.update(len(batch))
    alone = settled(chosen, [measured.alignment for measured in found])
    found = [replace(measured, alignment=own) for measured, own in zip(found, alone, strict=True)]
    sessions = session_alignments(chosen, alone)
    lines = [
        Inspected(entry, measured, sessions.get(session_of(entry)))
        for entry, measured in zip(chosen, found, strict=True)
    ]
    return Inspection(manifest, main, entries, lines, places, spectra)


def main_sensor(manifest: Path) -> str:
    """Return the sensor that all lines of a manifest must have, by its first line: ``air``, ``noise`` or ``rir``."""
    try:
        with manifest.open(encoding="utf-8-sig", newline="") as text:
            if manifest.suffix == ".csv":
                columns = set(next(csv.reader(text), []))
            else:
                record = from_json(next((line for line in text if line.strip()), "{}"))
                columns = {*record, *record["paths"]} if isinstance(record.get("paths"), dict) else set(record)
    except (OSError, ValueError, AttributeError, csv.Error):
        return "air"  # read_manifest reports what is wrong
    return next((sensor for sensor in ("air", "noise", "rir") if sensor in columns), "air")


def _summed(measured: Measured, spectra: dict[tuple[str, int], MeanSpectrum]) -> Measured:
    """Add a line's spectra to the sums; return the line without them."""
    for sensor, found in measured.sensors.items():
        if found.levels.silent_share < 1.0:
            bands = len(found.spectrum)
            key = (sensor, found.sample_rate)
            spectra.setdefault(key, MeanSpectrum(found.sample_rate, np.zeros(bands), np.zeros(bands)))
            spectra[key].add(found.spectrum)
    bare = {sensor: replace(found, spectrum=_NO_SPECTRUM) for sensor, found in measured.sensors.items()}
    return replace(measured, sensors=bare)
