"""scripts/bench_data.py: every number is of segments that were really read."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from script_loading import load_script

from bcfusion import audio

SCRIPT = Path(__file__).parents[1] / "scripts" / "bench_data.py"
OURS = ("wav", "flac", "opus", "shards of flac", "flac, body simulated (eben_lowpass)")


@pytest.fixture(scope="module")
def script() -> ModuleType:
    return load_script("bench_data")


def run(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(SCRIPT.parents[1]), os.environ.get("PYTHONPATH", "")]),
    }
    command = [sys.executable, str(SCRIPT), "--root", str(root), "--segment-seconds", "0.25", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)


@pytest.mark.slow
def test_the_table_has_a_row_for_each_source_and_number_of_workers(speech: Path) -> None:
    done = run(speech / "train", "--seconds", "0.05", "--repeats", "1", "--batch", "2", "--workers", "0", "2")
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if line.startswith("| ")][2:]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert [(name, workers) for name, workers, *_ in cells if name in OURS] == [
        (n, w) for n in OURS for w in ("0", "2")
    ]
    assert {name.split()[0] for name, *_ in cells} >= {"torchaudio", "datasets"}
    for name, workers, *numbers in cells:
        if workers:
            rate, limit, share = (float(number.replace(",", "").rstrip("%")) for number in numbers)
            assert min(rate, limit) > 0
            assert share == pytest.approx(100 * rate / limit, abs=0.6 + 100 / limit), name
        else:  # a library that does not work here is named, without numbers
            assert name not in OURS
            assert numbers[0].startswith(("cannot: ", "not installed"))
            assert numbers[1:] == ["", ""]


@pytest.mark.slow
def test_a_folder_without_long_enough_files_is_refused(tmp_path: Path) -> None:
    audio.write(tmp_path / "short.wav", np.zeros(1600), 16000)
    done = run(tmp_path)
    assert done.returncode == 1
    assert done.stderr.strip() == f"bench_data: {tmp_path} has no mono file of at least 0.25 s"


def test_a_loader_that_gives_less_than_it_should_has_no_number(script: ModuleType) -> None:
    def batches(count: int, size: int) -> Iterator[torch.Tensor]:
        yield from (torch.zeros(size, 10) for _ in range(count))

    assert script.loaded(batches(10**6, 4), 4, 1, 0.01) > 0
    with pytest.raises(script.NoSegments, match="ended too early"):
        script.loaded(batches(0, 4), 4, 0, 0.01)
    with pytest.raises(script.NoSegments, match="ended too early"):
        script.loaded(batches(script.WARM_UP + 1, 4), 4, 0, 0.01)
    with pytest.raises(script.NoSegments, match="a batch of 3 segments instead of 4"):
        script.loaded(batches(10**6, 3), 4, 0, 0.01)
    with pytest.raises(script.NoSegments, match="there are no segments"):
        script.alone([], 0.01)


def test_a_loader_that_reads_other_samples_than_soundfile_has_no_number(script: ModuleType, tmp_path: Path) -> None:
    files = []
    for number in range(3):
        samples = np.random.default_rng(number).uniform(-0.5, 0.5, 16000)
        audio.write(tmp_path / "corpus" / "train" / "s" / f"{number}.wav", samples, 16000)
        audio.write(tmp_path / "other" / f"{number}.wav", samples[::-1], 16000)
        files.append(tmp_path / "corpus" / "train" / "s" / f"{number}.wav")
    corpus = script.FolderCorpus(str(tmp_path / "corpus"))
    arguments = script.parser().parse_args(["--root", "x", "--segment-seconds", "0.5", "--batch", "4"])
    places = {row.id: row.paths["air"] for row in corpus.rows("train")}
    assert len(script.ours("wav", corpus, places, arguments).spans) == script.COMPARED
    wrong = {name: path.replace("corpus/train/s", "other") for name, path in places.items()}
    with pytest.raises(script.NoSegments, match="read different samples"):
        script.ours("wav", corpus, wrong, arguments)
