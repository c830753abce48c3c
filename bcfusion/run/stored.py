"""Checks that every stored description of a network must pass, whichever kind of file holds it."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path

from bcfusion import __version__
from bcfusion.errors import CheckpointError

__all__ = ["check_format", "require_keys", "require_stored_whole"]


def check_format(content: Mapping[str, object], known: int, source: Path) -> None:
    """Refuse content without a format number, or of a format later than ``known``.

    Raises:
        CheckpointError: it is refused.
    """
    found = content.get("format")
    if not isinstance(found, int):
        raise CheckpointError(f"{source} holds no format number: it was not written by bcfusion, or was edited")
    if found > known:
        raise CheckpointError(
            f"{source} has format {found}, but bcfusion {__version__} reads formats up to {known}: update bcfusion"
        )


def require_keys(content: object, keys: tuple[str, ...], source: Path, prefix: str = "") -> None:
    """Refuse content that lacks one of ``keys``; ``prefix`` is where in the file the content was found.

    Raises:
        CheckpointError: it is refused.
    """
    missing = [prefix + key for key in keys if not isinstance(content, Mapping) or key not in content]
    if missing:
        raise CheckpointError(f"{source} is damaged or incomplete: {', '.join(missing)} missing")


def require_stored_whole(source: Path) -> None:
    """Refuse a zip archive whose members would take more memory than the file has bytes.

    What torch writes is not compressed, so nothing of it can expand; but for code, which is never read. Any other file
    passes.

    Raises:
        CheckpointError: it is refused, or damaged.
    """
    if not zipfile.is_zipfile(source):
        return
    try:
        with zipfile.ZipFile(source) as archive:
            members = [member for member in archive.infolist() if member.filename.split("/")[1:2] != ["code"]]
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise CheckpointError(f"{source} is damaged: {error}") from error
    packed = next((member.filename for member in members if member.compress_type != zipfile.ZIP_STORED), None)
    if packed is not None:
        raise CheckpointError(f"{source} was not written by torch: {packed} in it is compressed")
    if sum(member.file_size for member in members) > source.stat().st_size:
        raise CheckpointError(f"{source} is damaged: it says that it holds more bytes than it has")
