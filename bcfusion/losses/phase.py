"""Loss between phase spectra that ignores whole turns."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bcfusion.losses.stft import ComplexSpectrogram, past_end
from bcfusion.losses.valid import valid_samples
from bcfusion.requirements import above, at_least, require


class PhaseLoss(nn.Module):
    r"""Anti-wrapped distance of phase spectra: instantaneous phase, group delay and instantaneous angular frequency.

    Ai and Ling 2023, "Neural speech phase prediction based on parallel estimation architecture and anti-wrapping
    losses"; AP-BWE, Lu et al. 2024. With :math:`f(x) = |x - 2 \pi \, \mathrm{round}(x / 2 \pi)|`, at most :math:`\pi`,
    and the phase difference :math:`d = \theta_E - \theta_S`, it is the weighted sum of three means per item, then
    averaged over items:

    - instantaneous phase: f(d);
    - group delay: f of the difference of d along frequency, which ignores a phase error that is the same in all bins of
      a frame;
    - instantaneous angular frequency: f of the difference of d along time, which ignores a phase error that is the same
      in all frames.

    A bin whose target is empty (magnitude below ``floor``) has no phase to be matched: it counts as matched, and so
    does a difference to such a bin. A bin whose estimate is empty has some phase, but the gradient of this angle, 1 /
    magnitude, is unbounded: it counts in the loss but has no gradient, so that gradients stay below 1 / ``floor`` in
    any bin. Another loss has to fill it first.

    Args:
        n_fft: points of the STFT. The default sizes are those of AP-BWE, at any sample rate.
        hop_length: samples between frames.
        win_length: samples of the Hann window.
        instantaneous_phase_weight: 0 leaves the term out.
        group_delay_weight: 0 leaves the term out.
        angular_frequency_weight: 0 leaves the term out.
        floor: magnitude of a bin at or below which it is empty, of a signal in [-1, 1] and a window that is not
            normalised; 1e-4 is about that of the quantisation noise of 16-bit audio under a window of 320 samples.

    Raises:
        ConfigError: an impossible STFT, a negative weight or none above 0, or a floor that is not above 0.
    """

    def __init__(
        self,
        n_fft: int = 1024,
        hop_length: int = 80,
        win_length: int = 320,
        instantaneous_phase_weight: float = 1.0,
        group_delay_weight: float = 1.0,
        angular_frequency_weight: float = 1.0,
        floor: float = 1e-4,
    ) -> None:
        weights = {
            "instantaneous_phase_weight": instantaneous_phase_weight,
            "group_delay_weight": group_delay_weight,
            "angular_frequency_weight": angular_frequency_weight,
        }
        require(
            self,
            at_least(0, **weights),
            (any(weights.values()), "one of its three weights must be above 0"),
            above(0, floor=floor),
        )
        super().__init__()
        self.stft = ComplexSpectrogram(n_fft, hop_length, win_length)
        self.instantaneous_phase_weight = instantaneous_phase_weight
        self.group_delay_weight = group_delay_weight
        self.angular_frequency_weight = angular_frequency_weight
        self.floor = floor

    def forward(self, estimate: Tensor, target: Tensor, lengths: Tensor) -> Tensor:
        """Return a float32 scalar, in radians, from ``estimate (B, 1, T)``, ``target (B, 1, T)`` and ``lengths (B,)``.

        Raises:
            ValueError: other shapes.
        """
        estimate, target, _ = valid_samples(estimate, target, lengths)
        with torch.no_grad():
            reference = self.stft(target)
            frames = self.stft.frames(lengths)
            empty = reference.abs() <= self.floor  # NaN is not empty
            counts = ~past_end(frames, reference.shape[1])[..., None] & ~empty  # (B, N, F)
        difference = self._phase(self.stft(estimate)) - reference.angle()

        bins = reference.shape[2]
        loss = torch.zeros_like(lengths, dtype=torch.float32)
        if self.instantaneous_phase_weight:
            term = _mean(difference, counts, frames * bins)
            loss = loss + self.instantaneous_phase_weight * term
        if self.group_delay_weight:
            term = _mean(difference.diff(dim=2), counts[:, :, 1:] & counts[:, :, :-1], frames * (bins - 1))
            loss = loss + self.group_delay_weight * term
        if self.angular_frequency_weight:
            term = _mean(difference.diff(dim=1), counts[:, 1:] & counts[:, :-1], (frames - 1) * bins)
            loss = loss + self.angular_frequency_weight * term
        return loss.mean()

    def _phase(self, spectrum: Tensor) -> Tensor:
        """Return the phase of each bin in radians, a constant for the gradient if the bin is empty."""
        empty = spectrum.detach().abs() <= self.floor
        return torch.where(empty, spectrum.detach(), spectrum).angle()


def _mean(difference: Tensor, counts: Tensor, number: Tensor) -> Tensor:
    """Return the anti-wrapped ``difference (B, N, F)``, summed where it ``counts``, divided by ``number (B,)``."""
    turns = torch.round(difference.detach() / (2.0 * torch.pi))
    unwrapped = (difference - 2.0 * torch.pi * turns).abs().masked_fill(~counts, 0.0)
    return unwrapped.sum((1, 2)) / number.clamp_min(1)
