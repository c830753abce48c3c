"""One recording: whether it can be restored, and how it is, with its progress."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing
from pathlib import Path
from typing import TYPE_CHECKING

from bcfusion import audio
from bcfusion.audio.formats import FOREIGN
from bcfusion.errors import AudioError, BcfusionError, first_line
from bcfusion.inference.containers import output_format
from bcfusion.inference.inputs import Signal, opened_signal
from bcfusion.serving.models import ServedModel
from bcfusion.serving.uploads import Refused

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["Cancelled", "check_recording", "restore"]

RATES = (1_000, 768_000)  # Hz: others are no sound, and resampling them costs memory
BLOCK_SECONDS = 10.0  #: computed at once, as by bcfusion enhance
INPUTS = 0.1  # of the progress: reading and writing the sensors


class Cancelled(Exception):
    """A job that nobody wants any more."""


def check_recording(model: ServedModel, files: Sequence[tuple[str, Path]], max_seconds: float) -> float:
    """Return the length of a recording in seconds, by its headers.

    Args:
        model: that is to restore it.
        files: name as it was sent, and place, of each file.
        max_seconds: that it may have.

    Raises:
        Refused: it cannot be read, is too long, or has other channels than the model has sensors.
    """
    sensors = model.sensors
    named = f"{len(sensors)} sensors ({', '.join(sensors)})" if len(sensors) > 1 else f"one sensor ({sensors[0]})"
    if len(files) not in (1, len(sensors)):
        raise Refused(422, f"{len(files)} files for a model of {named}: send one for each, or one for all")
    expected = 1 if len(files) > 1 else len(sensors)
    for name, path in files:
        try:
            header = audio.info(path)
        except AudioError as error:
            foreign = path.suffix in FOREIGN
            kind = f"{name} is {path.suffix[1:].upper()}, which this server does not read: convert it to WAV or FLAC"
            raise Refused(422, kind if foreign else _plain(error, files)) from error
        if not RATES[0] <= header.sample_rate <= RATES[1]:
            raise Refused(422, f"{name} is sampled at {header.sample_rate} Hz: convert it to a usual sample rate")
        if header.channels != expected:
            count = f"{header.channels} channel{'s' * (header.channels != 1)}"
            either = " in one file with a channel for each, or in a mono file for each" if len(sensors) > 1 else ""
            raise Refused(422, f"{name} has {count}, and the model takes {named}: send it{either or ' as a mono file'}")
        if header.duration > max_seconds:
            long = f"{name} is {header.duration:.0f} s long, and this server takes {max_seconds:g} s"
            raise Refused(413, f"{long}: send a shorter recording")
    try:
        with _opened(model, files) as signal:
            return signal.total / model.bundle.sample_rate
    except AudioError as error:
        raise Refused(422, _plain(error, files)) from error


def restore(
    model: ServedModel,
    generator: nn.Module,
    files: Sequence[tuple[str, Path]],
    folder: Path,
    progress: Callable[[float], None],
) -> None:
    """Write ``output.wav`` and, for each sensor, ``input-N.wav`` to a folder, all at the model's rate.

    Args:
        model: that restores it.
        generator: the network of the model, mixed with its input as far as that is wanted.
        files: name as it was sent, and place, of each file.
        folder: where to.
        progress: is told how much is done, 0 to 1; what it raises ends the work.

    Raises:
        BcfusionError: a file is damaged, or the disk takes no more; the message has no path of the server.
    """
    from bcfusion.inference.chunks import enhanced_chunks
    from bcfusion.inference.enhance import Manner, written
    from bcfusion.inference.writing import write_blocks
    from bcfusion.probe import evaluating

    how = output_format("WAV", "PCM_16")
    try:
        for number in range(len(model.sensors)):
            with _opened(model, files) as signal:
                blocks = _sensor(signal, number, model.bundle.sample_rate, progress, number / len(model.sensors))
                write_blocks(
                    blocks, folder / f"input-{number}.wav", model.bundle.sample_rate, signal.total, how, "clip"
                )
        manner = Manner(BLOCK_SECONDS, container="WAV", subtype="PCM_16")
        with _opened(model, files) as signal, evaluating(generator):
            blocks = enhanced_chunks(generator, signal.read, signal.total, manner.chunk_seconds)
            with closing(blocks):
                counted = _counted(_finite(blocks), signal.total, progress)
                written(generator, signal, counted, folder / "output.wav", manner)
    except BcfusionError as error:
        raise BcfusionError(_plain(error, files)) from error


def _opened(model: ServedModel, files: Sequence[tuple[str, Path]]) -> AbstractContextManager[Signal]:
    sensors = model.sensors
    return opened_signal([path for _, path in files], model.bundle.sample_rate, len(sensors), sensors)


def _sensor(
    signal: Signal, number: int, rate: int, progress: Callable[[float], None], before: float
) -> Iterator[Tensor]:
    block = round(BLOCK_SECONDS * rate)
    for start in range(0, signal.total, block):
        progress(INPUTS * (before + start / signal.total / len(signal.recordings)))
        yield signal.read(start, min(start + block, signal.total))[number : number + 1]


def _counted(blocks: Iterator[Tensor], total: int, progress: Callable[[float], None]) -> Iterator[Tensor]:
    done = 0
    progress(INPUTS)
    for block in blocks:
        done += block.shape[1]
        progress(INPUTS + (1 - INPUTS) * done / total)
        yield block


def _finite(blocks: Iterator[Tensor]) -> Iterator[Tensor]:
    for block in blocks:
        if not block.isfinite().all():
            raise BcfusionError("the model gives no finite samples for this recording: choose another model")
        yield block


def _plain(error: Exception, files: Sequence[tuple[str, Path]]) -> str:
    """Return a message with the names that the client gave in place of the server's paths."""
    text = first_line(error)
    for name, path in sorted(files, key=lambda file: -len(str(file[1]))):
        text = text.replace(str(path), name)
    return text.replace(f"{files[0][1].parent}/", "")
