"""Convolutions over time, causal or centred by one argument.

Frames are counted so that strides compose: a convolution with stride s gives ``ceil(T / s)`` frames, a transposed one
``s * frames`` samples. The causal ones see zeros to the left of the file: frame j of a strided convolution is computed
from samples up to ``(j + 1) s - 1``, the last of its own frame, so that a chunk of whole frames gives whole frames.

Memory layout: a tensor ``(B, C, T)`` whose channels are contiguous in memory (see :func:`channels_last`) is processed
by the 2-D kernels, which are up to twice as fast on CPUs, and keeps its layout; any other tensor is processed by the
1-D kernels. The values are the same.
"""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

from bcfusion.nn.padding import PaddingMode, pad
from bcfusion.nn.streaming import StreamingError, StreamingModule
from bcfusion.requirements import at_least, one_of, require

Norm = Literal["weight_norm", "spectral_norm"]

#: frames up to which a layer of an exported step is a matrix product, the weights from which it is, and the channels
#: from which samples are rows that are worth gathering
_FEW, _MANY, _ROW = 8, 2**13, 16


def apply_norm(module: nn.Module, norm: Norm | None) -> None:
    """Reparametrise ``module.weight``, in place.

    ``weight_norm`` (Salimans & Kingma 2016) has one gain per slice of the weight's first dimension: the output channels
    of a convolution, the input channels of a transposed one. This is torch's default, and much faster than gains along
    another dimension. ``spectral_norm``: Miyato et al. 2018. None: no norm.

    Raises:
        ConfigError: another ``norm``.
    """
    require(module, one_of((*get_args(Norm), None), norm=norm))
    if norm == "weight_norm":
        parametrizations.weight_norm(module)
    elif norm == "spectral_norm":
        parametrizations.spectral_norm(module)


def set_weight(layer: Conv1d | ConvTranspose1d, weight: Tensor) -> None:
    """Set the weight of a layer, of the same shape; under weight norm, set the direction and the gains that give it."""
    with torch.no_grad():
        if parametrize.is_parametrized(layer, "weight"):
            nn.Module.__setattr__(layer, "weight", weight)  # by the parametrisation's inverse
        else:
            layer.weight.copy_(weight)


def remove_weight_norm(module: nn.Module) -> nn.Module:
    """Replace every weight-normalised weight in ``module`` by the equivalent plain parameter, in place.

    The function computed is the same. Other parametrisations (spectral norm) stay.

    Returns:
        The module itself.
    """
    for layer in list(module.modules()):
        if not parametrize.is_parametrized(layer):
            continue
        parametrised = layer.parametrizations
        assert isinstance(parametrised, nn.ModuleDict)
        for name, steps in list(parametrised.items()):
            assert isinstance(steps, parametrize.ParametrizationList)
            if any(isinstance(step, parametrizations._WeightNorm) for step in steps):
                # torch deletes the computed weight from the layer's class, which deep copies share: unless this layer
                # has a class of its own, its copies lose their weight
                shared = type(layer)
                layer.__class__ = type(shared.__name__, shared.__bases__, dict(vars(shared)))
                parametrize.remove_parametrizations(layer, name, leave_parametrized=True)
    return module


def channels_last(x: Tensor) -> Tensor:
    """Return ``(B, C, T)`` with the channels of each instant contiguous in memory: same shape, same values."""
    if torch.compiler.is_exporting():
        return x
    return x.unsqueeze(2).contiguous(memory_format=torch.channels_last).squeeze(2)


class Conv1d(StreamingModule):
    """Convolution ``(B, in_channels, T) -> (B, out_channels, ceil(T / stride))``, for any T of at least one sample.

    The kernel spans ``extent = (kernel_size - 1) * dilation + 1`` samples, and ``context = extent - stride`` of them
    lie outside the frame: all to its left if causal, otherwise half on either side (the odd one to the left), unless
    ``left`` says how many.

    Args:
        in_channels: as in :class:`torch.nn.Conv1d`, like the arguments not listed here.
        causal: pad to the left only; the layer can stream, with ``context`` samples as its state.
        padding_mode: of the non-causal layer: ``zeros``, or ``reflect``, which mirrors as many samples as there are and
            continues with zeros (if the file is shorter than the kernel).
        norm: see :func:`apply_norm`.
        left: samples of the context to the left of the frame, in the non-causal layer; null: half of it.

    Raises:
        ConfigError: sizes that do not fit, an extent below the stride, or reflection in a causal layer.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        dilation: int = 1,
        groups: int = 1,
        bias: bool = True,
        causal: bool = False,
        padding_mode: PaddingMode = "zeros",
        norm: Norm | None = None,
        left: int | None = None,
    ) -> None:
        super().__init__()
        self.extent = (kernel_size - 1) * dilation + 1
        self.context = self.extent - stride
        require(
            self,
            at_least(1, in_channels=in_channels, out_channels=out_channels, kernel_size=kernel_size),
            at_least(1, stride=stride, dilation=dilation),
            divisible(groups, in_channels, out_channels),
            (self.context >= 0, f"a kernel of {self.extent} samples leaves gaps at stride={stride}"),
            one_of(get_args(PaddingMode), padding_mode=padding_mode),
            (
                not causal or padding_mode == "zeros",
                f"causal=True pads with zeros: {padding_mode=} would need future samples",
            ),
            (left is None or 0 <= left <= self.context, f"{left=} must lie between 0 and the context, {self.context}"),
        )
        self.in_channels, self.out_channels, self.kernel_size = in_channels, out_channels, kernel_size
        self.stride, self.dilation, self.groups = stride, dilation, groups
        self.causal = causal
        self.padding_mode = padding_mode
        if causal:
            self.left = self.context
        else:
            self.left = self.context - self.context // 2 if left is None else left
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels // groups, kernel_size))
        self.bias = nn.Parameter(torch.empty(out_channels)) if bias else None
        initialise(self.weight, self.bias, fan_in=in_channels // groups * kernel_size)
        apply_norm(self, norm)

    def initial_state(self, batch_size: int, like: Tensor) -> dict[str, Tensor]:
        """Return ``past (B, in_channels, context)``, the last input samples."""
        return {"past": like.new_zeros(batch_size, self.in_channels, self.context)} if self.context else {}

    def forward(self, x: Tensor) -> Tensor:
        """Convolve whole files of any length, or chunks of whole frames.

        Raises:
            StreamingError: a chunk is not a multiple of the stride.
        """
        if not self.is_streaming:
            right = self.context - self.left + -x.shape[-1] % self.stride
            if self.padding_mode == "zeros" and self.left == right:
                return self._convolve(x, padding=self.left)  # the kernel pads by itself, without a copy
            return self._convolve(pad(x, self.left, right, self.padding_mode))
        if x.shape[-1] % self.stride:
            raise StreamingError(f"a chunk of {x.shape[-1]} samples is not a multiple of the stride {self.stride}")
        return self._convolve(self.prepend_past(x, self.context))

    def last_input(self, frame: int) -> int:
        """Return the last input sample that output ``frame`` depends on."""
        return frame * self.stride - self.left + self.extent - 1

    def _convolve(self, x: Tensor, padding: int = 0) -> Tensor:
        weight = self.weight  # once: under a norm every access computes it again
        if torch.compiler.is_exporting() and self.is_streaming and self.groups == 1 and weight.numel() >= _MANY:
            frames = (x.shape[-1] - self.extent) // self.stride + 1
            if frames <= _FEW and (self.context == 0 or frames == 1 or self.in_channels >= _ROW):
                return self._product(x, weight, frames)
        if not _is_channels_last(x):
            return F.conv1d(x, weight, self.bias, self.stride, padding, self.dilation, self.groups)
        if x.numel() < weight.numel():  # reordering the weight would cost more than reordering the signal
            y = F.conv1d(x.contiguous(), weight, self.bias, self.stride, padding, self.dilation, self.groups)
            return channels_last(y)
        stride, dilation = (1, self.stride), (1, self.dilation)
        y = F.conv2d(x.unsqueeze(2), weight.unsqueeze(2), self.bias, stride, (0, padding), dilation, self.groups)
        return y.squeeze(2)

    def _product(self, x: Tensor, weight: Tensor, frames: int) -> Tensor:
        """Convolve a few frames by a matrix product, which runtimes do in half of the time of a convolution: they
        prepare the weight when they load the file."""
        if self.dilation == 1 and (frames == 1 or self.context == 0):  # the samples are the columns
            columns = x.unflatten(2, (frames, self.kernel_size)).transpose(1, 2).flatten(2)
            return F.linear(columns, weight.flatten(1), self.bias).transpose(1, 2)
        taps = torch.arange(self.kernel_size) * self.dilation
        places = torch.arange(frames).unsqueeze(1) * self.stride + taps
        columns = x.transpose(1, 2)
        if self.kernel_size > 1:
            columns = columns.index_select(1, places.flatten()).reshape(x.shape[0], frames, -1)
        return F.linear(columns, weight.transpose(1, 2).flatten(1), self.bias).transpose(1, 2)

    def extra_repr(self) -> str:
        sizes = f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}"
        return f"{sizes}, dilation={self.dilation}, groups={self.groups}, causal={self.causal}"


class ConvTranspose1d(StreamingModule):
    """Transposed convolution ``(B, in_channels, frames) -> (B, out_channels, stride * frames)``.

    The full result is longer by ``overlap = kernel_size - stride`` samples. The causal layer keeps the first ``stride *
    frames`` samples, the centred one the middle. When streaming, the overlap is held back and added to the next chunk;
    the bias is added once, after that.

    Args:
        in_channels: as in :class:`torch.nn.ConvTranspose1d`, like the arguments not listed here.
        causal: keep the first samples; the layer can stream.
        norm: see :func:`apply_norm`.

    Raises:
        ConfigError: sizes below one, or a kernel shorter than the stride.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        bias: bool = True,
        causal: bool = False,
        norm: Norm | None = None,
    ) -> None:
        require(
            self,
            at_least(1, in_channels=in_channels, out_channels=out_channels, kernel_size=kernel_size, stride=stride),
            (kernel_size >= stride, f"a kernel of {kernel_size} samples leaves gaps at stride={stride}"),
        )
        super().__init__()
        self.in_channels, self.out_channels = in_channels, out_channels
        self.kernel_size, self.stride = kernel_size, stride
        self.causal = causal
        self.overlap = kernel_size - stride
        self.left = 0 if causal else self.overlap // 2
        self.weight = nn.Parameter(torch.empty(in_channels, out_channels, kernel_size))
        self.bias = nn.Parameter(torch.empty(out_channels)) if bias else None
        # each output sample is a sum over the input channels and the kernel taps that overlap there
        initialise(self.weight, self.bias, fan_in=in_channels * math.ceil(kernel_size / stride))
        apply_norm(self, norm)

    def initial_state(self, batch_size: int, like: Tensor) -> dict[str, Tensor]:
        """Return ``overlap (B, out_channels, overlap)``, what the last frames add to samples not output yet."""
        return {"overlap": like.new_zeros(batch_size, self.out_channels, self.overlap)} if self.overlap else {}

    def forward(self, x: Tensor) -> Tensor:
        """Convolve whole files or chunks, of any number of frames."""
        self.require_frames(x.shape[-1])
        length = self.stride * x.shape[-1]
        if not self.is_streaming:
            if 2 * self.left == self.overlap:
                return self._convolve(x, self.bias, padding=self.left)  # the kernel cuts by itself, without a copy
            return self._convolve(x, self.bias)[..., self.left : self.left + length]
        if torch.compiler.is_exporting() and x.shape[-1] <= _FEW and self.kernel_size == 2 * self.stride:
            y = self._product(x)
        else:
            y = self.add_overlap(self._convolve(x, bias=None), length)
        return y if self.bias is None else y + self.bias.unsqueeze(-1)

    def _product(self, x: Tensor) -> Tensor:
        """Return what a stream outputs for a few frames, without the bias, by a matrix product as in :class:`Conv1d`.

        A frame becomes the samples of its own hop and what it adds to the next one.
        """
        weight = self.weight.unflatten(2, (2, self.stride)).transpose(1, 2).flatten(1)  # (C, 2 out_channels stride)
        own, late = (x.transpose(1, 2) @ weight).chunk(2, dim=2)  # (B, frames, out_channels stride) each
        before = self.recall("overlap").reshape(x.shape[0], 1, -1)
        self.replace(overlap=late[:, -1:].reshape(x.shape[0], self.out_channels, self.overlap))
        y = own + (torch.cat([before, late[:, :-1]], dim=1) if x.shape[-1] > 1 else before)
        return y.unflatten(2, (self.out_channels, self.stride)).transpose(1, 2).flatten(2)

    def last_input(self, sample: int) -> int:
        """Return the last input frame that output ``sample`` depends on."""
        # output n is the sum over frames j of the taps n + left - j * stride, those within the kernel
        return (sample + self.left) // self.stride

    def _convolve(self, x: Tensor, bias: Tensor | None, padding: int = 0) -> Tensor:
        weight = self.weight
        if not _is_channels_last(x):
            return F.conv_transpose1d(x, weight, bias, self.stride, padding)
        if x.numel() < weight.numel():
            return channels_last(F.conv_transpose1d(x.contiguous(), weight, bias, self.stride, padding))
        y = F.conv_transpose2d(x.unsqueeze(2), weight.unsqueeze(2), bias, (1, self.stride), (0, padding))
        return y.squeeze(2)

    def extra_repr(self) -> str:
        sizes = f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}"
        return f"{sizes}, causal={self.causal}"


def divisible(groups: object, in_channels: int, out_channels: int) -> list[str]:
    """Return a message unless both numbers of channels can be divided into ``groups``."""
    if isinstance(groups, int) and groups > 0 and in_channels % groups == out_channels % groups == 0:
        return []
    return [f"groups={groups!r} must divide both {in_channels} and {out_channels} channels"]


def initialise(weight: Tensor, bias: Tensor | None, fan_in: int) -> None:
    """Draw uniform values in +-1/sqrt(fan_in), torch's own default for convolutions."""
    bound = 1 / math.sqrt(fan_in)
    nn.init.uniform_(weight, -bound, bound)
    if bias is not None:
        nn.init.uniform_(bias, -bound, bound)


def concatenate(*parts: Tensor) -> Tensor:
    """Concatenate the channels of tensors ``(B, C, T)``, keeping the channels-last layout.

    ``torch.cat`` keeps that layout only if the channels are the last of three dimensions.
    """
    return torch.cat([part.transpose(1, 2) for part in parts], dim=-1).transpose(1, 2)


def _is_channels_last(x: Tensor) -> bool:
    # the runtime that loads an exported graph chooses its layout, which must not depend on the length of this chunk
    return not torch.compiler.is_exporting() and x.shape[1] > 1 and x.stride(1) == 1
