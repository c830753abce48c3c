"""The file of a measured sensor: its response relative to the air microphone, how that varies, its noise floor."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bcfusion import __version__
from bcfusion.data.simulation.short_time import ShortTime
from bcfusion.errors import DataError
from bcfusion.files import from_json, write_text

FORMAT = "bcfusion sensor calibration"
VERSION = 2
#: version 1 has no short-time model
READABLE = (1, 2)
_CURVES = ("response_db", "h1_db", "ratio_db", "coherence", "deviation_db", "slope", "residual_db", "noise_db")


@dataclass(frozen=True)
class Response:
    """One wearer's sensor, measured on all recordings of the wearer. Curves are ``(F,)``, over frequency.

    Attributes:
        id: the speaker, or the recording if the speaker is unknown.
        recordings: ids of the recordings it was measured on.
        seconds: of active speech.
        lag: seconds by which body came later than air, median over the recordings; removed before measuring.
        polarity: +1 or -1, that of most recordings; removed too.
        level_ratio: of body to air, over active speech, in dB.
        response_db: magnitude of the response, in dB, as used by simulators; see
            :mod:`bcfusion.data.simulation.estimation`.
        h1_db: magnitude of the H1 estimate, in dB, which lacks everything that is not coherent with air.
        ratio_db: ratio of the power spectra after subtraction of the noise floors, in dB.
        coherence: magnitude-squared coherence of body and air, 0 to 1.
        deviation_db: standard deviation of the short-time ratio of body to air from frame to frame, in dB.
        slope: dB by which that ratio rises per dB by which air is louder in the frame; usually negative, since the
            body's spectrum does not follow all peaks and valleys that the mouth adds to that of air.
        residual_db: the part of the deviation that the slope does not explain, in dB.
        noise_db: power density of the sensor's own noise, measured in pauses, in dB per Hz, relative to the power of
            active speech at the air microphone.
        noise_swing_db: standard deviation of the level in pauses over time, beyond that of stationary noise, in dB: the
            wearer breathes and moves.
    """

    id: str
    recordings: tuple[str, ...]
    seconds: float
    lag: float
    polarity: int
    level_ratio: float
    response_db: np.ndarray
    h1_db: np.ndarray
    ratio_db: np.ndarray
    coherence: np.ndarray
    deviation_db: np.ndarray
    slope: np.ndarray
    residual_db: np.ndarray
    noise_db: np.ndarray
    noise_swing_db: float = 0.0


@dataclass(frozen=True)
class Calibration:
    """A sensor's calibration file.

    Attributes:
        sensor: its name in the corpus.
        sample_rate: of the recordings, in Hz.
        frequencies: ``(F,)``, equidistant from 0 to half the sample rate, in Hz.
        responses: one per wearer.
        short_time: how the sensor follows air's short-time spectrum; None if there was too little speech to learn it,
            or in a file of version 1.
    """

    sensor: str
    sample_rate: int
    frequencies: np.ndarray
    responses: tuple[Response, ...]
    short_time: ShortTime | None = None

    def curves(self, name: str, frequencies: np.ndarray | None = None) -> np.ndarray:
        """Return one of the curves for all wearers, ``(wearers, F)``.

        Args:
            name: as in :class:`Response`.
            frequencies: in Hz, at which to interpolate the curves; above the highest measured frequency a curve is
                constant. None: those measured.
        """
        measured = np.stack([getattr(response, name) for response in self.responses])
        if frequencies is None:
            return measured
        return np.stack([np.interp(frequencies, self.frequencies, curve) for curve in measured])

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the calibration as JSON; the file appears whole or not at all.

        Raises:
            DataError: the file cannot be written.
        """
        record: dict[str, Any] = {
            "format": FORMAT,
            "version": VERSION,
            "bcfusion": __version__,
            "sensor": self.sensor,
            "sample_rate": self.sample_rate,
            "frequencies": self.frequencies.round(3).tolist(),
            "short_time": self.short_time and self.short_time.record(),
            "responses": [
                {
                    **vars(response),
                    "recordings": list(response.recordings),
                    **{name: getattr(response, name).round(2).tolist() for name in _CURVES},
                }
                for response in self.responses
            ],
        }
        target = Path(os.path.expanduser(path))
        try:
            write_text(target, _lines(record))
        except OSError as error:
            raise DataError(f"cannot write calibration {target}: {error.strerror}") from error

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Calibration:
        """Read and check a file that :meth:`save` wrote.

        Raises:
            DataError: there is no such file, or it is damaged or of another kind.
        """
        source = Path(os.path.expanduser(path))
        hint = "make one with: bcfusion calibrate --pairs MANIFEST --out FILE.json"
        try:
            record = from_json(source.read_text(encoding="utf-8"))
        except OSError as error:
            raise DataError(f"cannot read calibration {source}: {error.strerror}; {hint}") from error
        except ValueError as error:
            raise DataError(f"calibration {source} is not JSON: {error}; {hint}") from error
        if not isinstance(record, dict) or record.get("format") != FORMAT:
            raise DataError(f"{source} is not a calibration of a sensor; {hint}")
        if record.get("version") not in READABLE:
            known = " or ".join(map(str, READABLE))
            raise DataError(f"calibration {source} has version {record.get('version')}, not {known}; {hint}")
        try:
            frequencies = np.asarray(record["frequencies"], dtype=np.float64)
            made = cls(
                sensor=str(record["sensor"]),
                sample_rate=int(record["sample_rate"]),
                frequencies=frequencies,
                responses=tuple(_response(values, len(frequencies)) for values in record["responses"]),
                short_time=ShortTime.read(record["short_time"]) if record.get("short_time") else None,
            )
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"calibration {source} is damaged: {type(error).__name__}: {error}; {hint}") from error
        if len(frequencies) < 2 or not (np.diff(frequencies) > 0).all() or not made.responses:
            raise DataError(f"calibration {source} is damaged: no responses over ascending frequencies; {hint}")
        return made


def _response(values: dict[str, Any], size: int) -> Response:
    curves = {name: np.asarray(values[name], dtype=np.float64) for name in _CURVES}
    for name, curve in curves.items():
        if curve.shape != (size,) or not np.isfinite(curve).all():
            raise ValueError(f"{name} of {values['id']} is not {size} finite numbers")
    swing = float(values.get("noise_swing_db", 0.0))  # version 1 lacks it
    if not 0.0 <= swing < np.inf:
        raise ValueError(f"noise_swing_db of {values['id']} is {swing}")
    return Response(
        id=str(values["id"]),
        recordings=tuple(values["recordings"]),
        seconds=float(values["seconds"]),
        lag=float(values["lag"]),
        polarity=int(values["polarity"]),
        level_ratio=float(values["level_ratio"]),
        **curves,
        noise_swing_db=swing,
    )


def _lines(record: dict[str, Any]) -> str:
    """Return JSON with one line per curve: readable, with small diffs under version control."""
    return _entry(record, "") + "\n"


def _entry(value: Any, indent: str) -> str:
    inner = indent + "  "
    if isinstance(value, dict):
        entries = [f"{inner}{json.dumps(key)}: {_entry(content, inner)}" for key, content in value.items()]
        return "{\n" + ",\n".join(entries) + f"\n{indent}}}"
    if isinstance(value, list) and value and isinstance(value[0], dict | list):
        return "[\n" + ",\n".join(inner + _entry(content, inner) for content in value) + f"\n{indent}]"
    return json.dumps(value)
