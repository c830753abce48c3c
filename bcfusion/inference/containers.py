"""Containers and sample formats of what is written: whatever the installed libsndfile writes and reads back."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import soundfile

from bcfusion.audio.writing import sound_writer
from bcfusion.errors import AudioError
from bcfusion.nearest import did_you_mean

__all__ = ["OutputFormat", "check_rate", "format_of_name", "output_format"]

#: other names of a container, some with a subtype
_ALIASES = {
    "WAVE": ("WAV", None),
    "AIF": ("AIFF", None),
    "AIFC": ("AIFF", None),
    "SND": ("AU", None),
    "OGA": ("OGG", None),
    "OPUS": ("OGG", "OPUS"),
    "SPH": ("NIST", None),
    "IFF": ("SVX", None),
    "SF": ("IRCAM", None),
    "MAT": ("MAT5", None),
}
_SUFFIXES = {"WAVEX": ".wav", "NIST": ".sph", "SVX": ".iff", "IRCAM": ".sf", "MAT4": ".mat", "MAT5": ".mat"}
_UNLIMITED = ("RF64", "W64", "CAF", "FLAC", "OGG", "MP3", "RAW")  #: containers without a 32-bit size
_TWO_FILES = ("SD2",)  #: header in a second file, which for a handle without a name is "._" in the working directory
_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 88200, 96000)  # Hz, tried to name valid ones
_BITS = {"DOUBLE": 64, "FLOAT": 32, "PCM_32": 32, "PCM_24": 24, "PCM_16": 16}  # per sample; of all others at most 16
_LARGEST = 4_294_900_000  # bytes that 32-bit sizes can hold
_TRIAL = 2000  # samples


@dataclass(frozen=True)
class OutputFormat:
    """How sound is written.

    Attributes:
        container: libsndfile's name of the format.
        subtype: libsndfile's name of the sample format.
    """

    container: str
    subtype: str

    @property
    def suffix(self) -> str:
        """What names of such files end in."""
        if self.subtype == "OPUS":
            return ".opus"
        return _SUFFIXES.get(self.container, f".{self.container.lower()}")

    @property
    def keeps_overs(self) -> bool:
        """Whether samples beyond full scale are written as they are."""
        return self.subtype in ("FLOAT", "DOUBLE")

    def container_for(self, samples: int) -> str:
        """Return the container for a mono file of so many samples: RF64 in place of a WAV that is too long.

        Raises:
            AudioError: another container whose sizes have 32 bits would be too long.
        """
        if self.container in _UNLIMITED or samples * _BITS.get(self.subtype, 16) // 8 <= _LARGEST:
            return self.container
        if self.container in ("WAV", "WAVEX"):
            return "RF64"
        raise AudioError(f"{self.container} holds at most 4 GB: give --format rf64, w64, caf or flac")


def output_format(container: str = "WAV", subtype: str | None = None) -> OutputFormat:
    """Return a format by its name.

    Args:
        container: as soundfile names it, or as the names of its files end, in small letters or capitals.
        subtype: as soundfile names it; None for the usual one of the container.

    Raises:
        AudioError: there is no such container, or it does not have the subtype; the valid ones are named.
    """
    name, own = _ALIASES.get(container.upper(), (container.upper(), None))
    known = soundfile.available_formats()
    if name not in known:
        names = sorted(each.lower() for each in known if _written(each))
        hint = did_you_mean(container.lower(), names)
        raise AudioError(f"--format {container}: there is no such format{hint}\nformats: opus, {', '.join(names)}")
    wanted = (subtype or own or soundfile.default_subtype(name) or "PCM_16").upper()
    if own is not None and wanted != own:
        raise AudioError(f"--format {container} --subtype {subtype}: {container} takes {own}")
    if not _can(name, wanted, 16000) and wanted not in _written(name):
        valid = ", ".join(_written(name))
        takes = f"{name} takes {valid}" if valid else f"{name} cannot be written; give another --format"
        raise AudioError(f"cannot write {name} as {wanted}: {takes}")
    return OutputFormat(name, wanted)


def format_of_name(target: Path, subtype: str | None = None) -> OutputFormat:
    """Return the format that the end of a file's name stands for; see :func:`output_format`.

    Raises:
        AudioError: the name of the file tells no format, or the format does not have the subtype.
    """
    try:
        return output_format(target.suffix.removeprefix(".") or "?", subtype)
    except AudioError as error:
        raise AudioError(f"cannot write {target}: {error}") from error


def check_rate(how: OutputFormat, rate: int) -> None:
    """Refuse a sample rate that a format cannot hold.

    Args:
        how: the format.
        rate: in Hz.

    Raises:
        AudioError: with the rates that it takes.
    """
    if not _can(how.container, how.subtype, rate):
        rates = [str(each) for each in _RATES if _can(how.container, how.subtype, each)]
        raise AudioError(
            f"{how.container} {how.subtype} has no sample rate of {rate} Hz, the network's: it takes "
            f"{', '.join(rates)} Hz\ngive another --format, such as wav or flac"
        )


def _written(container: str) -> list[str]:
    """Return the subtypes with which a container can be written, at whatever rate."""
    return [
        subtype
        for subtype in soundfile.available_subtypes(container)
        if any(_can(container, subtype, rate) for rate in (16000, 8000, 48000))
    ]


@cache
def _can(container: str, subtype: str, rate: int) -> bool:
    """Return whether libsndfile writes a mono file and reads it back, at the same rate. Its tables promise more."""
    if container in _TWO_FILES or not soundfile.check_format(container, subtype):
        return False
    raw = {"samplerate": rate, "channels": 1, "subtype": subtype, "format": container} if container == "RAW" else {}
    with tempfile.TemporaryDirectory() as folder:  # MP3 is recognised by the name of a file
        file = Path(folder, f"trial{OutputFormat(container, subtype).suffix}")
        try:
            with sound_writer(file, rate, 1, subtype, container) as sound:
                sound.write(np.zeros(_TRIAL, dtype=np.float32))
            with soundfile.SoundFile(file, **raw) as sound:
                return sound.samplerate == rate and len(sound.read()) >= _TRIAL
        except (soundfile.LibsndfileError, TypeError, ValueError):
            return False
