"""Disks that are full, read-only, or without hard links."""

from __future__ import annotations

import errno
import os
import re
import resource
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig
from safetensors.torch import save_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from test_training_module import batches, fit, module

from bcfusion.files import write_text
from bcfusion.run import checkpoint
from bcfusion.run.layout import RunDir
from bcfusion.run.record import Provenance
from bcfusion.training.callbacks.checkpointing import Checkpointing
from bcfusion.training.guard import NonFiniteSteps
from bcfusion.training.loggers import TensorBoardLogger
from bcfusion.training.run import train
from bcfusion.training.writing import WriteFailed, writing

LIMIT = 100_000  # bytes that a file may have while the fixture `full` is active


@pytest.fixture
def full() -> Iterator[None]:
    """Make the operating system refuse larger files, as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


LARGE = torch.zeros(LIMIT)
WRITERS: dict[str, Callable[[Path], object]] = {
    "a checkpoint": lambda path: checkpoint.write(path, {"weights": LARGE}),
    "a bundle": lambda path: save_file({"weights": LARGE}, str(path)),
    "a table": lambda path: write_text(path, "x" * 2 * LIMIT),
}


@pytest.mark.usefixtures("full")
@pytest.mark.parametrize("kind", WRITERS)
def test_a_file_that_cannot_be_written_is_named_with_the_reason_and_what_to_do(kind: str, tmp_path: Path) -> None:
    with pytest.raises(WriteFailed) as failed, writing(tmp_path / "file", lambda: "free some space"):
        WRITERS[kind](tmp_path / "file")
    first, second = str(failed.value).splitlines()
    assert first == f"cannot write {tmp_path / 'file'}: {os.strerror(errno.EFBIG)}"
    assert second == "free some space"


def test_a_full_disk_is_named_by_its_mount_point_with_its_free_space(tmp_path: Path) -> None:
    with pytest.raises(WriteFailed) as failed, writing(tmp_path / "not" / "yet", lambda: "free some space"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    said = re.fullmatch(
        r"cannot write .*/not/yet: the disk is full: .*B of .*B are free at (.*)\nfree.*", str(failed.value)
    )
    assert said is not None
    assert os.path.ismount(said[1])


def test_errors_of_other_kinds_pass(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), writing(tmp_path, str):
        1 / 0  # noqa: B018


def checkpointing(run: Path) -> Checkpointing:
    trained = module()
    callback = Checkpointing(trained, RunDir(run), {"training": {}}, every=1, validate_every=1, clock=dict)
    fit(trained, batches(1))
    return callback


def test_a_failed_checkpoint_keeps_the_last_good_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    callback = checkpointing(tmp_path / "run")
    callback.save_last()
    before = callback.run.last.read_bytes()
    callback.module.step = 7

    def replace(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(WriteFailed, match="the disk is full") as failed:
        callback.save_last()
    assert (
        f"The checkpoint of step 1 is kept: free some space, then continue with\n  bcfusion train resume={tmp_path}"
        in str(failed.value)
    )
    assert callback.run.last.read_bytes() == before
    assert [path.name for path in callback.run.checkpoints.iterdir()] == ["last.ckpt"]


def test_the_curves_are_on_the_disk_before_the_checkpoint_that_continues_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    callback = checkpointing(tmp_path / "run")
    logger = TensorBoardLogger(tmp_path / "run")
    callback.module.trainer.loggers = [logger]
    seen = []

    def write(*_: object) -> None:
        [events] = (tmp_path / "run").glob("events.*")
        seen.append(b"loss/total" in events.read_bytes())

    # a writer that is behind: its thread has written nothing yet when the step is saved
    waits = threading.Event()
    logger.log_metrics({"loss/first": 0.0}, step=1)
    logger.save()
    worker = logger.experiment.file_writer.event_writer._async_writer._worker
    record = worker._record_writer.write
    monkeypatch.setattr(worker._record_writer, "write", lambda data: (waits.wait(60), record(data)))
    logger.log_metrics({"loss/total": 1.0}, step=1)
    threading.Timer(0.2, waits.set).start()
    monkeypatch.setattr(checkpoint, "write", write)
    callback.module.step = 7
    callback.save_last()
    assert seen == [True]
    logger.finalize("success")


@pytest.mark.slow
def test_a_run_that_starts_anew_shows_nothing_of_an_attempt_without_a_checkpoint(
    tiny: Callable[..., DictConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = ["trainer.validate_every=2", "trainer.max_steps=2", "trainer.samples=1", "resume=auto"]
    provenance = Provenance(recipe="bone_to_air", experiment="seanet")
    run = RunDir(tmp_path / "run")

    write = checkpoint.write

    def refuse(path: Path, content: dict[str, object]) -> None:
        if path.name == "last.ckpt":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(path, content)

    monkeypatch.setattr(checkpoint, "write", refuse)
    with pytest.raises(WriteFailed):
        train(tiny(*settings), run.path, provenance)
    monkeypatch.setattr(checkpoint, "write", write)
    assert not run.last.exists()
    assert run.best.is_file()
    stray = [run.quality / "valid-0000099.csv", run.samples / "9-x.input.wav", run.checkpoints / "best-x.ckpt"]
    for file in stray:
        write_text(file, "of another attempt")
    train(tiny(*settings), run.path, provenance)
    assert not any(file.exists() for file in stray)
    events = EventAccumulator(str(run.path), size_guidance={"scalars": 0}).Reload()
    for tag in ("loss/total", "valid/stoi"):
        steps = [event.step for event in events.Scalars(tag)]
        assert steps == sorted(set(steps)), tag


def test_without_hard_links_the_best_checkpoints_are_copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def link(*_: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    callback = checkpointing(tmp_path / "run")
    callback.save_best(["best", "best-stoi"])
    first, second = (callback.run.checkpoints / name for name in ("best.ckpt", "best-stoi.ckpt"))
    assert first.samefile(second)
    monkeypatch.setattr(os, "link", link)
    callback.save_best(["best", "best-stoi"])
    assert not first.samefile(second)
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.slow
def test_a_run_on_a_full_disk_ends_resumable(
    tiny: Callable[..., DictConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = ["trainer.validate_every=2", "trainer.max_steps=4"]
    provenance = Provenance(recipe="bone_to_air", experiment="seanet")
    write, full_at = checkpoint.write, 4

    def refuse(path: Path, content: dict[str, object]) -> None:
        if content["step"] == full_at and path.name == "last.ckpt":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(path, content)

    monkeypatch.setattr(checkpoint, "write", refuse)
    with pytest.raises(WriteFailed, match="The checkpoint of step 2 is kept"):
        train(tiny(*settings), tmp_path / "run", provenance)
    full_at = -1
    assert train(tiny(*settings, f"resume={tmp_path / 'run'}"), tmp_path / "run", provenance).step == 4


@pytest.mark.slow
def test_a_disk_that_is_full_before_the_first_step_is_named_with_what_to_do(
    tiny: Callable[..., DictConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("bcfusion.training.run.write_record", refuse)
    with pytest.raises(WriteFailed, match=r"the disk is full: .*\nThe run has no checkpoint yet: free some space"):
        train(tiny("trainer.max_steps=1"), tmp_path / "run", Provenance(recipe="bone_to_air"))


@pytest.mark.slow
def test_a_list_of_batches_that_cannot_be_written_does_not_hide_why_the_run_ended(
    tiny: Callable[..., DictConfig], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = RunDir(tmp_path / "run")
    run.non_finite_batches(0).mkdir(parents=True)  # a folder is in its place
    settings = ["losses.l1.weight=1e39", "balancer=fixed", "trainer.max_bad_steps=1", "trainer.max_steps=4"]
    with pytest.raises(NonFiniteSteps, match="diverged at step 0"):
        train(tiny(*settings, discriminators=False), run.path, Provenance(recipe="bone_to_air"))
    assert f"bcfusion: cannot write {run.non_finite_batches(0)}: " in capsys.readouterr().err
