"""The problems that a line of a manifest and its recordings can have: a table, a row for each kind."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import IntEnum

from bcfusion.data.inspect.criteria import (
    BANDWIDTH_ERROR,
    BANDWIDTH_WARNING,
    CLIPPED_ERROR,
    CLIPPED_WARNING,
    DC,
    FULL_SCALE,
    LAG_ERROR,
    LAG_WARNING,
    LEVEL_RATIO,
    MISMATCH_ERROR,
    MISMATCH_WARNING,
    QUIET,
    SILENT,
    SILENT_SHARE,
    SNR,
    LineTest,
    any_sensor,
    audible,
    between,
    copied,
    departs,
    empty_top,
    ends,
    lag_off,
    level_ratio,
    mismatch,
    of_air,
    polarity_off,
    problem,
    swapped,
    uncertain,
)

__all__ = ["FILES", "FIX", "PAIRS", "SIGNALS", "TARGET", "Check", "Severity"]


FIX = "bcfusion inspect --fix"  #: advice that gets the name of the manifest where it is given


class Severity(IntEnum):
    """How much harm a problem does."""

    ERROR = 0  #: training on it fails or learns something wrong
    WARNING = 1  #: worth a look


@dataclass(frozen=True)
class Check:
    """One kind of problem.

    Attributes:
        severity: how bad it is.
        what: the problem, in words.
        advice: what to do.
        test: returns a few words on a line that has it, otherwise None.
    """

    severity: Severity
    what: str
    advice: str
    test: LineTest


FILES = (
    Check(Severity.ERROR, "unreadable or empty files", "fetch them again, or remove the lines", problem("unreadable")),
    Check(Severity.ERROR, "channels that do not exist", "set the column SENSOR_channel", problem("channels")),
    Check(Severity.ERROR, "files shorter than the manifest says", "prepare the manifest again", problem("span")),
    Check(Severity.ERROR, "files that were cut off", "fetch them again; what is left is used", problem("cut")),
    Check(
        Severity.WARNING,
        "files whose header does not state their length",
        "all of them is read; writing them again, as FLAC or WAV, makes them readable for other programs",
        problem("length"),
    ),
    Check(Severity.ERROR, "shorter than 0.1 s", "remove the lines", problem("short")),
    Check(Severity.ERROR, "sample_rate is not the file's", "correct or drop the column", problem("rate")),
    Check(
        Severity.ERROR,
        f"sensors' files differ in length by {MISMATCH_ERROR:g} s or more",
        "make sure that they are of one take, and start together",
        mismatch(MISMATCH_ERROR, math.inf),
    ),
    Check(
        Severity.WARNING,
        f"sensors' files differ in length by {MISMATCH_WARNING:g} s or more",
        "check whether they start together; the common part is used",
        mismatch(MISMATCH_WARNING, MISMATCH_ERROR),
    ),
)

SIGNALS = (
    Check(
        Severity.ERROR,
        "silent",
        "remove the lines; was the sensor connected?",
        any_sensor(lambda found: f"{found.levels.level:.0f} dBFS" if found.levels.level <= SILENT else None),
    ),
    Check(
        Severity.ERROR,
        "clipped",
        "remove them, or record with less gain",
        any_sensor(lambda f: between(CLIPPED_ERROR, f.clipped, math.inf, f"{f.clipped:.2%} of the samples")),
    ),
    Check(
        Severity.WARNING,
        "slightly clipped",
        "harmless in a few; if many, record with less gain",
        any_sensor(lambda f: between(CLIPPED_WARNING, f.clipped, CLIPPED_ERROR, f"{f.clipped:.3%} of the samples")),
    ),
    Check(
        Severity.ERROR,
        "above full scale",
        "divide the samples by what their format calls 1, or normalise the level",
        any_sensor(lambda f: f"peak {f.levels.peak:+.1f} dBFS" if f.levels.peak > FULL_SCALE else None),
    ),
    Check(
        Severity.WARNING,
        "DC offset",
        "high-pass at 20 Hz before training",
        any_sensor(
            audible(lambda found: between(DC, found.levels.dc, math.inf, f"{found.levels.dc:+.0f} dB re speech"))
        ),
    ),
    Check(
        Severity.WARNING,
        "very quiet",
        "check the gain; 16 bits may be too few",
        any_sensor(
            audible(lambda found: between(-math.inf, found.levels.level, QUIET, f"{found.levels.level:.0f} dBFS"))
        ),
    ),
    Check(
        Severity.WARNING,
        "mostly pauses",
        "cut the pauses: crops of silence teach little",
        any_sensor(
            audible(lambda f: between(SILENT_SHARE, f.levels.silent_share, math.inf, f"{f.levels.silent_share:.0%}"))
        ),
    ),
)

TARGET = (
    Check(
        Severity.ERROR,
        "air was upsampled: it holds no speech in the upper part of its band",
        "exclude it from wide-band targets, or train at a fitting rate (manifest column bandwidth)",
        of_air(ends(0.0, BANDWIDTH_ERROR)),
    ),
    Check(
        Severity.WARNING,
        "air does not fill its band",
        "exclude it from bandwidth-extension targets (manifest column bandwidth)",
        of_air(ends(BANDWIDTH_ERROR, BANDWIDTH_WARNING)),
    ),
    Check(
        Severity.WARNING,
        "the top eighth of air's spectrum is mostly empty, as after MP3",
        "exclude it from bandwidth-extension targets",
        of_air(empty_top),
    ),
    Check(
        Severity.WARNING,
        f"air is noisy: SNR under {SNR:g} dB",
        "the network will learn this noise; exclude it from targets",
        of_air(lambda found: between(-math.inf, found.levels.snr, SNR, f"{found.levels.snr:.0f} dB")),
    ),
)

PAIRS = (
    Check(
        Severity.ERROR,
        "a sensor's samples are those of air",
        "name the sensor's own file, or its own channel in SENSOR_channel",
        copied,
    ),
    Check(
        Severity.ERROR,
        "body is wider than air: the channels are swapped",
        "exchange the columns (or body_channel and air_channel)",
        swapped,
    ),
    Check(Severity.ERROR, "polarity of body is not the manifest's", FIX, polarity_off),
    Check(
        Severity.ERROR,
        f"lag of body is off by {1e3 * LAG_ERROR:g} ms or more",
        FIX,
        lag_off(LAG_ERROR, math.inf),
    ),
    Check(
        Severity.WARNING,
        f"lag of body is off by {1e3 * LAG_WARNING:g} ms or more",
        FIX,
        lag_off(LAG_WARNING, LAG_ERROR),
    ),
    Check(
        Severity.WARNING,
        "lag and polarity are uncertain",
        "listen: another take, too much noise, clocks that drift, or a lag beyond --max-lag?",
        uncertain,
    ),
    Check(
        Severity.WARNING,
        "lag or polarity changes within a session",
        "name sessions in a column; recorders without a common clock drift",
        departs,
    ),
    Check(
        Severity.WARNING,
        f"levels of body and air are more than {LEVEL_RATIO:g} dB apart",
        "set the manifest column gain",
        level_ratio,
    ),
)
