"""The commit of a checkout. Nothing but the standard library is loaded here."""

from __future__ import annotations

import subprocess
from pathlib import Path

__all__ = ["git_hash"]


def git_hash(directory: Path) -> str | None:
    """Return the commit of the checkout around a directory, with ``-dirty`` if files differ; None outside of one."""
    try:
        answer = subprocess.run(
            ["git", "-C", str(directory), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip() or None if answer.returncode == 0 else None
