"""The rows of the training loader in scripts/bench.py: every number is of segments that were really read."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import script_loading  # noqa: F401  puts scripts/ on the path
import torch

from bcfusion import audio


@pytest.fixture
def loader() -> ModuleType:
    from benchmarks import loader

    return loader


@pytest.fixture
def segments() -> ModuleType:
    from benchmarks import segments

    return segments


def test_a_loader_that_gives_less_than_it_should_has_no_number(loader: ModuleType) -> None:
    def batches(count: int, size: int) -> Iterator[torch.Tensor]:
        yield from (torch.zeros(size, 10) for _ in range(count))

    assert loader.loaded(batches(10**6, 4), 4, 1, 0.01) > 0
    with pytest.raises(loader.Disagreement, match="ended too early"):
        loader.loaded(batches(0, 4), 4, 0, 0.01)
    with pytest.raises(loader.Disagreement, match="ended too early"):
        loader.loaded(batches(loader.WARM_UP + 1, 4), 4, 0, 0.01)
    with pytest.raises(loader.Disagreement, match="a batch of 3 segments instead of 4"):
        loader.loaded(batches(10**6, 3), 4, 0, 0.01)
    with pytest.raises(loader.Disagreement, match="there are no segments"):
        loader.alone([], 0.01)


def test_a_loader_that_reads_other_samples_than_soundfile_has_no_number(segments: ModuleType, tmp_path: Path) -> None:
    for number in range(3):
        samples = np.random.default_rng(number).uniform(-0.5, 0.5, 16000)
        audio.write(tmp_path / "corpus" / "train" / "s" / f"{number}.wav", samples, 16000)
        audio.write(tmp_path / "other" / f"{number}.wav", samples[::-1], 16000)
    corpus = segments.FolderCorpus(str(tmp_path / "corpus"))
    plan = segments.Plan(seconds=0.5, batch=4)
    places = {row.id: row.paths["air"] for row in corpus.rows("train")}
    assert len(segments.ours("wav", corpus, places, plan).spans) == segments.COMPARED
    wrong = {name: path.replace("corpus/train/s", "other") for name, path in places.items()}
    with pytest.raises(segments.Disagreement, match="read different samples"):
        segments.ours("wav", corpus, wrong, plan)


def test_a_folder_without_long_enough_files_is_refused(tmp_path: Path) -> None:
    from benchmarks.harness import Missing
    from benchmarks.sounds import speech

    audio.write(tmp_path / "short.wav", np.zeros(1600), 16000)
    with pytest.raises(Missing, match=r"has no mono file of at least 0\.25 s"):
        speech(str(tmp_path), tmp_path, 3, 0.25)


def test_speech_that_is_made_up_is_as_long_as_asked(tmp_path: Path) -> None:
    from benchmarks.sounds import speech

    files = speech(None, tmp_path / "made", 2, 0.5)
    assert len(files) == 2
    assert all(audio.info(file).duration >= 0.5 for file in files)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["wav", "flac", "opus", "shards"])
def test_a_row_has_a_rate_of_both_sides_without_workers_and_with_two(
    loader: ModuleType, speech: Path, kind: str
) -> None:
    setting = {"turns": 1, "rehearsal": True, "speech": str(speech / "train")}
    peers = ["torchaudio", "datasets"] if kind == "flac" else []
    found = loader.loader(setting, kind, "eben_lowpass" if kind == "shards" else "", peers)
    names = [figure.name for figure in found.figures]
    assert names[:2] == ["0 workers", "2 workers"]
    missing = [note.partition(":")[0] for note in found.notes if "not installed" in note]
    assert names[2:] == [f"against {peer}" for peer in peers if peer not in missing]
    for figure in found.figures:
        assert figure.other is not None
        assert figure.ratio.median == pytest.approx(figure.ours.measure.median / figure.other.measure.median)
