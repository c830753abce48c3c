"""Pairs of a made-up sensor, and a network that has something to unlearn."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import signal as scipy_signal
from torch import Tensor, nn

from bcfusion import audio
from bcfusion.contracts import Row
from bcfusion.run.bundle import save_bundle

RATE = 16000
LAG = 24  # samples, 1.5 ms


class Hum(nn.Module):
    """A network to adapt: a filter of 9 taps, behind which a hum is added that training removes."""

    provides: tuple[str, ...] = ()

    def __init__(self, level: float = 0.05, sample_rate: int = RATE) -> None:
        super().__init__()
        self.sample_rate, self.in_channels, self.hop, self.causal, self.delay = sample_rate, 1, 1, False, 4
        self.filter = nn.Conv1d(1, 1, 9, padding=4, bias=False)
        nn.init.dirac_(self.filter.weight)
        self.level = nn.Parameter(torch.tensor(float(level)))

    def forward(self, inputs: Tensor) -> Tensor:
        time = torch.arange(inputs.shape[-1], device=inputs.device) / self.sample_rate
        return self.filter(inputs) + self.level * torch.sin(2 * math.pi * 350.0 * time)


def speech_like(seed: int, seconds: float = 3.0) -> np.ndarray:
    """Return syllables of harmonics and noise, at random times."""
    rng = np.random.default_rng(seed)
    time = np.arange(round(seconds * RATE)) / RATE
    syllables = np.zeros(len(time))
    for start in np.arange(0.1, seconds - 0.2, 0.28) + 0.1 * rng.random(len(np.arange(0.1, seconds - 0.2, 0.28))):
        if rng.random() < 0.8:
            syllables += rng.uniform(0.2, 1.0) * np.exp(-0.5 * ((time - start) / 0.05) ** 2)
    voice = sum(np.sin(2 * np.pi * 120.0 * k * time + rng.uniform(0, 6)) / k for k in range(1, 40))
    return np.asarray(0.05 * syllables * (voice + 0.5 * rng.standard_normal(len(time)))) + 1e-4 * rng.standard_normal(
        len(time)
    )


def through_the_sensor(air: np.ndarray, lag: int = LAG) -> np.ndarray:
    """Return air low-passed at 1 kHz, inverted, delayed, with noise."""
    filtered = scipy_signal.lfilter(*scipy_signal.butter(2, 1000, fs=RATE), air)
    noise = 1e-4 * np.random.default_rng(9).standard_normal(len(air))
    return np.asarray(noise - np.concatenate([np.zeros(lag), filtered[: len(air) - lag]]))


def write_pair(root: Path, name: str, body: np.ndarray, air: np.ndarray) -> Row:
    for side, samples in (("body", body), ("air", air)):
        audio.write(root / side / f"{name}.wav", samples, RATE)
    paths = {side: str(root / side / f"{name}.wav") for side in ("air", "body")}
    return Row(name, paths, "unknown", "test", RATE, min(len(body), len(air)) / RATE)


def five_pairs(root: Path) -> list[Row]:
    """Write pairs of a sensor that lags by 1.5 ms and is inverted."""
    rows = []
    for seed in range(5):
        air = speech_like(seed)
        rows.append(write_pair(root, f"p{seed}", through_the_sensor(air), air))
    return rows


def save_hum(folder: Path, level: float = 0.05, losses: dict[str, Any] | None = None, sample_rate: int = RATE) -> Path:
    """Save a network with a hum as a bundle."""
    config = {"_target_": f"{__name__}.Hum", "level": level, "sample_rate": sample_rate}
    training = {"step": 7, "overrides": ["seed=1"], **({} if losses is None else {"losses": losses})}
    return save_bundle(folder, Hum(level, sample_rate), config, ["body"], training)
