"""The nearest known name to one that does not exist, for "did you mean" in messages."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path

__all__ = ["did_you_mean", "nearest", "nearest_path"]


def nearest(name: str, options: Iterable[str], cutoff: float = 0.6) -> str | None:
    """Return the option that ``name`` was most likely meant to be, or None if nothing is close.

    Args:
        name: what was typed; case does not matter.
        options: the names that exist.
        cutoff: least similarity, 0 to 1, as in :func:`difflib.get_close_matches`. An option that begins with ``name``
            counts too, unless the cutoff is raised above its default.
    """
    by_lower = {option.lower(): option for option in options}
    close = get_close_matches(name.lower(), by_lower, n=1, cutoff=cutoff)
    if close:
        return by_lower[close[0]]
    if cutoff > 0.6 or len(name) < 2:
        return None
    return min((option for lower, option in by_lower.items() if lower.startswith(name.lower())), default=None)


def did_you_mean(name: str, options: Iterable[str]) -> str:
    """Return ``; did you mean 'OPTION'?`` as the end of a message, or an empty string if nothing is close."""
    near = nearest(name, options)
    return f"; did you mean '{near}'?" if near else ""


def nearest_path(missing: str | os.PathLike[str]) -> str:
    """Return the end of a message about a missing path: the nearest existing name, or the last folder that exists."""
    path = Path(missing)
    if drive := re.search(r"(?:^|/)([A-Za-z]):", str(path)):
        return f"; this is a path of Windows: in Linux on Windows (WSL) drive {drive[1]}: is /mnt/{drive[1].lower()}"
    folder = path.parent
    while not os.path.isdir(folder) and folder != folder.parent:
        path, folder = folder, folder.parent
    names = sorted(entry.name for entry in folder.iterdir()) if os.access(folder, os.R_OK | os.X_OK) else []
    close = get_close_matches(path.name, names, n=1)
    if close:
        return f"; did you mean {folder / close[0]}?"
    return f"; {folder} is the last folder on the way that exists"
