from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import odd_sounds
import pytest
import soundfile
import torch
from fake_sounddevice import FakeSound, FakeStream

from bcfusion.cli import main
from bcfusion.errors import ExportError
from bcfusion.generators.seanet import SEANet
from bcfusion.inference.stepping import TorchStepper, stream_signal
from bcfusion.run.bundle import load_generator, save_bundle

SIZES: dict[str, Any] = {"channels": 2, "strides": [2, 4], "dilations": [1], "bottleneck_channels": 4}
RATE = 16000


def bundle(folder: Path, sensors: list[str], causal: bool = True) -> Path:
    torch.manual_seed(0)
    sizes = {**SIZES, "init_output_scale": 1.0, "causal": causal, "in_channels": len(sensors)}
    config = {"_target_": "bcfusion.generators.seanet.SEANet", **sizes}
    return save_bundle(folder, SEANet(**sizes), config, sensors, {"step": 1})


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    bundle(folder / "one", ["body"])
    bundle(folder / "two", ["body", "noisy"])
    bundle(folder / "whole", ["body"], causal=False)
    return folder


@pytest.fixture
def sound(monkeypatch: pytest.MonkeyPatch) -> FakeSound:
    fake = FakeSound(("Built-in", 2, 2, 48000), ("Throat", 1, 0, 16000))
    monkeypatch.setitem(sys.modules, "sounddevice", fake)
    return fake


def noise(samples: int, channels: int = 1) -> np.ndarray:
    return 0.1 * np.random.default_rng(0).standard_normal((channels, samples)).astype(np.float32)


def written(path: Path, signal: np.ndarray, rate: int = RATE) -> str:
    soundfile.write(path, signal.T, rate, subtype="FLOAT")
    return str(path)


def expected(model: Path, signal: np.ndarray, frame: int = 128) -> np.ndarray:
    stepper = TorchStepper(load_generator(model), frame)
    outputs = stream_signal(stepper, signal)
    stepper.close()
    return outputs


def error_of(capsys: pytest.CaptureFixture[str], *argv: object) -> str:
    try:
        status = main(["stream", *map(str, argv)])
    except SystemExit as error:
        status = int(str(error.code))
    assert status == 2
    return capsys.readouterr().err


# ---------------------------------------------------------------- file


@pytest.mark.parametrize("backend", ["torch", pytest.param("onnx", marks=pytest.mark.slow)])
def test_a_file_as_fast_as_possible(
    models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], backend: str
) -> None:
    if backend == "onnx":
        for package in ("onnx", "onnxscript", "onnxruntime"):
            pytest.importorskip(package)
    signal = noise(4001, 2)
    source, target = written(tmp_path / "in.wav", signal), tmp_path / "new" / "out.wav"
    options = ["--no-pace", "--subtype", "FLOAT", "--backend", backend, "--json"]
    assert main(["stream", str(models / "two"), "--file", source, "--output", str(target), *options]) == 0
    state = json.loads(capsys.readouterr().out)
    outputs, rate = soundfile.read(target, dtype="float32")
    assert (rate, len(outputs)) == (RATE, 4001)
    np.testing.assert_allclose(outputs, expected(models / "two", signal), atol=1e-5)
    assert state["real_time_factor"] > 0
    assert state["frames"] == 32
    assert state["written"] == [str(target)]
    again = error_of(capsys, models / "two", "--file", source, "--output", target)
    assert f"{target} exists: give another --output, or --overwrite" in again


def test_a_second_at_the_pace_of_a_second(models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    body, air = noise(RATE, 2)
    files = f"{written(tmp_path / 'body.wav', body[None])},{written(tmp_path / 'air.wav', air[None])}"
    target = tmp_path / "out.wav"
    command = ["stream", str(models / "two"), "--file", files, "--output", str(target), "--subtype", "FLOAT"]
    begun = time.perf_counter()
    assert main([*command, "--backend", "torch", "--frame", "320", "--buffers", "3"]) == 0
    assert time.perf_counter() - begun > 1.0
    printed = capsys.readouterr()
    assert "missed deadlines: " in printed.out
    assert "50 frames of 20.0 ms" in printed.out
    outputs, _ = soundfile.read(target, dtype="float32")
    np.testing.assert_allclose(outputs, expected(models / "two", np.stack([body, air]), 320), atol=1e-6)


def test_strength_and_channels_of_a_file(models: Path, tmp_path: Path) -> None:
    signal = noise(1000, 3)
    source, target = written(tmp_path / "in.wav", signal), tmp_path / "out.wav"
    command = ["stream", str(models / "two"), "--file", source, "--output", str(target), "--no-pace"]
    mixed = ["--channels", "body=3,noisy=1", "--strength", "0.25", "--subtype", "FLOAT", "--backend", "torch"]
    assert main([*command, *mixed]) == 0
    outputs, _ = soundfile.read(target, dtype="float32")
    whole = expected(models / "two", signal[[2, 0]])
    np.testing.assert_allclose(outputs, 0.75 * signal[0] + 0.25 * whole, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "fate"),
    [
        ([], "the file was lowered by "),
        (["--peak", "limit"], "their surroundings were lowered, by up to "),
        (["--peak", "clip"], "clipped (--subtype FLOAT keeps them)"),
    ],
)
def test_what_was_done_to_peaks_is_said_as_by_enhance(
    models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], fate: str
) -> None:
    signal, target = 40 * noise(2000), tmp_path / "out.wav"
    overs = np.abs(expected(models / "one", signal))
    assert overs.max() > 1.2
    source = written(tmp_path / "in.wav", signal)
    command = ["stream", str(models / "one"), "--file", source, "--output", str(target), "--no-pace", *options]
    assert main([*command, "--backend", "torch"]) == 0
    gain = f"{20 * np.log10(overs.max()):.1f} dB" if not options else ""
    said = f"warning: {target}: {(overs > 1).sum()} samples above full scale, peak {overs.max():.2f}; {fate}{gain}"
    assert said in capsys.readouterr().out


def test_what_is_special_about_files_is_said(models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, crashed = written(tmp_path / "body.wav", noise(1000)), tmp_path / "air.wav"
    odd_sounds.unfinished(crashed, 1160, 0)
    command = ["stream", str(models / "two"), "--file", f"{source},{crashed}", "--output", str(tmp_path / "out.wav")]
    assert main([*command, "--no-pace", "--backend", "torch", "--json"]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["frames"] == 8
    assert f"note: {crashed}: its header states no length" in printed.err
    assert "note: the sensors differ in length, by 10.0 ms; their common part is restored" in printed.err
    assert soundfile.info(tmp_path / "out.wav").frames == 1000


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_file_that_is_ended_early_leaves_nothing_and_says_so(
    models: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    number: signal.Signals,
    status: int,
) -> None:
    genuine, target = TorchStepper.step, tmp_path / "out.wav"

    def step(self: TorchStepper, chunk: np.ndarray) -> np.ndarray:
        if chunk.any():
            os.kill(os.getpid(), number)
        return genuine(self, chunk)

    monkeypatch.setattr(TorchStepper, "step", step)
    command = ["stream", str(models / "one"), "--file", written(tmp_path / "in.wav", noise(4000)), "--output"]
    try:
        ended = main([*command, str(target), "--backend", "torch", "--no-pace"])
    except SystemExit as error:
        ended = int(str(error.code))
    assert ended == status
    printed = capsys.readouterr()
    assert printed.err.endswith(f"ended before the end of the sound: nothing is written to {target}\n")
    assert printed.out == ""
    assert [path.name for path in tmp_path.iterdir()] == ["in.wav"]


def test_files_that_do_not_fit_are_refused_and_nothing_is_written(
    models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "out.wav"
    stereo, mono = written(tmp_path / "2.wav", noise(800, 2)), written(tmp_path / "1.wav", noise(800))
    short = written(tmp_path / "short.wav", noise(16000))

    def refused(model: str, source: str, *options: str) -> str:
        return error_of(
            capsys, models / model, "--file", source, "--output", target, "--no-pace", "--backend", "torch", *options
        )

    assert "2.wav has 2 channels, the model takes 1 in one file (body), or --channels NAME=N" in refused("one", stereo)
    assert "takes 2 in one file (body, noisy), or --file FILE,FILE with one for each" in refused("two", mono)
    assert "2.wav has 2 channels, and no channel 3" in refused("one", stereo, "--channels", "body=3")
    assert "no channel for noisy" in refused("two", stereo, "--channels", "body=1")
    assert "3 files for a model of 2 sensors (body, noisy)" in refused("two", f"{mono},{mono},{mono}")
    assert "2.wav has 2 channels, the model takes a mono file for each" in refused("two", f"{mono},{stereo}")
    assert "channels can be chosen of one file alone" in refused(
        "two", f"{mono},{mono}", "--channels", "body=1,noisy=2"
    )
    assert "differ in length by more than 0.5 s" in refused("two", f"{mono},{short}")
    assert "none.wav" in refused("one", str(tmp_path / "none.wav"))
    assert "is not causal and cannot stream" in refused("whole", mono)
    assert "not a multiple of the network's hop, 8 samples" in refused("one", mono, "--frame", "30")
    assert not target.exists()
    assert "there is no such format" in error_of(capsys, models / "one", "--file", mono, "--output", tmp_path / "out.x")
    keep = ["--file", mono, "--output", target, "--peak", "keep"]
    assert "--peak keep: PCM_16 cannot hold more" in error_of(capsys, models / "one", *keep)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "give a MODEL"),
        (["m", "--no-pace", "--output", "x.wav"], "--no-pace and --output are for --file IN"),
        (["m", "--file", "x.wav"], "--file IN needs --output OUT"),
        (["m", "--file", "x.wav", "--output", "y.wav", "--record", "d"], "--record is for a sound card"),
        (["m", "--buffers", "0"], "0 is not a whole number above zero"),
        (["m", "--strength", "2"], "2 is not a number from 0 to 1"),
        (["m", "--file", "x", "--output", "y.wav", "--strength", "0.5", "--limit-db", "6"], "either a strength or"),
    ],
)
def test_half_a_command_is_refused(arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert says in error_of(capsys, *arguments)


@pytest.mark.slow
def test_an_exported_file_streams_and_has_its_own_frame(
    models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    from bcfusion.export.onnx_export import export_step

    model, signal = tmp_path / "step.onnx", noise(1000)
    model.write_bytes(export_step(load_generator(models / "one"), 64).SerializeToString())
    target = tmp_path / "out.wav"
    source = written(tmp_path / "in.wav", signal)
    command = [str(model), "--file", source, "--output", str(target), "--no-pace", "--subtype", "FLOAT", "--overwrite"]
    assert main(["stream", *command]) == 0
    outputs, _ = soundfile.read(target, dtype="float32")
    np.testing.assert_allclose(outputs, expected(models / "one", signal), atol=1e-5)
    assert "was exported with frames of 64 samples" in error_of(capsys, *command, "--frame", "128")
    assert "holds its own mixture" in error_of(capsys, *command, "--strength", "0.5")
    assert "is computed by onnxruntime" in error_of(capsys, *command, "--backend", "torch")
    command[0] = str(tmp_path / "none.onnx")
    assert "no such file" in error_of(capsys, *command)


def test_what_is_missing_for_onnx_is_named(
    models: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("bcfusion.live.steppers.find_spec", lambda name: None if name == "onnxscript" else object())
    command = [models / "one", "--file", "x.wav", "--output", "y.wav"]
    assert "--backend onnx needs onnxscript: pip install 'bcfusion[onnx]'" in error_of(
        capsys, *command, "--backend", "onnx"
    )
    assert "x.wav" in error_of(capsys, *command)  # auto goes on, with torch


def test_a_network_that_cannot_be_exported_is_computed_by_torch(
    models: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    def refuse(*arguments: object) -> None:
        raise ExportError("no such operator")

    monkeypatch.setattr("bcfusion.live.steppers.find_spec", lambda name: object())
    monkeypatch.setattr("bcfusion.live.steppers._onnx", refuse)
    signal = noise(500)
    command = [str(models / "one"), "--file", written(tmp_path / "in.wav", signal), "--no-pace", "--subtype", "FLOAT"]
    assert "no such operator" in error_of(capsys, *command, "--output", tmp_path / "no.wav", "--backend", "onnx")
    assert main(["stream", *command, "--output", str(tmp_path / "out.wav")]) == 0
    assert "computed by PyTorch, since the network cannot be exported: no such operator" in caplog.text
    outputs, _ = soundfile.read(tmp_path / "out.wav", dtype="float32")
    np.testing.assert_allclose(outputs, expected(models / "one", signal), atol=1e-6)


# ---------------------------------------------------------------- sound card


def driven(sound: FakeSound, drive: Callable[[FakeStream], None]) -> list[threading.Thread]:
    """Let a thread drive the stream as soon as it starts, as a sound card would."""
    threads: list[threading.Thread] = []

    def start(stream: FakeStream) -> None:
        threads.append(threading.Thread(target=drive, args=(stream,)))
        threads[-1].start()

    sound.on_start = start
    return threads


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_sound_card_streams_until_somebody_ends_it(
    models: Path, tmp_path: Path, sound: FakeSound, capsys: pytest.CaptureFixture[str], number: signal.Signals
) -> None:
    heard, played = noise(6400, 2), []

    def drive(stream: FakeStream) -> None:
        engine = stream.settings.callback.__self__.engine
        for start in range(0, 6400, stream.settings.blocksize):
            played.append(stream.call(np.ascontiguousarray(heard[:, start : start + stream.settings.blocksize].T)))
            end = time.monotonic() + 300  # only a thread that will never go on takes so long
            while (engine.statistics.frames < len(played) or not engine.idle) and time.monotonic() < end:
                time.sleep(1e-3)
        os.kill(os.getpid(), number)

    before = signal.getsignal(number)
    threads = driven(sound, drive)
    command = ["stream", str(models / "two"), "--channels", "body=2,noisy=1", "--backend", "torch", "--frame", "320"]
    assert main([*command, "--record", str(tmp_path / "tape"), "--output-device", "built"]) == 0
    threads[0].join()
    assert signal.getsignal(number) is before
    printed = capsys.readouterr()
    assert "input device 0 (Built-in, Fake) to output device 0" in printed.err
    assert "channels: body 2, noisy 1; 16000 Hz, frames of 320 samples" in printed.err
    assert "underruns 0 (0.00 s of silence), overruns 0" in printed.out
    assert "latency 70 ms: algorithm 20, sound card 30, queue 20" in printed.out
    outputs = np.concatenate(played)[:, 0]
    whole = expected(models / "two", heard[::-1].copy(), 320)
    late = 2 * 320 + load_generator(models / "two").lookahead  # type: ignore[operator]
    np.testing.assert_allclose(outputs[late:], whole[: len(outputs) - late], atol=1e-6)
    [heard_file] = (tmp_path / "tape").glob("heard-*.wav")
    [played_file] = (tmp_path / "tape").glob("played-*.wav")
    assert str(heard_file) in printed.out
    np.testing.assert_allclose(soundfile.read(heard_file)[0].T, heard[::-1], atol=2**-23)
    np.testing.assert_allclose(soundfile.read(played_file)[0], outputs, atol=2**-23)
    assert sound.streams[0].closed


@pytest.mark.parametrize("fault", ["lost", "problem"])
def test_a_recording_that_is_incomplete_is_no_success(
    models: Path,
    tmp_path: Path,
    sound: FakeSound,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    fault: str,
) -> None:
    def full(self: object, block: np.ndarray) -> None:
        raise OSError(28, "No space left on device")

    if fault == "lost":
        monkeypatch.setattr("bcfusion.live.tape._SECONDS", 0.001)
    else:
        monkeypatch.setattr("bcfusion.live.tape.GrowingWave.write", full)

    def drive(stream: FakeStream) -> None:
        stream.call(np.zeros((1600, 1), np.float32))
        os.kill(os.getpid(), signal.SIGINT)

    driven(sound, drive)
    command = ["stream", str(models / "one"), "--backend", "torch", "--record", str(tmp_path / "tape")]
    assert main(command) == 2
    printed = capsys.readouterr()
    assert "written: " in printed.out
    says = {"lost": "the disk was too slow: 0.1 s are silence", "problem": "the files end early: the disk is full"}
    assert says[fault] in printed.err


def test_an_error_of_the_network_while_the_stream_ends_is_raised(
    models: Path, sound: FakeSound, monkeypatch: pytest.MonkeyPatch
) -> None:
    computing, stopped = threading.Event(), threading.Event()

    def step(self: object, chunk: np.ndarray) -> np.ndarray:
        if chunk.any():
            computing.set()
            stopped.wait()  # until the card is closed: nothing asks for errors any more
            raise RuntimeError("planted")
        return chunk[0]

    def drive(stream: FakeStream) -> None:
        stream.call(np.ones((1600, 1), np.float32))
        computing.wait()
        os.kill(os.getpid(), signal.SIGINT)

    def closed(self: FakeStream) -> None:
        stopped.set()

    monkeypatch.setattr(TorchStepper, "step", step)
    monkeypatch.setattr(FakeStream, "close", closed)
    driven(sound, drive)
    with pytest.raises(RuntimeError, match="planted"):
        main(["stream", str(models / "one"), "--backend", "torch"])


def test_a_device_that_is_unplugged_ends_the_stream_with_its_summary(
    models: Path, sound: FakeSound, capsys: pytest.CaptureFixture[str]
) -> None:
    sound.rates = (48000,)

    def drive(stream: FakeStream) -> None:
        for _ in range(5):
            stream.call(np.zeros((stream.settings.blocksize, 1), np.float32))
            time.sleep(0.02)
        stream.vanish()

    driven(sound, drive)
    command = ["stream", str(models / "one"), "--input-device", "1", "--output-device", "0", "--backend", "torch"]
    assert main([*command, "--json"]) == 2
    printed = capsys.readouterr()
    state = json.loads(printed.out)
    assert state["device_rate"] == 48000
    assert state["latency"]["rate"] > 0.01
    assert "resampled from and to 48000 Hz" in printed.err
    assert "has stopped: was it unplugged?" in printed.err
    assert sound.streams[0].closed


def test_a_stream_may_end_by_itself(models: Path, sound: FakeSound, capsys: pytest.CaptureFixture[str]) -> None:
    ended = threading.Event()

    def drive(stream: FakeStream) -> None:
        while not ended.wait(0.01):
            stream.call(np.zeros((128, 1), np.float32))

    threads = driven(sound, drive)
    try:
        assert main(["stream", str(models / "one"), "--seconds", "0.2", "--backend", "torch"]) == 0
    finally:
        ended.set()
        threads[0].join()
    assert "frames of 8.0 ms" in capsys.readouterr().out


def test_a_wrong_device_is_reported_before_the_model_is_loaded(
    sound: FakeSound, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "No input device matching 'Nose'" in error_of(capsys, "no-model", "--input-device", "Nose")
    assert "Not an output device: 'Throat'" in error_of(capsys, "no-model", "--output-device", "1")
    assert "no-model" in error_of(capsys, "no-model")


def test_without_a_device_a_file_is_advised(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "sounddevice", FakeSound())
    assert "; --file needs no sound card" in error_of(capsys, "no-model")
    assert "; --file needs no sound card" in error_of(capsys, "--list-devices")


def test_channels_that_a_device_does_not_have(
    models: Path, sound: FakeSound, capsys: pytest.CaptureFixture[str]
) -> None:
    said = error_of(capsys, models / "one", "--channels", "3", "--backend", "torch")
    assert "input device 0 (Built-in, Fake) has 2 channels, channel 3 is needed" in said


def test_devices_are_listed_without_a_model(sound: FakeSound, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["stream", "--list-devices"]) == 0
    assert "Built-in, Fake" in capsys.readouterr().out


@pytest.mark.slow
def test_a_list_of_devices_needs_no_torch() -> None:
    code = (
        "import sys; from bcfusion.cli import main; main(['stream', '--list-devices']); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"
