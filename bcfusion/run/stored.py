"""Checks that every stored description of a network must pass, whichever kind of file holds it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from bcfusion import __version__
from bcfusion.errors import CheckpointError

__all__ = ["check_format", "require_keys"]


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
