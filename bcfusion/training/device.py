"""Settings of the machine: threads, TensorFloat-32, cuDNN, determinism."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from bcfusion.errors import ConfigError


def configure(trainer: Mapping[str, Any]) -> None:
    """Apply the keys ``tf32``, ``cudnn_benchmark`` and ``deterministic`` of the trainer's configuration.

    Raises:
        ConfigError: its ``accelerator`` asks for a GPU, and there is none.
    """
    on_gpu(trainer.get("accelerator", "auto"))
    # the older of torch's two switches for matrix products: Lightning reads it, and torch raises if both were used
    torch.set_float32_matmul_precision("high" if trainer["tf32"] else "highest")
    torch.backends.cudnn.allow_tf32 = bool(trainer["tf32"])
    torch.backends.cudnn.benchmark = bool(trainer["cudnn_benchmark"]) and not trainer["deterministic"]
    if trainer["deterministic"]:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(bool(trainer["deterministic"]))


def on_gpu(accelerator: str) -> bool:
    """Return whether a run with this accelerator setting uses a GPU.

    Raises:
        ConfigError: it asks for one, and there is none.
    """
    available = torch.cuda.is_available()
    if accelerator == "gpu" and not available:
        raise ConfigError([f"trainer.accelerator={accelerator}: torch finds no GPU; write trainer.accelerator=auto"])
    return accelerator == "gpu" or (accelerator == "auto" and available)


@contextmanager
def any_length() -> Iterator[None]:
    """Keep cuDNN from timing its algorithms: whole files have many lengths, and it would time them again for each."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = False
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before
