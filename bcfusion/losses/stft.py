"""The complex spectrogram that losses share: an item's frames are the same alone or padded in a batch."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor, nn

from bcfusion.errors import AudioError
from bcfusion.nn.stft import stft_sizes
from bcfusion.requirements import one_of, require

Padding = Literal["zeros", "reflect"]
Flooring = Literal["added", "clamped"]


class ComplexSpectrogram(nn.Module):
    """Complex spectrogram with a periodic Hann window, frames centred on multiples of the hop, zeros around the signal.

    Values are those of ``torch.stft(center=True)``, for even sizes, with the ``pad_mode`` ``constant`` or ``reflect``,
    except for the phase reference: a frame holds only the samples under the window, and the transform pads it at its
    end, whereas ``torch.stft`` windows ``n_fft - win_length`` zeros in every frame. Magnitudes, and the phase of one
    signal relative to another, are the same. Unlike :class:`bcfusion.nn.stft.Stft` it takes whole signals of any
    length.

    Args:
        n_fft: points of the transform.
        hop_length: samples from one frame to the next.
        win_length: samples under the window.
        padding: ``zeros`` around the signal; or ``reflect``: the signal is mirrored at both ends of the tensor, which
            must be longer than half a window.
        between_hops: frames are centred between the multiples of the hop, as in the public code of HiFi-GAN: N = T //
            hop_length.

    Raises:
        ConfigError: not 0 < hop_length <= win_length <= n_fft, or another ``padding``.
    """

    window: Tensor

    def __init__(
        self, n_fft: int, hop_length: int, win_length: int, padding: Padding = "zeros", between_hops: bool = False
    ) -> None:
        require(self, stft_sizes(n_fft, hop_length, win_length), one_of(get_args(Padding), padding=padding))
        super().__init__()
        self.pad_mode = "constant" if padding == "zeros" else padding
        self.between_hops = between_hops
        outside = win_length - hop_length if between_hops else win_length  # samples of the first and the last frame
        self.pad = outside // 2, outside - outside // 2
        self.n_fft, self.hop_length, self.win_length = n_fft, hop_length, win_length
        self.register_buffer("window", torch.hann_window(win_length), persistent=False)

    def forward(self, signal: Tensor) -> Tensor:
        """Return complex ``(B, N, F)``, N = T // hop_length + 1 frames of F = n_fft // 2 + 1 bins, from ``(B, T)``.

        Raises:
            AudioError: a signal that is too short to be mirrored.
        """
        return torch.fft.rfft(self.segments(self.padded(signal)) * self.window, n=self.n_fft)

    def padded(self, signal: Tensor) -> Tensor:
        """Return a signal ``(B, T)`` with what lies around it under the first and the last window.

        Raises:
            AudioError: a signal that is too short to be mirrored.
        """
        if self.pad_mode == "reflect" and signal.shape[-1] <= max(self.pad):
            raise AudioError(
                f"padding=reflect: a window of {self.win_length} samples needs signals of more than {max(self.pad)} "
                f"samples, not {signal.shape[-1]}; use longer crops (data.segment_seconds) or padding=zeros"
            )
        return nn.functional.pad(signal, self.pad, self.pad_mode)

    def segments(self, padded: Tensor) -> Tensor:
        """Return the samples under each window, a view ``(B, N, win_length)``, of a signal with its padding."""
        return padded.unfold(-1, self.win_length, self.hop_length)

    def frames(self, lengths: Tensor) -> Tensor:
        """Return the frames ``(B,)`` centred within items of ``lengths (B,)`` samples, as if each were transformed
        alone."""
        return lengths // self.hop_length + (0 if self.between_hops else 1)


def power(spectrum: Tensor) -> Tensor:
    """Return the squared magnitude of a complex tensor, which unlike the square of its ``abs`` has a gradient
    everywhere."""
    return spectrum.real.square() + spectrum.imag.square()


def past_end(frames: Tensor, total: int) -> Tensor:
    """Return a boolean mask ``(B, total)`` of the frames that lie past an item's first ``frames (B,)``."""
    return torch.arange(total, device=frames.device) >= frames[:, None]


def mean_over_frames(values: Tensor, frames: Tensor) -> Tensor:
    """Return the mean ``(B,)`` of ``values (B, N, F)`` over the bins of each item's first ``frames (B,)`` frames.

    That of an item without a frame, which is shorter than a hop, is 0.
    """
    per_frame = values.sum(-1).masked_fill(past_end(frames, values.shape[1]), 0.0)
    return per_frame.sum(-1) / (frames.clamp_min(1) * values.shape[2])
