"""Find sound files from the files, folders and patterns that a user names, and say what is left out."""

from __future__ import annotations

import glob
import logging
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from bcfusion.audio.formats import EXTENSIONS, FOREIGN, one_line
from bcfusion.errors import AudioError
from bcfusion.files import matching, on_disk
from bcfusion.nearest import nearest_path

__all__ = ["find_audio", "walk"]

logger = logging.getLogger(__name__)

_EXPECTED = ", ".join(EXTENSIONS)
_REMEDY = "convert them to FLAC or WAV, for example with ffmpeg -i FILE FILE.flac"
_reported: set[tuple[str, str]] = set()


def find_audio(paths_or_globs: str | os.PathLike[str] | Sequence[str | os.PathLike[str]]) -> list[Path]:
    """Find sound files from what a user typed; a warning names files of sound that cannot be read.

    Args:
        paths_or_globs: files, folders (searched at any depth, links followed) and glob patterns (``**`` too).

    Returns:
        The files, sorted, each once.

    Raises:
        AudioError: a file or folder that does not exist (the nearest name is given), a folder or pattern without sound
            files, or a file whose name does not end as one of :data:`~bcfusion.audio.EXTENSIONS`.
    """
    if isinstance(paths_or_globs, (str, os.PathLike)):
        paths_or_globs = [paths_or_globs]
    found: set[Path] = set()
    for given in paths_or_globs:
        path = on_disk(given)
        if os.path.isdir(path):
            inside, foreign = _listed(path)
            if not inside:
                looked = f"looked for {_EXPECTED} in it and its subfolders"
                raise AudioError(f"no audio in {path}: {_left_out(foreign) or looked}")
            _warn(path, foreign)
            found.update(inside)
        elif os.path.exists(path):
            if path.suffix.lower() in FOREIGN:
                raise AudioError(f"{path}: {_left_out([path])}")
            if path.suffix.lower() not in EXTENSIONS:
                raise AudioError(f"{path} is not an audio file by its name: expected {_EXPECTED}")
            found.add(path)
        elif glob.has_magic(os.fspath(path)):
            matched = [name for name in matching(path) if not name.name.startswith("._")]  # AppleDouble files of macOS
            sounds = [name for name in matched if name.suffix.lower() in EXTENSIONS and not os.path.isdir(name)]
            foreign = [name for name in matched if name.suffix.lower() in FOREIGN and not os.path.isdir(name)]
            if not sounds:
                raise AudioError(f"no audio matches {path}: {_left_out(foreign) or f'expected {_EXPECTED}'}")
            _warn(path, foreign)
            found.update(sounds)
        else:
            raise AudioError(f"no such file or folder: {path}{nearest_path(path)}")
    return sorted(found)


def walk(folder: Path) -> Iterator[Path]:
    """Yield the sound files below a folder; hidden ones are left out, links are followed, but no folder twice.

    A warning gives the number of files of sound that libsndfile cannot read, by their suffixes, once for a folder;
    another one names each folder that cannot be listed.
    """
    sounds, foreign = _listed(folder)
    _warn(folder, foreign)
    yield from sounds


def _listed(folder: Path) -> tuple[list[Path], list[Path]]:
    """Return the sound files below a folder, and those that cannot be read."""
    seen: set[str] = set()
    sounds: list[Path] = []
    foreign: list[Path] = []
    for parent, folders, names in os.walk(folder, onerror=_unlisted, followlinks=True):
        real = os.path.realpath(parent)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if name.startswith("."):
                continue
            ending = name.lower()
            if ending.endswith(EXTENSIONS):
                sounds.append(Path(parent, name))
            elif ending.endswith(FOREIGN):
                foreign.append(Path(parent, name))
    return sounds, foreign


def _unlisted(error: OSError) -> None:
    """Warn of a folder whose files nobody will see; one that is missing has none."""
    if isinstance(error, FileNotFoundError):
        return
    reason = one_line(error)
    if (os.fspath(error.filename), reason) not in _reported:
        _reported.add((os.fspath(error.filename), reason))
        logger.warning("%s: left out, with all that is in it: %s", error.filename, reason)


def _left_out(foreign: Sequence[Path]) -> str:
    """Return how many files cannot be read, by suffix, and the remedy; empty if there are none."""
    if not foreign:
        return ""
    kinds = Counter(path.suffix.lower() for path in foreign)
    counted = ", ".join(f"{count} {suffix}" for suffix, count in kinds.most_common())
    return f"{counted} cannot be read: {_REMEDY}"


def _warn(where: Path, foreign: Sequence[Path]) -> None:
    told = _left_out(foreign)
    if told and (os.fspath(where), told) not in _reported:
        _reported.add((os.fspath(where), told))
        logger.warning("%s: left out: %s", where, told)
