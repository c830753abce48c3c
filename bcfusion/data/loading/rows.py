"""Which utterances of a corpus are trained on, and whether those of a split fit the task."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence

from bcfusion.contracts import Row
from bcfusion.data.loading.reader import AIR, SensorReader
from bcfusion.errors import DataError

logger = logging.getLogger(__name__)

_SHOWN = 8  # names of speakers in a message


def spoken_by(speakers: Sequence[str], rows: Sequence[Row], corpus: str) -> list[Row]:
    """Return the training rows of some speakers.

    Args:
        speakers: their names.
        rows: all training rows.
        corpus: its name, for messages.

    Raises:
        DataError: a speaker is not in the corpus.
    """
    known = sorted({row.speaker for row in rows})
    unknown = [name for name in speakers if name not in known]
    if unknown:
        names = f"{', '.join(known[:_SHOWN])}{', ...' if len(known) > _SHOWN else ''}" or "none"
        raise DataError(
            f"data.speakers: {', '.join(unknown)} not among the {len(known)} training speakers of {corpus}: {names}"
        )
    return [row for row in rows if row.speaker in speakers]


def reaches(row: Row, min_bandwidth: float) -> bool:
    """Return whether the air of a row holds speech up to a frequency in Hz, or may do so: it was not measured."""
    return row.bandwidth is None or row.bandwidth >= min_bandwidth


def wide_enough(min_bandwidth: float, rows: Sequence[Row], corpus: str) -> list[Row]:
    """Return the training rows that are not known to be narrower; a warning says how many are left out.

    Args:
        min_bandwidth: Hz up to which air must hold speech.
        rows: all training rows.
        corpus: its name, for messages.

    Raises:
        DataError: none is left, or the bandwidth of none was measured.
    """
    kept = [row for row in rows if reaches(row, min_bandwidth)]
    unmeasured = sum(row.bandwidth is None for row in rows)
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


def rates(rows: Sequence[Row]) -> Counter[int]:
    """Return how many utterances have which sample rate of air, in Hz: that of their own files."""
    return Counter(row.sample_rate for row in rows)


def warn_of_low_rates(rows: Sequence[Row], split: str, sample_rate: int, corpus: str) -> None:
    """Warn of utterances whose files cannot hold what the task is about: nothing above half of their own rate.

    Resampled to the task's rate they are targets without a high band, from which bandwidth extension learns silence.

    Args:
        rows: of one split.
        split: its name, for the message.
        sample_rate: of the task, in Hz.
        corpus: its name, for the message.
    """
    low = {rate: count for rate, count in sorted(rates(rows).items()) if rate < sample_rate}
    if low:
        kinds = ", ".join(f"{count} of {rate} Hz" for rate, count in low.items())
        highest = max(low)
        logger.warning(
            f"{corpus}: {sum(low.values())} of {len(rows)} files of {split} are sampled below the task's {sample_rate} "
            f"Hz ({kinds}) and hold nothing above {highest / 2:g} Hz: a network learns silence there. Set "
            f"sample_rate={highest}, or use files of a higher rate"
        )


def check_rows(rows: Sequence[Row], split: str, reader: SensorReader, corpus: str) -> None:
    """Check that rows have the sensors and the sample rate of the task, and ids of their own; warn of low rates.

    Args:
        rows: of one split.
        split: its name, for messages.
        reader: knows the sensors, simulators and sample rate of the task.
        corpus: its name, for messages.

    Raises:
        DataError: a sensor is neither recorded nor simulated, there is no air, files have another rate while resampling
            is off, or two rows have one id.
    """
    known = {AIR, *reader.simulators}
    for sensor in reader.sensors:
        without = [row.id for row in rows if sensor not in row.paths and sensor not in known]
        if without:
            raise DataError(
                f"sensor {sensor!r}: {corpus} has no recording of it for {len(without)} of {len(rows)} utterances of "
                f"{split} (first: {without[0]}), and no degradation simulates it"
            )
    if without := [row.id for row in rows if AIR not in row.paths]:
        raise DataError(f"{corpus} has no clean air-conducted file for {len(without)} rows (first: {without[0]})")
    if not reader.resample:
        other = [row for row in rows if row.sample_rate != reader.sample_rate]
        if other:
            raise DataError(
                f"{other[0].paths[AIR]} has {other[0].sample_rate} Hz, the task {reader.sample_rate} Hz "
                f"({len(other)} of {len(rows)} files of {split}), and resampling is off: set data.resample=true or "
                "convert them"
            )
    warn_of_low_rates(rows, split, reader.sample_rate, corpus)
    seen: dict[str, Row] = {}
    for row in rows:
        if row.id in seen:
            raise DataError(
                f"{corpus}: {seen[row.id].paths[AIR]} and {row.paths[AIR]} have the same id {row.id!r}: rename one"
            )
        seen[row.id] = row
