"""Short causal filters designed from magnitude responses, and their convolution."""

from __future__ import annotations

import torch
from scipy.fft import next_fast_len
from torch import Tensor
from torch.nn.functional import pad

#: magnitudes are raised to this share of the largest one, -140 dB: the logarithm of a zero has no cepstrum
FLOOR = 1e-7
SHORTEST_TRANSFORM = 1024  #: of a convolution in blocks


def minimum_phase(magnitude: Tensor, taps: int) -> Tensor:
    """Design filters with a given magnitude response and minimum phase, by the real cepstrum.

    Of all causal filters with that magnitude the minimum-phase one has its energy earliest, so a filtered signal stays
    aligned with its source as well as causality allows. The phase is the Hilbert transform of the log magnitude:
    the cepstrum of the log magnitude is folded onto its causal half (A. V. Oppenheim and R. W. Schafer, "Discrete-Time
    Signal Processing", chapter on the cepstrum).

    The filter is cut off after ``taps``, which hardly affects responses that are smooth over ``sample_rate / taps``. A
    cepstrum that is longer than the frequency grid is aliased: use at least four times as many bins as taps.

    Args:
        magnitude: ``(..., F)``, linear, not negative, at F >= 2 equidistant frequencies from 0 to half the sample rate,
            both included. If all are zero, so is the filter.
        taps: length of the filters, at most ``2 * (F - 1)``.

    Returns:
        ``(..., taps)``, with the dtype and device of ``magnitude``.

    Raises:
        ValueError: ``taps`` is less than 1 or more than the frequencies determine.
    """
    points = 2 * (magnitude.shape[-1] - 1)
    if not 1 <= taps <= points:
        raise ValueError(f"taps={taps} must be 1 to {points} with {magnitude.shape[-1]} frequencies")
    top = magnitude.amax(dim=-1, keepdim=True).clamp_min(torch.finfo(magnitude.dtype).tiny)
    cepstrum = torch.fft.irfft((magnitude / top).clamp_min(FLOOR).log(), n=points)
    fold = torch.zeros(points, dtype=magnitude.dtype, device=magnitude.device)
    fold[0], fold[1 : points // 2], fold[points // 2] = 1.0, 2.0, 1.0
    logarithm = torch.fft.rfft(cepstrum * fold)
    response = torch.polar(logarithm.real.exp(), logarithm.imag)  # exp(logarithm), at a third of its time
    return torch.fft.irfft(response, n=points)[..., :taps] * torch.where(top > torch.finfo(top.dtype).tiny, top, 0.0)


def causal_filter(signal: Tensor, taps: Tensor) -> Tensor:
    """Convolve each signal with its own causal filter, by FFT.

    A signal counts as silent before its first sample. Output sample n depends on input samples up to n, and tap 0 is
    multiplied with sample n itself, so nothing is delayed.

    Args:
        signal: ``(B, 1, T)`` real, any T of at least one sample.
        taps: ``(B, K)``, or ``(1, K)`` for one filter for all signals; any K of at least one tap.

    Returns:
        ``(B, 1, T)``, with the dtype and device of ``signal``.
    """
    length = signal.shape[-1]
    taps = taps.to(signal)[:, None, :length]
    before = taps.shape[-1] - 1
    size = max(SHORTEST_TRANSFORM, 4 * 2 ** before.bit_length())
    if size >= length:
        size = next_fast_len(length + before, real=True)
        return torch.fft.irfft(torch.fft.rfft(signal, n=size) * torch.fft.rfft(taps, n=size), n=size)[..., :length]
    # overlap-save: each block gives the samples for which it holds all earlier ones that count; transforms that fit
    # into the processor's cache are several times as fast as one of the whole signal
    step = size - before
    blocks = -(-length // step)
    frames = pad(signal, (before, blocks * step - length)).unfold(-1, size, step)
    filtered = torch.fft.irfft(torch.fft.rfft(frames) * torch.fft.rfft(taps, n=size)[:, :, None], n=size)
    return filtered[..., before:].reshape(*signal.shape[:-1], blocks * step)[..., :length]
