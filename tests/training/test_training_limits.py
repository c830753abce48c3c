"""What the machine can do."""

from __future__ import annotations

import os
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from bcfusion.errors import ConfigError
from bcfusion.generators.dpcrn import DPCRN
from bcfusion.objectives.bridge import Bridge
from bcfusion.objectives.paths import Flow
from bcfusion.training import limits
from bcfusion.training.limits import available_bytes, check_batch, check_devices, saved_bytes


class Squares(nn.Module):
    """Keeps its input and its hidden layer for the backward pass: 1 + 3 channels of floats."""

    sample_rate = 16000

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv1d(1, 3, 1)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.first(inputs).square().sum(1, keepdim=True)


def test_what_a_generator_keeps_is_measured_without_its_parameters() -> None:
    network = Squares()
    assert saved_bytes(network, torch.randn(1, 1, 1000)) == 4 * 1000 * (1 + 3)
    assert saved_bytes(network, torch.randn(2, 1, 500)) == 4 * 1000 * (1 + 3)
    assert network.training


def test_of_a_network_on_a_path_a_training_step_is_measured_not_all_passes() -> None:
    network = partial(DPCRN, channels=(4, 4, 4, 4, 4), blocks=1)
    kept = [saved_bytes(Bridge(network, Flow(), steps=steps), torch.randn(1, 1, 8000)) for steps in (1, 20)]
    assert kept[0] == kept[1] > 0


def test_a_batch_that_cannot_fit_is_refused_in_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "available_bytes", lambda on_gpu: 10**9)
    crop = 4 * 16000 * (2 + 4)  # input, target, and what Squares keeps
    fits = 10**9 // crop
    given = {"sensors": 1, "samples": 16000, "on_gpu": False, "files": None}
    assert check_batch(Squares(), fits, **given) == []
    with pytest.raises(ConfigError, match=rf"1 s need at least 38\.4 GB in memory.*\nat most {fits} can fit"):
        check_batch(Squares(), 100_000, **given)
    with pytest.raises(ConfigError):
        check_batch(Squares(), fits, processes=2, **given)
    assert check_batch(Squares(), int(1.2 * fits), half=True, **given) == []


def test_a_batch_of_mostly_repeated_files_is_mentioned() -> None:
    given = {"sensors": 1, "samples": 160, "on_gpu": False}
    assert check_batch(Squares(), 8, files=2, **given) == []
    (line,) = check_batch(Squares(), 100, files=4, **given)
    assert line.endswith("a step takes 100 crops, each of the 4 training files 25 times")


def test_free_memory_is_known() -> None:
    free = available_bytes(on_gpu=False)
    assert free is None or 10**7 < free < 10**14


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"accelerator": "cpu", "devices": [0, 1]}, "names GPUs, but the run uses the CPU"),
        ({"accelerator": "gpu", "devices": "auto"}, "torch finds no GPU"),
        ({"accelerator": "cpu", "devices": 1, "num_nodes": 2}, "2 machines, but nothing says where the others are"),
        (
            {"accelerator": "cpu", "devices": 1, "environment": {"_target_": "x.SLURMEnvironment"}},
            "srun has not started",
        ),
    ],
)
def test_devices_that_do_not_exist_are_refused(
    monkeypatch: pytest.MonkeyPatch, settings: dict[str, object], says: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    for variable in ("SLURM_PROCID", "MASTER_ADDR", "NODE_RANK", "GROUP_RANK"):
        monkeypatch.delenv(variable, raising=False)
    with pytest.raises(ConfigError, match=says):
        check_devices(settings)


def test_more_gpus_than_there_are_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for devices in ("auto", 2, [0, 1], -1):
        assert check_devices({"accelerator": "gpu", "devices": devices}) == []
    for devices in (3, [0, 2]):
        with pytest.raises(ConfigError, match="but this machine has 2 GPUs"):
            check_devices({"accelerator": "gpu", "devices": devices})


def test_more_processes_than_cores_are_mentioned() -> None:
    cores = len(os.sched_getaffinity(0))
    assert check_devices({"accelerator": "cpu", "devices": cores}) == []
    (line,) = check_devices({"accelerator": "cpu", "devices": cores + 1})
    assert f"{cores + 1} processes share {cores} cores" in line
