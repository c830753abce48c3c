"""Configurations that name a class by its former place still work."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib import import_module
from inspect import signature
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from bcfusion.configuration.additions import Addition, addition_problems
from bcfusion.configuration.check import verify
from bcfusion.configuration.compose import build, plain, register_resolvers
from bcfusion.configuration.moved import MOVED, RENAMED, current_target, with_current_targets
from bcfusion.configuration.paths import conf_dir
from bcfusion.configuration.suggestions import unknown_key
from bcfusion.configuration.targets import locate

OLD = "bcfusion.data.augmentation.Augmentation"
NEW = "bcfusion.data.loading.augmentation.Augmentation"
#: Every ``_target_`` that the shipped configuration had at commit af20d1e and whose module has moved since. Not listed
#: is ``bcfusion.commands.sweep.SweepDirectory``, of Hydra's own part, which no run records and Hydra itself builds.
MOVED_SINCE_AF20D1E = {OLD: NEW, "bcfusion.data.shards.open_shards": "bcfusion.data.loading.shards.open_shards"}


@pytest.fixture
def users(tmp_path: Path) -> Iterator[Callable[[str], DictConfig]]:
    """Return a function that composes with an experiment file of the user's own."""
    register_resolvers()
    folder = tmp_path / "conf" / "experiment"
    folder.mkdir(parents=True)

    def composed(text: str) -> DictConfig:
        (folder / "mine.yaml").write_text(f"# @package _global_\n{text}")
        return compose("train", ["experiment=mine", f"hydra.searchpath=[file://{folder.parent}]"])

    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        yield composed


def test_an_old_target_in_a_users_yaml_composes_passes_the_check_and_builds(
    users: Callable[[str], DictConfig],
) -> None:
    cfg = users(f"data: {{augmentation: {{_target_: {OLD}, polarity: 0.5}}}}\n")
    assert verify(cfg) == []
    built = build(cfg.data.augmentation)
    assert f"{type(built).__module__}.{type(built).__name__}" == NEW
    assert built.polarity == 0.5


def test_the_recorded_configuration_holds_the_current_name(users: Callable[[str], DictConfig]) -> None:
    cfg = users(f"data: {{augmentation: {{_target_: {OLD}}}}}\noutput_root: elsewhere\n")
    recorded = plain(cfg)
    assert recorded["data"]["augmentation"]["_target_"] == NEW
    assert recorded["output_root"] == "elsewhere"


def test_a_node_with_interpolations_is_rewritten_where_it_is() -> None:
    """A copy would lose its parent, from which relative interpolations start."""
    cfg = OmegaConf.create(
        {"share": 0.25, "data": {"own": 0.5, "augmentation": {"_target_": OLD, "polarity": "${share}"}}}
    )
    cfg.data.augmentation.body_polarity = "${..own}"
    OmegaConf.set_readonly(cfg, True)
    built = build(cfg.data.augmentation)
    assert (built.polarity, built.body_polarity) == (0.25, 0.5)
    assert cfg.data.augmentation._target_ == NEW
    assert OmegaConf.is_interpolation(cfg.data.augmentation, "polarity")


def test_targets_are_found_at_every_depth_and_nothing_else_is_changed() -> None:
    content = {"a": [{"_target_": OLD, "name": OLD}], "b": None, "_target_": 3}
    assert with_current_targets(content) == {"a": [{"_target_": NEW, "name": OLD}], "b": None, "_target_": 3}
    assert current_target("bcfusion.data.augmentations.X") == "bcfusion.data.augmentations.X"


@pytest.mark.parametrize(("old", "new"), MOVED_SINCE_AF20D1E.items())
def test_every_shipped_target_that_has_moved_is_found(old: str, new: str) -> None:
    assert current_target(old) == new
    assert locate(old) is locate(new)


@pytest.mark.parametrize(("old", "new"), MOVED.items())
def test_every_new_place_exists_and_no_old_one_does(old: str, new: str) -> None:
    def found(target: str) -> bool:
        module, _, name = target.rpartition(".")
        try:
            import_module(target)
        except ImportError:
            try:
                return hasattr(import_module(module), name)
            except ImportError:
                return False
        return True

    assert found(new)
    assert not found(old)


@pytest.mark.parametrize(("old", "new"), [(True, "level"), (False, "none")])
def test_a_renamed_argument_is_given_its_new_name_and_value(old: bool, new: str) -> None:
    target = "bcfusion.data.simulation.transfer_function.TransferFunction"
    recorded = {"body": {"_target_": target, "calibration": "c.json", "follow_level": old}}
    assert with_current_targets(recorded) == {"body": {"_target_": target, "calibration": "c.json", "follow": new}}
    cfg = OmegaConf.create({"body": {"_target_": target, "follow": "spectrum", "follow_level": old}})
    OmegaConf.set_readonly(cfg, True)
    OmegaConf.set_struct(cfg, True)
    assert with_current_targets(cfg).body == {"_target_": target, "follow": new}
    for name, arguments in RENAMED.items():
        parameters = signature(locate(name)).parameters
        assert all(now in parameters and former not in parameters for former, (now, _) in arguments.items())


def test_a_renamed_key_is_read_from_what_was_recorded() -> None:
    losses = "bcfusion.losses.adversarial"
    recorded = {"adversarial": {"weight": 1.0, "objective": {"_target_": f"{losses}.HingeObjective"}}}
    current = {"adversarial": {"weight": 1.0, "loss": {"_target_": f"{losses}.HingeLoss"}}}
    assert with_current_targets(recorded) == current
    assert with_current_targets(current) == current
    cfg = OmegaConf.create({"adversarial": {"objective": {"_target_": f"{losses}.HingeObjective"}}, "objective": {}})
    OmegaConf.set_struct(cfg, True)
    assert with_current_targets(cfg) == {"adversarial": {"loss": {"_target_": f"{losses}.HingeLoss"}}, "objective": {}}


@pytest.mark.parametrize(
    ("typed", "answer"),
    [
        ("body.follow_level=true", "body.follow_level: its name is body.follow now\nwrite body.follow=level"),
        ("body.follow_level=False", "write body.follow=none"),
        ("body.follow_level=true,false", "write body.follow=level,none"),
        ("body.follow_level=1", "write body.follow=level or body.follow=none"),
        ("body.follow_level", "write body.follow=level or body.follow=none"),
    ],
)
def test_a_renamed_argument_that_is_typed_is_answered_with_the_value_that_means_the_same(
    typed: str, answer: str
) -> None:
    for name in RENAMED:
        tree = {"body": {"_target_": name, "calibration": "c.json", "follow": "spectrum"}}
        key, equals, value = typed.partition("=")
        assert answer in str(unknown_key(key, value if equals else None, tree))
        added = Addition(key, None, value)
        assert not equals or answer in addition_problems([added], tree, [])[0]
    assert addition_problems([Addition("body.follow_levels", True, "true")], tree, []) == []  # judged with the class
