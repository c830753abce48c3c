"""Distance of log energies in auditory bands, above a floor that follows the loudness of the target."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bcfusion.losses.generator_stft import GeneratorStft
from bcfusion.losses.stft import past_end
from bcfusion.losses.valid import valid_samples
from bcfusion.nn.bands import Bands, Scale, log_energy
from bcfusion.nn.stft import Window
from bcfusion.requirements import above, one_of, require, within

#: a frame counts half as a pause when its energy is this much below the target's loudest frame: 40 dB
_PAUSE = 1e-4


class LogBandsLoss(nn.Module):
    r"""Mean of :math:`|\tfrac12 \ln(E + \phi) - \tfrac12 \ln(S + \phi)|^p` over frames and bands, then over items.

    E and S are the energies of the estimate and the target in the bands of :class:`bcfusion.nn.bands.Bands`. The floor
    :math:`\phi` lies ``floor_db`` below the largest S of the item, so that a recording counts alike at any level, and
    what is inaudible beside its loudest sounds does not count. A gain of 6 dB costs 0.69, as in
    :class:`bcfusion.losses.mel.LogMelLoss`. Frames are centred on multiples of the hop, with zeros around the item.

    Args:
        sample_rate: in Hz.
        n_fft: of the STFT, see :class:`bcfusion.losses.generator_stft.GeneratorStft`.
        hop_length: likewise.
        win_length: likewise.
        window: likewise.
        bands: ``mel`` or ``erb``.
        n_bands: number of bands.
        floor_db: dB from the loudest band of the target's loudest frame down to the floor.
        power: p; 1 for absolute, 2 for squared differences.
        silence_db: dBFS of a sine; a target whose loudest band is fainter is measured as if it were that loud.
        pause_weight: of frames whose target is far fainter than its loudest frame, relative to the others; half of the
            way is 40 dB below it.

    Raises:
        ConfigError: an impossible STFT, no band, another scale or power, a floor that is not above 0 dB, or a weight
            that is not in [0, 1].
    """

    def __init__(
        self,
        sample_rate: int,
        n_fft: int = 512,
        hop_length: int = 256,
        win_length: int = 512,
        window: Window = "hann",
        bands: Scale = "mel",
        n_bands: int = 40,
        floor_db: float = 50.0,
        power: float = 1,
        silence_db: float = -60.0,
        pause_weight: float = 1.0,
    ) -> None:
        require(
            self,
            above(0, floor_db=floor_db),
            one_of((1, 2), power=power),
            within(0, 1, pause_weight=pause_weight),
        )
        super().__init__()
        self.stft = GeneratorStft(n_fft, hop_length, win_length, window)
        self.bands = Bands(sample_rate, n_fft, win_length, window, n_bands, bands)
        self.floor, self.power, self.pause_weight = 10 ** (-floor_db / 10), power, pause_weight
        self.least = 10 ** (silence_db / 10)

    def forward(self, estimate: Tensor, target: Tensor, lengths: Tensor) -> Tensor:
        """Return a float32 scalar from ``estimate (B, 1, T)``, ``target (B, 1, T)`` and ``lengths (B,)``.

        Raises:
            ValueError: other shapes.
        """
        with torch.autocast(estimate.device.type, enabled=False):
            signal, clean, _ = valid_samples(estimate, target, lengths)
            return self._distance(log_energy(self._energies(signal)), self._energies(clean), lengths)

    def _energies(self, signal: Tensor) -> Tensor:
        """Return the energies of bands ``(B, K, N)`` of ``(B, T)``."""
        spectrum = self.stft(signal).transpose(1, 2)
        return self.bands.energies(spectrum.real, spectrum.imag)

    def _distance(self, levels: Tensor, clean: Tensor, lengths: Tensor) -> Tensor:
        """Return the loss of log energies ``(B, K, N)`` against the target's energies ``(B, K, N)``."""
        frames = self.stft.frames(lengths)
        floor = self.floor * clean.amax((1, 2), keepdim=True).clamp_min(self.least)
        wanted = (clean + floor).log()
        given = torch.logaddexp(levels, floor.log())
        error = (0.5 * (given - wanted)).abs().pow(self.power).mean(1)  # (B, N)
        energy = clean.sum(1)
        share = energy / (energy + _PAUSE * energy.amax(1, keepdim=True)).clamp_min(1e-20)
        weights = self.pause_weight + (1 - self.pause_weight) * share
        weights = weights.masked_fill(past_end(frames, weights.shape[1]), 0.0)
        return ((weights * error).sum(1) / weights.sum(1).clamp_min(1e-8)).mean()


class GeneratorLogBandsLoss(LogBandsLoss):
    """The same for generators that provide the ``band_levels`` of their estimate, which spares its STFT.

    The levels are those before the inverse transform. The bands and the STFT have to be the generator's; the arguments
    are those of :class:`LogBandsLoss`.
    """

    def forward(self, band_levels: Tensor, target: Tensor, lengths: Tensor) -> Tensor:
        """Return a float32 scalar from ``band_levels (B, n_bands, N)``, ``target (B, 1, T)`` and ``lengths (B,)``.

        Raises:
            ValueError: other shapes.
        """
        wanted = (target.shape[0], self.bands.n_bands, target.shape[-1] // self.stft.hop_length + 1)
        if tuple(band_levels.shape) != wanted:
            raise ValueError(
                f"band_levels is {tuple(band_levels.shape)}, the loss's own of {target.shape[-1]} samples {wanted}: "
                "set the loss's n_bands and hop_length to the generator's"
            )
        with torch.autocast(target.device.type, enabled=False):
            with torch.no_grad():
                clean, _, _ = valid_samples(target, target, lengths)
                energies = self._energies(clean)
            past = past_end(self.stft.frames(lengths), wanted[2])[:, None]
            return self._distance(band_levels.float().masked_fill(past, 0.0), energies, lengths)
