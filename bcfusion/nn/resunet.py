"""ResUNet: a U-Net of residual 2-D convolutions over a spectrogram, and the common part of generators around it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bcfusion.nn.frequency_norm import FrequencyNorm
from bcfusion.nn.network import future_reach
from bcfusion.nn.norm import BatchNorm2d
from bcfusion.nn.revision import Revised
from bcfusion.nn.spectral import SpectralNetwork
from bcfusion.nn.stft import Window
from bcfusion.requirements import above, at_least, require

SLOPE = 0.01  # of the leaky ReLU in residual blocks
MOMENTUM = 0.01  # of the running statistics in residual blocks, as published


class ResidualBlock(nn.Module):
    """``x + conv(act(bn(conv(act(bn(x))))))`` (He et al. 2016, pre-activation): ``(B, C, F, N)`` to the same F and N.

    Both convolutions are 3 x 3 without bias; if the number of channels changes, x goes through a 1 x 1 convolution.

    Args:
        in_channels: C before.
        out_channels: C after.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(BatchNorm2d(channels, momentum=MOMENTUM) for channels in (in_channels, out_channels))
        self.first = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)
        self.second = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.shortcut = nn.Identity() if in_channels == out_channels else nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(F.leaky_relu(self.norms[0](x), SLOPE))
        h = self.second(F.leaky_relu(self.norms[1](h), SLOPE))
        return self.shortcut(x) + h


def _stack(in_channels: int, out_channels: int, blocks: int) -> nn.Sequential:
    inputs = [in_channels] + [out_channels] * (blocks - 1)
    return nn.Sequential(*(ResidualBlock(channels, out_channels) for channels in inputs))


class DecoderBlock(nn.Module):
    """Double F and N by a transposed convolution, append the encoder's channels of that level; residual blocks.

    Batch normalisation and a ReLU, not leaky, precede the transposed convolution. Its full output is ``2 F + 1`` by ``2
    N + 1``, of which the first ones are kept: even outputs see an input and the one before it, odd ones one input.
    The momentum of this normalisation is torch's, 0.1, as published.

    Args:
        in_channels: of the level below.
        out_channels: of this level, and of its skip connection.
        blocks: residual ones.
    """

    def __init__(self, in_channels: int, out_channels: int, blocks: int) -> None:
        super().__init__()
        self.norm = BatchNorm2d(in_channels)
        self.up = nn.ConvTranspose2d(in_channels, out_channels, 3, stride=2, bias=False)
        self.blocks = _stack(2 * out_channels, out_channels, blocks)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """Map ``(B, in_channels, F // 2, N / 2)`` and ``(B, out_channels, F, N)`` to ``(B, out_channels, F, N)``."""
        h = self.up(F.relu(self.norm(x)))[:, :, : skip.shape[2], : skip.shape[3]]
        return self.blocks(torch.cat([h, skip], dim=1))


class ResUNet(Revised):
    """``(B, in_channels, F, N) -> (B, out_channels, F, N)``: the analysis module of VoiceFixer (Liu et al. 2021).

    An encoder block is ``blocks`` residual blocks and an average pooling by 2 along both axes. One residual block forms
    the bottom. A decoder block is a transposed convolution, the skip connection, appended as channels, and ``blocks``
    residual blocks. One more residual block and a 1 x 1 convolution compute the output. After Kong et al., "Decoupling
    Magnitude and Phase Estimation with Deep ResUNet for Music Source Separation", ISMIR 2021. It is not causal.

    With one input channel and the defaults it has 65,152,867 parameters, for any F: VoiceFixer's 65.15 M. If the F of a
    level is odd, its pooling leaves out the last bin, which the decoder computes again, as in the published code, where
    the levels of 128 mel bands without the last one have 127, 63, 31, 15, 7 and 3.

    Args:
        in_channels: of the input.
        out_channels: of the output.
        channels: of the encoder blocks, top to bottom, mirrored in the decoder.
        blocks: residual blocks in each encoder and decoder block.
        init_output_scale: factor on the initial weights of the last convolution, whose bias starts at 0.

    Attributes:
        period: frames, 2 to the power of the number of encoder blocks. N must be a multiple of it; F need not be, but
            fewer bins are padded with zeros. Outputs depend on inputs in the same way again after so many frames.

    Raises:
        ConfigError: no channels, or sizes below one.
    """

    revision = 2  # 1 had a leaky ReLU before the transposed convolutions, whose outputs lay one earlier

    def __init__(
        self,
        in_channels: int = 1,
        out_channels: int = 1,
        channels: Sequence[int] = (32, 64, 128, 256, 384, 384),
        blocks: int = 4,
        init_output_scale: float = 0.1,
    ) -> None:
        super().__init__()
        widths = list(channels)
        require(
            self,
            at_least(1, channels=widths, in_channels=in_channels, out_channels=out_channels, blocks=blocks),
            above(0, init_output_scale=init_output_scale),
        )
        self.period = 2 ** len(widths)
        self.blocks = blocks
        upper = [in_channels, *widths[:-1]]
        lower = [*widths[1:], widths[-1]]
        self.encoder = nn.ModuleList(_stack(inputs, width, blocks) for inputs, width in zip(upper, widths, strict=True))
        self.bottom = ResidualBlock(widths[-1], widths[-1])
        levels = reversed(list(zip(lower, widths, strict=True)))
        self.decoder = nn.ModuleList(DecoderBlock(inputs, width, blocks) for inputs, width in levels)
        self.head = ResidualBlock(widths[0], widths[0])
        self.last = nn.Conv2d(widths[0], out_channels, 1)
        self._initialise(init_output_scale)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, in_channels, F, N)``, N a multiple of ``period``, to ``(B, out_channels, F, N)``."""
        bins = x.shape[2]
        h = F.pad(x, (0, 0, 0, max(0, self.period - bins)))
        skips = []
        for encode in self.encoder:
            h = encode(h)
            skips.append(h)
            h = F.avg_pool2d(h, 2)
        h = self.bottom(h)
        for decode in self.decoder:
            h = decode(h, skips.pop())
        return self.last(self.head(h))[:, :, :bins]

    def last_input(self, frame: int) -> int:
        """Return the last input frame that output ``frame`` depends on."""
        wider = 2 * self.blocks  # frames: each of a residual block's two convolutions reaches one further
        frame += 2
        for _ in self.decoder:
            frame = (frame + wider) // 2
        frame += 2
        for _ in self.encoder:
            frame = 2 * frame + 1 + wider
        return frame

    def _initialise(self, output_scale: float) -> None:
        for layer in self.modules():
            if not isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
                continue
            # the variance is kept: by convolutions after a leaky ReLU, and by 1 x 1 ones, which follow none
            gain = 1.0 if layer.kernel_size == (1, 1) else nn.init.calculate_gain("leaky_relu", SLOPE)
            # the 9 taps of a transposed one are spread over 4 outputs
            fan_in = layer.in_channels * (9 / 4 if isinstance(layer, nn.ConvTranspose2d) else layer.kernel_size[0] ** 2)
            nn.init.normal_(layer.weight, std=gain * fan_in**-0.5)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        with torch.no_grad():
            self.last.weight.mul_(output_scale)


class ResUNetGenerator(SpectralNetwork):
    """A generator around a ResUNet, see :class:`bcfusion.nn.spectral.SpectralNetwork`. Not causal.

    Its frame is ``unet.period`` hops of the STFT. The delay is the exact reach of the ResUNet, many seconds at full
    size: in practice such a network depends on the whole file.

    Args:
        unet: the network over the frames.
        sample_rate: as in SpectralNetwork, like the arguments not listed here.
    """

    def __init__(
        self,
        unet: ResUNet,
        sample_rate: int,
        in_channels: int,
        n_fft: int,
        hop_length: int,
        win_length: int,
        window: Window,
        skip_channel: int,
        frequency_norm: FrequencyNorm,
    ) -> None:
        future = future_reach(unet.period, unet)
        super().__init__(
            sample_rate, in_channels, n_fft, hop_length, win_length, window, False, future, skip_channel, frequency_norm
        )
        self.hop = hop_length * unet.period
        self.unet = unet
