"""What adapters that read a tree of files share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from bcfusion import audio
from bcfusion.contracts import UNKNOWN_SPEAKER
from bcfusion.data.preparation.adapters import Option, Recording, split_by_speaker
from bcfusion.errors import DataError
from bcfusion.files import name_below


def descend(root: Path, *names: str) -> Path:
    """Return the folder of a corpus, whether ``root`` is that folder or contains it.

    Args:
        root: as the user gave it.
        names: nested folders, as the archive unpacks them.

    Returns:
        The folder at the end of ``names``, started from ``root``; leading names may be missing. ``root`` itself if
        there is no such folder.
    """
    for start in range(len(names)):
        folder = root.joinpath(*names[start:])
        if folder.is_dir():
            return folder
    return root


def sounds_of(folder: Path) -> list[Path]:
    """Return the sound files below a folder, sorted by path; none if the folder does not exist."""
    return list(audio.walk(folder)) if folder.is_dir() else []


def relative_id(file: Path, root: Path) -> str:
    """Return the path of a file relative to ``root``, with ``/`` and without its suffix."""
    return name_below(root, file)


def grouped(
    files: Sequence[Path],
    root: Path,
    sensor: str,
    group_of: Callable[[Path], str],
    extra: Callable[[Path], Mapping[str, Any]],
    channels: Mapping[str, int] = MappingProxyType({}),
) -> Iterator[Recording]:
    """Yield recordings without a speaker, each group (place, room, source) in one split, divided 80/10/10.

    Args:
        files: in the order of the recordings.
        root: the ids are paths relative to it.
        sensor: ``noise`` or ``rir``.
        group_of: group of a file.
        extra: other columns of a file's line in the manifest.
        channels: sensor to channel, for files of several channels.
    """
    splits = split_by_speaker(map(group_of, files))
    for file in files:
        yield Recording(
            id=relative_id(file, root),
            split=splits[group_of(file)],
            speaker=UNKNOWN_SPEAKER,
            paths={sensor: file},
            channels=channels,
            extra=extra(file),  # nosec B610 # a function of this call, not Django's
        )


def chosen(option: Option, value: str, allowed: Iterable[str]) -> tuple[str, ...]:
    """Return what a comma-separated option asks for, in the order of ``allowed``; ``all`` asks for everything.

    Raises:
        DataError: it asks for nothing, or for something that is not allowed.
    """
    known = tuple(allowed)
    parts = {part.strip() for part in value.split(",") if part.strip()}
    if parts == {"all"}:
        return known
    unknown = sorted(parts - set(known))
    if unknown or not parts:
        raise DataError(
            f"--{option.name} {value!r}: {', '.join(unknown) or 'nothing'} is none of {', '.join(known)}, all "
            "(separate several with commas)"
        )
    return tuple(part for part in known if part in parts)
