"""Tiny trainings for the tests of experiment trackers, and what they have logged to metrics.csv."""

from __future__ import annotations

import csv
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lightning import Callback
from omegaconf import DictConfig, open_dict

from bcfusion.run.record import Provenance
from bcfusion.training.run import train

PROVENANCE = Provenance(recipe="bone_to_air", experiment="seanet", overrides=["experiment=seanet"])
VALIDATE_EVERY = 3
FAILS_AFTER = 5  # steps, two more than the checkpoint has
STEPS = 7
SETTINGS = [f"trainer.validate_every={VALIDATE_EVERY}", f"trainer.max_steps={STEPS}"]

Point = tuple[str, int]  # tag, step
Compose = Callable[..., DictConfig]


class Crash(RuntimeError):
    """Ends a training without a checkpoint."""


class CrashAt(Callback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer: Any, module: Any, *_: Any) -> None:
        if module.step == self.step:
            raise Crash


def logged(run_dir: Path) -> dict[Point, float]:
    """What metrics.csv has."""
    with (run_dir / "metrics.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    return {
        (tag, int(line["step"])): float(value)
        for line in lines
        for tag, value in line.items()
        if value and tag != "step"
    }


def timeless(points: dict[Point, float]) -> dict[Point, float]:
    """Leave out how long things took, which two sessions cannot repeat."""
    return {point: value for point, value in points.items() if not point[0].startswith("rate/")}


def whole(tiny: Compose, run_dir: Path, *overrides: str) -> None:
    """Train to the end, with sounds and pictures of an utterance."""
    settings = [*SETTINGS, "trainer.samples=1", *overrides]
    train(tiny(*settings, discriminators=False), run_dir, PROVENANCE)


def crashed_and_resumed(tiny: Compose, run_dir: Path, *overrides: str) -> None:
    """Train to a crash after the checkpoint, then from the checkpoint to the end."""
    settings = [*SETTINGS, *overrides]
    cfg = tiny(*settings, discriminators=False)
    with open_dict(cfg):
        cfg.callbacks = {"crash": {"_target_": "tracked_runs.CrashAt", "step": FAILS_AFTER}}
    with pytest.raises(Crash):
        train(cfg, run_dir, PROVENANCE)
    train(tiny(*settings, f"resume={run_dir}", discriminators=False), run_dir, PROVENANCE)


def assert_on_this_machine(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Refuse connections to other machines from here on; return the list to which their addresses are added."""
    refused: list[str] = []
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: Any) -> Any:
        if self.family != socket.AF_UNIX and not str(address[0]).startswith(("127.", "::1", "localhost")):
            refused.append(str(address))
            raise OSError(f"a test connects to {address}")
        return connect(self, address)

    def resolve(host: Any, *_: Any, **__: Any) -> Any:
        refused.append(str(host))
        raise OSError(f"a test looks for {host}")

    monkeypatch.setattr(socket.socket, "connect", guarded)
    if not {"HTTP_PROXY", "HTTPS_PROXY"} & os.environ.keys():
        monkeypatch.setattr(socket, "getaddrinfo", resolve)
    return refused
