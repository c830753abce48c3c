"""Sounds to listen to: what runs wrote, joined by utterance, with the scores of each."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from bcfusion import audio
from bcfusion.errors import AudioError
from bcfusion.evaluation.sample_files import parse
from bcfusion.evaluation.systems import ENHANCED, TARGET
from bcfusion.report.comparison.run_files import directions, read_scores

__all__ = ["Sound", "Source", "Take", "Utterance", "evaluations", "join", "read_samples"]

Kind = Literal["input", "run", "target"]

_ALIKE = 0.999  # correlation from which two signals are the same but for rounding and a common gain


@dataclass(frozen=True)
class Take:
    """One utterance as one run has it.

    Attributes:
        signals: inputs, ``enhanced`` and ``target`` by name, each ``(T,)``. sample_rate: in Hz.
        scores: metric to score by system; the target has none.
    """

    signals: Mapping[str, np.ndarray]
    sample_rate: int
    scores: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Source:
    """What one run gives to hear.

    Attributes:
        name: of the run, different from that of every other. takes: by the id of their utterance.
        higher_is_better: direction of the metrics in the scores; None: information only. problems: why utterances that
            the run has were left out.
    """

    name: str
    takes: Mapping[str, Take]
    higher_is_better: Mapping[str, bool | None] = field(default_factory=dict)
    problems: tuple[str, ...] = ()


@dataclass(frozen=True)
class Sound:
    """A signal ``(T,)`` of an utterance. name: as it is shown. scores: by metric; empty for a target."""

    name: str
    kind: Kind
    signal: np.ndarray
    scores: Mapping[str, float]


@dataclass(frozen=True)
class Utterance:
    """All sounds of an utterance: inputs, runs in their order, target. sample_rate: in Hz."""

    id: str
    sample_rate: int
    sounds: tuple[Sound, ...]


def evaluations(run: Path) -> list[Path]:
    """Folders that hold samples: the run itself (its closing evaluation), then later evaluations, the newest first."""
    later = sorted((run / "evaluation").glob("*/samples"), reverse=True)
    return [folder.parent for folder in (run / "samples", *later) if folder.is_dir()]


def read_samples(name: str, folders: Iterable[Path]) -> Source:
    """The sounds that a run wrote, with their scores.

    Args:
        name: of the source. folders: each with ``samples/`` and with ``scores.csv`` or ``quality/test.csv``. Where
            several hold an utterance, the first does. An utterance with a sound that cannot be read is left out.

    Raises:
        ValueError: a table of scores is damaged.
    """
    takes: dict[str, Take] = {}
    higher: dict[str, bool | None] = {}
    problems = []
    for folder in folders:
        tables = (folder / "scores.csv", folder / "quality" / "test.csv", folder / "quality" / "valid.csv")
        table = next((each for each in tables if each.is_file()), None)
        scores = read_scores(table) if table else {}
        if table:
            higher = {**directions(table), **higher}
        ids = _ids(table) if table else []
        files: dict[tuple[int, str], dict[str, Path]] = {}
        for path in sorted((folder / "samples").glob("*.wav")):
            if sample := parse(path.name, ids, [*scores]):
                files.setdefault((sample.number, sample.item), {})[sample.system] = path
        for (_, item), systems in sorted(files.items(), key=lambda entry: entry[0][0]):
            if item in takes or not {ENHANCED, TARGET} <= systems.keys():
                continue
            try:
                sounds = {system: audio.read(path) for system, path in systems.items()}
            except AudioError as error:
                problems.append(str(error))
                continue
            of = {
                system: {metric: values[item] for metric, values in scored.metrics.items() if item in values}
                for system, scored in scores.items()
            }
            takes[item] = Take(
                {system: samples.mean(0) for system, (samples, _) in sounds.items()}, sounds[TARGET][1], of
            )
    return Source(name, takes, higher, tuple(problems))


def join(sources: Sequence[Source]) -> tuple[list[Utterance], list[str]]:
    """Utterances that all sources have, in the order of the first.

    An input that is the same for all stands once; where runs were given different ones (another simulator, another
    noise), each stands with the names of its runs. Sounds that are shorter than the longest are padded with silence, so
    that all of them go on at the same position.

    Args:
        sources: at least one.

    Returns:
        The utterances, and the reasons why others that all sources have were left out.
    """
    common = [item for item in sources[0].takes if all(item in source.takes for source in sources)]
    utterances, problems = [], []
    for item in common:
        takes = {source.name: source.takes[item] for source in sources}
        first = takes[sources[0].name]
        if len({take.sample_rate for take in takes.values()}) > 1:
            rates = ", ".join(f"{name} {take.sample_rate} Hz" for name, take in takes.items())
            problems.append(f"{item}: the sample rates differ ({rates})")
        elif not all(_alike(take.signals[TARGET], first.signals[TARGET]) for take in takes.values()):
            problems.append(f"{item}: the targets differ, so it is not the same utterance in all runs")
        else:
            sounds = [*_inputs(takes)]
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
    """Whether two signals are the same: sounds of an utterance are lowered together where one exceeds full scale."""
    if one.shape != other.shape:
        return False
    if one is other or np.array_equal(one, other):
        return True
    energies = float(np.vdot(one, one)) * float(np.vdot(other, other))
    return energies > 0 and float(np.vdot(one, other)) / energies**0.5 > _ALIKE


def _ids(table: Path) -> list[str]:
    with table.open(newline="", encoding="utf-8") as file:
        return list(dict.fromkeys(row["id"] for row in csv.DictReader(file)))
