"""The sensors of a recording as one signal: one file with a channel for each, or a file for each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from bcfusion import audio
from bcfusion.contracts import SENSORS_END_WITHIN, Generator
from bcfusion.errors import AudioError
from bcfusion.inference.recordings import Recording, format_of, other_rate
from bcfusion.run.bundle import bundle_of

__all__ = ["Signal", "misfits", "opened", "opened_signal"]

_SEPARATE = "--sensor NAME=FOLDER for each"


@dataclass(frozen=True)
class Signal:
    """The sensors of a recording at a generator's sample rate, read from start to end.

    Attributes:
        recordings: the files.
        total: number of samples, of the shortest sensor.
        cut: seconds by which the longest sensor exceeds it.
        remarks: what is special about the length of a file, with its path.
    """

    recordings: tuple[Recording, ...]
    total: int
    cut: float
    remarks: tuple[str, ...]

    def read(self, start: int, stop: int) -> Tensor:
        """Return the samples from ``start`` to ``stop``, ``(S, stop - start)``; neither may ever decrease."""
        return torch.cat([recording.read(start, stop) for recording in self.recordings])


@contextmanager
def opened(
    generator: nn.Module, paths: Sequence[Path], resample: bool = True, channels: Sequence[int] | None = None
) -> Iterator[Signal]:
    """Open the recording of all sensors of a generator.

    Args:
        generator: fulfils :class:`bcfusion.contracts.Generator`.
        paths: one file with a channel for each sensor, or a mono file for each sensor, in their order.
        resample: whether files of another rate are converted; otherwise they are refused.
        channels: of one file, those of the sensors, counted from 0; None if it has these and no others.

    Raises:
        AudioError: a file is missing, unreadable, or has another number of channels, another rate (with ``resample``
            off), or an end more than :data:`~bcfusion.contracts.SENSORS_END_WITHIN` from that of its companions.
    """
    spec = cast("Generator", generator)
    with opened_signal(paths, spec.sample_rate, spec.in_channels, _names(generator), resample, channels) as signal:
        yield signal


@contextmanager
def opened_signal(
    paths: Sequence[Path],
    rate: int,
    count: int,
    names: Sequence[str] = (),
    resample: bool = True,
    channels: Sequence[int] | None = None,
    separate: str = _SEPARATE,
) -> Iterator[Signal]:
    """Open the recording of several sensors; see :func:`opened`.

    Args:
        paths: one file with a channel for each sensor, or a mono file for each sensor, in their order.
        rate: of what is read, in Hz.
        count: number of sensors.
        names: of the sensors, for messages; empty if they are unknown.
        resample: as for :func:`opened`.
        channels: likewise.
        separate: how the user gives a file for each sensor, for messages.

    Raises:
        AudioError: as for :func:`opened`.
    """
    with ExitStack() as stack:
        recordings = tuple(stack.enter_context(Recording(path, rate, resample, channels)) for path in paths)
        counts = [recording.channels for recording in recordings]
        fault = _wrong_channels(count, names, counts, channels, separate)
        if fault is not None:
            raise audio.AudioFormatError(f"{paths[fault[0]]} {fault[1]}")
        shortest = min(recordings, key=lambda recording: recording.total)
        longest = max(recordings, key=lambda recording: recording.total)
        cut = (longest.total - shortest.total) / rate
        if cut > SENSORS_END_WITHIN:
            raise AudioError(
                f"{longest.path} ({longest.total / rate:.3f} s) and {shortest.path} "
                f"({shortest.total / rate:.3f} s) differ in length by more than {SENSORS_END_WITHIN:g} s: "
                "sensors must be recorded together"
            )
        remarks = tuple(f"{recording.path}: {recording.remark}" for recording in recordings if recording.remark)
        yield Signal(recordings, shortest.total, cut, remarks)


def misfits(
    generator: nn.Module,
    recordings: Sequence[tuple[Path, ...]],
    resample: bool = True,
    channels: Sequence[int] | None = None,
) -> dict[tuple[Path, ...], tuple[Path, str]]:
    """Return the recordings whose channels or sample rate a generator does not take, by their headers alone.

    Args:
        generator: as for :func:`opened`.
        recordings: the sources of each.
        resample: whether recordings of another rate are converted.
        channels: as for :func:`opened`.

    Returns:
        Sources to the file that is wrong, and what is wrong with it, as the end of a sentence. Files that cannot be
        opened are not among them: :func:`opened` reports why.
    """
    spec = cast("Generator", generator)
    rate, count, names = spec.sample_rate, spec.in_channels, _names(generator)
    faults: dict[tuple[Path, ...], tuple[Path, str]] = {}
    for sources in recordings:
        formats = [found for found in map(format_of, sources) if found is not None]
        if len(formats) < len(sources):
            continue
        if fault := _wrong_channels(count, names, [own for own, _ in formats], channels, _SEPARATE):
            faults[sources] = (sources[fault[0]], fault[1])
        elif not resample and (others := [place for place, (_, own) in enumerate(formats) if own != rate]):
            faults[sources] = (sources[others[0]], other_rate(formats[others[0]][1], rate))
    return faults


def _names(generator: nn.Module) -> Sequence[str]:
    bundle = bundle_of(generator)
    return bundle.sensors if bundle else ()


def _wrong_channels(
    count: int, names: Sequence[str], counts: Sequence[int], wanted: Sequence[int] | None, separate: str
) -> tuple[int, str] | None:
    """Return which of the sources has a wrong number of channels, and what is wrong with it; None if all are right."""
    sensors = f" ({', '.join(names)})" if names else ""
    files = f"{len(counts)} files for a model of {count} sensors{sensors}"
    if len(counts) not in (1, count):
        raise AudioError(f"{files}: give one for each, or one for all")
    if wanted is not None and len(counts) != 1:
        raise AudioError(f"{files}: channels can be chosen of one file alone")
    plural = "s" if counts[0] > 1 else ""
    if wanted is not None:
        if len(wanted) != count:
            raise AudioError(f"{len(wanted)} channels for a model of {count} sensors{sensors}: give one for each")
        last = max(wanted) + 1
        return (0, f"has {counts[0]} channel{plural}, and no channel {last}") if last > counts[0] else None
    expected = count if len(counts) == 1 else 1
    wrong = next((place for place, own in enumerate(counts) if own != expected), None)
    if wrong is None:
        return None
    plural = "s" if counts[wrong] > 1 else ""
    takes = f"{expected} in one file{sensors}" if len(counts) == 1 else "a mono file for each sensor"
    each = f", or {separate}" if len(counts) == 1 and count > 1 else ""
    chosen = ", or --channels NAME=N,... to choose" if len(counts) == 1 and counts[wrong] > count else ""
    return wrong, f"has {counts[wrong]} channel{plural}, the model takes {takes}{each}{chosen}"
