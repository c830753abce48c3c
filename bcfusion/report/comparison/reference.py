"""The runs of a comparison against one of them: which share utterances with it, and by how much they differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from bcfusion.errors import ConfigError
from bcfusion.report.comparison.compare import Comparison
from bcfusion.report.comparison.differences import Difference, common_utterances, differences, sentences
from bcfusion.report.comparison.inputs import other_inputs
from bcfusion.report.comparison.run import ENHANCED

__all__ = ["AgainstReference", "against_reference"]

IN_SENTENCES = 5  #: runs whose differences are put into sentences; tables hold all
_MANY, _FEWER_DRAWS = 20, 2000  # above this number of runs the bootstrap draws less often: hundreds take seconds


@dataclass(frozen=True)
class AgainstReference:
    """Differences of runs to a reference in the closing scores.

    Attributes:
        comparison: the runs in their order.
        reference: name of the run that the others are compared to.
        comparable: names of the runs that share utterances with the reference.
        apart: ranks, from 1, of the runs with closing scores that share none.
        found: differences by the names of the runs that were compared.
    """

    comparison: Comparison
    reference: str
    comparable: tuple[str, ...]
    apart: tuple[int, ...]
    found: Mapping[str, Sequence[Difference]]

    @cached_property
    def sentences(self) -> list[list[str]]:
        """For each of the first runs a line per metric, and one if its input was another."""
        runs = self.comparison.by_name
        texts = []
        for name, found in list(self.found.items())[:IN_SENTENCES]:
            lines = sentences(found, name, self.reference)
            if other := other_inputs(runs[name], runs[self.reference]):
                lines.append(f"(but {other})")
            texts.append(lines)
        return texts

    @property
    def apart_note(self) -> str:
        """The runs that cannot be compared to the reference, in a line; empty if all can."""
        ranks = ", ".join(map(str, self.apart))
        return f"no utterance in common with {self.reference}, so not compared to it: {ranks}" if ranks else ""

    def lines(self) -> list[str]:
        """Return the differences as lines for a terminal."""
        lines = []
        if self.found:
            lines.append("\nOn the common utterances of the closing scores, with 95 % intervals:")
            lines += [f"  {line}" for texts in self.sentences for line in texts]
            if (more := len(self.comparable) - len(self.sentences)) > 0:
                lines.append(f"  {more} more in the tables that --output writes")
        return [*lines, *filter(None, [self.apart_note])]


def against_reference(comparison: Comparison, wanted: str | None, for_tables: bool) -> AgainstReference | None:
    """Compare runs to one of them, on the utterances that both closing evaluations scored.

    Args:
        comparison: the runs in their order.
        wanted: number in the table, name or path of the reference; None for the first run with closing scores.
        for_tables: compare all runs; otherwise only those that are put into sentences.

    Returns:
        None if no run has closing scores.

    Raises:
        ConfigError: there is no such run.
    """
    place = _place(comparison, wanted)
    if place is None:
        return None
    reference = comparison.runs[place]
    scored = [(rank, name) for rank, name in enumerate(comparison.names) if rank != place]
    scored = [(rank, name) for rank, name in scored if comparison.runs[rank].closing_scores]
    common = [name for rank, name in scored if common_utterances(comparison.runs[rank], reference)]
    draws = {"draws": _FEWER_DRAWS} if for_tables and len(common) > _MANY else {}
    found = {
        name: differences(comparison.by_name[name], reference, comparison.metrics, **draws)
        for name in (common if for_tables else common[:IN_SENTENCES])
    }
    return AgainstReference(
        comparison=comparison,
        reference=comparison.names[place],
        comparable=tuple(common),
        apart=tuple(rank + 1 for rank, name in scored if name not in common),
        found={name: each for name, each in found.items() if each},
    )


def _place(comparison: Comparison, wanted: str | None) -> int | None:
    if wanted is None:
        return next((place for place, run in enumerate(comparison.runs) if ENHANCED in run.closing_scores), None)
    if wanted.isdigit() and 1 <= int(wanted) <= len(comparison.runs):
        return int(wanted) - 1
    for place, (name, run) in enumerate(comparison.by_name.items()):
        if wanted == name or Path(wanted).expanduser().resolve() == run.path.resolve():
            return place
    raise ConfigError([f"--against {wanted}: no such run; give its number in the table, its name or its path"])
