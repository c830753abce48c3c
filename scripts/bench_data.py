"""Measure how fast training data are read: segments per second of the training loader, and of others for the same work.

    python scripts/bench_data.py --root SPEECH                       # every sound file in the folder
    python scripts/bench_data.py --root SPEECH --files 100 --seconds 5 --workers 0 2 4
    python scripts/bench_data.py --root SPEECH --calibration throat.json    # also with a measured sensor

The files are converted once, in a temporary folder, to WAV, FLAC and Opus, and the FLAC files are packed into shards.
Then random segments of each are read: by the loader of `bcfusion train` and, as the limit, by soundfile alone, which
opens the file, seeks, and reads the same samples. The limit is measured with as many processes as the loader has
workers (one if it has none), immediately before each measurement of the loader, and the share is the median over the
repeats of their ratio. Everything is in the page cache: disks and networks are not measured.

Before anything is timed, the first batch of every loader is compared with what soundfile reads.
"""

from __future__ import annotations

import argparse
import itertools
import math
import multiprocessing
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from multiprocessing.queues import SimpleQueue
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import soundfile
import torch
from torch.utils.data import DataLoader, Dataset

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
from bcfusion.errors import AudioError, BcfusionError

OPUS_RATES = (8000, 12000, 16000, 24000, 48000)
ENCODINGS = {"wav": ("WAV", "PCM_16"), "flac": ("FLAC", "PCM_16"), "opus": ("OGG", "OPUS")}
WARM_UP = 4  # batches per worker before the clock starts, by then the prefetched ones are used up
COMPARED = 2048  # segments that soundfile alone reads repeatedly


class NoSegments(RuntimeError):
    """A loader delivered nothing, or not what it should: there is no number to print."""


class Span(NamedTuple):
    """A segment: ``frames`` samples of a file from ``start``."""

    path: str
    start: int
    frames: int


@dataclass
class Source:
    """What is measured: a loader of segments, and the files from which soundfile reads them for the limit.

    Attributes:
        name: in the table.
        spans: the segments, for the limit.
        loader: returns, for a number of workers, batches of segments without end.
        problem: why it cannot be measured; replaces everything else.
        rates: by number of workers: rate and limit of each repeat.
    """

    name: str
    spans: Sequence[Span] = ()
    loader: Callable[[int], Iterable[Any]] | None = None
    problem: str = ""
    rates: dict[int, list[tuple[float, float]]] = field(default_factory=dict)


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
    arguments: argparse.Namespace,
    simulators: Mapping[str, Simulator] | None = None,
    augmentation: Augmentation | None = None,
) -> Source:
    """Return the training loader on a corpus as a source.

    Args:
        name: in the table.
        corpus: has a split ``train``.
        files: where soundfile finds the rows, by id.
        arguments: of the command line.
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
            arguments.segment_seconds,
            arguments.batch,
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
    if len(batch["target"]) != arguments.batch:
        raise NoSegments(f"{name}: a batch of {len(batch['target'])} segments instead of {arguments.batch}")
    for target, wanted in zip(batch["target"].numpy(), spans, strict=False):
        samples = read(wanted)
        if not np.array_equal(target[0, : len(samples)], samples):
            raise NoSegments(f"{name}: the loader and soundfile read different samples at {wanted}")
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


class Segments(Dataset[torch.Tensor]):
    """Random segments as a user of another library would read them: an index, a random position, a tensor.

    Args:
        length: of the data set.
        read: returns the segment of an index and a position in [0, 1).
    """

    def __init__(self, length: int, read: Callable[[int, float], np.ndarray]) -> None:
        self.length = length
        self.read = read

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.from_numpy(self.read(index, float(torch.rand(()))))


def theirs(name: str, segments: Segments, spans: Sequence[Span], batch: int) -> Source:
    """Return PyTorch's own loader on a data set as a source; the length of its segments is checked once."""
    if len(segments[0]) != spans[0].frames:
        raise NoSegments(f"{name}: a segment of {len(segments[0])} samples instead of {spans[0].frames}")

    def loader(workers: int) -> Iterator[torch.Tensor]:
        made: DataLoader[torch.Tensor] = DataLoader(
            segments, batch, shuffle=True, num_workers=workers, drop_last=True, persistent_workers=workers > 0
        )
        while True:
            yield from made

    return Source(name, spans, loader)


def place(where: float, total: int, frames: int) -> int:
    """Return the first sample of a segment of ``frames`` in a file of ``total`` samples."""
    return int(where * (total - frames + 1))


def of_torchaudio(folder: Path, flac: Source, arguments: argparse.Namespace) -> list[Source]:
    """Return ``torchaudio.datasets.LIBRISPEECH``, which decodes whole files, and its file list read by soundfile."""
    import torchaudio

    subset = folder / "torchaudio" / "LibriSpeech" / "dev-clean"
    for file in sorted((folder / "flac").glob("train/*/*.flac")):
        chapter = subset / file.parent.name / "0"
        chapter.mkdir(parents=True)
        os.link(file, chapter / file.name)
        (chapter / f"{file.parent.name}-0.trans.txt").write_text(f"{file.stem} A\n")
    corpus = torchaudio.datasets.LIBRISPEECH(folder / "torchaudio", "dev-clean")
    frames = flac.spans[0].frames

    def whole(index: int, where: float) -> np.ndarray:
        signal = corpus[index][0][0].numpy()
        return signal[(start := place(where, len(signal), frames)) : start + frames]

    def listed(index: int, where: float) -> np.ndarray:
        path = str(folder / "torchaudio" / "LibriSpeech" / corpus.get_metadata(index)[0])
        return read(Span(path, place(where, soundfile.info(path).frames, frames), frames))

    names = {"torchaudio LIBRISPEECH": whole, "torchaudio LIBRISPEECH, its list and soundfile": listed}
    return [
        attempt(name, partial(theirs, name, Segments(len(corpus), reading), flac.spans, arguments.batch))
        for name, reading in names.items()
    ]


def of_datasets(folder: Path, flac: Source, arguments: argparse.Namespace) -> list[Source]:
    """Return two sources: ``datasets`` with its feature ``Audio``, which decodes whole files, and without decoding."""
    import datasets

    paths = sorted(map(str, (folder / "flac").glob("train/*/*.flac")))
    corpus = datasets.Dataset.from_dict({"audio": paths})
    decoding = corpus.cast_column("audio", datasets.Audio())
    listing = corpus.cast_column("audio", datasets.Audio(decode=False))
    frames = flac.spans[0].frames

    def whole(index: int, where: float) -> np.ndarray:
        signal = np.asarray(decoding[index]["audio"]["array"], dtype=np.float32)
        return signal[(start := place(where, len(signal), frames)) : start + frames]

    def listed(index: int, where: float) -> np.ndarray:
        path = listing[index]["audio"]["path"]
        return read(Span(path, place(where, soundfile.info(path).frames, frames), frames))

    names = {"datasets Audio": whole, "datasets Audio(decode=False) and soundfile": listed}
    return [
        attempt(name, partial(theirs, name, Segments(len(corpus), reading), flac.spans, arguments.batch))
        for name, reading in names.items()
    ]


def attempt(name: str, make: Callable[[], Source]) -> Source:
    """Return the source, or the reason why the other library cannot provide it here."""
    try:
        return make()
    except NoSegments:
        raise
    except Exception as error:  # an error of the other library; its first line is printed
        return Source(name, problem=f"cannot: {(str(error).strip() or repr(error)).splitlines()[0]}")


def loaded(batches: Iterable[Any], batch: int, workers: int, seconds: float) -> float:
    """Return the segments per second of a loader, measured once its prefetched batches are used up.

    Raises:
        NoSegments: the loader ends, or its batches have another size.
    """
    start, count = math.inf, 0
    for number, got in enumerate(batches):
        size = len(got["target"] if isinstance(got, dict) else got)
        if size != batch:
            raise NoSegments(f"a batch of {size} segments instead of {batch}")
        now = time.perf_counter()
        if number == WARM_UP * max(1, workers):
            start = now
        elif now > start:
            count += size
            if now - start >= seconds:
                return count / (now - start)
    raise NoSegments("the loader ended too early")


def limit(spans: Sequence[Span], processes: int, seconds: float) -> float:
    """Return the segments per second of soundfile alone, in all processes together."""
    if processes == 1:
        return alone(spans, seconds)
    context = multiprocessing.get_context("fork")  # as PyTorch's loader starts its workers
    results = context.SimpleQueue()
    barrier = context.Barrier(processes)
    readers = [
        context.Process(target=together, args=(spans[number::processes], seconds, barrier, results))
        for number in range(processes)
    ]
    for reader in readers:
        reader.start()
    rates = [results.get() for _ in readers]
    for reader in readers:
        reader.join()
    return sum(rates)


def together(spans: Sequence[Span], seconds: float, barrier: Barrier, results: SimpleQueue[float]) -> None:
    """Measure one of several processes that start at the same time."""
    barrier.wait()
    results.put(alone(spans, seconds))


def alone(spans: Sequence[Span], seconds: float) -> float:
    start = time.perf_counter()
    for count, wanted in enumerate(itertools.cycle(spans), start=1):
        read(wanted)
        if (taken := time.perf_counter() - start) >= seconds:
            return count / taken
    raise NoSegments("there are no segments")


def measure(source: Source, arguments: argparse.Namespace) -> None:
    """Run one repeat: for each number of workers the limit, then the loader."""
    assert source.loader is not None
    for workers in arguments.workers:
        wanted = limit(source.spans, max(1, workers), arguments.seconds)
        batches = source.loader(workers)
        try:
            rate = loaded(batches, arguments.batch, workers, arguments.seconds)
        except NoSegments as error:
            raise NoSegments(f"{source.name}, {workers} workers: {error}") from None
        if isinstance(batches, StepLoader):
            batches.close()
        source.rates.setdefault(workers, []).append((rate, wanted))


def table(sources: Sequence[Source]) -> str:
    """Return a Markdown table: medians over the repeats, one row per source and number of workers."""
    lines = ["| source | workers | segments/s | soundfile alone | share |", "| --- | ---: | ---: | ---: | ---: |"]
    for source in sources:
        if source.problem:
            lines.append(f"| {source.name} | | {source.problem} | | |")
        for workers, pairs in source.rates.items():
            rates, limits = (statistics.median(values) for values in zip(*pairs, strict=True))
            share = statistics.median(rate / wanted for rate, wanted in pairs)
            lines.append(f"| {source.name} | {workers} | {rates:,.0f} | {limits:,.0f} | {share:.0%} |")
    return "\n".join(lines)


def suitable(root: Path, most: int | None, seconds: float) -> list[Path]:
    """Return mono files that are at least a segment long and have the sample rate of the first.

    Raises:
        AudioError: there are none.
    """
    found: list[Path] = []
    rate = None
    for file in audio.find_audio(root):
        header = audio.info(file)
        rate = rate or header.sample_rate
        if header.channels == 1 and header.sample_rate == rate and header.duration >= seconds:
            found.append(file)
        if len(found) == most:
            break
    if not found:
        raise AudioError(f"{root} has no mono file of at least {seconds:g} s")
    return found


def sources(files: Sequence[Path], folder: Path, arguments: argparse.Namespace) -> list[Source]:
    """Return everything that is measured."""
    roots = convert(files, folder)
    corpora: dict[str, Corpus] = {name: FolderCorpus(str(roots[name])) for name in ENCODINGS if name in roots}
    places = {name: {row.id: row.paths["air"] for row in corpus.rows("train")} for name, corpus in corpora.items()}
    made = [ours(name, corpus, places[name], arguments) for name, corpus in corpora.items()]
    if "opus" not in corpora:
        made.append(Source("opus", problem=f"cannot: does not support {audio.info(files[0]).sample_rate} Hz"))
    made.append(ours("shards of flac", ShardCorpus(str(roots["shards"])), places["flac"], arguments))
    made.append(
        ours("flac, body simulated (eben_lowpass)", corpora["flac"], places["flac"], arguments, {"body": EbenLowpass()})
    )
    if arguments.calibration is not None:
        measured = {"body": TransferFunction(str(arguments.calibration))}
        name = "flac, body simulated (transfer_function)"
        made.append(ours(name, corpora["flac"], places["flac"], arguments, measured))
        every = Augmentation(body_gain=[-10, 10], body_equalisation=4.0, body_band_mask=0.1, body_noise=[20, 50])
        made.append(ours(f"{name}, body_*", corpora["flac"], places["flac"], arguments, measured, every))
    flac = next(source for source in made if source.name == "flac")
    made += of_torchaudio(folder, flac, arguments)
    if find_spec("datasets") is not None:
        made += of_datasets(folder, flac, arguments)
    else:
        made.append(Source("datasets Audio", problem="not installed"))
    return made


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--root", type=Path, required=True, help="folder of speech")
    made.add_argument("--calibration", type=Path, help="file of bcfusion calibrate, for rows with a measured sensor")
    made.add_argument("--files", type=int, help="number of files to use; default: all")
    made.add_argument("--segment-seconds", type=float, default=2.0)
    made.add_argument("--batch", type=int, default=16)
    made.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2])
    made.add_argument("--seconds", type=float, default=2.0, help="duration of each measurement")
    made.add_argument("--repeats", type=int, default=5)
    return made


def main() -> None:
    arguments = parser().parse_args()
    torch.set_num_threads(1)
    try:
        files = suitable(arguments.root, arguments.files, arguments.segment_seconds)
        with tempfile.TemporaryDirectory() as folder:
            measured = sources(files, Path(folder), arguments)
            for _ in range(arguments.repeats):
                for source in measured:
                    if not source.problem:
                        measure(source, arguments)
    except (BcfusionError, NoSegments) as error:
        raise SystemExit(f"bench_data: {error}") from None
    print(
        f"{len(files)} files, segments of {arguments.segment_seconds:g} s, batches of {arguments.batch}, "
        f"median of {arguments.repeats} x {arguments.seconds:g} s, {os.cpu_count()} cores ({platform.machine()})\n"
    )
    print(table(measured))


if __name__ == "__main__":
    main()
