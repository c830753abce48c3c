"""Look for weaknesses in the source by bandit, and for known ones of the pinned packages by pip-audit.

    pip install bandit pip-audit
    python scripts/security_check.py

Of bandit, a finding of medium severity or above fails the check, unless its line says why it is right:
``# nosec B506 # a safe loader``. What pip-audit finds is reported and fails nothing: it is news about other packages,
and its service is not reachable from everywhere.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
SECONDS = 600.0  # for either tool
SOURCE = ("bandit", "-q", "-c", "pyproject.toml", "--severity-level", "medium", "-r", "bcfusion", "scripts")
PACKAGES = (
    *("pip-audit", "--requirement", "constraints.txt", "--no-deps", "--disable-pip"),
    *("--format", "json", "--progress-spinner", "off", "--timeout", "20"),
)


def main() -> int:
    """Return 1 if the source has findings or bandit is not installed."""
    print("\n".join(known_weaknesses()), flush=True)
    lines = findings()
    print("\n".join(lines or ["bandit: nothing of medium severity or above"]))
    return 1 if lines else 0


def findings() -> list[str]:
    """Return what bandit finds in the source, line by line."""
    if shutil.which(SOURCE[0]) is None:
        return ["bandit is not installed: pip install bandit"]
    done = run(SOURCE)
    if done is None:
        return [f"bandit takes longer than {SECONDS:g} s"]
    return (done.stdout + done.stderr).splitlines() if done.returncode else []


def known_weaknesses() -> list[str]:
    """Return a line for each known weakness of a pinned package, and one that says how many were looked up."""
    if shutil.which(PACKAGES[0]) is None:
        return ["pip-audit: not installed, no package is looked up"]
    done = run(PACKAGES)
    try:
        packages: list[dict[str, Any]] = json.loads(done.stdout)["dependencies"] if done else []
    except (ValueError, LookupError, TypeError):
        packages = []
    if not packages:
        return ["pip-audit: its service gives no answer, no package is looked up"]
    known = [package for package in packages if "skip_reason" not in package]
    found = [
        f"pip-audit: {package['name']} {package['version']}: {each['id']}"
        + (f", fixed in {', '.join(each['fix_versions'])}" if each.get("fix_versions") else "")
        for package in known
        for each in package.get("vulns", ())
    ]
    return [*found, f"pip-audit: {len(known)} of {len(packages)} packages looked up, {len(found)} known weaknesses"]


def run(command: Sequence[str]) -> subprocess.CompletedProcess[str] | None:
    """Return what a tool says; None if it takes too long."""
    try:
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=SECONDS)
    except subprocess.TimeoutExpired:
        return None


if __name__ == "__main__":
    sys.exit(main())
