"""Folders of synthesised files, each made once into the user's cache directory."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import soundfile

from bcfusion.audio.formats import one_line
from bcfusion.audio.writing import sound_writer
from bcfusion.contracts import SPLITS
from bcfusion.data.corpora.demo_speech import LEXICON
from bcfusion.data.corpora.phones import PHONES, SPECTRA
from bcfusion.data.corpora.synthesis import SYNTHESISER_VERSION, Array
from bcfusion.errors import DataError
from bcfusion.files import appearing_folder, cache_directory, from_json
from bcfusion.requirements import at_least

__all__ = ["MadeOnce", "per_split", "write_flac"]

log = logging.getLogger(__name__)


class MadeOnce(ABC):
    """A folder with an index of its files, made at the first need; a subclass synthesises the files.

    Args:
        name: start of the folder's name.
        cache_dir: where the folder lies; see :func:`bcfusion.files.cache_directory`.
        recipe: what the files depend on; another recipe is another folder.
    """

    def __init__(self, name: str, cache_dir: str | None, recipe: Sequence[Any]) -> None:
        text = json.dumps([SYNTHESISER_VERSION, repr(PHONES), repr(SPECTRA), LEXICON, *recipe])
        fingerprint = hashlib.sha256(text.encode()).hexdigest()[:12]
        self._root = cache_directory(cache_dir) / f"{name}_{fingerprint}"

    @property
    def root(self) -> str:
        """The folder, absolute; it exists after its files were first asked for."""
        return str(self._root)

    @abstractmethod
    def _make(self, folder: Path) -> list[dict[str, Any]]:
        """Write the files of all splits into ``folder``; return an entry for each, with ``file`` and ``split``."""

    def _entries(self, split: str) -> list[dict[str, Any]]:
        """Return the entries of a split, after making the folder if it is missing or incomplete.

        The folder appears as a whole. If two processes make it at the same time, the first one wins and the other uses
        the winner's.

        Raises:
            DataError: there is no such split, or the folder cannot be written.
        """
        if split not in SPLITS:
            raise DataError(f"{type(self).__name__}: no split '{split}'; there are {', '.join(SPLITS)}")
        index = _read_index(self._root)
        if index is None:
            index = self._made()
        return [entry for entry in index if entry["split"] == split]

    def _made(self) -> list[dict[str, Any]]:
        started = time.perf_counter()
        try:
            with appearing_folder(self._root, keep=lambda folder: _read_index(folder) is not None) as folder:
                index = self._make(folder)
                (folder / "index.json").write_text(json.dumps(index, indent=1), encoding="utf-8")
        except (OSError, soundfile.LibsndfileError) as error:
            raise DataError(
                f"cannot write {self.root}: {one_line(error)}\nset BCFUSION_CACHE (or cache_dir) to a folder with space"
            ) from error
        log.info("synthesised %d files into %s in %.1f s", len(index), self.root, time.perf_counter() - started)
        return index


def write_flac(path: Path, samples: Array, sample_rate: int) -> None:
    """Write ``samples (T,)`` in [-1, 1] as 16-bit mono FLAC, creating missing folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with sound_writer(path, sample_rate, 1, "PCM_16", "FLAC") as sound:
        sound.write(samples)


def per_split(**counts: Mapping[str, int]) -> list[str]:
    """Return a message for each argument that does not have a number of at least 1 for each split."""
    problems = []
    for name, numbers in counts.items():
        if set(numbers) != set(SPLITS):
            given = ", ".join(map(str, numbers))
            problems.append(f"{name} needs a number for each of {', '.join(SPLITS)}, not for {given}")
        else:
            problems += at_least(1, **{f"{name}.{split}": number for split, number in numbers.items()})
    return problems


def _read_index(root: Path) -> list[dict[str, Any]] | None:
    """Return the index, or None if it or one of its files is missing."""
    try:
        index: list[dict[str, Any]] = from_json((root / "index.json").read_text(encoding="utf-8"))
        return index if all((root / entry["file"]).is_file() for entry in index) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None
