"""Short-time power spectra for metrics, in blocks that limit the memory for a long file."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from bcfusion.contracts import Skip

FRAMES_AT_ONCE = 256


def power_spectra(
    signal: np.ndarray, n_fft: int, hop_length: int, bins: slice, mirrored: bool = False
) -> Iterator[np.ndarray]:
    """Yield the power ``|X|^2`` of the unnormalised short-time spectrum under a periodic Hann window.

    There are ``1 + T // hop_length`` frames, centred on multiples of the hop.

    Args:
        signal: ``(T,)``, T >= 1.
        n_fft: length of window and transform, in samples.
        hop_length: in samples.
        bins: range of the ``n_fft // 2 + 1`` frequencies.
        mirrored: continue the signal beyond both ends by its reflection about the first and the last sample, again
            and again where it is short; otherwise by zeros.

    Yields:
        ``(frames, bins)``, at most :data:`FRAMES_AT_ONCE` frames at once.
    """
    padded = np.pad(signal, (n_fft // 2, n_fft - n_fft // 2), mode="reflect" if mirrored else "constant")
    frames = np.lib.stride_tricks.sliding_window_view(padded, n_fft)[: signal.size + 1 : hop_length]
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n_fft) / n_fft)
    for start in range(0, len(frames), FRAMES_AT_ONCE):
        spectrum = np.fft.rfft(frames[start : start + FRAMES_AT_ONCE] * window, axis=1)[:, bins]
        yield np.square(spectrum.real) + np.square(spectrum.imag)


def band(n_fft: int, sample_rate: int, low: float | None, high: float | None) -> slice:
    """Return the bins of a transform from ``low`` on and below ``high``, in Hz; None leaves that side open.

    Raises:
        Skip: there is no such bin.
    """
    frequencies = np.fft.rfftfreq(n_fft, 1 / sample_rate)
    first = 0 if low is None else int(np.searchsorted(frequencies, low))
    end = frequencies.size if high is None else int(np.searchsorted(frequencies, high))
    if first >= frequencies.size:
        raise Skip(f"no frequency at or above {low:g} Hz")
    if first >= end:
        raise Skip(f"no frequency below {high:g} Hz" if low is None else f"no frequency from {low:g} to {high:g} Hz")
    return slice(first, end)
