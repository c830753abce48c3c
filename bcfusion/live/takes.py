"""What is wrong with a sentence that has just been recorded, so that it can be recorded again."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np

from bcfusion import audio
from bcfusion.contracts import SPLITS
from bcfusion.data.corpora.manifest_line import ManifestEntry
from bcfusion.data.inspect.alignment import Alignment, alignment
from bcfusion.data.inspect.checks import FILES, PAIRS, SIGNALS, TARGET, Severity
from bcfusion.data.inspect.inspection import Inspected
from bcfusion.data.inspect.measure import measure

__all__ = ["SUBTYPE", "Fault", "Judged", "judge"]

AIR, BODY = "air", "body"
SUBTYPE = "PCM_24"  #: of the files that are written
SAME = 0.999  #: correlation of two channels from which on they are one signal at two levels
#: beginning of a check's name to what helps while one is recording
_ADVICE = {
    "silent": "is the sensor connected, and is it that channel?",
    "clipped": "turn its gain down, or speak more softly",
    "slightly clipped": "turn its gain down a little",
    "above full scale": "turn its gain down",
    "very quiet": "turn its gain up, or move it closer",
    "mostly pauses": "begin to speak soon after Enter, and press it soon after the last word",
    "DC offset": "it does no harm here, but look at the preamplifier",
    "shorter than": "press Enter after the last word",
    "a sensor's samples": "--channels names one signal twice, or the sound card mixes its channels",
    "body is wider": "exchange the numbers in --channels",
    "levels of body and air": "adjust the gains",
    "air is noisy": "record in a quiet room, close to the microphone",
}


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong.

    Attributes:
        what: in words.
        advice: what to do about it.
        severe: whether the sentence is of no use.
    """

    what: str
    advice: str
    severe: bool


@dataclass(frozen=True)
class Judged:
    """A sentence that was measured.

    Attributes:
        faults: what is wrong with it, the worst first.
        levels: dBFS of the speech in each sensor; empty if it could not be measured.
        peaks: dBFS of the largest sample of each.
        alignment: of the first sensor relative to air; None if it could not be measured.
    """

    faults: tuple[Fault, ...]
    levels: Mapping[str, float]
    peaks: Mapping[str, float]
    alignment: Alignment | None

    @property
    def useless(self) -> bool:
        """Whether it has a severe fault."""
        return any(fault.severe for fault in self.faults)


def judge(signals: Mapping[str, np.ndarray], rate: int, overruns: int = 0) -> Judged:
    """Measure a sentence as ``bcfusion inspect`` does, on the samples that would be written.

    Args:
        signals: ``(T,)`` of each sensor, air among them.
        rate: in Hz.
        overruns: times at which the sound card has lost samples meanwhile.
    """
    if not all(len(signal) for signal in signals.values()):
        return Judged((Fault("nothing was recorded", _ADVICE["shorter than"], True),), {}, {}, None)
    with tempfile.TemporaryDirectory() as folder:
        files = {sensor: str(Path(folder) / f"{sensor}.wav") for sensor in signals}
        for sensor, file in files.items():
            audio.write(file, signals[sensor], rate, SUBTYPE)
        measured = measure(_entry(files))
    line = Inspected(_entry(files), measured)
    faults = []
    if overruns:
        faults.append(Fault(f"the sound card has lost samples ({overruns} times)", "end other programs", True))
    for check in (*FILES, *SIGNALS, *TARGET, *PAIRS):
        advice = next((text for start, text in _ADVICE.items() if check.what.startswith(start)), None)
        if advice is not None and (words := check.test(line)) is not None:
            faults.append(Fault(f"{check.what} ({words})", advice, check.severity is Severity.ERROR))
    faults += _copies(signals) if not any("samples are those" in fault.what for fault in faults) else []
    found = measured.alignment
    if found is None and (other := next((sensor for sensor in signals if sensor != AIR), None)) is not None:
        found = alignment(signals[other], signals[AIR], rate)
    return Judged(
        tuple(sorted(faults, key=lambda fault: not fault.severe)),
        {sensor: known.levels.level for sensor, known in measured.sensors.items()},
        {sensor: known.levels.peak for sensor, known in measured.sensors.items()},
        found,
    )


def _entry(files: Mapping[str, str]) -> ManifestEntry:
    return ManifestEntry(
        id="take",
        paths=files,
        speaker="",
        split=SPLITS[0],
        sample_rate=None,
        duration=None,
        offset=0.0,
        lag=0.0,
        polarity=1,
        extra={},
        channels={},
        gain=0.0,
        bandwidth=None,
        weight=1.0,
    )


def _copies(signals: Mapping[str, np.ndarray]) -> list[Fault]:
    """Return the pairs of sensors that are one signal at two levels, or with two signs."""
    found = []
    for first, second in combinations(signals, 2):
        one, other = (signals[sensor] - signals[sensor].mean() for sensor in (first, second))
        scale = float(np.sqrt(np.square(one).sum() * np.square(other).sum()))
        if scale > 0 and abs(float(one @ other)) / scale >= SAME:
            found.append(Fault(f"{second} is a copy of {first} at another level", _ADVICE["a sensor's samples"], True))
    return found
