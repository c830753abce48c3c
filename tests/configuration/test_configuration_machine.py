from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import noise_problem
from omegaconf import DictConfig, OmegaConf

from bcfusion.configuration.check import verify
from bcfusion.configuration.compose import drop_unchosen
from bcfusion.configuration.machine import as_typed, for_machine, published_name, settings
from bcfusion.configuration.paths import conf_dir, group_members
from bcfusion.errors import ConfigError
from bcfusion.training.closing_report import USUAL_MINUTES

OF_CPU = sorted(file.stem for file in (conf_dir() / "experiment" / "cpu").glob("*.yaml"))


def with_gpu(_: str) -> bool:
    return True


def without_gpu(accelerator: str) -> bool:
    return accelerator == "gpu"


@pytest.mark.parametrize(
    ("typed", "gpu", "chosen"),
    [
        (["experiment=eben"], with_gpu, ["experiment=eben", "machine=gpu"]),
        (["experiment=eben"], without_gpu, ["experiment=cpu/eben", "machine=cpu"]),
        (["experiment=eben", "trainer.accelerator=gpu"], without_gpu, [..., ..., "machine=gpu"]),
        (["experiment=eben", "machine=cpu"], with_gpu, ["experiment=cpu/eben", "machine=cpu"]),
        (["machine=gpu", "experiment=eben"], without_gpu, ["experiment=eben", "machine=gpu"]),
        (["machine=auto", "experiment=eben"], without_gpu, ["experiment=cpu/eben", "machine=cpu"]),
        (["experiment=cpu/eben"], with_gpu, ["experiment=cpu/eben", "machine=cpu"]),
        (["experiment=cpu/eben"], without_gpu, ["experiment=cpu/eben", "machine=cpu"]),
        (["experiment='eben'"], without_gpu, ["experiment=cpu/eben", "machine=cpu"]),
        (["experiment=eben,identity"], without_gpu, ["experiment=cpu/eben,identity", "machine=cpu"]),
        (["experiment=choice(eben,identity)"], without_gpu, ["experiment=cpu/eben,identity", "machine=cpu"]),
        (["experiment=ebe*"], without_gpu, [...]),
        (["experiment=glob(identit*)"], without_gpu, ["experiment=identity", "machine=cpu"]),
        (["experiment=eben,cpu/eben", "machine=gpu"], without_gpu, ["experiment=eben,cpu/eben"]),
        (["experiment=mine", "seed=1,2"], without_gpu, ["experiment=mine", "seed=1,2", "machine=cpu"]),
        (["seed=1"], with_gpu, ["seed=1", "machine=gpu"]),
        (["experiment=null"], without_gpu, ["experiment=null", "machine=cpu"]),
        (["~experiment"], without_gpu, ["~experiment", "machine=cpu"]),
        (["losses=[l1"], without_gpu, ["losses=[l1"]),
    ],
)
def test_without_a_gpu_an_experiment_has_its_settings_for_a_cpu(
    typed: list[str], gpu: Callable[[str], bool], chosen: list[object]
) -> None:
    found = for_machine(typed, gpu)
    assert all(each is ... or each == own for each, own in zip(chosen, found, strict=chosen[-1] is not ...))
    if len(found) > 1:  # else the jobs of a sweep have the machine of their experiment
        assert for_machine(found, gpu) == found, "a further process reads what the first one has chosen"


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (["machine=tpu"], "machine: must be one of auto, cpu, gpu, not tpu"),
        (["machine=cpu,gpu"], "machine: has one value in a sweep"),
        (["machine=gpu", "experiment=cpu/eben"], "machine=gpu: experiment=cpu/eben has the settings of a CPU"),
    ],
)
def test_a_machine_that_does_not_fit_is_refused(typed: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        for_machine(typed, with_gpu)
    assert error.value.problems[0] == message


def test_the_users_own_experiment_has_its_own_settings_for_a_cpu(tmp_path: Path) -> None:
    (tmp_path / "experiment" / "cpu").mkdir(parents=True)
    (tmp_path / "experiment" / "cpu" / "mine.yaml").write_text("# @package _global_\n")
    assert for_machine(["experiment=mine"], without_gpu, [tmp_path]) == ["experiment=cpu/mine", "machine=cpu"]


def test_records_have_the_name_that_was_typed() -> None:
    assert as_typed(["experiment=cpu/eben", "seed=2"], "cpu") == ["experiment=eben", "seed=2", "machine=cpu"]
    assert as_typed(["experiment=eben", "machine=gpu"], "gpu") == ["experiment=eben", "machine=gpu"]
    assert published_name("cpu/eben") == published_name("eben") == "eben"
    assert published_name(None) is None


@pytest.mark.slow
@pytest.mark.parametrize("name", OF_CPU)
def test_settings_for_a_cpu_change_no_network_and_are_bounded_by_time(
    name: str, composed: Callable[..., DictConfig]
) -> None:
    published, own = composed(f"experiment={name}", "machine=gpu"), composed(f"experiment={name}")
    assert (published.machine, own.machine) == ("gpu", "cpu")
    assert own.generator == published.generator
    drop_unchosen(own)
    kept = {key: published.discriminators[key] for key in own.discriminators if published.discriminators}
    assert own.discriminators == kept or not published.discriminators  # a CPU may do without them
    assert own.trainer.max_steps is None
    assert own.budget.minutes == 9
    crop, published_crop = (cfg.data.batch_size * cfg.data.segment_seconds for cfg in (own, published))
    assert crop <= published_crop, "no more sound in a step than on a GPU"


@pytest.mark.slow
@pytest.mark.parametrize("name", group_members("experiment"))
def test_a_published_recipe_is_as_long_as_its_steps(name: str, composed: Callable[..., DictConfig]) -> None:
    cfg = composed(f"experiment={name}", "machine=gpu")
    steps = cfg.trainer.max_steps
    assert cfg.budget.minutes == (60 if steps is None else None)
    assert steps is not None or name not in OF_CPU, "a recipe that differs on a CPU is a published one, with its length"
    drop_unchosen(cfg)
    assert [problem for problem in verify(cfg) if not problem.startswith("generator.")] == noise_problem(cfg)


def test_a_bound_in_minutes_can_be_added_to_a_number_of_steps(composed: Callable[..., DictConfig]) -> None:
    cfg = composed("experiment=eben", "machine=gpu", "budget.minutes=30")
    assert cfg.budget.minutes == 30
    assert cfg.trainer.max_steps > 1000


def test_the_most_important_settings_are_told(composed: Callable[..., DictConfig]) -> None:
    cfg = composed("experiment=eben")
    assert settings(cfg).startswith(f"batch {cfg.data.batch_size} x {cfg.data.segment_seconds:g} s, losses ")
    assert settings(cfg).endswith(f"discriminators from step {cfg.adversarial.start_step}, 9 minutes")
    regression = composed("experiment=eben", "discriminators=[]", "trainer.max_steps=7", "budget.minutes=null")
    drop_unchosen(regression)
    assert settings(regression).endswith(", 7 steps")
    assert "discriminators" not in settings(regression)


def test_the_usual_minutes_of_a_run_are_those_of_the_configuration(composed: Callable[..., DictConfig]) -> None:
    assert {machine: composed(f"machine={machine}").budget.minutes for machine in ("cpu", "gpu")} == USUAL_MINUTES


def test_the_settings_of_both_machines_are_told_apart_in_the_configuration(
    composed: Callable[..., DictConfig],
) -> None:
    kept = [OmegaConf.to_container(composed("experiment=eben", f"machine={machine}")) for machine in ("cpu", "gpu")]
    assert [config["machine"] for config in kept if isinstance(config, dict)] == ["cpu", "gpu"]
