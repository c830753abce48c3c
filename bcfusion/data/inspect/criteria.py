"""When a line of a manifest, or one of its recordings, has a problem: thresholds and tests.

A test returns a few words on a line that has the problem, otherwise None.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from bcfusion.contracts import SENSORS_END_WITHIN
from bcfusion.data.inspect.alignment import ENOUGH, SAME
from bcfusion.data.inspect.inspection import Inspected
from bcfusion.data.inspect.measure import SensorMeasure

LineTest = Callable[[Inspected], str | None]
SensorTest = Callable[[SensorMeasure], str | None]

#: seconds by which the manifest's lag may differ from the measured one, by what a shift costs SI-SDR and phase losses
LAG_WARNING, LAG_ERROR = 0.2e-3, 1e-3
#: share of half the sample rate up to which air should hold speech; below the second it was upsampled
BANDWIDTH_WARNING, BANDWIDTH_ERROR = 0.85, 0.6
TOP_ACTIVITY = 8.0  #: dB, below which the top eighth of the spectrum is mostly empty
#: Hz; only fricatives reach a higher top eighth, rarely, and a mean over the speech means nothing there
TOP_HIGHEST = 12000.0
CLIPPED_WARNING, CLIPPED_ERROR = 1e-5, 1e-3  #: shares of the samples
DC = -20.0  #: dB relative to the speech
FULL_SCALE = 0.5  #: dBFS of a peak; filters and resamplers overshoot by less
SILENT, QUIET = -70.0, -45.0  #: dBFS of the speech
SILENT_SHARE = 0.8
SNR = 15.0  #: dB of air, the target
LEVEL_RATIO = 30.0  #: dB between body and air
SWAPPED_TILT = 3.0  #: dB by which body has more of its level above 2 kHz than air
MISMATCH_WARNING, MISMATCH_ERROR = 0.05, SENSORS_END_WITHIN  #: seconds between the ends of the sensors' files


def problem(kind: str) -> LineTest:
    """Return a test for a problem that :func:`~bcfusion.data.inspect.measure.measure` has found."""
    return lambda line: line.measured.problems.get(kind)


def any_sensor(test: SensorTest) -> LineTest:
    """Test the sensors of a line; the first one with the problem is named."""

    def words(line: Inspected) -> str | None:
        for sensor, found in line.measured.sensors.items():
            if (text := test(found)) is not None:
                return f"{sensor} {text}"
        return None

    return words


def audible(test: SensorTest) -> SensorTest:
    """Apply a test only to a sensor that is not silent."""
    return lambda found: test(found) if found.levels.level > SILENT else None


def of_air(test: SensorTest) -> LineTest:
    """Test air, unless the channels are swapped: the result would be about body."""

    def words(line: Inspected) -> str | None:
        found = line.measured.sensors.get("air")
        return None if found is None or swapped(line) is not None else audible(test)(found)

    return words


def between(low: float, value: float, high: float, text: str) -> str | None:
    """Return ``text`` if ``low <= value < high``."""
    return text if low <= value < high else None


def mismatch(low: float, high: float) -> LineTest:
    """Return a test for sensors whose files differ in length, by ``low`` to ``high`` seconds."""

    def words(line: Inspected) -> str | None:
        lengths = [found.duration for found in line.measured.sensors.values()]
        apart = max(lengths, default=0.0) - min(lengths, default=0.0)
        return between(low, apart, high, f"{apart:.3f} s")

    return words


def ends(low: float, high: float) -> SensorTest:
    """Return a test for speech that ends at ``low`` to ``high`` of half the sample rate."""

    def words(found: SensorMeasure) -> str | None:
        share = found.bandwidth / (found.sample_rate / 2)
        return between(low, share, high, f"ends at {found.bandwidth:g} Hz, sampled at {found.sample_rate} Hz")

    return words


def empty_top(found: SensorMeasure) -> str | None:
    """Test for a top eighth of the spectrum that is mostly empty, as after MP3."""
    highest = found.sample_rate / 2
    if found.top_activity >= TOP_ACTIVITY or highest > TOP_HIGHEST or found.bandwidth < BANDWIDTH_WARNING * highest:
        return None
    return f"{found.top_activity:.1f} dB over the pauses above {found.sample_rate * 7 / 16:g} Hz"


def copied(line: Inspected) -> str | None:
    """Test for sensors whose samples equal those of air."""
    air = line.measured.sensors.get("air")
    if air is None or air.levels.level <= SILENT:
        return None
    same = [
        sensor
        for sensor, found in line.measured.sensors.items()
        if sensor != "air" and (found.fingerprint, found.levels) == (air.fingerprint, air.levels)
    ]
    return ", ".join(same) or None


def swapped(line: Inspected) -> str | None:
    """Test for a body sensor with more of its level in the upper band than air."""
    sensors = line.measured.sensors
    if "body" not in sensors or "air" not in sensors:
        return None
    if min(sensors[sensor].levels.level for sensor in ("body", "air")) <= SILENT:
        return None
    wider = sensors["body"].tilt - sensors["air"].tilt
    return f"by {wider:.1f} dB" if not math.isnan(wider) and wider > SWAPPED_TILT else None


def level_ratio(line: Inspected) -> str | None:
    """Test for levels of body and air that are far apart, with the gain of the manifest."""
    ratio = line.measured.level_ratio
    if ratio is not None:
        ratio += line.entry.gain
    silent = any(found.levels.level <= SILENT for found in line.measured.sensors.values())
    return f"{ratio:+.1f} dB" if ratio is not None and abs(ratio) > LEVEL_RATIO and not silent else None


def lag_off(low: float, high: float) -> LineTest:
    """Return a test for a lag that differs from the measured one by ``low`` to ``high`` seconds."""

    def words(line: Inspected) -> str | None:
        if (found := line.resolved) is None:
            return None
        stated, measured = 1e3 * line.entry.lag, 1e3 * found.lag_seconds
        return between(low, abs(measured - stated) / 1e3, high, f"{stated:+.2f} ms, measured {measured:+.2f} ms")

    return words


def polarity_off(line: Inspected) -> str | None:
    """Test for a polarity that differs from the measured one."""
    if (found := line.resolved) is None or found.polarity == line.entry.polarity:
        return None
    return f"{line.entry.polarity:+d}, measured {found.polarity:+d}"


def uncertain(line: Inspected) -> str | None:
    """Test for a pair whose lag and polarity could not be measured reliably."""
    own = line.measured.alignment
    return f"confidence {own.confidence:.2f}" if own is not None and line.resolved is None else None


def departs(line: Inspected) -> str | None:
    """Test for a recording whose own lag or polarity is certain, and differs from its session's."""
    own, session = line.measured.alignment, line.session
    if own is None or session is None or min(own.confidence, session.confidence) < ENOUGH:
        return None
    if own.polarity != session.polarity:
        return f"polarity {own.polarity:+d}, its session's {session.polarity:+d}"
    apart = own.lag_seconds - session.lag_seconds
    return f"{1e3 * apart:+.2f} ms from its session" if abs(apart) > SAME else None
