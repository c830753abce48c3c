"""Which utterances of a corpus are trained on, and whether those of a split fit the task."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np

from bcfusion.contracts import Corpus, Row
from bcfusion.data.corpora.speakers import speakers_text
from bcfusion.data.corpora.table import chosen, columns_of
from bcfusion.data.loading.reader import AIR, SensorReader
from bcfusion.errors import DataError

logger = logging.getLogger(__name__)

_SHOWN = 8  # names of speakers in a message


def spoken_by(speakers: Sequence[str], rows: Sequence[Row], corpus: str) -> Sequence[Row]:
    """Return the training rows of some speakers.

    Args:
        speakers: their names.
        rows: all training rows.
        corpus: its name, for messages.

    Raises:
        DataError: a speaker is not in the corpus.
    """
    columns = columns_of(rows)
    known = columns.speaker_names()
    unknown = [name for name in speakers if name not in known]
    if unknown:
        names = f"{', '.join(known[:_SHOWN])}{', ...' if len(known) > _SHOWN else ''}" or "none"
        raise DataError(
            f"data.speakers: {', '.join(unknown)} not among the {len(known)} training speakers of {corpus}: {names}"
        )
    return chosen(rows, np.isin(columns.speaker, [columns.speakers.index(name) for name in speakers]))


def reaches(row: Row, min_bandwidth: float) -> bool:
    """Return whether the air of a row holds speech up to a frequency in Hz, or may do so: it was not measured."""
    return row.bandwidth is None or row.bandwidth >= min_bandwidth


def wide_enough(min_bandwidth: float, rows: Sequence[Row], corpus: str) -> Sequence[Row]:
    """Return the training rows that are not known to be narrower; a warning says how many are left out.

    Args:
        min_bandwidth: Hz up to which air must hold speech.
        rows: all training rows.
        corpus: its name, for messages.

    Raises:
        DataError: none is left, or the bandwidth of none was measured.
    """
    bandwidth = columns_of(rows).bandwidth
    unknown = np.isnan(bandwidth)
    kept = chosen(rows, unknown | (bandwidth >= min_bandwidth))
    unmeasured = int(unknown.sum())
    if rows and unmeasured == len(rows):
        raise DataError(
            f"data.min_bandwidth: no training utterance of {corpus} has a measured bandwidth: give a manifest with the "
            "column bandwidth, as `bcfusion prepare --measure` writes it, or null"
        )
    if rows and not kept:
        raise DataError(
            f"data.min_bandwidth: all {len(rows)} training utterances of {corpus} hold speech up to less than "
            f"{min_bandwidth:g} Hz"
        )
    if len(kept) < len(rows) or unmeasured:
        logger.warning(
            "data.min_bandwidth: %d of %d training utterances hold speech up to less than %g Hz and are left out; "
            "%d have no measured bandwidth and stay",
            len(rows) - len(kept),
            len(rows),
            min_bandwidth,
            unmeasured,
        )
    return kept


def require_rows(rows: Sequence[Row], split: str, corpus: Corpus) -> None:
    """Check that a split has rows.

    Raises:
        DataError: it has none.
    """
    if not rows:
        place = next((f" of {getattr(corpus, key)}" for key in ("path", "root") if hasattr(corpus, key)), "")
        raise DataError(
            f"{type(corpus).__name__}{place} has no utterances for the split {split!r}: add some, or choose another "
            "corpus with data=..."
        )


def seconds_of(rows: Sequence[Row]) -> float:
    """Return the duration of all rows together, in seconds."""
    return float(sum(columns_of(rows).duration.tolist()))


def amount(rows: Sequence[Row]) -> str:
    """Return how much there is in the rows of a split: files, speakers and duration."""
    seconds = seconds_of(rows)
    duration = f"{seconds / 3600:.1f} h" if seconds >= 3600 else f"{seconds / 60:.1f} min"
    return f"{len(rows)} file{'s' * (len(rows) != 1)}, {speakers_text(columns_of(rows).speaker_names())}, {duration}"


def rates_of(rows: Sequence[Row]) -> str:
    """Return the sample rates of the rows' files for a message: ``16000 Hz``, or ``16000 Hz (8), 48000 Hz (2)``."""
    rates, numbers = np.unique(columns_of(rows).sample_rate, return_counts=True)
    counts = list(zip(rates.tolist(), numbers.tolist(), strict=True))
    if len(counts) == 1:
        return f"{counts[0][0]} Hz"
    return ", ".join(f"{rate} Hz ({number})" for rate, number in counts) or "none"


def warn_of_lower_rates(rows: Sequence[Row], split: str, sample_rate: int) -> bool:
    """Warn if files were recorded at a lower rate than the task's; return whether there are any.

    Args:
        rows: of one split.
        split: its name, for the message.
        sample_rate: of the task, in Hz.
    """
    rates = columns_of(rows).sample_rate
    lower = chosen(rows, rates < sample_rate)
    if lower:
        highest = int(rates[rates < sample_rate].max())
        text = (
            f"sample_rate={sample_rate}: {len(lower)} of {len(rows)} {split} files have a lower sample rate, "
            f"{rates_of(lower)}: resampled, their targets are empty above {highest / 2:g} Hz, and so is what a network "
            f"learns to put there; sample_rate={highest} fits them"
        )
        logger.warning(text)
    return bool(lower)


def warn_of_recorded_ratio(rows: Sequence[Row], split: str, reader: SensorReader) -> None:
    """Warn if the noise ratio of an evaluation is set for a sensor that was recorded: nothing simulates it there."""
    for sensor, simulator in reader.simulators.items():
        ratio = getattr(simulator, "evaluation_snr", None)
        count = int(columns_of(rows).with_sensor(sensor).sum()) if ratio is not None else 0
        if count:
            logger.warning(
                f"degradation.{sensor}.evaluation_snr={ratio:g} has no effect on {count} of {len(rows)} {split} "
                f"utterances, whose {sensor} was recorded"
            )


def warn_of_padding(rows: Sequence[Row], segment_seconds: float) -> None:
    """Warn if the training crops are more than twice as long as the longest file."""
    longest = float(columns_of(rows).duration.max())
    if longest < 0.5 * segment_seconds:
        logger.warning(
            "data.segment_seconds=%g: the longest training file has %.3g s; the rest of each crop is padding",
            segment_seconds,
            longest,
        )


def check_rows(rows: Sequence[Row], split: str, reader: SensorReader, corpus: str) -> None:
    """Check that rows have the sensors and the sample rate of the task, and ids of their own.

    Args:
        rows: of one split.
        split: its name, for messages.
        reader: knows the sensors, simulators and sample rate of the task.
        corpus: its name, for messages.

    Raises:
        DataError: a sensor is neither recorded nor simulated, there is no air, files have another rate while resampling
            is off, or two rows have one id.
    """
    columns = columns_of(rows)
    known = {AIR, *reader.simulators}
    for sensor in reader.sensors:
        without = np.flatnonzero(~columns.with_sensor(sensor))
        if len(without) and sensor not in known:
            raise DataError(
                f"sensor {sensor!r}: {corpus} has no recording of it for {len(without)} of {len(rows)} utterances of "
                f"{split} (first: {rows[int(without[0])].id}), and no degradation simulates it"
            )
    if len(without := np.flatnonzero(~columns.with_sensor(AIR))):
        first = rows[int(without[0])].id
        raise DataError(f"{corpus} has no clean air-conducted file for {len(without)} rows (first: {first})")
    if not reader.resample:
        other = np.flatnonzero(columns.sample_rate != reader.sample_rate)
        if len(other):
            row = rows[int(other[0])]
            raise DataError(
                f"{row.paths[AIR]} has {row.sample_rate} Hz, the task {reader.sample_rate} Hz "
                f"({len(other)} of {len(rows)} files of {split}), and resampling is off: set data.resample=true or "
                "convert them"
            )
    if columns.distinct:
        return
    seen: dict[str, Row] = {}
    for row in rows:
        if row.id in seen:
            raise DataError(
                f"{corpus}: {seen[row.id].paths[AIR]} and {row.paths[AIR]} have the same id {row.id!r}: rename one"
            )
        seen[row.id] = row


def spread(rows: Sequence[Row], limit: int | None) -> Sequence[Row]:
    """Return at most ``limit`` rows, evenly spread, since neighbours are often of one speaker."""
    if limit is None or limit >= len(rows):
        return rows
    return chosen(rows, np.arange(limit, dtype=np.int64) * len(rows) // limit)
