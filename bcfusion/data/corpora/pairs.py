"""A corpus of two folders: recordings of a body sensor and of the air microphone, matched by name."""

from __future__ import annotations

import logging
import os
import shlex
from pathlib import Path

from bcfusion import audio
from bcfusion.contracts import SPLITS, UNKNOWN_SPEAKER, Row
from bcfusion.data.corpora.headers import NAMED, one_take, read_headers
from bcfusion.errors import DataError
from bcfusion.files import name_below, on_disk
from bcfusion.nearest import nearest_path
from bcfusion.requirements import one_of, require, within

logger = logging.getLogger(__name__)

LARGEST_LAG = 10.0  #: seconds; more is a lag in another unit
_SAME_LAG = 1e-4  # seconds


class PairsCorpus:
    """Simultaneous recordings ``body/NAME.*`` and ``air/NAME.*``.

    NAME is the path below the folder without its suffix, so the two may have different formats. If ``air`` has a
    subfolder train, valid or test, files in it belong to that split; all others belong to ``split``. The speaker is the
    folder that a file lies in, unless that is the top folder or a split's. A row is as long as the shorter of its two
    files. Lag and polarity are the same for all files here; a manifest gives those of each file (``data=manifest``).

    Args:
        body: folder of the sensor's recordings.
        air: folder of the air microphone's recordings.
        split: of files outside of split folders: ``train``, ``valid`` or ``test``.
        lag: seconds by which body comes later than air, undone when it is read.
        polarity: -1 if body is inverted, otherwise 1; undone too.
        max_unreadable_share: share of all files, in [0, 1], that may be unreadable; a warning names them. Likewise of
            the pairs whose ends are more than :data:`~bcfusion.contracts.SENSORS_END_WITHIN` apart.

    Raises:
        ConfigError: ``split`` is no split, or a number is out of range.
        DataError: a folder does not exist.
    """

    recorded_sensors: tuple[str, ...] = ("body",)  #: in addition to air

    def __init__(
        self,
        body: str,
        air: str,
        split: str = "test",
        max_unreadable_share: float = 0.05,
        lag: float = 0.0,
        polarity: int = 1,
    ) -> None:
        require(
            self,
            one_of(SPLITS, split=split),
            within(0, 1, max_unreadable_share=max_unreadable_share),
            within(-LARGEST_LAG, LARGEST_LAG, lag=lag),
            one_of((1, -1), polarity=polarity),
        )
        self.folders = {"body": on_disk(body), "air": on_disk(air)}
        self.split = split
        self.max_unreadable_share = max_unreadable_share
        self.lag = float(lag)
        self.polarity = int(polarity)
        self._rows: list[Row] | None = None
        missing = [
            f"data.{sensor}: no such folder: {folder.absolute()}{nearest_path(folder.absolute())}"
            for sensor, folder in self.folders.items()
            if not folder.is_dir()
        ]
        if missing:
            raise DataError("\n".join(missing))

    def rows(self, split: str) -> list[Row]:
        """Return the pairs of a split, sorted by name.

        Raises:
            DataError: no name is in both folders, two files of a folder share a name, or too many are unreadable
                or differ in length.
            bcfusion.audio.AudioFormatError: a file has several channels.
        """
        if self._rows is None:
            self._rows = self._scan()
        return [row for row in self._rows if row.split == split]

    def alignment_advice(self, lag: float | None, polarity: int | None) -> list[str]:
        """Return what to type so that body is read aligned with air, a line for each way, the best one first.

        Args:
            lag: seconds, if it is the same in all recordings, else None.
            polarity: 1 or -1, if it is the same in all recordings, else None.
        """
        body, air = (shlex.quote(os.path.abspath(self.folders[sensor])) for sensor in ("body", "air"))
        splits = "" if any(_has_split(row.id) for row in self._rows or ()) else f" --splits {self.split}"
        each = (
            f"bcfusion prepare pairs --root . --body {body} --air {air}{splits} --measure --out pairs.jsonl; "
            "then data=manifest data.path=pairs.jsonl"
        )
        constant = [] if polarity in (None, self.polarity) else [f"data.polarity={polarity}"]
        constant += [] if lag is None or abs(lag - self.lag) < _SAME_LAG else [f"data.lag={lag:.5f}"]
        ways = [f"the same for all files: {' '.join(constant)}"] if constant else []
        measured = f"measured for each file: {each}"
        return [*ways, measured] if lag is not None and polarity is not None else [measured, *ways]

    def _scan(self) -> list[Row]:
        body, air = (files_by_name(self.folders[sensor]) for sensor in ("body", "air"))
        names = sorted(body.keys() & air.keys())
        if not names:
            raise DataError(
                f"no file in {self.folders['body']} ({len(body)} files) has the name of a file in "
                f"{self.folders['air']} ({len(air)} files): names without suffix must be equal"
            )
        for sensor, alone in (("body", body.keys() - air.keys()), ("air", air.keys() - body.keys())):
            if alone:
                message = "%s: %d of its files have no partner and are left out: %s"
                logger.warning(message, self.folders[sensor], len(alone), ", ".join(sorted(alone)[:NAMED]))
        files = [side[name] for name in names for side in (body, air)]
        where = f"{self.folders['body']} and {self.folders['air']}"
        headers = read_headers(files, self.max_unreadable_share, where)
        names = one_take(
            {name: (headers.get(body[name]), headers.get(air[name])) for name in names},
            self.max_unreadable_share,
            where,
        )
        return [
            Row(
                id=name,
                paths={"air": os.fspath(air[name]), "body": os.fspath(body[name])},
                speaker=_speaker(name),
                split=_split(name, self.split),
                sample_rate=headers[air[name]].sample_rate,
                duration=min(headers[body[name]].duration, headers[air[name]].duration),
                lag=self.lag,
                polarity=self.polarity,
            )
            for name in names
        ]


def files_by_name(folder: Path) -> dict[str, Path]:
    """Return the sound files below a folder, by path without suffix.

    Raises:
        DataError: two files share a name.
    """
    files: dict[str, Path] = {}
    for file in audio.walk(folder):
        name = name_below(folder, file)
        if name in files:
            raise DataError(f"{file} and {files[name]} have the same name without suffix: remove one of them")
        files[name] = file
    return files


def _has_split(name: str) -> bool:
    first, _, rest = name.partition("/")
    return bool(rest) and first in SPLITS


def _split(name: str, otherwise: str) -> str:
    return name.partition("/")[0] if _has_split(name) else otherwise


def _speaker(name: str) -> str:
    parents = name.split("/")[:-1]
    return parents[-1] if parents and parents[-1] not in SPLITS else UNKNOWN_SPEAKER
