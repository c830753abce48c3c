"""Analysis of blind ratings: means with intervals and paired tests of MUSHRA scores, preferences of A/B trials."""

from __future__ import annotations

import itertools
import math
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import scipy.stats

from bcfusion.errors import DataError
from bcfusion.evaluation.statistics import bootstrap_interval
from bcfusion.report.listening.ratings import Session, Trial
from bcfusion.report.table import markdown_rows

__all__ = ["Analysis", "Preference", "SliderMean", "SliderTest", "analyse"]

REFERENCE_LEAST, REFERENCE_SHARE = 90.0, 0.15  # ITU-R BS.1534-3, 4.1.2


@dataclass(frozen=True)
class SliderMean:
    """MUSHRA scores of one system; ``low`` and ``high`` are the 95 % interval of the mean."""

    system: str
    count: int
    mean: float
    low: float
    high: float
    median: float


@dataclass(frozen=True)
class SliderTest:
    """Difference ``second - first`` of two systems in the same trials.

    ``low`` and ``high`` are the 95 % interval of the mean; ``p`` is corrected by Holm's method.
    """

    first: str
    second: str
    count: int
    mean: float
    low: float
    high: float
    p: float


@dataclass(frozen=True)
class Preference:
    """A/B trials of two systems: how often each was preferred, and how often neither.

    ``share`` is the share of decided trials in which the second was preferred, ``low`` and ``high`` its 95 % interval;
    ``p`` is corrected by Holm's method.
    """

    first: str
    second: str
    first_better: int
    second_better: int
    equal: int
    share: float
    low: float
    high: float
    p: float


@dataclass(frozen=True)
class Analysis:
    """Results of all ratings.

    Attributes:
        listeners: names of the listeners whose ratings count.
        screened: listeners who were left out, with the reason.
        means: scores of each system, the best first.
        tests: differences of each pair of systems.
        preferences: A/B trials of each pair of systems.
        pages: number of pages that were rated.
    """

    listeners: tuple[str, ...]
    screened: tuple[str, ...]
    means: tuple[SliderMean, ...]
    tests: tuple[SliderTest, ...]
    preferences: tuple[Preference, ...]
    pages: int

    def markdown(self) -> str:
        """Return the tables as GitHub's Markdown, without a newline at the end."""
        parts = [
            f"{len(self.listeners)} listener{'s' * (len(self.listeners) != 1)}: {_cell(', '.join(self.listeners))}"
        ]
        parts += [f"Left out: {_cell(line)}" for line in self.screened]
        if self.pages > 1:
            parts.append(f"The ratings are of {self.pages} pages; systems of the same name are taken to be the same.")
        if self.means:
            rows = [
                (one.system, str(one.count), f"{one.mean:.1f} {_interval(one.low, one.high)}", f"{one.median:.1f}")
                for one in self.means
            ]
            parts.append(_table("MUSHRA", ("system", "ratings", "mean [95 %]", "median"), rows))
        if self.tests:
            rows = [
                (
                    f"{one.second} over {one.first}",
                    str(one.count),
                    f"{one.mean:+.1f} {_interval(one.low, one.high)}",
                    _p(one.p),
                )
                for one in self.tests
            ]
            parts.append(
                _table(
                    "Differences in the same trials (Wilcoxon signed-rank, Holm)",
                    ("systems", "trials", "mean [95 %]", "p"),
                    rows,
                )
            )
        if self.preferences:
            rows_of_pairs = [
                (
                    one.first,
                    one.second,
                    f"{one.first_better} : {one.second_better}",
                    str(one.equal),
                    f"{100 * one.share:.0f} % {_interval(100 * one.low, 100 * one.high, 0)}",
                    _p(one.p),
                )
                for one in self.preferences
            ]
            heads = ("first", "second", "first : second", "equal", "second preferred [95 %]", "p")
            parts.append(_table("Preference (exact sign test, Holm; ties left out)", heads, rows_of_pairs))
        parts.append(
            "Intervals and p treat all ratings as independent. Ratings by one listener or of one utterance are not, so "
            "with few listeners or few utterances they are too optimistic."
        )
        return "\n\n".join(parts)


def analyse(sessions: Sequence[Session], screening: bool = True) -> Analysis:
    """Compute means, paired tests and preferences over all trials.

    Means have percentile bootstrap intervals over the ratings. Two systems are compared within the trials that have
    both, by Wilcoxon's signed-rank test; A/B trials by the exact sign test, with Wilson's interval. Both have Holm's
    correction over all pairs. A session given twice (as JSON and CSV, or saved again after more trials) counts once; of
    a repeated trial the last rating counts.

    Args:
        sessions: in the order in which they were saved.
        screening: whether to leave out of the MUSHRA results a listener who rates the hidden reference under 90 in more
            than 15 % of the trials (ITU-R BS.1534-3, 4.1.2).

    Raises:
        DataError: nothing was rated.
    """
    trials: dict[str, dict[tuple[str, frozenset[str] | None], Trial]] = {}
    names: dict[str, str] = {}
    for session in sessions:
        names[session.key] = session.name
        for trial in session.trials:
            pair = frozenset(trial.pair) if trial.pair else None
            trials.setdefault(session.key, {})[trial.utterance, pair] = trial
    if not trials:
        raise DataError("the files hold no rating")
    screened = {}
    for key, rated in trials.items():
        references = [trial.scores[trial.reference] for trial in rated.values() if trial.reference]
        low = sum(score < REFERENCE_LEAST for score in references)
        if screening and references and low > REFERENCE_SHARE * len(references):
            screened[key] = (
                f"{names[key]}, who rated the hidden reference under 90 in {low} of {len(references)} trials"
            )
    sliders = [
        trial.scores for key, rated in trials.items() if key not in screened for trial in rated.values() if trial.scores
    ]
    pairs = [trial for rated in trials.values() for trial in rated.values() if trial.pair]
    return Analysis(
        listeners=tuple(
            names[key] for key in trials if key not in screened or any(t.pair for t in trials[key].values())
        ),
        screened=tuple(f"from MUSHRA: {reason}" for reason in screened.values()),
        means=_means(sliders),
        tests=_slider_tests(sliders),
        preferences=_preferences(pairs),
        pages=len({session.page for session in sessions}),
    )


def _means(trials: Sequence[Mapping[str, float]]) -> tuple[SliderMean, ...]:
    """Return the mean of each system, the best first."""
    scores: dict[str, list[float]] = defaultdict(list)
    for trial in trials:
        for system, score in trial.items():
            scores[system].append(score)
    means = [
        SliderMean(system, len(values), float(np.mean(values)), *bootstrap_interval(values), float(np.median(values)))
        for system, values in scores.items()
    ]
    return tuple(sorted(means, key=lambda one: -one.mean))


def _slider_tests(trials: Sequence[Mapping[str, float]]) -> tuple[SliderTest, ...]:
    order = [one.system for one in _means(trials)][::-1]  # so that most differences are positive
    tests = []
    for first, second in itertools.combinations(order, 2):
        differences = np.array([trial[second] - trial[first] for trial in trials if {first, second} <= trial.keys()])
        if len(differences):
            p = float(scipy.stats.wilcoxon(differences).pvalue) if differences.any() else 1.0
            interval = bootstrap_interval(differences)
            tests.append(SliderTest(first, second, len(differences), float(differences.mean()), *interval, p))
    adjusted = _holm([test.p for test in tests])
    return tuple(replace(test, p=p) for test, p in zip(tests, adjusted, strict=True))


def _preferences(trials: Sequence[Trial]) -> tuple[Preference, ...]:
    by_pair: dict[tuple[str, str], list[str]] = defaultdict(list)
    for trial in trials:
        assert trial.pair is not None
        one, other = sorted(trial.pair)
        by_pair[one, other].append(trial.preferred)
    found = []
    for (first, second), preferred in by_pair.items():
        better, equal = (preferred.count(first), preferred.count(second)), preferred.count("")
        if decided := sum(better):
            test = scipy.stats.binomtest(better[1], decided, 0.5)
            interval = test.proportion_ci(0.95, method="wilson")
            numbers = (better[1] / decided, float(interval.low), float(interval.high), float(test.pvalue))
        else:
            numbers = (math.nan, math.nan, math.nan, 1.0)
        found.append(Preference(first, second, *better, equal, *numbers))
    adjusted = _holm([one.p for one in found])
    return tuple(replace(one, p=p) for one, p in zip(found, adjusted, strict=True))


def _holm(values: Sequence[float]) -> list[float]:
    """Apply Holm's correction (1979): the chance of any false alarm among all tests stays within the level."""
    adjusted = [1.0] * len(values)
    largest = 0.0
    for rank, place in enumerate(sorted(range(len(values)), key=lambda place: values[place])):
        largest = max(largest, min(1.0, (len(values) - rank) * values[place]))
        adjusted[place] = largest
    return adjusted


def _table(title: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---", *("---:" for _ in heads[1:])], *([_cell(cell) for cell in row] for row in rows)]
    return f"**{title}**\n\n{markdown_rows(lines)}"


def _cell(text: str) -> str:
    return re.sub("<(?=[^ ])", "&lt;", text.replace("\n", " "))  # a tag never opens with a space


def _interval(low: float, high: float, decimals: int = 1) -> str:
    return "" if math.isnan(low) else f"[{low:.{decimals}f}, {high:.{decimals}f}]"


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"
