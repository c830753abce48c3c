"""A sensor that hears the air microphone itself: for training what needs clean speech on both sides."""

from __future__ import annotations

import torch
from torch import Tensor


class Clean:
    """Simulates nothing: the sensor's signal is the clean air-conducted speech, sample by sample.

    For the second stage of a vocoder-based network, which learns to make a waveform of clean speech's spectrogram, and
    for checking that a network can pass on what is intact. A recorded sensor is used as recorded: take a corpus without
    one, or name the sensor ``air`` in ``task.sensors``.
    """

    def __call__(self, air: Tensor, sample_rate: int, generator: torch.Generator, training: bool) -> dict[str, Tensor]:
        """``signal (1, T)`` float32, a copy of ``air (1, T)``; nothing is drawn from ``generator``."""
        return {"signal": air.to(torch.float32, copy=True)}
