"""Full precision for filters that have to be exact, whatever the mixed precision around them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor


def filter_tensor(values: np.ndarray) -> Tensor:
    """Return the coefficients of a filter, computed in float64, as a tensor of the default dtype: for a buffer.

    It is made outside of inference mode, since an inference tensor could never be trained through.
    """
    with torch.inference_mode(False):
        return torch.tensor(values, dtype=torch.get_default_dtype())


@contextmanager
def full_precision(signal: Tensor) -> Iterator[None]:
    """Switch autocast and TensorFloat-32 off on the device of ``signal``, which the caller still has to convert.

    A transform in bfloat16 adds noise 50 dB below its loudest bin, one in TensorFloat-32 at 66 dB, which is where the
    high bands of speech are. The backward pass uses the precision that is set when it runs. In a compiled network
    autocast is off as well, but TensorFloat-32 stays as it is set: its switches are no part of a graph.
    """
    device = signal.device.type
    traced = torch.compiler.is_exporting() or torch.compiler.is_compiling()
    switched = signal.is_cuda and not traced
    before = (torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()) if switched else None
    # a graph cannot ask whether there is autocast on a device, and runs where there is
    available = traced or torch.amp.autocast_mode.is_autocast_available(device)
    enabled = available and torch.is_autocast_enabled(device)
    if before is None and not enabled:
        yield
        return
    try:
        if before is not None:
            torch.backends.cudnn.allow_tf32 = False
            torch.set_float32_matmul_precision("highest")
        if enabled:
            with torch.autocast(device, enabled=False):
                yield
        else:
            yield
    finally:
        if before is not None:
            torch.backends.cudnn.allow_tf32 = before[0]
            torch.set_float32_matmul_precision(before[1])
