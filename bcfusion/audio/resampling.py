"""Change the sample rate, of whole signals and exactly in pieces."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor

__all__ = ["RateChange", "resample"]

# Torchaudio's names for the resampy/librosa filter "kaiser_best"; aliases are some 150 dB down, while torchaudio's
# default lets a 9 kHz tone into 16 kHz speech at -17 dB.
_LOWPASS_FILTER_WIDTH = 64
_ROLLOFF = 0.9475937167399596
_BETA = 14.769656459379492


def resample(x: Tensor, from_rate: int, to_rate: int) -> Tensor:
    """Change the sample rate with a Kaiser-windowed sinc of 64 zero crossings ("kaiser_best").

    Args:
        x: ``(..., T)`` real.
        from_rate: its rate in Hz.
        to_rate: the rate wanted, in Hz.

    Returns:
        ``(..., ceil(T * to_rate / from_rate))``, same type and device; ``x`` itself if the rates are equal.
    """
    import torch

    if from_rate == to_rate:
        return x
    # Half precision would cost the filter's 150 dB: 11 bits of mantissa give 66.
    dtype = x.dtype if x.dtype in (torch.float32, torch.float64) else torch.float32
    return _resampler(from_rate, to_rate, x.device, dtype)(x.to(dtype)).to(x.dtype)


@dataclass(frozen=True)
class RateChange:
    """The samples of a recording that :func:`resample` needs for a piece of its output.

    The filter's coefficients repeat with a period of a few input samples. A window that starts at a multiple of the
    period and holds the filter's reach on both sides gives the same samples as the whole recording would.

    Args:
        from_rate: of the recording, in Hz.
        to_rate: the rate wanted, in Hz.
    """

    from_rate: int
    to_rate: int

    def length(self, frames: int) -> int:
        """Return the number of output samples of ``frames`` input samples."""
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
        divisor = math.gcd(self.from_rate, self.to_rate)
        up, down = self.to_rate // divisor, self.from_rate // divisor
        reach = math.ceil(_LOWPASS_FILTER_WIDTH * down / (min(up, down) * _ROLLOFF)) + down
        period = max(0, start // up - -(-reach // down))
        return period * down, min(frames, -(-stop * down // up) + reach), start - period * up


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
