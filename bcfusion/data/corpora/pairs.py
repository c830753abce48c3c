"""A corpus of two folders: recordings of a body sensor and of the air microphone, matched by name."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from bcfusion import audio
from bcfusion.contracts import UNKNOWN_SPEAKER, Row
from bcfusion.data.corpora.folder import SPLITS, read_headers
from bcfusion.errors import DataError

logger = logging.getLogger(__name__)


class PairsCorpus:
    """Simultaneous recordings ``body/NAME.*`` and ``air/NAME.*``.

    NAME is the path beneath the folder without its suffix, so the two may be of different formats. Where ``air`` has a
    subfolder train, valid or test, files in such folders belong to that split; all others belong to ``split``. The
    speaker is the folder that a file lies in, if that is not the top or a split's. A row is as long as the shorter of
    its two files. Lag and polarity are unknown here: a manifest can say them (``data=manifest``).

    Args:
        body: folder of the sensor's recordings.
        air: folder of the air microphone's.
        split: of files outside of split folders: ``train``, ``valid`` or ``test``.
        max_unreadable_share: of all files, in [0, 1], that may be unreadable; they are named in a warning.

    Raises:
        DataError: a folder does not exist, or ``split`` is none.
    """

    recorded_sensors: tuple[str, ...] = ("body",)  #: besides air

    def __init__(self, body: str, air: str, split: str = "test", max_unreadable_share: float = 0.05) -> None:
        self.folders = {"body": Path(body).expanduser(), "air": Path(air).expanduser()}
        self.split = split
        self.max_unreadable_share = max_unreadable_share
        self._rows: list[Row] | None = None
        if split not in SPLITS:
            raise DataError(f"data.corpus.split: {split!r} is none of {', '.join(SPLITS)}")
        for sensor, folder in self.folders.items():
            if not folder.is_dir():
                raise DataError(f"data.{sensor}: no such folder: {folder.absolute()}")

    def rows(self, split: str) -> list[Row]:
        """The pairs of a split, sorted by name.

        Raises:
            DataError: no name is in both folders, two files of a folder have one name, or too many are unreadable.
            bcfusion.audio.AudioFormatError: a file has several channels.
        """
        if self._rows is None:
            self._rows = self._scan()
        return [row for row in self._rows if row.split == split]

    def _scan(self) -> list[Row]:
        body, air = (files_by_name(self.folders[sensor]) for sensor in ("body", "air"))
        names = sorted(body.keys() & air.keys())
        if not names:
            raise DataError(
                f"no file of {self.folders['body']} ({len(body)} files) has the name of one of {self.folders['air']} "
                f"({len(air)} files): names without suffix must be equal"
            )
        for sensor, without in (("body", body.keys() - air.keys()), ("air", air.keys() - body.keys())):
            if without:
                some = ", ".join(sorted(without)[:3])
                logger.warning(
                    "%s: %d of its files have no partner and are left out: %s", self.folders[sensor], len(without), some
                )
        files = [side[name] for name in names for side in (body, air)]
        where = f"{self.folders['body']} and {self.folders['air']}"
        headers = read_headers(files, self.max_unreadable_share, where)
        return [
            Row(
                id=name,
                paths={"air": os.fspath(air[name]), "body": os.fspath(body[name])},
                speaker=_speaker(name),
                split=_split(name, self.split),
                sample_rate=headers[air[name]].sample_rate,
                duration=min(headers[body[name]].duration, headers[air[name]].duration),
            )
            for name in names
            if body[name] in headers and air[name] in headers
        ]


def files_by_name(folder: Path) -> dict[str, Path]:
    """The sound files beneath a folder, by path without suffix.

    Raises:
        DataError: two files have one name.
    """
    files: dict[str, Path] = {}
    for file in audio.walk(folder):
        name = file.relative_to(folder).with_suffix("").as_posix()
        if name in files:
            raise DataError(f"{file} and {files[name]} have the same name without suffix: which is meant?")
        files[name] = file
    return files


def _split(name: str, otherwise: str) -> str:
    first, _, rest = name.partition("/")
    return first if rest and first in SPLITS else otherwise


def _speaker(name: str) -> str:
    parents = name.split("/")[:-1]
    return parents[-1] if parents and parents[-1] not in SPLITS else UNKNOWN_SPEAKER
