"""Log-spectral distance of the whole band or a part of it, with the settings of several papers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from bcfusion.metrics.base import MetricBase, skip_silence
from bcfusion.metrics.spectrum import band, power_spectra
from bcfusion.requirements import above, at_least, one_of, require


class LsdPreset(NamedTuple):
    """Settings with which log-spectral distances are published.

    Attributes:
        window: in samples, or in seconds if ``in_seconds``.
        hop: in the unit of ``window``.
        in_seconds: whether the sizes are in seconds.
        floor: lower limit of the power.
        scale: factor of the distance, which is measured in log10 of power.
        gain_matched: whether the estimate is first scaled to the target by least squares.
        mirrored: whether both signals continue beyond their ends as their reflection (PyTorch's default for centred
            frames), not as zeros (librosa's).
    """

    window: float
    hop: float
    in_seconds: bool
    floor: float
    scale: float
    gain_matched: bool
    mirrored: bool


PRESETS: Mapping[str, LsdPreset] = MappingProxyType(
    {
        # NU-Wave 2 (S. Han, J. Lee, 2022), and with the same window, hop, floor and ends AP-BWE (Y.-X. Lu et al., 2024)
        "default": LsdPreset(2048, 512, False, 1e-8, 1.0, False, True),
        # In dB of power, the unit of A. Gray and J. Markel, 1976: ten times the value of `default`
        "decibel": LsdPreset(2048, 512, False, 1e-8, 10.0, False, True),
        # URGENT challenge 2024 and 2025: 32 ms, natural logarithm, level matched; amplitude floor 1e-8
        "urgent": LsdPreset(0.032, 0.016, True, 1e-16, math.log(10.0), True, False),
    }
)


class Lsd(MetricBase):
    """Log-spectral distance, lower is better; one value, named ``name``.

    A. Gray and J. Markel, "Distance measures for speech processing", 1976, in the form used for bandwidth extension:
    mean over frames of ``sqrt(mean over frequencies of (log10 P_estimate - log10 P_target)^2)``, with
    ``P = max(|X|^2, floor)`` the POWER of the short-time spectrum X of a waveform in [-1, 1], unnormalised, under a
    periodic Hann window. Frames are centred. A gain of 10 dB is a distance of 1.

    Depending on floor, logarithm and level, published values for the same pair differ by a factor of ten, and for clips
    that are cut in speech by some per cent with what is assumed beyond their ends. Hence the presets: compare only
    values of the same preset, and quote the value of the unprocessed input too.

    * ``default``: 2048 samples, hop 512, log10 of power, floor 1e-8, both ends mirrored, as in NU-Wave 2 and AP-BWE.
    * ``decibel``: ten times that, in dB.
    * ``urgent``: as in the URGENT challenges; windows of 32 ms, hop 16 ms, natural logarithm of power, zeros past both
      ends, the estimate scaled to the level of the target. They add 1e-8 to the amplitude of the estimate where this
      class limits both powers to 1e-16 or more: values agree except for bins that are digitally silent.

    An utterance is skipped if the target is silent or there is no frequency to compare. A silent estimate is scored,
    unless its level has to be matched.

    Args:
        preset: ``default``, ``decibel`` or ``urgent``.
        n_fft: length of window and transform, in samples; None: from the preset.
        hop_length: in samples; None: from the preset.
        floor: lower limit of the power; None: from the preset.
        low_frequency: in Hz; only this frequency and higher ones count; None: from 0 on.
        high_frequency: in Hz; only lower frequencies count; None: no limit.
        name: of the value.

    Raises:
        ConfigError: there is no such preset, a size or the floor is not positive, or the frequencies enclose no band.
    """

    def __init__(
        self,
        preset: str = "default",
        n_fft: int | None = None,
        hop_length: int | None = None,
        floor: float | None = None,
        low_frequency: float | None = None,
        high_frequency: float | None = None,
        name: str = "lsd",
    ) -> None:
        lowest, highest = low_frequency or 0.0, math.inf if high_frequency is None else high_frequency
        require(
            self,
            one_of(PRESETS, preset=preset),
            [] if n_fft is None else at_least(2, n_fft=n_fft),
            [] if hop_length is None else at_least(1, hop_length=hop_length),
            [] if floor is None else above(0, floor=floor),
            (
                0 <= lowest < highest,
                f"low_frequency={low_frequency} and high_frequency={high_frequency} must enclose a band from 0 Hz on",
            ),
        )
        self.preset = PRESETS[preset]
        self.floor = self.preset.floor if floor is None else floor
        self.n_fft, self.hop_length = n_fft, hop_length
        self.low_frequency, self.high_frequency = low_frequency, high_frequency
        self.names = (name,)
        self.higher_is_better = {name: False}

    def check_rate(self, sample_rate: int) -> None:
        """Refuse a sample rate, in Hz, with nothing from ``low_frequency`` on.

        Raises:
            ConfigError: ``low_frequency`` is not below half of it.
        """
        lowest = self.low_frequency or 0.0
        require(
            self,
            (
                lowest < sample_rate / 2,
                f"low_frequency={lowest:g} must be below half of the sample rate, {sample_rate}",
            ),
        )

    def _measure(self, estimate: np.ndarray, target: np.ndarray, sample_rate: int) -> dict[str, float]:
        skip_silence(target=target)
        unit = sample_rate if self.preset.in_seconds else 1
        n_fft = self.n_fft or max(round(self.preset.window * unit), 2)
        hop_length = self.hop_length or max(round(self.preset.hop * unit), 1)
        bins = band(n_fft, sample_rate, self.low_frequency, self.high_frequency)
        if self.preset.gain_matched:
            skip_silence(estimate=estimate)
            estimate = estimate * (np.sum(estimate * target) / np.sum(estimate * estimate))
        spectra = (power_spectra(x, n_fft, hop_length, bins, self.preset.mirrored) for x in (estimate, target))
        pairs = zip(*spectra, strict=True)
        distances = [np.sqrt(np.mean(np.square(self._log(e) - self._log(t)), axis=1)) for e, t in pairs]
        return {self.names[0]: self.preset.scale * float(np.concatenate(distances).mean())}

    def _log(self, power: np.ndarray) -> np.ndarray:
        return np.log10(np.maximum(power, self.floor))
