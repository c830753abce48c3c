"""Log-spectral distance, of the whole band or of a part of it, in the settings of several papers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from bcfusion.contracts import Skip
from bcfusion.errors import ConfigError
from bcfusion.metrics.base import MetricBase, is_silent
from bcfusion.metrics.spectrum import band, power_spectra


class LsdPreset(NamedTuple):
    """One way in which log-spectral distances are published.

    Attributes:
        window, hop: in samples, or in seconds where ``in_seconds``.
        floor: smallest power that is told apart. scale: of the distance, which is measured in log10 of power.
        gain_matched: the estimate is scaled to the target first, by least squares.
    """

    window: float
    hop: float
    in_seconds: bool
    floor: float
    scale: float
    gain_matched: bool


PRESETS: Mapping[str, LsdPreset] = MappingProxyType(
    {
        # NU-Wave 2 (S. Han and J. Lee, 2022) and, with the same window, hop and floor, AP-BWE (Y.-X. Lu et al., 2024)
        "default": LsdPreset(2048, 512, False, 1e-8, 1.0, False),
        # The same in dB of power, the unit of A. Gray and J. Markel, 1976: ten times the value of `default`
        "decibel": LsdPreset(2048, 512, False, 1e-8, 10.0, False),
        # URGENT challenge 2024 and 2025: 32 ms, natural logarithm, level matched; amplitude floor 1e-8
        "urgent": LsdPreset(0.032, 0.016, True, 1e-16, math.log(10.0), True),
    }
)


class Lsd(MetricBase):
    """Log-spectral distance, lower is better; one value, named ``name``.

    A. Gray and J. Markel, "Distance measures for speech processing", 1976, in the form used for bandwidth extension:
    mean over frames of ``sqrt(mean over frequencies of (log10 P_estimate - log10 P_target)^2)``, with
    ``P = max(|X|^2, floor)`` the POWER of the short-time spectrum X of a waveform in [-1, 1], unnormalised, under a
    periodic Hann window. Frames are centred, with zeros beyond both ends. A gain of 10 dB is a distance of 1.

    Published values differ by a factor of ten for the same pair with the floor, the logarithm and the level. Hence
    presets: compare only within one, and with the value of the unprocessed input beside it.

    * ``default``: 2048 samples, hop 512, log10 of power, floor 1e-8, as NU-Wave 2 and AP-BWE.
    * ``decibel``: the same times ten, in dB.
    * ``urgent``: that of the URGENT challenges: windows of 32 ms, hop 16 ms, natural logarithm of power, the estimate
      brought to the target's level. They add 1e-8 to the amplitude of the estimate where we floor either power
      at 1e-16: values agree but for bins that are digitally silent.

    Skipped where the target is silent, or no frequency is left to compare. A silent estimate is scored, but not where
    its level is to be matched.

    Args:
        preset: ``default``, ``decibel`` or ``urgent``.
        n_fft: window and transform, in samples; None: as the preset says. So for hop_length (samples) and floor.
        low_frequency: only frequencies at or above it count, in Hz; None: from 0 on.
        high_frequency: only frequencies below it count, in Hz; None: to the end.
        name: of the value.

    Raises:
        ConfigError: no such preset.
        ValueError: a size or the floor is not positive, or the frequencies hold no band.
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
        super().__init__()
        if preset not in PRESETS:
            raise ConfigError([f"Lsd: preset={preset!r} is none of {', '.join(PRESETS)}"])
        self.preset = PRESETS[preset]
        self.floor = self.preset.floor if floor is None else floor
        self.n_fft, self.hop_length = n_fft, hop_length
        if (n_fft is not None and n_fft < 2) or (hop_length is not None and hop_length < 1) or self.floor <= 0:
            raise ValueError(f"n_fft={n_fft}, hop_length={hop_length} and floor={floor} must be positive (n_fft >= 2)")
        lowest, highest = low_frequency or 0.0, math.inf if high_frequency is None else high_frequency
        if lowest < 0 or lowest >= highest:
            raise ValueError(f"low_frequency={low_frequency} and high_frequency={high_frequency} hold no band")
        self.low_frequency, self.high_frequency = low_frequency, high_frequency
        self.names = (name,)
        self.higher_is_better = {name: False}

    def _measure(self, estimate: np.ndarray, target: np.ndarray, sample_rate: int) -> dict[str, float]:
        if is_silent(target):
            raise Skip("target is silent")
        unit = sample_rate if self.preset.in_seconds else 1
        n_fft = self.n_fft or max(round(self.preset.window * unit), 2)
        hop_length = self.hop_length or max(round(self.preset.hop * unit), 1)
        bins = band(n_fft, sample_rate, self.low_frequency, self.high_frequency)
        if self.preset.gain_matched:
            if is_silent(estimate):
                raise Skip("estimate is silent")
            estimate = estimate * (np.sum(estimate * target) / np.sum(estimate * estimate))
        pairs = zip(
            power_spectra(estimate, n_fft, hop_length, bins),
            power_spectra(target, n_fft, hop_length, bins),
            strict=True,
        )
        distances = [np.sqrt(np.mean(np.square(self._log(e) - self._log(t)), axis=1)) for e, t in pairs]
        return {self.names[0]: self.preset.scale * float(np.concatenate(distances).mean())}

    def _log(self, power: np.ndarray) -> np.ndarray:
        return np.log10(np.maximum(power, self.floor))
