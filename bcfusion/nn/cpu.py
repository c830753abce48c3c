"""Where oneDNN, torch's library on CPUs, is slower than torch's own kernels."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def without_onednn() -> Iterator[None]:
    """Inside, torch's own kernels compute, on CPUs.

    They are several times quicker for a few steps of an LSTM, whose weights oneDNN prepares at every call, and twenty
    times for long filters of one channel. ``torch.backends.mkldnn.flags`` does the same, with a warning about GPUs of
    another make.
    """
    backend: Any = torch.backends.mkldnn
    before = backend.enabled
    backend.enabled = False
    try:
        yield
    finally:
        backend.enabled = before
