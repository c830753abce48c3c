"""How much of the target's energy above a frequency the estimate has."""

from __future__ import annotations

import math

import numpy as np

from bcfusion.contracts import Skip
from bcfusion.metrics.base import SILENCE_POWER, MetricBase
from bcfusion.metrics.spectrum import band, power_spectra

N_FFT = 2048
EDGE_BINS = 2  # half the main lobe of the Hann window: what lies below the cutoff reaches so far above it
LIMIT_DB = 100.0


class HighBandEnergy(MetricBase):
    """Energy of the estimate over that of the target above a cutoff, in dB: named ``hf_energy``; 0 is right.

    Negative where the restored band is too weak, as regression to the mean makes it; positive where it is too loud.
    It is neither better high nor low, and a mean over utterances may cancel: look at it beside ``lsd_hf``, which never
    does. Energies are summed over Hann windows of 2048 samples at a quarter's hop, from two bins above the cutoff on
    (16 Hz at 16 kHz), so that speech below it does not leak in. Between -100 and 100 dB: a silent estimate has -100.

    Skipped where the target has no energy above the cutoff (less than -160 dB full scale), or no frequency is there.

    Args:
        cutoff_frequency: in Hz, positive; frequencies from it on count.

    Raises:
        ValueError: the cutoff is not positive.
    """

    names = ("hf_energy",)

    def __init__(self, cutoff_frequency: float) -> None:
        super().__init__()
        if not cutoff_frequency > 0:
            raise ValueError(f"cutoff_frequency must be positive: {cutoff_frequency}")
        self.cutoff_frequency = cutoff_frequency
        self.higher_is_better = {"hf_energy": None}

    def _measure(self, estimate: np.ndarray, target: np.ndarray, sample_rate: int) -> dict[str, float]:
        bins = band(N_FFT, sample_rate, self.cutoff_frequency, None)
        bins = slice(bins.start + EDGE_BINS, bins.stop)
        if bins.start >= bins.stop:
            raise Skip(f"no frequency at or above {self.cutoff_frequency:g} Hz")
        hop = N_FFT // 4
        wanted = sum(float(power.sum()) for power in power_spectra(target, N_FFT, hop, bins))
        # a signal of mean square p has the power sum p * T/hop * sum(window^2) * N_FFT/2 over the frames' half spectra
        if wanted <= SILENCE_POWER * target.size / hop * 0.375 * N_FFT * N_FFT / 2:
            raise Skip(f"target is silent above {self.cutoff_frequency:g} Hz")
        given = sum(float(power.sum()) for power in power_spectra(estimate, N_FFT, hop, bins))
        least = wanted * 10 ** (-LIMIT_DB / 10)
        return {"hf_energy": min(10 * math.log10(max(given, least) / wanted), LIMIT_DB)}
