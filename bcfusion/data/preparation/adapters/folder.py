"""A plain folder of clean speech, with or without folders of splits in it."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from bcfusion.contracts import SPLITS, UNKNOWN_SPEAKER
from bcfusion.data.preparation.adapters import Adapter, Option, Recording, missing, split_by_speaker
from bcfusion.data.preparation.adapters.tree import relative_id, sounds_of
from bcfusion.errors import DataError

logger = logging.getLogger(__name__)

#: Names of folders that hold a split, and the split.
SPLIT_FOLDERS = {
    "train": "train",
    "valid": "valid",
    "val": "valid",
    "validation": "valid",
    "dev": "valid",
    "test": "test",
    "eval": "test",
}
PLACE_OPTIONS = (
    Option(
        "splits",
        "by folders, by speakers, or one split for all; default: by folders if there are any",
        None,
        ("folders", "speakers", *SPLITS),
    ),
    Option("shares", "of train, valid and test, if speakers are divided", "0.8,0.1,0.1"),
    Option(
        "speaker",
        "which folder is named after the speaker: the one that a file lies in, or the top one",
        "parent",
        ("parent", "top"),
    ),
)  #: of an adapter whose files have no fixed layout


@dataclass(frozen=True)
class Placed:
    """A file of a folder with what its path gives: its id, split and speaker."""

    file: Path
    id: str
    split: str
    speaker: str


def placed(adapter: Adapter, root: Path, options: Mapping[str, str]) -> list[Placed]:
    """Return the sound files below a folder, sorted by path, with id, split and speaker.

    Args:
        adapter: for its layout in messages.
        root: the folder.
        options: values of :data:`PLACE_OPTIONS`.

    Raises:
        LayoutError: there are no sound files, or no folders of splits although they are asked for.
        DataError: speakers should be divided but no folder names one, or ``shares`` is not three numbers.
    """
    files = sounds_of(root)
    if not files:
        raise missing(adapter, root, "no sound files")
    names = [relative_id(file, root) for file in files]
    firsts = [name.partition("/")[0] if "/" in name else "" for name in names]
    splits = options.get("splits") or ("folders" if SPLIT_FOLDERS.keys() & set(firsts) else "speakers")
    if splits == "folders":
        inside = [SPLIT_FOLDERS.get(first, "") for first in firsts]
        if not any(inside):
            raise missing(adapter, root, f"no folder named {', '.join(SPLIT_FOLDERS)}")
        if outside := inside.count(""):
            logger.warning("%s: %d file(s) are in no folder of a split and are ignored", root, outside)
        return [
            Placed(file, name, split, _speaker(name.partition("/")[2], options["speaker"]))
            for file, name, split in zip(files, names, inside, strict=True)
            if split
        ]
    speakers = [_speaker(name, options["speaker"]) for name in names]
    if splits == "speakers":
        if set(speakers) == {UNKNOWN_SPEAKER}:
            raise DataError(
                f"{root}: it has neither folders of splits nor of speakers, so its files cannot be divided: "
                f"--splits {SPLITS[0]}, {SPLITS[1]} or {SPLITS[2]} puts all of them into one split"
            )
        of = split_by_speaker(speakers, _shares(options["shares"]))
        return [Placed(*each) for each in zip(files, names, (of[name] for name in speakers), speakers, strict=True)]
    return [Placed(file, name, splits, speaker) for file, name, speaker in zip(files, names, speakers, strict=True)]


def _speaker(name: str, which: str) -> str:
    folders = name.split("/")[:-1]
    return folders[-1 if which == "parent" else 0] if folders else UNKNOWN_SPEAKER


def _shares(text: str) -> tuple[float, float, float]:
    try:
        train, valid, test = (float(part) for part in text.split(","))
    except ValueError as error:
        raise DataError(
            f"--shares {text!r}: give three numbers, for train, valid and test, for example 0.8,0.1,0.1"
        ) from error
    return train, valid, test


class Folder:
    """Clean speech in mono files; sensors are simulated from it."""

    summary = "a plain folder of clean speech, in mono files"
    source = "your own recordings"
    layout = """\
ROOT/train/**/SPEAKER/NAME.{wav,flac,ogg,opus,mp3,...}    likewise valid (or val, validation, dev), test (or eval)
or, with speakers divided among the splits: ROOT/**/SPEAKER/NAME.{wav,flac,ogg,opus,mp3,...}"""
    kind = "speech"
    options: tuple[Option, ...] = PLACE_OPTIONS

    def recordings(self, root: Path, options: Mapping[str, str], unpacked: Path) -> Iterator[Recording]:
        """Yield the files, sorted by path."""
        for one in placed(self, root, options):
            yield Recording(id=one.id, split=one.split, speaker=one.speaker, paths={"air": one.file})


ADAPTER = Folder()
