"""The short-time Fourier transform that losses share: an item's frames are the same alone or padded in a batch."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bcfusion.errors import ConfigError


class Stft(nn.Module):
    """Complex spectrogram with a periodic Hann window, frames centred on multiples of the hop, zeros around the signal.

    Values are those of ``torch.stft(center=True, pad_mode="constant")``, for even sizes, but for the phase reference: a
    frame holds only the samples under the window, and the transform pads it at its end, where ``torch.stft`` windows
    ``n_fft - win_length`` zeros in every frame. Magnitudes, and the phase of one signal against another, are the same.

    Args:
        n_fft: points of the transform.
        hop_length: samples from one frame to the next.
        win_length: samples under the window.

    Raises:
        ConfigError: not 0 < hop_length <= win_length <= n_fft.
    """

    window: Tensor

    def __init__(self, n_fft: int, hop_length: int, win_length: int) -> None:
        super().__init__()
        if not 0 < hop_length <= win_length <= n_fft:
            sizes = f"n_fft={n_fft}, hop_length={hop_length}, win_length={win_length}"
            raise ConfigError([f"STFT of {sizes}: need 0 < hop_length <= win_length <= n_fft"])
        self.n_fft, self.hop_length, self.win_length = n_fft, hop_length, win_length
        self.register_buffer("window", torch.hann_window(win_length), persistent=False)

    def forward(self, signal: Tensor) -> Tensor:
        """Complex ``(B, N, F)``, N = T // hop_length + 1 frames of F = n_fft // 2 + 1 bins, from float32 ``(B, T)``."""
        half = self.win_length // 2
        padded = nn.functional.pad(signal, (half, self.win_length - half))
        return torch.fft.rfft(padded.unfold(-1, self.win_length, self.hop_length) * self.window, n=self.n_fft)

    def frames(self, lengths: Tensor) -> Tensor:
        """Frames ``(B,)`` centred within items of ``lengths (B,)`` samples, as if each were transformed alone."""
        return lengths // self.hop_length + 1


def power(spectrum: Tensor) -> Tensor:
    """Squared magnitude of a complex tensor; unlike the square of its ``abs`` it has a gradient everywhere."""
    return spectrum.real.square() + spectrum.imag.square()


def behind(frames: Tensor, total: int) -> Tensor:
    """Boolean mask ``(B, total)`` of the frames that lie behind an item's first ``frames (B,)``."""
    return torch.arange(total, device=frames.device) >= frames[:, None]


def mean_over_frames(values: Tensor, frames: Tensor) -> Tensor:
    """Mean ``(B,)`` of ``values (B, N, F)`` over the bins of each item's first ``frames (B,)`` frames."""
    per_frame = values.sum(-1).masked_fill(behind(frames, values.shape[1]), 0.0)
    return per_frame.sum(-1) / (frames * values.shape[2])
