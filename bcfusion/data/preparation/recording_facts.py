"""What the files of one recording hold: whether they can be used, their length, and what is measured on them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from bcfusion import audio
from bcfusion.audio import AudioInfo
from bcfusion.data.corpora.headers import header, usable_duration
from bcfusion.data.preparation.adapters import Recording
from bcfusion.errors import AudioError

if TYPE_CHECKING:
    from torch import Tensor

UNREADABLE = "unreadable"
CHANNELS = "with another number of channels"
SHORT = "shorter than the corpus says"
CONFIDENCE = "lag_confidence"  #: column, 0 to 1, of a measured lag and polarity
# Bandwidth and lag do not change within a recording; an hour of it would only cost memory.
_MEASURED_SECONDS = 60.0

REMARKS = "remarks"  #: of facts: what is special about the lengths of the files, a list of texts
CUT = "cut"  #: of facts: whether the end of a file is missing
Facts = dict[str, Any]  #: as JSON can store it: id, sample_rate, duration, and what was measured


class Problem(NamedTuple):
    """Why a recording cannot be used: the kind as it is counted, a text, and the file if that is at fault."""

    kind: str
    text: str
    path: str = ""


def facts_of(recording: Recording, sensor: str, measure: bool) -> Facts | Problem:
    """Read the headers of a recording's files, check that they hold what they state, and measure them if asked to.

    The length is the true one: counted where a header does not state it, and the last sample of each file is decoded,
    since a FLAC that was cut off still states its former length.

    Args:
        recording: as the adapter of its corpus describes it.
        sensor: the one whose sample rate and bandwidth are returned.
        measure: whether to measure ``bandwidth`` and, with a body sensor, ``alignment``, on the first
            minute at most.
    """
    headers: dict[str, AudioInfo] = {}
    for name, path in recording.paths.items():
        found = header(path)
        if isinstance(found, AudioError):
            return Problem(UNREADABLE, str(found), str(path))
        channel = recording.channels.get(name)
        if channel is None and found.channels != 1:
            return Problem(CHANNELS, f"{path} has {found.channels} channels, one was expected")
        if channel is not None and channel >= found.channels:
            has = f"{found.channels} channel{'s' * (found.channels != 1)}"
            return Problem(CHANNELS, f"{path} has {has}, but {name} should be channel {channel}, counted from 0")
        headers[name] = found
    duration, too_long = usable_duration(headers.values(), recording.offset, recording.duration)
    if too_long:
        return Problem(SHORT, f"{recording.paths[sensor]}: {too_long}")
    duration = round(duration, 6)
    facts = {"id": recording.id, "sample_rate": headers[sensor].sample_rate, "duration": duration}
    if remarks := [f"{found.path}: {found.remark}" for found in headers.values() if found.remark]:
        facts |= {REMARKS: remarks, CUT: any(found.cut for found in headers.values())}
    try:
        for found in headers.values():
            if found.format == "FLAC":
                audio.read(found.path, found.frames - 1, 1)
        if not measure:
            return facts
        return facts | _measured(recording, sensor, headers, duration)
    except audio.UnreadableAudio as error:
        return Problem(UNREADABLE, str(error), error.path)


def _measured(recording: Recording, sensor: str, headers: Mapping[str, AudioInfo], duration: float) -> Facts:
    from bcfusion.data.inspect.bandwidth import effective_bandwidth

    rate = headers[sensor].sample_rate
    main = _signal(recording, sensor, headers[sensor], duration)
    measured: Facts = {"bandwidth": round(effective_bandwidth(main.numpy(), rate), 1)}
    if "body" in recording.paths:
        from bcfusion.data.inspect.alignment import alignment

        body = _signal(recording, "body", headers["body"], duration)
        body = audio.resample(body, headers["body"].sample_rate, rate)
        both = min(len(body), len(main))
        found = alignment(body[:both].numpy(), main[:both].numpy(), rate)
        measured["alignment"] = [[each.lag_seconds, each.polarity, each.confidence] for each in (found, *found.known)]
    return measured


def _signal(recording: Recording, sensor: str, info: AudioInfo, duration: float) -> Tensor:
    import torch

    start = round(recording.offset * info.sample_rate)
    frames = min(round(min(duration, _MEASURED_SECONDS) * info.sample_rate), info.frames - start)
    samples, _ = audio.read(recording.paths[sensor], start, frames)
    return torch.from_numpy(samples[recording.channels.get(sensor, 0)])
