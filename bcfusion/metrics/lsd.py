"""Log-spectral distance, of the whole band or of what lies above a frequency."""

from __future__ import annotations

import numpy as np

from bcfusion.contracts import Skip
from bcfusion.metrics.base import MetricBase, is_silent

FRAMES_AT_ONCE = 256  # bounds the memory of a long file


class Lsd(MetricBase):
    """Log-spectral distance, lower is better; one value, named ``name``.

    A. Gray and J. Markel, "Distance measures for speech processing", 1976, in the form used for bandwidth extension:
    mean over frames of ``sqrt(mean over frequencies of (log10 P_estimate - log10 P_target)^2)``, with
    ``P = max(|X|^2, floor)`` the POWER of the short-time spectrum X of a waveform in [-1, 1], unnormalised, under a
    periodic Hann window. Frames are centred, with zeros beyond both ends. A gain of 10 dB is a distance of 1.

    Published values differ by a factor of ten for the same pair with the floor, the logarithm and the level. The
    defaults are our preset: 2048 samples, hop 512, log10 of power, floor 1e-8. Compare only within one preset, and with
    the value of the unprocessed input beside it.

    Skipped where the target is silent, or no frequency is at or above ``low_frequency``. A silent estimate is scored.

    Args:
        n_fft: window and transform, in samples. hop_length: in samples. floor: smallest power that is told apart.
        low_frequency: only frequencies at or above it count, in Hz; None: all. name: of the value.

    Raises:
        ValueError: a size or the floor is not positive, or the frequency is negative.
    """

    def __init__(
        self,
        n_fft: int = 2048,
        hop_length: int = 512,
        floor: float = 1e-8,
        low_frequency: float | None = None,
        name: str = "lsd",
    ) -> None:
        super().__init__()
        if n_fft < 2 or hop_length < 1 or floor <= 0 or (low_frequency is not None and low_frequency < 0):
            raise ValueError(
                f"n_fft={n_fft}, hop_length={hop_length} and floor={floor} must be positive (n_fft at least 2), "
                f"low_frequency={low_frequency} not negative"
            )
        self.n_fft = n_fft
        self.hop_length = hop_length
        self.floor = floor
        self.low_frequency = low_frequency
        self.names = (name,)
        self.higher_is_better = {name: False}

    def _measure(self, estimate: np.ndarray, target: np.ndarray, sample_rate: int) -> dict[str, float]:
        if is_silent(target):
            raise Skip("target is silent")
        first_bin = 0
        if self.low_frequency is not None:
            first_bin = int(np.searchsorted(np.fft.rfftfreq(self.n_fft, 1 / sample_rate), self.low_frequency))
        if first_bin > self.n_fft // 2:
            raise Skip(f"no frequency at or above {self.low_frequency:g} Hz")
        estimate_frames, target_frames = self._frames(estimate), self._frames(target)
        distances = [
            np.sqrt(np.mean(np.square(self._log_power(e, first_bin) - self._log_power(t, first_bin)), axis=1))
            for e, t in (
                (estimate_frames[start : start + FRAMES_AT_ONCE], target_frames[start : start + FRAMES_AT_ONCE])
                for start in range(0, len(target_frames), FRAMES_AT_ONCE)
            )
        ]
        return {self.names[0]: float(np.concatenate(distances).mean())}

    def _frames(self, signal: np.ndarray) -> np.ndarray:
        """View ``(T,)`` as ``(1 + T // hop, n_fft)`` frames centred on multiples of the hop."""
        padded = np.pad(signal, (self.n_fft // 2, self.n_fft - self.n_fft // 2))
        frames = np.lib.stride_tricks.sliding_window_view(padded, self.n_fft)
        return frames[: signal.size + 1 : self.hop_length]

    def _log_power(self, frames: np.ndarray, first_bin: int) -> np.ndarray:
        """log10 of the floored power, ``(frames, bins from first_bin)``."""
        window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(self.n_fft) / self.n_fft)
        spectrum = np.fft.rfft(frames * window, axis=1)[:, first_bin:]
        return np.log10(np.maximum(np.square(spectrum.real) + np.square(spectrum.imag), self.floor))
