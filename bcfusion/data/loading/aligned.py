"""Whether body is read aligned with air: measured in a few recordings of a split before it is used."""

from __future__ import annotations

import logging
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from bcfusion.contracts import Corpus, Row
from bcfusion.data.corpora.table import chosen, columns_of
from bcfusion.data.inspect.alignment import MAX_LAG, SAME, Alignment, alignment
from bcfusion.data.inspect.certainty import all_believed, summary
from bcfusion.data.inspect.criteria import LAG_WARNING
from bcfusion.data.loading.reader import AIR, BODY, SensorReader
from bcfusion.data.loading.rows import spread
from bcfusion.errors import AudioError

__all__ = ["FILES", "Probe", "probe", "report"]

logger = logging.getLogger(__name__)

FILES = 6  #: recordings of a split that are measured
_SECONDS = 30.0  # of each of them


@dataclass(frozen=True)
class Probe:
    """Lag and polarity in a few recordings of a split.

    Attributes:
        split: its name.
        of: number of its recordings with body.
        rows: those that were measured.
        results: of the recordings themselves, for each of ``rows``; None: uncertain.
    """

    split: str
    of: int
    rows: Sequence[Row]
    results: Sequence[Alignment | None]

    @property
    def off(self) -> int:
        """How many recordings are read with another lag or polarity than what was measured."""
        return sum(
            found is not None and (found.polarity != row.polarity or abs(found.lag_seconds - row.lag) >= LAG_WARNING)
            for row, found in zip(self.rows, self.results, strict=True)
        )

    def __str__(self) -> str:
        otherwise = f"; {self.off} are read with another lag or polarity" if self.off else ""
        return f"{self.split}, {len(self.rows)} of {self.of} recordings: {summary(self.results, 'of them')}{otherwise}"


def probe(rows: Sequence[Row], split: str, reader: SensorReader) -> Probe:
    """Measure lag and polarity of body in at most :data:`FILES` recordings, evenly spread; unreadable ones are skipped.

    Args:
        rows: of the split.
        split: its name.
        reader: of the task.
    """
    columns = columns_of(rows)
    pairs = chosen(rows, columns.with_sensor(BODY) & columns.with_sensor(AIR))
    rate = reader.sample_rate
    bare = SensorReader((BODY,), {}, rate, reader.resample)
    measured, found = [], []
    for row in spread(pairs, FILES):
        try:
            item = bare.read(row, 0, min(bare.total(row), round(_SECONDS * rate)), ("probe",), training=False)
        except AudioError:
            continue  # whoever reads it next reports it
        rest = alignment(item["inputs"][0].numpy(), item["target"][0].numpy(), rate)
        measured.append(row)
        found.append(_as_recorded(rest, row, rate))
    return Probe(split, len(pairs), measured, all_believed(measured, found))


def _as_recorded(rest: Alignment, row: Row, rate: int) -> Alignment:
    """Return the alignment of the files: lag, to the nearest sample, and polarity of the row are undone when read."""
    return Alignment(
        round(row.lag * rate) / rate + rest.lag_seconds,
        row.polarity * rest.polarity,
        rest.confidence,
        tuple(_as_recorded(each, row, rate) for each in rest.known),
    )


def report(probes: Sequence[Probe], corpus: Corpus) -> None:
    """Log what was found; as a warning with what to type if body is not read as it was measured, or rarely certain.

    Args:
        probes: of the splits.
        corpus: tells what to type, if it has ``alignment_advice(lag, polarity)``.
    """
    lines = [f"  {each}" for each in probes if each.results]
    results = [found for each in probes for found in each.results]
    if not results:
        return
    sure = [found for found in results if found is not None]
    off = any(each.off for each in probes)
    if off:
        ways = getattr(corpus, "alignment_advice", lambda lag, polarity: ["correct lag and polarity of the rows"])
        lines += [f"  {way}" for way in ways(_common_lag(sure), _common_polarity(sure))]
    if 2 * len(sure) < len(results):
        lines.append(
            f"  uncertain: other takes than those of air, noise, or a lag above {MAX_LAG:g} s, which "
            "`bcfusion inspect MANIFEST --max-lag SECONDS` measures"
        )
    title = "lag and polarity of body against air, measured in some recordings:"
    logger.log(
        logging.WARNING if off or 2 * len(sure) < len(results) else logging.INFO, "%s", "\n".join([title, *lines])
    )


def _common_lag(found: Sequence[Alignment]) -> float | None:
    """Return the lag of all recordings in seconds, if it is the same to the precision of a session."""
    if not found:
        return None
    middle = statistics.median(each.lag_seconds for each in found)
    return middle if all(abs(each.lag_seconds - middle) <= SAME for each in found) else None


def _common_polarity(found: Sequence[Alignment]) -> int | None:
    signs = {each.polarity for each in found}
    return signs.pop() if len(signs) == 1 else None
