"""MUSAN: music, speech and noise at 16 kHz.

D. Snyder, G. Chen, D. Povey, "MUSAN: a music, speech, and noise corpus", arXiv:1510.08484, 2015; OpenSLR 17.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from operator import attrgetter
from pathlib import Path

from bcfusion.data.preparation.adapters import Option, Recording, missing
from bcfusion.data.preparation.adapters.tree import chosen, descend, grouped, sounds_of

_PARTS = ("noise", "music", "speech")
_OPTION = Option("parts", f"of {', '.join(_PARTS)}: one, several separated by commas, or all", default="noise")


class Musan:
    """Noise, and music and speech as noise if asked for; the corpus has no official splits.

    Files are divided 80/10/10 within each collection (``free-sound``, ``fma``, ...) by a hash of their names, so that
    every split has its share of each. Each file is a separate recording.
    """

    summary = "noise (6 h), music (42 h) and speech (60 h) from the public domain, 16 kHz"
    source = "https://www.openslr.org/17/ (musan.tar.gz), CC BY 4.0 and public domain"
    layout = """\
ROOT/noise/free-sound/noise-free-sound-0000.wav ...    ROOT is musan/ or its parent
ROOT/noise/sound-bible/noise-sound-bible-0000.wav ...
ROOT/music/{fma,fma-western-art,hd-classical,jamendo,rfm}/music-fma-0000.wav ...
ROOT/speech/{librivox,us-gov}/speech-librivox-0000.wav ..."""
    kind = "noise"
    options: tuple[Option, ...] = (_OPTION,)

    def recordings(self, root: Path, options: Mapping[str, str], unpacked: Path) -> Iterator[Recording]:
        """Yield the files of the parts asked for, sorted by path."""
        folder = descend(root, "musan")
        for part in chosen(_OPTION, options[_OPTION.name], _PARTS):
            collections = sorted(f for f in (folder / part).iterdir() if f.is_dir()) if (folder / part).is_dir() else []
            if not collections:
                raise missing(self, root, f"no folder {part} with collections in it")
            for collection in collections:
                files = sounds_of(collection)
                yield from grouped(
                    files, folder, "noise", attrgetter("stem"), lambda file: {"part": file.relative_to(folder).parts[0]}
                )


ADAPTER = Musan()
