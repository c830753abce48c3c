"""The multi-scale discriminator of HiFi-GAN: deeper than MelGAN's, and spectrally normalised at the full rate.

Kong, Kim & Bae, "HiFi-GAN: Generative Adversarial Networks for Efficient and High Fidelity Speech Synthesis", NeurIPS
2020, section 2.3; layers as in the networks published with it.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from bcfusion.contracts import Judgement
from bcfusion.discriminators.columns import ColumnDiscriminator, Layer
from bcfusion.nn.conv import Norm
from bcfusion.requirements import at_least, require


class HifiGanMultiScaleDiscriminator(nn.Module):
    """Independent networks on the waveform and on its averaged, halved versions: logits ``(B, 1, frames)``.

    Seven grouped convolutions over time, then k3 to the logits; with the defaults one frame of logits per 64 samples of
    a scale's input. Between the scales: average pooling of 4 samples every 2, whose padding of two zeros at both ends
    counts as signal (T samples become ``T // 2 + 1``), unlike MelGAN's. With the defaults 29,618,821 parameters, as
    published.

    Spectral norm (Miyato et al. 2018) divides a weight by its largest singular value, which is estimated by one power
    iteration per forward pass in training mode and kept in evaluation mode. The two vectors of the iteration are
    buffers: checkpoints hold them.

    Args:
        scales: number of rates.
        channels: of the hidden layers, first to last.
        kernel_sizes: of the hidden layers, odd.
        strides: of the hidden layers.
        groups: of the hidden layers.
        negative_slope: of the leaky ReLU.
        first_norm: at the full rate; see :func:`bcfusion.nn.conv.apply_norm`.
        norm: at the other rates.

    Raises:
        ConfigError: no scale, lists of different lengths, sizes below one, even kernels, or groups that do not divide
            the channels.
    """

    def __init__(
        self,
        scales: int = 3,
        channels: Sequence[int] = (128, 128, 256, 512, 1024, 1024, 1024),
        kernel_sizes: Sequence[int] = (15, 41, 41, 41, 41, 41, 5),
        strides: Sequence[int] = (1, 2, 2, 4, 4, 1, 1),
        groups: Sequence[int] = (1, 4, 16, 16, 16, 16, 1),
        negative_slope: float = 0.1,
        first_norm: Norm | None = "spectral_norm",
        norm: Norm | None = "weight_norm",
    ) -> None:
        lengths = [len(sizes) for sizes in (channels, kernel_sizes, strides, groups)]
        require(
            self,
            at_least(1, scales=scales),
            (
                len(set(lengths)) == 1,
                f"channels, kernel_sizes, strides and groups have {lengths} entries: give one per layer",
            ),
        )
        super().__init__()
        layers = [Layer(*sizes) for sizes in zip(channels, kernel_sizes, strides, groups, strict=True)]
        norms = [first_norm] + [norm] * (scales - 1)
        self.scales = nn.ModuleList(ColumnDiscriminator(layers, negative_slope, of_scale) for of_scale in norms)
        self.halve = nn.AvgPool1d(4, stride=2, padding=2)

    def forward(self, waveform: Tensor) -> list[Judgement]:
        """Judge ``(B, 1, T)`` for any T; return one judgement per scale, full rate first."""
        judgements = []
        x = waveform
        for index, part in enumerate(self.scales):
            x = self.halve(x) if index else x
            logits, features = part(x.transpose(1, 2))  # the whole waveform is one column
            judgements.append(Judgement(logits.squeeze(-1), [feature.squeeze(-1) for feature in features]))
        return judgements
