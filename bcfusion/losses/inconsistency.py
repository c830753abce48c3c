"""Loss of generators that provide the spectrum that they make a waveform of."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bcfusion.losses.generator_stft import GeneratorStft
from bcfusion.losses.stft import mean_over_frames, past_end, power
from bcfusion.losses.valid import valid_samples
from bcfusion.nn.stft import Window
from bcfusion.requirements import above, require


class InconsistencyLoss(nn.Module):
    r"""Mean of :math:`|X - \mathrm{STFT}(\mathrm{ISTFT}(X))|^2` over an item's frames and bins, then over items.

    AP-BWE, Lu et al. 2024. Not every array of complex numbers is the spectrum of a signal: what the inverse transform
    cannot keep of the generator's spectrum X is lost, and X is pulled towards what can be kept. The target plays no
    part. MP-SENet and LaCo-SENet compare compressed spectra, :math:`|X|^c e^{j \angle X}`. The ISTFT of X is the
    estimate itself, without what lies before and after the item, so that the first and last frames of a window's length
    also pay for the item being cut there.

    Args:
        n_fft: of the generator's STFT, see :class:`~bcfusion.losses.generator_stft.GeneratorStft`.
        hop_length: likewise.
        win_length: likewise.
        window: likewise.
        compression: c, above 0 and up to 1, which is no compression.
        floor: power added to each bin before compression, which bounds the gradient of empty bins.

    Raises:
        ConfigError: an impossible STFT, or ``compression`` or ``floor`` out of range.
    """

    def __init__(
        self,
        n_fft: int = 1024,
        hop_length: int = 80,
        win_length: int = 320,
        window: Window = "hann",
        compression: float = 1.0,
        floor: float = 1e-8,
    ) -> None:
        require(
            self,
            (0.0 < compression <= 1.0, f"compression={compression} must be above 0 and at most 1"),
            above(0, floor=floor),
        )
        super().__init__()
        self.compression, self.floor = compression, floor
        self.stft = GeneratorStft(n_fft, hop_length, win_length, window)

    def forward(self, spectrum: Tensor, estimate: Tensor, lengths: Tensor) -> Tensor:
        """Return a float32 scalar.

        Args:
            spectrum: ``(B, F, N, 2)``, real and imaginary parts. Frames are transformed as in
                :class:`bcfusion.nn.stft.Stft`: padded with zeros at their end.
            estimate: ``(B, 1, T)``.
            lengths: ``(B,)``.

        Raises:
            ValueError: other shapes, or F and N are not those of the STFT.
        """
        with torch.autocast(estimate.device.type, enabled=False):
            frames = self.stft.frames(lengths)
            waveform, _, _ = valid_samples(estimate, estimate, lengths)
            given = self.stft.frames_first(spectrum, "spectrum", estimate)  # (B, N, F, 2)
            # overwritten before anything is computed: not even a NaN past the item's frames reaches its gradient
            given = given.masked_fill(past_end(frames, given.shape[1])[..., None, None], 0.0)
            own, kept = (self._compressed(x) for x in (torch.view_as_complex(given.contiguous()), self.stft(waveform)))
            error = power(own - kept)
            return mean_over_frames(error, frames).mean()

    def _compressed(self, spectrum: Tensor) -> Tensor:
        if self.compression == 1.0:
            return spectrum
        return spectrum * (power(spectrum) + self.floor).pow((self.compression - 1.0) / 2.0)
