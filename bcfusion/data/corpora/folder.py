"""A corpus that is a folder: PATH/{train,valid,test}/**/<speaker>/<utterance>.{wav,flac,ogg,opus,mp3,...}."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path

from bcfusion import audio
from bcfusion.contracts import SPLITS, UNKNOWN_SPEAKER, Row
from bcfusion.data.corpora.headers import NAMED, read_headers
from bcfusion.data.corpora.speakers import known_speakers
from bcfusion.errors import DataError
from bcfusion.files import name_below, normal_name, on_disk
from bcfusion.nearest import nearest_path
from bcfusion.requirements import require, within

logger = logging.getLogger(__name__)


class FolderCorpus:
    """Clean air-conducted speech in folders; sensors are simulated from it.

    The speaker of a file is the name of the folder it lies in, unknown if that is the folder of the split. The id is
    its path below ``root`` without the suffix. The headers of a split are read once, at the first call of :meth:`rows`.

    Args:
        root: the folder.
        splits: name of the subfolder of each split; None: the split's own name.
        max_unreadable_share: share of a split's files, in [0, 1], that may be unreadable; a warning names them.

    Raises:
        ConfigError: ``max_unreadable_share`` is out of range.
        DataError: ``root`` does not exist.
    """

    recorded_sensors: tuple[str, ...] = ()  #: in addition to air

    def __init__(self, root: str, splits: Mapping[str, str] | None = None, max_unreadable_share: float = 0.05) -> None:
        require(self, within(0, 1, max_unreadable_share=max_unreadable_share))
        self.root = on_disk(root)
        self.splits = {split: split for split in SPLITS} if splits is None else dict(splits)
        self.max_unreadable_share = max_unreadable_share
        self._rows: dict[str, list[Row]] = {}
        self._speakers: dict[str, set[str]] = {}
        if not self.root.is_dir():
            raise DataError(f"data.root: no such folder: {self.root.absolute()}{nearest_path(self.root.absolute())}")

    def rows(self, split: str) -> list[Row]:
        """Return the utterances of a split, sorted by path; empty if ``valid`` or ``test`` has no folder.

        Raises:
            DataError: there is no training folder, it holds no audio, or too many files of the split are unreadable.
            bcfusion.audio.AudioFormatError: a file has several channels.
        """
        if split not in self._rows:
            files = self._files(split)
            folder = self.root / self.splits.get(split, split)  # a file in it has no speaker, not one named "train"
            headers = read_headers(files, self.max_unreadable_share, f"{self.root}/{self.splits.get(split, split)}")
            self._rows[split] = [
                Row(
                    id=name_below(self.root, file),
                    paths={"air": os.fspath(file)},
                    speaker=UNKNOWN_SPEAKER if file.parent == folder else normal_name(file.parent.name),
                    split=split,
                    sample_rate=headers[file].sample_rate,
                    duration=headers[file].duration,
                )
                for file in files
                if file in headers
            ]
            self._warn_of_shared_speakers(split)
        return self._rows[split]

    def _files(self, split: str) -> list[Path]:
        folder = self.root / self.splits[split] if split in self.splits else None
        files = list(audio.walk(folder)) if folder is not None and folder.is_dir() else []
        if not files and split == "train":
            present = sorted(entry.name for entry in self.root.iterdir() if entry.is_dir())
            where = folder if folder is not None else f"{self.root} (no folder is named for 'train')"
            raise DataError(
                f"no training audio in {where}: expected {self.root}/train/<speaker>/*.flac (or wav, ogg, opus, mp3); "
                f"folders there: {', '.join(present[:10]) or 'none'}"
            )
        return files

    def _warn_of_shared_speakers(self, split: str) -> None:
        mine = known_speakers(self._rows[split])
        for other, theirs in self._speakers.items():
            if shared := sorted(mine & theirs):
                first = ", ".join(shared[:NAMED])
                message = "%s: %d speaker(s) are both in %s and in %s (%s): scores will be too good"
                logger.warning(message, self.root, len(shared), other, split, first)
        self._speakers[split] = mine
