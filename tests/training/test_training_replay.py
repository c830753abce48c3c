"""A run that non-finite steps end leaves the last of them; debug=replay repeats it and names what was not finite."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import TINY
from hydra.core.global_hydra import GlobalHydra
from lightning import Callback
from omegaconf import DictConfig, open_dict
from rank_processes import forked
from torch import Tensor, nn

from bcfusion.cli import main
from bcfusion.errors import CheckpointError, ConfigError, TrainingError
from bcfusion.run import checkpoint
from bcfusion.run.layout import RunDir
from bcfusion.run.record import Provenance
from bcfusion.training.guard import NonFiniteSteps
from bcfusion.training.kept_step import KeptStep
from bcfusion.training.module import SpeechModule
from bcfusion.training.non_finite import Watcher, tensors_of
from bcfusion.training.replay import Replay, replay
from bcfusion.training.run import train

Compose = Callable[..., DictConfig]


class Overflowing(nn.Module):
    """Passes its input on; of the batches whose number it is given, 1e30 times and squared, which is Inf."""

    def __init__(self, calls: list[int]) -> None:
        super().__init__()
        self.calls = calls
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))

    def forward(self, x: Tensor) -> Tensor:
        self.seen += self.training
        return (1e30 * x).square() if self.training and int(self.seen) in self.calls else x


class Rooted(nn.Module):
    """Has a finite output of 0 for some batches, and the gradient of a root there: Inf times 0."""

    def __init__(self, calls: list[int]) -> None:
        super().__init__()
        self.calls = calls
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))

    def forward(self, x: Tensor) -> Tensor:
        self.seen += self.training
        return x + (0.0 * x).abs().sqrt() if self.training and int(self.seen) in self.calls else x


class Faulty(nn.Module):
    """A small network with dropout and a module that fails for the training batches of these numbers, from 1."""

    provides: tuple[str, ...] = ()
    in_channels, hop, causal, delay = 1, 1, False, 2

    def __init__(self, sample_rate: int = 16000, calls: list[int] | None = None, root: bool = False) -> None:
        super().__init__()
        self.sample_rate = sample_rate
        self.first = nn.Conv1d(1, 4, 5, padding=2)
        self.drop = nn.Dropout(0.3)
        self.middle = nn.Sequential(nn.Tanh(), (Rooted if root else Overflowing)(list(calls or [])))
        self.last = nn.Conv1d(4, 1, 5, padding=2)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.last(self.middle(self.drop(self.first(inputs))))


def faulty(cfg: DictConfig, *calls: int, root: bool = False) -> DictConfig:
    with open_dict(cfg):
        cfg.generator = {"_target_": "test_training_replay.Faulty", "calls": list(calls), "root": root}
    return cfg


def diverged(cfg: DictConfig, path: Path) -> str:
    """Train until the run ends itself; return its message."""
    with pytest.raises(NonFiniteSteps) as error:
        train(cfg, path, Provenance("bone_to_air", "seanet", []))
    return str(error.value)


# ---------------------------------------------------------------- the watcher


def watched(network: nn.Module, inputs: Tensor) -> Watcher:
    watcher = Watcher({"net": network})
    with watcher.watching():
        network(inputs).sum().backward()
    return watcher


def test_the_first_output_that_is_not_finite_is_named_by_its_innermost_module() -> None:
    network = nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.Tanh(), Overflowing([1])), nn.Tanh())
    watcher = watched(network, torch.ones(2, 4))
    assert watcher.forward is not None
    assert watcher.forward.where == "net.1.1 (Overflowing)"
    assert "Inf of 8 values; its inputs are finite, up to " in watcher.forward.what
    assert not network[0]._forward_hooks, "hooks are removed"


def test_the_first_gradient_that_is_not_finite_is_named_by_the_module_that_made_it() -> None:
    network = nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.Tanh(), Rooted([1])), nn.Tanh())
    watcher = watched(network, torch.ones(2, 4))
    assert watcher.forward is None
    assert watcher.backward is not None
    assert watcher.backward.where == "net.1.1 (Rooted)"
    assert "8 NaN of 8 values" in watcher.backward.what
    assert watcher.parameter is not None
    assert watcher.parameter.where in ("net.0.weight", "net.0.bias")


def test_a_finite_step_has_no_fault_and_its_values_are_the_same_with_and_without_the_watcher() -> None:
    torch.manual_seed(0)
    network, inputs = (
        nn.Sequential(nn.Conv1d(1, 4, 3), nn.ReLU(inplace=True), nn.Conv1d(4, 1, 3)),
        torch.randn(2, 1, 40),
    )
    network(inputs).square().sum().backward()
    plain = [p.grad.clone() for p in network.parameters() if p.grad is not None]
    network.zero_grad()
    watcher = Watcher({"net": network})
    with watcher.watching():
        network(inputs).square().sum().backward()
    assert (watcher.forward, watcher.backward, watcher.parameter) == (None, None, None)
    assert watcher.largest[1] == max(float(gradient.abs().max()) for gradient in plain)
    for parameter, before in zip(network.parameters(), plain, strict=True):
        assert parameter.grad is not None
        assert torch.equal(parameter.grad, before)


def test_tensors_of_nested_containers_are_found() -> None:
    one, two = torch.zeros(1), torch.zeros(2, dtype=torch.complex64)
    assert [id(each) for each in tensors_of(({"a": one, "b": [None, two]}, torch.ones(1, dtype=torch.int64)))] == [
        id(one),
        id(two),
    ]


# ---------------------------------------------------------------- whole runs


@pytest.mark.slow
def test_the_step_that_ended_a_run_is_repeated_bit_for_bit_and_its_module_is_named(
    tiny: Compose, tmp_path: Path
) -> None:
    cfg = faulty(tiny("trainer.max_steps=9", "trainer.max_bad_steps=1", discriminators=False), 3)
    message = diverged(cfg, tmp_path / "run")
    run = RunDir(tmp_path / "run")
    assert message.endswith(f"\nTo see what became non-finite first: {run.replay_command}")
    stored = torch.load(run.diverged(), weights_only=True)
    assert stored["step"] == 2
    before = sorted(path.relative_to(run.path) for path in run.path.rglob("*"))

    found = replay(run, "cpu")
    assert (found.step, found.bad, found.differences, found.weights) == (2, True, [], [])
    assert found.faults["output"].where == "generator.middle.1 (Overflowing)"
    assert [values.keys() for values in found.values] == [values.keys() for values in stored["values"]]
    assert not math.isfinite(found.values[0]["loss/l1"])
    finite = {name: value for name, value in found.values[0].items() if math.isfinite(value)}
    assert finite == {name: stored["values"][0][name] for name in finite}
    assert set(found.gradients) == {"l1", "mr_stft"} - ({"mr_stft"} if "mr_stft" not in cfg.losses else set())
    assert sorted(path.relative_to(run.path) for path in run.path.rglob("*")) == before, "nothing is written"
    text = found.text()
    assert "generator.middle.1 (Overflowing): its output has " in text
    assert "All values are those of the run, bit for bit" in text
    origin = stored["batches"][0]["origins"][0]
    path, _, second = origin.removesuffix(" s").rpartition(" from ")
    assert Path(path).is_file()
    assert 0.0 <= float(second) < 3.0
    assert origin in text


@pytest.mark.slow
def test_a_gradient_that_is_not_finite_is_traced_to_the_operation(
    tiny: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The state is copied once: before the step that may end the run, and before no other."""
    copied: list[int] = []

    class Counted(KeptStep):
        def __init__(self, module: SpeechModule) -> None:
            copied.append(module.step)
            super().__init__(module)

    monkeypatch.setattr("bcfusion.training.module.KeptStep", Counted)
    diverged(
        faulty(tiny("trainer.max_steps=9", "trainer.max_bad_steps=2", discriminators=False), 2, 3, root=True),
        tmp_path / "run",
    )
    assert copied == [2]
    found = replay(RunDir(tmp_path / "run"), "cpu")
    assert "output" not in found.faults
    assert found.faults["gradient"].where == "generator.middle.1 (Rooted)"
    assert found.faults["parameter"].where.startswith("generator.first.")
    assert "AbsBackward0" in found.operation
    assert "test_training_replay.py" in found.operation
    assert all(math.isfinite(value) for name, value in found.values[0].items() if name.startswith("loss/"))
    assert all(math.isfinite(norm) for norm in found.gradients.values())
    assert found.differences == []


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_step_of_several_batches_against_discriminators_is_repeated_bit_for_bit(
    tiny: Compose, tmp_path: Path, precision: str
) -> None:
    """Spectral norm, optimisers, schedulers and the balancer are as they were before the step."""
    cfg = tiny(
        *("trainer.max_steps=12", "trainer.max_bad_steps=2", "trainer.accumulate=2", "adversarial.start_step=0"),
        *("losses=[l1,mr_stft,feature_matching]", "adversarial.order=discriminator_first"),
        f"trainer.precision={precision}",
    )
    diverged(faulty(cfg, 5, 8), tmp_path / "run")
    run = RunDir(tmp_path / "run")
    stored = checkpoint.read(run.diverged())
    assert len(stored["batches"]) == 2
    assert stored["step"] == 6
    found = replay(run, "cpu")
    assert (found.step, found.bad, found.differences) == (7, True, [])
    assert found.faults["output"].where == "generator.middle.1 (Overflowing)"
    assert math.isfinite(found.values[0]["loss/adversarial"])
    assert not math.isfinite(found.values[1]["loss/adversarial"])
    assert "Batch 2 of 2" in found.text()
    assert {"discriminator/loss", "loss/feature_matching", "share/l1"} <= set(found.values[0])


class SpoilSecondRank(Callback):
    """Makes a sample of the second rank's third batch infinite."""

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_rank == 1 and module.step == 2:
            batch["inputs"][-1, 0, 7] = math.inf


@pytest.mark.slow
def test_of_a_run_of_several_processes_the_batch_that_was_not_finite_is_found_in_one(
    tiny: Compose, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By the command that the message names, with the run's own settings, which are those of two processes."""
    cfg = faulty(tiny("trainer=ddp", "trainer.devices=2", "trainer.max_bad_steps=1", discriminators=False))
    with open_dict(cfg):
        cfg.callbacks = {"spoil": {"_target_": "test_training_replay.SpoilSecondRank"}}
    run = RunDir(tmp_path / "run")
    settings = ["experiment=seanet", "trainer=ddp", "trainer.devices=2"]
    provenance = Provenance("bone_to_air", "seanet", settings)
    errors = forked(lambda _: train(cfg, run.path, provenance), tmp_path / "ranks")
    assert all(error.endswith(f"\nTo see what became non-finite first: {run.replay_command}") for error in errors), (
        errors
    )
    assert [run.diverged(rank).is_file() for rank in range(3)] == [True, True, False]

    found = replay(run, "cpu")
    assert (found.rank, found.step, found.bad, found.weights) == (1, 2, True, [])
    assert found.faults["output"].where == "generator.first (Conv1d)"
    text = found.text()
    assert f"repeated from {run.diverged(1)}" in text
    [spoilt] = [line for line in text.splitlines() if "not finite in 1 of " in line]
    assert str(checkpoint.read(run.diverged(1))["batches"][0]["ids"][-1]) in spoilt
    assert found.differences == []

    GlobalHydra.instance().clear()
    run.checkpoints.mkdir(exist_ok=True)
    assert main(["train", f"resume={run.path}", "debug=replay", "trainer.accelerator=cpu"]) == 0
    assert text in capsys.readouterr().out


@pytest.mark.slow
def test_weights_that_are_not_finite_before_the_step_and_a_step_that_is_finite_here_are_told(
    tiny: Compose, tmp_path: Path
) -> None:
    diverged(faulty(tiny("trainer.max_steps=9", "trainer.max_bad_steps=1", discriminators=False), 1), tmp_path / "run")
    run = RunDir(tmp_path / "run")
    stored = checkpoint.read(run.diverged())
    stored["generator"]["first.weight"][0] = math.nan
    checkpoint.write(run.diverged(), stored)
    found = replay(run, "cpu")
    assert found.weights == ["generator.first.weight"]
    assert "Not finite before the step: generator.first.weight" in found.text()
    stored["values"][0]["loss/l1"] = 1.0
    checkpoint.write(run.diverged(), stored)
    assert "loss/l1: was 1.0, is nan" in replay(run, "cpu").text()

    stored["generator"]["first.weight"][0] = 0.0
    stored["generator"]["middle.1.seen"].fill_(100)
    checkpoint.write(run.diverged(), stored)
    with pytest.raises(TrainingError, match=r"is finite here: run\.json there names the device and the versions"):
        replay(run, "cpu")


@pytest.mark.slow
def test_the_verb_replays_and_refuses_a_run_that_left_no_step(
    speech: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    GlobalHydra.instance().clear()
    run = tmp_path / "run"
    command = ["train", "experiment=seanet", "data=folder", f"data.root={speech}", *TINY, "discriminators=[]"]
    command += ["losses=[l1]", "losses.l1.weight=1e38", "balancer=fixed", f"hydra.run.dir={run}"]
    assert main([*command, "trainer.max_steps=40", "trainer.max_bad_steps=2", "trainer.validate_every=40"]) == 2
    said = capsys.readouterr().err
    assert f"To see what became non-finite first: bcfusion train resume={run} debug=replay" in said
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.is_file()}
    assert main(["train", f"resume={run}", "debug=replay", "trainer.accelerator=cpu"]) == 0
    text = capsys.readouterr().out
    assert "its gradient has " in text
    assert "All values are those of the run, bit for bit" in text
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.is_file()} == before

    assert main(["train", f"resume={run}"]) == 2
    assert "holds no checkpoints/last.ckpt" in capsys.readouterr().err, "it diverged before its first checkpoint"
    shutil.rmtree(run / "diverged")
    RunDir(run).checkpoints.mkdir(exist_ok=True)
    RunDir(run).last.touch()
    assert main(["train", f"resume={run}", "debug=replay"]) == 2
    assert "holds no diverged/rank-0.ckpt" in capsys.readouterr().err
    assert main(["train", "debug=replay"]) == 2
    assert "debug=replay: name the run" in capsys.readouterr().err


def test_the_text_of_a_step_whose_gradients_are_finite_names_the_largest(tmp_path: Path) -> None:
    found = Replay(RunDir(tmp_path), 3, bad=True, values=[{"loss/l1": 0.5, "share/l1": 1.0}])
    found.largest = ("generator.last.weight", 3e38)
    assert "nothing but the norm of all gradients together: the largest is 3e+38, of generator.last.weight" in (
        found.text()
    )
    assert "loss/l1" in found.text()
    assert "share/l1" not in found.text()


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    with pytest.raises(ConfigError, match=r"debug=replay: .* holds no diverged/rank-0.ckpt"):
        replay(run)
    run.diverged().parent.mkdir()
    run.diverged().write_bytes(b"PK")
    with pytest.raises(CheckpointError, match="not a checkpoint, or damaged"):
        replay(run)
