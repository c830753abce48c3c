"""What is said about a signal that was restored, whichever verb has done it."""

from __future__ import annotations

import math

__all__ = ["SHORTEST_CUT", "peak_warning"]

#: seconds by which sensors differ in length before it is said: resampling may make less
SHORTEST_CUT = 1e-3


def peak_warning(
    overs: int, peak: float, gain: float, protection: str, target: object = None, keeping: str = ""
) -> str:
    """Return how many samples exceed full scale and what was done to them.

    Args:
        overs: their number, above 0.
        peak: the largest magnitude; full scale is 1.
        gain: by what the file was multiplied (``scale``), or the smallest gain in it (``limit``).
        protection: one of :data:`bcfusion.inference.peaks.PEAKS`.
        target: the file; None for a pipe.
        keeping: the option with which they are kept.

    Example:
        >>> peak_warning(3, 1.25, 0.8, "limit", "out.wav")
        'warning: out.wav: 3 samples above full scale, peak 1.25; their surroundings were lowered, by up to 1.9 dB'
    """
    lowered = f"{-20 * math.log10(gain):.1f} dB"
    fate = {
        "keep": "kept",
        "scale": f"the file was lowered by {lowered} (--peak limit lowers their surroundings alone)",
        "limit": f"their surroundings were lowered, by up to {lowered}",
        "clip": f"clipped ({keeping} keeps them)" if keeping else "clipped",
    }[protection]
    name = "" if target is None else f"{target}: "
    return f"warning: {name}{overs} samples above full scale, peak {peak:.2f}; {fate}"
