"""The multi-scale discriminator of MelGAN: networks of one layout judge the waveform at 1, 1/2 and 1/4 of its rate.

Kumar et al., "MelGAN: Generative Adversarial Networks for Conditional Waveform Synthesis", NeurIPS 2019, appendix A.
"""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from bcfusion.contracts import Judgement
from bcfusion.discriminators.stack import judge
from bcfusion.nn.conv import Conv1d, Norm, apply_norm, divisible
from bcfusion.nn.cpu import StridedConv1d
from bcfusion.requirements import at_least, require


class ScaleDiscriminator(nn.Module):
    """Judge windows of a waveform at one rate: ``(B, 1, T)`` to logits ``(B, 1, ceil(T / 256))`` and six activations.

    k15 to ``channels``; four grouped k41 of stride 4, each with four times the channels, at most ``max_channels``; k5;
    k3 to the logits. Leaky ReLU after all but the last.

    Args:
        channels: after the first layer (``ndf`` in MelGAN).
        max_channels: upper limit of the channels.
        groups: of the strided layers: a number, or ``original``: a quarter of the layer's input channels.
        negative_slope: of the leaky ReLU.
        norm: see :func:`bcfusion.nn.conv.apply_norm`.

    Raises:
        ConfigError: groups that do not divide the channels.
    """

    def __init__(
        self,
        channels: int = 16,
        max_channels: int = 1024,
        groups: int | Literal["original"] = "original",
        negative_slope: float = 0.2,
        norm: Norm | None = "weight_norm",
    ) -> None:
        super().__init__()
        self.negative_slope = negative_slope
        layers: list[nn.Module] = [Conv1d(1, channels, 15, padding_mode="reflect", norm=norm)]
        width = channels
        for _ in range(4):
            wider = min(4 * width, max_channels)
            number = max(width // 4, 1) if groups == "original" else groups
            require(self, divisible(number, width, wider))
            strided = StridedConv1d(width, wider, 41, stride=4, padding=20, groups=number)
            apply_norm(strided, norm)
            layers.append(strided)
            width = wider
        widest = min(2 * width, max_channels)
        wide = StridedConv1d(width, widest, 5, padding=2)
        apply_norm(wide, norm)
        layers.append(wide)
        self.layers = nn.ModuleList(layers)
        self.logits = Conv1d(widest, 1, 3, norm=norm)

    def forward(self, waveform: Tensor) -> Judgement:
        """Return logits and the activations of the hidden layers, first to last."""
        return judge(waveform, self.layers, self.logits, self.negative_slope)


class MultiScaleDiscriminator(nn.Module):
    """Independent :class:`ScaleDiscriminator` networks on the waveform and on its averaged, halved versions.

    Between the scales: average pooling of 4 samples every 2, not counting the zeros of the padding. With
    ``groups="original"`` 16.92 M parameters, as published; with ``groups=4`` 56,598,966, as in the EBEN paper's tables.

    Args:
        scales: number of rates.
        channels: of each :class:`ScaleDiscriminator`.
        max_channels: likewise.
        groups: likewise.
        negative_slope: likewise.
        norm: likewise.

    Raises:
        ConfigError: no scale, or groups that do not divide the channels.
    """

    def __init__(
        self,
        scales: int = 3,
        channels: int = 16,
        max_channels: int = 1024,
        groups: int | Literal["original"] = "original",
        negative_slope: float = 0.2,
        norm: Norm | None = "weight_norm",
    ) -> None:
        require(self, at_least(1, scales=scales))
        super().__init__()
        self.scales = nn.ModuleList(
            ScaleDiscriminator(channels, max_channels, groups, negative_slope, norm) for _ in range(scales)
        )
        self.halve = nn.AvgPool1d(4, stride=2, padding=1, count_include_pad=False)

    def forward(self, waveform: Tensor) -> list[Judgement]:
        """Judge ``(B, 1, T)`` for any T; return one judgement per scale, full rate first."""
        shortest = 2 ** (len(self.scales) - 1)  # leaves one sample at the lowest rate
        x = F.pad(waveform, (0, max(shortest - waveform.shape[-1], 0)))
        judgements = []
        for index, part in enumerate(self.scales):
            x = self.halve(x) if index else x
            judgements.append(part(x))
        return judgements
