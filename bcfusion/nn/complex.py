"""Layers over complex numbers, built from real ones: real parts first, then imaginary parts, along the channels.

A complex layer with the weight W = W_r + j W_i consists of two real ones. Both are applied to both parts of x = x_r + j
x_i, and the four results are combined to the product W x = (W_r x_r - W_i x_i) + j (W_r x_i + W_i x_r) (Trabelsi et al.
2018, "Deep Complex Networks", eq. 1). A real layer sees the two parts as two neighbouring items of the batch. A
convolution holds W_r and W_i as the first and second half of its output channels, so that one call computes all four
results.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from bcfusion.nn.conv2d import Conv2d, ConvTranspose2d
from bcfusion.nn.recurrent import LSTM
from bcfusion.nn.streaming import StreamingModule
from bcfusion.requirements import at_least, require


def complex_cat(x: Tensor, y: Tensor) -> Tensor:
    """Concatenate ``(B, 2C, ...)`` and ``(B, 2D, ...)`` to ``(B, 2(C + D), ...)``: all real parts, then all imaginary
    ones."""
    return torch.cat([x.unflatten(1, (2, -1)), y.unflatten(1, (2, -1))], dim=2).flatten(1, 2)


def _parts(x: Tensor) -> Tensor:
    """Reshape ``(B, 2C, ...)`` to ``(2B, C, ...)``: the two parts of an item are neighbours."""
    return x.reshape(2 * x.shape[0], -1, *x.shape[2:])


def _product(both: Tensor) -> Tensor:
    """Return the complex product ``(B, 2C, ...)`` of the outputs of W_r (first C channels) and W_i (last C) ``(2B, 2C,
    ...)``."""
    four = both.reshape(both.shape[0] // 2, 4, -1, *both.shape[2:])
    real_by_real, real_by_imag, imag_by_real, imag_by_imag = four.unbind(1)
    return torch.cat([real_by_real - imag_by_imag, imag_by_real + real_by_imag], dim=1)


class _PerPart(StreamingModule):
    """Mixin for a layer that is applied to both parts: its state holds both, ``(B, 2, ...)``."""

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


class _ComplexConvolution(StreamingModule):
    """A complex convolution, computed by the real ``layer``, which has twice as many output channels."""

    def __init__(self, layer: _PartConv2d | _PartConvTranspose2d) -> None:
        super().__init__()
        self.layer = layer
        self.causal, self.future, self.out_bins = layer.causal, layer.future, layer.out_bins

    def forward(self, x: Tensor) -> Tensor:
        """Convolve whole spectrograms or chunks, of any number of frames."""
        return _product(self.layer(_parts(x)))


class ComplexConv2d(_ComplexConvolution):
    """Convolution ``(B, 2 in_channels, F, N) -> (B, 2 out_channels, F', N)`` of complex channels.

    Args:
        in_channels: complex ones, each of two real ones.
        out_channels: likewise.
        kernel_size: as in :class:`bcfusion.nn.conv2d.Conv2d`, like the arguments not listed here.
        stride: along frequency.
        bias: one bias b_r of W_r and one b_i of W_i: b_r - b_i is added to the real part, b_r + b_i to the imaginary
            part.

    Attributes:
        layer: the real convolution with ``2 out_channels``: W_r and b_r, then W_i and b_i.
        future: frames of look-ahead.
        out_bins: F'.

    Raises:
        ConfigError: as in Conv2d.
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
        layer = _PartConv2d(
            in_channels,
            2 * out_channels,
            kernel_size,
            freq_bins,
            (stride, 1),
            padding=padding,
            bias=bias,
            causal=causal,
        )
        super().__init__(layer)


class ComplexConvTranspose2d(_ComplexConvolution):
    """Transposed convolution ``(B, 2 in_channels, F, N) -> (B, 2 out_channels, F', N)`` of complex channels.

    Args:
        in_channels: complex ones, each of two real ones.
        out_channels: likewise.
        kernel_size: as in :class:`bcfusion.nn.conv2d.ConvTranspose2d`, like the arguments not listed here.
        bias: as in :class:`ComplexConv2d`.

    Attributes:
        layer: the real convolution with ``2 out_channels``: W_r and b_r, then W_i and b_i.
        future: frames of look-ahead.
        out_bins: F'.

    Raises:
        ConfigError: as in ConvTranspose2d.
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
        layer = _PartConvTranspose2d(
            in_channels, 2 * out_channels, kernel_size, freq_bins, stride, padding, 1, bias, causal, future
        )
        super().__init__(layer)


class ComplexLSTM(StreamingModule):
    """Complex LSTM ``(B, 2 input_size, N) -> (B, 2 hidden_size, N)``, one layer (Hu et al. 2020, section 2).

    The cells themselves are real: one LSTM stands for W_r and one for W_i. Each is applied to both parts, and the four
    outputs are combined like those of a product.

    Args:
        input_size: complex features, each of two real ones.
        hidden_size: likewise.

    Raises:
        ConfigError: sizes below one.
    """

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.real = LSTM(input_size, hidden_size, streams=2)
        self.imag = LSTM(input_size, hidden_size, streams=2)

    def forward(self, x: Tensor) -> Tensor:
        """Process whole files or chunks, of any number of frames."""
        parts = _parts(x).transpose(1, 2)  # (2B, N, input_size)
        return _product(torch.cat([self.real(parts), self.imag(parts)], dim=2).transpose(1, 2))


class _TwoLinear(nn.Module):
    """Two dense layers of the same size, ``real`` and ``imag``."""

    def __init__(self, in_features: int, out_features: int) -> None:
        require(self, at_least(1, in_features=in_features, out_features=out_features))
        super().__init__()
        self.real = nn.Linear(in_features, out_features)
        self.imag = nn.Linear(in_features, out_features)


class ComplexLinear(_TwoLinear):
    """Complex dense layer ``(B, 2 in_features, N) -> (B, 2 out_features, N)``, frame by frame.

    One real layer stands for W_r and one for W_i, each with a bias; their four outputs are combined to the product.

    Args:
        in_features: complex ones, each of two real ones.
        out_features: likewise.

    Attributes:
        real: W_r and b_r.
        imag: W_i and b_i: b_r - b_i is added to the real part, b_r + b_i to the imaginary part.

    Raises:
        ConfigError: sizes below one.
    """

    def forward(self, x: Tensor) -> Tensor:
        parts = _parts(x).transpose(1, 2)  # (2B, N, in_features)
        return _product(torch.cat([self.real(parts), self.imag(parts)], dim=2).transpose(1, 2))


class PReLUPerPart(nn.PReLU):
    """PReLU with one slope for all real parts and one for all imaginary parts: ``(B, 2C, ...)`` to the same shape."""

    def __init__(self) -> None:
        super().__init__(num_parameters=2)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.unflatten(1, (2, -1))).flatten(1, 2)


class LinearPerPart(_TwoLinear):
    """A dense layer for the real parts and another for the imaginary parts: ``(B, 2 in_features, N) -> (B, 2
    out_features, N)``, frame by frame.

    Not a complex product, whose dense layers would mix the parts.

    Args:
        in_features: complex ones, each of two real ones.
        out_features: likewise.

    Attributes:
        real: of the real parts.
        imag: of the imaginary parts.

    Raises:
        ConfigError: sizes below one.
    """

    def forward(self, x: Tensor) -> Tensor:
        real, imag = x.transpose(1, 2).chunk(2, dim=2)
        return torch.cat([self.real(real), self.imag(imag)], dim=2).transpose(1, 2)
