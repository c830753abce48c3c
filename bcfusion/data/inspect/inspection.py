"""All lines of a manifest, measured in parallel, and what its sessions say together."""

from __future__ import annotations

import csv
import json
import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from bcfusion.contracts import UNKNOWN_SPEAKER
from bcfusion.data.corpora.manifest import read_manifest
from bcfusion.data.corpora.manifest_line import ManifestEntry
from bcfusion.data.inspect.alignment import ENOUGH, MAX_LAG, SAME, Alignment, session_alignment
from bcfusion.data.inspect.measure import Measured, measure
from bcfusion.errors import DataError

__all__ = ["Inspected", "Inspection", "MeanSpectrum", "inspect_manifest", "main_sensor", "session_of"]

_BATCH = 4  # lines handed to a worker at once, 50 to 200 ms of work each
_AHEAD = 16  # batches for each worker that are under way: a slow one does not hold up the others
_FEW = 16  # lines for which starting processes costs more than they give
_NO_SPECTRUM = np.zeros(0, dtype=np.float32)


@dataclass
class MeanSpectrum:
    """Mean and spread of the spectra of one sensor at one sample rate, summed as they come.

    Attributes:
        sample_rate: in Hz. total, squares: ``(bands,)`` sums of decibels and of their squares. count: of spectra.
    """

    sample_rate: int
    total: np.ndarray
    squares: np.ndarray
    count: int = 0

    def add(self, spectrum: np.ndarray) -> None:
        """Take in one spectrum ``(bands,)``, dB."""
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
    """One line: what the manifest says, what was measured, and what its ``session`` says of lag and polarity."""

    entry: ManifestEntry
    measured: Measured
    session: Alignment | None = None

    @property
    def resolved(self) -> Alignment | None:
        """Lag and polarity to rely on: the session's, or its own where it is sure of something else. None: neither."""
        own = self.measured.alignment
        if own is None or self.session is None:
            return None
        departs = abs(own.lag_seconds - self.session.lag_seconds) > SAME or own.polarity != self.session.polarity
        if own.confidence >= ENOUGH and (departs or self.session.confidence < ENOUGH):
            return own
        return self.session if self.session.confidence >= ENOUGH else None


@dataclass(frozen=True)
class Inspection:
    """A manifest that was looked at.

    Attributes:
        manifest: its path. main: ``air``, or ``noise`` or ``rir`` in a manifest without speech.
        entries: all its lines. lines: those that were measured, in the manifest's order, without their spectra.
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

    Memory does not grow with their length, and by less than a kilobyte with each line.

    Args:
        path: the manifest, .jsonl or .csv, of speech, noise or room responses.
        limit: how many lines are measured, evenly spread over the manifest; None: all.
        workers: processes; None: one for each core.
        max_lag: seconds, searched for body against air.
        progress: whether a bar is shown, on a terminal.

    Raises:
        DataError: the manifest is missing, or its lines have problems; or a worker process was ended.
    """
    manifest = Path(path).expanduser()
    main = main_sensor(manifest)
    entries = read_manifest(manifest, main)
    places = list(range(len(entries)))
    if limit is not None and limit < len(entries):
        places = sorted({int(place) for place in np.linspace(0, len(entries) - 1, limit)})
    spectra: dict[tuple[str, int], MeanSpectrum] = {}
    found: list[Measured] = []
    chosen = [entries[place] for place in places]
    with tqdm(total=len(chosen), desc="measuring", unit=" files", disable=None if progress else True) as bar:
        for measured in _measure_all(chosen, main, workers, max_lag):
            found.append(_summed(measured, spectra))
            bar.update()
    sessions = _sessions(chosen, found)
    lines = [
        Inspected(entry, measured, sessions.get(session_of(entry)))
        for entry, measured in zip(chosen, found, strict=True)
    ]
    return Inspection(manifest, main, entries, lines, places, spectra)


def main_sensor(manifest: Path) -> str:
    """The sensor that the lines of a manifest must have, by its first line: ``air``, ``noise`` or ``rir``."""
    try:
        with manifest.open(encoding="utf-8-sig", newline="") as text:
            if manifest.suffix == ".csv":
                columns = set(next(csv.reader(text), []))
            else:
                record = json.loads(next((line for line in text if line.strip()), "{}"))
                columns = {*record, *record["paths"]} if isinstance(record.get("paths"), dict) else set(record)
    except (OSError, ValueError, AttributeError, csv.Error):
        return "air"  # read_manifest says what is wrong
    return next((sensor for sensor in ("air", "noise", "rir") if sensor in columns), "air")


def session_of(entry: ManifestEntry) -> str:
    """What a line shares its sensors' places and clocks with: the column ``session``, else the speaker, else nobody."""
    if "session" in entry.extra:
        return f"{entry.speaker} / {entry.extra['session']}"
    return entry.id if entry.speaker == UNKNOWN_SPEAKER else entry.speaker


def _sessions(entries: Sequence[ManifestEntry], found: Sequence[Measured]) -> dict[str, Alignment]:
    members: dict[str, list[Alignment]] = {}
    for entry, measured in zip(entries, found, strict=True):
        if measured.alignment is not None:
            members.setdefault(session_of(entry), []).append(measured.alignment)
    return {session: session_alignment(alignments) for session, alignments in members.items()}


def _summed(measured: Measured, spectra: dict[tuple[str, int], MeanSpectrum]) -> Measured:
    """Add a line's spectra to the sums and return it without them."""
    for sensor, found in measured.sensors.items():
        if found.levels.silent_share < 1.0:
            bands = len(found.spectrum)
            key = (sensor, found.sample_rate)
            spectra.setdefault(key, MeanSpectrum(found.sample_rate, np.zeros(bands), np.zeros(bands)))
            spectra[key].add(found.spectrum)
    bare = {sensor: replace(found, spectrum=_NO_SPECTRUM) for sensor, found in measured.sensors.items()}
    return replace(measured, sensors=bare)


def _measure_all(
    entries: Sequence[ManifestEntry], main: str, workers: int | None, max_lag: float
) -> Iterator[Measured]:
    """What was measured of all lines, in their order."""
    count = workers or len(os.sched_getaffinity(0))
    batches = iter([entries[begin : begin + _BATCH] for begin in range(0, len(entries), _BATCH)])
    with _pool(1 if len(entries) <= _FEW else count) as pool:
        under_way: deque[Future[list[Measured]]] = deque()
        try:
            for batch in batches:
                under_way.append(pool.submit(_measure_batch, batch, main, max_lag))
                if len(under_way) >= count * _AHEAD:
                    yield from under_way.popleft().result()
            while under_way:
                yield from under_way.popleft().result()
        except BrokenProcessPool as error:
            raise DataError("a worker process was ended, perhaps for want of memory: give fewer --workers") from error
        finally:
            for future in under_way:
                future.cancel()


def _measure_batch(entries: Sequence[ManifestEntry], main: str, max_lag: float) -> list[Measured]:
    return [measure(entry, main, max_lag) for entry in entries]


def _pool(workers: int) -> Executor:
    if workers == 1:
        return ThreadPoolExecutor(1)
    # not forked: this process may hold threads of a numeric library
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(workers, mp_context=context, initializer=_leave_interrupts_to_the_parent)


def _leave_interrupts_to_the_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
