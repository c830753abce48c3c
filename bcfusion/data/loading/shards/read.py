"""The corpus of a folder of shards on a local disk, read utterance by utterance like single files."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from bcfusion.contracts import Row
from bcfusion.data.corpora.headers import NAMED, THREADS
from bcfusion.data.corpora.table import RowTable
from bcfusion.data.loading.shards.index import Shard, ShardColumns, ShardError, load
from bcfusion.errors import DataError
from bcfusion.files import on_disk
from bcfusion.nearest import nearest_path
from bcfusion.requirements import require, within

logger = logging.getLogger(__name__)


class ShardCorpus:
    """Utterances in the shards of a folder (see :mod:`bcfusion.data.loading.shards`).

    Every utterance is read from its place in its shard, so order, crops and resuming are the same as with single files.
    The indices of a split are read at the first call of :meth:`rows`; a missing or outdated one is made again. They
    are kept in memory, about 260 bytes for each utterance, which allows some ten million; beyond that, stream shards.

    Args:
        root: the folder.
        max_unreadable_share: share of a split's shards, in [0, 1], that may be missing, truncated or damaged; they are
            named in a warning.

    Raises:
        ConfigError: ``max_unreadable_share`` is out of range.
        DataError: there is no such folder.
    """

    def __init__(self, root: str, max_unreadable_share: float = 0.05) -> None:
        require(self, within(0, 1, max_unreadable_share=max_unreadable_share))
        self.root = on_disk(root)
        self.max_unreadable_share = max_unreadable_share
        self._rows: dict[str, Sequence[Row]] = {}
        if not self.root.is_dir():
            raise DataError(f"data.root: no such folder: {self.root.absolute()}{nearest_path(self.root.absolute())}")

    def rows(self, split: str) -> Sequence[Row]:
        """Return the utterances of a split, in the order of the shards; empty if ``valid`` or ``test`` has none.

        Raises:
            DataError: there are no shards to train on, too many are missing or damaged, or they are of several corpora.
        """
        if split not in self._rows:
            tars = sorted(self.root.glob(f"{split}-*.tar"))
            if not tars and split == "train":
                there = sorted(entry.name for entry in self.root.iterdir())
                raise DataError(
                    f"no shards train-000000.tar and so on in {self.root}; "
                    f"there are: {', '.join(there[:10]) or 'no files'}. "
                    "`bcfusion prepare CORPUS ... --shards FOLDER` writes them"
                )
            self._rows[split] = rows_of(tars, split, self.max_unreadable_share) if tars else []
        return self._rows[split]


def rows_of(tars: list[Path], split: str, max_unreadable_share: float, whole: bool = True) -> Sequence[Row]:
    """Return the utterances of the shards of one split; each is made when it is asked for.

    Args:
        tars: at least one.
        split: of the shards.
        max_unreadable_share: share of the shards, in [0, 1], that may be missing or damaged.
        whole: whether all other shards of the split should be in the same folder.

    Raises:
        DataError: too many shards are missing or damaged, or they are of several corpora.
    """
    shards: list[Shard] = []
    problems: list[str] = []
    with ThreadPoolExecutor(THREADS) as pool:
        for job in [pool.submit(load, tar) for tar in tars]:
            try:
                shards.append(job.result())
            except ShardError as error:
                problems.append(str(error))
    if len({shard.header.corpus for shard in shards}) > 1:
        raise DataError(f"{tars[0].parent}: the shards of {split} are of several corpora or preparations: keep one")
    lost = float(len(problems))
    total = len(tars)
    if shards and whole:
        total = shards[0].header.shards
        missing = sorted(set(range(total)) - {shard.header.number for shard in shards})
        absent = [name for number in missing if not (tars[0].parent / (name := f"{split}-{number:06d}.tar")).exists()]
        problems += [f"{name} is missing" for name in absent]
        lost += len(absent)
    for shard in shards:
        if shard.problem is not None:
            problems.append(
                f"{shard.tar}: {shard.problem}; {len(shard.entries)} of its {shard.header.rows} utterances can be read"
            )
            lost += 1 - len(shard.entries) / max(shard.header.rows, 1)
    if problems:
        more = f"; and {len(problems) - NAMED} more" if len(problems) > NAMED else ""
        some = "; ".join(problems[:NAMED]) + more
        if not shards or lost > max_unreadable_share * total:
            raise DataError(
                f"{tars[0].parent}: {lost:.3g} of {total} shards of {split} are missing or damaged, more than the "
                f"share of {max_unreadable_share:g} that data.max_unreadable_share allows: {some}. Copy them again, or "
                "raise the share"
            )
        message = "%s: %.3g of %d shards of %s are missing or damaged: %s"
        logger.warning(message, tars[0].parent, lost, total, split, some)
    return RowTable(_Shards(shards), ShardColumns.together([shard.columns() for shard in shards]).columns)


class _Shards:
    """Makes the rows of several shards."""

    def __init__(self, shards: Sequence[Shard]) -> None:
        self.shards = shards
        self.ends = np.cumsum([len(shard.entries) for shard in shards])

    def row(self, place: int) -> Row:
        number = int(np.searchsorted(self.ends, place, side="right"))
        return self.shards[number].row(place - int(self.ends[number]))  # counted from its end
