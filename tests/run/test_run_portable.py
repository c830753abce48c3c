"""What of a model's description goes with it to another machine."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from omegaconf import DictConfig

from bcfusion.configuration.compose import build, generator_node
from bcfusion.configuration.values import resolved
from bcfusion.objectives.bridge import Bridge
from bcfusion.run.portable import portable_overrides, portable_training, without_paths


def test_members_of_the_trainers_own_are_left_out_with_their_arguments() -> None:
    typed = ["experiment=my_own", "generator.width=3", "recipe=fusion", "sample_rate=48000"]
    assert portable_training({"overrides": typed}) == {"overrides": ["recipe=fusion", "sample_rate=48000"]}
    assert portable_training({"step": 3, "config_dir": "/home/me/conf", "adapted_to": ["/home/me/a.wav"]}) == {
        "step": 3
    }


def test_only_plain_settings_of_task_and_network_stay() -> None:
    stay = [
        "objective=flow",
        "objective.path.sigma=0.7",
        "experiment=seanet",
        "generator.strides=[2,4]",
        "~task.noise",
        "+generator.causal=true",
        "narrow_rate=4000",
    ]
    leave = ["data.root=/data", "budget.minutes=3", "hydra.run.dir=x", "task.sensors=[${oc.env:HOME}]"]
    leave += ["generator.mel_from=runs/x", "generator.stage={_target_:os.system}", "task.name='a b'", "task.x=/etc/x"]
    assert portable_overrides([*stay, *leave]) == stay
    assert portable_overrides(["objective=my_own", "objective.width=3", "recipe=fusion"]) == ["recipe=fusion"]


def test_places_among_arguments_become_null_however_deep() -> None:
    given = {"mel_from": "runs/a", "mel": {"size": 3, "file": "/home/me/x"}, "all": ["/home/me", "relative", 1]}
    assert without_paths(given) == {"mel_from": None, "mel": {"size": 3, "file": None}, "all": [None, "relative", 1]}


@pytest.mark.parametrize("objective", ["flow", "bridge"])
def test_the_path_of_an_objective_is_no_place(composed: Callable[..., DictConfig], objective: str) -> None:
    node = generator_node(resolved(composed("experiment=unet_causal", f"objective={objective}"))[0])
    assert without_paths(node) == node
    assert isinstance(build(without_paths(node)), Bridge)
