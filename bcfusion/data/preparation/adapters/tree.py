"""What adapters that read a tree of files share."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from bcfusion import audio
from bcfusion.data.preparation.adapters import Option
from bcfusion.errors import DataError


def descend(root: Path, *names: str) -> Path:
    """The folder of a corpus, whether ``root`` is it or holds it.

    Args:
        root: as the user gave it. names: folders one in the other, as the archive unpacks them.

    Returns:
        The deepest folder that is reached from ``root`` by following ``names``, a leading part of which may be left
        out; ``root`` itself where there is none.
    """
    for start in range(len(names)):
        folder = root.joinpath(*names[start:])
        if folder.is_dir():
            return folder
    return root


def sounds_of(folder: Path) -> list[Path]:
    """The sound files beneath a folder, sorted by path; none where the folder is not there."""
    return list(audio.walk(folder)) if folder.is_dir() else []


def relative_id(file: Path, root: Path) -> str:
    """The path of a file beneath ``root``, with ``/`` and without its suffix."""
    return file.relative_to(root).with_suffix("").as_posix()


def chosen(option: Option, value: str, allowed: Iterable[str]) -> tuple[str, ...]:
    """What a comma-separated option asks for, in the order of ``allowed``; ``all`` is all of it.

    Raises:
        DataError: nothing, or something that is not allowed.
    """
    known = tuple(allowed)
    parts = {part.strip() for part in value.split(",") if part.strip()}
    if parts == {"all"}:
        return known
    unknown = sorted(parts - set(known))
    if unknown or not parts:
        raise DataError(
            f"--{option.name} {value!r}: {', '.join(unknown) or 'nothing'} is none of {', '.join(known)}, all "
            "(several with commas between)"
        )
    return tuple(part for part in known if part in parts)
