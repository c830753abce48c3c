"""Segments of a corpus as the training loader reads them, and where soundfile finds the same samples."""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import soundfile
import torch

from bcfusion import audio
from bcfusion.contracts import Corpus, Simulator
from bcfusion.data.corpora.folder import FolderCorpus
from bcfusion.data.loading.augmentation import Augmentation
from bcfusion.data.loading.datamodule import SpeechDataModule
from bcfusion.data.loading.loaders import StepLoader
from bcfusion.data.loading.segments import TrainSegments
from bcfusion.data.loading.shards.read import ShardCorpus
from bcfusion.data.loading.shards.write import write_shards
from bcfusion.data.seeding import generator_for
from bcfusion.data.simulation.eben_lowpass import EbenLowpass
from bcfusion.data.simulation.transfer_function import TransferFunction
from benchmarks.harness import Disagreement, Missing, Setting

OPUS_RATES = (8000, 12000, 16000, 24000, 48000)
ENCODINGS = {"wav": ("WAV", "PCM_16"), "flac": ("FLAC", "PCM_16"), "opus": ("OGG", "OPUS")}
EVERY_BODY: dict[str, Any] = {
    **{"body_gain": [-10, 10], "body_equalisation": 4.0},
    **{"body_band_mask": 0.1, "body_noise": [20, 50]},
}
COMPARED = 2048  # segments that soundfile alone reads repeatedly


class Span(NamedTuple):
    """A segment: ``frames`` samples of a file from ``start``."""

    path: str
    start: int
    frames: int


@dataclass
class Plan:
    """How segments are read.

    Attributes:
        seconds: length of a segment.
        batch: segments in a batch.
        measured: seconds of one turn.
    """

    seconds: float = 2.0
    batch: int = 16
    measured: float = 1.0


@dataclass
class Source:
    """What is measured: a loader of segments, and the files from which soundfile reads them for the limit.

    Attributes:
        name: in messages.
        spans: the segments, for the limit.
        loader: returns, for a number of workers, batches of segments without end.
    """

    name: str
    spans: Sequence[Span]
    loader: Callable[[int], Iterable[Any]]


def convert(files: Sequence[Path], folder: Path) -> dict[str, Path]:
    """Write the files as one folder corpus per encoding, and as shards of the FLAC files; return folders by name."""

    def write(numbered: tuple[int, Path]) -> None:
        number, file = numbered
        samples, rate = audio.read(file)
        for name, (kind, subtype) in ENCODINGS.items():
            if name != "opus" or rate in OPUS_RATES:
                target = folder / name / "train" / str(number) / f"{number}-0-0000.{name}"
                target.parent.mkdir(parents=True)
                soundfile.write(target, samples[0], rate, format=kind, subtype=subtype)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(write, enumerate(files)))
    write_shards(FolderCorpus(str(folder / "flac")).rows("train"), folder / "shards", shard_bytes=20_000_000)
    return {name: folder / name for name in (*ENCODINGS, "shards") if (folder / name).exists()}


def ours(
    name: str,
    corpus: Corpus,
    files: Mapping[str, str],
    plan: Plan,
    simulators: Mapping[str, Simulator] | None = None,
    augmentation: Augmentation | None = None,
) -> Source:
    """Return the training loader on a corpus as a source.

    Args:
        name: in the table.
        corpus: has a split ``train``.
        files: where soundfile finds the rows, by id.
        plan: how they are read.
        simulators: of a sensor ``body``; None: air is read and passed on.
        augmentation: of ``body`` alone, since the target is compared.
    """
    rate = corpus.rows("train")[0].sample_rate
    sensors = ["air"] if simulators is None else list(simulators)

    def loader(workers: int) -> StepLoader:
        module = SpeechDataModule(
            corpus,
            simulators or {},
            sensors,
            rate,
            plan.seconds,
            plan.batch,
            sys.maxsize,
            workers,
            augmentation=augmentation,
        )
        made = module.train_dataloader()
        assert isinstance(made, StepLoader)
        return made

    plain = loader(0)
    keys = itertools.chain.from_iterable(map(plain.schedule.batch, itertools.count()))
    spans = [span(plain.segments, key, files) for key in itertools.islice(keys, COMPARED)]
    batch = next(iter(plain))
    if len(batch["target"]) != plan.batch:
        raise Disagreement(f"{name}: a batch of {len(batch['target'])} segments instead of {plan.batch}")
    for target, wanted in zip(batch["target"].numpy(), spans, strict=False):
        samples = read(wanted)
        if not np.array_equal(target[0, : len(samples)], samples):
            raise Disagreement(f"{name}: the loader and soundfile read different samples at {wanted}")
    return Source(name, spans, loader)


def span(segments: TrainSegments, key: tuple[int, int], files: Mapping[str, str]) -> Span:
    """Return the file and position of ``segments[key]``; compared in :func:`ours`."""
    row = segments.rows[segments.row_of(key[1])]
    total = segments.reader.total(row)
    frames = min(total, segments.segment)
    generator = generator_for(segments.seed, "crop", *key, 0)
    return Span(files[row.id], int(torch.randint(total - frames + 1, (1,), generator=generator)), frames)


def read(wanted: Span) -> np.ndarray:
    """Read a segment with as little work as possible: soundfile and nothing else."""
    with soundfile.SoundFile(wanted.path) as sound:
        sound.seek(wanted.start)
        samples: np.ndarray = sound.read(wanted.frames, dtype="float32")
    return samples


def source(kind: str, simulated: str, roots: Mapping[str, Path], plan: Plan, how: Setting) -> Source:
    """Return our loader on one encoding.

    Args:
        kind: wav, flac, opus, shards.
        simulated: how the sensor is made: empty (air is read and passed on), eben_lowpass, transfer_function, or
            augmented: that with every ``body_*`` augmentation.
        roots: of :func:`convert`.
        plan: how segments are read.
        how: the setting.

    Raises:
        Missing: the encoding cannot hold the speech, or there is no calibration.
    """
    if kind not in roots:
        raise Missing("Opus has no such sample rate: give --speech of 8, 12, 16, 24 or 48 kHz")
    corpus: Corpus = ShardCorpus(str(roots[kind])) if kind == "shards" else FolderCorpus(str(roots[kind]))
    files = FolderCorpus(str(roots["flac" if kind == "shards" else kind]))
    places = {row.id: row.paths["air"] for row in files.rows("train")}
    simulators: dict[str, Simulator] | None = None
    augmentation = None
    if simulated == "eben_lowpass":
        simulators = {"body": EbenLowpass()}
    elif simulated:
        if how.calibration is None:
            raise Missing("needs a measured sensor: --calibration FILE, from bcfusion calibrate")
        simulators = {"body": TransferFunction(how.calibration)}
        if simulated == "augmented":
            augmentation = Augmentation(
                body_gain=[-10, 10], body_equalisation=4.0, body_band_mask=0.1, body_noise=[20, 50]
            )
    return ours(kind, corpus, places, plan, simulators, augmentation)
