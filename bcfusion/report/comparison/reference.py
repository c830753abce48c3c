"""The runs of a comparison against one of them: which share utterances with it, and by how much they differ."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from bcfusion.configuration.values import at
from bcfusion.errors import ConfigError
from bcfusion.evaluation.systems import ENHANCED
from bcfusion.report.comparison.compare import Comparison
from bcfusion.report.comparison.differences import Difference, common_utterances, differences, sentences
from bcfusion.report.comparison.inputs import other_inputs
from bcfusion.report.comparison.keys import text_of
from bcfusion.report.comparison.run import Run

__all__ = ["AgainstReference", "against_reference", "other_task", "place_of", "require_reference"]

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
        other_tasks: names of the runs that share utterances, but were given another task, with what differs.
        found: differences by the names of the runs that were compared.
    """

    comparison: Comparison
    reference: str
    comparable: tuple[str, ...]
    apart: tuple[int, ...]
    other_tasks: Mapping[str, str]
    found: Mapping[str, Sequence[Difference]]

    @cached_property
    def sentences(self) -> list[list[str]]:
        """For each of the first runs a line per metric."""
        return [sentences(found, name, self.reference) for name, found in list(self.found.items())[:IN_SENTENCES]]

    @property
    def apart_notes(self) -> list[str]:
        """The runs that cannot be compared to the reference, with the reason."""
        lines = [f"not compared to {self.reference}: {name} ({why})" for name, why in self.other_tasks.items()]
        ranks = ", ".join(map(str, self.apart))
        if ranks:
            lines.append(f"no utterance in common with {self.reference}, so not compared to it: {ranks}")
        return lines

    def lines(self) -> list[str]:
        """Return the differences as lines for a terminal."""
        lines = []
        if self.found:
            lines.append("\nOn the common utterances of the closing scores, with 95 % intervals:")
            lines += [f"  {line}" for texts in self.sentences for line in texts]
            if (more := len(self.comparable) - len(self.sentences)) > 0:
                lines.append(f"  {more} more in the tables that --output writes")
        return [*lines, *self.apart_notes]


def against_reference(comparison: Comparison, wanted: str | None, for_tables: bool) -> AgainstReference | None:
    """Compare runs to one of them, on the utterances that both closing evaluations scored.

    Args:
        comparison: the runs in their order.
        wanted: number in the tables, name or path of the reference; None, or a run of another recipe, for the first run
            with closing scores.
        for_tables: compare all runs; otherwise only those that are put into sentences.

    Returns:
        None if no run has closing scores.
    """
    place = None if wanted is None else place_of(comparison, wanted)
    if place is None:
        place = next((n for n, run in enumerate(comparison.runs) if ENHANCED in run.closing_scores), None)
    if place is None:
        return None
    reference = comparison.runs[place]
    scored = [(rank, name) for rank, name in enumerate(comparison.names) if rank != place]
    scored = [(rank, name) for rank, name in scored if comparison.runs[rank].closing_scores]
    shared = [name for rank, name in scored if common_utterances(comparison.runs[rank], reference)]
    others = {name: why for name in shared if (why := other_task(comparison.by_name[name], reference))}
    common = [name for name in shared if name not in others]
    draws = {"draws": _FEWER_DRAWS} if for_tables and len(common) > _MANY else {}
    found = {
        name: differences(comparison.by_name[name], reference, comparison.metrics, **draws)
        for name in (common if for_tables else common[:IN_SENTENCES])
    }
    return AgainstReference(
        comparison=comparison,
        reference=comparison.names[place],
        comparable=tuple(common),
        apart=tuple(comparison.before + rank + 1 for rank, name in scored if name not in shared),
        other_tasks=others,
        found={name: each for name, each in found.items() if each},
    )


def other_task(run: Run, reference: Run) -> str:
    """Return in a few words why two runs have different tasks: a better input is no merit of a network. Else empty."""
    for key in ("sample_rate", "task.sensors"):
        ours, theirs = (at(each.settings, key, None) for each in (run, reference))
        if None not in (ours, theirs) and ours != theirs:
            return f"its {key} is {text_of(ours)}, the other's {text_of(theirs)}"
    return other_inputs(run, reference)


def require_reference(comparisons: Sequence[Comparison], wanted: str | None) -> None:
    """Check that a number, name or path means a run of one of the tables.

    Raises:
        ConfigError: there is no such run.
    """
    if wanted is not None and all(place_of(comparison, wanted) is None for comparison in comparisons):
        raise ConfigError([f"--against {wanted}: no such run; give its number in the table, its name or its path"])


def place_of(comparison: Comparison, wanted: str) -> int | None:
    """Return the place in a table of the run that a number, name or path means; None if it is not there."""
    for place, (rank, name, run) in enumerate(comparison.ranked):
        if wanted in (str(rank), name) or Path(os.path.expanduser(wanted)).resolve() == run.path.resolve():
            return place
    return None
