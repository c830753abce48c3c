"""What the files of one recording say: whether they can be used, how long they are, and what is measured on them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from bcfusion import audio
from bcfusion.audio import AudioInfo
from bcfusion.data.corpora.folder import header
from bcfusion.data.corpora.manifest import ROUNDING_SECONDS
from bcfusion.data.preparation.adapters import Recording
from bcfusion.errors import AudioError

if TYPE_CHECKING:
    from torch import Tensor

UNREADABLE = "unreadable"
CHANNELS = "with another number of channels"
SHORT = "shorter than the corpus says"
CONFIDENCE = "lag_confidence"  #: 0 to 1, of a lag and a polarity that were looked for
# Bandwidth and lag are the same all through a recording; an hour of it would only cost memory.
_MEASURED_SECONDS = 60.0

Facts = dict[str, Any]  #: as JSON can hold it: id, sample_rate, duration, and what was measured


class Problem(NamedTuple):
    """Why a recording cannot be used: the kind, as it is counted, a text, and the file where it is at fault."""

    kind: str
    text: str
    path: str = ""


def facts_of(recording: Recording, sensor: str, measure: bool) -> Facts | Problem:
    """Look at the files of a recording.

    Args:
        recording: as its corpus tells it.
        sensor: whose sample rate and bandwidth are meant.
        measure: whether ``bandwidth`` is measured and, where there is a body sensor, ``lag`` and ``polarity``, on up to
            the first minute. Where these are not certain, the fact is left out and only ``lag_confidence`` is there.
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
            return Problem(CHANNELS, f"{path} has {has}, but {name} is to be channel {channel}, counted from 0")
        headers[name] = found
    left = min(found.duration for found in headers.values()) - recording.offset
    duration = left if recording.duration is None else recording.duration
    if left <= 0 or duration > left + ROUNDING_SECONDS:
        end = recording.offset + max(duration, 0.0)
        return Problem(SHORT, f"{recording.paths[sensor]} ends at {left + recording.offset:.3f} s, not at {end:.3f} s")
    duration = round(min(duration, left), 6)
    facts = {"id": recording.id, "sample_rate": headers[sensor].sample_rate, "duration": duration}
    if not measure:
        return facts
    try:
        return facts | _measured(recording, sensor, headers, duration)
    except audio.UnreadableAudio as error:
        return Problem(UNREADABLE, str(error), error.path)


def _measured(recording: Recording, sensor: str, headers: Mapping[str, AudioInfo], duration: float) -> Facts:
    from bcfusion.data.inspect.bandwidth import effective_bandwidth

    rate = headers[sensor].sample_rate
    main = _signal(recording, sensor, headers[sensor], duration)
    measured: Facts = {"bandwidth": round(effective_bandwidth(main.numpy(), rate), 1)}
    if "body" in recording.paths:
        from bcfusion.data.inspect.alignment import ENOUGH, alignment

        body = _signal(recording, "body", headers["body"], duration)
        body = audio.resample(body, headers["body"].sample_rate, rate)
        both = min(len(body), len(main))
        found = alignment(body[:both].numpy(), main[:both].numpy(), rate)
        measured[CONFIDENCE] = round(found.confidence, 3)
        if found.confidence >= ENOUGH:
            measured |= {"lag": round(found.lag_seconds, 6), "polarity": found.polarity}
    return measured


def _signal(recording: Recording, sensor: str, info: AudioInfo, duration: float) -> Tensor:
    import torch

    start = round(recording.offset * info.sample_rate)
    frames = min(round(min(duration, _MEASURED_SECONDS) * info.sample_rate), info.frames - start)
    samples, _ = audio.read(recording.paths[sensor], start, frames)
    return torch.from_numpy(samples[recording.channels.get(sensor, 0)])
