"""The multi-period discriminator of HiFi-GAN: each network sees the samples in columns of every p-th sample.

Kong, Kim & Bae, "HiFi-GAN: Generative Adversarial Networks for Efficient and High Fidelity Speech Synthesis", NeurIPS
2020, section 2.3 and appendix A.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from bcfusion.contracts import Judgement
from bcfusion.discriminators.columns import ColumnDiscriminator, Layer
from bcfusion.nn.conv import Norm
from bcfusion.nn.padding import pad
from bcfusion.requirements import at_least, require


class PeriodDiscriminator(nn.Module):
    """Fold ``(B, 1, T)`` into rows of ``period`` samples and judge the columns, each separately.

    Column j holds the samples j, j + period, j + 2 period, ...; the kernels are one column wide. Logits are ``(B, 1,
    frames, period)``, features ``(B, C, frames, period)``; T samples are ``ceil(T / period)`` rows, and each hidden
    layer but the last divides them by ``stride``, rounding up.

    The arguments other than ``period``, samples in a row, are those of :class:`MultiPeriodDiscriminator`.
    """

    def __init__(
        self,
        period: int,
        channels: Sequence[int],
        kernel_size: int,
        stride: int,
        negative_slope: float,
        norm: Norm | None,
    ) -> None:
        super().__init__()
        self.period = period
        strides = [stride] * (len(channels) - 1) + [1]
        layers = [Layer(width, kernel_size, step) for width, step in zip(channels, strides, strict=False)]
        self.columns = ColumnDiscriminator(layers, negative_slope, norm)

    def forward(self, waveform: Tensor) -> Judgement:
        """Judge ``(B, 1, T)`` for any T."""
        judgement: Judgement = self.columns(self.fold(waveform))
        return judgement

    def fold(self, waveform: Tensor) -> Tensor:
        """Return ``(B, 1, T)`` in rows: ``(B, ceil(T / period), period)``.

        The last row is completed by the mirrored end of the waveform, as far as there are samples to mirror, then by
        zeros; a waveform of whole rows is not changed.
        """
        waveform = pad(waveform, 0, -waveform.shape[-1] % self.period, "reflect")
        return waveform.squeeze(1).unflatten(-1, (-1, self.period))


class MultiPeriodDiscriminator(nn.Module):
    """Independent :class:`PeriodDiscriminator` networks, one per period.

    The periods are primes, so that the networks share as few samples as possible. With the defaults 41,105,770
    parameters, as published: 8,221,154 per period, whatever the period.

    Args:
        periods: samples in a row, of each network.
        channels: after each hidden layer.
        kernel_size: rows, odd. The layer of the logits has 3.
        stride: rows, of all hidden layers but the last.
        negative_slope: of the leaky ReLU.
        norm: see :func:`bcfusion.nn.conv.apply_norm`.

    Raises:
        ConfigError: no period, no channels, sizes below one, or an even kernel.
    """

    def __init__(
        self,
        periods: Sequence[int] = (2, 3, 5, 7, 11),
        channels: Sequence[int] = (32, 128, 512, 1024, 1024),
        kernel_size: int = 5,
        stride: int = 3,
        negative_slope: float = 0.1,
        norm: Norm | None = "weight_norm",
    ) -> None:
        require(self, at_least(1, periods=periods))
        super().__init__()
        self.periods = nn.ModuleList(
            PeriodDiscriminator(period, channels, kernel_size, stride, negative_slope, norm) for period in periods
        )

    def forward(self, waveform: Tensor) -> list[Judgement]:
        """Judge ``(B, 1, T)`` for any T; return one judgement per period."""
        return [part(waveform) for part in self.periods]
