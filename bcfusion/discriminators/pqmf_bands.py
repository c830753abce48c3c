"""EBEN's discriminator: three networks judge the bands of a pseudo-QMF filter bank, a fourth one the waveform.

Hauret et al., "EBEN: Extreme Bandwidth Extension Network applied to speech signals captured with noise-resilient
body-conduction microphones", ICASSP 2023; "Configurable EBEN", IEEE/ACM TASLP 31, 2023. There the bands are taken from
inside the generator. Here they are computed from the waveform alone, by the same filters, so that any generator can be
judged, including the effect of its synthesis on the bands; ``bands_from="generator"`` is the published form.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch.nn.functional as F
from torch import Tensor, nn

from bcfusion.contracts import Judgement
from bcfusion.discriminators.multi_scale import ScaleDiscriminator
from bcfusion.discriminators.stack import judge
from bcfusion.nn.conv import Conv1d, Norm, apply_norm
from bcfusion.nn.pqmf import PQMF
from bcfusion.requirements import at_least, one_of, require, within

BandsFrom = Literal["waveform", "generator"]
Padding = Literal["aligned", "published"]


class BandsDiscriminator(nn.Module):
    """Judge q bands side by side: ``(B, q, frames)`` to logits ``(B, 1, ceil(frames / 32))`` and seven activations.

    k3 to ``min_channels``; five k7 of stride 2, each doubling the channels; k5; k3 to the logits. All but the last are
    grouped by band and dilated, and followed by a leaky ReLU: the bands meet in the logits only. Every layer is padded
    so that frames stay aligned with those of its input. The published code pads as if there were no dilation, and the
    first layer twice: its frames lie elsewhere, there are a few more or fewer of them, and a short input leaves none;
    here it gets zeros at its end until it leaves one.

    Args:
        q: number of bands.
        min_channels: after the first layer, for all bands together; a multiple of ``q``.
        dilation: of all layers but the last.
        negative_slope: of the leaky ReLU.
        norm: see :func:`bcfusion.nn.conv.apply_norm`.
        padding: ``aligned``, or as in the ``published`` code.

    Raises:
        ConfigError: channels that do not divide into the bands, or sizes below one.
    """

    def __init__(
        self,
        q: int = 4,
        min_channels: int = 24,
        dilation: int = 1,
        negative_slope: float = 0.2,
        norm: Norm | None = "weight_norm",
        padding: Padding = "aligned",
    ) -> None:
        require(
            self,
            one_of(get_args(Padding), padding=padding),
            at_least(1, q=q, min_channels=min_channels, dilation=dilation),
            (q < 1 or min_channels % q == 0, f"min_channels={min_channels} must be a multiple of q={q}, the bands"),
        )
        super().__init__()
        self.negative_slope = negative_slope
        self.published = padding == "published"
        scale = 1 if self.published else dilation  # of the padding

        def grouped(inputs: int, outputs: int, size: int, stride: int = 1) -> nn.Conv1d:
            # torch's own layer pads equally at both ends without a copy, which ours does not for stride 2
            layer = nn.Conv1d(inputs, outputs, size, stride, padding=size // 2 * scale, dilation=dilation, groups=q)
            apply_norm(layer, norm)
            return layer

        layers: list[nn.Module] = []
        if self.published:
            layers.append(grouped(q, min_channels, 3))
        else:
            layers.append(Conv1d(q, min_channels, 3, dilation=dilation, groups=q, padding_mode="reflect", norm=norm))
        width = min_channels
        for _ in range(5):
            layers.append(grouped(width, 2 * width, 7, stride=2))
            width *= 2
        if self.published:
            layers.append(grouped(width, width, 5))
        else:
            layers.append(Conv1d(width, width, 5, dilation=dilation, groups=q, norm=norm))
        self.layers = nn.ModuleList(layers)
        self.logits = Conv1d(width, 1, 3, norm=norm)
        if self.published:
            self.least = max(2, _least_input(self.layers) - 2)  # frames of a mirror, and of one frame at the end

    def forward(self, bands: Tensor) -> Judgement:
        """Return logits and the activations of the hidden layers, first to last."""
        if self.published:
            bands = F.pad(bands, (0, max(0, self.least - bands.shape[-1])))
            bands = F.pad(bands, (1, 1), mode="reflect")  # and one zero more by the layer itself
        return judge(bands, self.layers, self.logits, self.negative_slope)


def _least_input(layers: nn.ModuleList) -> int:
    """Return the frames from which a stack of torch's convolutions leaves one."""
    frames = 1
    for layer in reversed(layers):
        assert isinstance(layer, nn.Conv1d)
        assert isinstance(layer.padding[0], int)
        span = layer.dilation[0] * (layer.kernel_size[0] - 1) + 1
        frames = (frames - 1) * layer.stride[0] + span - 2 * layer.padding[0]
    return frames


class PQMFBandsDiscriminator(nn.Module):
    """One :class:`BandsDiscriminator` per dilation on the highest bands, and one of MelGAN's on the waveform.

    The gradient flows through the filter bank to the waveform; the filters themselves are not trained. With 4 of 4
    bands and 24 channels 23,161,344 parameters, with 3 and 30 27,796,938, as published.

    Args:
        q: number of bands that are judged, the highest ones. The bands that a body-conduction sensor records well need
            no judge.
        min_channels: of each :class:`BandsDiscriminator`.
        bands: of the filter bank, see :class:`bcfusion.nn.pqmf.PQMF`; EBEN's judges the generator's bands.
        taps: likewise.
        beta: likewise.
        dilations: of the networks on the bands.
        negative_slope: of each :class:`BandsDiscriminator`.
        norm: of each :class:`BandsDiscriminator`.
        full_band: whether the waveform is judged too, by a :class:`ScaleDiscriminator` of MelGAN's sizes.
        full_band_groups: of its strided layers, a number or ``original``.
        full_band_max_channels: upper limit of its channels.
        padding: of each :class:`BandsDiscriminator`.
        bands_from: ``waveform``: this module splits it; ``generator``: the bands that the generator joined to the
            waveform are judged (as published; any generator that provides ``bands``).

    Attributes:
        takes: signals from inside the generator that :meth:`forward` takes by name: ``bands``, or none.

    Raises:
        ConfigError: more bands than there are, no dilation, or channels that do not divide into groups.
    """

    def __init__(
        self,
        q: int = 4,
        min_channels: int = 24,
        bands: int = 4,
        taps: int = 32,
        beta: float = 9.0,
        dilations: Sequence[int] = (1, 2, 3),
        negative_slope: float = 0.2,
        norm: Norm | None = "weight_norm",
        full_band: bool = True,
        full_band_groups: int | Literal["original"] = 4,
        full_band_max_channels: int = 1024,
        padding: Padding = "aligned",
        bands_from: BandsFrom = "waveform",
    ) -> None:
        require(
            self,
            within(1, bands, q=q),
            (bool(dilations), "dilations=[] leaves nothing to judge the bands with"),
            one_of(get_args(BandsFrom), bands_from=bands_from),
        )
        super().__init__()
        self.q = q
        self.takes: tuple[str, ...] = ("bands",) if bands_from == "generator" else ()
        self.pqmf = PQMF(bands, taps, beta)
        self.stacks = nn.ModuleList(
            BandsDiscriminator(q, min_channels, dilation, negative_slope, norm, padding) for dilation in dilations
        )
        self.full_band = None
        if full_band:
            self.full_band = ScaleDiscriminator(
                max_channels=full_band_max_channels, groups=full_band_groups, negative_slope=negative_slope, norm=norm
            )

    def forward(self, waveform: Tensor, bands: Tensor | None = None) -> list[Judgement]:
        """Judge a waveform; return one judgement per dilation, then that of the full band.

        Args:
            waveform: ``(B, 1, T)`` for any T.
            bands: ``(B, M, frames)`` of the waveform; None: it is split here.

        Raises:
            AudioError: more than one channel.
        """
        if bands is None:
            bands = self.pqmf.analysis(waveform, slice(-self.q, None))  # (B, q, ceil(T / M))
        bands = bands[:, -self.q :]
        judgements = [stack(bands) for stack in self.stacks]
        if self.full_band is not None:
            judgements.append(self.full_band(waveform))
        return judgements
