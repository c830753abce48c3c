"""A module in the place of ``sounddevice``: devices that a test describes, streams whose callbacks a test calls."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np


class PortAudioError(Exception):
    pass


class Status:
    def __init__(self, input_overflow: bool = False, output_underflow: bool = False) -> None:
        self.input_overflow, self.output_underflow = input_overflow, output_underflow

    def __bool__(self) -> bool:
        return self.input_overflow or self.output_underflow


class FakeSound:
    """The module. ``devices`` are (name, inputs, outputs, rate); ``rates`` are those that can be opened."""

    PortAudioError = PortAudioError

    def __init__(self, *devices: tuple[str, int, int, int], rates: tuple[int, ...] = (16000, 48000)) -> None:
        self.devices, self.rates = devices, rates
        self.default_input = self.default_output = 0
        self.streams: list[FakeStream] = []
        self.refuses: dict[str, PortAudioError] = {}
        self.on_start: Any = None

    def query_hostapis(self) -> list[dict[str, Any]]:
        return [{"name": "Fake"}]

    def _info(self, index: int) -> dict[str, Any]:
        name, inputs, outputs, rate = self.devices[index]
        return {
            "index": index,
            "name": name,
            "hostapi": 0,
            "max_input_channels": inputs,
            "max_output_channels": outputs,
            "default_samplerate": float(rate),
        }

    def query_devices(self, device: Any = None, kind: str | None = None) -> Any:
        infos = [self._info(index) for index in range(len(self.devices))]
        if device is None and kind is None:
            return infos
        if device is None:
            device = self.default_input if kind == "input" else self.default_output
        found = [info for info in infos if device == info["index"] or str(device).lower() in info["name"].lower()]
        if isinstance(device, int) and device >= len(infos):
            raise PortAudioError(f"Error querying device {device}")
        if not found:
            raise ValueError(f"No {kind} device matching {device!r}")
        if not found[0][f"max_{kind}_channels"]:
            raise ValueError(f"Not an {kind} device: {found[0]['name']!r}")
        return found[0]

    def _check(self, samplerate: float) -> None:
        if samplerate not in self.rates:
            raise PortAudioError("Invalid sample rate", -9997)

    def check_input_settings(self, device: int, channels: int, dtype: str, samplerate: float) -> None:
        self._check(samplerate)

    def check_output_settings(self, device: int, channels: int, dtype: str, samplerate: float) -> None:
        self._check(samplerate)

    def _open(self, kind: str, **settings: Any) -> FakeStream:
        if kind in self.refuses:
            raise self.refuses[kind]
        self.streams.append(FakeStream(self, kind, SimpleNamespace(**settings)))
        return self.streams[-1]

    def Stream(self, **settings: Any) -> FakeStream:
        return self._open("Stream", **settings)

    def InputStream(self, **settings: Any) -> FakeStream:
        return self._open("InputStream", **settings)

    def OutputStream(self, **settings: Any) -> FakeStream:
        return self._open("OutputStream", **settings)


class FakeStream:
    def __init__(self, sound: FakeSound, kind: str, settings: SimpleNamespace) -> None:
        self.sound, self.kind, self.settings = sound, kind, settings
        self.latency: Any = (0.01, 0.02) if kind == "Stream" else 0.015
        self.active = self.closed = False

    def start(self) -> None:
        self.active = True
        if self.sound.on_start is not None:
            self.sound.on_start(self)

    def abort(self) -> None:
        self.active = False

    def close(self) -> None:
        self.closed = True

    def vanish(self) -> None:
        """Stop as a device does that is unplugged."""
        self.active = False
        self.settings.finished_callback()

    def call(self, heard: np.ndarray, status: Status | None = None) -> np.ndarray:
        """Call the callback as PortAudio does, with ``heard (n, C)`` or silence; return what it gave."""
        status = status or Status()
        channels = self.settings.channels
        if self.kind == "Stream":
            played = np.full((len(heard), channels[1]), np.nan, np.float32)
            self.settings.callback(heard, played, len(heard), None, status)
            return played
        if self.kind == "InputStream":
            self.settings.callback(heard, len(heard), None, status)
            return heard
        played = np.full((len(heard), channels), np.nan, np.float32)
        self.settings.callback(played, len(heard), None, status)
        return played
