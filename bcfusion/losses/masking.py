"""Losses for generators that provide a ``mask (B, F, N)`` of magnitudes in the domain of their own STFT."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from bcfusion.losses.generator_stft import GeneratorStft
from bcfusion.losses.stft import mean_over_frames, past_end
from bcfusion.nn.stft import Window
from bcfusion.requirements import at_least, one_of, require, whole, within


class ComponentLoss(nn.Module):
    r"""Weigh the effect of a mask M on the speech S against its effect on the noise N; the mixture is S + N.

    Xu et al. 2019, "Components loss for neural networks in mask-based speech enhancement", eq. 6. Per item, n being the
    number of its bins, then averaged over items: :math:`\frac{1 - \alpha - \beta}{n} \sum (M|S| - |S|)^2 +
    \frac{\alpha}{n} \sum (M|N|)^2 + \frac{\beta}{n} \sum \left( \frac{M|N|}{\|M|N|\|} - \frac{|N|}{\||N|\|} \right)^2`:
    the speech is kept, the noise attenuated, and the rest of the noise keeps its natural sound. The norms are those of
    each frame (of the whole batch in public code): the third term depends on the colour of the noise, not on its level.
    With non-negative masks a frame adds at most 2 to the third sum, whatever the level of the signals; the other two
    grow with the power of the spectra, hence the paper's large beta.

    Without ``beta`` the loss has two terms, and the speech is weighted :math:`1 - \alpha`.

    Args:
        alpha: weight of the attenuation of the noise.
        beta: weight of the natural sound of the remaining noise; None: the loss of two terms.
        n_fft: of the generator's STFT, see :class:`~bcfusion.losses.generator_stft.GeneratorStft`.
        hop_length: likewise.
        win_length: likewise.
        window: likewise.
        silence_db: RMS level in dBFS, that of white noise, below which the noise in a frame, masked or not, is not
            scaled to unit norm: frames without noise fade out of the third term, and its gradient is bounded.

    Raises:
        ConfigError: weights that leave nothing for the speech, a negative one, a silence level out of range, or an
            impossible STFT.
    """

    def __init__(
        self,
        alpha: float = 0.1,
        beta: float | None = 0.8,
        n_fft: int = 512,
        hop_length: int = 128,
        win_length: int = 512,
        window: Window = "hann",
        silence_db: float = -100.0,
    ) -> None:
        speech_weight = 1.0 - alpha - (beta or 0.0)
        require(
            self,
            at_least(0, alpha=alpha, beta=beta or 0.0),
            within(-300, 0, silence_db=silence_db),
            (
                speech_weight >= 1e-9,  # 1 - 0.7 - 0.3 is not exactly 0
                f"alpha={alpha} and beta={beta} leave the speech a weight of 1 - alpha - beta <= 0: nothing would keep "
                "the mask from removing it; choose alpha + beta < 1 (paper: 0.1 and 0.8)",
            ),
        )
        super().__init__()
        self.alpha, self.beta, self.speech_weight = alpha, beta, speech_weight
        self.stft = GeneratorStft(n_fft, hop_length, win_length, window)
        bins = n_fft // 2 + 1
        self.least_norm = (10.0 ** (silence_db / 10.0) * float(self.stft.window.square().sum()) * bins) ** 0.5

    def forward(self, mask: Tensor, target: Tensor, noise: Tensor, lengths: Tensor) -> Tensor:
        """Return a float32 scalar.

        Args:
            mask: ``(B, F, N)``.
            target: ``(B, 1, T)``.
            noise: ``(B, 1, T)``.
            lengths: ``(B,)``.

        Raises:
            ValueError: other shapes, or F and N are not those of the STFT.
        """
        speech_spectrum, noise_spectrum = self.stft.spectra(target, noise, "noise", lengths)
        speech, disturbance = speech_spectrum.abs(), noise_spectrum.abs()
        frames = self.stft.frames(lengths)
        mask = _valid_mask(self.stft, mask, target, frames)
        filtered = mask * disturbance

        loss = self.speech_weight * mean_over_frames((mask * speech - speech).square(), frames)
        loss = loss + self.alpha * mean_over_frames(filtered.square(), frames)
        if self.beta is not None:
            colouring = (self._unit(filtered) - self._unit(disturbance)).square()
            loss = loss + self.beta * mean_over_frames(colouring, frames)
        return loss.mean()

    def _unit(self, magnitude: Tensor) -> Tensor:
        norm = torch.linalg.vector_norm(magnitude, dim=-1, keepdim=True)
        return magnitude / norm.clamp_min(self.least_norm)


class _MaskedInputLoss(nn.Module, ABC):
    """Mean distance between the masked magnitude of one input X and a magnitude derived from the target.

    Args:
        power: p, 1 or 2.
        channel: which sensor of the inputs is X; the air microphone comes last.
        n_fft: of the generator's STFT, see :class:`~bcfusion.losses.generator_stft.GeneratorStft`.
        hop_length: likewise.
        win_length: likewise.
        window: likewise.

    Raises:
        ConfigError: another power, or an impossible STFT.
    """

    def __init__(
        self,
        power: int = 2,
        channel: int = -1,
        n_fft: int = 512,
        hop_length: int = 128,
        win_length: int = 512,
        window: Window = "hann",
    ) -> None:
        require(self, one_of((1, 2), power=power), whole(channel=channel))
        super().__init__()
        self.power = power
        self.channel = channel
        self.stft = GeneratorStft(n_fft, hop_length, win_length, window)

    def forward(self, mask: Tensor, target: Tensor, inputs: Tensor, lengths: Tensor) -> Tensor:
        """Return a float32 scalar.

        Args:
            mask: ``(B, F, N)``.
            target: ``(B, 1, T)``.
            inputs: ``(B, S, T)``.
            lengths: ``(B,)``.

        Raises:
            ValueError: other shapes, no such channel, or F and N are not those of the STFT.
        """
        if inputs.ndim != 3 or not -inputs.shape[1] <= self.channel < inputs.shape[1]:
            raise ValueError(f"inputs of {tuple(inputs.shape)} have no channel {self.channel}: they must be (B, S, T)")
        masked_input = inputs[:, self.channel].unsqueeze(1)
        target_spectrum, input_spectrum = self.stft.spectra(target, masked_input, "inputs", lengths)
        frames = self.stft.frames(lengths)
        mask = _valid_mask(self.stft, mask, target, frames)
        error = mask * input_spectrum.abs() - self._wanted(target_spectrum, input_spectrum)
        return mean_over_frames(error.abs().pow(self.power), frames).mean()

    @abstractmethod
    def _wanted(self, target: Tensor, masked_input: Tensor) -> Tensor:
        """Return the desired magnitude of the masked input, from complex spectra of equal shape."""


class MagnitudeSpectrumApproximationLoss(_MaskedInputLoss):
    r"""Distance of the masked input's magnitude from the target's, weighing each bin by its level.

    Weninger et al. 2014, "Discriminatively trained recurrent neural networks for single-channel speech separation":
    :math:`\frac{1}{n} \sum \big| |S| - M|X| \big|^p` per item, n being the number of its bins, then the mean over
    items. Unlike the distance from an ideal mask it depends on how loud a bin is.

    The arguments are those of :class:`_MaskedInputLoss`: p, the sensor X, and the generator's STFT.

    Raises:
        ConfigError: another power, or an impossible STFT.
    """

    def _wanted(self, target: Tensor, masked_input: Tensor) -> Tensor:
        return target.abs()


class TruncatedPhaseSensitiveLoss(_MaskedInputLoss):
    r"""Distance of the masked input's magnitude from the part of the target's that is in phase with the input.

    Erdogan et al. 2015, "Phase-sensitive and recognition-boosted speech separation using deep recurrent neural
    networks"; truncated: Kolbaek et al. 2017. :math:`\frac{1}{n} \sum \big| T - M|X| \big|^p` per item, n being the
    number of its bins, with :math:`T = \mathrm{clip}(|S| \cos(\theta_S - \theta_X), 0, |X|)`, then the mean over items.

    As the output keeps the phase of the input, a bin with the wrong phase is better too quiet than of the right
    magnitude. The truncation is for masks in [0, 1], which can neither amplify nor invert.

    The arguments are those of :class:`_MaskedInputLoss`: p, the sensor X, and the generator's STFT.

    Raises:
        ConfigError: another power, or an impossible STFT.
    """

    def _wanted(self, target: Tensor, masked_input: Tensor) -> Tensor:
        magnitude = masked_input.abs()
        # An empty bin of the input has no phase, and nothing is wanted from it: 0 divided by the clamp.
        in_phase = (target * masked_input.conj()).real / magnitude.clamp_min(torch.finfo(magnitude.dtype).tiny)
        return torch.minimum(in_phase.clamp_min(0.0), magnitude)


def _valid_mask(stft: GeneratorStft, mask: Tensor, target: Tensor, frames: Tensor) -> Tensor:
    """Return the mask ``(B, N, F)`` in float32, 0 in value and in gradient past each item's frames."""
    mask = stft.frames_first(mask, "mask", target)
    return mask.masked_fill(past_end(frames, mask.shape[1])[..., None], 0.0)
