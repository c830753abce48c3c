"""Loss for generators that provide the ``log_mel (B, n_mels, N)`` of the speech they restore."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bcfusion.losses.stft import mean_over_frames, past_end
from bcfusion.losses.valid import valid_samples
from bcfusion.nn.mel import LogMel


class GeneratorLogMelLoss(nn.Module):
    r"""Mean absolute difference between a generator's own log mel spectrogram and that of the target.

    Per item the mean of :math:`|L - \ln(M|S| + \epsilon)|` over frames and bands, L being the generator's output; then
    the mean over items. It trains the first stage of VoiceFixer (Liu et al. 2021), whose distance is the same in the
    mel domain. Unlike :class:`bcfusion.losses.mel.LogMelLoss` it does not use the estimated waveform.

    Args:
        sample_rate: the generator's, see :class:`bcfusion.nn.mel.LogMel`, like the arguments not listed here.
        win_length: a multiple of ``2 hop_length``.

    Raises:
        ConfigError: as in LogMel.
    """

    def __init__(
        self,
        sample_rate: int,
        n_fft: int = 1024,
        hop_length: int = 256,
        win_length: int = 1024,
        n_mels: int = 128,
        f_min: float = 0.0,
        f_max: float | None = None,
        floor: float = 1e-5,
    ) -> None:
        super().__init__()
        self.log_mel = LogMel(sample_rate, n_fft, hop_length, win_length, n_mels, f_min, f_max, floor)

    def forward(self, log_mel: Tensor, target: Tensor, lengths: Tensor) -> Tensor:
        """Return a float32 scalar from ``log_mel (B, n_mels, N)``, ``target (B, 1, T)`` and ``lengths (B,)``.

        Frames are centred on multiples of the hop, N = T // hop_length + 1. Those past the end of an item do not count.

        Raises:
            ValueError: other shapes.
        """
        stft = self.log_mel.stft
        count = target.shape[-1] // stft.hop_length + 1
        wanted = (target.shape[0], self.log_mel.n_mels, count)
        if tuple(log_mel.shape) != wanted:
            raise ValueError(
                f"log_mel is {tuple(log_mel.shape)}, the loss's own of {target.shape[-1]} samples {wanted}: set the "
                "loss's n_mels and hop_length to the generator's"
            )
        with torch.autocast(target.device.type, enabled=False), torch.no_grad():
            clean, _, _ = valid_samples(target, target, lengths)
            whole = F.pad(clean, (0, (stft.centred + count) * stft.hop_length - clean.shape[-1]))
            reference = self.log_mel(whole.unsqueeze(1))[..., stft.centred :]
        frames = torch.where(lengths > 0, lengths // stft.hop_length + 1, 0)
        distance = (log_mel.float() - reference).transpose(1, 2)  # (B, N, n_mels)
        distance = distance.masked_fill(past_end(frames, count)[..., None], 0.0).abs()
        return mean_over_frames(distance, frames).mean()
