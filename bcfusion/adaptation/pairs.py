"""Recorded pairs that are fit to adapt to: checked, aligned, and cut into pieces."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np

from bcfusion.contracts import UNKNOWN_SPEAKER, Row
from bcfusion.data.corpora.manifest_line import ManifestEntry
from bcfusion.data.inspect.certainty import session_alignments, session_of, settled
from bcfusion.data.inspect.checks import FILES, PAIRS, SIGNALS, Severity
from bcfusion.data.inspect.criteria import BANDWIDTH_ERROR
from bcfusion.data.inspect.inspection import Inspected
from bcfusion.data.inspect.measure import measure
from bcfusion.data.loading.reader import AIR, BODY, SensorReader
from bcfusion.errors import AudioError, DataError

__all__ = ["LEAST_SECONDS", "MOST_SECONDS", "Piece", "Refused", "checked", "enough", "envelope_match", "pieces_of"]

logger = logging.getLogger(__name__)

LEAST_SECONDS, MOST_SECONDS = 10.0, 600.0  #: of all pairs together; more are used in part
#: correlation of the two envelopes from which on a body and an air recording belong together. In 20 real pairs of
#: throat and air microphones it is 0.89 to 0.96, in the 380 wrong combinations of them at most 0.66.
TOGETHER = 0.7
#: the same for an offset that is looked for: of many, one fits by chance
TOGETHER_LATER = 0.8
PIECE_SECONDS = 15.0  #: longer recordings are cut into pieces of about this length
_LOW_HZ, _HIGH_HZ, _RANGE_DB = 100.0, 1000.0, 40.0
_FRAME_SECONDS, _HOP_SECONDS = 0.04, 0.01
_LEAST_SECONDS = 0.4  # of the envelopes that are compared
_NEAR, _FAR = 6, 100  # hops: the lag of one recording, and offsets of two that do not start together
#: errors of a manifest that are corrected here, or that affect only a part of a recording
_TOLERATED = (
    *("polarity", "lag of body", "sample_rate is not", "air was upsampled"),
    *("clipped", "above full scale", "files that were cut off"),
)


@dataclass(frozen=True)
class Refused:
    """A recording that is not used, and why."""

    id: str
    why: str

    def __str__(self) -> str:
        return f"{self.id}: {self.why}"


@dataclass(frozen=True)
class Piece:
    """A part of a recording, up to about 15 s of it.

    Attributes:
        row: the part, with an id of its own.
        recording: id of the whole recording.
        group: that must not be divided between training and testing: the speaker, else the recording.
    """

    row: Row
    recording: str
    group: str


def checked(rows: Sequence[Row], sensors: Sequence[str], sample_rate: int) -> tuple[list[Row], list[Refused]]:
    """Return the pairs that are used, with lag and polarity as measured, and those that are not.

    Lag and polarity are measured for each recording, and believed by the rule of ``inspect``; where they are uncertain
    those of the row stay.

    Args:
        rows: recordings, each with a file for every sensor and for air.
        sensors: names of the network's inputs.
        sample_rate: at which the envelopes are compared, in Hz.
    """
    lines, refused = [], []
    for row in rows:
        if without := [sensor for sensor in (*sensors, AIR) if sensor not in row.paths]:
            refused.append(Refused(row.id, f"no recording of {' and '.join(without)}"))
            continue
        entry = _entry(row, sensors)
        lines.append((row, Inspected(entry, measure(entry))))
    alone = settled([row for row, _ in lines], [line.measured.alignment for _, line in lines])
    sessions = session_alignments([row for row, _ in lines], alone)
    kept = []
    for (row, line), own in zip(lines, alone, strict=True):
        measured = replace(line.measured, alignment=own)
        inspected = replace(line, measured=measured, session=sessions.get(session_of(row)))
        if (fault := _fault(inspected)) is not None:
            refused.append(Refused(row.id, fault))
            continue
        found = inspected.resolved
        if BODY in row.paths and found is None:
            logger.warning("%s: lag and polarity of body are uncertain and left as given", row.id)
        if found is not None:
            row = replace(row, lag=found.lag_seconds, polarity=found.polarity)
        try:
            strange = _strangers(row, sensors, sample_rate)
        except AudioError as error:
            strange = str(error)
        if strange is not None:
            refused.append(Refused(row.id, strange))
            continue
        kept.append(row)
        held = min(row.sample_rate / 2, inspected.measured.sensors[AIR].bandwidth)
        if held < BANDWIDTH_ERROR * sample_rate / 2:
            logger.warning(
                "%s: air holds speech up to %.0f Hz: the network of %d Hz will learn to leave the rest empty",
                row.id,
                held,
                sample_rate,
            )
    return kept, refused


def envelope_match(body: np.ndarray, air: np.ndarray, sample_rate: int, reach: int = _NEAR) -> tuple[float, float]:
    """Return the largest correlation of two envelopes, and by how many seconds body is later there.

    The envelope is the level in decibels from 100 to 1000 Hz, where every body sensor hears the voice, in frames of 40
    ms every 10 ms; whatever is 40 dB below its maximum counts as silence.

    Args:
        body: ``(T,)``.
        air: ``(T,)``.
        sample_rate: in Hz.
        reach: hops of 10 ms that are searched on both sides.

    Returns:
        Correlation, 0 to 1, and offset; 0 and 0 for less than about half a second, or if nothing correlates.
    """
    first, second = (_envelope(signal, sample_rate) for signal in (body, air))
    count = min(len(first), len(second))
    best, at = 0.0, 0
    reach = min(reach, count - round(_LEAST_SECONDS / _HOP_SECONDS))
    for offset in range(-reach, reach + 1):
        late, early = first[max(offset, 0) : count + min(offset, 0)], second[max(-offset, 0) : count - max(offset, 0)]
        if not late.std() or not early.std():
            continue
        value = float(np.corrcoef(late, early)[0, 1])
        if value > best:
            best, at = value, offset
    return best, at * _HOP_SECONDS


def enough(rows: list[Row], refused: Sequence[Refused], say: Callable[[str], None]) -> list[Row]:
    """Return the rows that are used, at most ten minutes.

    Raises:
        DataError: fewer than ten seconds are left.
    """
    seconds = sum(row.duration for row in rows)
    if seconds < LEAST_SECONDS:
        were = "recording is" if len(refused) == 1 else "recordings are"
        left = f"; {len(refused)} {were} refused" if refused else ""
        raise DataError(
            f"{len(rows)} usable recording{'s' * (len(rows) != 1)} with {seconds:.1f} s in all{left}: at least "
            f"{LEAST_SECONDS:g} s are needed, better a minute in four or more recordings; read a few sentences aloud "
            "with both microphones on"
        )
    if seconds <= MOST_SECONDS:
        return rows
    count = max(1, int(len(rows) * MOST_SECONDS / seconds))
    chosen = [rows[place * len(rows) // count] for place in range(count)]
    reason = f"about {MOST_SECONDS / 60:g} minutes are enough"
    if count == 1 and chosen[0].duration > MOST_SECONDS:
        say(f"the first {MOST_SECONDS / 60:g} minutes of {chosen[0].id} are used: {reason}")
        return [replace(chosen[0], duration=MOST_SECONDS)]
    say(f"{count} of {len(rows)} recordings are used, evenly spread: {reason}")
    return chosen


def pieces_of(rows: Sequence[Row]) -> list[Piece]:
    """Cut recordings into pieces of about 15 s, none longer than 22.5 s.

    All pieces of a speaker form one group, if the speakers of all recordings are known and there are at least two of
    them; otherwise those of a recording do. A single recording is cut into three pieces at least.
    """
    speakers = {row.speaker for row in rows}
    by_speaker = UNKNOWN_SPEAKER not in speakers and len(speakers) > 1
    pieces = []
    for row in rows:
        group = row.speaker if by_speaker else row.id
        count = max(3 if len(rows) == 1 else 1, round(row.duration / PIECE_SECONDS))
        seconds = row.duration / count
        for number in range(count):
            part = row
            if count > 1:
                part = replace(
                    row, id=f"{row.id}@{number * seconds:.1f}", offset=row.offset + number * seconds, duration=seconds
                )
            pieces.append(Piece(part, row.id, group))
    return pieces


def _entry(row: Row, sensors: Sequence[str]) -> ManifestEntry:
    """Return a row as the line of a manifest, with the sensors of the network alone, for ``inspect`` to measure."""
    same = {column.name: getattr(row, column.name) for column in fields(ManifestEntry)}
    paths = {sensor: row.paths[sensor] for sensor in dict.fromkeys((*sensors, AIR))}
    return ManifestEntry(**{**same, "paths": paths, "sample_rate": None})


def _fault(line: Inspected) -> str | None:
    """Return the first reason for which a pair teaches nothing, or something wrong."""
    for check in (*FILES, *SIGNALS, *PAIRS):
        if check.severity is Severity.ERROR and not check.what.startswith(_TOLERATED):
            words = check.test(line)
            if words is not None:
                return f"{check.what}: {words}"
    return None


def _strangers(row: Row, sensors: Sequence[str], sample_rate: int) -> str | None:
    """Return why the sensors of a row do not belong to its air; None if they do."""
    reader = SensorReader(tuple(sensors), {}, sample_rate)
    item = reader.read(row, 0, reader.total(row), ("adapt", row.id), training=False)
    air = item["target"][0].numpy()
    for sensor, signal in zip(sensors, item["inputs"].numpy(), strict=True):
        if np.abs(signal - air).max() <= 1e-3 * np.abs(air).max():
            return f"{sensor} is a copy of air"
        if sensor != BODY and len(sensors) > 1:
            continue  # a microphone in noise, whose envelope may be that of the noise
        match, _ = envelope_match(signal, air, sample_rate)
        if match >= TOGETHER:
            continue
        later, offset = envelope_match(signal, air, sample_rate, _FAR)
        if later >= TOGETHER_LATER:
            return (
                f"{sensor} is {abs(offset):.2f} s {'later' if offset > 0 else 'earlier'} than air: cut both so that "
                "they start together"
            )
        return f"{sensor} and air are not one take: their envelopes correlate by {match:.2f}, below {TOGETHER:g}"
    return None


def _envelope(signal: np.ndarray, sample_rate: int) -> np.ndarray:
    size, hop = round(_FRAME_SECONDS * sample_rate), round(_HOP_SECONDS * sample_rate)
    if len(signal) < size:
        return np.zeros(0)
    frames = np.lib.stride_tricks.sliding_window_view(np.asarray(signal, dtype=np.float64), size)[::hop]
    powers = np.square(np.abs(np.fft.rfft(frames * np.hanning(size + 1)[:-1])))
    frequencies = np.fft.rfftfreq(size, 1.0 / sample_rate)
    band = powers[:, (frequencies >= _LOW_HZ) & (frequencies <= _HIGH_HZ)].sum(axis=1)
    levels = 10.0 * np.log10(band + 1e-20)
    limited: np.ndarray = np.maximum(levels, levels.max() - _RANGE_DB)
    return limited
