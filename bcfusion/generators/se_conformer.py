"""SE-Conformer: a convolutional encoder and decoder on the waveform, and conformers in between.

Kim & Seo, "SE-Conformer: Time-Domain Speech Enhancement using Conformer", Interspeech 2021; the encoder and decoder are
those of Défossez et al., "Real Time Speech Enhancement in the Waveform Domain", Interspeech 2020.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bcfusion.nn.conformer import ConformerBlock
from bcfusion.nn.network import WaveformNetwork
from bcfusion.nn.precision import filter_tensor, full_precision
from bcfusion.requirements import above, at_least, one_of, require

LEVEL_FLOOR = 1e-3  # added to the deviation of a file, which is divided by the sum: silence stays quiet
ZEROS = 56  # zero crossings of the interpolating sinc on either side of its middle


class SincInterpolation(nn.Module):
    """Double and halve the sample rate of ``(B, C, T)`` by a windowed sinc (Smith & Gossett 1984).

    A sample halfway between two others is the sum of the ``zeros`` nearest ones on either side, weighted by sinc(t)
    cos^2(pi t / (2 zeros)), t being their distance in samples. Doubling puts one between each two samples, which stay.
    Halving averages each even sample with the signal of the odd ones at its place.
    """

    kernel: Tensor

    def __init__(self, zeros: int = ZEROS) -> None:
        super().__init__()
        self.zeros = zeros
        distance = np.arange(-zeros, zeros) + 0.5
        taps = np.sinc(distance) * np.cos(np.pi * distance / (2 * zeros)) ** 2
        self.register_buffer("kernel", filter_tensor(taps[None, None]), persistent=False)

    def doubled(self, x: Tensor) -> Tensor:
        """Return ``(B, C, 2 T)``."""
        return torch.stack([x, self._between(x)[..., 1:]], dim=-1).flatten(2)

    def halved(self, x: Tensor) -> Tensor:
        """Return ``(B, C, T / 2)``, T being even."""
        even, odd = x.unflatten(2, (-1, 2)).unbind(3)
        return 0.5 * (even + self._between(odd)[..., :-1])

    def _between(self, x: Tensor) -> Tensor:
        """Return the values ``(B, C, T + 1)`` half a sample before each sample, and after the last one."""
        with full_precision(x):
            rows = x.flatten(0, 1).unsqueeze(1).to(self.kernel.dtype)
            return F.conv1d(rows, self.kernel, padding=self.zeros).view(*x.shape[:2], -1)


class SEConformer(WaveformNetwork):
    """Waveform to waveform, ``(B, in_channels, T) -> (B, 1, T)`` for any T. Not causal: its attention sees the file.

    The file is divided by its standard deviation and resampled to ``resample`` times its rate. An encoder of ``depth``
    levels follows, each a strided convolution with ReLU and a pointwise one with GLU; ``conformers``; and a decoder
    that adds the output of its encoder level before a pointwise convolution with GLU and ReLU, and a transposed one,
    followed by ReLU except at the end.

    The sizes are those of the baseline of TAPS (Kim et al., "TAPS: Throat and Acoustic Paired Speech Dataset", 2025) in
    its public code, 12.09 M parameters; those of the first paper were not found.

    Args:
        sample_rate: of input and output, in Hz.
        in_channels: number of sensors.
        channels: of the first level, doubled by every further one; the conformers have those of the last.
        depth: levels.
        kernel_size: of the strided convolutions, in samples of their level.
        stride: likewise; ``stride ** depth`` is a multiple of ``resample``.
        resample: 1, 2 or 4, times the sample rate at the first level.
        conformers: number of blocks.
        heads: of the attention.
        conformer_kernel_size: of the convolutions of the conformers in frames, odd.
        feed_forward: units of the feed-forward layers.
        dropout: within and after the parts of the conformers.
        input_skip: add one sensor to the output, so that the network computes a correction. The papers have no such
            path: False.
        skip_channel: the sensor that is added; -1 is the last (the air microphone, in fusion).
        rescale: a; initial weights of encoder and decoder with a deviation s, and their biases, are multiplied by
            sqrt(a / s), which brings the layers closer to this deviation (Défossez et al. 2019, "Music source
            separation in the waveform domain").

    Attributes:
        delay: None.
        rest: samples that the last frame sees beyond its hop.

    Raises:
        ConfigError: sizes that do not fit.
    """

    def __init__(
        self,
        sample_rate: int = 16000,
        in_channels: int = 1,
        channels: int = 64,
        depth: int = 4,
        kernel_size: int = 8,
        stride: int = 4,
        resample: int = 4,
        conformers: int = 4,
        heads: int = 4,
        conformer_kernel_size: int = 15,
        feed_forward: int = 64,
        dropout: float = 0.1,
        input_skip: bool = True,
        skip_channel: int = -1,
        rescale: float = 0.1,
    ) -> None:
        require(
            self,
            at_least(1, channels=channels, depth=depth, stride=stride, conformers=conformers),
            one_of((1, 2, 4), resample=resample),
            above(0, rescale=rescale),
            (kernel_size >= stride, f"a kernel of {kernel_size} samples leaves gaps at stride={stride}"),
            (
                stride**depth % resample == 0,
                f"stride={stride} to the power of depth={depth} must be a multiple of resample={resample}",
            ),
        )
        super().__init__(sample_rate, in_channels, stride**depth // resample, causal=False, skip_channel=skip_channel)
        self.resample, self.input_skip = resample, input_skip
        #: samples at the first level per frame of the lowest one, and those that the last frame sees beyond them
        self.frame, self.overhang = stride**depth, (kernel_size - stride) * sum(stride**level for level in range(depth))
        self.rest = math.ceil(self.overhang / resample)
        widths = [channels * 2**level for level in range(depth)]
        inputs, outputs = [in_channels, *widths], [1, *widths]
        self.encoder = nn.ModuleList(
            nn.Sequential(
                nn.Conv1d(inputs[level], width, kernel_size, stride),
                nn.ReLU(),
                nn.Conv1d(width, 2 * width, 1),
                nn.GLU(dim=1),
            )
            for level, width in enumerate(widths)
        )
        self.conformers = nn.Sequential(
            *(
                ConformerBlock(
                    widths[-1],
                    heads,
                    conformer_kernel_size,
                    feed_forward,
                    widths[-1],
                    dropout,
                    residual_dropout=dropout,
                )
                for _ in range(conformers)
            )
        )
        self.decoder = nn.ModuleList(
            nn.Sequential(
                nn.Conv1d(width, 2 * width, 1),
                nn.GLU(dim=1),
                nn.ReLU(),
                nn.ConvTranspose1d(width, outputs[level], kernel_size, stride),
                nn.ReLU() if level else nn.Identity(),
            )
            for level, width in reversed(list(enumerate(widths)))
        )
        self.interpolation = SincInterpolation()
        self._rescale(rescale)

    def body(self, inputs: Tensor) -> Tensor:
        level = inputs.mean(1, keepdim=True).std(2, keepdim=True, correction=0)
        sensors = inputs / (level + LEVEL_FLOOR)
        # the convolutions do not pad: they see no zeros but these
        restored = self.restored(F.pad(sensors, (0, self.rest)))[..., : inputs.shape[-1]]
        if self.input_skip:
            restored = restored + sensors[:, self.skip_channel].unsqueeze(1)
        return restored * (level + LEVEL_FLOOR)

    def restored(self, sensors: Tensor) -> Tensor:
        """Map normalised sensors ``(B, in_channels, n hop + rest)``, without a path around the network, to ``(B, 1, n
        hop + rest)``."""
        h = sensors
        for _ in range(self.resample // 2):
            h = self.interpolation.doubled(h)
        frames = (h.shape[-1] - self.overhang) // self.frame
        h = h[..., : frames * self.frame + self.overhang]
        skips = []
        for encode in self.encoder:
            h = encode(h)
            skips.append(h)
        h = self.conformers(h.transpose(1, 2)).transpose(1, 2)  # (B, channels 2^(depth - 1), n)
        for decode in self.decoder:
            h = decode(h + skips.pop())
        h = F.pad(h, (0, -h.shape[-1] % self.resample))
        for _ in range(self.resample // 2):
            h = self.interpolation.halved(h)
        return h

    @torch.no_grad()
    def _rescale(self, reference: float) -> None:
        for layer in (*self.encoder.modules(), *self.decoder.modules()):
            if isinstance(layer, nn.Conv1d | nn.ConvTranspose1d):
                factor = (reference / layer.weight.std()).sqrt()
                for parameter in layer.parameters():
                    parameter.mul_(factor)
