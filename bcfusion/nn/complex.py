"""Layers over complex numbers, built from real ones: real parts first, then imaginary parts, along the channels.

A complex layer of weight W = W_r + j W_i stands for two real ones. Both are run on both parts of x = x_r + j x_i, and
the four results make the product, W x = (W_r x_r - W_i x_i) + j (W_r x_i + W_i x_r) (Trabelsi et al. 2018, "Deep
Complex Networks", eq. 1). To a real layer the two parts are two items that lie next to each other in the batch; a
convolution holds W_r and W_i as the first and second half of its output channels, so that one call gives all four.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from bcfusion.errors import ConfigError
from bcfusion.nn.conv2d import Conv2d, ConvTranspose2d
from bcfusion.nn.recurrent import LSTM
from bcfusion.nn.streaming import StreamingModule


def complex_cat(x: Tensor, y: Tensor) -> Tensor:
    """``(B, 2C, ...)`` and ``(B, 2D, ...)`` to ``(B, 2(C + D), ...)``: all real parts, then all imaginary parts."""
    return torch.cat([x.unflatten(1, (2, -1)), y.unflatten(1, (2, -1))], dim=2).flatten(1, 2)


def _parts(x: Tensor) -> Tensor:
    """``(B, 2C, ...)`` to ``(2B, C, ...)``: an item's parts next to each other."""
    return x.reshape(2 * x.shape[0], -1, *x.shape[2:])


def _product(both: Tensor) -> Tensor:
    """``(B, 2C, ...)`` from what W_r (first C channels) and W_i (last C) make of the parts, ``(2B, 2C, ...)``."""
    four = both.reshape(both.shape[0] // 2, 4, -1, *both.shape[2:])
    real_by_real, real_by_imag, imag_by_real, imag_by_imag = four.unbind(1)
    return torch.cat([real_by_real - imag_by_imag, imag_by_real + real_by_imag], dim=1)


class _PerPart(StreamingModule):
    """For a layer that is run on both parts: it keeps a past of each, ``(B, 2, ...)``."""

    def initial_state(self, batch_size: int, like: Tensor) -> dict[str, Tensor]:
        state = super().initial_state(2 * batch_size, like)
        return {name: tensor.unflatten(0, (batch_size, 2)) for name, tensor in state.items()}

    def recall(self, name: str) -> Tensor:
        return super().recall(name).flatten(0, 1)

    def replace(self, **tensors: Tensor) -> None:
        super().replace(**{name: tensor.unflatten(0, (-1, 2)) for name, tensor in tensors.items()})


class _PartConv2d(_PerPart, Conv2d):
    pass


class _PartConvTranspose2d(_PerPart, ConvTranspose2d):
    pass


class ComplexConv2d(StreamingModule):
    """Convolution ``(B, 2 in_channels, F, N) -> (B, 2 out_channels, F', N)`` of complex channels.

    Args:
        in_channels, out_channels: complex ones, each of two real ones.
        kernel_size, freq_bins, padding, bias, causal: as in :class:`bcfusion.nn.conv2d.Conv2d`. There is a bias b_r of
            W_r and one b_i of W_i: b_r - b_i for the real part, b_r + b_i for the imaginary part.
        stride: along frequency.

    Attributes:
        layer: the real convolution, of ``2 out_channels``: W_r and b_r, then W_i and b_i.
        future: frames of look-ahead. out_bins: F'.

    Raises:
        ConfigError: as there.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Sequence[int],
        freq_bins: int,
        stride: int = 1,
        padding: Sequence[int] = (0, 0),
        bias: bool = True,
        causal: bool = False,
    ) -> None:
        super().__init__()
        self.layer = _PartConv2d(
            in_channels,
            2 * out_channels,
            kernel_size,
            freq_bins,
            stride=(stride, 1),
            padding=padding,
            bias=bias,
            causal=causal,
        )
        self.causal, self.future, self.out_bins = causal, self.layer.future, self.layer.out_bins

    def forward(self, x: Tensor) -> Tensor:
        """Whole spectrograms or chunks, of any number of frames."""
        return _product(self.layer(_parts(x)))


class ComplexConvTranspose2d(StreamingModule):
    """Transposed convolution ``(B, 2 in_channels, F, N) -> (B, 2 out_channels, F', N)`` of complex channels.

    Args:
        in_channels, out_channels: complex ones, each of two real ones.
        kernel_size, freq_bins, stride, padding, bias, causal, future: as in
            :class:`bcfusion.nn.conv2d.ConvTranspose2d`; the bias as in :class:`ComplexConv2d`.

    Attributes:
        layer: the real convolution, of ``2 out_channels``: W_r and b_r, then W_i and b_i.
        future: frames of look-ahead. out_bins: F'.

    Raises:
        ConfigError: as there.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Sequence[int],
        freq_bins: int,
        stride: int = 1,
        padding: Sequence[int] = (0, 0),
        bias: bool = True,
        causal: bool = False,
        future: int | None = None,
    ) -> None:
        super().__init__()
        self.layer = _PartConvTranspose2d(
            in_channels,
            2 * out_channels,
            kernel_size,
            freq_bins,
            stride=stride,
            padding=padding,
            bias=bias,
            causal=causal,
            future=future,
        )
        self.causal, self.future, self.out_bins = causal, self.layer.future, self.layer.out_bins

    def forward(self, x: Tensor) -> Tensor:
        """Whole spectrograms or chunks, of any number of frames."""
        return _product(self.layer(_parts(x)))


class ComplexLSTM(StreamingModule):
    """Complex LSTM ``(B, 2 input_size, N) -> (B, 2 hidden_size, N)``, one layer (Hu et al. 2020, section 2).

    The cells themselves are real: one LSTM stands for W_r and one for W_i, each is run on both parts, and the four
    outputs are joined as those of a product.

    Args:
        input_size, hidden_size: complex features, each of two real ones.

    Raises:
        ConfigError: sizes below one.
    """

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.real = LSTM(input_size, hidden_size, streams=2)
        self.imag = LSTM(input_size, hidden_size, streams=2)

    def forward(self, x: Tensor) -> Tensor:
        """Whole files or chunks, of any number of frames."""
        parts = _parts(x).transpose(1, 2)  # (2B, N, input_size)
        return _product(torch.cat([self.real(parts), self.imag(parts)], dim=2).transpose(1, 2))


class ComplexLinear(nn.Module):
    """Dense layer ``(B, 2 in_features, N) -> (B, 2 out_features, N)`` of complex features, each frame alone.

    Args:
        in_features, out_features: complex ones, each of two real ones.

    Attributes:
        layer: the real dense layer, of ``2 out_features``: W_r and b_r, then W_i and b_i.

    Raises:
        ConfigError: sizes below one.
    """

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        if min(in_features, out_features) < 1:
            sizes = f"in_features={in_features} and out_features={out_features}"
            raise ConfigError([f"ComplexLinear: {sizes} must be at least 1"])
        self.layer = nn.Linear(in_features, 2 * out_features)

    def forward(self, x: Tensor) -> Tensor:
        """Any number of frames."""
        return _product(self.layer(_parts(x).transpose(1, 2)).transpose(1, 2))
