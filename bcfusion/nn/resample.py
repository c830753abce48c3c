"""Resampling by a rational factor with a polyphase windowed-sinc filter, for whole files and for streams."""

from __future__ import annotations

import math

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from bcfusion.errors import AudioError
from bcfusion.nn.precision import filter_tensor, full_precision
from bcfusion.nn.streaming import StreamingError, StreamingModule
from bcfusion.requirements import at_least, require

#: coefficients of all phases together; the usual rates stay far below
LARGEST_BANK = 1 << 20


class Resample(StreamingModule):
    """Resampler ``(B, channels, T) -> (B, channels, ceil(T target_rate / source_rate))``.

    One filter per phase of the output; all cut off at the lower of the two rates: -6 dB at 0.95 of its Nyquist
    frequency, and -120 dB and below from 1.05 of it on.

    The causal resampler is late, since half of the filter lies in the future: by ``lookahead`` input samples, which are
    ``late`` output samples.

    Args:
        source_rate: in Hz; only the ratio of the rates counts.
        target_rate: in Hz.
        channels: resampled alike.
        causal: the layer can stream, in chunks of a multiple of ``frame`` input samples.
        zeros: zero crossings of the sinc on either side of its middle; more give a steeper filter.
        rolloff: the filter's -6 dB point as a fraction of the lower Nyquist frequency.
        beta: shape of the Kaiser window.

    Attributes:
        frame: input samples after which the phases repeat.
        frame_out: output samples of such a frame.
        lookahead: see above; 0 if not causal.
        late: likewise.

    Raises:
        ConfigError: rates, channels or zeros below one, a rolloff outside (0, 1], or rates whose ratio needs more than
            :data:`LARGEST_BANK` coefficients.
    """

    kernel: Tensor

    def __init__(
        self,
        source_rate: int,
        target_rate: int,
        channels: int = 1,
        causal: bool = False,
        zeros: int = 48,
        rolloff: float = 0.95,
        beta: float = 14.77,
    ) -> None:
        require(
            self,
            at_least(1, source_rate=source_rate, target_rate=target_rate, channels=channels, zeros=zeros),
            (0 < rolloff <= 1, f"rolloff={rolloff} must be above 0 and at most 1"),
        )
        super().__init__()
        divisor = math.gcd(source_rate, target_rate)
        self.frame, self.frame_out = source_rate // divisor, target_rate // divisor
        self.channels, self.causal = channels, causal
        cutoff = rolloff * min(1.0, target_rate / source_rate)  # as a fraction of the input's Nyquist frequency
        self.width = math.ceil(zeros / cutoff)  # input samples to either side
        coefficients = self.frame_out * (self.frame + 2 * self.width)
        require(
            self,
            (
                coefficients <= LARGEST_BANK,
                f"source_rate={source_rate} to target_rate={target_rate} is {self.frame} to {self.frame_out}, which "
                f"needs {coefficients} coefficients, of at most {LARGEST_BANK}: use rates with a small ratio",
            ),
        )
        self.lookahead = self.frame * math.ceil(self.width / self.frame) if causal else 0
        self.late = self.lookahead // self.frame * self.frame_out
        position = np.arange(-self.width, self.frame + self.width)  # of the taps, from the first sample of the frame
        middle = np.arange(self.frame_out)[:, None] * self.frame / self.frame_out  # of the output samples
        away = np.clip((position - middle) / (zeros / cutoff), -1, 1)
        window = np.i0(beta * np.sqrt(1 - away**2)) / np.i0(beta) * (np.abs(away) < 1)
        taps = cutoff * np.sinc(cutoff * (position - middle)) * window
        taps /= taps.sum(axis=1, keepdims=True)  # a constant stays the same, in every phase
        self.register_buffer("kernel", filter_tensor(taps[:, None]), persistent=False)

    def initial_state(self, batch_size: int, like: Tensor) -> dict[str, Tensor]:
        """Return ``past (B, channels, lookahead + width)``, the last input samples."""
        return {"past": like.new_zeros(batch_size, self.channels, self.lookahead + self.width)}

    def forward(self, x: Tensor) -> Tensor:
        """Resample whole signals of any length, or chunks of a multiple of ``frame`` samples.

        Raises:
            AudioError: another number of channels.
            StreamingError: a chunk of another length.
        """
        if x.ndim != 3 or x.shape[1] != self.channels:
            raise AudioError(f"Resample takes (batch, {self.channels}, time), not {tuple(x.shape)}")
        length = x.shape[-1]
        if not self.is_streaming:
            x = F.pad(x, (0, -length % self.frame))
        elif length % self.frame:
            raise StreamingError(f"a chunk of {length} samples is not a multiple of {self.frame}")
        x = self.prepend_past(x, self.lookahead + self.width)
        right = self.width - self.lookahead  # how far the last taps reach past the frame; negative if causal
        x = F.pad(x, (0, right))
        with full_precision(x):
            x = x.flatten(0, 1).unsqueeze(1).to(self.kernel.dtype)
            y = F.conv1d(x, self.kernel, stride=self.frame)  # (B channels, frame_out, frames)
        y = y.transpose(1, 2).flatten(1).unflatten(0, (-1, self.channels))
        return y[..., : -(-length * self.frame_out // self.frame)]

    def extra_repr(self) -> str:
        return f"{self.frame} to {self.frame_out}, causal={self.causal}, late={self.late}"
