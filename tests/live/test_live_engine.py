from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from bcfusion.generators.seanet import SEANet
from bcfusion.inference.stepping import Frames, TorchStepper, stream_signal
from bcfusion.live.clock import paced, unpaced
from bcfusion.live.engine import Engine
from bcfusion.live.rates import least_reserve
from bcfusion.live.ring import Ring
from bcfusion.live.tape import GrowingWave, Tape

RATE = 16000


HANGS = 300.0  # seconds; only a thread that will never go on takes so long


class Clock:
    """Time that a test moves on, and work that takes some of it. Nothing depends on how fast the machine is."""

    def __init__(self) -> None:
        self.now = 0.0
        self._due = math.inf  # when the work that is being done ends
        self._moved = threading.Condition()

    def __call__(self) -> float:
        return self.now

    def work(self, seconds: float) -> None:
        """Return once so much time has passed."""
        with self._moved:
            self._due = self.now + seconds
            self._moved.wait_for(lambda: self.now >= self._due, HANGS)
            self._due = math.inf

    def wait(self, engine: Engine, seconds: float) -> None:
        """Move the time on, and let the engine do all that it can do until then."""
        end = self.now + seconds
        while True:
            until(engine, lambda: self._is_working() or rests(engine))
            if self.now >= end:
                return
            with self._moved:
                self.now = min(end, self._due)
                self._moved.notify_all()

    def _is_working(self) -> bool:
        return self.now < self._due < math.inf


class Late:
    """The last sensor, doubled, late by a look-ahead; each step takes some time, and waits for a gate that is open."""

    def __init__(
        self, frame: int = 32, lookahead: int = 0, sensors: int = 1, seconds: float = 0.0, clock: Clock | None = None
    ) -> None:
        self.sample_rate, self.frame, self.lookahead, self.seconds = RATE, frame, lookahead, seconds
        self.clock, self.gate = clock, threading.Event()
        self.gate.set()
        self.sensors = tuple(f"sensor{number}" for number in range(sensors))
        self.resets = 0
        self.reset()

    def reset(self) -> None:
        self.resets += 1
        self._past = np.zeros(self.lookahead, np.float32)

    def step(self, chunk: Frames) -> Frames:
        assert chunk.shape == (len(self.sensors), self.frame)
        assert chunk.flags.c_contiguous
        self.gate.wait()
        if self.clock is not None and threading.current_thread() is not threading.main_thread():
            self.clock.work(self.seconds)
        both = np.concatenate([self._past, 2 * chunk[-1]])
        self._past = both[self.frame :]
        return both[: self.frame]

    def close(self) -> None:
        pass


class Broken(Late):
    def step(self, chunk: Frames) -> Frames:
        if np.abs(chunk).max() > 0:
            raise RuntimeError("planted")
        return super().step(chunk)


class Unstable(Late):
    def step(self, chunk: Frames) -> Frames:
        output = super().step(chunk)
        output[np.abs(chunk[-1]) > 0.9] = np.inf
        return output


def noise(samples: int, sensors: int = 1) -> np.ndarray:
    return 0.1 * np.random.default_rng(0).standard_normal((sensors, samples)).astype(np.float32)


def until(engine: Engine | None, condition: Callable[[], bool]) -> None:
    """Wait for a condition, or for an error of the engine."""
    end = time.monotonic() + HANGS
    while not condition():
        if engine is not None:
            engine.check()
        assert time.monotonic() < end, "nothing happens any more"
        time.sleep(1e-4)


def rests(engine: Engine) -> bool:
    """Return whether an engine has computed all that it can."""
    # in this order: what is no longer held was taken after the thread has ceased to be idle
    return engine._heard.held < engine.block and engine.idle


def settled(engine: Engine, frames: int) -> None:
    """Wait until so many frames are computed, and nothing else can be."""
    until(engine, lambda: engine.statistics.frames >= frames and rests(engine))


def play(engine: Engine, signal: np.ndarray, block: int, columns: int = 1) -> np.ndarray:
    """Call an engine as a sound card does that waits for it; return all that was played on the first channel."""
    outputs = []
    for start in range(0, signal.shape[1], block):
        heard = np.ascontiguousarray(signal[:, start : start + block].T)
        played = np.full((len(heard), columns), np.nan, np.float32)
        engine.exchange(heard, played)
        assert np.isfinite(played).all()
        outputs.append(played[:, 0])
        settled(engine, (start + len(heard)) // engine.stepper.frame)
    return np.concatenate(outputs)


def test_a_ring_keeps_the_order_and_its_size() -> None:
    ring, rng = Ring(7, 2), np.random.default_rng(0)
    sent, got = [], []
    value = 0
    for _ in range(200):
        block = np.arange(value, value + rng.integers(0, 6), dtype=np.float32)[:, None].repeat(3, 1)
        count = ring.write(block, (2, 0))
        sent += list(block[:count, 0])
        value += count
        into = np.zeros((rng.integers(0, 6), 2), np.float32)
        assert ring.held <= 7
        got += list(into[: ring.read(into), 1])
    assert len(got) > 100
    assert got == sent[: len(got)]
    held = ring.held
    assert ring.skip(100) == held
    assert ring.room == 7


@pytest.mark.parametrize("block", [1600, 800, 320])
def test_an_engine_plays_what_the_whole_signal_gives(block: int) -> None:
    torch.manual_seed(0)
    network = SEANet(channels=2, strides=[2, 4], dilations=[1], bottleneck_channels=4, causal=True, in_channels=2)
    stepper = TorchStepper(network.eval(), 160)
    signal = noise(3200, 2)
    with Engine(stepper, buffers=11) as engine:
        played = play(engine, np.pad(signal, ((0, 0), (0, 3200))), block, columns=2)
        state = engine.snapshot()
    assert engine.reserve == 11 * 160
    expected = stream_signal(stepper, signal)
    late = engine.reserve + stepper.lookahead
    np.testing.assert_allclose(played[late : late + 3200], expected, atol=1e-6)
    assert not played[:late].any()
    assert (state.underruns, state.overruns, state.frames) == (0, 0, 40)
    stepper.close()


def test_the_latency_has_its_parts() -> None:
    stepper = Late(frame=320, lookahead=160)
    latency = Engine(stepper, buffers=3).latency(device=0.005)
    assert latency.algorithmic == pytest.approx(0.030)
    assert (latency.rate, latency.queue) == (0, pytest.approx(0.040))
    assert latency.total == pytest.approx(0.075)
    resampled = Engine(stepper, 48000, buffers=1).latency()
    assert 0.015 < resampled.rate < 0.08
    assert resampled.queue == 0


@pytest.mark.parametrize("device_rate", [48000, 44100])
def test_a_device_of_another_rate_hears_the_same(device_rate: int) -> None:
    stepper = Late(frame=256)
    moments = np.arange(device_rate) / device_rate
    tone = (0.25 * np.sin(2 * np.pi * 440 * moments)).astype(np.float32)[None]
    with Engine(stepper, device_rate, buffers=1) as engine:
        outputs = []
        for start in range(0, device_rate, engine.block):
            heard = np.ascontiguousarray(tone[:, start : start + engine.block].T)
            played = np.zeros((len(heard), 1), np.float32)
            engine.exchange(heard, played)
            outputs.append(played[:, 0])
            settled(engine, 0)
        state = engine.snapshot()
    played = np.concatenate(outputs)
    assert (state.underruns, state.overruns) == (0, 0)
    middle = played[-device_rate // 2 :]
    spectrum = np.abs(np.fft.rfft(middle * np.hanning(len(middle))))
    assert np.argmax(spectrum) * device_rate / len(middle) == pytest.approx(440, abs=2)
    assert np.abs(middle).max() == pytest.approx(0.5, rel=0.01)
    delay = engine.reserve + engine.latency().algorithmic
    begins = np.flatnonzero(np.abs(played) > 0.05)[0]
    assert abs(begins - delay) < 0.005 * device_rate


def test_the_reserve_is_what_a_device_needs_and_no_more() -> None:
    assert least_reserve(256, 16000, 16000, 256) == 256
    for rate, block in ((48000, 768), (44100, 706)):
        reserve = least_reserve(256, 16000, rate, block)
        assert block < reserve < 6 * block
    assert least_reserve(256, 16000, 44100, 706) > 2600  # a block is 0.4 samples longer than a frame: it repeats late


def test_silence_is_played_and_input_given_up_where_computing_is_too_slow() -> None:
    frame, clock = 160, Clock()  # 10 ms
    stepper = Late(frame=frame, seconds=0.025, clock=clock)
    signal = np.ones((1, 60 * frame), np.float32)
    outputs = []
    with Engine(stepper, buffers=1, clock=clock) as engine:
        for _ in range(60):
            played = np.zeros((frame, 2), np.float32)
            engine.exchange(signal[:, :frame].T, played)
            outputs.append(played)
            clock.wait(engine, 0.01)
        late = engine.late
        state = engine.snapshot()
        clock.wait(engine, 1.0)
    sound = np.concatenate(outputs)[:, 1]
    assert state.underruns > 10
    assert state.overruns > 5
    assert state.load == pytest.approx(2.5)
    assert 5 * frame < (sound == 2).sum() < 50 * frame, "sound with gaps"
    assert (sound[-20 * frame :] == 2).any(), "to the end"
    assert late < 20 * frame, "and not ever later"
    assert state.underrun_seconds == pytest.approx((sound[frame:] == 0).sum() / RATE)


def test_one_late_frame_costs_one_gap_and_leaves_the_latency_as_it_was() -> None:
    frame = 160
    stepper = Late(frame=frame)
    heard = np.ones((frame, 1), np.float32)
    with Engine(stepper, buffers=1) as engine:

        def exchange(count: int, wait: bool) -> np.ndarray:
            outputs = []
            for _ in range(count):
                played = np.zeros((frame, 1), np.float32)
                engine.exchange(heard, played)
                outputs.append(played[:, 0])
                until(engine, lambda: not wait or engine._ready.held >= frame)
            return np.concatenate(outputs)

        exchange(5, wait=True)
        assert engine.late == 0
        settled(engine, 5)
        stepper.gate.clear()
        assert (exchange(5, wait=False) == 0).sum() == 4 * frame  # 4 blocks in which nothing is ready
        stepper.gate.set()
        settled(engine, 6)
        assert (exchange(20, wait=True)[-10 * frame :] == 2).all()
        assert engine.late <= engine.block
        state = engine.snapshot()
    assert state.underruns == 4
    assert state.overruns >= 1


def test_a_full_queue_is_an_overrun_and_does_not_block() -> None:
    stepper = Late(frame=160)
    with Engine(stepper, buffers=1) as engine:
        stepper.gate.clear()  # nothing is computed: whoever waited for it would wait for ever
        for _ in range(100):
            engine.exchange(np.ones((160, 1), np.float32), np.zeros((160, 1), np.float32))
        state = engine.snapshot()
        assert engine._heard.held == engine._heard.capacity
        stepper.gate.set()
    assert state.frames == 0
    assert state.overruns in (100 - 53, 100 - 54)  # one frame may have been taken


def test_an_error_of_the_network_is_raised_where_the_stream_is_run() -> None:
    with Engine(Broken(frame=160)) as engine:
        engine.exchange(np.ones((160, 1), np.float32), np.zeros((160, 1), np.float32))
        with pytest.raises(RuntimeError, match="planted"):
            settled(engine, 1)


def test_a_network_that_gives_infinity_begins_anew() -> None:
    stepper = Unstable(frame=160)
    signal = np.full((1, 1600), 0.1, np.float32)
    signal[0, 330] = 1.0
    with Engine(stepper, buffers=2) as engine:
        before = stepper.resets
        played = play(engine, signal, 160)
        state = engine.snapshot()
    assert (state.resets, stepper.resets - before) == (1, 1)
    assert state.clipped == 1
    assert (played[2 * 160 : 4 * 160] == np.float32(0.2)).all()
    assert not played[4 * 160 : 5 * 160].any()
    assert (played[5 * 160 :] == np.float32(0.2)).all()


@pytest.mark.parametrize("length", [1, 31, 32, 33, 1000])
@pytest.mark.parametrize("lookahead", [0, 5, 70])
def test_a_clock_gives_the_whole_signal_aligned(length: int, lookahead: int) -> None:
    stepper, signal = Late(lookahead=lookahead, sensors=2), noise(length, 2)
    read = lambda start, stop: signal[:, start:stop]  # noqa: E731
    engine = Engine(stepper, buffers=2, lossless=True)
    with engine:
        outputs = np.concatenate(list(paced(engine, read, length)))
    np.testing.assert_array_equal(outputs, 2 * signal[1])
    fast = np.concatenate(list(unpaced(Engine(stepper, lossless=True), read, length)))
    np.testing.assert_array_equal(fast, 2 * signal[1])
    np.testing.assert_array_equal(stream_signal(stepper, signal), 2 * signal[1])


def test_a_clock_keeps_real_time() -> None:
    clock = Clock()
    stepper, signal = Late(frame=160, lookahead=10, seconds=0.009, clock=clock), noise(8000)
    with Engine(stepper, buffers=3, lossless=True, clock=clock) as engine:
        read = lambda start, stop: signal[:, start:stop]  # noqa: E731
        parts = paced(engine, read, 8000, clock, lambda seconds: clock.wait(engine, seconds))
        moments, outputs = zip(*((clock(), part) for part in parts), strict=True)
        state = engine.snapshot()
    np.testing.assert_array_equal(np.concatenate(outputs), 2 * signal[0])
    # a frame until the first is complete, three in which it waits, and the look-ahead; then one after the other
    np.testing.assert_allclose(moments, 0.01 * np.arange(4, 4 + len(moments)), atol=1e-6)
    assert len(moments) in (50, 51)
    assert state.underruns == 0
    assert state.load == pytest.approx(0.9)


def test_missed_deadlines_are_counted_and_nothing_is_lost() -> None:
    clock = Clock()
    stepper, signal = Late(frame=160, seconds=0.025, clock=clock), noise(4000)
    with Engine(stepper, buffers=1, lossless=True, clock=clock) as engine:
        read = lambda start, stop: signal[:, start:stop]  # noqa: E731
        parts = list(paced(engine, read, 4000, clock, lambda seconds: clock.wait(engine, seconds)))
        state = engine.snapshot()
    np.testing.assert_array_equal(np.concatenate(parts), 2 * signal[0])
    assert state.underruns >= 25  # 25 frames of 25 ms, one of which is asked for every 10 ms
    assert state.overruns == 0
    assert state.load == pytest.approx(2.5)


def test_a_tape_keeps_what_was_heard_and_played(tmp_path: Path) -> None:
    signal = noise(8000, 3)
    with Tape(tmp_path / "new" / "tapes", RATE, (2, 0)) as tape:
        with Engine(Late(frame=160, sensors=2), columns=(2, 0), tape=tape) as engine:
            played = play(engine, signal, 160, columns=2)
        heard_file, played_file = tape.paths
        until(None, lambda: len(soundfile.read(heard_file)[0]) == 8000)  # valid before it is closed
    heard, rate = soundfile.read(heard_file, dtype="float32")
    assert (rate, soundfile.info(heard_file).subtype) == (RATE, "PCM_24")
    np.testing.assert_allclose(heard.T, signal[[2, 0]], atol=2**-23)
    np.testing.assert_allclose(soundfile.read(played_file)[0], played, atol=2**-23)
    assert (tape.lost, tape.problem) == (0, "")


def test_what_a_slow_disk_loses_is_silence_in_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bcfusion.live.tape._SECONDS", 0.1)
    monkeypatch.setattr("bcfusion.live.tape._PAUSE", 60.0)  # nothing is written before the end
    tape = Tape(tmp_path, RATE, (0,))
    for number in range(1, 5):
        tape.add_heard(np.full((700, 1), 0.1 * number, np.float32))
        tape.add_played(np.full((400, 2), 0.1 * number, np.float32))
    with tape:
        pass
    heard, played = (soundfile.read(path, dtype="float32")[0] for path in tape.paths)
    np.testing.assert_allclose(heard, np.repeat(np.array([0.1, 0.2, 0, 0]), 700), atol=2**-22)
    np.testing.assert_allclose(played, np.repeat(np.array([0.1, 0.2, 0.3, 0.4]), 400), atol=2**-22)
    assert tape.lost == 1400


def test_a_tape_clips_and_goes_on_in_a_next_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bcfusion.live.tape._MOST_BYTES", 3000)
    growing = GrowingWave(tmp_path / "a.wav", RATE, 1)
    for _ in range(3):
        growing.write(np.full((600, 1), 3.0, np.float32))
    growing.close()
    assert [path.name for path in growing.paths] == ["a.wav", "a-2.wav", "a-3.wav"]
    assert [soundfile.info(path).frames for path in growing.paths] == [600, 600, 600]
    assert soundfile.read(tmp_path / "a-2.wav")[0].max() == pytest.approx(1, abs=1e-6)


def test_a_disk_that_is_full_ends_the_tape_and_not_the_stream(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Any, block: Frames) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(GrowingWave, "write", full)
    with Tape(tmp_path, RATE, (0,)) as tape, Engine(Late(frame=160), tape=tape) as engine:
        play(engine, noise(1600), 160)
        until(engine, lambda: bool(tape.problem))
        play(engine, noise(1600), 160)
        assert engine.snapshot().frames == 20
    assert "the disk is full" in tape.problem
