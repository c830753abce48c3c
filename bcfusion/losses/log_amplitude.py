"""Loss between log amplitude spectra."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bcfusion.losses.stft import ComplexSpectrogram, mean_over_frames
from bcfusion.losses.valid import valid_samples
from bcfusion.requirements import above, require


class LogAmplitudeMseLoss(nn.Module):
    r"""Mean of :math:`(\ln(|S| + \epsilon) - \ln(|E| + \epsilon))^2` over an item's frames and bins, then over items.

    AP-BWE, Lu et al. 2024. The multi-resolution STFT loss has the absolute difference; as a square it is dominated by
    the bins that are off by most, the empty ones at first.

    Args:
        n_fft: points of the STFT. The default sizes are those of AP-BWE, at any sample rate.
        hop_length: samples between frames.
        win_length: samples of the Hann window.
        floor: amplitude added to each bin, of a signal in [-1, 1] and a window that is not normalised.

    Raises:
        ConfigError: an impossible STFT, or a floor that is not above 0.
    """

    def __init__(self, n_fft: int = 1024, hop_length: int = 80, win_length: int = 320, floor: float = 1e-4) -> None:
        require(self, above(0, floor=floor))
        super().__init__()
        self.stft = ComplexSpectrogram(n_fft, hop_length, win_length)
        self.floor = floor

    def forward(self, estimate: Tensor, target: Tensor, lengths: Tensor) -> Tensor:
        """Return a float32 scalar from ``estimate (B, 1, T)``, ``target (B, 1, T)`` and ``lengths (B,)``.

        Raises:
            ValueError: other shapes.
        """
        with torch.autocast(estimate.device.type, enabled=False):
            estimate, target, _ = valid_samples(estimate, target, lengths)
            # the gradient of a complex abs is 0 at 0
            error = (self.stft(estimate).abs() + self.floor).log() - (self.stft(target).abs() + self.floor).log()
            return mean_over_frames(error.square(), self.stft.frames(lengths)).mean()
