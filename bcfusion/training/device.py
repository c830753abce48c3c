"""Settings of the machine: threads, TensorFloat-32, cuDNN, determinism."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import torch


def configure(trainer: Mapping[str, Any]) -> None:
    """Applies the keys ``tf32``, ``cudnn_benchmark`` and ``deterministic`` of the trainer's configuration."""
    precision = "tf32" if trainer["tf32"] else "ieee"
    torch.backends.cuda.matmul.fp32_precision = precision
    torch.backends.cudnn.conv.fp32_precision = precision  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = bool(trainer["cudnn_benchmark"]) and not trainer["deterministic"]
    if trainer["deterministic"]:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(bool(trainer["deterministic"]))


def on_gpu(accelerator: str) -> bool:
    """Whether a run with this accelerator setting uses a GPU."""
    return accelerator in ("gpu", "cuda") or (accelerator == "auto" and torch.cuda.is_available())
