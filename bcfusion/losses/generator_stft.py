"""The STFT domain of a generator that provides masks or embeddings, for the losses on these."""

from __future__ import annotations

import torch
from torch import Tensor

from bcfusion.losses.stft import ComplexSpectrogram
from bcfusion.losses.valid import valid_samples
from bcfusion.nn.stft import Window, window_samples


class GeneratorStft(ComplexSpectrogram):
    """Complex spectrogram in the domain of a generator's own STFT, whose settings must be the same.

    Frames are centred on multiples of the hop, with zeros around the signal: N = T // hop_length + 1 frames.

    Args:
        n_fft: points of the transform; F = n_fft // 2 + 1 bins.
        hop_length: samples from one frame to the next.
        win_length: samples under the window.
        window: see :func:`bcfusion.nn.stft.window_samples`.

    Raises:
        ConfigError: another window, or not 0 < hop_length <= win_length <= n_fft.
    """

    def __init__(self, n_fft: int, hop_length: int, win_length: int, window: Window) -> None:
        super().__init__(n_fft, hop_length, win_length)
        self.window = torch.tensor(window_samples(window, win_length), dtype=torch.float32)

    def frames_first(self, values: Tensor, name: str, target: Tensor) -> Tensor:
        """Return ``(B, N, F, ...)`` float32 from a generator's ``values (B, F, N, ...)`` for the ``target (B, 1, T)``.

        Raises:
            ValueError: B, F or N is not that of this STFT of the target.
        """
        samples = target.shape[-1]
        wanted = (target.shape[0], self.n_fft // 2 + 1, samples // self.hop_length + 1)
        if tuple(values.shape[:3]) != wanted:
            raise ValueError(
                f"{name} has (B, F, N) = {tuple(values.shape[:3])}, the loss's STFT of {samples} samples {wanted}: set "
                "the loss's n_fft (F = n_fft // 2 + 1) and hop_length (N = T // hop_length + 1) to the generator's"
            )
        return values.float().transpose(1, 2)

    @torch.no_grad()
    def spectra(self, target: Tensor, other: Tensor, name: str, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Return complex spectrograms ``(B, N, F)`` of ``target (B, 1, T)`` and ``other (B, 1, T)``, which is called
        ``name``.

        All samples past ``lengths (B,)`` are zeroed first, and the spectrograms are constants for the gradient.

        Raises:
            ValueError: other shapes.
        """
        if target.ndim != 3 or target.shape[1] != 1 or other.shape != target.shape:
            raise ValueError(
                f"target and {name} must both be (B, 1, T), got {tuple(target.shape)} and {tuple(other.shape)}"
            )
        of_other, of_target, _ = valid_samples(other, target, lengths)
        return self(of_target), self(of_other)
