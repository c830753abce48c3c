"""The state of a stream in one line, its summary in a few, and as plain values."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any, TextIO

from bcfusion.live.engine import Latency
from bcfusion.live.statistics import Snapshot

__all__ = ["StatusLine", "plain", "status_line", "summary_lines"]

ON_A_TERMINAL, ELSEWHERE = 0.25, 5.0  #: seconds from one line to the next


def status_line(state: Snapshot, latency: Latency, sensors: tuple[str, ...]) -> str:
    """Return the state of a stream: time, latency and its parts, load, times per frame, losses, levels."""
    minutes, seconds = divmod(int(state.seconds), 60)
    parts = [f"algorithm {_ms(latency.algorithmic)}"]
    if latency.device:
        parts.append(f"device {_ms(latency.device)}")
    if latency.rate >= 5e-4:
        parts.append(f"rate {_ms(latency.rate)}")
    parts.append(f"queue {_ms(latency.queue)}")
    levels = [f"{name} {_level(level)}" for name, level in zip(sensors, state.inputs, strict=True)]
    return (
        f"{minutes}:{seconds:02d} latency {_ms(latency.total)} ms ({' + '.join(parts)}) load {state.load:.0%} "
        f"frame {_ms(state.median, 1)} p99 {_ms(state.p99, 1)} ms "
        f"under {state.underruns + state.device_underruns} over {state.overruns + state.device_overruns} "
        f"{' '.join(levels)} out {_level(state.output)} dBFS"
    )


def summary_lines(state: Snapshot, latency: Latency, *, file: bool = False) -> list[str]:
    """Return what the stream was like, in a few lines.

    Args:
        state: at its end.
        latency: where the time went.
        file: whether a clock took the place of the sound card.
    """
    device = f"sound card {_ms(latency.device)}, " if latency.device else ""
    rate = f"resampling {_ms(latency.rate)}, " if latency.rate >= 5e-4 else ""
    lines = [
        f"{state.frames} frames of {_ms(state.frame_seconds, 1)} ms in {state.seconds:.1f} s: median "
        f"{_ms(state.median, 2)} ms, 99 % within {_ms(state.p99, 2)} ms, the longest {_ms(state.longest, 2)} ms; "
        f"load {state.load:.1%}",
        f"latency {_ms(latency.total)} ms: algorithm {_ms(latency.algorithmic)}, {device}{rate}"
        f"queue {_ms(latency.queue)}",
    ]
    if file:
        lines.append(f"missed deadlines: {state.underruns} of {state.frames}")
    else:
        lines.append(
            f"underruns {state.underruns} ({state.underrun_seconds:.2f} s of silence), overruns {state.overruns} "
            f"({state.overrun_seconds:.2f} s of input given up); of the sound card {state.device_underruns} and "
            f"{state.device_overruns}"
        )
    if state.underruns:
        cause = "computing does not keep up" if state.load >= 1 else "computing is late now and then"
        advice = "a longer --frame, a smaller network" if state.load >= 1 else "more --buffers, a longer --frame"
        lines.append(f"{cause}: {advice}, or less other work on this machine")
    if state.resets:
        lines.append(f"the network gave values that are not finite, and began anew, {state.resets} times")
    if state.clipped:
        lines.append(f"clipped: {state.clipped} samples of the input; turn its gain down")
    if state.overs and not file:
        lines.append(f"clipped: {state.overs} samples of the output; turn the gain of the input down")
    return lines


def plain(state: Snapshot, latency: Latency) -> dict[str, Any]:
    """Return everything in values that JSON holds; times in seconds. What was never measured is None."""
    return {
        "seconds": state.seconds,
        "frames": state.frames,
        "frame_seconds": state.frame_seconds,
        "load": state.load,
        "computing": {
            "median": _finite(state.median),
            "p99": _finite(state.p99),
            "longest": state.longest,
            "total": state.computing_total,
        },
        "latency": {
            "algorithmic": latency.algorithmic,
            "device": latency.device,
            "rate": latency.rate,
            "queue": latency.queue,
            "total": latency.total,
        },
        "underruns": state.underruns,
        "underrun_seconds": state.underrun_seconds,
        "overruns": state.overruns,
        "overrun_seconds": state.overrun_seconds,
        "device_underruns": state.device_underruns,
        "device_overruns": state.device_overruns,
        "resets": state.resets,
        "clipped": state.clipped,
        "output_overs": state.overs,
    }


class StatusLine:
    """Prints a line again and again: on a terminal in its own place, four times a second; elsewhere below each other,
    every five seconds.

    Args:
        stream: where to.
        width: returns the width of the terminal in characters.
        clock: seconds, from any point on.
    """

    def __init__(
        self, stream: TextIO, width: Callable[[], int], clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self._stream, self._width, self._clock = stream, width, clock
        self._own_place = stream.isatty()
        self.interval = ON_A_TERMINAL if self._own_place else ELSEWHERE
        self._due = clock() + self.interval
        self._shown = 0

    def show(self, line: Callable[[], str]) -> None:
        """Print a line if it is time for one; it is only made then."""
        if self._clock() < self._due:
            return
        self._due = self._clock() + self.interval
        text = line()
        if self._own_place:
            text = text[: max(1, self._width() - 1)]
            print(f"\r{text:<{self._shown}}", end="", file=self._stream, flush=True)
            self._shown = len(text)
        else:
            print(text, file=self._stream, flush=True)

    def close(self) -> None:
        """End the line, so that others can follow."""
        if self._shown:
            print(file=self._stream, flush=True)
        self._shown = 0


def _ms(seconds: float, digits: int = 0) -> str:
    return "–" if math.isnan(seconds) else f"{1e3 * seconds:.{digits}f}"


def _level(decibels: float) -> str:
    return "silent" if decibels < -120 else f"{decibels:.0f}"


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
