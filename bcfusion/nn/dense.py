"""Dense blocks of dilated convolutions on spectrograms ``(B, C, F, N)``, with the encoder and decoders made of them.

Pandey & Wang, "Densely Connected Neural Network with Dilated Convolutions for Real-Time Speech Enhancement in the Time
Domain", ICASSP 2020, on spectrograms as in CMGAN (Cao et al. 2022) and MP-SENet (Lu et al. 2023); the depthwise
separable layers are those of LaCo-SENet (Kim & Chung 2026).

A layer that is to look r frames ahead is the causal layer, whose output is late by r: its weights see the same frames.
What by-passes it is delayed by as much. The lateness of all layers adds up to that of the network, which is declared
once, by :class:`bcfusion.nn.spectral.SpectralNetwork`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from bcfusion.nn.conv2d import Conv2d, ConvTranspose2d
from bcfusion.nn.delay import Delay
from bcfusion.nn.norm import BatchNorm2d
from bcfusion.requirements import at_least, require, within

#: makes the normalisation of so many channels
MakeNorm = Callable[[int], nn.Module]


def frames_ahead(kernel_size: int, share: float, dilation: int = 1) -> int:
    """Return how many frames of a kernel's context lie in the future.

    Args:
        kernel_size: frames.
        share: of the context, 0 (causal) to 1; half of it centres the kernel.
        dilation: frames from one tap to the next.
    """
    return round(share * (kernel_size - 1) * dilation)


class DenseDilatedBlock(nn.Module):
    """Convolutions over ever more frames, each of which sees the input and the outputs of all before it.

    ``(B, channels, F, N)`` to the same shape. Layer i is dilated by 2^i frames. Its input has (i + 1) ``channels``: the
    outputs of the layers before it, latest first, then the block's input.

    Args:
        channels: in and out.
        freq_bins: F.
        depth: layers.
        kernel_size: (frequency, frames), the former odd.
        causal: see no frame past the present one, and stream; otherwise the kernels are centred.
        future_share: of the frames of context of a causal block, the share that its late output has in the future, see
            :func:`frames_ahead`.
        separable: a layer is a depthwise convolution and a pointwise one; False: one convolution.
        make_norm: makes the normalisation of each layer, after which PReLU follows.

    Attributes:
        late: frames by which the output of a causal block is late.
        future: frames of look-ahead of one that is not causal.

    Raises:
        ConfigError: sizes that do not fit, a share outside of [0, 1], or one of a block that is not causal.
    """

    def __init__(
        self,
        channels: int,
        freq_bins: int,
        depth: int = 4,
        kernel_size: Sequence[int] = (3, 3),
        causal: bool = True,
        future_share: float = 0.0,
        separable: bool = True,
        make_norm: MakeNorm = BatchNorm2d,
    ) -> None:
        require(
            self,
            at_least(1, channels=channels, depth=depth),
            within(0, 1, future_share=future_share),
            (kernel_size[0] % 2 == 1, f"kernel_size={list(kernel_size)} must start with an odd number of bins"),
            (causal or not future_share, f"{future_share=} needs causal=True: kernels are centred otherwise"),
        )
        super().__init__()
        self.channels, self.freq_bins, self.causal, self.make_norm = channels, freq_bins, causal, make_norm
        side = kernel_size[0] // 2
        self.layers = nn.ModuleList()
        self.waits = nn.ModuleList()  # of what by-passes a layer
        self.late = self.future = 0
        for depth_before in range(depth):
            inputs, dilation = channels * (depth_before + 1), 2**depth_before
            outputs, groups = (inputs, inputs) if separable else (channels, 1)
            conv = Conv2d(
                inputs,
                outputs,
                kernel_size,
                freq_bins,
                dilation=(1, dilation),
                padding=(side, side),
                groups=groups,
                causal=causal,
            )
            pointwise = [Conv2d(inputs, channels, (1, 1), freq_bins, causal=causal)] if separable else []
            self.layers.append(nn.Sequential(conv, *pointwise, make_norm(channels), nn.PReLU(channels)))
            late = frames_ahead(kernel_size[1], future_share, dilation)
            if depth_before < depth - 1:
                self.waits.append(Delay(late, (inputs, freq_bins)))
            self.late += late
            self.future += conv.future

    def forward(self, x: Tensor) -> Tensor:
        seen = x
        for layer, wait in zip(self.layers[:-1], self.waits, strict=True):
            seen = torch.cat([layer(seen), wait(seen)], dim=1)
        y: Tensor = self.layers[-1](seen)
        return y


class DenseEncoder(nn.Module):
    """A pointwise layer, a dense block, and a layer that halves the bins.

    ``(B, in_channels, F, N)`` to ``(B, channels, out_bins, N)``, as late as the block.

    Args:
        in_channels: of the input.
        block: for F bins; its channels and its kind of normalisation are those of the other layers.

    Attributes:
        out_bins: (F - 1) / 2.

    Raises:
        ConfigError: F is not odd.
    """

    def __init__(self, in_channels: int, block: DenseDilatedBlock) -> None:
        channels, bins, causal = block.channels, block.freq_bins, block.causal
        odd = bins % 2 == 1
        require(self, (odd, f"{bins} bins must be an odd number, which the decoder can restore: n_fft a multiple of 4"))
        super().__init__()
        first = Conv2d(in_channels, channels, (1, 1), bins, causal=causal)
        self.widen = nn.Sequential(first, block.make_norm(channels), nn.PReLU(channels))
        self.block = block
        down = Conv2d(channels, channels, (3, 1), bins, (2, 1), causal=causal)
        self.down = nn.Sequential(down, block.make_norm(channels), nn.PReLU(channels))
        self.out_bins = down.out_bins

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.down(self.block(self.widen(x)))
        return y


class MagnitudeDecoder(nn.Module):
    """From features ``(B, channels, F, N)`` to one number per bin, ``(B, 2 F + 1, N)``, as late as the block.

    A dense block, a transposed convolution that doubles the bins, and two pointwise layers. What the number means, and
    its bounds, are left to the network: see :class:`LearnableSigmoid`.

    Args:
        block: for F bins; its channels and its kind of normalisation are those of the other layers.

    Attributes:
        out_bins: 2 F + 1.
    """

    def __init__(self, block: DenseDilatedBlock) -> None:
        super().__init__()
        channels, causal = block.channels, block.causal
        self.block = block
        up = ConvTranspose2d(channels, channels, (3, 1), block.freq_bins, 2, causal=causal)
        self.out_bins = up.out_bins
        narrow = Conv2d(channels, 1, (1, 1), self.out_bins, causal=causal)
        self.up = nn.Sequential(up, narrow, block.make_norm(1), nn.PReLU(1))
        self.scale = Conv2d(1, 1, (1, 1), self.out_bins, causal=causal)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.scale(self.up(self.block(x)))
        return y.squeeze(1)


class PhaseDecoder(nn.Module):
    """From features ``(B, channels, F, N)`` to two numbers per bin, each ``(B, 2 F + 1, N)``, whose angle is a phase.

    A dense block, a transposed convolution that doubles the bins, and a pointwise layer for each number. As late as the
    block.

    Args:
        block: for F bins; its channels and its kind of normalisation are those of the other layers.

    Attributes:
        out_bins: 2 F + 1.
    """

    def __init__(self, block: DenseDilatedBlock) -> None:
        super().__init__()
        channels, causal = block.channels, block.causal
        self.block = block
        up = ConvTranspose2d(channels, channels, (3, 1), block.freq_bins, 2, causal=causal)
        self.out_bins = up.out_bins
        self.up = nn.Sequential(up, block.make_norm(channels), nn.PReLU(channels))
        self.to_cosine = Conv2d(channels, 1, (1, 1), self.out_bins, causal=causal)
        self.to_sine = Conv2d(channels, 1, (1, 1), self.out_bins, causal=causal)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.up(self.block(x))
        return self.to_cosine(h).squeeze(1), self.to_sine(h).squeeze(1)


class LearnableSigmoid(nn.Module):
    """``largest / (1 + exp(-slope x))`` with one learned slope per bin: ``(B, F, N)`` to the same shape (CMGAN).

    Args:
        freq_bins: F.
        largest: value that is not exceeded.
    """

    def __init__(self, freq_bins: int, largest: float) -> None:
        super().__init__()
        self.largest = largest
        self.slope = nn.Parameter(torch.ones(freq_bins, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.largest * torch.sigmoid(self.slope * x)

    def extra_repr(self) -> str:
        return f"largest={self.largest}"
