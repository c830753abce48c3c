"""Two ranks on uneven validation sets, and with files that one of them cannot read."""

from __future__ import annotations

import csv
import multiprocessing
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import SHORT
from omegaconf import DictConfig
from rank_processes import forked
from test_training_run import PROVENANCE, assert_equal_states

from bcfusion.configuration.compose import drop_unchosen
from bcfusion.data.corpora.demo import DemoCorpus
from bcfusion.training import run as run_module
from bcfusion.training.run import train

pytestmark = pytest.mark.slow

Compose = Callable[..., DictConfig]
RANKS = ["trainer=ddp", "trainer.devices=2"]
VALID = 5


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders of short speech: train 4 files, valid 5, test 3."""
    corpus = DemoCorpus(
        cache_dir=str(tmp_path_factory.mktemp("uneven")),
        speakers={"train": 2, "valid": 1, "test": 1},
        utterances_per_speaker={"train": 2, "valid": VALID, "test": 3},
        seconds=(2.5, 3.0),
    )
    corpus.rows("train")
    return Path(corpus.root)


@pytest.fixture
def copied(corpus: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(corpus, tmp_path / "speech"))


def files(corpus: Path, split: str) -> list[Path]:
    return sorted((corpus / split).rglob("*.flac"))


def logged(run: Path, tag: str) -> list[float]:
    return [float(row[tag]) for row in csv.DictReader((run / "metrics.csv").open()) if row.get(tag)]


def test_every_utterance_of_an_uneven_validation_counts_once(tiny: Compose, corpus: Path, tmp_path: Path) -> None:
    """Of one utterance the second rank has none; the closing evaluation is on three."""

    def cfg(count: int, *more: str) -> DictConfig:
        settings = [f"data.root={corpus}", f"trainer.max_valid_items={count}", "trainer.max_steps=0"]
        return tiny(*settings, "trainer.samples=0", *more)

    counts = (1, 3, 5)
    for count in counts:
        train(cfg(count), tmp_path / f"one-{count}", PROVENANCE)

    def both(rank: int) -> None:
        for count in counts:
            train(cfg(count, *RANKS), tmp_path / f"two-{count}", PROVENANCE)

    assert forked(both, tmp_path / "ranks") == ["", ""]
    for count in counts:
        one, two = tmp_path / f"one-{count}", tmp_path / f"two-{count}"
        for name in ("valid-0000000.csv", "test.csv", "test.md"):
            assert (one / "quality" / name).read_bytes() == (two / "quality" / name).read_bytes(), (count, name)
        lines = (two / "quality" / "valid-0000000.csv").read_text().splitlines()
        assert len(lines) == 1 + 2 * count  # input and output
        for tag in ("valid/stoi", "valid/si_sdr", "valid/selection", "valid/skipped", "valid_input/stoi"):
            assert logged(one, tag) == logged(two, tag) != [], (count, tag)


def test_a_validation_file_that_one_rank_cannot_read_is_left_out_of_all(
    tiny: Compose, copied: Path, tmp_path: Path
) -> None:
    """Of two files, the second is the only one of the second rank."""
    second = files(copied, "valid")[VALID // 2]
    content = second.read_bytes()
    settings = [f"data.root={copied}", "trainer.max_valid_items=2", "trainer.max_steps=0", "trainer.samples=0"]
    kept = "data.max_unreadable_share=0.3"
    train(tiny(*settings, kept), tmp_path / "one", PROVENANCE, on_begin=lambda _: spoil(second))
    second.write_bytes(content)
    assert two_ranks_lose(second, tiny(*settings, kept, *RANKS), tmp_path / "two") == ["", ""]
    of_one, of_two = ((tmp_path / run / "quality" / "valid-0000000.csv").read_bytes() for run in ("one", "two"))
    assert of_one == of_two
    assert of_one.count(b"enhanced") == 1
    assert logged(tmp_path / "one", "valid/stoi") == logged(tmp_path / "two", "valid/stoi")

    second.write_bytes(content)
    errors = two_ranks_lose(second, tiny(*settings, "data.max_unreadable_share=0.1", *RANKS), tmp_path / "refused")
    says = f"1 unreadable files among the {VALID} utterances of valid"
    assert says in errors[0], errors  # although the other rank has found it
    assert str(second) in errors[0], errors
    assert says in errors[1], errors


@pytest.mark.parametrize("workers", [0, 1])
def test_a_training_file_that_one_rank_cannot_read_is_replaced_or_ends_both(
    workers: int, tiny: Compose, copied: Path, tmp_path: Path
) -> None:
    gone = files(copied, "train")[0]
    content = gone.read_bytes()
    settings = [f"data.root={copied}", "data.batch_size=1", f"data.workers={workers}", "trainer.validate_every=4"]
    settings += [*RANKS, "trainer.max_steps=4", "trainer.max_valid_items=2", "trainer.samples=0"]
    run = tmp_path / "kept"
    assert two_ranks_lose(gone, tiny(*settings, "data.max_unreadable_share=0.5"), run) == ["", ""]
    assert logged(run, "data/unreadable_files")[-1] == 1  # of the first rank's log, whoever has met it
    printed = [(tmp_path / "ranks-kept" / f"printed-{rank}.txt").read_text() for rank in (0, 1)]
    assert any(f"left out of train (1 so far): {gone}" in text for text in printed)

    gone.write_bytes(content)
    errors = two_ranks_lose(gone, tiny(*settings, "data.max_unreadable_share=0.1"), tmp_path / "refused")
    assert all(errors)
    assert any(str(gone) in error and "data.max_unreadable_share" in error for error in errors), errors
    assert {error for error in errors if str(gone) not in error} <= {"2"}, errors  # one rank speaks for both


def spoil(file: Path) -> None:
    file.write_bytes(b"fLaC")


def two_ranks_lose(file: Path, cfg: DictConfig, run_dir: Path) -> list[str]:
    """Train on two ranks; when both have listed the files, one is spoilt. Return how each ended."""
    listed = multiprocessing.get_context("fork").Barrier(2)

    def begin(rank: int) -> None:
        listed.wait()
        if rank == 0:
            spoil(file)
        listed.wait()

    def both(rank: int) -> None:
        run_module.evaluate_best = lambda *_, **__: None  # type: ignore[assignment]  # takes half of the time
        train(cfg, run_dir, PROVENANCE, on_begin=begin)

    return forked(both, run_dir.with_name(f"ranks-{run_dir.name}"))


def test_normalisation_of_frequencies_starts_and_ends_alike_on_all_ranks(
    composed: Callable[..., DictConfig], corpus: Path, tmp_path: Path
) -> None:
    network = ["channels=[4,4]", "freq_kernels=[5,3]", "freq_strides=[2,2]", "blocks=1", "n_fft=80", "hop_length=40"]
    sizes = [f"generator.{setting}" for setting in (*network, "win_length=80", "frequency_norm=learnable")]
    game = ["discriminators=[]", "losses=[l1]", "balancer=eben", "scheduler=constant", "data=folder"]
    steps = ["trainer.validate_every=2", "trainer.max_steps=2", "trainer.statistics_batches=2"]
    settings = ["generator=dpcrn", *game, f"data.root={corpus}", *SHORT, *sizes, *steps, *RANKS]
    cfg = composed(*settings, "trainer.max_valid_items=2", "trainer.samples=0")
    drop_unchosen(cfg)

    def both(rank: int) -> None:
        def keep(*arguments: Any, **_: Any) -> None:
            trainer = arguments[4]
            module = trainer.lightning_module
            torch.save([module.state_dict(), module.balancer.state_dict()], tmp_path / f"{rank}.pt")

        run_module.evaluate_best = keep  # type: ignore[assignment]
        train(cfg, tmp_path / "run", PROVENANCE)

    assert forked(both, tmp_path / "ranks") == ["", ""]
    states = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1)]
    assert_equal_states(*states)
    [started] = {bool(value) for name, value in states[0][0].items() if name.endswith("started")}
    assert started
