"""What can be wrong with one line of a manifest, and with its recordings: a table, a row for each kind."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum

from bcfusion.data.inspect.alignment import ENOUGH, SAME
from bcfusion.data.inspect.inspection import Inspected
from bcfusion.data.inspect.measure import SensorMeasure

__all__ = ["FILES", "PAIRS", "SIGNALS", "SILENT", "TARGET", "Check", "Severity"]

#: seconds by which the manifest's lag may depart from the measured one: what a shift costs SI-SDR and phase losses
LAG_WARNING, LAG_ERROR = 0.2e-3, 1e-3
#: share of half the sample rate up to which air should hold speech; under the second it was upsampled
BANDWIDTH_WARNING, BANDWIDTH_ERROR = 0.85, 0.6
TOP_ACTIVITY = 8.0  #: dB; under it the top eighth of the spectrum is mostly empty
#: Hz; where the top eighth lies higher only fricatives reach it, rarely, and a mean over the speech says nothing
TOP_HIGHEST = 12000.0
CLIPPED_WARNING, CLIPPED_ERROR = 1e-5, 1e-3  #: shares of the samples
DC = -20.0  #: dB relative to the speech
FULL_SCALE = 0.5  #: dBFS of a peak; filters and resamplers overshoot by less
SILENT, QUIET = -70.0, -45.0  #: dBFS of the speech
SILENT_SHARE = 0.8
SNR = 15.0  #: dB of air, which is the target
LEVEL_RATIO = 30.0  #: dB between body and air
SWAPPED_TILT = 3.0  #: dB by which body has more of its level above 2 kHz than air
MISMATCH_WARNING, MISMATCH_ERROR = 0.05, 0.5  #: seconds between the ends of the sensors' files


class Severity(IntEnum):
    """How much harm it does."""

    ERROR = 0  #: training on it fails or learns something wrong
    WARNING = 1  #: worth a look


@dataclass(frozen=True)
class Check:
    """One kind of problem: how bad, in words, what to do. ``test``: a few words on a line that has it, else None."""

    severity: Severity
    what: str
    advice: str
    test: Callable[[Inspected], str | None]


def _problem(kind: str) -> Callable[[Inspected], str | None]:
    return lambda line: line.measured.problems.get(kind)


def _any_sensor(test: Callable[[SensorMeasure], str | None]) -> Callable[[Inspected], str | None]:
    """The first sensor of a line that has the problem."""

    def words(line: Inspected) -> str | None:
        for sensor, found in line.measured.sensors.items():
            if (text := test(found)) is not None:
                return f"{sensor} {text}"
        return None

    return words


def _audible(test: Callable[[SensorMeasure], str | None]) -> Callable[[SensorMeasure], str | None]:
    return lambda found: test(found) if found.levels.level > SILENT else None


def _of_air(test: Callable[[SensorMeasure], str | None]) -> Callable[[Inspected], str | None]:
    """Of what is swapped for air nothing is said: it would be true of body."""

    def words(line: Inspected) -> str | None:
        found = line.measured.sensors.get("air")
        return None if found is None or _swapped(line) is not None else _audible(test)(found)

    return words


def _between(low: float, value: float, high: float, text: str) -> str | None:
    return text if low <= value < high else None


def _mismatch(low: float, high: float) -> Callable[[Inspected], str | None]:
    def words(line: Inspected) -> str | None:
        lengths = [found.duration for found in line.measured.sensors.values()]
        apart = max(lengths, default=0.0) - min(lengths, default=0.0)
        return _between(low, apart, high, f"{apart:.3f} s")

    return words


def _ends(low: float, high: float) -> Callable[[SensorMeasure], str | None]:
    def words(found: SensorMeasure) -> str | None:
        share = found.bandwidth / (found.sample_rate / 2)
        return _between(low, share, high, f"ends at {found.bandwidth:g} Hz, sampled at {found.sample_rate} Hz")

    return words


def _empty_top(found: SensorMeasure) -> str | None:
    highest = found.sample_rate / 2
    if found.top_activity >= TOP_ACTIVITY or highest > TOP_HIGHEST or found.bandwidth < BANDWIDTH_WARNING * highest:
        return None
    return f"{found.top_activity:.1f} dB over the pauses above {found.sample_rate * 7 / 16:g} Hz"


def _copied(line: Inspected) -> str | None:
    air = line.measured.sensors.get("air")
    if air is None or air.levels.level <= SILENT:
        return None
    same = [
        sensor
        for sensor, found in line.measured.sensors.items()
        if sensor != "air" and (found.fingerprint, found.levels) == (air.fingerprint, air.levels)
    ]
    return ", ".join(same) or None


def _swapped(line: Inspected) -> str | None:
    sensors = line.measured.sensors
    if "body" not in sensors or "air" not in sensors:
        return None
    if min(sensors[sensor].levels.level for sensor in ("body", "air")) <= SILENT:
        return None
    wider = sensors["body"].tilt - sensors["air"].tilt
    return f"by {wider:.1f} dB" if not math.isnan(wider) and wider > SWAPPED_TILT else None


def _ratio(line: Inspected) -> str | None:
    ratio = line.measured.level_ratio
    silent = any(found.levels.level <= SILENT for found in line.measured.sensors.values())
    return f"{ratio:+.1f} dB" if ratio is not None and abs(ratio) > LEVEL_RATIO and not silent else None


def _lag(low: float, high: float) -> Callable[[Inspected], str | None]:
    def words(line: Inspected) -> str | None:
        if (found := line.resolved) is None:
            return None
        said, measured = 1e3 * line.entry.lag, 1e3 * found.lag_seconds
        return _between(low, abs(measured - said) / 1e3, high, f"{said:+.2f} ms, measured {measured:+.2f} ms")

    return words


def _polarity(line: Inspected) -> str | None:
    if (found := line.resolved) is None or found.polarity == line.entry.polarity:
        return None
    return f"{line.entry.polarity:+d}, measured {found.polarity:+d}"


def _uncertain(line: Inspected) -> str | None:
    own = line.measured.alignment
    return f"confidence {own.confidence:.2f}" if own is not None and line.resolved is None else None


def _departs(line: Inspected) -> str | None:
    own, session = line.measured.alignment, line.session
    if own is None or session is None or min(own.confidence, session.confidence) < ENOUGH:
        return None
    if own.polarity != session.polarity:
        return f"polarity {own.polarity:+d}, its session's {session.polarity:+d}"
    apart = own.lag_seconds - session.lag_seconds
    return f"{1e3 * apart:+.2f} ms from its session" if abs(apart) > SAME else None


FILES = (
    Check(
        Severity.ERROR, "unreadable or empty files", "fetch them again, or take the lines out", _problem("unreadable")
    ),
    Check(Severity.ERROR, "channels that are not there", "set the column SENSOR_channel", _problem("channels")),
    Check(Severity.ERROR, "files shorter than the manifest says", "prepare the manifest anew", _problem("span")),
    Check(Severity.ERROR, "shorter than 0.1 s", "take the lines out", _problem("short")),
    Check(Severity.ERROR, "sample_rate is not the file's", "correct or drop the column", _problem("rate")),
    Check(
        Severity.ERROR,
        f"sensors' files differ in length by {MISMATCH_ERROR:g} s or more",
        "make sure that they are of one take, and begin together",
        _mismatch(MISMATCH_ERROR, math.inf),
    ),
    Check(
        Severity.WARNING,
        f"sensors' files differ in length by {MISMATCH_WARNING:g} s or more",
        "look whether they begin together; the common part is used",
        _mismatch(MISMATCH_WARNING, MISMATCH_ERROR),
    ),
)

SIGNALS = (
    Check(
        Severity.ERROR,
        "silent",
        "take the lines out; was the sensor plugged in?",
        _any_sensor(lambda found: f"{found.levels.level:.0f} dBFS" if found.levels.level <= SILENT else None),
    ),
    Check(
        Severity.ERROR,
        "clipped",
        "leave out, or record with less gain",
        _any_sensor(lambda f: _between(CLIPPED_ERROR, f.clipped, math.inf, f"{f.clipped:.2%} of the samples")),
    ),
    Check(
        Severity.WARNING,
        "clipped here and there",
        "harmless in a few; many: less gain",
        _any_sensor(lambda f: _between(CLIPPED_WARNING, f.clipped, CLIPPED_ERROR, f"{f.clipped:.3%} of the samples")),
    ),
    Check(
        Severity.ERROR,
        "beyond full scale",
        "divide the samples by what their format calls 1, or normalise the level",
        _any_sensor(lambda f: f"peak {f.levels.peak:+.1f} dBFS" if f.levels.peak > FULL_SCALE else None),
    ),
    Check(
        Severity.WARNING,
        "DC offset",
        "high-pass at 20 Hz before training",
        _any_sensor(
            _audible(lambda found: _between(DC, found.levels.dc, math.inf, f"{found.levels.dc:+.0f} dB re speech"))
        ),
    ),
    Check(
        Severity.WARNING,
        "very quiet",
        "look at the gain; 16 bits may be too few",
        _any_sensor(
            _audible(lambda found: _between(-math.inf, found.levels.level, QUIET, f"{found.levels.level:.0f} dBFS"))
        ),
    ),
    Check(
        Severity.WARNING,
        "mostly pauses",
        "cut them out: crops of silence teach little",
        _any_sensor(
            _audible(lambda f: _between(SILENT_SHARE, f.levels.silent_share, math.inf, f"{f.levels.silent_share:.0%}"))
        ),
    ),
)

TARGET = (
    Check(
        Severity.ERROR,
        "air was upsampled: it holds no speech in the upper part of its band",
        "leave it out of wide-band targets, or train at the rate that fits (manifest column bandwidth)",
        _of_air(_ends(0.0, BANDWIDTH_ERROR)),
    ),
    Check(
        Severity.WARNING,
        "air ends below its band",
        "leave it out of bandwidth-extension targets (manifest column bandwidth)",
        _of_air(_ends(BANDWIDTH_ERROR, BANDWIDTH_WARNING)),
    ),
    Check(
        Severity.WARNING,
        "the top eighth of air's spectrum is mostly empty, as after MP3",
        "leave it out of bandwidth-extension targets",
        _of_air(_empty_top),
    ),
    Check(
        Severity.WARNING,
        f"air is noisy: SNR under {SNR:g} dB",
        "the network will learn this noise; leave it out of targets",
        _of_air(lambda found: _between(-math.inf, found.levels.snr, SNR, f"{found.levels.snr:.0f} dB")),
    ),
)

PAIRS = (
    Check(
        Severity.ERROR,
        "a sensor's samples are those of air",
        "name the sensor's own file, or its own channel in SENSOR_channel",
        _copied,
    ),
    Check(
        Severity.ERROR,
        "body is wider than air: the channels are swapped",
        "exchange the columns (or body_channel and air_channel)",
        _swapped,
    ),
    Check(Severity.ERROR, "polarity of body is not the manifest's", "bcfusion inspect --fix", _polarity),
    Check(
        Severity.ERROR,
        f"lag of body is off by {1e3 * LAG_ERROR:g} ms or more",
        "bcfusion inspect --fix",
        _lag(LAG_ERROR, math.inf),
    ),
    Check(
        Severity.WARNING,
        f"lag of body is off by {1e3 * LAG_WARNING:g} ms or more",
        "bcfusion inspect --fix",
        _lag(LAG_WARNING, LAG_ERROR),
    ),
    Check(
        Severity.WARNING,
        "lag and polarity cannot be told",
        "listen: another take, too much noise, clocks that drift, or a lag beyond --max-lag?",
        _uncertain,
    ),
    Check(
        Severity.WARNING,
        "lag or polarity changes within a session",
        "name sessions in a column; recorders without a common clock drift",
        _departs,
    ),
    Check(
        Severity.WARNING,
        f"levels of body and air are more than {LEVEL_RATIO:g} dB apart",
        "set the manifest column gain",
        _ratio,
    ),
)
