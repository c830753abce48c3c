from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from bcfusion import audio
from bcfusion.commands import enhance_options, exit_status
from bcfusion.commands.enhance import HELP, main
from bcfusion.generators.seanet import SEANet
from bcfusion.inference.computing import PRECISIONS
from bcfusion.inference.pcm import RAW_FORMATS
from bcfusion.inference.peaks import PEAKS
from bcfusion.inference.wav_stream import wav_header
from bcfusion.run.bundle import load_generator, save_bundle

RATE = 16000
TINY: dict[str, Any] = {"channels": 2, "strides": [2, 4], "dilations": [1, 3], "bottleneck_channels": 4}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    for name, causal, sensors, scale in (
        ("causal", True, ["body"], 1.0),
        ("not_causal", False, ["body"], 1.0),
        ("two", True, ["body", "noisy"], 1.0),
        ("loud", True, ["body"], 200.0),
    ):
        torch.manual_seed(0)
        arguments = {**TINY, "causal": causal, "in_channels": len(sensors), "init_output_scale": scale}
        config = {"_target_": "bcfusion.generators.seanet.SEANet", **arguments}
        save_bundle(folder / name, SEANet(**arguments), config, sensors, {})
    return folder


def noise(channels: int, samples: int, level: float = 0.1) -> np.ndarray:
    return (level * np.random.default_rng(0).standard_normal((channels, samples)).clip(-3, 3)).astype(np.float32)


def whole(model: Path, x: np.ndarray) -> np.ndarray:
    with torch.inference_mode():
        output: np.ndarray = load_generator(model)(torch.from_numpy(x)[None])[0, 0].numpy()
    return output


@pytest.fixture
def pipe(monkeypatch: pytest.MonkeyPatch, capsysbinary: pytest.CaptureFixture[bytes]) -> Any:
    def through(data: bytes, *argv: str) -> tuple[int, bytes, str]:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
        status = exit_status(main, [argv[0], "-", "--output", "-", *argv[1:]])
        captured = capsysbinary.readouterr()
        return status, captured.out, captured.err.decode()

    return through


@pytest.mark.parametrize("name", ["causal", "not_causal"])
@pytest.mark.parametrize("samples", [1, 7, 8, 3001, 40_003])
def test_what_comes_out_is_what_a_file_would_give(pipe: Any, models: Path, name: str, samples: int) -> None:
    x, how = noise(1, samples, 0.02), RAW_FORMATS["f32le"]
    status, out, err = pipe(how.encode(x[0]), str(models / name), "--raw-format", "f32le", "--chunk", "0.5")
    assert status == 0
    np.testing.assert_allclose(how.decode(out), whole(models / name, x), atol=1e-5)
    assert err == f"{samples / RATE:.1f} s of audio in {err.split()[5]} s, at 16000 Hz\n"


def test_only_sound_leaves_at_the_standard_output(pipe: Any) -> None:
    status, out, err = pipe(b"\0" * 2000, "throat_causal")
    assert (status, len(out)) == (0, 2000)
    assert err.startswith("throat_causal: the shipped model\n")


def test_formats_rates_and_channels_of_the_input(pipe: Any, models: Path) -> None:
    x, how = noise(3, 30_000), RAW_FORMATS["s24le"]
    options = ["--raw-format", "s24le", "--raw-rate", "48000", "--channels", "noisy=1,body=3", "--raw-channels", "3"]
    status, out, _ = pipe(how.encode(x.T.reshape(-1)), str(models / "two"), *options)
    assert status == 0
    expected = whole(models / "two", audio.resample(torch.from_numpy(x[[2, 0]]), 48000, RATE).numpy())
    np.testing.assert_allclose(how.decode(out), expected, atol=1e-5)
    status, out, _ = pipe(
        how.encode(x[:2].T.reshape(-1)), str(models / "two"), "--raw-format", "s24le", "--strength", "0"
    )
    np.testing.assert_allclose(how.decode(out), x[1], atol=1e-6)
    assert pipe(b"", str(models / "causal"))[:2] == (0, b"")


@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "PCM_32", "FLOAT"])
@pytest.mark.parametrize("container", ["WAV", "WAVEX", "RF64"])
def test_wav_in_a_pipe(pipe: Any, models: Path, container: str, subtype: str) -> None:
    x, file = noise(2, 30_001), io.BytesIO()
    soundfile.write(file, x.T, 48000, subtype=subtype, format=container)
    data = file.getvalue() + (b"" if container == "RF64" else b"LIST\4\0\0\0tail")  # a chunk after the samples
    status, out, err = pipe(data, str(models / "two"), "--raw-format", "wav", "--channels", "noisy=1,body=2")
    assert status == 0
    assert "note" not in err
    samples, rate = soundfile.read(io.BytesIO(out), dtype="float32")
    assert rate == RATE
    assert soundfile.info(io.BytesIO(out)).subtype == subtype
    expected = whole(models / "two", audio.resample(torch.from_numpy(x[[1, 0]]), 48000, RATE).numpy())
    np.testing.assert_allclose(samples, expected, atol=1e-3 if subtype == "PCM_16" else 1e-5)


def test_a_wav_whose_writer_could_not_know_its_length(pipe: Any, models: Path) -> None:
    x, how = noise(1, 4001, 0.02), RAW_FORMATS["s24le"]
    for size in (b"\xff\xff\xff\xff", b"\0\0\0\0"):
        head = wav_header(how, RATE)[:-4] + size
        status, out, _ = pipe(head + how.encode(x[0]), str(models / "causal"), "--raw-format", "wav")
        assert status == 0
        np.testing.assert_allclose(how.decode(out[len(head) :]), whole(models / "causal", x), atol=1e-5)
    odd = b"RIFF\0\0\0\0WAVE" + b"odd \3\0\0\0abc\0" + head[12:] + how.encode(x[0])
    assert pipe(odd, str(models / "causal"), "--raw-format", "wav")[1] == out


@pytest.mark.parametrize("container", ["WAV", "RF64"])
@pytest.mark.parametrize("lost", [2000, 2001])  # bytes; whole samples, and a sample cut through
def test_a_truncated_wav_is_restored_as_far_as_it_goes_and_reported(
    pipe: Any, models: Path, container: str, lost: int
) -> None:
    x, file = noise(1, 16_000, 0.02), io.BytesIO()
    soundfile.write(file, x.T, RATE, subtype="PCM_16", format=container)
    status, out, err = pipe(file.getvalue()[:-lost], str(models / "causal"), "--raw-format", "wav")
    assert status == 2
    kept = 16_000 - -(-lost // 2)
    np.testing.assert_allclose(
        RAW_FORMATS["s16le"].decode(out[-2 * kept :]), whole(models / "causal", x[:, :kept]), atol=1e-3
    )
    assert f"the standard input is truncated: its header promises {lost / 32000:.3f} s more" in err
    assert ("ends in the middle of a sample" in err) == (lost == 2001)


@pytest.mark.parametrize("size", [0x7F000000, 0x7FFFF000, 0xFFFFFFFE])
def test_a_size_that_stands_for_none_is_no_promise(pipe: Any, models: Path, size: int) -> None:
    head = wav_header(RAW_FORMATS["s16le"], RATE)[:-4] + size.to_bytes(4, "little")
    status, out, err = pipe(head + bytes(2000), str(models / "causal"), "--raw-format", "wav")
    assert (status, len(out)) == (0, len(head) + 2000)
    assert "truncated" not in err


def test_what_follows_the_sound_of_an_rf64_is_no_sound(pipe: Any, models: Path) -> None:
    file = io.BytesIO()
    soundfile.write(file, noise(1, 1000)[0], RATE, subtype="FLOAT", format="RF64")
    status, out, err = pipe(file.getvalue() + b"LIST\4\0\0\0tail", str(models / "causal"), "--raw-format", "wav")
    assert status == 0
    assert soundfile.read(io.BytesIO(out))[0].shape == (1000,)
    assert "note" not in err


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"\0" * 100, "is no WAV: give --raw-format s16le"),
        (b"RIFF\0\0\0\0WAVEfmt ", "ends within the header of a WAV"),
        (b"RIFF\0\0\0\0WAVEdata\4\0\0\0abcd", "its samples come before their format"),
        (b"RIFF\0\0\0\0WAVEfmt \x10\0\0\0" + bytes([7, 0, 1, 0, 64, 31, 0, 0, 64, 31, 0, 0, 1, 0, 8, 0]), "format 7"),
        (
            wav_header(RAW_FORMATS["s16le"], RATE).replace(b"\1\0\1\0", b"\1\0\2\0"),
            "has 2 channels: the network takes 1",
        ),
    ],
)
def test_what_is_no_wav_for_the_network_is_refused(pipe: Any, models: Path, data: bytes, says: str) -> None:
    status, out, err = pipe(data, str(models / "causal"), "--raw-format", "wav")
    assert (status, out) == (2, b"")
    assert says in err


def test_the_options_are_those_of_what_computes() -> None:
    assert {*enhance_options.RAW_FORMATS} == {*RAW_FORMATS, "wav"}
    actions = enhance_options.enhance_parser(HELP)._option_string_actions
    assert actions["--peak"].choices == PEAKS
    assert actions["--precision"].choices == PRECISIONS


@pytest.mark.parametrize(
    ("options", "fate"),
    [
        ([], "their surroundings were lowered, by up to "),
        (["--peak", "clip"], "clipped (--raw-format f32le keeps them)"),
    ],
)
def test_peaks_are_counted_and_never_wrap(pipe: Any, models: Path, options: list[str], fate: str) -> None:
    x, how = noise(1, 20_000, 0.3), RAW_FORMATS["s16le"]
    status, out, err = pipe(how.encode(x[0]), str(models / "loud"), *options)
    expected = whole(models / "loud", how.decode(how.encode(x[0]))[None])
    overs = int((np.abs(expected) > 1).sum())
    assert overs > 10
    assert status == 0
    assert f"warning: {overs} samples above full scale, peak {np.abs(expected).max():.2f}; {fate}" in err
    output = how.decode(out)
    assert (np.sign(output) * np.sign(expected) >= 0).all()
    if options:
        np.testing.assert_allclose(output, expected.clip(-1, 1), atol=1e-4)


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["--peak", "scale"], "--peak scale needs the whole signal"),
        (["--peak", "keep"], "--peak keep: s16le cannot hold more than full scale"),
        (["--raw-channels", "2"], "--raw-channels 2: the network takes 1 channel; --channels NAME=N,... chooses"),
        (["--raw-format", "wav", "--raw-rate", "8000"], "its header gives rate and channels"),
        (["--subtype", "FLOAT"], "--subtype is for files"),
        (["--format", "flac"], "--format is for files"),
        (["--report", "x.csv"], "--report is for files"),
        (["--no-resample"], "--no-resample is for files"),
        (["--batch", "4"], "--batch is for files"),
        (["--overwrite"], "--overwrite is for files"),
        (["--channels", "body=3", "--raw-channels", "2"], "--raw-channels 2, and no channel 3"),
        (["a.wav"], "by itself: give - --output -"),
    ],
)
def test_what_a_pipe_cannot_do_is_refused(pipe: Any, models: Path, argv: list[str], says: str) -> None:
    status, out, err = pipe(b"\0" * 100, str(models / "causal"), *argv)
    assert (status, out) == (2, b"")
    assert says in err


def test_the_output_alone_is_no_pipe(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for argv in (["-"], ["a.wav", "--output", "-"]):
        assert exit_status(main, [str(models / "causal"), *argv]) == 2
        assert "by itself: give - --output -" in capsys.readouterr().err


def started(model: Path, *argv: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "bcfusion", "enhance", str(model), "-", "--output", "-", *argv]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, env={**os.environ, "OMP_NUM_THREADS": "1"})


@pytest.mark.slow
def test_output_appears_as_input_arrives_and_an_interrupt_leaves_no_traceback(models: Path) -> None:
    x, how = noise(1, 8 * 100), RAW_FORMATS["s16le"]
    with started(models / "causal", "--peak", "clip") as process:
        assert process.stdin is not None
        assert process.stdout is not None
        output = b""
        for at in range(0, 800, 80):  # each answer is waited for before more is sent
            process.stdin.write(how.encode(x[0, at : at + 80]))
            process.stdin.flush()
            output += process.stdout.read(2 * 80)
        np.testing.assert_allclose(how.decode(output), whole(models / "causal", x), atol=2e-4)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
        assert process.stderr is not None
        assert process.stderr.read() == b""


@pytest.mark.slow
def test_a_reader_that_leaves_ends_the_command_quietly(models: Path) -> None:
    with started(models / "causal") as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"\0" * 64_000)
        process.stdin.flush()
        process.stdout.read(100)
        process.stdout.close()
        try:
            for _ in range(100):
                process.stdin.write(b"\0" * 64_000)
                process.stdin.flush()
        except BrokenPipeError:
            pass
        assert process.wait(60) == 141
        assert process.stderr is not None
        assert process.stderr.read() == b""
        process.stdin = None  # its buffer has no reader
