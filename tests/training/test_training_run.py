from __future__ import annotations

import csv
import json
import math
import os
import re
import signal
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conftest import TINY, TINY_DISCRIMINATOR
from lightning import Callback
from omegaconf import DictConfig, open_dict
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar.layout_pb2 import Layout
from tensorboard.plugins.custom_scalar.metadata import CONFIG_SUMMARY_TAG

import bcfusion
from bcfusion.errors import CheckpointError, ConfigError
from bcfusion.run import checkpoint
from bcfusion.run.layout import RunDir
from bcfusion.run.record import Provenance
from bcfusion.training.callbacks.checkpointing import Checkpointing
from bcfusion.training.callbacks.interrupt import RunInterrupted
from bcfusion.training.device import configure
from bcfusion.training.guard import NonFiniteSteps
from bcfusion.training.run import Result, train

pytestmark = pytest.mark.slow

Compose = Callable[..., DictConfig]
PROVENANCE = Provenance(recipe="bone_to_air", experiment="seanet", overrides=["experiment=seanet"])


def run(cfg: DictConfig, run_dir: Path) -> Result:
    return train(cfg, run_dir, PROVENANCE)


def weights(run_dir: Path) -> dict[str, Any]:
    return checkpoint.read(run_dir / "checkpoints" / "last.ckpt")


def assert_equal_states(one: Any, two: Any, path: str = "") -> None:
    """Assert bit-exact equality of nested containers."""
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, two), path
    elif isinstance(one, dict):
        assert one.keys() == two.keys(), path
        for key in one:
            assert_equal_states(one[key], two[key], f"{path}.{key}")
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(two), path
        for index, (a, b) in enumerate(zip(one, two, strict=True)):
            assert_equal_states(a, b, f"{path}[{index}]")
    else:
        assert one == two, path


@pytest.mark.usefixtures("scoring_process")
def test_a_run_writes_all_of_its_files(tiny: Compose, tmp_path: Path) -> None:
    settings = ["trainer.max_steps=4", "trainer.validate_every=2", "adversarial.start_step=1", "trainer.samples=1"]
    result = run(tiny(*settings), tmp_path / "run")
    for name in (
        "config.yaml",
        "overrides.yaml",
        "run.json",
        "metrics.csv",
        "checkpoints/best.ckpt",
        "checkpoints/best-stoi.ckpt",
        "checkpoints/last.ckpt",
        "bundle/generator.safetensors",
        "bundle/config.yaml",
        "quality/valid-0000002.csv",
        "quality/test.csv",
        "quality/test.md",
    ):
        assert (result.run_dir / name).stat().st_size > 0, name
    samples = result.run_dir / "samples"
    assert len(list(samples.glob("*.png"))) == 1
    assert {path.name.split(".")[-2] for path in samples.glob("*.wav")} == {"input", "enhanced", "target"}
    assert list(result.run_dir.glob("events.out.tfevents.*"))
    assert result.step == 4
    assert set(result.closing.scores.systems) == {"input", "enhanced"}
    assert result.closing.split == "test"
    record = json.loads((result.run_dir / "run.json").read_text())
    assert record["sessions"][0]["packages"]["torch"] == torch.__version__.partition("+")[0]
    assert yaml.safe_load((result.run_dir / "config.yaml").read_text())["sample_rate"] == 16000
    with (result.run_dir / "metrics.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert [line["step"] for line in lines] == ["1", "2", "3", "4"]
    assert math.isfinite(float(lines[-1]["loss/feature_matching"]))
    assert lines[0]["loss/feature_matching"] == ""  # the adversary joined at step 1


def test_the_bundle_is_the_best_checkpoint_and_has_no_weight_norm(tiny: Compose, tmp_path: Path) -> None:
    result = run(tiny("trainer.max_steps=3", "trainer.validate_every=1"), tmp_path / "run")
    bundle = bcfusion.load_generator(result.run_dir / "bundle")
    best = bcfusion.load_generator(result.run_dir / "checkpoints" / "best.ckpt")
    x = torch.randn(1, 1, 4000) * 0.05
    torch.testing.assert_close(bundle(x), best(x), rtol=0, atol=1e-6)
    assert not any("parametrizations" in name for name in bundle.state_dict())
    assert list(bundle.bundle.training["losses"]) == ["l1", "mr_stft", "feature_matching"]  # for `adapt`


INTERRUPT_AT = 5


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("stop_at", [3, 4, INTERRUPT_AT], ids=["mid-pass", "validation", "after"])
def test_a_resumed_run_is_bit_exact(tiny: Compose, tmp_path: Path, workers: int, stop_at: int) -> None:
    settings = [
        "trainer.validate_every=4",
        "adversarial.start_step=2",
        f"data.workers={workers}",
        "trainer.log_every=2",
    ]
    run(tiny(*settings, "trainer.max_steps=7"), tmp_path / "whole")
    run(tiny(*settings, f"trainer.max_steps={stop_at}"), tmp_path / "parts")
    torch.manual_seed(1234)  # another session starts with other random states
    run(tiny(*settings, "trainer.max_steps=7", f"resume={tmp_path / 'parts'}"), tmp_path / "parts")
    whole, parts = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    networks = ("generator", "generator_ema", "ema_updates", "discriminators")
    for key in ("step", *networks, "optimizers", "state", "random", "log"):
        assert_equal_states(whole[key], parts[key], key)
    points = [
        [row["loss/l1"] for row in csv.DictReader((tmp_path / name / "metrics.csv").open()) if row["step"] == "6"]
        for name in ("whole", "parts")
    ]
    assert points[0] == points[1] != [], "a point is the mean of all steps since the last one, in whichever session"


def test_the_averages_of_a_balancer_and_the_vectors_of_a_spectral_norm_are_resumed_bit_exactly(
    tiny: Compose, tmp_path: Path
) -> None:
    settings = [
        "balancer=eben",
        "discriminators.melgan_msd.norm=spectral_norm",
        "adversarial.start_step=1",
        "adversarial.ramp_steps=4",
        "trainer.validate_every=3",
    ]
    run(tiny(*settings, "trainer.max_steps=5"), tmp_path / "whole")
    run(tiny(*settings, "trainer.max_steps=3"), tmp_path / "parts")
    run(tiny(*settings, "trainer.max_steps=5", f"resume={tmp_path / 'parts'}"), tmp_path / "parts")
    whole, parts = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    assert len(whole["state"]["balancer"]["_extra_state"]) == 4  # l1, mr_stft, feature_matching, adversarial
    for key in ("generator", "discriminators", "optimizers", "state"):
        assert_equal_states(whole[key], parts[key], key)


@pytest.mark.usefixtures("scoring_process")
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_in_a_saved_resumable_state(tiny: Compose, tmp_path: Path, signum: int) -> None:
    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    cfg = tiny("trainer.max_steps=50", "trainer.validate_every=50")
    with open_dict(cfg):
        cfg.callbacks = {"stop": {"_target_": "test_training_run.SignalAt", "step": 3, "signum": int(signum)}}
    with pytest.raises(RunInterrupted, match="at step 3"):
        run(cfg, tmp_path / "run")
    assert weights(tmp_path / "run")["step"] == 3
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == handlers
    result = run(
        tiny("trainer.max_steps=5", "trainer.validate_every=5", f"resume={tmp_path / 'run'}"), tmp_path / "run"
    )
    assert result.step == 5


@pytest.mark.usefixtures("scoring_process")
def test_an_interrupted_validation_is_repeated(tiny: Compose, tmp_path: Path) -> None:
    settings = ["trainer.validate_every=2", "trainer.max_valid_items=null"]
    cfg = tiny("trainer.max_steps=4", *settings)
    with open_dict(cfg):
        cfg.callbacks = {"stop": {"_target_": "test_training_run.SignalInValidation"}}
    with pytest.raises(RunInterrupted, match="at step 2"):
        run(cfg, tmp_path / "run")
    assert not (tmp_path / "run" / "quality" / "valid-0000002.csv").exists()
    run(tiny("trainer.max_steps=4", *settings, f"resume={tmp_path / 'run'}"), tmp_path / "run")
    run(tiny("trainer.max_steps=4", *settings), tmp_path / "whole")
    for name in ("valid-0000002.csv", "valid-0000004.csv", "test.csv"):
        assert (tmp_path / "run" / "quality" / name).read_text() == (tmp_path / "whole" / "quality" / name).read_text()
    parts, whole = weights(tmp_path / "run"), weights(tmp_path / "whole")
    assert_equal_states(parts["generator"], whole["generator"])
    assert_equal_states(parts["training"]["quality"], whole["training"]["quality"])


@pytest.mark.usefixtures("scoring_process")
def test_a_signal_in_the_validation_that_comes_first_is_no_end_without_an_error(tiny: Compose, tmp_path: Path) -> None:
    settings = ["trainer.max_valid_items=null", "trainer.max_steps=2", "trainer.validate_every=2"]
    ends: list[tuple[int, type[BaseException]]] = [
        (signal.SIGTERM, RunInterrupted),  # in training; the next ones before it
        (signal.SIGTERM, RunInterrupted),
        (signal.SIGINT, KeyboardInterrupt),
    ]
    for number, (signum, error) in enumerate(ends):
        cfg = tiny(*settings, *([f"resume={tmp_path / 'run'}"] if number else []))
        with open_dict(cfg):
            cfg.callbacks = {"stop": {"_target_": "test_training_run.SignalInValidation", "signum": int(signum)}}
        with pytest.raises(error):
            run(cfg, tmp_path / "run")
        assert weights(tmp_path / "run")["training"]["quality"]["validated_step"] == -1
    before = weights(tmp_path / "run")
    assert run(tiny(*settings, f"resume={tmp_path / 'run'}"), tmp_path / "run").closing is not None
    after = weights(tmp_path / "run")
    quality = after["training"]["quality"]
    assert (quality["validated_step"], quality["best_step"]) == (2, 2)  # else a longer run would lose its best
    for key in ("generator", "discriminators", "optimizers", "state", "random"):
        assert_equal_states(before[key], after[key], key)


@pytest.mark.usefixtures("scoring_process")
def test_a_signal_after_the_last_batch_of_a_validation_is_not_lost(tiny: Compose, tmp_path: Path) -> None:
    settings = ["trainer.max_steps=2", "trainer.validate_every=2"]
    for kind, place in (("After", tmp_path / "run"), ("In", tmp_path / "other")):
        cfg = tiny(*settings)
        with open_dict(cfg):
            cfg.callbacks = {"stop": {"_target_": f"test_training_run.Signal{kind}Validation"}}
        with pytest.raises(RunInterrupted, match="at step 2"):
            run(cfg, place)
        assert not (place / "bundle").exists()
    cfg = tiny(*settings, f"resume={tmp_path / 'other'}")  # whose validation comes first
    with open_dict(cfg):
        cfg.callbacks = {"stop": {"_target_": "test_training_run.SignalAfterValidation"}}
    with pytest.raises(RunInterrupted, match="at step 2"):
        run(cfg, tmp_path / "other")
    assert weights(tmp_path / "other")["training"]["quality"]["validated_step"] == 2


@pytest.mark.usefixtures("scoring_process")
def test_a_validation_that_was_logged_and_not_saved_is_in_the_curves_once(
    tiny: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = ["trainer.validate_every=2", "trainer.max_steps=4"]
    cfg = tiny(*settings)
    with open_dict(cfg):
        cfg.callbacks = {"stop": {"_target_": "test_training_run.SignalInValidation"}}
    with pytest.raises(RunInterrupted, match="at step 2"):
        run(cfg, tmp_path / "run")

    def dies(*_: object) -> None:
        raise KeyboardInterrupt

    resumed = [*settings, f"resume={tmp_path / 'run'}"]
    with monkeypatch.context() as patched:
        patched.setattr(Checkpointing, "save_best", dies)  # the validation of step 2 has been logged
        with pytest.raises(KeyboardInterrupt):
            run(tiny(*resumed), tmp_path / "run")
    assert weights(tmp_path / "run")["training"]["quality"]["validated_step"] == -1
    run(tiny(*resumed), tmp_path / "run")
    events = EventAccumulator(str(tmp_path / "run"), size_guidance={"scalars": 0}).Reload()
    for tag, steps in (("loss/total", [1, 2, 3, 4]), ("valid/stoi", [2, 4]), ("valid_input/stoi", [2, 4])):
        assert [event.step for event in events.Scalars(tag)] == steps, tag
    rows = list(csv.DictReader((tmp_path / "run" / "metrics.csv").read_text().splitlines()))
    assert [row["step"] for row in rows] == ["1", "2", "3", "4"]
    assert all(row["loss/total"] for row in rows)
    assert [bool(row["valid/stoi"]) for row in rows] == [False, True, False, True]


@pytest.mark.usefixtures("scoring_process")
def test_a_run_that_was_stopped_in_its_closing_evaluation_closes_when_it_is_resumed(
    tiny: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = ["trainer.max_steps=2", "trainer.validate_every=2"]
    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    found = []

    def stopped(*_: Any, **__: Any) -> None:
        found.append((signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)))
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("bcfusion.training.final_evaluation.evaluate", stopped)
        with pytest.raises(KeyboardInterrupt):
            run(tiny(*settings), tmp_path / "run")
    assert found == [handlers], "a signal would not end the closing evaluation"
    result = run(tiny(*settings, f"resume={tmp_path / 'run'}"), tmp_path / "run")
    assert result.step == 2
    assert (tmp_path / "run" / "bundle" / "config.yaml").is_file()


class SignalInValidation(Callback):
    def __init__(self, signum: int = signal.SIGTERM) -> None:
        self.signum = signum

    def on_validation_batch_start(self, trainer: Any, module: Any, *_: Any) -> None:
        os.kill(os.getpid(), self.signum)


class SignalAfterValidation(Callback):
    def on_validation_epoch_end(self, trainer: Any, module: Any) -> None:
        os.kill(os.getpid(), signal.SIGTERM)


class SpoilInputs(Callback):
    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
        batch["inputs"].fill_(math.nan)


class SignalAt(Callback):
    def __init__(self, step: int, signum: int) -> None:
        self.step = step
        self.signum = signum

    def on_train_batch_start(self, trainer: Any, module: Any, *_: Any) -> None:
        if module.step == self.step - 1:
            os.kill(os.getpid(), self.signum)


def test_checkpoints_are_plain_containers(tiny: Compose, tmp_path: Path) -> None:
    run(tiny("trainer.max_steps=2", "trainer.validate_every=2"), tmp_path / "run")
    for path in (tmp_path / "run" / "checkpoints").glob("*.ckpt"):
        assert torch.load(path, weights_only=True)["kind"] == "bcfusion-checkpoint"
    assert "optimizers" not in torch.load(tmp_path / "run" / "checkpoints" / "best.ckpt", weights_only=True)


def test_resuming_from_best_is_refused_with_the_way_out(tiny: Compose, tmp_path: Path) -> None:
    run(tiny("trainer.max_steps=1", "trainer.validate_every=1"), tmp_path / "run")
    checkpoints = tmp_path / "run" / "checkpoints"
    (checkpoints / "best.ckpt").replace(checkpoints / "last.ckpt")
    with pytest.raises(CheckpointError, match="init_from="):
        run(tiny("trainer.max_steps=2", f"resume={tmp_path / 'run'}"), tmp_path / "run")


def test_resuming_a_finished_run_is_refused_with_the_way_out(tiny: Compose, tmp_path: Path) -> None:
    cfg = tiny("trainer.max_steps=1", "trainer.validate_every=1", f"resume={tmp_path / 'run'}")
    with open_dict(cfg):
        cfg.resume = None
    run(cfg, tmp_path / "run")
    with pytest.raises(ConfigError, match=r"Raise budget\.minutes or trainer\.max_steps"):
        run(tiny("trainer.max_steps=1", f"resume={tmp_path / 'run'}"), tmp_path / "run")


@pytest.mark.parametrize("source", ["run", "run/checkpoints/best.ckpt", "run/bundle", "a name"])
def test_init_from_starts_a_new_run_with_those_weights(
    tiny: Compose, tmp_path: Path, source: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    named = source == "a name"
    monkeypatch.setenv("BCFUSION_MODELS", str(tmp_path) if named else "")
    run(tiny("trainer.max_steps=2", "trainer.validate_every=1"), tmp_path / "run")
    first = bcfusion.load_generator(tmp_path / "run" / "bundle")
    cfg = tiny(
        "trainer.max_steps=1",
        "trainer.validate_every=1",
        f"init_from={'run' if named else tmp_path / source}",
        "optimizer.lr=1e-12",
        "seed=7",
    )
    result = run(cfg, tmp_path / "next")
    assert result.step == 1
    x = torch.randn(1, 1, 4000) * 0.05
    torch.testing.assert_close(bcfusion.load_generator(result.run_dir)(x), first(x), rtol=0, atol=1e-5)
    assert (f"init_from=run: the model in {tmp_path}\n" in capsys.readouterr().out) is named
    recorded = yaml.safe_load((result.run_dir / "config.yaml").read_text())
    assert recorded["init_from"] == str(tmp_path / ("run" if named else source))


def test_init_discriminators_takes_both_networks(tiny: Compose, tmp_path: Path) -> None:
    run(tiny("trainer.max_steps=2", "trainer.validate_every=1", "adversarial.start_step=0"), tmp_path / "run")
    before = torch.load(tmp_path / "run" / "checkpoints" / "best.ckpt", weights_only=True)["discriminators"]
    cfg = tiny("trainer.max_steps=1", f"init_from={tmp_path / 'run'}", "init_discriminators=true", "seed=7")
    after = weights(run(cfg, tmp_path / "next").run_dir)["discriminators"]
    assert_equal_states(before, after)  # the adversary of the second run has not started


def test_regression_leaves_feature_matching_out(
    tiny: Compose, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(
        tiny("discriminators=[]", "trainer.max_steps=1", "trainer.validate_every=1", discriminators=False),
        tmp_path / "r",
    )
    assert "without losses.feature_matching" in capsys.readouterr().out
    assert weights(tmp_path / "r")["discriminators"] is None


@pytest.mark.parametrize("accumulate", [1, 5])
def test_the_budget_ends_a_run_whose_last_step_is_saved(tiny: Compose, tmp_path: Path, accumulate: int) -> None:
    settings = ["trainer.validate_every=1000000", f"trainer.accumulate={accumulate}"]
    result = run(tiny("budget.minutes=0.03", *settings), tmp_path / "run")
    assert result.step > 0
    assert result.step % accumulate == 0
    assert weights(tmp_path / "run")["step"] == result.step
    assert result.closing is not None


class Counts(Callback):
    """Counts batches and validations, and saves both."""

    def __init__(self) -> None:
        self.batches = self.validations = 0

    def on_train_batch_end(self, *_: object) -> None:
        self.batches += 1

    def on_validation_end(self, *_: object) -> None:
        self.validations += 1

    def state_dict(self) -> dict[str, int]:
        return {"batches": self.batches, "validations": self.validations}


def test_the_saved_state_of_a_callback_is_that_after_the_step(tiny: Compose, tmp_path: Path) -> None:
    cfg = tiny("trainer.max_steps=5", "trainer.validate_every=4", "trainer.checkpoint_every=3")
    with open_dict(cfg):
        cfg.callbacks = {
            "counts": {"_target_": "test_training_run.Counts"},
            "stop": {"_target_": "test_training_run.SignalAt", "step": 5, "signum": int(signal.SIGTERM)},
        }
    with pytest.raises(RunInterrupted, match="at step 5"):
        run(cfg, tmp_path / "run")
    [counted] = [state for state in weights(tmp_path / "run")["callbacks"].values() if "validations" in state]
    assert counted == {"batches": 5, "validations": 1}


def test_the_batches_of_non_finite_steps_are_listed_in_the_run_directory(tiny: Compose, tmp_path: Path) -> None:
    cfg = tiny("trainer.max_bad_steps=2", "trainer.max_steps=4")
    with open_dict(cfg):
        cfg.callbacks = {"spoil": {"_target_": "test_training_run.SpoilInputs"}}
    with pytest.raises(NonFiniteSteps) as caught:
        run(cfg, tmp_path / "run")
    lines = RunDir(tmp_path / "run").non_finite_batches(0).read_text().splitlines()
    assert lines == [f"step {step}: {' '.join(ids)}" for step, ids in caught.value.batches]
    assert len(lines) == 2


def test_seed_zero_is_honoured(tiny: Compose, tmp_path: Path) -> None:
    settings = ["trainer.max_steps=2", "trainer.validate_every=2", "seed=0"]
    run(tiny(*settings), tmp_path / "a")
    torch.manual_seed(99)
    run(tiny(*settings), tmp_path / "b")
    assert_equal_states(weights(tmp_path / "a")["generator"], weights(tmp_path / "b")["generator"])


def test_bf16_trains(tiny: Compose, tmp_path: Path) -> None:
    cfg = tiny(
        "trainer.precision=bf16-mixed", "trainer.max_steps=2", "trainer.validate_every=2", "adversarial.start_step=0"
    )
    result = run(cfg, tmp_path / "run")
    state = weights(result.run_dir)["state"]
    assert state["skipped_steps"] == {"generator": 0, "discriminator": 0}


def test_tensorboard_shows_scalars_by_group_sounds_pictures_and_hparams_once(tiny: Compose, tmp_path: Path) -> None:
    settings = ["trainer.validate_every=2", "adversarial.start_step=0", "trainer.samples=1"]
    run(tiny(*settings, "trainer.max_steps=2"), tmp_path / "run")
    run(tiny(*settings, "trainer.max_steps=4", f"resume={tmp_path / 'run'}"), tmp_path / "run")
    events = EventAccumulator(str(tmp_path / "run"), size_guidance={"audio": 0, "images": 0, "scalars": 0}).Reload()
    tags = events.Tags()
    groups = {tag.partition("/")[0] for tag in tags["scalars"]}
    assert {
        "loss",
        "discriminator",
        "gradient_norm",
        "lr",
        "skipped_steps",
        "rate",
        "valid",
        "valid_input",
        "best",
    } <= groups
    assert [event.step for event in events.Scalars("valid/stoi")] == [2, 4]
    assert [event.step for event in events.Scalars("valid_input/stoi")] == [2, 4]
    assert [event.step for event in events.Scalars("loss/l1")] == [1, 2, 3, 4]
    assert [event.step for event in events.Audio("sample_0/enhanced")] == [2, 4]
    assert [event.step for event in events.Audio("sample_0/target")] == [2]
    assert [event.step for event in events.Images("sample_0/spectrogram")] == [2, 4]
    written = [path.read_bytes() for path in (tmp_path / "run").glob("events*")]
    assert sum(content.count(b"_hparams_/session_start_info") for content in written) == 1
    thumbnail = events.Images("sample_0/spectrogram")[0]
    assert thumbnail.width == 720  # twice what TensorBoard shows
    [layout] = [Layout.FromString(each.tensor_proto.string_val[0]) for each in events.Tensors(CONFIG_SUMMARY_TAG)]
    charts = {
        chart.title: re.compile(chart.multiline.tag[0]) for category in layout.category for chart in category.chart
    }
    assert list(charts)[:2] == ["selection", "stoi"]
    assert {tag for tag in tags["scalars"] if charts["stoi"].search(tag)} == {
        "valid/stoi",
        "valid_input/stoi",
        "best/stoi",
    }
    assert "loss/l1" in {tag for tag in tags["scalars"] if charts["loss"].search(tag)}
    assert events.Scalars("best/stoi")[0].step == 2  # nothing is logged at step 0


def refuse_to_draw(*_: object, **__: object) -> None:
    raise AssertionError("the process that trains draws no pictures")


@pytest.mark.usefixtures("scoring_process")
@pytest.mark.parametrize("stopped", [False, True])
def test_pictures_are_drawn_elsewhere_and_all_are_logged_however_a_run_ends(
    stopped: bool, tiny: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bcfusion.report.spectrogram.spectrogram_figure", refuse_to_draw)  # not in other processes
    cfg = tiny(
        "trainer.validate_every=2", "trainer.samples=2", "trainer.max_valid_items=2", f"trainer.max_steps={3 + stopped}"
    )
    if stopped:
        with open_dict(cfg):
            cfg.callbacks = {
                "stop": {"_target_": "test_training_run.SignalAt", "step": 3, "signum": int(signal.SIGTERM)}
            }
    with pytest.raises(RunInterrupted) if stopped else nullcontext():
        run(cfg, tmp_path / "run")
    events = EventAccumulator(str(tmp_path / "run"), size_guidance={"images": 0}).Reload()
    for index in range(2):
        assert [event.step for event in events.Images(f"sample_{index}/spectrogram")] == ([2] if stopped else [2, 3])


def test_compiled_networks_train(tiny: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self: compiled.append(type(self).__name__))
    run(tiny("trainer.compile=true", "trainer.max_steps=1", "trainer.validate_every=1"), tmp_path / "run")
    assert compiled == ["SEANet", "MultiScaleDiscriminator"]


def test_of_a_network_on_a_path_the_training_step_is_compiled(
    tiny: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
        return lambda batch: calls.append(function.__qualname__) or function(batch)

    monkeypatch.setattr(torch, "compile", compiled)
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self: None)
    path = ["objective=bridge", "objective.domain=waveform"]
    cfg = tiny(*path, "trainer.compile=true", "trainer.max_steps=2", "trainer.validate_every=2")
    run(cfg, tmp_path / "run")
    assert calls == ["Bridge.teach"] * 2


def test_lightning_can_read_the_precision_that_was_set(tiny: Compose) -> None:
    for tf32, precision in ((True, "high"), (False, "highest")):
        configure({"tf32": tf32, "cudnn_benchmark": True, "deterministic": False})
        assert torch.get_float32_matmul_precision() == precision
        assert torch.backends.cudnn.allow_tf32 is tf32


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_gpu_trains_and_its_bundle_runs_on_the_cpu(tiny: Compose, tmp_path: Path, precision: str) -> None:
    cfg = tiny(
        *("trainer.accelerator=gpu", f"trainer.precision={precision}", "adversarial.start_step=0"),
        *("trainer.max_steps=4", "trainer.validate_every=2"),
    )
    result = run(cfg, tmp_path / "run")
    x = torch.randn(1, 1, 4000) * 0.05
    assert torch.isfinite(bcfusion.load_generator(result.run_dir)(x)).all()


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["bone_to_air", "fusion", "bandwidth_extension"])
@pytest.mark.parametrize("experiment", ["seanet", "seanet_streaming"])
def test_every_recipe_trains_with_every_experiment(
    composed: Compose, speech: Path, noise: Path, tmp_path: Path, recipe: str, experiment: str
) -> None:
    cfg = composed(
        f"recipe={recipe}",
        f"experiment={experiment}",
        "data=folder",
        f"data.root={speech}",
        f"data.noise_root={noise}",
        *[setting for setting in TINY if not setting.startswith(("metrics", "selection", "trainer.keep_best"))],
        *TINY_DISCRIMINATOR,
        "adversarial.start_step=1",
        "trainer.max_steps=2",
        "trainer.validate_every=2",
    )
    result = run(cfg, tmp_path / "run")
    assert math.isfinite(result.score)
    assert math.isfinite(result.closing.scores.mean("enhanced")["pesq_wb"])
