"""Loaders that users of other libraries would write for the same segments: PyTorch's own on a list of files."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import soundfile
import torch
from torch.utils.data import DataLoader, Dataset

from benchmarks.harness import Disagreement, Missing
from benchmarks.segments import Plan, Source, Span, read


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
        raise Disagreement(f"{name}: a segment of {len(segments[0])} samples instead of {spans[0].frames}")

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


def of_torchaudio(folder: Path, flac: Source, plan: Plan) -> Source:
    """Return the file list of ``torchaudio.datasets.LIBRISPEECH`` read by soundfile: itself it decodes whole files."""
    import torchaudio

    subset = folder / "torchaudio" / "LibriSpeech" / "dev-clean"
    for file in sorted((folder / "flac").glob("train/*/*.flac")):
        chapter = subset / file.parent.name / "0"
        chapter.mkdir(parents=True)
        os.link(file, chapter / file.name)
        (chapter / f"{file.parent.name}-0.trans.txt").write_text(f"{file.stem} A\n")
    corpus = torchaudio.datasets.LIBRISPEECH(folder / "torchaudio", "dev-clean")

    def path(index: int) -> str:
        return str(folder / "torchaudio" / "LibriSpeech" / corpus.get_metadata(index)[0])

    return theirs("torchaudio LIBRISPEECH", listed(len(corpus), path, flac), flac.spans, plan.batch)


def of_datasets(folder: Path, flac: Source, plan: Plan) -> Source:
    """Return the file list of ``datasets``, of its feature ``Audio``, read by soundfile: itself it decodes whole files.

    Raises:
        Missing: it is not installed.
    """
    try:
        import datasets
    except ImportError:
        raise Missing("not installed: pip install datasets") from None
    paths = sorted(map(str, (folder / "flac").glob("train/*/*.flac")))
    features = datasets.Features(audio=datasets.Audio(decode=False))
    rows = {"audio": [{"bytes": None, "path": path} for path in paths]}
    table = datasets.table.InMemoryTable.from_pydict(rows, schema=features.arrow_schema)
    # with a fingerprint of its own: to make one, its hash follows every module that is not in site-packages, and fails
    listing = datasets.Dataset(table, datasets.DatasetInfo(features=features), fingerprint="listing")
    if len(listing) != len(paths) or listing[0]["audio"]["path"] != paths[0]:
        raise Disagreement("datasets Audio: its list is not that of the folder")

    def path(index: int) -> str:
        return str(listing[index]["audio"]["path"])

    return theirs("datasets Audio", listed(len(paths), path, flac), flac.spans, plan.batch)


def listed(length: int, path: Callable[[int], str], flac: Source) -> Segments:
    """Return segments of the files of another library's list, at random places."""
    frames = flac.spans[0].frames

    def segment(index: int, where: float) -> np.ndarray:
        name = path(index)
        return read(Span(name, place(where, soundfile.info(name).frames, frames), frames))

    return Segments(length, segment)


PEERS = {"torchaudio": of_torchaudio, "datasets": of_datasets}
