from __future__ import annotations

import builtins
import gc
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from fake_sounddevice import FakeSound, PortAudioError, Status
from test_live_engine import Broken, Late, settled

from bcfusion.errors import DeviceError
from bcfusion.live.device import Capture, SoundCard, common_rate, device_lines, find_card, library
from bcfusion.live.engine import Engine
from bcfusion.live.streaming import run_stream, undisturbed, until_stopped
from bcfusion.live.tape import Tape

RATE = 16000
FRAME = 160


@pytest.fixture
def sound(monkeypatch: pytest.MonkeyPatch) -> FakeSound:
    fake = FakeSound(("Built-in", 2, 2, 48000), ("Throat", 1, 0, 16000), ("Headphones", 0, 2, 44100))
    monkeypatch.setitem(sys.modules, "sounddevice", fake)
    return fake


def message(function: Any, *arguments: Any) -> str:
    with pytest.raises(DeviceError) as caught:
        function(*arguments)
    return str(caught.value)


def card(engine: Engine, output: str = "Headphones") -> SoundCard:
    return SoundCard(engine, find_card("Built-in", "input", 2), find_card(output, "output", 1))


def test_devices_are_listed(sound: FakeSound) -> None:
    lines = list(device_lines())
    assert lines[1] == "<>  0   2   2  48000  Built-in, Fake"
    assert lines[3] == "    2   0   2  44100  Headphones, Fake"
    sound.default_input, sound.default_output = 1, 1  # the system's output is none
    assert [line[:2] for line in device_lines()][1:4] == ["  ", "< ", "  "]


@pytest.mark.parametrize("given", ["Throat", "throat", "1"])
def test_a_device_has_a_name_and_a_number(sound: FakeSound, given: str) -> None:
    found = find_card(given, "input", 1)
    assert (found.index, found.rate, found.channels) == (1, 16000, 1)


def test_a_device_that_does_not_fit_is_named_with_what_to_do(sound: FakeSound) -> None:
    assert "--input-device Nose: No input device matching 'Nose'" in message(find_card, "Nose", "input", 1)
    assert "--output-device 7: Error querying device 7" in message(find_card, "7", "output", 1)
    few = message(find_card, "1", "input", 2)
    assert "input device 1 (Throat, Fake) has 1 channel, channel 2 is needed" in few
    assert "bcfusion stream --list-devices" in few
    assert "the default input device: Not an input device" in _with_default(sound, 2)


def _with_default(sound: FakeSound, index: int) -> str:
    sound.default_input = index
    return message(find_card, None, "input", 1)


def test_no_device_at_all_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sounddevice", FakeSound())
    assert message(find_card, None, "input", 1) == (
        "PortAudio finds no sound device (host interfaces: Fake)\nconnect one, or check that this user may use it"
    )
    assert message(list, device_lines("give a file")).endswith("this user may use it; give a file")
    assert message(find_card, None, "input", 1, "give a file").endswith("this user may use it; give a file")


@pytest.mark.parametrize(("error", "says"), [(ImportError, "'bcfusion[live]'"), (OSError, "libportaudio2")])
def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, error: type[Exception], says: str) -> None:
    genuine = builtins.__import__

    def importing(name: str, *arguments: Any, **options: Any) -> Any:
        if name == "sounddevice":
            raise error("planted")
        return genuine(name, *arguments, **options)

    monkeypatch.delitem(sys.modules, "sounddevice", raising=False)
    monkeypatch.setattr(builtins, "__import__", importing)
    assert says in message(library)
    assert "--file" not in message(library)
    assert message(library, "give a file").endswith("; give a file")


def test_the_rate_of_the_network_is_tried_first(sound: FakeSound) -> None:
    ends = (find_card("0", "input", 2), 2, find_card("2", "output", 1), 2)
    assert common_rate(16000, *ends) == 16000
    sound.rates = (44100, 96000)
    assert common_rate(16000, *ends) == 44100  # the output's own
    assert common_rate(48000, *ends[:2]) == 44100
    sound.rates = ()
    assert "cannot be opened at 16000, 48000, 44100, 96000, 32000 Hz: Invalid sample rate" in message(
        common_rate, 16000, *ends
    )


def test_a_sound_card_gives_its_channels_to_the_network_and_plays_on_all(sound: FakeSound) -> None:
    with Engine(Late(frame=FRAME), buffers=1, columns=[1]) as engine, card(engine) as opened:
        [stream] = sound.streams
        assert (stream.settings.samplerate, stream.settings.blocksize) == (RATE, FRAME)
        assert (stream.settings.device, stream.settings.channels) == ((0, 2), (2, 2))
        assert opened.latency == pytest.approx(0.03)
        heard = np.stack([np.zeros(FRAME), np.linspace(0, 0.4, FRAME)], axis=1).astype(np.float32)
        assert not stream.call(heard).any()
        settled(engine, 1)
        played = stream.call(heard, Status(input_overflow=True))
        np.testing.assert_array_equal(played, 2 * heard[:, [1, 1]])
        settled(engine, 2)
        stream.call(heard, Status(output_underflow=True))
        state = engine.snapshot()
        assert (state.device_overruns, state.device_underruns, opened.calls) == (1, 1, 3)
        assert opened.alive()
    assert stream.closed
    assert not stream.active


@pytest.mark.parametrize("columns", [(0,), (1,), (0, 1)])
def test_devices_that_do_not_go_together_get_a_stream_each(
    sound: FakeSound, tmp_path: Path, columns: tuple[int, ...]
) -> None:
    sound.refuses["Stream"] = PortAudioError("Illegal combination of I/O devices", -9993)
    block = np.tile(np.array([0.1, 0.3], np.float32), (FRAME, 1))
    stepper = Late(frame=FRAME, sensors=len(columns))
    with (
        Tape(tmp_path, RATE, columns) as tape,
        Engine(stepper, buffers=1, columns=columns, tape=tape) as engine,
        card(engine) as opened,
    ):
        source, sink = sound.streams
        assert (source.kind, sink.kind) == ("InputStream", "OutputStream")
        assert (source.settings.channels, sink.settings.channels) == (max(columns) + 1, 2)
        assert opened.latency == pytest.approx(0.03)
        heard = np.ascontiguousarray(block[:, : source.settings.channels])
        assert not sink.call(block).any()
        source.call(heard, Status(input_overflow=True))
        settled(engine, 1)
        played = sink.call(block, Status(input_overflow=True, output_underflow=True))
        assert (played == 2 * block[0, columns[-1]]).all()
        state = engine.snapshot()
        assert (state.underruns, state.overruns, state.device_underruns, state.device_overruns) == (0, 0, 1, 1)
        sink.vanish()
        assert not opened.alive()
    assert source.closed
    assert sink.closed
    heard_file, played_file = tape.paths
    np.testing.assert_allclose(soundfile.read(heard_file, always_2d=True)[0], block[:, columns], atol=2**-23)
    np.testing.assert_allclose(soundfile.read(played_file)[0][FRAME:], played[:, 0], atol=2**-23)


def test_hearing_and_playing_change_nothing_of_each_other() -> None:
    engine = Engine(Late(frame=FRAME), buffers=1)  # its thread does not run

    def changed(call: Callable[[Any], Any], blocks: int) -> set[str]:
        owned = {"statistics": engine.statistics, "heard": engine._heard, "ready": engine._ready}

        def values() -> dict[str, Any]:
            return {
                f"{name}.{key}": value
                for name, each in owned.items()
                for key, value in vars(each).items()
                if isinstance(value, int | float)
            }

        before = values()
        for _ in range(blocks):
            call(np.zeros((FRAME, 1), np.float32))
        return {key for key, value in values().items() if value != before[key]}

    assert changed(engine.hear, 60) == {"heard.written", "statistics.full", "statistics.full_samples"}
    assert changed(engine.play, 2) == {"ready.taken", "statistics.underruns", "statistics.underrun_samples"}


def test_a_device_that_is_busy_is_reported_and_nothing_stays_open(sound: FakeSound) -> None:
    sound.refuses["Stream"] = PortAudioError("Device unavailable", -9985)
    with Engine(Late(frame=FRAME), columns=[0]) as engine:
        said = message(card(engine).__enter__)
    assert "input device 0 (Built-in, Fake) and output device 2 (Headphones, Fake) cannot be opened" in said
    assert "Device unavailable\nend other programs that use them" in said
    sound.refuses = {
        "Stream": PortAudioError("Illegal combination", -9993),
        "OutputStream": PortAudioError("Device unavailable", -9985),
    }
    with Engine(Late(frame=FRAME), columns=[0]) as engine:
        assert "Device unavailable" in message(card(engine).__enter__)


class Quiet:
    """A port that is there and never calls, until it is gone."""

    def __init__(self, alive: bool = True) -> None:
        self.calls, self.there = 0, alive

    def alive(self) -> bool:
        return self.there


def moments(step: float) -> Iterator[float]:
    value = 0.0
    while True:
        yield value
        value += step


def test_a_stream_ends_when_the_device_is_gone_or_delivers_nothing() -> None:
    stop, clock = threading.Event(), moments(1.0)
    with Engine(Late(frame=FRAME)) as engine:
        for port, says in ((Quiet(alive=False), "has stopped: was it unplugged?"), (Quiet(), "nothing for 3 s")):
            said = message(run_stream, engine, port, stop, lambda: None, None, lambda: next(clock))
            assert says in said
            assert "bcfusion stream --list-devices" in said
        stop.set()
        run_stream(engine, Quiet(alive=False), stop, lambda: None)


@pytest.mark.parametrize("seconds", [None, 0.0])
def test_an_error_of_the_network_in_the_last_moment_is_raised(seconds: float | None) -> None:
    stop = threading.Event()

    class Failing(Quiet):
        def alive(self) -> bool:  # asked after the engine
            engine.hear(np.ones((FRAME, 1), np.float32))
            assert engine._thread is not None
            engine._thread.join()
            stop.set()
            return True

    with Engine(Broken(frame=FRAME)) as engine, pytest.raises(RuntimeError, match="planted"):
        run_stream(engine, Failing(), stop, lambda: None, seconds)


def test_a_stream_is_not_disturbed_and_leaves_all_as_it_was() -> None:
    before = sys.getswitchinterval(), gc.get_freeze_count()

    def fail() -> None:
        with undisturbed():
            assert sys.getswitchinterval() < before[0]
            assert gc.get_freeze_count() > before[1]
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert (sys.getswitchinterval(), gc.get_freeze_count()) == before


def test_a_second_interrupt_is_not_asked_twice() -> None:
    before = signal.getsignal(signal.SIGINT)

    def interrupted() -> None:
        with until_stopped() as stop:
            signal.raise_signal(signal.SIGINT)
            assert stop.is_set()
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert signal.getsignal(signal.SIGINT) is before
    found = []

    def elsewhere() -> None:
        with until_stopped() as stop:
            found.append(stop.is_set())

    thread = threading.Thread(target=elsewhere)  # signals belong to the main thread
    thread.start()
    thread.join()
    assert found == [False]


class Meanwhile:
    """A block of a sound card; something else is done while it is copied."""

    def __init__(self, block: np.ndarray, act: Callable[[], Any]) -> None:
        self.block, self.act = block, act

    def __len__(self) -> int:
        return len(self.block)

    def __getitem__(self, key: Any) -> np.ndarray:
        self.act()
        return self.block[key]


def test_a_callback_that_is_late_touches_neither_the_take_that_ended_nor_the_next(sound: FakeSound) -> None:
    old, new = np.full((100, 1), 0.5, np.float32), np.full((100, 1), 0.1, np.float32)
    with Capture(find_card("0", "input", 1), RATE, [0], longest=1.0) as capture:
        [stream] = sound.streams
        takes: list[np.ndarray] = []

        def call(block: Any) -> None:
            stream.settings.callback(block, len(block), None, Status(input_overflow=True))

        def renew() -> None:
            takes.append(capture.end())
            capture.begin()

        capture.begin()
        call(old)
        call(Meanwhile(old, lambda: takes.append(capture.end())))
        call(old)
        assert [take.shape[1] for take in takes] == [100]
        assert capture.end().shape[1] in (100, 200), "the callback had begun before the end"
        capture.begin()
        call(Meanwhile(old, renew))
        call(new)
        take = capture.end()
        assert take.shape == (1, 100)
        assert (take == np.float32(0.1)).all()
        assert capture.overruns == 1


def test_a_capture_keeps_what_is_heard_between_begin_and_end(sound: FakeSound) -> None:
    with Capture(find_card("0", "input", 2), RATE, [1, 0], longest=1.0) as capture:
        [stream] = sound.streams
        block = np.stack([np.full(6000, 0.1), np.full(6000, 0.2)], axis=1).astype(np.float32)
        stream.call(block)
        capture.begin()
        for _ in range(2):
            stream.call(block, Status(input_overflow=True))
        take = capture.end()
        stream.call(block)
        assert take.shape == (2, 12000)
        assert (take[0] == np.float32(0.2)).all()
        assert (take[1] == np.float32(0.1)).all()
        assert capture.overruns == 2
        capture.begin()
        for _ in range(4):
            stream.call(block)
        assert capture.end().shape == (2, RATE)  # no longer than it was said
        stream.vanish()
        assert "input device 0 (Built-in, Fake) has stopped" in message(capture.begin)
    assert stream.closed
    sound.refuses["InputStream"] = PortAudioError("Device unavailable", -9985)
    with pytest.raises(DeviceError, match="Device unavailable"), Capture(find_card("0", "input", 2), RATE, [0], 1.0):
        pass
