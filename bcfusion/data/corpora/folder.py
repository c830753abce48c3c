"""A corpus that is a folder: PATH/{train,valid,test}/**/<speaker>/<utterance>.{wav,flac,ogg,opus,mp3}."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from bcfusion import audio
from bcfusion.audio import AudioFormatError, AudioInfo, UnreadableAudio
from bcfusion.contracts import Row
from bcfusion.errors import AudioError, DataError

logger = logging.getLogger(__name__)

SPLITS = {"train": "train", "valid": "valid", "test": "test"}
_NAMED = 3
# Headers are waited for, not computed: with this many reads under way a network disk is busy.
_THREADS = 8


class FolderCorpus:
    """Clean air-conducted speech in folders; sensors are simulated from it.

    The speaker of a file is the name of the folder it lies in. The id is its path beneath ``root`` without the suffix.
    Headers are read once for each split, at the first call of :meth:`rows`.

    Args:
        root: the folder.
        splits: name of the subfolder of each split.
        max_unreadable_share: of a split's files, in [0, 1], that may be unreadable; they are named in a warning.

    Raises:
        DataError: ``root`` does not exist.
    """

    recorded_sensors: tuple[str, ...] = ()  #: besides air

    def __init__(self, root: str, splits: Mapping[str, str] | None = None, max_unreadable_share: float = 0.05) -> None:
        self.root = Path(root).expanduser()
        self.splits = dict(SPLITS if splits is None else splits)
        self.max_unreadable_share = max_unreadable_share
        self._rows: dict[str, list[Row]] = {}
        self._speakers: dict[str, set[str]] = {}
        if not self.root.is_dir():
            raise DataError(f"data.root: no such folder: {self.root.absolute()}")

    def rows(self, split: str) -> list[Row]:
        """The utterances of a split, sorted by path; empty where ``valid`` or ``test`` has no folder.

        Raises:
            DataError: there is no training folder, it holds no audio, or too many files of the split are unreadable.
            bcfusion.audio.AudioFormatError: a file has several channels.
        """
        if split not in self._rows:
            files = self._files(split)
            headers = read_headers(files, self.max_unreadable_share, f"{self.root}/{self.splits.get(split, split)}")
            self._rows[split] = [
                Row(
                    id=file.relative_to(self.root).with_suffix("").as_posix(),
                    paths={"air": os.fspath(file)},
                    speaker=file.parent.name,
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
        mine = {row.speaker for row in self._rows[split]}
        for other, theirs in self._speakers.items():
            if shared := sorted(mine & theirs):
                first = ", ".join(shared[:_NAMED])
                message = "%s: %d speaker(s) are both in %s and in %s (%s): scores will be too good"
                logger.warning(message, self.root, len(shared), other, split, first)
        self._speakers[split] = mine


def read_headers(
    files: Iterable[Path], max_unreadable_share: float, where: str, mono: bool = True
) -> dict[Path, AudioInfo]:
    """Read the headers of sound files with several threads.

    Args:
        files: to look at. max_unreadable_share: of them, in [0, 1], that may be unreadable. where: for the messages.
        mono: whether files of several channels are refused.

    Returns:
        The header of each readable file. The unreadable are counted, and the first few named, in a warning.

    Raises:
        DataError: too many are unreadable.
        AudioFormatError: files have several channels.
    """
    listed = list(files)
    with ThreadPoolExecutor(_THREADS) as pool:
        found = dict(zip(listed, pool.map(header, listed), strict=True))
    headers = {file: entry for file, entry in found.items() if isinstance(entry, AudioInfo)}
    broken = [problem for problem in found.values() if isinstance(problem, AudioError)]
    if broken:
        count = f"{where}: {len(broken)} of {len(listed)} files are unreadable"
        if len(broken) > max_unreadable_share * len(listed):
            raise DataError(
                f"{count}, more than the share of {max_unreadable_share:g} that data.max_unreadable_share allows: "
                f"{some(broken)}"
            )
        logger.warning("%s and left out: %s", count, some(broken))
    wide = [entry for entry in headers.values() if entry.channels != 1]
    if mono and wide:
        more = f" (and {len(wide) - 1} more files like it)" if len(wide) > 1 else ""
        raise AudioFormatError(
            f"{wide[0].path} has {wide[0].channels} channels{more}, 1 was expected: split or mix them, or name the "
            "channel of each sensor in a manifest (data=manifest)"
        )
    return headers


def header(file: str | os.PathLike[str]) -> AudioInfo | AudioError:
    """Header of a sound file, or what is wrong with it. Of a missing file it is not asked what might have been meant.

    That question lists the folder, which is a second's work where a corpus lies in one folder; of thousands of missing
    files it is asked for those that are named, by :func:`some`.
    """
    if not os.path.exists(audio.container(file)):
        return UnreadableAudio(f"{file} does not exist", file)
    try:
        return audio.info(file)
    except AudioError as error:
        return error


def some(problems: Sequence[AudioError]) -> str:
    """The first few problems in one line, the rest as a number. The first missing file is given a nearest name."""
    named = [str(problem) for problem in problems[:_NAMED]]
    for place, problem in enumerate(problems[:_NAMED]):
        if isinstance(problem, UnreadableAudio) and problem.path and not os.path.exists(audio.container(problem.path)):
            try:
                audio.info(problem.path)
            except AudioError as error:
                named[place] = str(error)
            break
    return "; ".join(named) + (f"; and {len(problems) - _NAMED} more" if len(problems) > _NAMED else "")
