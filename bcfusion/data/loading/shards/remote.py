"""The corpus of shards that are streamed from where they are: object stores, web servers, shell commands.

They are read through ``webdataset`` (https://github.com/webdataset/webdataset, BSD-3), which opens the URLs. Training
data come in the order of the shards, shuffled within a buffer; nothing is written to disk. Compared with shards in a
folder, shuffling is limited to the buffer and the order of the shards, and a resumed run does not see the crops that an
uninterrupted one would have seen. Validation and test shards are copied to the cache directory once and read from
there, so that evaluation is the same as for any other corpus.
"""

from __future__ import annotations

import logging
import re
import shutil
import tarfile
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlparse

from bcfusion.configuration.keys import key_rules
from bcfusion.contracts import SPLITS, Row
from bcfusion.data.loading.shards import URL
from bcfusion.data.loading.shards.datamodule import StreamedDataModule
from bcfusion.data.loading.shards.index import HEADER, LARGEST_JSON, VERSION, check_member, row_of
from bcfusion.data.loading.shards.read import rows_of
from bcfusion.data.loading.shards.urls import closed, opened, reason
from bcfusion.data.seeding import stable_seed
from bcfusion.errors import DataError
from bcfusion.files import appearing, cache_directory, from_json
from bcfusion.requirements import require

logger = logging.getLogger(__name__)

_SHARD = re.compile(rf"(?P<name>(?P<split>{'|'.join(SPLITS)})-\d+\.tar)")
_FIRST = 8  # utterances of the first training shard that are checked before training


class StreamedShards:
    """The corpus of shards at URLs; see the module for the limits of streaming.

    Args:
        patterns: URLs, with ``{000000..000099}`` and ``{a,b}`` for several; each names its split and number as
            ``SPLIT-000000.tar``. ``file:PATH`` and a plain path are local, ``pipe:COMMAND`` is the output of a shell
            command, such as ``pipe:aws s3 cp s3://BUCKET/train-000000.tar -``; all others are passed to ``webdataset``
            (http, https, gs, hf, sftp, ...).
        shuffle_buffer: crops among which training data are shuffled, in each worker.
        max_unreadable_share: share of the shards, in [0, 1], that may be unreadable.
        cache_dir: for the shards of validation and test; None: see :func:`bcfusion.files.cache_directory`.

    Raises:
        ConfigError: an argument is out of range.
        DataError: a URL names no split, none is for training, or ``webdataset`` is not installed.
    """

    datamodule = StreamedDataModule  #: loads the training utterances, which are not listed

    def __init__(
        self,
        patterns: Sequence[str],
        shuffle_buffer: int = 1000,
        max_unreadable_share: float = 0.05,
        cache_dir: str | None = None,
    ) -> None:
        if find_spec("webdataset") is None:
            raise DataError(
                "shards at URLs need webdataset: pip install 'bcfusion[shards]'; a folder of shards does not"
            )
        from braceexpand import braceexpand

        require(self, key_rules("data", shuffle_buffer=shuffle_buffer, max_unreadable_share=max_unreadable_share))
        self.shuffle_buffer = shuffle_buffer
        self.max_unreadable_share = max_unreadable_share
        self.cache_dir = cache_dir
        self.urls: dict[str, list[str]] = {split: [] for split in SPLITS}
        for url in (url for pattern in patterns for url in braceexpand(str(pattern))):
            names = list(_SHARD.finditer(url))
            if not names:
                raise DataError(
                    f"data.root: {url} is not a shard; its name must be train-000000.tar, valid-... or test-..."
                )
            # webdataset would treat the path of file:/PATH as relative
            self.urls[names[-1]["split"]].append(urlparse(url).path if url.startswith("file:") else url)
        if not self.urls["train"]:
            raise DataError("data.root: none of the URLs is a training shard, train-000000.tar and so on")
        self._rows: dict[str, Sequence[Row]] = {}

    def rows(self, split: str) -> Sequence[Row]:
        """Return the utterances of ``valid`` or ``test``, whose shards are copied to the cache first; may be empty.

        Raises:
            DataError: a shard cannot be fetched or read; or ``split`` is ``train``, whose utterances are not listed.
        """
        if split == "train":
            raise DataError("training shards are streamed, and their utterances are not listed: use a folder of shards")
        if split not in self._rows:
            tars = [self._fetched(url) for url in self.urls[split]]
            self._rows[split] = rows_of(tars, split, self.max_unreadable_share, whole=False) if tars else []
        return self._rows[split]

    def first_rows(self) -> tuple[list[Row], int]:
        """Return some utterances of the first training shard, and the number of utterances in that shard.

        Raises:
            DataError: the shard cannot be read, or was not written by ``bcfusion prepare``.
        """
        url = self.urls["train"][0]
        rows: list[Row] = []
        about: dict[str, Any] = {}
        raw: BinaryIO | None = None
        try:
            raw = opened(url)
            with tarfile.open(fileobj=raw, mode="r|") as archive:  # plain: nothing expands
                for member in archive:
                    check_member(member)
                    content = archive.extractfile(member)
                    if content is None or not (member.name == HEADER or member.name.endswith(".json")):
                        continue
                    values = from_json(content.read(LARGEST_JSON))
                    if member.name == HEADER:
                        about = values
                    else:
                        rows.append(row_of(values, dict.fromkeys(values["files"], f"{url}/{member.name}")))
                    if len(rows) == _FIRST:
                        break
        except (OSError, tarfile.TarError, ValueError, LookupError, TypeError, RecursionError) as error:
            # if nothing arrived, the command that should have fetched the shard reports why
            cause = closed(raw) if "empty file" in str(error) else None
            raise DataError(f"data.root: cannot read {url}: {reason(url, cause or error)}") from error
        finally:
            closed(raw)
        if about.get("version") != VERSION or not rows:
            raise DataError(f"data.root: {url} is not a shard of bcfusion prepare, or is of another version")
        return rows, int(about["rows"])

    def _fetched(self, url: str) -> Path:
        """Return a shard as a local file: itself, or a copy in the cache."""
        if not URL.match(url):
            return Path(url)
        name = list(_SHARD.finditer(url))[-1]["name"]
        # one folder per source of shards
        target = cache_directory(self.cache_dir) / "shards" / f"{stable_seed(url.replace(name, '')):016x}" / name
        if target.exists():
            return target
        logger.info("copying %s to %s", url, target)
        try:
            with appearing(target) as part, opened(url) as source, part.open("wb") as copy:
                shutil.copyfileobj(source, copy, 1 << 20)
        except (OSError, ValueError) as error:
            raise DataError(f"data.root: cannot copy {url} to {target}: {reason(url, error)}") from error
        return target
