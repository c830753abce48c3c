"""DEMAND: noise of 18 places, recorded by 16 microphones.

J. Thiemann, N. Ito, E. Vincent, "The diverse environments multi-channel acoustic noise database", ICA 2013.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from bcfusion import audio
from bcfusion.contracts import UNKNOWN_SPEAKER
from bcfusion.data.preparation.adapters import Option, Recording, missing, split_by_speaker
from bcfusion.data.preparation.adapters.tree import chosen, sounds_of
from bcfusion.errors import AudioError, DataError

PLACES = (
    "DKITCHEN", "DLIVING", "DWASHING", "NFIELD", "NPARK", "NRIVER", "OHALLWAY", "OMEETING", "OOFFICE",
    "PCAFETER", "PRESTO", "PSTATION", "SCAFE", "SPSQUARE", "STRAFFIC", "TBUS", "TCAR", "TMETRO",
)  # fmt: skip
_FOLDER = re.compile(rf"({'|'.join(PLACES)})(?:_(16k|48k))?")
_FILE = re.compile(r"ch(\d\d)")
_RATES = {"16k": 16000, "48k": 48000}
_CHANNEL = Option("channel", "microphones 1 to 16: one, several separated by commas, or all", default="1")
_RATE = Option("rate", "which version, if both were unpacked", choices=tuple(_RATES))


class Demand:
    """Five minutes of each place; all microphones of a place are in one split, 80/10/10 by a hash of its name."""

    summary = "noise of 18 places indoors and outdoors, 16 channels of 5 min each, 48 or 16 kHz"
    source = (
        "https://zenodo.org/records/1227121 (PLACE_16k.zip, PLACE_48k.zip), CC BY-SA 3.0 by the DNS Challenge's list"
    )
    layout = """\
ROOT/DKITCHEN/ch01.wav ... ch16.wav    as the archives unpack, or
ROOT/DKITCHEN_16k/ch01.wav ...         or
ROOT/DKITCHEN_16k/DKITCHEN/ch01.wav ...
ROOT/{DLIVING,NFIELD,OOFFICE,PRESTO,STRAFFIC,TBUS,...}/ (SCAFE exists at 48 kHz only)"""
    kind = "noise"
    options: tuple[Option, ...] = (_CHANNEL, _RATE)

    def recordings(self, root: Path, options: Mapping[str, str], unpacked: Path) -> Iterator[Recording]:
        """Yield one recording for each place and microphone asked for."""
        numbers = chosen(_CHANNEL, options[_CHANNEL.name], [str(number) for number in range(1, 17)])
        found: dict[tuple[str, str], Path] = {}
        for file in sounds_of(root):
            place, rate = _place(file, root)
            number = _FILE.fullmatch(file.stem)
            if place is None or number is None or str(int(number[1])) not in numbers:
                continue
            if not _wanted(file, rate, options.get(_RATE.name)):
                continue
            key = (place, number[1])
            if key in found:
                raise DataError(f"{found[key]} and {file} are the same recording: choose with --rate 16k or 48k")
            found[key] = file
        if not found:
            raise missing(self, root, "no ch01.wav, ... of the places and microphones asked for")
        splits = split_by_speaker(place for place, _ in found)
        for (place, number_of), file in sorted(found.items()):
            yield Recording(
                id=f"{place}/ch{number_of}",
                split=splits[place],
                speaker=UNKNOWN_SPEAKER,
                paths={"noise": file},
                extra={"place": place},
            )


def _place(file: Path, root: Path) -> tuple[str | None, str | None]:
    """Return the place and the rate that the names of a file's folders give."""
    names = [match for folder in file.relative_to(root).parts[:-1] if (match := _FOLDER.fullmatch(folder))]
    if not names and (match := _FOLDER.fullmatch(root.resolve().name)):
        names = [match]
    rates = [match[2] for match in names if match[2]]
    return (names[-1][1] if names else None), (rates[-1] if rates else None)


def _wanted(file: Path, rate: str | None, asked: str | None) -> bool:
    if asked is None:
        return True
    if rate:
        return rate == asked
    try:
        return audio.info(file).sample_rate == _RATES[asked]
    except AudioError:
        return True  # it is counted as unreadable later


ADAPTER = Demand()
