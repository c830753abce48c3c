"""Public corpora and plain folders as manifests: one module per corpus, with an :class:`Adapter` named ``ADAPTER``.

An adapter knows only the layout of its corpus: which files it has, who speaks in them, which split they belong to.
:mod:`bcfusion.data.preparation.prepare` reads headers, checks, measures and writes. ``bcfusion prepare NAME`` imports
``bcfusion.data.preparation.adapters.NAME``; a dotted NAME is a user's own module.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from bcfusion.contracts import SPLITS
from bcfusion.errors import DataError
from bcfusion.nearest import nearest_path

NEEDED = {"speech": "air", "noise": "noise", "rir": "rir"}  #: the sensor that every recording of a kind has


class LayoutError(DataError):
    """A folder does not contain the corpus in the layout that its adapter expects."""


@dataclass(frozen=True)
class Recording:
    """One utterance, noise or room response, as far as the layout of a corpus describes it.

    Attributes:
        id: unique within the corpus, the same on every machine (never an absolute path).
        split: ``train``, ``valid`` or ``test``.
        speaker: who speaks; ``unknown`` if nobody does or nobody knows.
        paths: sensor to file: ``air`` and the sensors recorded with it; ``noise``; ``rir``.
        channels: sensor to channel of its file, from 0; a sensor that is not in it has a mono file.
        offset: where it starts in its files, in seconds.
        duration: in seconds; None: to the end of the shortest file.
        lag: seconds by which body comes later than air.
        polarity: -1 if body is inverted, otherwise 1.
        extra: other columns of the manifest.
    """

    id: str
    split: str
    speaker: str
    paths: Mapping[str, Path]
    channels: Mapping[str, int] = field(default_factory=dict)
    offset: float = 0.0
    duration: float | None = None
    lag: float = 0.0
    polarity: int = 1
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Option:
    """A flag ``--NAME VALUE`` of ``bcfusion prepare CORPUS``.

    Attributes:
        name: without the leading dashes.
        help: one line.
        default: None leaves the option out of what the adapter is given.
        choices: values that are allowed; empty: any.
    """

    name: str
    help: str
    default: str | None = None
    choices: tuple[str, ...] = ()


@runtime_checkable
class Adapter(Protocol):
    """A reader of the layout of one corpus.

    An adapter whose corpus can be fetched also has ``download(root: Path, options: Mapping[str, str]) -> None``; see
    :class:`Downloads`.

    Attributes:
        summary: one line.
        source: where to get the corpus, and its licence.
        layout: the expected tree, several lines.
        kind: ``speech``, ``noise`` or ``rir``; :data:`NEEDED` gives the sensor that each recording has.
        options: its own flags.
    """

    summary: str
    source: str
    layout: str
    kind: str
    options: tuple[Option, ...]

    def recordings(self, root: Path, options: Mapping[str, str], unpacked: Path) -> Iterator[Recording]:
        """Yield everything in the corpus, always in the same order; files need not be opened.

        Args:
            root: folder of the corpus.
            options: value of each of :attr:`options` that was given or has a default.
            unpacked: folder where an adapter of archives writes its recordings, once.

        Raises:
            LayoutError: ``root`` holds something else.
            DataError: an option has a value that is not allowed.
        """
        ...


@runtime_checkable
class Downloads(Protocol):
    """An adapter that can fetch its corpus."""

    def download(self, root: Path, options: Mapping[str, str]) -> None:
        """Fetch the corpus to ``root``, so that :meth:`Adapter.recordings` finds it; existing parts are kept.

        Raises:
            DataError: it cannot be fetched.
        """
        ...


def missing(adapter: Adapter, root: Path, what: str) -> LayoutError:
    """Return the error to raise if ``root`` does not contain what an adapter expects.

    Args:
        adapter: for its layout and source.
        root: as the user gave it.
        what: what is missing, such as "no sound files".
    """
    there = sorted(entry.name for entry in root.iterdir())[:8] if root.is_dir() else []
    found = (
        f"it contains: {', '.join(there) or 'no files'}"
        if root.is_dir()
        else f"there is no such folder{nearest_path(root)}"
    )
    return LayoutError(
        f"{root}: {what}; {found}\nexpected layout:\n{adapter.layout.rstrip()}\nsource: {adapter.source}"
    )


def split_by_speaker(
    speakers: Iterable[str], shares: tuple[float, float, float] = (0.8, 0.1, 0.1), seed: int = 0
) -> dict[str, str]:
    """Divide speakers among train, valid and test, the same way on every machine.

    Speakers are ordered by a hash of their name and cut by rank, so that the shares are exact to half a speaker; one
    more speaker moves at most the neighbours of the two cuts. No split with a share is left empty if there are enough
    speakers; a single speaker is trained on, of two the second validates.

    Args:
        speakers: their names, in any order.
        shares: of train, valid and test; at least 0, not all 0, scaled to sum to 1.
        seed: of the hash; another seed gives another division.

    Returns:
        Speaker to split.

    Raises:
        DataError: shares that are negative, or all 0.
    """
    total = sum(shares)
    if len(shares) != len(SPLITS) or min(shares) < 0 or not 0 < total < float("inf"):
        raise DataError(f"shares {shares}: three numbers for train, valid, test, at least 0 and not all 0, are needed")
    names = sorted(set(speakers), key=lambda name: hashlib.blake2b(f"{seed}:{name}".encode()).digest())
    wanted = [split for split, share in zip(SPLITS, shares, strict=True) if share > 0]
    if len(names) < len(wanted):
        return dict(zip(names, wanted, strict=False))
    # first one speaker per split, then one at a time to the split that is furthest below its share
    counts = dict.fromkeys(wanted, 1)
    share_of = {split: share / total for split, share in zip(SPLITS, shares, strict=True)}
    for given in range(len(wanted), len(names)):
        counts[max(wanted, key=lambda split: share_of[split] * (given + 1) - counts[split])] += 1
    splits = [split for split in wanted for _ in range(counts[split])]
    return dict(zip(names, splits, strict=True))
