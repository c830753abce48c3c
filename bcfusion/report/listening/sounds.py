"""Sounds to listen to: the samples that runs wrote, with their scores, joined by utterance."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from bcfusion import audio
from bcfusion.errors import AudioError, DataError
from bcfusion.evaluation.sample_files import parse
from bcfusion.evaluation.systems import ENHANCED, TARGET
from bcfusion.report.comparison.run_files import ScoreTable, read_scores
from bcfusion.run.layout import RunDir

__all__ = ["Sound", "Source", "Take", "Utterance", "common_items", "join", "read_samples"]

Kind = Literal["input", "run", "target", "anchor"]

_ALIKE = 0.999  # correlation above which two signals are equal up to rounding and a common gain


@dataclass(frozen=True)
class Take:
    """One utterance of one run.

    Attributes:
        signals: inputs, ``enhanced`` and ``target`` by name, each ``(T,)``.
        sample_rate: in Hz.
        scores: metric to score by system; the target has none.
    """

    signals: Mapping[str, np.ndarray]
    sample_rate: int
    scores: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Source:
    """The sounds of one run.

    Attributes:
        name: unique name of the run.
        takes: utterances by their ids.
        higher_is_better: direction of the metrics, None for information only.
        problems: why utterances of the run were left out.
    """

    name: str
    takes: Mapping[str, Take]
    higher_is_better: Mapping[str, bool | None] = field(default_factory=dict)
    problems: tuple[str, ...] = ()


@dataclass(frozen=True)
class Sound:
    """One sound of an utterance.

    Attributes:
        name: the name that is shown.
        kind: what the sound is.
        signal: ``(T,)``.
        scores: metric to score; empty for a target or an anchor.
    """

    name: str
    kind: Kind
    signal: np.ndarray
    scores: Mapping[str, float]


@dataclass(frozen=True)
class Utterance:
    """All sounds of an utterance.

    Attributes:
        id: the utterance's id.
        sample_rate: in Hz.
        sounds: inputs, runs in their order, target.
    """

    id: str
    sample_rate: int
    sounds: tuple[Sound, ...]


def read_samples(name: str, folders: Iterable[Path]) -> Source:
    """Read the sounds that a run wrote, with their scores.

    An utterance with a sound that cannot be read is left out.

    Args:
        name: name of the source.
        folders: run directories and evaluations, each with ``samples/`` and perhaps with scores. If several hold an
            utterance, the first is used.

    Raises:
        DataError: a table of scores is damaged.
    """
    takes: dict[str, Take] = {}
    higher: dict[str, bool | None] = {}
    problems = []
    for folder in folders:
        table = _score_table(folder)
        higher = {**table.higher_is_better, **higher}
        files: dict[tuple[int, str], dict[str, Path]] = {}
        for path in sorted(RunDir(folder).samples.glob("*.wav")):
            if sample := parse(path.name, table.ids, [*table.systems]):
                files.setdefault((sample.number, sample.item), {})[sample.system] = path
        for (_, item), systems in sorted(files.items(), key=lambda entry: entry[0][0]):
            if item in takes or not {ENHANCED, TARGET} <= systems.keys():
                continue
            try:
                sounds = {system: audio.read(path) for system, path in systems.items()}
            except AudioError as error:
                problems.append(str(error))
                continue
            takes[item] = Take(
                signals={system: samples.mean(0) for system, (samples, _) in sounds.items()},
                sample_rate=sounds[TARGET][1],
                scores={
                    system: {metric: values[item] for metric, values in scored.metrics.items() if item in values}
                    for system, scored in table.systems.items()
                },
            )
    return Source(name, takes, higher, tuple(problems))


def _score_table(folder: Path) -> ScoreTable:
    """Return the scores of an evaluation or of a run's closing evaluation; empty if there are none."""
    own = folder / "scores.csv"
    path = own if own.is_file() else RunDir(folder).closing_scores()
    try:
        return ScoreTable((), {}, {}) if path is None else read_scores(path)
    except ValueError as error:
        raise DataError(str(error)) from error


def common_items(sources: Sequence[Source]) -> list[str]:
    """Return the ids of the utterances that all sources have, in the order of the first."""
    return [item for item in sources[0].takes if all(item in source.takes for source in sources)]


def join(sources: Sequence[Source]) -> tuple[list[Utterance], list[str]]:
    """Join the utterances that all sources have, in the order of the first.

    An input that is the same for all runs is included once; different inputs (another simulator, another noise) are
    included with the names of their runs.

    Args:
        sources: at least one.

    Returns:
        The utterances, and the reasons why common utterances were left out.
    """
    utterances, problems = [], []
    for item in common_items(sources):
        takes = {source.name: source.takes[item] for source in sources}
        first = takes[sources[0].name]
        if len({take.sample_rate for take in takes.values()}) > 1:
            rates = ", ".join(f"{name} {take.sample_rate} Hz" for name, take in takes.items())
            problems.append(f"{item}: the sample rates differ ({rates})")
        elif not all(_alike(take.signals[TARGET], first.signals[TARGET]) for take in takes.values()):
            problems.append(f"{item}: the targets differ, so it is not the same utterance in all runs")
        else:
            sounds = _inputs(takes)
            sounds += [
                Sound(name, "run", take.signals[ENHANCED], take.scores.get(ENHANCED, {}))
                for name, take in takes.items()
            ]
            sounds.append(Sound(TARGET, "target", first.signals[TARGET], {}))
            utterances.append(Utterance(item, first.sample_rate, tuple(sounds)))
    return utterances, problems


def _inputs(takes: Mapping[str, Take]) -> list[Sound]:
    groups: dict[str, list[tuple[str, Take]]] = {}
    for name, take in takes.items():
        for system in take.signals:
            if system not in (ENHANCED, TARGET):
                groups.setdefault(system, []).append((name, take))
    sounds = []
    for system, having in groups.items():
        different: list[list[tuple[str, Take]]] = []
        for name, take in having:
            for same in different:
                if _alike(take.signals[system], same[0][1].signals[system]):
                    same.append((name, take))
                    break
            else:
                different.append([(name, take)])
        for same in different:
            take = same[0][1]
            shown = system if len(different) == 1 else f"{system} of {', '.join(name for name, _ in same)}"
            sounds.append(Sound(shown, "input", take.signals[system], take.scores.get(system, {})))
    return sounds


def _alike(one: np.ndarray, other: np.ndarray) -> bool:
    """Return whether two signals are equal up to a gain: sounds are scaled together if one exceeds full scale."""
    if one.shape != other.shape:
        return False
    if one is other or np.array_equal(one, other):
        return True
    energies = float(np.vdot(one, one)) * float(np.vdot(other, other))
    return energies > 0 and float(np.vdot(one, other)) / energies**0.5 > _ALIKE
