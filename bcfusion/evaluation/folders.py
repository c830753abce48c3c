"""Score existing files: the output of any program against its references, matched by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path

import numpy as np
import torch

from bcfusion import audio
from bcfusion.errors import AudioError, DataError
from bcfusion.evaluation.pool import Scorer
from bcfusion.evaluation.scores import ItemScore, Scores
from bcfusion.evaluation.systems import INPUT
from bcfusion.evaluation.utterances import UNREADABLE, snr_text
from bcfusion.files import name_below, on_disk

__all__ = ["Matched", "Notes", "common_rate", "match_folders", "score_folders"]

# Reasons for which an utterance is skipped
NO_FILE = "no file of that name"
NOT_MONO = "not mono"
OTHER_LENGTH = "other length than the reference"


@dataclass
class Notes:
    """Observations about files, each kind with its examples.

    Attributes:
        found: kind, such as ``cannot be read``, to the examples in order.
    """

    found: dict[str, list[str]] = field(default_factory=dict)

    def add(self, kind: str, example: str) -> None:
        self.found.setdefault(kind, []).append(example)

    def lines(self) -> list[str]:
        """Return one line per kind: count and first example."""
        return [
            f"{len(examples)} {'file' if len(examples) == 1 else 'files'}: {kind} (first: {examples[0]})"
            for kind, examples in self.found.items()
        ]


@dataclass(frozen=True)
class Matched:
    """Files joined by name: the path below their folder, without suffix, with ``/`` between folders.

    Attributes:
        references: name to reference.
        systems: system to name to file; the input, if there is one, is first.
        notes: names without a partner.
    """

    references: Mapping[str, Path]
    systems: Mapping[str, Mapping[str, Path]]
    notes: Notes


def match_folders(reference: Path, systems: Mapping[str, Path]) -> Matched:
    """Join the files that have the same path below their folders, regardless of the suffix.

    An utterance is kept if the reference and at least one system under test have it. Of two files that differ only in
    their suffix, the first counts.

    Args:
        reference: folder with clean speech.
        systems: name to folder; :data:`~bcfusion.evaluation.systems.INPUT` is not a system under test.

    Raises:
        AudioError: a folder does not exist or contains no sound file.
        DataError: one of them is a file, or they have no names in common.
    """
    notes = Notes()
    clean = _by_name(reference, notes)
    found = {system: _by_name(folder, notes) for system, folder in systems.items()}
    tested = {system: files for system, files in found.items() if system != INPUT}
    names = [name for name in clean if any(name in files for files in tested.values())]
    if not names:
        system, files = next(iter(tested.items()))
        raise DataError(
            f"no names in common: {systems[system]} has {next(iter(files))}, {reference} has {next(iter(clean))}\n"
            "files are matched by their path below the folders, without suffix: rename one side"
        )
    for name in sorted(clean.keys() - set(names)):
        notes.add("references without an enhanced file, left out", str(clean[name]))
    for files in found.values():
        for name in sorted(files.keys() - clean.keys()):
            notes.add("without a reference, left out", str(files[name]))
    return Matched({name: clean[name] for name in names}, found, notes)


def common_rate(references: Mapping[str, Path]) -> int:
    """Return the sample rate in Hz that the headers of the references give.

    Raises:
        DataError: the rates differ, or no reference can be read.
    """
    rates: dict[int, Path] = {}
    problem = ""
    for path in references.values():
        try:
            rates.setdefault(audio.info(path).sample_rate, path)
        except AudioError as error:
            problem = problem or str(error)
    if not rates:
        raise DataError(f"no reference can be read; the first: {problem}")
    if len(rates) > 1:
        (one, first), (other, second), *_ = rates.items()
        raise DataError(
            f"references of several sample rates: {first} has {one} Hz, {second} {other} Hz\n"
            f"give the one to score at, as in sample_rate={min(rates)}"
        )
    return next(iter(rates))


def score_folders(
    matched: Matched, scorer: Scorer, sample_rate: int, tolerance: float = 0.1, with_snr: bool = False
) -> Scores:
    """Score every system's files against the references; skip what cannot be read or compared, with the reason.

    Files with another sample rate are resampled. Signals whose lengths differ by no more than the tolerance are cut to
    the shorter one at the end. Both are reported in ``matched.notes``.

    Args:
        matched: the files.
        scorer: computes the metrics.
        sample_rate: at which signals are compared, in Hz.
        tolerance: in seconds.
        with_snr: whether to add the signal-to-noise ratio of the input to each utterance. ``input - reference`` is
            taken as the noise, which is right only for clean speech with noise added to it.

    Returns:
        One row per utterance and system, in the order of the references, with the columns ``speaker`` (the first
        folder on the way to the file, empty if there is none), ``corpus`` (empty) and ``snr``.

    Raises:
        DataError: no file of a system under test could be scored.
    """
    reader = _Reader(sample_rate, tolerance, matched.notes)
    skipped: list[ItemScore] = []
    for name, path in matched.references.items():
        info = {"speaker": name.partition("/")[0] if "/" in name else "", "corpus": "", "snr": ""}
        target, fault = reader.read(path)
        signals: dict[str, np.ndarray] = {}
        reasons: dict[str, str] = {}
        for system, files in matched.systems.items():
            signal, reason = (None, f"reference: {fault}") if target is None else reader.pair(files.get(name), target)
            if signal is None:
                reasons[system] = reason
            else:
                signals[system] = signal
        if with_snr:
            noisy = signals.get(INPUT)
            info["snr"] = "" if target is None or noisy is None else _ratio(target[: len(noisy)], noisy, sample_rate)
        for system, signal in signals.items():
            assert target is not None
            scorer.submit(name, {system: signal}, target[: len(signal)], info)
        for system, reason in reasons.items():
            skipped.append(ItemScore.unscored(name, system, scorer.higher_is_better, reason, info))
    scores = scorer.collect()
    if not any(row.system != INPUT for row in scores.rows):
        raise DataError(f"nothing to score in {len(matched.references)} utterances\n{reader.first_fault}")
    order = {pair: place for place, pair in enumerate(product(matched.references, matched.systems))}
    rows = sorted([*scores.rows, *skipped], key=lambda row: order[row.id, row.system])
    return Scores(rows, scores.higher_is_better)


class _Reader:
    """Reads files so that they can be compared, and notes what had to be changed."""

    def __init__(self, sample_rate: int, tolerance: float, notes: Notes) -> None:
        self._sample_rate = sample_rate
        self._tolerance = tolerance
        self._notes = notes
        self.first_fault = ""

    def read(self, path: Path) -> tuple[np.ndarray | None, str]:
        """Return the signal ``(T,)``, or None and the reason."""
        try:
            samples, rate = audio.read(path)
            if remark := audio.info(path).remark:
                self._notes.add(
                    "of a length that its header does not state, read as far as it goes", f"{path}: {remark}"
                )
        except AudioError as error:
            return None, self._fault("cannot be read, skipped", UNREADABLE, str(error))
        if samples.shape[0] != 1:
            fault = f"{path} has {samples.shape[0]} channels: give mono files"
            return None, self._fault(f"{NOT_MONO}, skipped", NOT_MONO, fault)
        if rate != self._sample_rate:
            self._notes.add(f"resampled from {rate} to {self._sample_rate} Hz", str(path))
            samples = audio.resample(torch.from_numpy(samples), rate, self._sample_rate).numpy()
        return samples[0], ""

    def pair(self, path: Path | None, target: np.ndarray) -> tuple[np.ndarray | None, str]:
        """Return the signal, cut to the length of the target, or None and the reason."""
        if path is None:
            return None, NO_FILE
        signal, reason = self.read(path)
        if signal is None:
            return None, reason
        seconds = (len(signal) - len(target)) / self._sample_rate
        if abs(seconds) > self._tolerance:
            fault = f"{path}: {abs(seconds):.3f} s {'longer' if seconds > 0 else 'shorter'} than its reference"
            return None, self._fault(f"{OTHER_LENGTH} by more than {self._tolerance:g} s, skipped", OTHER_LENGTH, fault)
        if seconds:
            self._notes.add("cut to the shorter of file and reference", f"{path}, {1000 * seconds:+.2f} ms")
        return signal[: len(target)], ""

    def _fault(self, kind: str, reason: str, message: str) -> str:
        self._notes.add(kind, message)
        self.first_fault = self.first_fault or message
        return reason


def _by_name(folder: Path, notes: Notes) -> dict[str, Path]:
    folder = on_disk(folder)
    if folder.is_file():
        raise DataError(f"{folder} is a file: give the folder that contains it")
    files: dict[str, Path] = {}
    for path in audio.find_audio(folder):
        name = name_below(folder, path)
        if files.setdefault(name, path) != path:
            notes.add("left out, because another one has the same name", str(path))
    return files


def _ratio(speech: np.ndarray, noisy: np.ndarray, sample_rate: int) -> str:
    return snr_text(torch.from_numpy(speech)[None], torch.from_numpy(noisy - speech)[None], sample_rate)
