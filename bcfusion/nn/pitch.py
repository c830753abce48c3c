"""Fundamental frequency and voicing of each frame, causal: conditions for a network with a body sensor."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from bcfusion.nn.precision import filter_tensor, full_precision
from bcfusion.nn.stft import Stft, window_samples
from bcfusion.nn.streaming import StreamingModule
from bcfusion.requirements import require


class Pitch(StreamingModule):
    """F0 and voicing from the autocorrelation of each frame, divided by that of its window.

    Boersma, "Accurate short-term analysis of the fundamental frequency and the harmonics-to-noise ratio of a sampled
    sound", IFA Proceedings 17, 1993. Voicing is the height of the highest peak, 0 without any: 1 for a periodic frame,
    r for a frame whose periodic part has the share r of the power. What lies below the voice does not count. Each frame
    is judged on its own, so that nothing of the future is needed; there is no gradient.

    Args:
        sample_rate: in Hz.
        hop_length: samples.
        win_length: samples; the window must hold three periods of ``f_min``.
        f_min: lowest frequency of the voice, in Hz.
        f_max: highest frequency of the voice, in Hz.
        octave_cost: how much higher a peak an octave lower has to be, so that a double period is not taken for the
            period.
        silence: root mean square below which a frame is increasingly judged as unvoiced; 1 is full scale.

    Raises:
        ConfigError: frequencies out of order, or a window that is too short.
    """

    window_correlation: Tensor
    to_correlation: Tensor
    audible: Tensor
    cost: Tensor

    def __init__(
        self,
        sample_rate: int,
        hop_length: int,
        win_length: int,
        f_min: float = 70.0,
        f_max: float = 400.0,
        octave_cost: float = 0.02,
        silence: float = 1e-4,
    ) -> None:
        super().__init__()
        shortest = math.ceil(3 * sample_rate / f_min) if f_min > 0 else 0
        require(
            self,
            (
                0 < f_min < f_max < sample_rate / 4,
                f"f_min={f_min}, f_max={f_max} must rise, from above 0 to below {sample_rate / 4:g} Hz",
            ),
            (
                win_length >= shortest,
                f"win_length={win_length} must be at least {shortest}, three periods of f_min={f_min}",
            ),
        )
        self.sample_rate = sample_rate
        self.silence = silence
        first, last = int(sample_rate / f_max) - 1, int(np.ceil(sample_rate / f_min)) + 1  # one more lag at either end
        self.first_lag = first
        n_fft = 2 ** int(np.ceil(np.log2(win_length + last)))  # no lag wraps around
        self.stft = Stft(n_fft, hop_length, win_length, "hann")
        lags = np.arange(first, last + 1)
        bins = np.arange(n_fft // 2 + 1)
        weight = np.where((bins == 0) | (bins == n_fft // 2), 1.0, 2.0) / n_fft
        cosine = np.cos(2 * np.pi / n_fft * (np.outer(np.concatenate([[0], lags]), bins) % n_fft)) * weight
        window = window_samples("hann", win_length)
        correlation = np.array([window[lag:] @ window[: win_length - lag] for lag in lags]) / (window @ window)
        cost = octave_cost * np.log2(lags * f_min / sample_rate)
        # an offset and rumble are no voice, though the shortest lag is like the signal there
        audible = (bins * sample_rate / n_fft >= 0.75 * f_min).astype(float)
        self.register_buffer("audible", filter_tensor(audible[:, None]), persistent=False)
        self.register_buffer("to_correlation", filter_tensor(cosine), persistent=False)
        self.register_buffer("window_correlation", filter_tensor(correlation[:, None]), persistent=False)
        self.register_buffer("cost", filter_tensor(cost[:, None]), persistent=False)

    @torch.no_grad()
    def forward(self, waveform: Tensor) -> tuple[Tensor, Tensor]:
        """Return F0 in Hz and voicing in [0, 1], each ``(B, 1, N)``, of ``(B, 1, T)``; N = T / hop_length, frames as in
        Stft."""
        real, imag = self.stft(waveform)
        power = (real.square() + imag.square())[:, 0] * self.audible  # (B, F, N)
        with full_precision(power):
            correlation = self.to_correlation @ power  # (B, 1 + lags, N)
        energy = correlation[:, :1]
        floor = self.silence**2 * self.stft.win_length / 2
        curve = correlation[:, 1:] / (energy + floor) / self.window_correlation
        inner = curve[:, 1:-1]
        is_peak = (inner >= curve[:, :-2]) & (inner >= curve[:, 2:])
        score = torch.where(is_peak, inner - self.cost[1:-1], torch.full_like(inner, -2.0))
        best = score.argmax(1, keepdim=True) + 1
        left, middle, right = (curve.gather(1, best + offset) for offset in (-1, 0, 1))
        bend = (left + right - 2 * middle).clamp_max(-1e-6)
        shift = (0.5 * (left - right) / bend).clamp(-0.5, 0.5)  # vertex of the parabola through the three
        f0 = self.sample_rate / (self.first_lag + best + shift)
        voicing = (middle - 0.25 * (left - right) * shift).clamp(0, 1)
        return f0, voicing * is_peak.any(1, keepdim=True)
