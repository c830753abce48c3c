"""A corpus made of several: recordings with a real sensor and speech from which the sensor is simulated, in one run."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from bcfusion.contracts import SPLITS, Corpus, Row
from bcfusion.data.corpora.folder import FolderCorpus
from bcfusion.data.corpora.listing import ManifestCorpus
from bcfusion.data.corpora.manifest import SUFFIXES
from bcfusion.data.corpora.table import Columns, RowTable, columns_of, joined
from bcfusion.data.loading.shards import URL, open_shards
from bcfusion.errors import DataError
from bcfusion.files import on_disk
from bcfusion.nearest import nearest_path
from bcfusion.requirements import require, within

_SLACK = 1e-6  # by which shares may miss 1


class Mixture:
    """The utterances of several corpora, each a part with a name, and a share of the training crops for each part.

    A row keeps what it has: its sensor is read if it was recorded, and simulated otherwise. Its id begins with the name
    of its part, ``pairs/07``, and so does what evaluations group by, the column ``corpus``, if it had none.

    Shares are those of the crops of an epoch, exact to a crop. No row is visited less often than without a mixture:
    small parts are repeated, with new crops and new draws. Parts without a share of their own divide the rest in
    proportion to their crops.

    Args:
        parts: name to corpus, two or more: a manifest, a folder with ``train/`` and ``valid/``, a folder of shards, or
            a corpus that was built. None: no such part.
        shares: name to share of the training crops, in [0, 1]; None, or no entry: of the rest. A part with a share of 0
            is not trained on.
        evaluate_on: parts of which validation and test utterances are used; None: all.
        max_unreadable_share: of the parts that are opened here.

    Raises:
        ConfigError: there are fewer than two parts, shares are out of range or do not sum to 1, or a name is not that
            of a part.
        DataError: a path leads to none of these corpora.
    """

    def __init__(
        self,
        parts: Mapping[str, str | Corpus | None],
        shares: Mapping[str, float | None] | None = None,
        evaluate_on: Sequence[str] | None = None,
        max_unreadable_share: float = 0.05,
    ) -> None:
        left_out = {name for name, part in parts.items() if part is None}
        present = {name: part for name, part in parts.items() if part is not None}
        given = {name: share for name, share in (shares or {}).items() if share is not None and name not in left_out}
        unknown = sorted({*given, *(evaluate_on or ())} - present.keys())
        named = ", ".join(map(str, present)) or "none"
        numbers = within(0, 1, **{f"shares.{name}": share for name, share in given.items()})
        require(
            self,
            (
                len(present) > 1,
                "parts must name at least two corpora, as in data.parts.pairs=PAIRS.jsonl data.parts.speech=PATH; "
                f"there are: {named}",
            ),
            *[(isinstance(name, str) and "/" not in name, f"parts: {name!r} is not a name") for name in present],
            (not isinstance(evaluate_on, str), f"evaluate_on={evaluate_on!r} must be a list of names, as in [pairs]"),
            (evaluate_on is None or len(evaluate_on) > 0, "evaluate_on=[] must name at least one part, or be null"),
            (not unknown or isinstance(evaluate_on, str), f"{', '.join(unknown)}: not among the parts: {named}"),
            numbers,
            []
            if numbers or unknown or not present
            else _shares_fit(given, [name for name in present if name not in given]),
        )
        self.parts = {name: _opened(name, part, max_unreadable_share) for name, part in present.items()}
        self.shares = {name: given.get(name) for name in present}
        self.evaluated = tuple(present if evaluate_on is None else evaluate_on)
        self.path = ", ".join(str(part) if isinstance(part, str) else name for name, part in present.items())

    def rows(self, split: str) -> RowTable:
        """Return the utterances of a split, part after part; each is made when it is asked for.

        Raises:
            DataError: a part raises it, or has nothing to train on.
        """
        names = self.evaluated if split != "train" else [name for name, share in self.shares.items() if share != 0]
        parts: dict[str, Sequence[Row]] = {}
        for name in names:
            rows = self.parts[name].rows(split)
            if split == "train" and not rows:
                raise DataError(
                    f"data.parts.{name}: no utterances for the split 'train'; with data.shares.{name}=0 it is only "
                    "evaluated on"
                )
            parts[name] = rows
        columns = [columns_of(rows) for rows in parts.values()]
        together = joined(columns, distinct=all(each.distinct for each in columns))
        return RowTable(_Parts(parts), together)

    def weighted(self, rows: Sequence[Row], visits: Callable[[Columns], NDArray[np.float64]]) -> Sequence[Row]:
        """Return training rows with the weights that give each part its share.

        Args:
            rows: those that are trained on.
            visits: how often an epoch visits each row, by their columns, if it has a weight of 1.

        Raises:
            DataError: none of them is of a part that has a share.
        """
        names = [name for name, share in self.shares.items() if share != 0]
        columns, part = columns_of(rows), _numbers(rows, names)
        natural = visits(columns)
        own = natural * columns.weight
        amounts = dict(zip(names, _sums(np.maximum(own, 1), part, len(names)), strict=True))  # each at least once
        if empty := [name for name, amount in amounts.items() if not amount]:
            raise DataError(
                f"data.parts.{empty[0]}: no training utterance is left by data.speakers, data.min_bandwidth and "
                "data.max_train_items"
            )
        free = {name: amount for name, amount in amounts.items() if self.shares[name] is None}
        rest = 1.0 - sum(share for share in self.shares.values() if share is not None)
        wanted = {
            name: rest * amount / sum(free.values()) if name in free else float(self.shares[name] or 0.0)
            for name, amount in amounts.items()
        }
        total = max(amount / wanted[name] for name, amount in amounts.items())
        factors = np.array([_factor(own[part == number], total * wanted[name]) for number, name in enumerate(names)])
        weights = np.maximum(columns.weight * factors[part], 1 / natural)
        if isinstance(rows, RowTable):
            return RowTable(rows.source, columns, rows.places, weights)
        return [replace(row, weight=weight) for row, weight in zip(rows, weights.tolist(), strict=True)]

    def alignment_advice(self, lag: float | None, polarity: int | None) -> list[str]:
        """Return what to type so that body is read aligned with air, for each part with recordings of body."""
        recorded = set()
        for split in SPLITS:
            rows = self.rows(split)
            with_body = rows.at(rows.columns.with_sensor("body"))
            numbers = _numbers(with_body, list(self.parts))
            recorded |= {name for number, name in enumerate(self.parts) if (numbers == number).any()}
        return [
            f"{name}: {way}"
            for name, part in self.parts.items()
            if name in recorded and hasattr(part, "alignment_advice")
            for way in part.alignment_advice(None, None)
        ]


class _Parts:
    """Makes the rows of a mixture from those of its parts."""

    def __init__(self, parts: Mapping[str, Sequence[Row]]) -> None:
        self.names = list(parts)
        self.parts = list(parts.values())
        self.ends = np.cumsum([len(rows) for rows in self.parts])

    def row(self, place: int) -> Row:
        number = int(np.searchsorted(self.ends, place, side="right"))
        name, rows = self.names[number], self.parts[number]
        row = rows[place - int(self.ends[number])]  # counted from its end
        return replace(row, id=f"{name}/{row.id}", extra={"corpus": name, **row.extra})


def _numbers(rows: Sequence[Row], names: Sequence[str]) -> NDArray[np.int64]:
    """Return for each row of a mixture the number of its part in ``names``."""
    if isinstance(rows, RowTable) and isinstance(rows.source, _Parts):
        own = np.searchsorted(rows.source.ends, rows.places, side="right")
        return np.array([names.index(name) for name in rows.source.names], np.int64)[own]
    return np.array([names.index(row.id.partition("/")[0]) for row in rows], np.int64)


def _sums(values: NDArray[np.float64], part: NDArray[np.int64], parts: int) -> list[float]:
    """Return the sum of the values of each part."""
    return [float(number) for number in np.bincount(part, weights=values, minlength=parts)]


def _factor(visits: NDArray[np.float64], wanted: float) -> float:
    """Return the factor with which rows are visited ``wanted`` times in all, each of them at least once."""
    low, high = 1.0, max(1.0, wanted / visits.sum())
    for _ in range(60):  # the number of visits rises with the factor
        middle = (low + high) / 2
        low, high = (middle, high) if np.maximum(middle * visits, 1).sum() < wanted else (low, middle)
    return high


def _shares_fit(given: Mapping[str, float], without: Sequence[str]) -> list[str]:
    """Return what is wrong with the sum of the shares."""
    total = sum(given.values())
    texts = ", ".join(f"{name} {share:g}" for name, share in given.items())
    if without and total >= 1.0 - _SLACK:
        return [f"shares ({texts}) leave nothing for {', '.join(without)}, which take the rest: lower one"]
    if not without and abs(total - 1.0) > _SLACK:
        return [f"shares ({texts}) must sum to 1; a share of null takes the rest"]
    return []


def _opened(name: str, part: str | Corpus, max_unreadable_share: float) -> Corpus:
    key = f"data.parts.{name}"
    if not isinstance(part, str):
        if hasattr(part, "datamodule"):
            raise DataError(f"{key}: its training utterances are streamed, not listed, and cannot be part of a mixture")
        return part
    if URL.match(part):
        raise DataError(f"{key}: {part} is a URL; a part is a manifest, a folder of speech or a folder of shards")
    path = on_disk(part)
    if path.suffix in SUFFIXES:
        return ManifestCorpus(part, max_unreadable_share)
    if not path.is_dir():
        raise DataError(f"{key}: no such file or folder: {path.absolute()}{nearest_path(path.absolute())}")
    inside = sorted(os.listdir(path))
    if any(entry.endswith(".tar") for entry in inside):
        return open_shards(part, max_unreadable_share=max_unreadable_share)
    if set(SPLITS) & set(inside):
        return FolderCorpus(part, max_unreadable_share=max_unreadable_share)
    pairs = "air" in inside
    raise DataError(
        f"{key}: {path.absolute()} is neither a folder of speech, with train/ and valid/, nor one of shards; "
        + (
            f"for pairs: bcfusion prepare pairs --root {part} --splits train --measure --out {path.name}.jsonl; then "
            f"{key}={path.name}.jsonl"
            if pairs
            else f"there are: {', '.join(inside[:10]) or 'no files'}"
        )
    )
