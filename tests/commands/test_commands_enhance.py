from __future__ import annotations

import errno
import io
import os
import re
import subprocess
import sys
import unicodedata
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import odd_sounds
import pytest
import soundfile
import torch
from torch import Tensor, nn

from bcfusion.audio.writing import sound_writer
from bcfusion.commands import exit_status
from bcfusion.commands.enhance import HELP, main
from bcfusion.run.bundle import save_bundle

RATE = 16000


class Double(nn.Module):
    """Twice the last sensor."""

    provides: tuple[str, ...] = ()

    def __init__(self, in_channels: int = 1) -> None:
        super().__init__()
        self.sample_rate, self.in_channels, self.hop, self.causal, self.delay = RATE, in_channels, 1, True, 0
        self.gain = nn.Parameter(torch.tensor(2.0))

    def forward(self, inputs: Tensor) -> Tensor:
        return self.gain * inputs[:, -1:]


@pytest.fixture(autouse=True)
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    for name, sensors in (("model", ["body"]), ("two_sensors", ["body", "noisy"])):
        config = {"_target_": f"{__name__}.Double", "in_channels": len(sensors)}
        save_bundle(tmp_path / name, Double(len(sensors)), config, sensors, {})
    return tmp_path


def record(path: str, level: float = 0.1, rate: int = RATE, seconds: float = 0.1, channels: int = 1) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.full((round(rate * seconds), channels), level), rate)


def level(path: str) -> float:
    return float(np.median(soundfile.read(path)[0]))


def run(*argv: str) -> int:
    return exit_status(main, list(argv))


def outputs(folder: str = "enhanced") -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in Path(folder).rglob("*") if path.is_file())


def test_folder_is_mirrored(capsys: pytest.CaptureFixture[str]) -> None:
    record("rec/a.wav")
    record("rec/day1/b.flac", seconds=0.2)
    record("rec/day1/c.d.ogg")
    assert run("model", "rec") == 0
    assert outputs() == ["a.wav", "day1/b.wav", "day1/c.d.wav"]
    assert level("enhanced/day1/b.wav") == pytest.approx(0.2, abs=1e-3)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("]")[0] for line in lines[:3]] == ["[1/3", "[2/3", "[3/3"]
    assert re.fullmatch(r"3 files, 0\.4 s of audio, real-time factor \d+\.\d+, in enhanced", lines[-1])


def test_the_output_mirrors_the_tree_below_the_common_folder() -> None:
    record("day1/x.wav", 0.1)
    record("day2/x.wav", 0.2)
    record("day2/deep/x.wav", 0.3)
    assert run("model", "day1", "--output", "out", "day2/**/*.wav") == 0
    assert outputs("out") == ["day1/x.wav", "day2/deep/x.wav", "day2/x.wav"]
    assert level("out/day2/deep/x.wav") == pytest.approx(0.6, abs=1e-3)


def test_single_file_suffix_and_subtype() -> None:
    record("deep/in/x.wav")
    assert run("model", "deep/in/x.wav", "--suffix", "_e", "--subtype", "FLOAT", "--output", "o/p") == 0
    assert outputs("o/p") == ["x_e.wav"]
    assert soundfile.info("o/p/x_e.wav").subtype == "FLOAT"


def test_outputs_of_an_earlier_call_are_not_enhanced_again() -> None:
    record("a.wav")
    assert run("model", ".") == 0
    assert run("model", ".", "--overwrite") == 0
    assert outputs() == ["a.wav"]
    assert level("enhanced/a.wav") == pytest.approx(0.2, abs=1e-3)


def test_bad_files_are_listed_and_the_others_restored(capfd: pytest.CaptureFixture[str]) -> None:
    record("rec/a.wav")
    Path("rec/b.wav").write_bytes(b"this is not sound" * 10)
    record("rec/c.wav", channels=2)
    record("rec/d.wav", rate=8000)
    record("rec/e.wav")
    Path("rec/f.mp3").write_bytes(odd_sounds.mp3(Path("f.mp3"), 4000).read_bytes()[:200])
    assert run("model", "rec", "missing.wav", "--no-resample") == 2
    captured = capfd.readouterr()
    assert outputs() == ["rec/a.wav", "rec/e.wav"]
    assert captured.out.count("FAILED") == 2  # of c and d the header alone says that the model does not take them
    errors = captured.err.splitlines()
    assert errors[0] == "5 not restored:"
    assert len(errors) == 6  # the decoder's own messages are not among them
    for text in (
        "missing.wav",
        "rec/b.wav",
        "rec/f.mp3",
        "rec/c.wav has 2 channels",
        "rec/d.wav is sampled at 8000 Hz",
    ):
        assert sum(text in line for line in errors) == 1


def test_a_fault_of_many_recordings_is_one_line_with_what_the_network_takes(capsys: pytest.CaptureFixture[str]) -> None:
    for name in "abc":
        record(f"rec/{name}.wav")
    record("rec/d.wav", channels=2)
    record("rec/e.wav", channels=3)
    assert run("two_sensors", "rec") == 2
    captured = capsys.readouterr()
    assert captured.out.count("->") == 1
    assert outputs() == ["d.wav"]
    takes = "the model takes 2 in one file (body, noisy), or --sensor NAME=FOLDER for each"
    assert captured.err.splitlines() == [
        "4 not restored:",
        f"  rec/a.wav has 1 channel, {takes}; likewise 2 more",
        f"  rec/e.wav has 3 channels, {takes}, or --channels NAME=N,... to choose",
    ]
    assert run("two_sensors", "rec") == 2
    assert "enhanced/d.wav exists: give --overwrite" in capsys.readouterr().err
    record("t/a.wav")
    record("m/a.wav", channels=2)
    assert run("two_sensors", "--sensor", "body=t", "--sensor", "noisy=m") == 2
    assert "  m/a.wav has 2 channels, the model takes a mono file for each sensor" in capsys.readouterr().err


def test_a_dry_run_lists_what_would_be_read_and_written(capsys: pytest.CaptureFixture[str]) -> None:
    record("a.wav")
    record("deep/b.flac")
    record("deep/c.wav", channels=2)
    record("enhanced/a.wav", 0.5)
    assert run("model", ".", "--dry-run", "--overwrite") == 2
    captured = capsys.readouterr()
    assert captured.out.splitlines() == [
        "a.wav -> enhanced/a.wav  (replaced)",
        "deep/b.flac -> enhanced/deep/b.wav",
        "2 files would be written to enhanced",
    ]
    assert captured.err.splitlines()[0] == "1 would not be restored:"
    assert outputs() == ["a.wav"]
    assert level("enhanced/a.wav") == pytest.approx(0.5, abs=1e-3)
    record("t/a.wav")
    assert run("two_sensors", "--dry-run", "--sensor", "body=t", "--sensor", "noisy=t", "--output", "new") == 0
    assert capsys.readouterr().out.startswith("t/a.wav + t/a.wav -> new/a.wav\n")
    assert not Path("new").exists()


@pytest.mark.parametrize(("source", "output"), [("X.flac", "."), ("X.flac", "sub"), ("é.wav", "sub")])
def test_no_output_gets_the_name_of_a_sound_beside_it(
    source: str, output: str, capsys: pytest.CaptureFixture[str]
) -> None:
    record("X.flac")
    record("sub/X.mp3")
    record(unicodedata.normalize("NFC", "é.wav"))
    record("sub/" + unicodedata.normalize("NFD", "é.wav"))
    before = outputs("sub")
    assert run("model", source, "--output", output) == 2
    assert "beside it; give --output or --suffix" in capsys.readouterr().err
    assert outputs("sub") == before
    assert not Path("X.wav").exists()
    assert run("model", source, "--output", output, "--suffix", "_e") == 0


def test_brackets_in_the_names_of_folders_are_no_pattern() -> None:
    record("day [1]/a.wav", 0.1)
    record("day [1]/b[2].wav", 0.2)
    record("day 1/c.wav", 0.3)
    assert run("model", "day [1]/*.wav") == 0
    assert outputs() == ["a.wav", "b[2].wav"]
    assert run("model", "day [1]", "--output", "two") == 0
    assert outputs("two") == ["a.wav", "b[2].wav"]
    assert (
        run("two_sensors", "--sensor", "body=day [1]/a*", "--sensor", "noisy=day [1]/*.wav", "--output", "three") == 2
    )
    assert outputs("three") == ["a.wav"]


def test_any_name_that_the_file_system_takes_is_restored(capsys: pytest.CaptureFixture[str]) -> None:
    names = [os.fsdecode(b"caf\xe9.wav"), "é" * 122 + "abcdefg.wav", "x" * 250 + ".flac"]
    for name in names:
        record("rec/a" + Path(name).suffix)
        Path("rec/a" + Path(name).suffix).rename(Path("rec", name))
    with io.TextIOWrapper(io.BytesIO(), encoding="utf-8") as terminal, redirect_stdout(terminal):
        assert run("model", "rec") == 0
        terminal.seek(0)
        assert r"rec/caf\udce9.wav -> enhanced/caf\udce9.wav" in terminal.read()
    assert outputs() == sorted([*names[:2], "x" * 250 + ".wav"])
    assert run("model", "rec", "--suffix", "_enhanced", "--output", "second") == 2
    assert outputs("second") == [os.fsdecode(b"caf\xe9_enhanced.wav")]
    errors = capsys.readouterr().err
    assert errors.startswith("2 not restored:")
    assert errors.count("the name is too long for the file system") == 2
    assert run("model", "y" * 300) == 2
    assert "no such file or folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("number", "reason", "written"),
    [
        (errno.ENOSPC, "the disk is full: ", ["a.wav"]),
        (errno.EROFS, "is read-only", ["a.wav"]),
        (errno.EACCES, "Permission denied", ["a.wav", "c.wav", "d.wav"]),
    ],
)
def test_a_disk_that_takes_nothing_ends_the_batch_and_another_fault_of_one_file_does_not(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], number: int, reason: str, written: list[str]
) -> None:
    def refuse(path: Path, *settings: Any) -> Any:
        if "b.wav" in path.name:
            raise OSError(number, os.strerror(number), str(path))
        return sound_writer(path, *settings)

    monkeypatch.setattr("bcfusion.inference.writing.sound_writer", refuse)
    for name in "abcd":
        record(f"rec/{name}.wav")
    assert run("model", "rec") == 2
    captured = capsys.readouterr()
    assert outputs() == written
    errors = captured.err.splitlines()
    assert errors[0] == f"{4 - len(written)} not restored:"
    assert "cannot write enhanced/b.wav: " in errors[1]
    assert reason in errors[1]
    if len(written) == 1:
        assert errors[2:] == ["  2 files after it: not tried, since nothing more can be written there"]
        assert "1 file, 0.1 s of audio" in captured.out
        monkeypatch.setattr("bcfusion.inference.writing.sound_writer", sound_writer)
        assert run("model", "rec") == 2  # a.wav exists
        assert outputs() == ["a.wav", "b.wav", "c.wav", "d.wav"]


def test_existing_output_is_kept_without_overwrite() -> None:
    record("a.wav", 0.1)
    record("enhanced/a.wav", 0.5)
    assert run("model", "a.wav") == 2
    assert level("enhanced/a.wav") == pytest.approx(0.5, abs=1e-3)
    assert run("model", "a.wav", "--overwrite") == 0
    assert level("enhanced/a.wav") == pytest.approx(0.2, abs=1e-3)


def test_recordings_are_never_replaced(capsys: pytest.CaptureFixture[str]) -> None:
    record("rec/a.wav", 0.1)
    assert run("model", "rec", "--output", "rec", "--overwrite") == 2
    assert "would replace the recording" in capsys.readouterr().err
    assert level("rec/a.wav") == pytest.approx(0.1, abs=1e-3)
    assert run("model", "rec", "--output", "rec", "--suffix", "_e") == 0
    assert outputs("rec") == ["a.wav", "a_e.wav"]


def test_two_recordings_do_not_share_an_output(capsys: pytest.CaptureFixture[str]) -> None:
    record("rec/a.wav", 0.1)
    record("rec/a.flac", 0.2)
    assert run("model", "rec") == 2
    assert "has the same output" in capsys.readouterr().err
    assert level("enhanced/a.wav") == pytest.approx(0.4, abs=1e-3)  # of a.flac, the first by name


@pytest.mark.parametrize(
    ("options", "fate", "level_of_file"),
    [
        ([], "the file was lowered by 3.5 dB", 1.0),
        (["--peak", "limit"], "their surroundings were lowered, by up to 3.5 dB", 1.0),
        (["--peak", "clip"], "clipped (--subtype FLOAT keeps them)", 1.0),
        (["--subtype", "FLOAT"], "kept", 1.5),
        (["--subtype", "FLOAT", "--peak", "scale"], "the file was lowered by 3.5 dB", 1.0),
    ],
)
def test_what_happens_to_peaks_is_said(
    options: list[str], fate: str, level_of_file: float, capsys: pytest.CaptureFixture[str]
) -> None:
    record("a.wav", 0.75)
    assert run("model", "a.wav", *options) == 0
    said = capsys.readouterr().out
    assert f"warning: enhanced/a.wav: 1600 samples above full scale, peak 1.50; {fate}" in said
    assert level("enhanced/a.wav") == pytest.approx(level_of_file, abs=1e-3)


def test_less_of_the_network(capsys: pytest.CaptureFixture[str]) -> None:
    record("a.wav", 0.1)
    for options, expected in ((["--strength", "0.5"], 0.15), (["--strength", "0"], 0.1), (["--limit-db", "20"], 0.19)):
        assert run("model", "a.wav", "--overwrite", *options) == 0
        assert level("enhanced/a.wav") == pytest.approx(expected, abs=1e-4)
    assert run("model", "a.wav", "--overwrite", "--strength", "0.5", "--limit-db", "3") == 2
    assert "--strength 0.5 --limit-db 3: give either" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "name", "subtype"),
    [
        (["--format", "flac", "--subtype", "pcm_24"], "a.flac", "PCM_24"),
        (["--format", "opus"], "a.opus", "OPUS"),
        (["--format", "MP3"], "a.mp3", "MPEG_LAYER_III"),
        (["--format", "aiff", "--subtype", "FLOAT"], "a.aiff", "FLOAT"),
        (["--format", "caf", "--subtype", "ALAC_24"], "a.caf", "ALAC_24"),
    ],
)
def test_the_format_of_the_output_is_chosen(options: list[str], name: str, subtype: str) -> None:
    record("rec/a.wav", seconds=0.5)
    assert run("model", "rec", *options) == 0
    assert outputs() == [name]
    assert soundfile.info(f"enhanced/{name}").subtype == subtype
    assert soundfile.info(f"enhanced/{name}").samplerate == RATE
    assert soundfile.info(f"enhanced/{name}").frames >= RATE // 2


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--format", "flacc"], "there is no such format; did you mean 'flac'?"),
        (["--format", "flac", "--subtype", "FLOAT"], "FLAC takes PCM_S8, PCM_16, PCM_24"),
        (["--format", "wve"], "WVE ALAW has no sample rate of 16000 Hz, the network's: it takes 8000 Hz"),
        (["--peak", "keep"], "--peak keep: PCM_16 cannot hold more than full scale"),
        (["--channels", "air=1"], "air is no sensor of the network, which takes body"),
    ],
)
def test_what_cannot_be_written_or_read_so_is_refused(
    options: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    record("a.wav")
    assert run("model", "a.wav", *options) == 2
    assert says in capsys.readouterr().err
    assert not Path("enhanced").exists()


def test_channels_of_the_sensors_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    Path("rec").mkdir()
    soundfile.write("rec/a.wav", np.tile([0.1, 0.2, 0.3], (1600, 1)), RATE)
    record("rec/b.wav")
    assert run("two_sensors", "rec", "--channels", "noisy=2,body=1") == 2
    assert outputs() == ["a.wav"]
    assert level("enhanced/a.wav") == pytest.approx(0.4, abs=1e-3)
    assert "rec/b.wav has 1 channel, and no channel 2" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["two_sensors", "--sensor", "body=rec", "--sensor", "noisy=rec", "--channels", "noisy=2,body=1"])


def test_batches_give_what_single_files_give(capsys: pytest.CaptureFixture[str]) -> None:
    for name, seconds, loudness in (
        ("a", 0.1, 0.1),
        ("b", 0.5, 0.2),
        ("c", 0.1, 0.3),
        ("d", 0.12, 0.4),
        ("e", 0.1, 0.5),
    ):
        record(f"rec/{name}.wav", loudness, seconds=seconds)
    record("rec/f.wav", channels=2)
    Path("rec/g.wav").write_bytes(Path("rec/a.wav").read_bytes()[:1000])
    assert run("model", "rec", "--batch", "2", "--chunk", "0.3", "--report", "r.jsonl") == 2
    together = {name: soundfile.read(f"enhanced/{name}")[0] for name in outputs()}
    assert run("model", "rec", "--output", "single", "--chunk", "0.3") == 2
    assert outputs("single") == sorted(together) == [f"{name}.wav" for name in "abcde"]
    for name, samples in together.items():
        np.testing.assert_array_equal(samples, soundfile.read(f"single/{name}")[0])
    assert capsys.readouterr().out.count("-> enhanced/") == 6


def test_folders_of_sensors_are_matched_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    record("throat/s1/a.wav", 0.1)
    record("mic/s1/a.flac", 0.3)
    record("throat/s1/b.wav", 0.1)
    record("mic/c.wav", 0.1)
    assert run("two_sensors", "--sensor", "noisy=mic", "--sensor", "body=throat") == 2
    assert outputs() == ["s1/a.wav"]
    assert level("enhanced/s1/a.wav") == pytest.approx(0.6, abs=1e-3)  # twice the last sensor, noisy
    errors = capsys.readouterr().err
    assert "throat/s1/b.wav: no recording named s1/b in mic" in errors
    assert "mic/c.wav: no recording named c in throat" in errors


def test_the_name_of_a_sensors_folder_may_have_another_unicode_form() -> None:
    composed, split = (unicodedata.normalize(form, "é") for form in ("NFC", "NFD"))
    record(f"{split}/a.wav", 0.1)
    record("mic/a.wav", 0.3)
    record("mic/b.wav", 0.3)
    assert run("two_sensors", "--sensor", f"body={composed}", "--sensor", "noisy=mic/a.wav", "--output", "one") == 2
    assert (
        run("two_sensors", "--sensor", f"body={composed}/a.wav", "--sensor", "noisy=mic/b.wav", "--output", "two") == 0
    )
    assert run("two_sensors", "--sensor", f"body={composed}", "--sensor", "noisy=mic") == 2  # b has no partner
    assert (outputs("one"), outputs("two"), outputs()) == ([], ["a.wav"], ["a.wav"])


def test_sensors_of_different_length_are_reported_once(capsys: pytest.CaptureFixture[str]) -> None:
    for name, seconds in (("a", 0.1), ("b", 0.11), ("c", 0.105), ("d", 0.7)):
        record(f"throat/{name}.wav", seconds=0.1)
        record(f"mic/{name}.wav", seconds=seconds)
    assert run("two_sensors", "--sensor", "body=throat", "--sensor", "noisy=mic") == 2
    captured = capsys.readouterr()
    assert outputs() == ["a.wav", "b.wav", "c.wav"]
    assert captured.out.splitlines()[-1] == (
        "the sensors of 2 files differ in length, by up to 10.0 ms; their common part was restored"
    )
    assert "mic/d.wav (0.700 s) and throat/d.wav (0.100 s) differ in length by more than 0.5 s" in captured.err


def test_one_file_for_each_sensor() -> None:
    record("t.wav", 0.1)
    record("m.wav", 0.2)
    assert run("two_sensors", "--sensor", "body=t.wav", "--sensor", "noisy=m.wav") == 0
    assert level("enhanced/t.wav") == pytest.approx(0.4, abs=1e-3)


def test_sensors_must_be_those_of_the_network(capsys: pytest.CaptureFixture[str]) -> None:
    record("t/a.wav")
    assert run("two_sensors", "--sensor", "body=t", "--sensor", "air=t") == 2
    assert "--sensor names body, air; the network takes body, noisy" in capsys.readouterr().err
    assert run("two_sensors", "--sensor", "t") == 2
    assert "NAME=FOLDER" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["modle", "a.wav"], "did you mean"),
        (["model", "b.wav"], "no such file or folder: b.wav"),
        (["model", "~nobody_of_that_name/b.wav"], "no such file or folder: ~nobody_of_that_name/b.wav"),
        (["model", "empty"], "no audio in empty"),
        (["a.wav", "a.wav"], "a.wav: a sound file; the model comes first"),
    ],
)
def test_wrong_input_is_reported_in_two_lines(argv: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    record("a.wav")
    Path("empty").mkdir()
    assert run(*argv) == 2
    captured = capsys.readouterr()
    assert says in captured.err
    assert captured.err.count("\n") <= 2
    assert not captured.out


@pytest.mark.parametrize(
    "argv", [[], ["model"], ["model", "a.wav", "--sensor", "body=x"], ["model", "a", "--chunk", "0"]]
)
def test_wrong_usage_exits_with_two(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(argv)
    assert caught.value.code == 2
    assert capsys.readouterr().err.endswith("see bcfusion enhance --help\n")


def test_the_model_comes_first(capsys: pytest.CaptureFixture[str]) -> None:
    record("in/a.wav")
    for argv in (["in/a.wav", "model"], ["in", "model"]):
        assert run(*argv) == 2
        assert capsys.readouterr().err.splitlines()[-1] == f"write bcfusion enhance model {argv[0]}"
    assert run("in/a.wav", "in") == 2
    assert capsys.readouterr().err.splitlines()[-1] == "write bcfusion enhance RUN in/a.wav in"
    assert run("model", "model", "in") == 2  # not swapped
    assert "no audio in model" in capsys.readouterr().err


def test_help_has_examples(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    assert "usage: bcfusion enhance" in text
    assert HELP.partition("examples:")[2].strip() in text


@pytest.mark.slow
def test_module_is_cheap_to_import() -> None:
    code = "import sys, bcfusion.commands.enhance; print({'torch', 'numpy', 'soundfile', 'hydra'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**os.environ})
    assert done.stdout.strip() == "set()"


def test_network_of_the_working_directory_is_found(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BCFUSION_TRUST", "my_nets_of_enhance_test")
    (workplace / "my_nets_of_enhance_test.py").write_text(
        f"from {__name__} import Double\nclass Mine(Double):\n    pass\n", encoding="utf-8"
    )
    text = (workplace / "model" / "config.yaml").read_text()
    (workplace / "model" / "config.yaml").write_text(text.replace(f"{__name__}.Double", "my_nets_of_enhance_test.Mine"))
    record("a.wav")
    assert run("model", "a.wav") == 0


def test_what_is_special_about_a_files_length_is_said_and_all_of_it_restored(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    Path("in").mkdir()
    frames = 20_000
    odd_sounds.mp3(Path("in/vbr.mp3"), frames, header=False)
    odd_sounds.unfinished(Path("in/crashed.wav"), frames, 0)
    links = [odd_sounds.ogg(Path(f"{seed}.ogg"), frames, seed=seed) for seed in range(2)]
    odd_sounds.chain(Path("in/chain.ogg"), *links)
    odd_sounds.cut(odd_sounds.ogg(Path("in/cut.opus"), 5 * RATE, "OPUS"), 0.6)
    Path("in/phone.m4a").touch()
    assert run("model", "in") == 0
    said = capsys.readouterr().out
    lengths = {name: soundfile.info(f"enhanced/{name}.wav").frames for name in ("vbr", "crashed", "chain", "cut")}
    assert (lengths["crashed"], lengths["chain"]) == (frames, 2 * frames)
    assert frames <= lengths["vbr"] < frames + 3 * 1152
    assert 0 < lengths["cut"] < 5 * RATE
    assert "note: in/vbr.mp3: no header states its length: " in said
    assert "note: in/crashed.wav: its header states no length: read to the end of the file" in said
    assert "note: in/chain.ogg: a chain of 2 streams" in said
    assert f"note: in/cut.opus: its end is missing, {lengths['cut'] / RATE:.3f} s can be read" in said
    assert "in: left out: 1 .m4a cannot be read: convert" in caplog.text
