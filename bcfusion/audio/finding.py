"""Find sound files from the files, folders and patterns that a user names."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from bcfusion.audio.formats import EXTENSIONS
from bcfusion.errors import AudioError
from bcfusion.files import NamesOnDisk, matching
from bcfusion.nearest import nearest_path

__all__ = ["find_audio", "walk"]

_EXPECTED = ", ".join(EXTENSIONS)


def find_audio(paths_or_globs: str | os.PathLike[str] | Sequence[str | os.PathLike[str]]) -> list[Path]:
    """Find sound files from what a user typed.

    Args:
        paths_or_globs: files, folders (searched at any depth, links followed) and glob patterns (``**`` too).

    Returns:
        The files, sorted, each once.

    Raises:
        AudioError: a file or folder that does not exist (the nearest name is given), a folder or pattern without sound
            files, or a file that is none of wav, flac, ogg, opus, mp3.
    """
    if isinstance(paths_or_globs, (str, os.PathLike)):
        paths_or_globs = [paths_or_globs]
    found: set[Path] = set()
    for given in paths_or_globs:
        path = Path(NamesOnDisk().find(os.fspath(Path(given).expanduser())))
        if os.path.isdir(path):
            inside = list(walk(path))
            if not inside:
                raise AudioError(f"no audio in {path}: looked for {_EXPECTED} in it and its subfolders")
            found.update(inside)
        elif os.path.exists(path):
            if path.suffix.lower() not in EXTENSIONS:
                raise AudioError(f"{path} is not an audio file by its name: expected {_EXPECTED}")
            found.add(path)
        elif glob.has_magic(os.fspath(path)):
            sounds = [name for name in matching(path) if name.suffix.lower() in EXTENSIONS and name.is_file()]
            if not sounds:
                raise AudioError(f"no audio matches {path}: expected {_EXPECTED}")
            found.update(sounds)
        else:
            raise AudioError(f"no such file or folder: {path}{nearest_path(path)}")
    return sorted(found)


def walk(folder: Path) -> Iterator[Path]:
    """Yield the sound files below a folder; hidden ones are left out, links are followed, but no folder twice."""
    seen: set[str] = set()
    for parent, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(parent)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if name.lower().endswith(EXTENSIONS) and not name.startswith("."):
                yield Path(parent, name)
