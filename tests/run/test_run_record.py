from __future__ import annotations

from typing import Any

from bcfusion.run.record import Provenance, hyperparameters

CONFIG: dict[str, Any] = {
    "generator": {"_target_": "my.Network", "channels": 8, "strides": [2, 4]},
    "discriminators": {},
    "critics": {},
    "losses": {"l1": {"weight": 100.0}, "mr_stft": {"weight": 0.5}},
    "optimizer": {"lr": 3e-4},
    "data": {"batch_size": 8, "segment_seconds": 2.0, "root": "speech"},
    "trainer": {"precision": "32-true"},
    "seed": 0,
}


def test_numbers_stay_numbers_and_a_typed_key_shares_the_column_of_one_that_is_always_reported() -> None:
    typed = ["optimizer.lr=3e-4", "+generator.strides=[2,4]", "losses.l1.weight=1e2", "data=folder", "~callbacks.x"]
    values = hyperparameters(CONFIG, Provenance("bone_to_air", "seanet", typed, {"generator": "seanet"}))
    assert values == {
        "recipe": "bone_to_air",
        "experiment": "seanet",
        "generator": "seanet",
        "discriminators": "none",
        "critics": "none",
        "losses": "l1+mr_stft",
        "seed": 0,
        "settings/batch_size": 8,
        "settings/segment_seconds": 2.0,
        "optimizer.lr": 3e-4,
        "trainer.precision": "32-true",
        "weight/l1": 100.0,
        "weight/mr_stft": 0.5,
        "generator.strides": "[2,4]",
        "data": "folder",
        "callbacks.x": "",
    }


def test_defaults_that_say_which_task_a_run_has_are_always_reported() -> None:
    config = {**CONFIG, "sample_rate": 48000, "narrow_rate": 4000, "output_root": "runs", "resume": "auto"}
    choices = {"degradation": "narrowband", "data": "manifest", "recipe": "bandwidth_extension", "debug": None}
    values = hyperparameters(config, Provenance("bandwidth_extension", None, [], choices))
    expected = {"sample_rate": 48000, "narrow_rate": 4000, "degradation": "narrowband", "data": "manifest"}
    assert expected.items() <= values.items()
    assert values.keys().isdisjoint({"output_root", "resume", "debug"})


def test_jobs_of_a_sweep_have_the_same_columns_whatever_the_values() -> None:
    one = hyperparameters(CONFIG, Provenance("fusion", None, ["seed=0", "optimizer.lr=null"]))
    other = {**CONFIG, "optimizer": {"name": "sgd"}, "seed": 1}
    two = hyperparameters(other, Provenance("fusion", None, ["seed=1", "optimizer.lr=null"]))
    assert one.keys() == two.keys()
    assert (one["generator"], two["optimizer.lr"]) == ("my.Network", "null")
