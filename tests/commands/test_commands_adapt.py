from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from bcfusion.adaptation.report import FORMAT
from bcfusion.cli import main
from bcfusion.files import write_text
from bcfusion.generators.seanet import SEANet
from bcfusion.run.bundle import save_bundle

SIZES = {"channels": 2, "strides": [2, 4], "dilations": [1], "bottleneck_channels": 4}
RATE = 16000


@pytest.fixture
def model(tmp_path: Path) -> Path:
    config = {"_target_": "bcfusion.generators.seanet.SEANet", **SIZES}
    return save_bundle(tmp_path / "start", SEANet(**SIZES), config, ["body"], {"step": 1})


def noise_pair(root: Path, seconds: float, seed: int = 0) -> tuple[str, str]:
    """Write a pair whose two files have nothing in common; return its folders."""
    rng = np.random.default_rng(seed)
    for side in ("body", "air"):
        (root / side).mkdir(exist_ok=True)
        soundfile.write(root / side / "one.wav", 0.1 * rng.standard_normal(round(seconds * RATE)).clip(-5, 5), RATE)
    return str(root / "body"), str(root / "air")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give --pairs MANIFEST, or --body DIR and --air DIR"),
        (["--body", "x"], "give --pairs MANIFEST, or --body DIR and --air DIR"),
        (["--pairs", "x.jsonl", "--minutes", "0"], "0 is not a number above zero"),
        (["--pairs", "x.jsonl", "--minutes", "2", "--steps", "3"], "give --minutes or --steps, not both"),
        (["--pairs", "x.jsonl", "--share", "1"], "1 is not a number from 0 to 0.95"),
        (["--pairs", "x.jsonl", "--share", "0.2"], "--share is the share of --speech, which is not given"),
    ],
)
def test_half_a_command_is_refused(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["adapt", "RUN", *arguments, "--output", "adapted"])
    assert message in capsys.readouterr().err


def test_pairs_that_do_not_belong_together_are_named_and_nothing_is_written(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    body, air = noise_pair(tmp_path, 1.0)
    output = tmp_path / "adapted"
    assert main(["adapt", str(model), "--body", body, "--air", air, "--output", str(output)]) == 2
    printed = capsys.readouterr()
    assert "refused: one: body and air are not one take: their envelopes correlate by 0." in printed.out
    assert "0 usable recordings with 0.0 s in all; 1 recording is refused: at least 10 s" in printed.err
    assert not output.exists()


def test_only_an_adaptation_is_replaced_and_only_on_demand(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    body, air = noise_pair(tmp_path, 0.5)
    start = ["adapt", str(model), "--body", body, "--air", air, "--output"]
    assert main([*start, str(model), "--overwrite"]) == 2
    assert "exists and is no adaptation" in capsys.readouterr().err
    made = tmp_path / "made"
    made.mkdir()
    (made / "report.json").write_text(json.dumps({"format": "bcfusion adaptation"}))
    assert main([*start, str(made)]) == 2
    assert "add --overwrite" in capsys.readouterr().err
    assert main([*start, str(made), "--overwrite"]) == 2  # goes on to the pairs
    assert "0 usable recordings" in capsys.readouterr().err
    assert (made / "report.json").is_file()


def test_an_output_that_cannot_be_written_is_reported_before_anything_is_trained(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    body, air = noise_pair(tmp_path, 0.5)
    start = ["adapt", str(model), "--body", body, "--air", air, "--output"]
    (tmp_path / "file").touch()
    assert main([*start, str(tmp_path / "file" / "x" / "adapted")]) == 2
    printed = capsys.readouterr()
    assert f"{tmp_path / 'file'} is a file, not a folder" in printed.err
    assert "refused" not in printed.out
    assert main([*start, "."]) == 2
    assert "--output .: the working directory lies in it" in capsys.readouterr().err
    assert main([*start, str(tmp_path / "new" / "deep" / "adapted")]) == 2  # goes on to the pairs
    assert "0 usable recordings" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_a_file_of_a_manifest_that_is_missing_is_left_out_with_a_warning(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    noise_pair(tmp_path, 0.5)
    rows = [{"id": name, "split": "test", "air": "air/one.wav", "body": f"body/{name}.wav"} for name in ("one", "two")]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = ["adapt", str(model), "--pairs", str(tmp_path / "pairs.jsonl"), "--output", str(tmp_path / "out")]
    assert main(command) == 2
    printed = capsys.readouterr()
    assert "0 usable recordings with 0.0 s in all; 1 recording is refused" in printed.err
    assert "two.wav" in caplog.text + printed.err


def test_folders_that_do_not_exist_are_named_as_they_were_typed(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sides = ["--body", str(tmp_path / "no"), "--air", str(tmp_path / "none")]
    assert main(["adapt", str(model), *sides, "--output", str(tmp_path / "out")]) == 2
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith(f"--body: no such folder: {tmp_path / 'no'}")
    assert second.startswith(f"--air: no such folder: {tmp_path / 'none'}")
    body, air = noise_pair(tmp_path, 0.5)
    words = ["--body", body, "--air", air, "--speech", str(tmp_path / "nowhere"), "--output", str(tmp_path / "out")]
    assert main(["adapt", str(model), *words]) == 2
    assert f"--speech {tmp_path / 'nowhere'}: no such folder or manifest" in capsys.readouterr().err


def test_a_model_that_does_not_exist_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    body, air = noise_pair(tmp_path, 0.5)
    command = ["adapt", str(tmp_path / "none"), "--body", body, "--air", air, "--output", str(tmp_path / "out")]
    assert main(command) == 2
    assert "no model at" in capsys.readouterr().err


@pytest.mark.parametrize("overwrite", [False, True])
def test_what_another_process_has_written_meanwhile_is_replaced_on_demand_only(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, overwrite: bool
) -> None:
    body, air = noise_pair(tmp_path, 2.0)
    output, written = tmp_path / "adapted", []
    (tmp_path / "adapted-2").mkdir()

    def adapt(*_: object, **__: object) -> object:
        assert not output.exists()
        write_text(output / "report.json", json.dumps({"format": FORMAT}))  # by the other one
        return object()

    monkeypatch.setattr("bcfusion.adaptation.adapt.adapt", adapt)
    monkeypatch.setattr("bcfusion.adaptation.report.report_text", lambda *_: "the report")
    monkeypatch.setattr("bcfusion.adaptation.report.write_adaptation", lambda _, folder: written.append(folder))
    options = ["--overwrite"] if overwrite else []
    arguments = ["adapt", str(model), "--body", body, "--air", air, "--steps", "1", "--output", str(output), *options]
    assert main(arguments) == 0
    expected = output if overwrite else tmp_path / "adapted-3"
    assert written == [expected]
    printed = capsys.readouterr()
    assert (f"this adaptation is in {expected}" in printed.err) is not overwrite
    assert f"{expected}: bcfusion enhance {expected} RECORDINGS" in printed.out


@pytest.mark.slow
@pytest.mark.corpora
def test_real_pairs_adapt_and_the_bundle_restores(
    model: Path, tmp_path: Path, corpora: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sides = ["--body", str(corpora / "throat_pairs" / "throat"), "--air", str(corpora / "throat_pairs" / "air")]
    output = tmp_path / "adapted"
    assert main(["adapt", str(model), *sides, "--steps", "2", "--output", str(output)]) == 0
    printed = capsys.readouterr().out
    assert "8 recordings, 40 s; 4 folds; up to 2 steps each" in printed
    assert "gain over the start: STOI" in printed
    assert {file.name for file in output.iterdir()} == {
        *("config.yaml", "generator.safetensors", "report.json", "report.md")
    }
    one = corpora / "throat_pairs" / "throat" / "00.flac"
    assert main(["enhance", str(output), str(one), "--output", str(tmp_path / "restored")]) == 0
