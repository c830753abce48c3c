"""The headers of a corpus's files: read in parallel, and compared with what the corpus states about them."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from bcfusion import audio
from bcfusion.audio import AudioFormatError, AudioInfo, UnreadableAudio
from bcfusion.contracts import SENSORS_END_WITHIN
from bcfusion.errors import AudioError, DataError

__all__ = [
    "NAMED",
    "THREADS",
    "first_few",
    "header",
    "one_take",
    "past_the_end",
    "read_headers",
    "usable_duration",
    "warn_of_lengths",
    "wrong_channels",
]

logger = logging.getLogger(__name__)

File = TypeVar("File", str, Path)

NAMED = 3  #: problems that a message names; the others are a number
#: Reading a header is waiting, not computing: with this many reads in progress a network disk is busy.
THREADS = 8
_ROUNDED_LENGTH = 1e-3  # seconds; a difference that resampling may make is not worth a line
_ROUNDING_SECONDS = 0.05  # durations in manifests are rounded: one may exceed its files by this much


def read_headers(
    files: Iterable[File], max_unreadable_share: float, where: str, mono: bool = True
) -> dict[File, AudioInfo]:
    """Read the headers of sound files with several threads.

    Args:
        files: their paths.
        max_unreadable_share: share of them, in [0, 1], that may be unreadable.
        where: names the corpus in messages.
        mono: whether files with several channels are refused.

    Returns:
        The header of each readable file. A warning counts the unreadable ones and names the first few; another one
        those whose end is missing, or whose length is not that of their header.

    Raises:
        DataError: too many are unreadable.
        AudioFormatError: files have several channels.
    """
    listed = list(files)
    with ThreadPoolExecutor(THREADS) as pool:
        found = dict(zip(listed, pool.map(header, listed), strict=True))
    headers = {file: entry for file, entry in found.items() if isinstance(entry, AudioInfo)}
    broken = [problem for problem in found.values() if isinstance(problem, AudioError)]
    if broken:
        count = f"{where}: {len(broken)} of {len(listed)} files are unreadable"
        if len(broken) > max_unreadable_share * len(listed):
            raise DataError(
                f"{count}, more than the share of {max_unreadable_share:g} that data.max_unreadable_share allows: "
                f"{first_few(broken)}"
            )
        logger.warning("%s and left out: %s", count, first_few(broken))
    warn_of_lengths(headers.values(), where)
    wide = [entry for entry in headers.values() if entry.channels != 1]
    if mono and wide:
        more = f" (and {len(wide) - 1} more files like it)" if len(wide) > 1 else ""
        raise AudioFormatError(
            f"{wide[0].path} has {wide[0].channels} channels{more}, 1 was expected: split or mix them, or name the "
            "channel of each sensor in a manifest (data=manifest)"
        )
    return headers


def one_take(recordings: Mapping[str, Sequence[AudioInfo | None]], max_differing_share: float, where: str) -> list[str]:
    """Return the recordings whose sensors' files end together: by no more than half a second apart.

    Args:
        recordings: name to the headers of its files; None for an unreadable one, whose recording is left out.
        max_differing_share: share of them, in [0, 1], that may be left out because their files differ more in length.
        where: names the corpus in messages. A warning names those that are left out, another one counts those whose
            ends differ by a millisecond or more, of which only the common part is used.

    Raises:
        DataError: too many differ in length.
    """
    apart = {}
    for name, files in recordings.items():
        lengths = [file.duration for file in files if file is not None]
        if len(lengths) == len(files):
            apart[name] = max(lengths) - min(lengths)
    takes = [f"{name} ({seconds:.3f} s)" for name, seconds in apart.items() if seconds > SENSORS_END_WITHIN]
    if takes:
        more = f"; and {len(takes) - NAMED} more" if len(takes) > NAMED else ""
        problem = (
            f"{where}: the files of {len(takes)} of {len(apart)} recordings differ in length by more than "
            f"{SENSORS_END_WITHIN:g} s, as two takes do: {', '.join(takes[:NAMED])}{more}"
        )
        if len(takes) > max_differing_share * len(apart):
            raise DataError(f"{problem}. Cut them to their common part, or list them in a manifest with a duration")
        logger.warning("%s; they are left out", problem)
    if cut := [seconds for seconds in apart.values() if _ROUNDED_LENGTH < seconds <= SENSORS_END_WITHIN]:
        message = "%s: the files of %d of %d recordings differ in length, by up to %.1f ms; their common part is used"
        logger.warning(message, where, len(cut), len(apart), 1e3 * max(cut))
    return [name for name, seconds in apart.items() if seconds <= SENSORS_END_WITHIN]


def warn_of_lengths(headers: Iterable[AudioInfo], where: str) -> None:
    """Warn of files whose end is missing, and of files whose header does not state their true length.

    Args:
        headers: of the files.
        where: names the corpus.
    """
    found = [entry for entry in headers if entry.remark]
    for kind, entries in (
        ("were cut off and are used as far as they go", [entry for entry in found if entry.cut]),
        ("have a header that does not state their length; all of them is used", [e for e in found if not e.cut]),
    ):
        if entries:
            named = "; ".join(f"{entry.path}: {entry.remark}" for entry in entries[:NAMED])
            more = f"; and {len(entries) - NAMED} more" if len(entries) > NAMED else ""
            logger.warning("%s: %d file(s) %s: %s%s", where, len(entries), kind, named, more)


def header(file: str | os.PathLike[str]) -> AudioInfo | AudioError:
    """Return the header of a sound file, or what is wrong with it, without a suggestion for a missing file.

    A suggestion needs a listing of the folder, which takes a second if a whole corpus lies in one folder. With
    thousands of missing files, only those that are named get one, from :func:`first_few`.
    """
    try:
        os.stat(audio.container(file))
    except FileNotFoundError:
        if not os.path.islink(audio.container(file)):
            return UnreadableAudio(f"{file} does not exist", file)
    except (OSError, ValueError):
        pass  # the next call says what it is: a link in a circle, a folder that may not be entered, no name of a file
    try:
        return audio.info(file)
    except AudioError as error:
        return error


def first_few(problems: Sequence[AudioError]) -> str:
    """Return the first problems in one line and the number of the others; the first missing file gets a suggestion."""
    named = [str(problem) for problem in problems[:NAMED]]
    for place, problem in enumerate(problems[:NAMED]):
        if isinstance(problem, UnreadableAudio) and problem.path and not os.path.exists(audio.container(problem.path)):
            try:
                audio.info(problem.path)
            except AudioError as error:
                named[place] = str(error)
            break
    return "; ".join(named) + (f"; and {len(problems) - NAMED} more" if len(problems) > NAMED else "")


def wrong_channels(headers: Mapping[str, AudioInfo], channels: Mapping[str, int]) -> str:
    """Return what is wrong with the channels that are read from an utterance's files; empty if nothing is.

    Args:
        headers: sensor to header of its file.
        channels: sensor to channel; a sensor that is not in it needs a mono file.
    """
    for sensor, found in headers.items():
        channel = channels.get(sensor)
        if channel is None and found.channels != 1:
            return f"{found.path} has {found.channels} channels: name one in the column {sensor}_channel, from 0"
        if channel is not None and channel >= found.channels:
            return f"{found.path} has {found.channels} channel(s), but {sensor}_channel is {channel}, counted from 0"
    return ""


def past_the_end(left: Any, wanted: Any) -> Any:
    """Return whether an utterance does not fit into its files; seconds, of one utterance or arrays of many.

    Args:
        left: from its offset to the end of the shortest file.
        wanted: its own length.
    """
    return (left <= 0) | (wanted > left + _ROUNDING_SECONDS)


def usable_duration(headers: Iterable[AudioInfo], offset: float, duration: float | None) -> tuple[float, str]:
    """Return how many seconds of an utterance its files hold, and what is wrong if that is too little.

    Args:
        headers: of its files, at least one.
        offset: where the utterance starts in them, in seconds.
        duration: its length in seconds; None: to the end of the shortest file.

    Returns:
        The length, and an empty text; or a length that means nothing, and the problem.
    """
    end = min(found.duration for found in headers)
    left = end - offset
    wanted = left if duration is None else duration
    if past_the_end(left, wanted):
        problem = f"{offset:g} s + {max(wanted, 0):g} s is past the end of the shortest file, at {end:.3f} s"
        return 0.0, problem
    return min(wanted, left), ""
