"""Folders of files that another program has enhanced, as a user types it; models are in test_commands_train."""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from bcfusion import cli
from bcfusion.commands.shared.evaluate_output import parse_groups, write_results
from bcfusion.errors import ConfigError
from bcfusion.evaluation.scores import ItemScore, Scores

RATE = 16_000


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory with clean/, noisy/ (less 0 and 10 dB) and theirs/: two speakers, three files each."""
    generator = np.random.default_rng(0)
    for number in range(6):
        speech, noise = 0.05 * generator.standard_normal((2, RATE))
        noise *= 10 ** (-(number % 2) / 2)
        for folder, signal in (("clean", speech), ("noisy", speech + noise), ("theirs", speech + 0.3 * noise)):
            path = tmp_path / folder / f"p{number // 3}" / f"u_{number}.{'flac' if folder == 'clean' else 'wav'}"
            path.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(path, signal, RATE)
    (tmp_path / "theirs/p0/u_0.wav").unlink()
    monkeypatch.chdir(tmp_path)
    return tmp_path


BOTH = ("--enhanced", "theirs", "--reference", "clean")
METRICS = "metrics=[si_sdr,lsd]"


@pytest.mark.slow
def test_folders_end_to_end(folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [*BOTH, "--input=noisy", "--name", "Their_Net", METRICS, "group_by=speaker,snr", "output=out"]
    assert cli.main(["evaluate", *arguments]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    assert "Their_Net against clean, 16000 Hz:" in printed.out
    for text in ("95 % intervals", "Their_Net − input", "Means by speaker", "Means by SNR", "means over 5 files"):
        assert text in printed.out, text
    assert "note: 1 file: references without an enhanced file, left out (first: clean/p0/u_0.flac)" in printed.out
    with Path("out/scores.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0])[:5] == ["id", "system", "speaker", "corpus", "snr"]
    assert [(row["id"], row["system"]) for row in rows] == [
        (f"p{number // 3}/u_{number}", system) for number in range(1, 6) for system in ("input", "Their_Net")
    ]
    for row in rows:
        expected = {"0": 0.0, "1": 10.0}[str(int(row["id"][-1]) % 2)] + (10.46 if row["system"] != "input" else 0.0)
        assert float(row["si_sdr"]) == pytest.approx(expected, abs=0.3)
        assert row["speaker"] == row["id"][:2]
    with Path("out/summary.csv").open(newline="") as file:
        (difference,) = (
            line
            for line in csv.DictReader(file)
            if (line["group"], line["system"], line["metric"]) == ("p1", "Their_Net - input", "si_sdr")
        )
    assert difference["count"] == "3"
    assert float(difference["low"]) <= 10.46 <= float(difference["high"]) + 0.1
    assert "## By speaker" in Path("out/scores.md").read_text()
    assert "Their\\_Net" in Path("out/scores.tex").read_text()
    assert Path("out/spread.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_several_systems_share_one_table_and_a_missing_input_is_reported(
    folders: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)  # as where pyarrow is not installed
    arguments = [*BOTH, "--name", "A", "--enhanced", "noisy", "--name", "B", METRICS, "sample_rate=8000", "output=out"]
    assert cli.main(["evaluate", *arguments]) == 0
    printed = capsys.readouterr().out
    assert "A, B against clean, 8000 Hz:" in printed
    assert "B − A" in printed
    assert "A: every metric skipped 1 of 6 (no file of that name)" in printed
    assert "note: 17 files: resampled from 16000 to 8000 Hz" in printed
    assert "note: no row for the input; --input DIR adds it" in printed
    assert printed.count("pyarrow") == 2  # one line, which names the remedy
    assert not Path("out/scores.parquet").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--enhanced", "theirs"], "give both folders"),
        (["--enhanced", "theirs", "--reference", "--name", "A"], "--reference: expected one argument"),
        (["--enhanced", "thiers", "--reference", "clean"], "did you mean theirs"),
        (["--enhanced", "empty", "--reference", "clean"], "no audio in empty"),
        (["--enhanced", "theirs/p1", "--reference", "clean"], "no names in common"),
        (["--enhanced", "clean/p1/u_3.flac", "--reference", "clean"], "is a file"),
        (["model", *BOTH], "score a model or folders, not both"),
        ([*BOTH, "--name", "input"], "'input' is taken"),
        ([*BOTH, "--name", "A", "--name", "B"], "one for each of the 1"),
        ([*BOTH, "--tolerance", "much"], "--tolerance"),
        ([*BOTH, "--tolerance", "-1"], "0 or more"),
        ([*BOTH, "-m", "sample_rate=8000,16000"], "-m: evaluate cannot sweep"),
        ([*BOTH, "split=valid"], "split: folders have none"),
        ([*BOTH, "optimizer.lr=1"], "optimizer: has no effect on enhanced files"),
        ([*BOTH, "metrics=[pesq_bw]"], "pesq_wb"),
        ([*BOTH, "metrics.lsd.n_ftt=512", "metrics=[lsd]"], "n_ftt"),
        ([*BOTH, "group_by=noise"], "speaker, corpus, snr, not noise"),
        ([*BOTH, "group_by=snr"], "--input DIR"),
        ([*BOTH, "group_by=corpus"], "not known for folders"),
        (["--enhanced", "theirs/p1", "--reference", "clean/p1", "group_by=speaker"], "no subfolders"),
        (["--enhanced", "stereo", "--reference", "clean"], "has 2 channels: give mono files"),
        (["--enhanced", "stereo", "--reference", "clean", "--input", "noisy"], "nothing to score in 1 utterances"),
        (["--enhanced", "damaged", "--reference", "clean"], "cannot read damaged/p1/u_3.wav"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_wrong_input_is_reported_in_one_or_two_lines(
    folders: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    Path("empty").mkdir()
    for folder in ("stereo/p1", "damaged/p1"):
        Path(folder).mkdir(parents=True)
    soundfile.write("stereo/p1/u_3.wav", np.zeros((RATE, 2)), RATE)
    Path("damaged/p1/u_3.wav").write_text("no sound")
    assert cli.main(["evaluate", *arguments, "output=out"]) == 2
    printed = capsys.readouterr()
    assert message in printed.err
    assert len(printed.err.strip().splitlines()) <= 2, printed.err
    assert printed.out == ""


@pytest.mark.slow
def test_a_model_may_be_in_a_folder_whose_name_looks_like_an_override(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)  # as the jobs of a sweep may be called
    Path("sweep/lr=1e-4").mkdir(parents=True)
    assert cli.main(["evaluate", "sweep/lr=1e-4"]) == 2
    assert "sweep/lr=1e-4 is neither a bundle" in capsys.readouterr().err
    assert cli.main(["evaluate", "lr=1e-4"]) == 2
    assert "name a model first" in capsys.readouterr().err


def test_groups_without_known_members_are_reported_and_get_no_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [ItemScore("u0", "input", {"stoi": 0.5}, {}, {"speaker": "anna", "corpus": ""})]
    write_results(Scores(rows, {"stoi": True}), ["corpus", "speaker"], tmp_path, "A")
    printed = capsys.readouterr().out
    assert "group_by=corpus: not known for any of these utterances" in printed
    for text in (printed, (tmp_path / "scores.md").read_text().lower(), (tmp_path / "scores.tex").read_text()):
        assert "by speaker" in text
        assert "by corpus" not in text


@pytest.mark.parametrize(
    ("text", "groups"),
    [("speaker", ["speaker"]), ("[snr,speaker]", ["snr", "speaker"]), ("snr, snr", ["snr"])],
)
def test_groups_are_one_name_or_a_list(text: str, groups: list[str]) -> None:
    assert parse_groups(text) == groups


def test_no_group_is_refused() -> None:
    with pytest.raises(ConfigError, match="not none"):
        parse_groups("[]")
