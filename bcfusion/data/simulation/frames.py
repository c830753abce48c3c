"""Frames of short-time spectra in which a sensor is measured, and in which its simulators find speech and pauses."""

from __future__ import annotations

import numpy as np

from bcfusion.data.simulation.bands import TINY

#: length of a frame in seconds, and how many frames overlap at each sample
FRAME_SECONDS = 0.032
OVERLAP = 4
#: a frame counts as speech if it is at most this many dB below the loudest frame of air
ACTIVE_RANGE = 35.0
#: frames on either side of speech that do not count as a pause
NEAR_SPEECH = 8
#: octaves, standard deviation of the smoothing over frequency
SMOOTHING = 1.0 / 6.0
#: Hz below which the response is held constant: there is no speech there
LOWEST = 50.0


def frame_length(sample_rate: int) -> int:
    """Return the samples of a frame, an even number."""
    return 2 * round(FRAME_SECONDS * sample_rate / 2)


def grid(sample_rate: int) -> np.ndarray:
    """Return the frequencies in Hz, ``(F,)``, at which responses are measured at a sample rate."""
    return np.fft.rfftfreq(frame_length(sample_rate), 1.0 / sample_rate)


def hann(sample_rate: int) -> np.ndarray:
    """Return the window of a frame."""
    return np.hanning(frame_length(sample_rate) + 1)[:-1]


def spectra(signal: np.ndarray, window: np.ndarray) -> np.ndarray:
    """Return the complex spectra ``(frames, F)`` of all whole frames of ``signal (T,)``."""
    frames = np.lib.stride_tricks.sliding_window_view(signal, len(window))[:: len(window) // OVERLAP]
    return np.fft.rfft(frames * window)


def means_over_frequency(frequencies: np.ndarray) -> np.ndarray:
    """Return ``(F, F)`` with rows of sum 1: means over a Gaussian of 1/6 octave, and at least of one bin."""
    width = np.maximum(frequencies * (2.0**SMOOTHING - 1.0), frequencies[1])[:, None]
    kernel = np.exp(-0.5 * ((frequencies - frequencies[:, None]) / width) ** 2)
    kernel[:, frequencies < LOWEST] = 0.0  # there is no speech to measure there
    return kernel / kernel.sum(axis=1, keepdims=True)


def decibels(power: np.ndarray) -> np.ndarray:
    """Return 10 log10 of a power, of -200 dB at least."""
    return 10.0 * np.log10(np.maximum(power, TINY))
