"""The loop that all discriminators share: hidden layers, each followed by a leaky ReLU, then the logits."""

from __future__ import annotations

from collections.abc import Iterable

import torch.nn.functional as F
from torch import Tensor, nn

from bcfusion.contracts import Judgement


def judge(h: Tensor, layers: Iterable[nn.Module], logits: nn.Module, negative_slope: float) -> Judgement:
    """Apply the hidden ``layers`` to ``h``, and ``logits`` to the last activation; return both.

    Args:
        h: input of the first layer.
        layers: first to last.
        logits: the last layer, without activation.
        negative_slope: of the leaky ReLU.
    """
    features = []
    for layer in layers:
        # in place: no convolution needs its own output in the backward pass
        h = F.leaky_relu(layer(h), negative_slope, inplace=True)
        features.append(h)
    return Judgement(logits(h), features)
