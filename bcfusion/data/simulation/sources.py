"""Recordings that simulators draw from (noise, room responses), divided into those of training and of evaluation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bcfusion.contracts import SPLITS
from bcfusion.errors import ConfigError, DataError
from bcfusion.requirements import Rule, require


@dataclass(frozen=True)
class Source:
    """A sound file, or a part of one.

    Attributes:
        path: of the file.
        offset: start of the part, in seconds.
        duration: of the part, in seconds; None: to the end.
        channel: the channel to use, from 0; None: any.
    """

    path: str
    offset: float = 0.0
    duration: float | None = None
    channel: int | None = None


@dataclass(frozen=True)
class Sources:
    """The recordings of training and those of evaluation.

    Attributes:
        root: the folder or manifest, for messages.
        training: recordings for training.
        evaluation: recordings for evaluation.
        shared: whether nothing assigns recordings to splits; then both hold all of them.
    """

    root: str
    training: tuple[Source, ...]
    evaluation: tuple[Source, ...]
    shared: bool = False

    def of(self, training: bool) -> tuple[Source, ...]:
        """Return the recordings of training or of evaluation.

        Raises:
            DataError: there are none.
        """
        found = self.training if training else self.evaluation
        if not found:
            raise DataError(f"{self.root} lists nothing with split {'train' if training else 'valid or test'}")
        return found


def find_sources(root: Path, column: str, key: str) -> Sources:
    """Find the recordings of a manifest or a folder.

    A manifest (``.jsonl``, ``.csv``; see :mod:`bcfusion.data.corpora.manifest`) gives the split of each line. In a
    folder, recordings in ``train/`` are for training and those in ``valid/`` and ``test/`` for evaluation, if there are
    both; any other folder is shared.

    Args:
        root: folder or manifest.
        column: of the manifest, with the paths of the files; also what messages call the recordings.
        key: of the configuration, for messages.

    Raises:
        DataError: there is neither folder nor manifest, it holds no audio, or the manifest has problems, lists nothing
            for evaluation, or lists the same part of a file for both.
    """
    from bcfusion import audio

    if root.suffix in (".jsonl", ".csv"):
        return _listed(root, column)
    if not root.is_dir():
        raise DataError(f"no {column} folder {root}: set {key} to a folder or a manifest (.jsonl, .csv) of recordings")
    training, valid, test = (tuple(Source(str(file)) for file in sorted(audio.walk(root / split))) for split in SPLITS)
    if training and (valid or test):
        return Sources(str(root), training, valid + test)
    everything = tuple(Source(str(file)) for file in sorted(audio.walk(root)))
    if not everything:
        raise DataError(f"no audio in the {column} folder {root}: it needs {', '.join(audio.EXTENSIONS)} files")
    return Sources(str(root), everything, everything, shared=True)


def require_with(owner: object, rules: Sequence[Rule], find: Callable[[], Sources | None]) -> Sources | None:
    """Check the arguments of a simulator and find its recordings; if both fail, report both at once.

    Args:
        owner: see :func:`bcfusion.requirements.require`.
        rules: of the arguments.
        find: finds the recordings, or returns None if there are none to find.

    Returns:
        What ``find`` returns.

    Raises:
        ConfigError: a rule is broken.
        DataError: the recordings alone are the problem.
    """
    try:
        require(owner, *rules)
    except ConfigError as refused:
        try:
            find()
        except DataError as missing:
            raise ConfigError([*refused.problems, *str(missing).splitlines()]) from None
        raise
    return find()


def _listed(manifest: Path, column: str) -> Sources:
    from bcfusion.data.corpora.manifest import read_manifest

    training: list[Source] = []
    evaluation: list[Source] = []
    for entry in read_manifest(manifest, needed=column):
        source = Source(entry.paths[column], entry.offset, entry.duration, entry.channels.get(column))
        (training if entry.split == "train" else evaluation).append(source)
    if not evaluation:
        raise DataError(f"{manifest} lists no {column} with split valid or test: evaluation needs its own")
    by_path: dict[str, list[Source]] = {}
    for source in training:
        by_path.setdefault(source.path, []).append(source)
    both = [source for source in evaluation if any(_overlap(source, other) for other in by_path.get(source.path, ()))]
    if both:
        raise DataError(
            f"{manifest} lists {len(both)} part(s) of {column} for both training and evaluation, the first in "
            f"{both[0].path}: nothing may be in both"
        )
    return Sources(str(manifest), tuple(training), tuple(evaluation))


def _overlap(one: Source, other: Source) -> bool:
    """Return whether two parts of one file overlap."""
    first, second = sorted((one, other), key=lambda source: source.offset)
    return first.duration is None or second.offset < first.offset + first.duration
