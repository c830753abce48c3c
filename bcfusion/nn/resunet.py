"""ResUNet: a U-Net of residual 2-D convolutions over a spectrogram, and what generators around it share."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bcfusion.errors import ConfigError
from bcfusion.nn.network import field_of_spans
from bcfusion.nn.spectral import SpectralNetwork
from bcfusion.nn.stft import Window

SLOPE = 0.01  # of every leaky ReLU

Span = tuple[int, int]


class ResidualBlock(nn.Module):
    """``x + conv(act(bn(conv(act(bn(x))))))`` (He et al. 2016, pre-activation): ``(B, C, F, N)`` to the same F and N.

    Both convolutions are 3 x 3 without bias; where the number of channels changes, x goes through a 1 x 1 convolution.

    Args:
        in_channels, out_channels: C before and after.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList([nn.BatchNorm2d(in_channels), nn.BatchNorm2d(out_channels)])
        self.first = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)
        self.second = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.shortcut = nn.Identity() if in_channels == out_channels else nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, in_channels, F, N)`` to ``(B, out_channels, F, N)``."""
        h = self.first(F.leaky_relu(self.norms[0](x), SLOPE))
        h = self.second(F.leaky_relu(self.norms[1](h), SLOPE))
        return self.shortcut(x) + h


def _stack(in_channels: int, out_channels: int, blocks: int) -> nn.Sequential:
    inputs = [in_channels] + [out_channels] * (blocks - 1)
    return nn.Sequential(*(ResidualBlock(channels, out_channels) for channels in inputs))


class DecoderBlock(nn.Module):
    """Doubles F and N by a transposed convolution, joins the encoder's channels of that level, then residual blocks.

    Args:
        in_channels: of the level below. out_channels: of this level, and of its skip connection. blocks: residual ones.
    """

    def __init__(self, in_channels: int, out_channels: int, blocks: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(in_channels)
        # centred: even outputs hear one input, odd ones the two at their sides
        self.up = nn.ConvTranspose2d(in_channels, out_channels, 3, stride=2, padding=1, output_padding=1, bias=False)
        self.blocks = _stack(2 * out_channels, out_channels, blocks)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """``(B, in_channels, F / 2, N / 2)`` and ``(B, out_channels, F, N)`` to ``(B, out_channels, F, N)``."""
        h = self.up(F.leaky_relu(self.norm(x), SLOPE))
        return self.blocks(torch.cat([h, skip], dim=1))


class ResUNet(nn.Module):
    """``(B, in_channels, F, N) -> (B, out_channels, F, N)``: the analysis module of VoiceFixer (Liu et al. 2021).

    Encoder blocks are ``blocks`` residual blocks and an average pooling by 2 along both axes; one residual block stands
    at the bottom; decoder blocks are a transposed convolution, the skip connection, joined as channels, and ``blocks``
    residual blocks; one more residual block and a 1 x 1 convolution give the output. After Kong et al., "Decoupling
    Magnitude and Phase Estimation with Deep ResUNet for Music Source Separation", ISMIR 2021. It is not causal.

    With one input channel and the defaults it has 65,152,867 parameters, whatever F: VoiceFixer's 65.15 M.

    Args:
        in_channels, out_channels: of input and output.
        channels: of the encoder blocks, top to bottom, mirrored in the decoder.
        blocks: residual blocks in each encoder and decoder block.
        init_output_scale: factor on the initial weights of the last convolution, whose bias starts at 0.

    Attributes:
        period: frames, 2 to the number of encoder blocks: N must be a multiple of it. F need not be, it is filled up
            with zeros. Outputs depend on inputs in the same way again after so many frames.

    Raises:
        ConfigError: no channels, or sizes below one.
    """

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
        problems = []
        if not widths or min(widths) < 1:
            problems.append(f"ResUNet: channels={widths} must be one or more numbers of at least 1")
        if min(in_channels, out_channels, blocks) < 1:
            problems.append(
                f"ResUNet: in_channels={in_channels}, out_channels={out_channels} and blocks={blocks} must be above 0"
            )
        if init_output_scale <= 0:
            problems.append(f"ResUNet: init_output_scale={init_output_scale} must be above 0")
        if problems:
            raise ConfigError(problems)
        self.period = 2 ** len(widths)
        self.blocks = blocks
        above = [in_channels, *widths[:-1]]
        below = [*widths[1:], widths[-1]]
        self.encoder = nn.ModuleList(_stack(a, width, blocks) for a, width in zip(above, widths, strict=True))
        self.bottom = ResidualBlock(widths[-1], widths[-1])
        levels = reversed(list(zip(below, widths, strict=True)))
        self.decoder = nn.ModuleList(DecoderBlock(b, width, blocks) for b, width in levels)
        self.head = ResidualBlock(widths[0], widths[0])
        self.last = nn.Conv2d(widths[0], out_channels, 1)
        self._initialise(init_output_scale)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, in_channels, F, N)``, N a multiple of ``period``, to ``(B, out_channels, F, N)``."""
        bins = x.shape[2]
        h = F.pad(x, (0, 0, 0, -bins % self.period))
        skips = []
        for encode in self.encoder:
            h = encode(h)
            skips.append(h)
            h = F.avg_pool2d(h, 2)
        h = self.bottom(h)
        for decode in self.decoder:
            h = decode(h, skips.pop())
        return self.last(self.head(h))[:, :, :bins]

    def frame_span(self, first: int, last: int) -> Span:
        """The first and last input frame that the output frames ``first`` to ``last`` depend on."""
        spans = [_wider((first, last), 1)]  # at the output of the decoder of each level, top to bottom
        for _ in self.decoder:
            start, end = _wider(spans[-1], self.blocks)
            spans[-1] = start, end  # where the skip connection enters
            spans.append((start // 2, (end + 1) // 2))
        start, end = _wider(spans.pop(), 1)
        for skip in reversed(spans):
            start, end = _wider((min(2 * start, skip[0]), max(2 * end + 1, skip[1])), self.blocks)
        return start, end

    def _initialise(self, output_scale: float) -> None:
        for layer in self.modules():
            if not isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
                continue
            # variance is kept: through a convolution after a leaky ReLU, and through a 1 x 1 one, before which is none
            gain = 1.0 if layer.kernel_size == (1, 1) else nn.init.calculate_gain("leaky_relu", SLOPE)
            # of a transposed one: 9 taps meet in 4 outputs
            fan_in = layer.in_channels * (9 / 4 if isinstance(layer, nn.ConvTranspose2d) else layer.kernel_size[0] ** 2)
            nn.init.normal_(layer.weight, std=gain * fan_in**-0.5)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        with torch.no_grad():
            self.last.weight.mul_(output_scale)


class ResUNetGenerator(SpectralNetwork):
    """A generator around a ResUNet, see :class:`bcfusion.nn.spectral.SpectralNetwork`. Not causal.

    Its frame is ``unet.period`` hops of the STFT. The delay is the exact reach of the ResUNet, many seconds at full
    size: such a network hears practically the whole file.

    Args:
        unet: the network over the frames.
        sample_rate, in_channels, n_fft, hop_length, win_length, window, skip_channel: as in SpectralNetwork.
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
    ) -> None:
        overlapping = max(win_length // max(hop_length, 1), 1)  # frames that make one sample; sizes are checked above
        future = reach_of(unet, overlapping)[1] - (overlapping - 1)
        super().__init__(
            sample_rate, in_channels, n_fft, hop_length, win_length, window, False, future, skip_channel=skip_channel
        )
        self.hop = hop_length * unet.period
        self.unet = unet

    def trim(self, name: str, value: Tensor, length: int) -> Tensor:
        """As in SpectralNetwork; frames stand at multiples of ``hop_length``."""
        if name == "estimate":
            return super().trim(name, value, length)
        return value[:, :, self.stft.centred : self.stft.centred + length // self.stft.hop_length + 1]


def reach_of(unet: ResUNet, width: int = 1) -> tuple[int, int]:
    """How far (past, future) the outputs n to n + ``width`` - 1 look from n, in frames, at the worst n."""
    spans = [unet.frame_span(n, n + width - 1) for n in range(unet.period)]
    return field_of_spans(spans)


def _wider(span: Span, blocks: int) -> Span:
    """The span that residual blocks hear: each of their two convolutions reaches one frame further to either side."""
    return span[0] - 2 * blocks, span[1] + 2 * blocks
