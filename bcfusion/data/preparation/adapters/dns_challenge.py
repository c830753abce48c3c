"""The noise of Microsoft's Deep Noise Suppression Challenge.

C. K. A. Reddy et al., "INTERSPEECH 2021 deep noise suppression challenge". Trees as in the READMEs of
github.com/microsoft/DNS-Challenge; file names as in its lists and at its users.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from bcfusion.data.preparation.adapters import Option, Recording, missing
from bcfusion.data.preparation.adapters.tree import descend, grouped, sounds_of

_PLACES = (("datasets_fullband", "noise_fullband"), ("datasets", "noise"))
# door_Freesound_validated_437341_3.wav is the fourth clip of sound 437341; clips of AudioSet have the name of a video.
_FREESOUND = re.compile(r"Freesound_validated_(.+)_\d+$")


class DnsChallenge:
    """Clips of AudioSet, Freesound and DEMAND, divided 80/10/10 by the recording that they are from."""

    summary = "60,000 noise clips of 10 s, 16 or 48 kHz, 181 h"
    source = "https://github.com/microsoft/DNS-Challenge (download-dns-challenge-*.sh), CC BY 4.0, CC0, CC BY-SA 3.0"
    layout = """\
ROOT/noise_fullband/*.wav           DNS Challenge 4 and 5, 48 kHz: ROOT is datasets_fullband/ or its parent
ROOT/noise/*.wav                    earlier ones, 16 kHz: ROOT is datasets/ or its parent"""
    kind = "noise"
    options: tuple[Option, ...] = ()

    def recordings(self, root: Path, options: Mapping[str, str], unpacked: Path) -> Iterator[Recording]:
        """Yield the clips, sorted by name; clips of one recording are in one split."""
        folder = next((f for f in (descend(root, *place) for place in _PLACES) if f != root), root)
        if folder == root and root.resolve().name not in (place[-1] for place in _PLACES):
            raise missing(self, root, "no folder noise_fullband or noise")
        files = sounds_of(folder)
        if not files:
            raise missing(self, root, f"no sound files in {folder}")
        yield from grouped(files, folder, "noise", recording_of, lambda file: {"recording": recording_of(file)})


def recording_of(file: Path) -> str:
    """Return what a clip was cut from: ``freesound:NUMBER``, or the file's name, for AudioSet that of its video."""
    clip = _FREESOUND.search(file.stem)
    return f"freesound:{clip[1]}" if clip else file.stem


ADAPTER = DnsChallenge()
