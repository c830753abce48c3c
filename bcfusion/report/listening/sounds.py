"""Sounds to listen to: what runs wrote, joined by utterance, with the scores of each."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from bcfusion import audio
from bcfusion.errors import AudioError
from bcfusion.report.comparison.run_files import directions, read_scores

__all__ = ["ENHANCED", "TARGET", "Sound", "Source", "Take", "Utterance", "evaluations", "join", "read_samples"]

ENHANCED, TARGET = "enhanced", "target"
Kind = Literal["input", "run", "target"]

# INDEX-ID.SYSTEM.wav, as training.closing.SampleWriter names them: of the id only the end, its slashes replaced
_SAMPLE = re.compile(r"\d+-(?P<id>.+)\.(?P<system>[^.]+)\.wav", re.DOTALL)
_ID_KEPT = 80
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
        files: dict[str, dict[str, Path]] = {}
        for path in sorted((folder / "samples").glob("*.wav"), key=lambda path: (_index(path.name), path.name)):
            if found := _SAMPLE.fullmatch(path.name):
                files.setdefault(f"{_index(path.name)}-{found['id']}", {})[found["system"]] = path
        for stem, systems in files.items():
            place, _, shortened = stem.partition("-")
            item = _whole_id(shortened, int(place), ids)
            if item in takes or not {ENHANCED, TARGET} <= systems.keys():
                continue
            names = {label: _system(label, [*scores]) for label in systems}
            try:
                sounds = {names[label]: audio.read(path) for label, path in systems.items()}
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


def _index(name: str) -> int:
    digits = name.partition("-")[0]
    return int(digits) if digits.isdigit() else 0


def _ids(table: Path) -> list[str]:
    with table.open(newline="", encoding="utf-8") as file:
        return list(dict.fromkeys(row["id"] for row in csv.DictReader(file)))


def _whole_id(shortened: str, place: int, ids: Sequence[str]) -> str:
    """The id of the scores that a file name was made from; the name itself where none is. Equal ends: by the place."""
    fitting = [item for item in ids if item.replace("/", "_")[-_ID_KEPT:] == shortened]
    if len(fitting) > 1 and place < len(ids) and ids[place] in fitting:
        return ids[place]
    return fitting[0] if fitting else shortened


def _system(label: str, known: Sequence[str]) -> str:
    """The system of a file label: ``input_body`` is ``input (body)``."""
    for system in known:
        if system.replace("(", "").replace(")", "").replace(" ", "_") == label:
            return system
    kind, _, sensor = label.partition("_")
    return f"{kind} ({sensor})" if kind == "input" and sensor else label
