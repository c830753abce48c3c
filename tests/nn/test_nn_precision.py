"""Filters stay exact within mixed precision, compiled or not."""

from __future__ import annotations

import pytest
import torch

from bcfusion.nn.stft import Stft


@pytest.mark.parametrize("compiled", [False, True])
def test_a_transform_in_bfloat16_keeps_full_precision_compiled_or_not(compiled: bool) -> None:
    stft, x = Stft(64, 32, 64), torch.randn(1, 1, 512, generator=torch.Generator().manual_seed(0))
    exact = torch.cat(stft(x))
    assert torch.equal(torch.cat(_run(stft, x, compiled)), exact)
    with torch.autocast("cpu", torch.bfloat16):
        real, imag = _run(stft, x, compiled)
    assert real.dtype == torch.float32
    assert torch.equal(torch.cat([real, imag]), exact)


def _run(stft: Stft, x: torch.Tensor, compiled: bool) -> tuple[torch.Tensor, torch.Tensor]:
    if not compiled:
        return stft(x)
    torch._dynamo.reset()
    whole = torch.compile(stft, backend="eager", fullgraph=True)  # no call that a graph cannot hold
    result: tuple[torch.Tensor, torch.Tensor] = whole(x)
    return result
