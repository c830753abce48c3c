"""A sensor that equals the air microphone: for training that needs clean speech as input and as target."""

from __future__ import annotations

import torch
from torch import Tensor

from bcfusion.contracts import Draw


class Clean:
    """Simulates nothing: the sensor's signal is the clean air-conducted speech, sample by sample.

    For the second stage of a vocoder-based network, which learns to turn the spectrogram of clean speech into a
    waveform, and for checking that a network can pass intact speech through. A sensor that the corpus has recorded is
    used as recorded: choose a corpus without it, or name the sensor ``air`` in ``task.sensors``.
    """

    def __call__(self, air: Tensor, draw: Draw) -> dict[str, Tensor]:
        """Return ``signal (1, T)`` float32, a copy of ``air (1, T)``; nothing is drawn."""
        return {"signal": air.to(torch.float32, copy=True)}
