"""Scores of held-out recordings over the number of steps, and how many steps they speak for."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import nn

from bcfusion.adaptation.folds import FOR_INTERVAL
from bcfusion.adaptation.pairs import Piece
from bcfusion.configuration.paths import conf_dir
from bcfusion.configuration.suggestions import read_yaml
from bcfusion.contracts import Metric
from bcfusion.data.loading.reader import SensorReader
from bcfusion.evaluation.evaluate import enhance_item, input_signals
from bcfusion.evaluation.pool import Scorer
from bcfusion.evaluation.statistics import PairedDifference, paired_difference
from bcfusion.evaluation.systems import ENHANCED, is_input
from bcfusion.metrics.pesq import Pesq, is_installed
from bcfusion.metrics.stoi import Stoi
from bcfusion.probe import evaluating
from bcfusion.training.selection import Selection

__all__ = ["Choice", "Curve", "HeldOut", "PieceScore", "choose", "metrics_for", "selection_for", "steps_to_score"]

Values = Mapping[str, float]
_WIDE_BAND = 16000  # Hz
_FIRST = 8  # steps, of the first score after the start
_NARROW_BEST = 4.55  # of PESQ in narrow band
_DEVIATIONS = 1.96  # half the width of a 95 % interval, in standard errors


def metrics_for(sample_rate: int) -> dict[str, Metric]:
    """Return STOI and PESQ, in wide band from 16 kHz on; STOI alone where the package ``pesq`` is not installed."""
    stoi: dict[str, Metric] = {"stoi": Stoi()}
    return {**stoi, "pesq": Pesq("wb" if sample_rate >= _WIDE_BAND else "nb")} if is_installed() else stoi


def selection_for(sample_rate: int) -> Selection:
    """Return the mean of STOI and PESQ, each scaled to 0..1: ``selection=pesq_stoi`` of a training.

    Where the package ``pesq`` is not installed, it is STOI alone.
    """
    criteria = read_yaml(conf_dir() / "selection" / "pesq_stoi.yaml")
    if not is_installed():
        return Selection({"stoi": criteria["stoi"]})
    if sample_rate < _WIDE_BAND:
        criteria = {"pesq_nb": {**criteria["pesq_wb"], "best": _NARROW_BEST}, "stoi": criteria["stoi"]}
    return Selection(criteria)


def steps_to_score(last: int) -> list[int]:
    """Return the numbers of steps that are scored: 8, and each time about the square root of 2 times as many.

    They do not depend on ``last``, except that it is the last one: a longer run scores the same ones and more.
    """
    steps: list[int] = []
    place = 0
    while (at := round(_FIRST * 2 ** (place / 2))) < last:
        steps.append(at)
        place += 1
    return [*steps, last]


@dataclass(frozen=True)
class PieceScore:
    """The values of one signal of a piece.

    Attributes:
        piece: id of its row.
        recording: that it is part of.
        system: whose signal it is, see :mod:`bcfusion.evaluation.systems`.
        step: number of steps of the network's training; 0: the start.
        values: by name, NaN if one could not be computed.
    """

    piece: str
    recording: str
    system: str
    step: int
    values: dict[str, float]


class HeldOut:
    """Scores held-out pieces, in this process.

    Args:
        reader: reads them.
        sample_rate: of the network, in Hz.

    Attributes:
        scores: all so far.
    """

    def __init__(self, reader: SensorReader, sample_rate: int) -> None:
        self._reader = reader
        self._scorer = Scorer(metrics_for(sample_rate), sample_rate, workers=0)
        self.scores: list[PieceScore] = []

    def score(self, network: nn.Module, pieces: Iterable[Piece], step: int) -> None:
        """Enhance pieces after ``step`` steps and score the result; at step 0 the input too."""
        recordings = {}
        for piece in pieces:
            row = piece.row
            item = self._reader.read(row, 0, self._reader.total(row), ("evaluation", row.id), training=False)
            with evaluating(network), torch.inference_mode():
                signals = {ENHANCED: enhance_item(network, item["inputs"])}
            if step == 0:
                signals |= input_signals(item["inputs"], item["length"], self._reader.sensors)
            recordings[row.id] = piece.recording
            self._scorer.submit(row.id, signals, item["target"][0].numpy())
        self.scores += [
            PieceScore(row.id, recordings[row.id], row.system, step, row.values) for row in self._scorer.collect().rows
        ]


@dataclass
class Curve:
    """Scores by recording: of the input, of the start, and of held-out recordings after numbers of steps.

    Attributes:
        fold: of each recording.
        input: values by recording; of several sensors those of the last one.
        steps: number of steps to values by recording; 0 is the start.
    """

    fold: dict[str, int] = field(default_factory=dict)
    input: dict[str, dict[str, float]] = field(default_factory=dict)
    steps: dict[int, dict[str, dict[str, float]]] = field(default_factory=dict)

    def add(self, scores: Iterable[PieceScore], fold: int) -> None:
        """Add the scores of a fold; a recording of several pieces gets their mean."""
        found: dict[tuple[str, int, str], list[dict[str, float]]] = {}
        for score in scores:
            found.setdefault((score.system, score.step, score.recording), []).append(score.values)
        given = {system for system, _, _ in found if is_input(system)}
        last = [system for system, _, _ in found if system in given][-1:]
        for (system, step, recording), values in found.items():
            mean = {name: sum(each[name] for each in values) / len(values) for name in values[0]}
            self.fold[recording] = fold
            if system == ENHANCED:
                self.steps.setdefault(step, {})[recording] = mean
            elif system in last:
                self.input[recording] = mean


@dataclass(frozen=True)
class Choice:
    """How many steps held-out recordings speak for.

    Attributes:
        steps: of each fold's training; 0: the start is kept.
        best: the steps with the best mean score, whether or not they are good enough.
        out_of_fold: values by recording after the steps that the OTHER folds choose, so that no recording takes part in
            any choice that concerns it; with a single fold, after the steps that it chooses itself.
        gains: of these over the start, by value name and ``score``.
        over_input: of these over the input.
        why: the reason, in words.
    """

    steps: int
    best: int
    out_of_fold: dict[str, dict[str, float]]
    gains: dict[str, PairedDifference]
    over_input: dict[str, PairedDifference]
    why: str

    @property
    def certain(self) -> bool:
        """Whether there are enough recordings for intervals."""
        return self.gains["score"].count >= FOR_INTERVAL


def choose(curve: Curve, selection: Selection, steps: Sequence[int], *, fresh: bool = False) -> Choice:
    """Choose the number of steps by the mean score of held-out recordings.

    The start is kept unless the gain is above 0, and from four recordings on above its standard error. A 95 % interval
    would be too much to ask for: with a dozen recordings it is as wide as a useful gain, and a start whose sensor was
    simulated from the same recordings is scored too well here.

    Args:
        curve: the scores.
        selection: makes one score of the values of a recording.
        steps: those that all folds have reached, without 0.
        fresh: the trainings began with random weights: the best of them is chosen, whether or not the start is better,
            which has seen other data.
    """
    grid = list(steps) if fresh else [0, *steps]
    scores = {  # an output that cannot be scored, such as silence, counts as worse than any
        name: {step: selection.score(curve.steps[step].get(name, {})) for step in [0, *steps]}
        for name in curve.fold
        if not selection.unusable(curve.input.get(name, {}))
    }
    folds = sorted({curve.fold[name] for name in scores})

    def best(names: Sequence[str]) -> int:
        means = {step: math.fsum(scores[name][step] for name in names) / len(names) for step in grid}
        return max(grid, key=lambda step: (means[step], -step))

    if not scores:
        none = paired_difference({}, {})
        return Choice(0, 0, {}, {"score": none}, {"score": none}, "no held-out recording could be scored")
    overall = best(list(scores))
    of_fold = {fold: best([name for name in scores if curve.fold[name] != fold] or list(scores)) for fold in folds}
    chosen = {name: of_fold[curve.fold[name]] for name in scores}
    out_of_fold = {name: curve.steps[step][name] for name, step in chosen.items()}
    scored = {name: scores[name][step] for name, step in chosen.items()}
    start = {name: curve.steps[0][name] for name in scores}
    gains = _gains(start, out_of_fold)
    gains["score"] = paired_difference({name: scores[name][0] for name in scores}, scored)
    given = {name: curve.input[name] for name in scores if name in curve.input}
    over_input = _gains(given, out_of_fold)
    over_input["score"] = paired_difference({name: selection.score(values) for name, values in given.items()}, scored)
    gain = gains["score"]
    error = (gain.high - gain.low) / (2 * _DEVIATIONS) if gain.count >= FOR_INTERVAL else 0.0
    enough = fresh or gain.mean > error
    if fresh:
        why = f"of the trainings from random weights, {overall} steps score best on held-out recordings"
    elif overall == 0:
        why = "no number of steps scores higher than the start on held-out recordings"
    elif not enough:
        bound = f", its standard error {error:.4f}" if gain.count >= FOR_INTERVAL else ""
        why = f"the gain of the score on held-out recordings is {gain.mean:+.4f}{bound}: not clearly above 0"
    else:
        why = f"{overall} steps score best on held-out recordings"
    return Choice(overall if enough else 0, overall, out_of_fold, gains, over_input, why)


def _gains(before: Mapping[str, Values], after: Mapping[str, Values]) -> dict[str, PairedDifference]:
    names = dict.fromkeys(name for values in after.values() for name in values)
    return {
        name: paired_difference(
            {item: values[name] for item, values in before.items()},
            {item: values[name] for item, values in after.items()},
        )
        for name in names
    }
