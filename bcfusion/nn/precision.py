"""Filters that have to be exact run outside of automatic mixed precision."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def full_precision(signal: Tensor) -> AbstractContextManager[object]:
    """Inside, autocast is off on the device of ``signal``; what was made under it is still to be converted.

    A transform in bfloat16 adds noise 50 dB below its loudest bin, which is where speech has its high bands.
    """
    device = signal.device.type
    if torch.amp.autocast_mode.is_autocast_available(device) and torch.is_autocast_enabled(device):
        return torch.autocast(device, enabled=False)
    return nullcontext()
