"""The loss of networks that map log magnitudes: squared errors in units of the training set's deviations."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bcfusion.losses.generator_stft import GeneratorStft
from bcfusion.losses.stft import mean_over_frames, past_end, power
from bcfusion.losses.valid import valid_samples
from bcfusion.nn.stft import Window
from bcfusion.requirements import above, require


class LogMagnitudeMseLoss(nn.Module):
    r"""Mean of :math:`((L - \hat L) / \sigma)^2` over an item's frames and bins, then over items.

    :math:`\hat L` is the generator's log magnitude, :math:`L = \tfrac12 \ln(|S|^2 / s^2 + \epsilon^2)` that of the
    target S divided by the generator's scale s, and :math:`\sigma` the deviation of each bin over the training set. The
    mean that both are normalised by cancels: this is the squared error of log magnitudes of zero mean and unit
    variance, in which the faint high bands count as much as the loud low ones.

    The error is that of the network's output, before it is given a phase: if that phase does not suit them, the
    magnitudes of the waveform itself are different.

    Args:
        n_fft: of the generator's STFT, see :class:`~bcfusion.losses.generator_stft.GeneratorStft`.
        hop_length: likewise.
        win_length: likewise.
        window: likewise.
        floor: the generator's :math:`\epsilon`, a magnitude.

    Raises:
        ConfigError: an impossible STFT, or a ``floor`` that is not above 0.
    """

    def __init__(
        self,
        n_fft: int = 512,
        hop_length: int = 128,
        win_length: int = 512,
        window: Window = "hann",
        floor: float = 1e-2,
    ) -> None:
        require(self, above(0, floor=floor))
        super().__init__()
        self.stft = GeneratorStft(n_fft, hop_length, win_length, window)
        self.floor = floor

    def forward(
        self, log_magnitude: Tensor, deviation: Tensor, scale: Tensor, target: Tensor, lengths: Tensor
    ) -> Tensor:
        """Return a float32 scalar.

        Args:
            log_magnitude: ``(B, F, N)``.
            deviation: ``(B, F, N)``.
            scale: ``(B, 1, 1)``.
            target: ``(B, 1, T)``.
            lengths: ``(B,)``.

        Raises:
            ValueError: other shapes, or F and N are not those of the STFT.
        """
        with torch.autocast(target.device.type, enabled=False):
            frames = self.stft.frames(lengths)
            clean, _, _ = valid_samples(target, target, lengths)
            wanted = 0.5 * (power(self.stft(clean / scale.float().view(-1, 1))) + self.floor**2).log()  # (B, N, F)
            given = self.stft.frames_first(log_magnitude, "log_magnitude", target)
            unit = self.stft.frames_first(deviation, "deviation", target)
            # overwritten before anything is computed: not even a NaN past the item's frames reaches its gradient
            given = given.masked_fill(past_end(frames, given.shape[1])[..., None], 0.0)
            return mean_over_frames(((given - wanted) / unit).square(), frames).mean()
