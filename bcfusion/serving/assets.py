"""The files of the page, read once: no path of a request reaches the file system."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from importlib.resources.abc import Traversable

__all__ = ["PAGE", "Asset", "read_assets"]

PAGE = "page.html"  #: the document at ``/``; all others are at ``/assets/NAME``
SHARED = ("player.js", "elements.js", "page.css")  #: of the listening page
_TYPES = {".js": "text/javascript", ".css": "text/css", ".html": "text/html", ".svg": "image/svg+xml"}


@dataclass(frozen=True)
class Asset:
    """A file of the page.

    Attributes:
        content: its bytes.
        kind: its MIME type.
    """

    content: bytes
    kind: str


def read_assets() -> Mapping[str, Asset]:
    """Return the files of the page by their names."""
    shared = resources.files("bcfusion.report.listening") / "page_files"
    found = {name: _asset(shared / name) for name in SHARED}
    own = resources.files("bcfusion.serving") / "page_files"
    found.update({file.name: _asset(file) for file in own.iterdir() if file.is_file()})
    return found


def _asset(file: Traversable) -> Asset:
    suffix = "." + file.name.rpartition(".")[2].lower()
    kind = _TYPES[suffix]
    return Asset(file.read_bytes(), kind + "; charset=utf-8" if kind.startswith("text/") else kind)
