"""Differences of two runs in their closing scores, in pairs of utterances; as sentences, Markdown and CSV."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from bcfusion.evaluation.statistics import PairedDifference, paired_difference
from bcfusion.evaluation.systems import ENHANCED
from bcfusion.report.comparison.run import Run
from bcfusion.report.table import MISSING, heading, markdown_rows, metric_name, number

__all__ = [
    "Difference",
    "common_utterances",
    "differences",
    "differences_csv",
    "differences_markdown",
    "sentences",
]

Verdict = Literal["better", "worse", "no clear difference", "not compared"]


@dataclass(frozen=True)
class Difference:
    """One metric of a run against a reference.

    Attributes:
        metric: key of the metric.
        higher: whether higher is better.
        change: run minus reference, over the common utterances.
        mean: mean of the run over these utterances.
        reference_mean: mean of the reference over the same.
    """

    metric: str
    higher: bool
    change: PairedDifference
    mean: float
    reference_mean: float

    @property
    def verdict(self) -> Verdict:
        """Better or worse if the interval does not include 0; an interval takes at least two utterances."""
        if not math.isfinite(self.change.low):
            return "not compared"
        if self.change.low <= 0 <= self.change.high:
            return "no clear difference"
        return "better" if (self.change.low > 0) == self.higher else "worse"

    def sentence(self, run: str, reference: str) -> str:
        """Return ``B is better than A in STOI by 0.012 [0.008, 0.016]``, or a sentence that it is not clear.

        Only for a metric that was compared; :func:`sentences` covers the others.
        """
        name = metric_name(self.metric)
        unit = f" {name.unit}" if name.unit else ""
        low, high, mean = self.change.low, self.change.high, self.change.mean
        if self.verdict == "no clear difference":
            interval = f"{self._signed(mean)} [{self._signed(low)}, {self._signed(high)}]"
            return f"no clear difference between {run} and {reference} in {name.text}: {interval}{unit}"
        if mean < 0:
            low, high, mean = -high, -low, -mean
        least, middle, most = (number(self.metric, value, decimals=self._decimals()) for value in (low, mean, high))
        interval = f"{middle} [{least}, {most}]"
        return f"{run} is {self.verdict} than {reference} in {name.text} by {interval}{unit}"

    def cell(self) -> str:
        """Return ``+0.012 [+0.008, +0.016]`` for tables."""
        if self.verdict == "not compared":
            return self._signed(self.change.mean)
        return f"{self._signed(self.change.mean)} [{self._signed(self.change.low)}, {self._signed(self.change.high)}]"

    def _signed(self, value: float) -> str:
        return number(self.metric, value, "+", self._decimals())

    def _decimals(self) -> int:
        """Return the decimals of the metric, or more if a clear difference would be printed as none."""
        decimals = metric_name(self.metric).decimals
        if self.verdict not in ("better", "worse"):
            return decimals
        nearest = min(abs(self.change.low), abs(self.change.high))
        return max(decimals, math.ceil(-math.log10(nearest)))


def differences(run: Run, reference: Run, metrics: Sequence[str], draws: int = 10_000) -> list[Difference]:
    """Compare two runs in the metrics that have a direction and that both closing evaluations computed.

    Args:
        run: the run to compare.
        reference: the run to compare it with.
        metrics: keys, in the order of the result.
        draws: number of resamplings of the bootstrap.
    """
    before, after = reference.closing_scores.get(ENHANCED), run.closing_scores.get(ENHANCED)
    if before is None or after is None:
        return []
    directions = {**reference.higher_is_better, **run.higher_is_better}
    found = []
    for metric in metrics:
        higher = directions.get(metric)
        if higher is None or metric not in before.metrics or metric not in after.metrics:
            continue
        a, b = before.metrics[metric], after.metrics[metric]
        common = a.keys() & b.keys()
        means = [sum(side[item] for item in common) / len(common) if common else math.nan for side in (b, a)]
        found.append(Difference(metric, higher, paired_difference(a, b, draws=draws), *means))
    return found


def common_utterances(run: Run, reference: Run) -> int:
    """Count the utterances that both closing evaluations scored, in any metric."""
    systems = (each.closing_scores.get(ENHANCED) for each in (run, reference))
    ours, theirs = (set().union(*scored.metrics.values()) if scored is not None else set() for scored in systems)
    return len(ours & theirs)


def sentences(found: Sequence[Difference], run: str, reference: str) -> list[str]:
    """Return a line for each metric; metrics with too few common utterances share one.

    Args:
        found: differences of one run.
        run: its name.
        reference: name of the run that it is compared to.
    """
    lines = [each.sentence(run, reference) for each in found if each.verdict != "not compared"]
    lacking: dict[int, list[str]] = {}
    for each in found:
        if each.verdict == "not compared":
            lacking.setdefault(each.change.count, []).append(metric_name(each.metric).text)
    return lines + [_too_few(run, reference, count, ", ".join(names)) for count, names in lacking.items()]


def differences_markdown(found: Mapping[str, Sequence[Difference]], reference: str) -> str:
    """Return a Markdown table: a row for each run, a column for each metric; clear differences are bold.

    Args:
        found: differences by the names of the runs.
        reference: name of the run that they are compared to.

    Returns:
        The table without a newline at the end; empty if nothing was compared.
    """
    every = [each for row in found.values() for each in row]
    heads = {each.metric: heading(each.metric, each.higher) for each in every}
    if not heads:
        return ""
    means = {each.metric: number(each.metric, each.reference_mean) for each in every}
    lines = [
        ["", "n", *heads.values()],
        ["---", "---:", *("---:" for _ in heads)],
        [reference, "", *(means[metric] for metric in heads)],
    ]
    for name, row in found.items():
        by_metric = {each.metric: each for each in row}
        counts = sorted({each.change.count for each in row})
        cells = [
            MISSING if each is None else f"**{each.cell()}**" if each.verdict in ("better", "worse") else each.cell()
            for each in map(by_metric.get, heads)
        ]
        lines.append([name, " to ".join(str(count) for count in dict.fromkeys(counts[:1] + counts[-1:])), *cells])
    return markdown_rows(lines)


def differences_csv(tables: Mapping[str, tuple[str, Mapping[str, Sequence[Difference]]]]) -> str:
    """Return the same in full precision for other programs: a line for each run and metric.

    Args:
        tables: for each recipe the name of the reference, and the differences by the names of the runs.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    heads = ("mean", "reference_mean", "difference", "low", "high", "utterances", "verdict")
    writer.writerow(["recipe", "run", "reference", "metric", *heads])
    for recipe, (reference, found) in tables.items():
        for name, each in ((name, each) for name, row in found.items() for each in row):
            change = each.change
            values = (each.mean, each.reference_mean, change.mean, change.low, change.high)
            numbers = ["" if math.isnan(value) else value for value in values]
            writer.writerow([recipe, name, reference, each.metric, *numbers, change.count, each.verdict])
    return text.getvalue()


def _too_few(run: str, reference: str, count: int, metrics: str) -> str:
    utterances = "1 utterance" if count == 1 else f"{count or 'no'} utterances"
    return f"{run} and {reference} have {utterances} with {metrics} in common: too few"
