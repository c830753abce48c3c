from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from bcfusion import audio
from bcfusion.commands import USER_ERROR, exit_status
from bcfusion.commands.prepare import main
from bcfusion.data.corpora.listing import ManifestCorpus

ROOT = Path(__file__).resolve().parents[2]
CORPORA = [
    *("vibravox", "taps", "abcs", "esmb", "vctk", "librispeech", "libritts", "common_voice"),
    *("dns_challenge", "musan", "demand", "rirs", "folder", "pairs", "stereo"),
]


@pytest.fixture(autouse=True)
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    for split, speaker in (("train", "ann"), ("train", "bob"), ("valid", "eve")):
        audio.write(tmp_path / f"speech/{split}/{speaker}/1.wav", np.zeros(8000), 8000)
    return tmp_path


def run(*argv: str) -> int:
    return exit_status(main, list(argv))


def test_a_folder_becomes_a_manifest_that_the_data_takes(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("folder", "--root", "speech", "--out", "new/m.jsonl") == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[0] == "new/m.jsonl: 3 recordings"
    assert shown[1].split() == ["train", "2", "files", "2", "speakers", "0.00", "h", "8000", "Hz"]
    corpus = ManifestCorpus("new/m.jsonl")
    assert [row.speaker for row in corpus.rows("train")] == ["ann", "bob"]
    assert [row.duration for row in corpus.rows("valid")] == [1.0]


@pytest.mark.parametrize(
    ("splits", "words"),
    [
        ([], ["no recordings in test: final scores are measured on valid"]),
        (
            ["--splits", "train"],
            ["no recordings in valid: training needs some", "with --splits speakers", "change the column split"],
        ),
        (["--splits", "test"], ["no recordings in train: the manifest serves evaluation only"]),
        (["--splits", "speakers"], []),
    ],
)
def test_a_split_without_recordings_is_named_with_what_to_do(
    splits: list[str], words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("folder", "--root", "speech", "--out", "m.jsonl", *splits) == 0
    shown = capsys.readouterr().out
    assert all(word in shown for word in words)
    assert ("no recordings" in shown) == bool(words)


def test_recordings_of_unknown_speakers_are_not_counted_as_a_speaker(
    workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    audio.write(workplace / "flat/1.wav", np.zeros(8000), 8000)
    assert run("folder", "--root", "flat", "--splits", "train", "--out", "m.jsonl") == 0
    shown = capsys.readouterr().out
    assert "1 files unknown speakers" in shown
    assert "--splits speakers" not in shown  # there is nobody to divide


def test_an_existing_manifest_is_kept(capsys: pytest.CaptureFixture[str]) -> None:
    Path("m.csv").write_text("mine")
    assert run("folder", "--root", "speech", "--out", "m.csv") == USER_ERROR
    assert "m.csv exists: --overwrite replaces it" in capsys.readouterr().err
    assert Path("m.csv").read_text() == "mine"
    assert run("folder", "--root", "speech", "--out", "m.csv", "--overwrite") == 0
    assert Path("m.csv").read_text().startswith("id,split,")


@pytest.mark.slow
def test_the_list_names_every_corpus_without_loading_torch(workplace: Path) -> None:
    code = "import sys; from bcfusion.commands.prepare import main; main(['--list']); assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment())
    assert done.returncode == 0, done.stderr
    names = {line.split()[0] for line in done.stdout.splitlines()}
    assert names == set(CORPORA)


@pytest.mark.parametrize("name", CORPORA)
def test_the_help_of_a_corpus_shows_layout_source_and_options(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    from bcfusion.commands.prepare import _adapter

    with pytest.raises(SystemExit) as leaving:
        main([name, "--help"])
    assert leaving.value.code == 0
    shown = capsys.readouterr().out
    adapter = _adapter(name)
    for text in (adapter.summary, adapter.source, *adapter.layout.splitlines()):
        assert text in shown
    for option in adapter.options:
        assert f"--{option.name} " in shown


def test_a_name_that_is_not_a_corpus(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("librispech", "--root", ".", "--out", "m.jsonl") == USER_ERROR
    assert "did you mean 'librispeech'?" in capsys.readouterr().err
    assert run("tree", "--root", ".", "--out", "m.jsonl") == USER_ERROR  # a module in the folder of the adapters
    assert "has no ADAPTER" in capsys.readouterr().err
    assert run("my.corpus", "--root", ".", "--out", "m.jsonl") == USER_ERROR
    assert "there is no module my.corpus" in capsys.readouterr().err


def test_options_before_the_corpus_are_reported(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as leaving:
        main(["--root", "speech", "--out", "m.jsonl", "folder"])
    assert leaving.value.code == 2
    assert "the corpus comes first: bcfusion prepare CORPUS --root" in capsys.readouterr().err


def test_an_out_that_is_no_manifest_and_wrong_values_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("folder", "--root", "speech", "--out", "m.txt") == USER_ERROR
    assert "ends in .jsonl or .csv" in capsys.readouterr().err
    for wrong in (["--workers", "0"], ["--max-unreadable-share", "2"], ["--splits", "some"], ["--speech", "x"]):
        with pytest.raises(SystemExit) as leaving:
            main(["folder", "--root", "speech", "--out", "m.jsonl", *wrong])
        assert leaving.value.code == 2


def test_a_corpus_without_a_downloader_says_where_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("common_voice", "--root", ".", "--out", "m.jsonl", "--download") == USER_ERROR
    shown = capsys.readouterr().err
    assert "get it from https://commonvoice.mozilla.org/datasets" in shown
    assert "clips/common_voice_en_1.mp3" in shown


def test_what_is_left_out_is_reported_and_too_much_ends_the_run(capsys: pytest.CaptureFixture[str]) -> None:
    Path("speech/train/ann/2.wav").write_text("no sound")
    assert run("folder", "--root", "speech", "--out", "m.jsonl") == USER_ERROR
    shown = capsys.readouterr().err.splitlines()
    assert shown[0] == "1 of 4 recordings are left out: 1 unreadable"
    assert len(shown) == 3
    assert run("folder", "--root", "speech", "--out", "m.jsonl", "--max-unreadable-share", "0.25") == 0
    captured = capsys.readouterr()
    assert captured.err.splitlines()[0] == "1 of 4 recordings are left out: 1 unreadable"
    assert "3 recordings, 3 of them known from an earlier run" in captured.out


def test_shards_are_made_of_an_existing_manifest(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("bcfusion.data.loading.shards.write")
    assert run("folder", "--root", "speech", "--out", "m.jsonl") == 0
    lines = Path("m.jsonl").read_text().splitlines()
    Path("m.jsonl").write_text("\n".join(line for line in lines if '"bob"' not in line))  # as a user may thin it out
    assert run("folder", "--root", "speech", "--out", "m.jsonl", "--shards", "tars") == 0
    assert "tars: 2 shards of 2 recordings" in capsys.readouterr().out
    assert sorted(path.name for path in Path("tars").glob("*.tar")) == ["train-000000.tar", "valid-000000.tar"]


# ---------------------------------------------------------------- an interrupted run

SLOW = '''
import os
import time
from bcfusion import audio
from bcfusion.data.preparation.adapters import Option, Recording

info = audio.info
if os.environ.get("SLOW"):
    audio.info = lambda path: (time.sleep(0.01), info(path))[1]


class Slow:
    """Recordings that are all one file, on a disk that takes 10 ms."""

    summary, source, layout, kind = "slow", "here", "ROOT/a.wav", "speech"
    options = (Option("count", "of recordings", "400"),)

    def recordings(self, root, options, unpacked):
        for number in range(int(options["count"])):
            yield Recording(str(number), "train", "s", {"air": root / "a.wav"})


ADAPTER = Slow()
'''


def environment(**more: str) -> dict[str, str]:
    return os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])} | more


def restore_interrupts() -> None:
    # a shell ignores them in what it starts in the background, which tests may be
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_run_that_was_killed_resumes_where_it_stopped(workplace: Path, how: signal.Signals) -> None:
    (workplace / "mine").mkdir()
    (workplace / "mine/slow.py").write_text(SLOW)
    audio.write(workplace / "a.wav", np.zeros(800), 8000)
    command = [sys.executable, "-m", "bcfusion", "prepare", "mine.slow", "--root", ".", "--workers", "1", "--out"]
    journal = workplace / "m.jsonl.partial"
    with subprocess.Popen(
        [*command, "m.jsonl"],
        env=environment(SLOW="1"),
        stderr=subprocess.PIPE,
        text=True,
        cwd=workplace,
        preexec_fn=restore_interrupts,
    ) as process:
        deadline = time.monotonic() + 60
        while not journal.exists() or journal.read_bytes().count(b"\n") < 65:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(how)
        _, errors = process.communicate(timeout=30)
    assert process.returncode == (130 if how == signal.SIGINT else -how)
    if how == signal.SIGINT:
        assert "interrupted: the same command resumes from" in errors
        assert "Traceback" not in errors
    assert not (workplace / "m.jsonl").exists()
    known = journal.read_bytes().count(b"\n") - 1
    assert 64 <= known < 400

    again = subprocess.run([*command, "m.jsonl"], env=environment(), capture_output=True, text=True, cwd=workplace)
    assert f"400 recordings, {known} of them known from an earlier run" in again.stdout, again.stderr
    whole = subprocess.run([*command, "whole.jsonl"], env=environment(), capture_output=True, text=True, cwd=workplace)
    assert whole.returncode == 0, whole.stderr
    assert (workplace / "m.jsonl").read_text() == (workplace / "whole.jsonl").read_text()
    assert [json.loads(line)["id"] for line in (workplace / "m.jsonl").open()] == [str(number) for number in range(400)]
    assert not journal.exists()
