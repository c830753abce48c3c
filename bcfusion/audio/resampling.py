"""Change the sample rate, of whole signals and exactly in pieces.

A ratio of two small numbers, such as 160 to 441, has few filters, one for each phase of the output: torchaudio applies
them as one convolution, on any device and with gradients. At a ratio such as 16000 to 44101 there would be thousands,
gigabytes of them; soxr, made for that, interpolates between filters on the CPU instead.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from bcfusion.errors import AudioError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

__all__ = ["RateChange", "resample"]

# Torchaudio's names for the resampy/librosa filter "kaiser_best"; aliases are some 150 dB down, while torchaudio's
# default lets a 9 kHz tone into 16 kHz speech at -17 dB.
_LOWPASS_FILTER_WIDTH = 64
_ROLLOFF = 0.9475937167399596
_BETA = 14.769656459379492
# Coefficients of all phases together, 4 MiB in float32. The usual rates from 8 to 192 kHz stay below 400 thousand.
_LARGEST_BANK = 1 << 20
_FLOAT32_INTEGERS = 1 << 24  # torchaudio computes lengths in float32, which holds every integer up to here
# Soxr's quality "VHQ": how many samples of the lower rate its filter reaches to either side, with a margin (measured:
# a window with 128 of them around it equals the whole to rounding).
_SOXR_REACH = 160
_SOXR_BLOCK = 1 << 18  # output samples computed at once: bounds memory, and the drift of soxr's clock in long files


def resample(x: Tensor, from_rate: int, to_rate: int) -> Tensor:
    """Change the sample rate, by a filter that keeps what both rates can hold.

    Ratios of small numbers use a Kaiser-windowed sinc of 64 zero crossings ("kaiser_best"), others soxr's "VHQ". Both
    are linear-phase, flat within 0.01 dB up to 0.87 of the lower Nyquist frequency, and 140 dB down from 1.05 of it on.

    Args:
        x: ``(..., T)`` real, any T.
        from_rate: its rate in Hz.
        to_rate: the rate wanted, in Hz.

    Returns:
        ``(..., ceil(T * to_rate / from_rate))``, exactly so for every length and pair of rates (see
        :meth:`RateChange.length`); same type and device; ``x`` itself if the rates are equal.

    Raises:
        AudioError: gradients are wanted at a ratio of large numbers.
    """
    import torch

    if from_rate == to_rate:
        return x
    change = RateChange(from_rate, to_rate)
    length = change.length(x.shape[-1])
    if length == 0:
        return x.new_zeros(x.shape)
    # Half precision would cost the filter's 150 dB: 11 bits of mantissa give 66.
    dtype = x.dtype if x.dtype in (torch.float32, torch.float64) else torch.float32
    if not change.has_small_bank:
        return _resample_with_soxr(x, change).to(x)
    # The length that torchaudio computes in float32 may be too small by a sample, or by more in a very long signal:
    # whole periods of zeros make it too large, and the surplus is cut off.
    surplus = 1 + length // (_FLOAT32_INTEGERS // 2)
    extended = torch.nn.functional.pad(x.to(dtype), (0, -(-surplus // change.up) * change.down))
    resampled = _resampler(change.down, change.up, x.device, dtype)(extended)
    return resampled[..., :length].to(x.dtype)


@dataclass(frozen=True)
class RateChange:
    """The length of what :func:`resample` returns, and the samples that it needs for a piece of its output.

    The filter's coefficients repeat with a period of a few input samples. A window that starts at a multiple of the
    period and holds the filter's reach on both sides gives the same samples as the whole recording would.

    Args:
        from_rate: of the recording, in Hz.
        to_rate: the rate wanted, in Hz.
    """

    from_rate: int
    to_rate: int

    @property
    def up(self) -> int:
        """Output samples of a period."""
        return self.to_rate // math.gcd(self.from_rate, self.to_rate)

    @property
    def down(self) -> int:
        """Input samples of a period."""
        return self.from_rate // math.gcd(self.from_rate, self.to_rate)

    @property
    def has_small_bank(self) -> bool:
        """Whether a filter for each phase of the output fits into a few megabytes."""
        half = math.ceil(_LOWPASS_FILTER_WIDTH * self.down / (min(self.up, self.down) * _ROLLOFF))
        return self.up * (2 * half + self.down) <= _LARGEST_BANK

    def length(self, frames: int) -> int:
        """Return the number of output samples of ``frames`` input samples: ``ceil(frames * to_rate / from_rate)``."""
        return -(-frames * self.to_rate // self.from_rate)

    def window(self, start: int, stop: int, frames: int) -> tuple[int, int, int]:
        """Return what to read for the output samples ``start`` to ``stop``.

        Args:
            start: first output sample, at least 0.
            stop: the output sample after the last one.
            frames: input samples of the whole recording.

        Returns:
            The first input sample, the input sample after the last one, and the number of output samples to drop from
            the start of the resampled window.
        """
        if self.from_rate == self.to_rate:
            return start, stop, 0
        up, down = self.up, self.down
        reach = _LOWPASS_FILTER_WIDTH / _ROLLOFF if self.has_small_bank else _SOXR_REACH
        samples = math.ceil(reach * down / min(up, down)) + 1
        period = max(0, (start * down // up - samples) // down)
        last = -(-stop * down // up) + samples + (down if self.has_small_bank else 0)
        return period * down, min(frames, last), start - period * up


def _resample_with_soxr(x: Tensor, change: RateChange) -> Tensor:
    """Resample ``(..., T)`` block by block on the CPU; the result is float32, or float64 if ``x`` is."""
    import numpy as np
    import soxr
    import torch

    if x.requires_grad:
        raise AudioError(
            f"resampling from {change.from_rate} to {change.to_rate} Hz has no gradient: the rates have no small "
            "ratio; use a common sample rate, such as 16000 or 48000 Hz"
        )
    frames = x.shape[-1]
    length = change.length(frames)
    rows = x.detach().cpu().to(torch.float64 if x.dtype == torch.float64 else torch.float32).reshape(-1, frames).numpy()
    resampled = torch.empty(len(rows), length, dtype=torch.float64 if x.dtype == torch.float64 else torch.float32)
    for start in range(0, length, _SOXR_BLOCK):
        stop = min(start + _SOXR_BLOCK, length)
        first, last, skip = change.window(start, stop, frames)
        # zeros after the end, for the samples that soxr's rounding of the length would leave out
        silence = [(0, math.ceil(_SOXR_REACH * max(1.0, change.from_rate / change.to_rate)))]
        for row, target in zip(rows, resampled, strict=True):
            block = soxr.resample(np.pad(row[first:last], silence), change.from_rate, change.to_rate, quality="VHQ")
            target[start:stop] = torch.from_numpy(block[skip : skip + stop - start])
    return resampled.reshape(*x.shape[:-1], length)


@lru_cache(maxsize=16)
def _resampler(from_rate: int, to_rate: int, device: torch.device, dtype: torch.dtype) -> torch.nn.Module:
    """Return torchaudio's resampler; designing its filter bank costs more than using it on a one-second clip."""
    import torch
    from torchaudio.transforms import Resample

    with torch.inference_mode(False):  # the filter outlives this call and may meet autograd in the next
        module = Resample(
            from_rate,
            to_rate,
            resampling_method="sinc_interp_kaiser",
            lowpass_filter_width=_LOWPASS_FILTER_WIDTH,
            rolloff=_ROLLOFF,
            beta=_BETA,
            dtype=torch.float64,
        )
        return module.to(device=device, dtype=dtype)
