"""Sound cards, by PortAudio: which there are, at which rate they work, and streams that survive what they do."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bcfusion.errors import DeviceError

if TYPE_CHECKING:  # a list of devices needs no torch
    from bcfusion.inference.stepping import Frames
    from bcfusion.live.engine import Engine

__all__ = ["Capture", "Card", "SoundCard", "common_rate", "device_lines", "find_card", "library"]

COMMON_RATES = (48000, 44100, 96000, 32000, 16000)  #: Hz, tried after the rates that are known
LIST = "bcfusion stream --list-devices"
_BAD_COMBINATION = -9993  # PortAudio's paBadIODeviceCombination


@dataclass(frozen=True)
class Card:
    """A sound device, as a source or as a sink.

    Attributes:
        index: PortAudio's number.
        name: its name.
        host: of the host interface, such as ALSA.
        channels: number of its channels in the direction that is used.
        rate: its own sample rate, in Hz.
        kind: ``input`` or ``output``.
    """

    index: int
    name: str
    host: str
    channels: int
    rate: int
    kind: str

    def __str__(self) -> str:
        return f"{self.kind} device {self.index} ({self.name}, {self.host})"


def library(instead: str = "") -> Any:
    """Return the module ``sounddevice``.

    Args:
        instead: what the user can do without a sound card, for the message; empty if there is nothing.

    Raises:
        DeviceError: it is not installed, or it does not find PortAudio.
    """
    try:
        import sounddevice
    except ImportError as error:
        raise DeviceError(
            _or("sound cards need the package sounddevice\npip install 'bcfusion[live]'", instead)
        ) from error
    except OSError as error:
        raise DeviceError(
            _or("sounddevice does not find the library PortAudio\napt-get install libportaudio2", instead)
        ) from error
    return sounddevice


def device_lines(instead: str = "") -> Iterator[str]:
    """Yield a table of the sound devices: number, name, host interface, channels in and out, sample rate.

    Args:
        instead: as for :func:`library`.

    Raises:
        DeviceError: there is none.
    """
    sound = library(instead)
    devices, hosts = list(sound.query_devices()), sound.query_hostapis()
    if not devices:
        raise DeviceError(_none(hosts, instead))
    default = [_default(sound, kind) for kind in ("input", "output")]
    yield f"  {'':>3} {'in':>3} {'out':>3} {'Hz':>6}  device"
    for device in devices:
        mark = "".join(
            letter if device["index"] == number else " " for letter, number in zip("<>", default, strict=True)
        )
        yield (
            f"{mark}{device['index']:>3} {device['max_input_channels']:>3} {device['max_output_channels']:>3} "
            f"{device['default_samplerate']:>6.0f}  {device['name']}, {hosts[device['hostapi']]['name']}"
        )
    yield "< default input, > default output; give a number or a part of the name as --input-device, --output-device"


def find_card(given: str | None, kind: str, channels: int, instead: str = "") -> Card:
    """Return the sound device that is meant.

    Args:
        given: its number, or a part of its name that no other device has; None: the system's default.
        kind: ``input`` or ``output``.
        channels: number of channels that are needed.
        instead: as for :func:`library`.

    Raises:
        DeviceError: there is no such device, or it has too few channels.
    """
    sound = library(instead)
    hosts = sound.query_hostapis()
    if not list(sound.query_devices()):
        raise DeviceError(_none(hosts, instead))
    typed = f"--{kind}-device {given}" if given is not None else f"the default {kind} device"
    try:
        found = sound.query_devices(int(given) if given is not None and given.isdecimal() else given, kind)
    except (ValueError, sound.PortAudioError) as error:
        raise DeviceError(f"{typed}: {_one_line(error)}\n{LIST} shows what there is") from error
    card = Card(
        index=int(found["index"]),
        name=str(found["name"]),
        host=str(hosts[found["hostapi"]]["name"]),
        channels=int(found[f"max_{kind}_channels"]),
        rate=round(found["default_samplerate"]),
        kind=kind,
    )
    if card.channels < channels:
        raise DeviceError(
            f"{card} has {card.channels} channel{'s' * (card.channels != 1)}, channel {channels} is needed\n"
            f"choose another device or other --channels; {LIST} shows what there is"
        )
    return card


def common_rate(wanted: int, source: Card, inputs: int, sink: Card | None = None, outputs: int = 1) -> int:
    """Return the sample rate at which the devices are opened: the wanted one if they take it, else one that they take.

    Args:
        wanted: in Hz.
        source: the device that is recorded.
        inputs: channels of it that are opened.
        sink: the device that is played to; None: none.
        outputs: channels of it that are opened.

    Raises:
        DeviceError: the devices have no rate in common, or one of them cannot be opened at all.
    """
    sound = library()
    reasons: dict[int, str] = {}
    own = [source.rate] if sink is None else [source.rate, sink.rate]
    for rate in dict.fromkeys((wanted, *own, *COMMON_RATES)):
        try:
            sound.check_input_settings(source.index, inputs, "float32", samplerate=rate)
            if sink is not None:
                sound.check_output_settings(sink.index, outputs, "float32", samplerate=rate)
        except (ValueError, sound.PortAudioError) as error:
            reasons[rate] = _one_line(error)
            continue
        return rate
    both = str(source) if sink is None else f"{source} and {sink}"
    raise DeviceError(
        f"{both} cannot be opened at {', '.join(map(str, reasons))} Hz: {next(iter(reasons.values()))}\n"
        "end other programs that use them, or choose others"
    )


class _Streams:
    """One or two streams of PortAudio that are started and stopped together, and whether they still run."""

    def __init__(self) -> None:
        self._sound = library()
        self._open = ExitStack()
        self._streams: list[Any] = []
        self._ended = threading.Event()

    def _start(self, streams: Sequence[Any]) -> None:
        for stream in streams:
            self._streams.append(stream)
            self._open.callback(self._stop, stream)
        for stream in streams:
            stream.start()

    def _stop(self, stream: Any) -> None:
        with suppress(self._sound.PortAudioError):  # a device that is gone cannot be stopped
            stream.abort()
        with suppress(self._sound.PortAudioError):
            stream.close()

    def stop(self) -> None:
        """Stop and close the devices; it may be called again."""
        self._open.close()

    def alive(self) -> bool:
        """Return whether the devices still work, as far as PortAudio knows."""
        return not self._ended.is_set() and all(stream.active for stream in self._streams)


class SoundCard(_Streams):
    """A sound card that gives its input to an engine and plays what it gets from it. Use it as a context manager.

    Args:
        engine: at the rate at which the devices are opened.
        source: the device that is recorded.
        sink: the device that is played to.
        latency: ``low`` or ``high``, as PortAudio understands it.

    Attributes:
        latency: of both devices together, as they state it, in seconds.
        calls: of the callback, so that somebody else can see whether it is still called.

    Raises:
        DeviceError: a device cannot be opened.
    """

    def __init__(self, engine: Engine, source: Card, sink: Card, latency: str = "low") -> None:
        super().__init__()
        self.engine, self.source, self.sink = engine, source, sink
        self.latency, self.calls = 0.0, 0
        self._wanted = latency
        self._inputs, self._outputs = max(engine.columns) + 1, min(2, sink.channels)

    def __enter__(self) -> SoundCard:
        try:
            self._start(self._opened())
        except (ValueError, self._sound.PortAudioError) as error:
            self.stop()
            raise DeviceError(
                f"{self.source} and {self.sink} cannot be opened at {self.engine.rate} Hz: {_one_line(error)}\n"
                "end other programs that use them, or choose others"
            ) from error
        delays = [stream.latency for stream in self._streams]
        self.latency = sum(sum(delay) if isinstance(delay, tuple) else delay for delay in delays)
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    def _opened(self) -> list[Any]:
        common = {
            "samplerate": self.engine.rate,
            "blocksize": self.engine.block,
            "dtype": "float32",
            "latency": self._wanted,
            "finished_callback": self._ended.set,
        }
        ends = self.source.index, self.sink.index
        counts = self._inputs, self._outputs
        try:
            return [self._sound.Stream(device=ends, channels=counts, callback=self._both, **common)]
        except self._sound.PortAudioError as error:
            if len(error.args) < 2 or error.args[1] != _BAD_COMBINATION:
                raise
        # of different host interfaces: two streams, whose clocks may drift apart
        source = self._sound.InputStream(device=ends[0], channels=counts[0], callback=self._heard, **common)
        sink = self._sound.OutputStream(device=ends[1], channels=counts[1], callback=self._played, **common)
        return [source, sink]

    def _both(self, heard: Frames, played: Frames, frames: int, moment: Any, status: Any) -> None:
        self._played(played, frames, moment, status)
        self._heard(heard, frames, moment, status)

    def _heard(self, heard: Frames, frames: int, moment: Any, status: Any) -> None:
        self.calls += 1
        if status and status.input_overflow:
            self.engine.statistics.device_overruns += 1
        self.engine.hear(heard)

    def _played(self, played: Frames, frames: int, moment: Any, status: Any) -> None:
        if status and status.output_underflow:
            self.engine.statistics.device_underruns += 1
        self.engine.play(played)


class _Take:
    """What was recorded from one ``begin`` to its ``end``.

    Each has memory of its own: a callback that is still at work when it ends cannot revive it, or put old samples into
    the next.
    """

    def __init__(self, channels: int, samples: int) -> None:
        self.data = np.zeros((channels, samples), dtype=np.float32)
        self.count = self.overruns = 0


class Capture(_Streams):
    """A sound card that is only recorded, in takes. Use it as a context manager.

    Args:
        source: the device.
        rate: in Hz.
        columns: channels, from 0, that are kept.
        longest: seconds of a take at most.

    Raises:
        DeviceError: the device cannot be opened.
    """

    def __init__(self, source: Card, rate: int, columns: Sequence[int], longest: float) -> None:
        super().__init__()
        self.source, self.rate, self.columns = source, rate, tuple(columns)
        self._samples = round(longest * rate)
        self._take: _Take | None = None  # the one that goes on
        self._last = _Take(len(self.columns), 0)

    def __enter__(self) -> Capture:
        try:
            stream = self._sound.InputStream(
                device=self.source.index,
                channels=max(self.columns) + 1,
                samplerate=self.rate,
                dtype="float32",
                latency="high",  # nobody waits for it
                callback=self._heard,
                finished_callback=self._ended.set,
            )
            self._start([stream])
        except (ValueError, self._sound.PortAudioError) as error:
            self.stop()
            raise DeviceError(
                f"{self.source} cannot be opened at {self.rate} Hz: {_one_line(error)}\n"
                "end other programs that use it, or choose another --input-device"
            ) from error
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    def begin(self) -> None:
        """Begin a take.

        Raises:
            DeviceError: the device does not work any more.
        """
        self._require_alive()
        self._take = self._last = _Take(len(self.columns), self._samples)

    def end(self) -> np.ndarray:
        """End the take and return it, ``(channels, T)``; T is 0 if the device has delivered nothing.

        Raises:
            DeviceError: the device has stopped.
        """
        self._require_alive()
        self._take = None
        return self._last.data[:, : self._last.count].copy()

    @property
    def overruns(self) -> int:
        """Times at which the sound card has lost samples during the last take."""
        return self._last.overruns

    def _require_alive(self) -> None:
        if not self.alive():
            raise DeviceError(gone(str(self.source)))

    def _heard(self, heard: Frames, frames: int, moment: Any, status: Any) -> None:
        take = self._take
        if take is None:
            return
        begin = take.count
        end = min(begin + len(heard), take.data.shape[1])
        for place, column in enumerate(self.columns):
            take.data[place, begin:end] = heard[: end - begin, column]
        if end > begin:
            take.count = end
            take.overruns += bool(status and status.input_overflow)


def gone(device: str) -> str:
    """Return the message about a device that has stopped by itself."""
    return f"{device} has stopped: was it unplugged?\nconnect it and give the command again; {LIST} shows what there is"


def _default(sound: Any, kind: str) -> int:
    try:
        return int(sound.query_devices(kind=kind)["index"])
    except (ValueError, sound.PortAudioError):
        return -1  # the system names none


def _none(hosts: Sequence[Any], instead: str) -> str:
    names = ", ".join(host["name"] for host in hosts) or "none"
    return _or(
        f"PortAudio finds no sound device (host interfaces: {names})\nconnect one, or check that this user may use it",
        instead,
    )


def _or(message: str, instead: str) -> str:
    return f"{message}; {instead}" if instead else message


def _one_line(error: BaseException) -> str:
    return " ".join(str(error.args[0] if error.args else error).split())
