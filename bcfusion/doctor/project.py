"""The requirements of bcfusion: of the checkout that runs, otherwise of the installed package."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

__all__ = [
    "GB",
    "NAME",
    "PACKAGE",
    "TORCH",
    "Project",
    "checkout",
    "home",
    "installed_version",
    "normal",
    "packaging",
    "read_project",
    "size",
]

NAME = "bcfusion"
GB = 10**9
TORCH = ("torch", "torchaudio")  #: installed together: they have to fit each other
PACKAGE = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Project:
    """What the package says about itself.

    Attributes:
        requires_python: range of versions.
        requirements: of the package itself, as written; markers included.
        extras: requirements of each extra, as written, without the marker that names it.
    """

    requires_python: str
    requirements: tuple[str, ...]
    extras: dict[str, tuple[str, ...]]


def checkout() -> Path | None:
    """Return the root of the checkout whose package this is; None for an installed package."""
    file = PACKAGE.parent / "pyproject.toml"
    try:
        named = re.search(r'^name = "(.+)"$', file.read_text(encoding="utf-8"), flags=re.MULTILINE)
    except OSError:
        return None
    return file.parent if named and named[1] == NAME else None


def read_project() -> Project | None:
    """Return the requirements; None for a copy of the package that has neither a checkout nor metadata around it.

    A checkout comes first: the metadata of an editable installation are those of the day on which it was made.
    """
    root = checkout()
    if root is not None:
        text = (root / "pyproject.toml").read_text(encoding="utf-8")
        try:
            import tomllib
        except ImportError:  # Python 3.10, of which it matters only that it is too old
            found = re.search(r'^requires-python = "(.+)"$', text, flags=re.MULTILINE)
            return Project(found[1] if found else "", (), {})
        table = tomllib.loads(text)["project"]
        extras = {name: tuple(lines) for name, lines in table["optional-dependencies"].items()}
        return Project(table["requires-python"], tuple(table["dependencies"]), extras)
    try:
        installed = metadata.distribution(NAME)
    except metadata.PackageNotFoundError:
        return None
    lines = installed.requires or []
    extras = {name: _of_extra(lines, name) for name in installed.metadata.get_all("Provides-Extra") or []}
    own = tuple(line for line in lines if not re.search(r"\bextra\s*==", line))
    [python] = installed.metadata.get_all("Requires-Python") or [""]
    return Project(python, own, extras)


def _of_extra(lines: list[str], extra: str) -> tuple[str, ...]:
    """Return the requirements of an extra, without the part of the marker that names it."""
    pattern = rf"""\s*(;\s*|\band\s+)extra\s*==\s*["']{re.escape(extra)}["']"""
    return tuple(re.sub(pattern, "", line) for line in lines if re.search(pattern, line))


def packaging(part: str) -> Any:
    """Return a module of the package ``packaging``, or of pip's copy of it; None if there is neither."""
    for parent in ("packaging", "pip._vendor.packaging"):
        try:
            return import_module(f"{parent}.{part}")
        except ImportError:
            continue
    return None


def installed_version(name: str) -> str | None:
    """Return the version of an installed distribution; None if there is none, or one without a version."""
    try:
        return metadata.version(name) or None
    except metadata.PackageNotFoundError:
        return None
    except (KeyError, TypeError, ValueError):  # metadata that is damaged
        return None


def normal(name: str) -> str:
    """Return a distribution's name as it is compared: ``torch_stoi`` and ``torch-stoi`` are one."""
    return re.sub(r"[-_.]+", "-", name).lower()


def size(count: float) -> str:
    """Return a number of bytes as it is printed."""
    return f"{count / GB:.1f} GB" if count >= 0.95 * GB else f"{count / 1e6:.1f} MB"


def home(path: str | os.PathLike[str]) -> str:
    """Return a path with the home directory as ``~``."""
    text = os.fspath(path)
    own = os.path.expanduser("~")
    return "~" + text[len(own) :] if own not in ("~", "/") and text.startswith(own + os.sep) else text
