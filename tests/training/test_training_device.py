"""What a GPU needs of a training step, shown without one: on the meta device every look at a value is an error."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest
import script_loading  # noqa: F401  puts scripts/ on the path
import torch
from omegaconf import DictConfig
from torch import Tensor

from bcfusion.configuration.compose import drop_unchosen
from bcfusion.training.anchor import OUTPUT, anchor_parameter
from bcfusion.training.assemble import build_module
from bcfusion.training.device import any_length

SMALL = {
    "eben": ["generator.channels=4", "generator.latent_channels=8", "discriminators.pqmf_bands.min_channels=4"],
    "seanet": [
        *("generator.channels=2", "generator.bottleneck_channels=4"),
        *("discriminators.melgan_msd.channels=2", "discriminators.melgan_msd.max_channels=8"),
    ],
    "dccrn": ["generator.channels=[4,4,8,8,8,8]", "generator.lstm_units=32"],
    "bsrnn": ["generator.channels=20", "generator.layers=2", "generator.rnn_channels=16", "generator.mlp_channels=16"],
}


@pytest.mark.parametrize("experiment", SMALL)
def test_a_step_waits_for_the_device_once_for_each_network_and_mixes_no_devices(
    composed: Callable[..., DictConfig], monkeypatch: pytest.MonkeyPatch, experiment: str
) -> None:
    cfg = composed(f"experiment={experiment}", "machine=gpu", *SMALL[experiment])
    drop_unchosen(cfg)
    module, _ = build_module(cfg)
    from benchmarks.step import WithoutTrainer

    module.__class__ = WithoutTrainer
    module.to("meta").train()
    # on the meta device parameters are replaced, which a GPU's are not
    module._anchor_parameter = (anchor_parameter(module.generator, cfg.balancer.get("anchor", OUTPUT)),)
    module.start()  # type: ignore[operator]
    waits: list[Tensor] = []
    of_values = Tensor.__bool__

    def asked(tensor: Tensor) -> bool:
        if not tensor.is_meta:
            return of_values(tensor)
        waits.append(tensor)
        return True

    autocast = torch.autocast

    def where_there_is_one(device: str, *arguments: Any, **named: Any) -> AbstractContextManager[Any]:
        return nullcontext() if device == "meta" else autocast(device, *arguments, **named)

    monkeypatch.setattr(Tensor, "__bool__", asked)
    monkeypatch.setattr(torch, "autocast", where_there_is_one)
    signal = torch.empty(2, 1, 4096, device="meta")
    batch = {
        "inputs": signal,
        "target": signal.clone(),
        "lengths": torch.full((2,), 4096, device="meta"),
        "ids": ["one", "other"],
    }
    module.training_step(batch, 0)  # type: ignore[arg-type]
    assert module.step == 1
    assert len(waits) == (1 if module.adversary is None else 2)
    assert {value.device.type for value in module._sums.values()} == {"meta"}, "the log stays on the device"


def test_convolutions_of_any_length_are_not_timed_and_the_setting_returns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    with any_length():
        assert not torch.backends.cudnn.benchmark
    assert torch.backends.cudnn.benchmark
