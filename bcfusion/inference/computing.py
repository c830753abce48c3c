"""One pass of a generator in eval mode, in the precision that is asked for."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bcfusion.errors import BcfusionError
from bcfusion.nn.network import estimate_of
from bcfusion.probe import device_of

__all__ = ["PRECISIONS", "check_precision", "computed"]

PRECISIONS = ("fp32", "bf16")


def check_precision(precision: str, device: torch.device | str) -> None:
    """Refuse a precision that is unknown, or that a device does not compute in.

    Raises:
        BcfusionError: with what to give instead.
    """
    if precision not in PRECISIONS:
        raise BcfusionError(f"precision {precision}: give {' or '.join(PRECISIONS)}")
    kind = torch.device(device).type
    if precision == "bf16" and not (kind == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)):
        raise BcfusionError(
            f"--precision bf16: the device '{kind}' does not gain from bfloat16, or cannot compute all networks in it; "
            "leave it out"
        )


def computed(generator: nn.Module, inputs: Tensor, precision: str = "fp32") -> Tensor:
    """Return what a generator makes of ``(B, S, T)``: ``(B, 1, T)`` float32 on the CPU, without gradients.

    Args:
        generator: fulfils :class:`bcfusion.contracts.Generator`, in eval mode.
        inputs: float32, on any device.
        precision: ``fp32``, or ``bf16`` for mixed precision: products in bfloat16, with 8 bits of mantissa. Transforms
            and filter banks stay in float32 (:mod:`bcfusion.nn.precision`).

    Raises:
        ValueError: the output has another length.
    """
    device = device_of(generator)
    with (
        torch.inference_mode(),
        torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"),
    ):
        estimate = estimate_of(generator(inputs.to(device)))
    if estimate.shape != (inputs.shape[0], 1, inputs.shape[-1]):
        made = f"{tuple(estimate.shape)} of {tuple(inputs.shape)}"
        raise ValueError(f"{type(generator).__name__} made {made} samples")
    return estimate.float().cpu()
