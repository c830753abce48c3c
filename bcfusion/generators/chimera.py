"""Chimera: deep clustering and a mask on one recurrent trunk, for speech in noise.

Luo et al., "Deep clustering and conventional networks for music separation: stronger together", ICASSP 2017; chimera++:
Wang, Le Roux and Hershey, "Alternative objective functions for deep clustering", ICASSP 2018. Both separate several
voices or instruments; here the two sources are speech and everything else that the microphone picks up.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bcfusion.errors import ConfigError
from bcfusion.nn.frequency_norm import LEAST_OF_LOGARITHMS, FrequencyNorm
from bcfusion.nn.norm import BatchNorm1d
from bcfusion.nn.recurrent import LSTM
from bcfusion.nn.spectral import Complex, SpectralNetwork, log_magnitude, magnitude
from bcfusion.nn.stft import Window
from bcfusion.requirements import above, at_least, one_of, require, within

Activation = Literal["sigmoid", "tanh"]
Inference = Literal["mask", "k_means"]

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"sigmoid": torch.sigmoid, "tanh": torch.tanh}

# Shorter embeddings are not scaled to unit norm, which bounds the gradient.
_LEAST_NORM = 1e-4
# Embeddings that differ by less in every dimension are one point, which has no two clusters.
_LEAST_SPREAD = 1e-4
_STARTS = 10  # of k-means, from different centres: the best result counts


class Chimera(SpectralNetwork):
    r"""Spectra of all sensors to a mask for one of them: ``(B, in_channels, T) -> (B, 1, T)``. Not causal.

    The sensors are divided by the largest sample of all of them: the network does not depend on their level. Their log
    magnitudes :math:`\tfrac12 \ln(|X|^2 + \epsilon^2)`, batch-normalised bin by bin, are the inputs of bidirectional
    LSTM layers, the trunk. Two heads, each a linear layer, read its output:

    - ``embedding (B, F, N, D)``: a vector of unit norm per bin, which deep clustering
      (:class:`bcfusion.losses.embedding.DeepClusteringLoss`) draws together for bins of the same source. It is a
      regulariser of the trunk, unless ``inference`` is ``k_means``.
    - ``mask (B, F, N)``: the share of speech in the bin. With two sources the softmax over their logits is the sigmoid
      of the difference, so one logit per bin is enough; the noise has the mask ``1 - mask``. No permutation of the
      sources is tried in the losses, as for voices: speech is always the first.

    The mask is applied to the spectrum of ``skip_channel``. It cannot fill a band in which that sensor has no signal:
    the network is meant for fusion and for noisy sensors.

    ``inference=k_means``: in evaluation mode the mask comes from the embeddings instead, without gradient. They are
    divided into two clusters by k-means, item by item, over the ACTIVE bins: those within ``active_db`` of the loudest
    bin of the masked sensor, the only ones that deep clustering trains. Of more than ``max_points`` active bins as
    many, evenly spaced, determine the centres. Speech is the cluster in whose bins the mask head's mean mask is higher.
    Active bins get 1 or 0 by the nearer centre, all others keep the value of the mask head. An item without two
    clusters (silence; embeddings that are all the same or not finite) keeps it everywhere. Equal inputs give equal
    masks: the random state is fixed.

    With the defaults and one sensor 11.08 M parameters. chimera++ is twice as wide, ``hidden_size=600``: 36.55 M at
    16 kHz.

    Args:
        sample_rate: of input and output, in Hz.
        in_channels: number of sensors.
        n_fft: of the STFT, see :class:`bcfusion.nn.stft.Stft`.
        hop_length: likewise.
        win_length: likewise.
        window: likewise.
        hidden_size: of each direction of each LSTM layer.
        num_layers: number of LSTM layers.
        dropout: between LSTM layers.
        max_mask: largest value of the mask head. 1: a mask only attenuates; 2: the doubled sigmoid of Wang et al. 2018,
            "End-to-end speech separation with unfolded iterative phase reconstruction".
        embedding_size: D.
        embedding_activation: before embeddings are scaled to unit norm: ``sigmoid`` (chimera++) or ``tanh``.
        floor: :math:`\epsilon`, a magnitude of the signal divided by its largest sample.
        inference: where the mask comes from in evaluation mode, ``mask`` or ``k_means``.
        active_db: of ``k_means``, in dB below the loudest bin of the item.
        max_points: of ``k_means``.
        causal: must be false: bidirectional layers and clusters need the whole file.
        skip_channel: the sensor that is masked; -1 is the last (the air microphone, in fusion).
        frequency_norm: ``learnable``: in place of the batch normalisation the log magnitudes are scaled and shifted bin
            by bin, from the training set's statistics on; the mask's logits too, from 1 and 0 on; see
            :class:`bcfusion.nn.frequency_norm.FrequencyAffine`. None: batch normalisation.

    Raises:
        ConfigError: an argument is out of range; ``causal=True``; ``inference=k_means`` without scikit-learn.
    """

    provides = ("mask", "embedding")
    only_masks = True  #: it cannot fill a band that its input lacks

    def __init__(
        self,
        sample_rate: int = 16000,
        in_channels: int = 1,
        n_fft: int = 512,
        hop_length: int = 128,
        win_length: int = 512,
        window: Window = "sqrt_hann",
        hidden_size: int = 300,
        num_layers: int = 4,
        dropout: float = 0.3,
        max_mask: float = 1.0,
        embedding_size: int = 20,
        embedding_activation: Activation = "sigmoid",
        floor: float = 1e-2,
        inference: Inference = "mask",
        active_db: float = 40.0,
        max_points: int = 20000,
        causal: bool = False,
        skip_channel: int = -1,
        frequency_norm: FrequencyNorm = None,
    ) -> None:
        require(
            self,
            (not causal, "causal=True is impossible, it reads the file in both directions: set causal=False"),
            within(0, 0.99, dropout=dropout),
            at_least(2, embedding_size=embedding_size, max_points=max_points),
            one_of(_ACTIVATIONS, embedding_activation=embedding_activation),
            above(0, floor=floor, active_db=active_db, max_mask=max_mask),
            one_of(get_args(Inference), inference=inference),
        )
        super().__init__(
            sample_rate, in_channels, n_fft, hop_length, win_length, window, False, None, skip_channel, frequency_norm
        )
        self.floor, self.max_mask = floor, max_mask
        self.inference, self.max_points = inference, max_points
        self.least_ratio = 10.0 ** (-active_db / 20.0)
        self.k_means = _k_means() if inference == "k_means" else None
        self.activation = _ACTIVATIONS[embedding_activation]
        bins = self.stft.bins
        self.norm = BatchNorm1d(in_channels * bins) if frequency_norm is None else nn.Identity()
        self.frequency_in = self.frequency_affine(in_channels, bins, least=LEAST_OF_LOGARITHMS)
        self.frequency_out = self.frequency_affine(1, bins, kind="identity")
        self.recurrent = LSTM(
            in_channels * bins, hidden_size, num_layers, bidirectional=True, causal=False, dropout=dropout
        )
        self.embedding = nn.Linear(self.recurrent.output_size, bins * embedding_size)
        self.mask = nn.Linear(self.recurrent.output_size, bins)

    def statistics_of(self, sensors: Complex, target: Complex) -> dict[str, Tensor]:
        return {"frequency_in": log_magnitude(*sensors, self.floor)}

    def body(self, inputs: Tensor) -> Tensor | dict[str, Tensor]:
        """Map ``(B, in_channels, T)``, T a multiple of the hop, to ``estimate (B, 1, T)``, mask and embedding."""
        # at least 1e-4, so as not to amplify silence
        scale = inputs.abs().amax((1, 2), keepdim=True).clamp_min(1e-4)
        output = super().body(inputs / scale)
        if isinstance(output, Tensor):  # while it is observed
            return output * scale
        return {**output, "estimate": output["estimate"] * scale}

    def spectrum(self, real: Tensor, imag: Tensor) -> tuple[Complex, dict[str, Tensor]]:
        """Map ``(B, in_channels, F, N)`` to the estimate's parts ``(B, F, N)``, its mask and the embedding."""
        levels = self.frequency_in(log_magnitude(real, imag, self.floor))
        hidden = self.recurrent(self.norm(levels.flatten(1, 2)).transpose(1, 2))  # (B, N, 2 hidden_size)
        logits = self.frequency_out(self.mask(hidden).transpose(1, 2).unsqueeze(1)).squeeze(1)  # (B, F, N)
        mask = self.max_mask * torch.sigmoid(logits)
        vectors = self.activation(self.embedding(hidden)).unflatten(-1, (self.stft.bins, -1))  # (B, N, F, D)
        embedding = F.normalize(vectors, dim=-1, eps=_LEAST_NORM).transpose(1, 2)
        sensor = real[:, self.skip_channel], imag[:, self.skip_channel]
        if self.k_means is not None and not self.training:
            mask = self.clustered(embedding, mask, magnitude(*sensor, eps=0.0))
        return (mask * sensor[0], mask * sensor[1]), {"mask": mask, "embedding": embedding}

    @torch.no_grad()
    def clustered(self, embedding: Tensor, mask: Tensor, level: Tensor) -> Tensor:
        """Return the mask ``(B, F, N)`` of the k-means clusters.

        Args:
            embedding: ``(B, F, N, D)``.
            mask: that of the mask head, ``(B, F, N)``.
            level: magnitudes of the masked sensor, ``(B, F, N)``.
        """
        active = (level >= self.least_ratio * level.amax((1, 2), keepdim=True)) & (level > 0)
        result = mask.clone()
        for item, bins in enumerate(active):
            points = embedding[item][bins].float()  # (active bins, D)
            centres = self._centres(points)
            if centres is None:
                continue
            second = torch.cdist(points, centres).argmin(-1) == 1
            shares = mask[item][bins]
            if not second.any() or second.all():
                continue
            speech = second if shares[second].mean() > shares[~second].mean() else ~second
            result[item, bins] = speech.to(mask.dtype)
        return result

    def _centres(self, points: Tensor) -> Tensor | None:
        """Return the two centres ``(2, D)`` of ``points (n, D)``, or None if there are none."""
        assert self.k_means is not None
        if len(points) > self.max_points:
            chosen = torch.linspace(0, len(points) - 1, self.max_points, dtype=torch.float64, device=points.device)
            points = points[chosen.round().long()]
        if len(points) < 2 or not points.isfinite().all() or (points - points[0]).abs().amax() < _LEAST_SPREAD:
            return None
        fitted = self.k_means(n_clusters=2, n_init=_STARTS, random_state=0).fit(points.cpu().numpy())
        return torch.from_numpy(fitted.cluster_centers_).to(points)


def _k_means() -> Any:
    """Return scikit-learn's class.

    Raises:
        ConfigError: the package is not installed.
    """
    try:
        return importlib.import_module("sklearn.cluster").KMeans
    except ImportError as error:
        raise ConfigError(
            ["Chimera: inference=k_means needs the package scikit-learn: run pip install 'bcfusion[clustering]'"]
        ) from error
