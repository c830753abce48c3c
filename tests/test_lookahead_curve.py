"""scripts/lookahead_curve.py: each look-ahead is trained and evaluated once, and quality stands at its latency."""

from __future__ import annotations

import csv
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image
from script_loading import load_script

from bcfusion import audio
from bcfusion.generators.dpcrn import DPCRN
from bcfusion.run.bundle import save_bundle

ROOT = Path(__file__).parents[1]
RATE = 16000
SMALL = {"channels": [4, 4], "freq_kernels": [5, 3], "freq_strides": [2, 2], "blocks": 1}


@pytest.fixture
def script() -> ModuleType:
    return load_script("lookahead_curve")


def cells(table: str) -> dict[str, list[str]]:
    """The cells of each row by its first one."""
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines() if line[:1] == "|"]
    return {name: rest for name, *rest in rows}


def test_the_table_has_the_latency_and_the_paired_difference(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    called: list[list[str]] = []

    def pretend(*arguments: str) -> None:
        """Leave what the verbs leave: an untrained bundle, and scores that rise by 0.001 for each millisecond."""
        called.append(list(arguments))
        given = dict(argument.split("=", 1) for argument in arguments if "=" in argument)
        if arguments[0] == "train":
            ahead = float(given["generator.lookahead_ms"])
            config = {"_target_": "bcfusion.generators.dpcrn.DPCRN", **SMALL, "lookahead_ms": ahead}
            network = DPCRN(**SMALL, lookahead_ms=ahead)  # type: ignore[arg-type]
            save_bundle(Path(given["output_root"]) / "task" / "net" / "now" / "bundle", network, config, ["body"], {})
            return
        folder = Path(given["output"])
        folder.mkdir(exist_ok=True)
        ahead = float(folder.parent.name.removesuffix("ms"))
        with (folder / "scores.csv").open("w", newline="") as text:
            writer = csv.writer(text)
            metrics = re.findall(r"\w+", given["metrics"])
            writer.writerow(["id", "system", *metrics])
            for number in range(8):
                for system, level in (("input (body)", 0.5), ("input (noisy)", 0.4), ("enhanced", 0.6 + 0.001 * ahead)):
                    writer.writerow([f"u{number}", system, *[level + 0.01 * number] * len(metrics)])

    monkeypatch.setattr(script, "bcfusion", pretend)
    asked = ["experiment=dpcrn", "data=folder", "--lookahead", "40", "0", "--steps", "7", "--metrics", "stoi"]
    assert script.main([*asked, "--output", str(tmp_path / "curve")]) == 0
    assert [arguments[0] for arguments in called] == ["train", "evaluate"] * 2
    assert {"experiment=dpcrn", "data=folder", "trainer.max_steps=7", "resume=auto"} < set(called[0])
    (tmp_path / "curve" / "40ms" / "evaluation" / "scores.csv").unlink()  # its evaluation was interrupted
    (tmp_path / "curve" / "40ms" / "evaluation").rmdir()
    capsys.readouterr()
    assert script.main([*asked, "--output", str(tmp_path / "curve")]) == 0
    assert [arguments[0] for arguments in called[4:]] == ["evaluate"]
    printed = capsys.readouterr().out
    assert printed.startswith((tmp_path / "curve" / "lookahead.md").read_text())
    rows = cells(printed)
    assert list(rows) == ["look-ahead", "---:", "input (body)", "input (noisy)", "0 ms", "40 ms"]
    assert rows["input (body)"][1].startswith("0.535 [0.5")
    assert rows["input (noisy)"][1].startswith("0.435 [0.4")
    assert rows["0 ms"][0] == "25 ms"
    assert re.fullmatch(r"0\.635 \[0\.6\d\d, 0\.6\d\d\]", rows["0 ms"][1])
    assert rows["40 ms"][0] == "75 ms", "40 ms are four hops of 12.5 ms"
    assert rows["40 ms"][1].endswith("; +0.040 [+0.040, +0.040]")
    with Image.open(tmp_path / "curve" / "lookahead.png") as picture:
        assert min(picture.size) > 300

    assert script.main([*asked, "--output", str(tmp_path / "curve")]) == 0
    assert len(called) == 5, "what is there is not computed again"

    script.main([*asked, "estoi", "--output", str(tmp_path / "curve")])
    assert [arguments[0] for arguments in called[5:]] == ["evaluate"] * 2, "another metric needs no training"
    del called[5:]

    with pytest.raises(SystemExit):
        script.main(["experiment=gtcrn", *asked[1:], "--output", str(tmp_path / "curve")])
    assert "holds another curve (budget.minutes=null trainer.max_steps=7 experiment=dpcrn" in capsys.readouterr().err
    assert len(called) == 5


def test_a_verb_that_fails_ends_the_script_with_its_status(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subprocess, "run", lambda command, **_: subprocess.CompletedProcess(command, 2))
    with pytest.raises(SystemExit) as ended:
        script.main(["experiment=mp_senet", "--steps", "1", "--output", str(tmp_path / "curve")])
    assert ended.value.code == 2


@pytest.mark.parametrize("wrong", [[], ["--steps", "3", "--minutes", "1"]])
def test_the_length_of_the_trainings_is_given_once(
    script: ModuleType, wrong: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        script.main(["experiment=gtcrn", *wrong])
    assert "--minutes" in capsys.readouterr().err


@pytest.mark.slow
def test_two_trainings_of_seconds_give_a_table_and_a_figure(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for split in ("train", "valid"):
        speech = np.convolve(random.standard_normal(2 * RATE), np.ones(8) / 8, mode="same")
        for name in "ab":
            audio.write(tmp_path / "speech" / split / f"speaker_{split}" / f"{name}.wav", 0.1 * speech, RATE)
    few = ["trainer.keep_best=[]", "trainer.samples=0", "metrics=[si_sdr]", "selection=si_sdr", "data.workers=0"]
    sizes = ["generator.channels=4", "generator.dilations=[1]", "generator.blocks=1"]
    command = ["experiment=gtcrn", "machine=cpu", "data=folder", "data.root=speech", *sizes, *few, "--steps", "3"]
    command += ["--lookahead", "0", "20", "--metrics", "si_sdr", "--output", "curve"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "lookahead_curve.py"), *command],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    rows = cells(done.stdout)
    assert [rows[name][0] for name in ("0 ms", "20 ms")] == ["32 ms", "64 ms"]
    assert all(np.isfinite(float(rows[name][1].split()[0])) for name in ("input", "0 ms", "20 ms"))
    assert (tmp_path / "curve" / "lookahead.png").read_bytes().startswith(b"\x89PNG")
