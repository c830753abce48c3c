"""Corpora in tar shards of the WebDataset layout, for more files than a file system handles well.

``write`` makes them from the rows of a manifest, ``index`` finds each file in a shard, ``read`` is the corpus of shards
on a local disk, and ``remote`` the corpus of shards at URLs, whose training batches ``streaming`` makes.

A shard is an uncompressed tar ``SPLIT-000000.tar``. Its first member, ``__shard__``, holds its number and the total.
Then come the utterances, each as ``KEY.json`` (the row, without paths) and one sound file per sensor, ``KEY.air.flac``,
``KEY.body.flac``: a WebDataset sample, which other tools can read too. Next to the shard is its index,
``SPLIT-000000.index.jsonl``, which can be made again from the shard alone.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bcfusion.data.loading.shards.read import ShardCorpus
    from bcfusion.data.loading.shards.remote import StreamedShards

URL = re.compile(r"[a-z][a-z0-9+]*:", re.IGNORECASE)


def open_shards(
    root: str | Sequence[str], shuffle_buffer: int = 1000, max_unreadable_share: float = 0.05
) -> ShardCorpus | StreamedShards:
    """Return the corpus of a folder of shards, or of shards that are streamed from where they are.

    Args:
        root: a folder; or URLs, also of local files, one or a list, in which ``{000000..000099}`` and ``{a,b}`` stand
            for several. ``pipe:COMMAND`` is the output of a shell command.
        shuffle_buffer: crops among which streamed training data are shuffled, in each worker; at least 1.
        max_unreadable_share: share of the shards, in [0, 1], that may be missing or unreadable.

    Raises:
        ConfigError: an argument is out of range.
        DataError: there is no such folder, a URL names no split, or ``webdataset`` is not installed.
    """
    if isinstance(root, str) and "{" not in root and not URL.match(root):
        from bcfusion.data.loading.shards.read import ShardCorpus

        return ShardCorpus(root, max_unreadable_share)
    from bcfusion.data.loading.shards.remote import StreamedShards

    return StreamedShards([root] if isinstance(root, str) else list(root), shuffle_buffer, max_unreadable_share)
