"""Energy of the estimate above a frequency, relative to the target."""

from __future__ import annotations

import math

import numpy as np

from bcfusion.contracts import Skip
from bcfusion.metrics.base import SILENCE_POWER, MetricBase
from bcfusion.metrics.spectrum import band, power_spectra
from bcfusion.requirements import above, require

N_FFT = 2048
EDGE_BINS = 2  # half the main lobe of the Hann window: energy below the cutoff leaks this far above it
LIMIT_DB = 100.0


class HighBandEnergy(MetricBase):
    """Ratio of the energies of estimate and target above a cutoff, in dB: ``hf_energy``; 0 is ideal.

    It is negative if the restored band is too weak, as after regression to the mean, and positive if it is too loud.
    Neither direction is better, and values of several utterances may cancel in a mean: read it together with
    ``lsd_hf``, which never cancels. Energies are summed over Hann windows of 2048 samples with a hop of 512, from two
    bins above the cutoff on (16 Hz at 16 kHz), so that speech below it does not leak in. The range is -100 to 100 dB; a
    silent estimate has -100.

    An utterance is skipped if the target has no energy above the cutoff (less than -160 dB full scale), or if no
    frequency is above it.

    Args:
        cutoff_frequency: in Hz, positive; this frequency and higher ones count.

    Raises:
        ConfigError: the cutoff is not positive.
    """

    names = ("hf_energy",)

    def __init__(self, cutoff_frequency: float) -> None:
        require(self, above(0, cutoff_frequency=cutoff_frequency))
        self.cutoff_frequency = cutoff_frequency
        self.higher_is_better = {"hf_energy": None}

    def check_rate(self, sample_rate: int) -> None:
        """Refuse a sample rate, in Hz, with nothing above the cutoff.

        Raises:
            ConfigError: the cutoff is not below half of it.
        """
        cutoff = self.cutoff_frequency
        require(
            self,
            (
                cutoff < sample_rate / 2,
                f"cutoff_frequency={cutoff:g} must be below half of the sample rate, {sample_rate}",
            ),
        )

    def _measure(self, estimate: np.ndarray, target: np.ndarray, sample_rate: int) -> dict[str, float]:
        bins = band(N_FFT, sample_rate, self.cutoff_frequency, None)
        bins = slice(bins.start + EDGE_BINS, bins.stop)
        if bins.start >= bins.stop:
            raise Skip(f"no frequency at or above {self.cutoff_frequency:g} Hz")
        hop = N_FFT // 4
        wanted = sum(float(power.sum()) for power in power_spectra(target, N_FFT, hop, bins))
        # the half spectra of a signal with mean square p sum to p * T/hop * sum(window^2) * N_FFT/2
        if wanted <= SILENCE_POWER * target.size / hop * 0.375 * N_FFT * N_FFT / 2:
            raise Skip(f"target is silent above {self.cutoff_frequency:g} Hz")
        given = sum(float(power.sum()) for power in power_spectra(estimate, N_FFT, hop, bins))
        least = wanted * 10 ** (-LIMIT_DB / 10)
        return {"hf_energy": min(10 * math.log10(max(given, least) / wanted), LIMIT_DB)}
