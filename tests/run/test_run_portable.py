"""What of a model's description goes with it to another machine."""

from __future__ import annotations

from bcfusion.run.portable import portable_overrides, portable_training, without_paths


def test_members_of_the_trainers_own_are_left_out_with_their_arguments() -> None:
    typed = ["experiment=my_own", "generator.width=3", "recipe=fusion", "sample_rate=48000"]
    assert portable_training({"overrides": typed}) == {"overrides": ["recipe=fusion", "sample_rate=48000"]}
    assert portable_training({"step": 3, "config_dir": "/home/me/conf", "adapted_to": ["/home/me/a.wav"]}) == {
        "step": 3
    }


def test_only_plain_settings_of_task_and_network_stay() -> None:
    stay = ["experiment=seanet", "generator.strides=[2,4]", "~task.noise", "+generator.causal=true", "narrow_rate=4000"]
    leave = ["data.root=/data", "budget.minutes=3", "hydra.run.dir=x", "task.sensors=[${oc.env:HOME}]"]
    leave += ["generator.mel_from=runs/x", "generator.stage={_target_:os.system}", "task.name='a b'", "task.x=/etc/x"]
    assert portable_overrides([*stay, *leave]) == stay


def test_places_among_arguments_become_null_however_deep() -> None:
    given = {"mel_from": "runs/a", "mel": {"size": 3, "file": "/home/me/x"}, "all": ["/home/me", "relative", 1]}
    assert without_paths(given) == {"mel_from": None, "mel": {"size": 3, "file": None}, "all": [None, "relative", 1]}
