"""Losses on embeddings of time-frequency bins."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bcfusion.losses.generator_stft import GeneratorStft
from bcfusion.losses.stft import past_end
from bcfusion.nn.stft import Window
from bcfusion.requirements import above, require

# An embedding shorter than this is not scaled to unit norm, which bounds the gradient at 0.
_LEAST_NORM = 1e-4


class DeepClusteringLoss(nn.Module):
    r"""Deep clustering: equal embeddings for bins of the same source, orthogonal ones for bins of different sources.

    Hershey et al. 2016, "Deep clustering: discriminative embeddings for segmentation and separation". :math:`\|V V^T -
    Y Y^T\|_F^2 = \|V^T V\|_F^2 + \|Y^T Y\|_F^2 - 2 \|V^T Y\|_F^2` per item, then the mean over items: V (bins x D) are
    the embeddings, Y (bins x 2) the one-hot choice between speech and noise, whichever is louder in the bin. The
    right-hand side is computed, whose matrices are D x D, 2 x 2 and D x 2.

    Only active bins count, in which the mixture of target and noise is within ``active_db`` of the item's loudest bin:
    in the others neither source is audible. An item without any, digital silence, counts as 0.

    Args:
        active_db: range of active magnitudes, in dB below the item's maximum.
        unit_norm: scale each bin's embedding to unit norm here; false if the generator has already done so.
        normalize: divide by the square of the number of active bins: the mean over pairs of bins, at most 4 for
            embeddings of unit norm. Without it long items outweigh short ones.
        n_fft: of the generator's STFT, see :class:`~bcfusion.losses.generator_stft.GeneratorStft`.
        hop_length: likewise.
        win_length: likewise.
        window: likewise.

    Raises:
        ConfigError: ``active_db`` is not above 0, or an impossible STFT.
    """

    def __init__(
        self,
        active_db: float = 40.0,
        unit_norm: bool = True,
        normalize: bool = True,
        n_fft: int = 512,
        hop_length: int = 128,
        win_length: int = 512,
        window: Window = "hann",
    ) -> None:
        require(self, above(0, active_db=active_db))
        super().__init__()
        self.least_ratio = 10.0 ** (-active_db / 20.0)
        self.unit_norm = unit_norm
        self.normalize = normalize
        self.stft = GeneratorStft(n_fft, hop_length, win_length, window)

    def forward(self, embedding: Tensor, target: Tensor, noise: Tensor, lengths: Tensor) -> Tensor:
        """Return a float32 scalar.

        Args:
            embedding: ``(B, F, N, D)``.
            target: ``(B, 1, T)``.
            noise: ``(B, 1, T)``.
            lengths: ``(B,)``.

        Raises:
            ValueError: other shapes, or F and N are not those of the STFT.
        """
        if embedding.ndim != 4:
            raise ValueError(f"embedding must be (B, F, N, D), got {tuple(embedding.shape)}")
        with torch.autocast(embedding.device.type, enabled=False):
            speech, disturbance = self.stft.spectra(target, noise, "noise", lengths)
            active, threshold = self._active(speech + disturbance, lengths)
            active = active.flatten(1)[..., None]  # (B, N F, 1)
            louder = torch.stack([speech.abs() >= disturbance.abs(), speech.abs() < disturbance.abs()], dim=-1)
            choice = louder.flatten(1, 2).float().masked_fill(~active, 0.0)  # Y
            vectors = self.stft.frames_first(embedding, "embedding", target).flatten(1, 2)
            vectors = vectors.masked_fill(~active, 0.0)  # V; before its norm, which a NaN in the padding would spoil
            if self.unit_norm:
                vectors = F.normalize(vectors, dim=-1, eps=_LEAST_NORM)

            bins = active.sum(1, keepdim=True).clamp_min(1)  # (B, 1, 1)
            # Means over bins, not sums: the three terms nearly cancel, which loses all digits of sums of 10^9.
            affinity = (
                _square_norm(vectors.mT @ vectors / bins)
                + _square_norm(choice.mT @ choice / bins)
                - 2.0 * _square_norm(vectors.mT @ choice / bins)
            )
            if not self.normalize:
                affinity = affinity * bins.flatten().float().square()
            return affinity.mean() + 0.0 * threshold.mean()  # signals that are not finite show in the loss

    def _active(self, mixture: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Return a boolean ``(B, N, F)``, the bins that count, and the magnitude ``(B, 1, 1)`` from which they do."""
        padding = past_end(self.stft.frames(lengths), mixture.shape[1])
        magnitude = mixture.abs().masked_fill(padding[..., None], 0.0)  # frames past the end still overlap the item
        threshold = self.least_ratio * magnitude.amax((1, 2), keepdim=True)
        return (magnitude >= threshold) & (magnitude > 0.0), threshold


def _square_norm(matrices: Tensor) -> Tensor:
    return matrices.square().sum((1, 2))
