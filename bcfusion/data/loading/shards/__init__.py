"""Corpora in tar shards of the WebDataset layout, for more files than a file system likes.

``write`` makes them from the rows of a manifest, ``index`` says where in a shard each file lies, ``read`` is the corpus
of shards on a local disk, and ``stream`` that of shards behind URLs.

A shard is an uncompressed tar ``SPLIT-000000.tar``. Its first member, ``__shard__``, tells which of how many it is.
Then come the utterances, for each ``KEY.json`` (the row, without paths) and one sound file for each sensor,
``KEY.air.flac``, ``KEY.body.flac``: a WebDataset sample, which other tools read too. Beside it lies its index,
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
    """The corpus of a folder of shards, or of shards that are streamed from where they are.

    Args:
        root: a folder; or URLs, also of local files, one or a list, where ``{000000..000099}`` and ``{a,b}`` stand for
            several. ``pipe:COMMAND`` is what a shell command writes.
        shuffle_buffer: crops among which streamed training data are shuffled, in each worker; at least 1.
        max_unreadable_share: of the shards, in [0, 1], that may be missing or unreadable.

    Raises:
        DataError: there is no such folder, a URL names no split, or ``webdataset`` is not installed.
    """
    if isinstance(root, str) and "{" not in root and not URL.match(root):
        from bcfusion.data.loading.shards.read import ShardCorpus

        return ShardCorpus(root, max_unreadable_share)
    from bcfusion.data.loading.shards.remote import StreamedShards

    return StreamedShards([root] if isinstance(root, str) else list(root), shuffle_buffer, max_unreadable_share)
