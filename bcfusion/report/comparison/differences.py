"""What the closing scores of two runs say of each other: differences in pairs of utterances, in a sentence each."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from bcfusion.evaluation.statistics import PairedDifference, paired_difference
from bcfusion.report.comparison.run import ENHANCED, Run
from bcfusion.report.table import MISSING, heading, metric_name, number

__all__ = [
    "Difference",
    "common_utterances",
    "differences",
    "differences_csv",
    "differences_markdown",
    "other_inputs",
    "sentences",
]

Verdict = Literal["better", "worse", "no clear difference", "not compared"]


@dataclass(frozen=True)
class Difference:
    """One metric of a run against a reference.

    Attributes:
        metric: its key. higher: whether higher is better. change: run minus reference, over common utterances.
        mean, reference_mean: of the run and of the reference over these utterances.
    """

    metric: str
    higher: bool
    change: PairedDifference
    mean: float
    reference_mean: float

    @property
    def verdict(self) -> Verdict:
        """Better or worse where the interval does not hold 0; two utterances are the fewest with an interval."""
        if not math.isfinite(self.change.low):
            return "not compared"
        if self.change.low <= 0 <= self.change.high:
            return "no clear difference"
        return "better" if (self.change.low > 0) == self.higher else "worse"

    def sentence(self, run: str, reference: str) -> str:
        """``B is better than A in STOI by 0.012 [0.008, 0.016]``, and what is to be said where it is not so clear."""
        name = metric_name(self.metric)
        unit = f" {name.unit}" if name.unit else ""
        low, high, mean = self.change.low, self.change.high, self.change.mean
        if self.verdict == "not compared":
            return _too_few(run, reference, self.change.count, name.text)
        if self.verdict == "no clear difference":
            interval = f"{self._signed(mean)} [{self._signed(low)}, {self._signed(high)}]"
            return f"no clear difference between {run} and {reference} in {name.text}: {interval}{unit}"
        if mean < 0:
            low, high, mean = -high, -low, -mean
        least, middle, most = (number(self.metric, value, decimals=self._decimals()) for value in (low, mean, high))
        interval = f"{middle} [{least}, {most}]"
        return f"{run} is {self.verdict} than {reference} in {name.text} by {interval}{unit}"

    def cell(self) -> str:
        """``+0.012 [+0.008, +0.016]`` for tables."""
        if self.verdict == "not compared":
            return self._signed(self.change.mean)
        return f"{self._signed(self.change.mean)} [{self._signed(self.change.low)}, {self._signed(self.change.high)}]"

    def _signed(self, value: float) -> str:
        return number(self.metric, value, "+", self._decimals())

    def _decimals(self) -> int:
        """As many as the metric has, or more where a clear difference would be printed as none."""
        decimals = metric_name(self.metric).decimals
        if self.verdict not in ("better", "worse"):
            return decimals
        nearest = min(abs(self.change.low), abs(self.change.high))
        return max(decimals, math.ceil(-math.log10(nearest)))


def differences(run: Run, reference: Run, metrics: Sequence[str], draws: int = 10_000) -> list[Difference]:
    """Differences of two runs in the metrics that have a direction and that both closing evaluations computed.

    Args:
        run: that is compared. reference: with which. metrics: keys, in the order of the answer.
        draws: of the bootstrap.
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
        of = [sum(side[item] for item in common) / len(common) if common else math.nan for side in (b, a)]
        found.append(Difference(metric, higher, paired_difference(a, b, draws=draws), *of))
    return found


def common_utterances(run: Run, reference: Run) -> int:
    """Utterances that both closing evaluations scored, whatever the metric."""
    systems = (each.closing_scores.get(ENHANCED) for each in (run, reference))
    ours, theirs = (set().union(*scored.metrics.values()) if scored is not None else set() for scored in systems)
    return len(ours & theirs)


def sentences(found: Sequence[Difference], run: str, reference: str) -> list[str]:
    """A line for each metric; metrics of which too few utterances are common share one.

    Args:
        found: of one run. run, reference: their names.
    """
    lines = [each.sentence(run, reference) for each in found if each.verdict != "not compared"]
    lacking: dict[int, list[str]] = {}
    for each in found:
        if each.verdict == "not compared":
            lacking.setdefault(each.change.count, []).append(metric_name(each.metric).text)
    return lines + [_too_few(run, reference, count, ", ".join(names)) for count, names in lacking.items()]


def other_inputs(run: Run, reference: Run) -> str:
    """How the inputs of two runs differ on their common utterances, in a few words; empty where they are the same.

    Whoever restores a better signal has better scores, which is no merit of the network.
    """
    ours = {name for name in run.closing_scores if name != ENHANCED}
    theirs = {name for name in reference.closing_scores if name != ENHANCED}
    if not ours or not theirs:
        return ""
    if ours != theirs:
        return f"it hears {', '.join(sorted(ours))}, the other one {', '.join(sorted(theirs))}"
    for name in sorted(ours):
        one, two = run.closing_scores[name].metrics, reference.closing_scores[name].metrics
        for metric in one:
            if metric not in two or metric_name(metric).unit == "ms":
                continue
            common = one[metric].keys() & two[metric].keys()
            if any(not math.isclose(one[metric][i], two[metric][i], rel_tol=1e-3, abs_tol=1e-3) for i in common):
                means = [number(metric, sum(side[metric][i] for i in common) / len(common)) for side in (one, two)]
                return f"its {name} is another one: {metric_name(metric).text} {means[0]} against {means[1]}"
    return ""


def differences_markdown(found: Mapping[str, Sequence[Difference]], reference: str) -> str:
    """A table in GitHub's Markdown: a row for each run, a column for each metric; bold where the difference is clear.

    Args:
        found: by the names of the runs. reference: name of the run that they are compared to.

    Returns:
        Without a newline at its end; empty where nothing was compared.
    """
    heads = {each.metric: heading(each.metric, each.higher) for of in found.values() for each in of}
    if not heads:
        return ""
    means = {each.metric: number(each.metric, each.reference_mean) for of in found.values() for each in of}
    lines = [
        ["", "n", *heads.values()],
        ["---", "---:", *("---:" for _ in heads)],
        [_escaped(reference), "", *(means[metric] for metric in heads)],
    ]
    for name, of in found.items():
        by_metric = {each.metric: each for each in of}
        counts = sorted({each.change.count for each in of})
        cells = [
            MISSING if each is None else f"**{each.cell()}**" if each.verdict in ("better", "worse") else each.cell()
            for each in map(by_metric.get, heads)
        ]
        lines.append(
            [_escaped(name), " to ".join(str(count) for count in dict.fromkeys(counts[:1] + counts[-1:])), *cells]
        )
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def differences_csv(found: Mapping[str, Sequence[Difference]], reference: str) -> str:
    """The same in full for other programs: a line for each run and metric."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    heads = ("mean", "reference_mean", "difference", "low", "high", "utterances", "verdict")
    writer.writerow(["run", "reference", "metric", *heads])
    for name, of in found.items():
        for each in of:
            change = each.change
            values = (each.mean, each.reference_mean, change.mean, change.low, change.high)
            numbers = ["" if math.isnan(value) else value for value in values]
            writer.writerow([name, reference, each.metric, *numbers, change.count, each.verdict])
    return text.getvalue()


def _escaped(name: str) -> str:
    return name.replace("|", r"\|")


def _too_few(run: str, reference: str, count: int, metrics: str) -> str:
    utterances = "1 utterance" if count == 1 else f"{count or 'no'} utterances"
    return f"{run} and {reference} have {utterances} with {metrics} in common: too few"
