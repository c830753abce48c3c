"""What the scripts of the recipes type: every configuration is one that trains, every command one that there is."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import DictConfig

from bcfusion.configuration.check import verify
from bcfusion.configuration.compose import drop_unchosen

ROOT = Path(__file__).parents[2]
# writes down what is typed, and makes the files whose absence would make the script type it again, or end
STANDS_IN = """\
#!/usr/bin/env bash
printf '%s\\n' "$@" | python3 -c 'import json, sys; print(json.dumps(sys.stdin.read().splitlines()))' >>"$TYPED"
for word in "$@"; do
  case $word in
    hydra.run.dir=* | resume=*)
      mkdir -p "${word#*=}/bundle" "${word#*=}/checkpoints"
      touch "${word#*=}/checkpoints/last.ckpt" "${word#*=}/bundle"
      printf -- '- %s\\n' "$@" >"${word#*=}/overrides.yaml"
      ;;
    output=*) mkdir -p "${word#*=}" && echo id >"${word#*=}/scores.csv" ;;
  esac
  [ "${before:-}" != --out ] || echo '{}' >"$word"
  [ "${before:-}" != --output ] || { mkdir -p "$word" && echo '{}' >"$word/report.json"; }
  before=$word
done
"""
# ships nothing, but divides a manifest
PYTHON = f"""\
#!/usr/bin/env bash
[[ $1 != *manifest_fold.py ]] || exec {sys.executable} "$@"
"""
WAYS = ["regression", "gan", "pesq", "flow", "bridge", "bridge_pesq"]


def typed_by(place: Path, script: str, *words: str, **environment: str) -> list[list[str]]:
    """Return the commands that a script types."""
    binaries = place / "bin"
    binaries.mkdir(exist_ok=True)
    for name, body in (("bcfusion", STANDS_IN), ("python", PYTHON)):
        (binaries / name).write_text(body)
        (binaries / name).chmod(0o755)
    typed = place / "typed"
    path = f"{binaries}{os.pathsep}{os.environ['PATH']}"
    subprocess.run(
        ["bash", str(ROOT / "recipes" / script), *words],
        cwd=place,
        env={**os.environ, **environment, "PATH": path, "TYPED": str(typed)},
        check=True,
        capture_output=True,
        timeout=120,
    )
    return [json.loads(line) for line in typed.read_text().splitlines()]


def check_trainings(commands: list[list[str]], composed: Callable[..., DictConfig]) -> list[DictConfig]:
    """Check that each training composes, with nothing to complain of but files that the stand-in did not make."""
    configurations = [composed(*words[1:]) for words in commands if words[0] == "train"]
    for cfg in configurations:
        drop_unchosen(cfg)
        assert [p for p in verify(cfg) if "sensor.json" not in p and "other.json" not in p and "/noise" not in p] == []
    return configurations


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    file = tmp_path / "pairs" / "pairs.jsonl"
    file.parent.mkdir()
    lines = [{"id": str(n), "split": "train" if n else "test", "air": f"air/{n}.wav"} for n in range(4)]
    file.write_text("".join(json.dumps({**line, "body": f"throat/{line['id']}.wav"}) + "\n" for line in lines))
    return file


@pytest.mark.slow
@pytest.mark.parametrize(
    ("network", "task"),
    [
        ("unet_causal", []),
        ("dpcrn", ["recipe=bandwidth_extension"]),
        ("dpcrn", ["degradation=any_sensor", "seed=3"]),
    ],
)
def test_objectives(tmp_path: Path, composed: Callable[..., DictConfig], network: str, task: list[str]) -> None:
    commands = typed_by(tmp_path, "bone_to_air/objectives.sh", "speech", "out", network, *task, MINUTES="7")
    trained = check_trainings(commands, composed)
    folders = [word for words in commands for word in words if word.startswith("hydra.run.dir=")]
    assert [folder.removeprefix("hydra.run.dir=out/") for folder in folders] == WAYS
    assert {cfg.budget.minutes for cfg in trained} == {7}
    named = {"unet_causal": "UNetCausal", "dpcrn": "DPCRN"}
    assert {cfg.generator._target_.rpartition(".")[2] for cfg in trained} == {named[network]}
    assert {len(cfg.critics) for cfg in trained} == {0}
    assert {cfg.seed for cfg in trained} == {3 if "seed=3" in task else 0}
    assert {cfg.task.name for cfg in trained} == {
        "bandwidth_extension" if task[:1] == ["recipe=bandwidth_extension"] else "bone_to_air"
    }
    simulated = {node._target_.rpartition(".")[2] for cfg in trained for node in cfg.degradation.values()}
    assert ("AnySensor" in simulated) == ("degradation=any_sensor" in task)
    assert [cfg.objective.get("steps") for cfg in trained] == [None, None, None, 5, 1, 1]
    assert [sorted(cfg.losses) for cfg in trained] == [
        ["mr_stft", "si_snr"],
        ["feature_matching", "mr_stft", "si_snr"],
        ["mr_stft", "pesq_surrogate", "si_snr"],
        ["prediction_mse"],
        ["mr_stft", "si_snr"],
        ["mr_stft", "pesq_surrogate", "si_snr"],
    ]
    assert [list(cfg.discriminators) for cfg in trained] == [[], ["pqmf_bands"], [], [], [], []]
    scored = [words for words in commands if words[0] == "evaluate" and words[1] != "--scores"]
    steps = [next((w for w in words if w.startswith("steps=")), "") for words in scored]
    assert steps == ["", "", "", *(f"steps={n}" for n in (5, 1, 1, 5, 1, 5))]
    assert commands[-1][:2] == ["evaluate", "--scores"]
    assert len([word for word in commands[-1] if word.endswith("scores.csv")]) == 9
    (tmp_path / "typed").unlink()
    again = typed_by(tmp_path, "bone_to_air/objectives.sh", "speech", "out", network, *task, MINUTES="7")
    assert again == commands[-1:], "what is there is neither trained nor scored again"
    (tmp_path / "typed").unlink()
    longer = typed_by(tmp_path, "bone_to_air/objectives.sh", "speech", "out", network, *task, MINUTES="9")
    assert [words[1:] for words in longer if words[0] == "train"] == [
        [f"resume=out/{way}", "trainer.max_steps=null", "budget.minutes=9"] for way in WAYS
    ]
    assert [words for words in longer if words[0] == "evaluate"] == [*scored, commands[-1]]
    shutil.rmtree(tmp_path / "out" / "gan" / "bundle")  # as while a training goes on
    (tmp_path / "typed").unlink()
    interrupted = typed_by(tmp_path, "bone_to_air/objectives.sh", "speech", "out", network, *task, MINUTES="9")
    assert [words[1] for words in interrupted if words[0] == "train"] == ["resume=out/gan"]
    with pytest.raises(subprocess.CalledProcessError) as ended:
        typed_by(tmp_path, "bone_to_air/objectives.sh", "speech", "out", network, *task, "seed=7", MINUTES="9")
    assert b"out holds results of other settings: choose another OUT. What differs:" in ended.value.stderr
    assert b"> seed=7" in ended.value.stderr


@pytest.mark.slow
def test_folds_over_a_sensor_start_from_another_sensor_or_from_all_kinds(
    tmp_path: Path, composed: Callable[..., DictConfig], pairs: Path
) -> None:
    rows = "simulation start adapted fresh"
    commands = typed_by(
        tmp_path, "bone_to_air/real_sensor.sh", str(pairs), "any", "speech", "out", ROWS=rows, COUNT="2", NOISE="/noise"
    )
    [start, *simulated] = check_trainings(commands, composed)
    assert start.degradation.body._target_.endswith("AnySensor")
    assert start.degradation.body.kinds.contact.leak_root == "/noise"
    assert [cfg.degradation.body._target_.rpartition(".")[2] for cfg in simulated] == ["TransferFunction"] * 2
    adapted = [words for words in commands if words[0] == "adapt"]
    assert ["--fresh" in words for words in adapted] == [False, True] * 2
    assert [word.partition("=")[0] for word in commands[-1] if "scores.csv" in word or "simulation/" in word] == [
        "start",
        *["simulation", "adapted", "fresh"] * 2,
    ]
    (tmp_path / "typed").unlink()
    commands = typed_by(
        tmp_path, "bone_to_air/real_sensor.sh", str(pairs), "any", "speech", "out", ROWS=rows, COUNT="2", NOISE="/noise"
    )
    assert {words[0] for words in commands} == {"calibrate", "evaluate"}, "what is there is not trained again"
    for other, count, says in (
        ("any", "3", b"were trained on other recordings"),
        ("other.jsonl", "2", b"start was trained for any, not other.jsonl: choose another OUT"),
    ):
        words = [str(pairs), other, "speech", "out"]
        with pytest.raises(subprocess.CalledProcessError) as ended:
            typed_by(tmp_path, "bone_to_air/real_sensor.sh", *words, ROWS=rows, COUNT=count, NOISE="/noise")
        assert says in ended.value.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "words", "trainings"),
    [
        ("bone_to_air/quality.sh", ["speech", "out"], 6),
        ("bone_to_air/real_sensor.sh", ["pairs/pairs.jsonl", "other.jsonl", "speech", "out"], 5),
        ("bone_to_air/shipped.sh", ["pairs/pairs.jsonl", "speech", "out"], 5),
        ("bandwidth_extension/shipped.sh", ["speech.jsonl", "out"], 1),
        ("fusion/shipped.sh", ["pairs/pairs.jsonl", "speech", "/noise", "out"], 5),
    ],
)
def test_other_scripts(
    tmp_path: Path, composed: Callable[..., DictConfig], pairs: Path, script: str, words: list[str], trainings: int
) -> None:
    commands = typed_by(tmp_path, script, *words)
    assert len(check_trainings(commands, composed)) == trainings
    assert {words[0] for words in commands} <= {"train", "evaluate", "calibrate", "adapt"}
    if "fusion" in script:  # which data=... would leave out
        scored = [words for words in commands if words[0] == "evaluate" and words[1] != "--scores"]
        assert all("data.noise_root=/noise" in words for words in scored)
        assert len(scored) == 12
    for held in tmp_path.rglob("held.jsonl"):
        lines = [json.loads(line) for line in held.read_text().splitlines()]
        assert {line["split"] for line in lines} == {"test"}
        assert {line["body"] for line in lines} <= {str(pairs.parent / "throat" / f"{n}.wav") for n in range(4)}
