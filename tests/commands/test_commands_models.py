"""``bcfusion models``, and names of models in the other verbs."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import soundfile
import torch
import yaml
from torch import Tensor, nn

from bcfusion import cli
from bcfusion.commands.completion import candidates
from bcfusion.commands.shared.recorded import recorded_for_evaluation
from bcfusion.run import models
from bcfusion.run.bundle import save_bundle

ROOT = Path(__file__).parents[2]
CARD = """\
summary: Restores speech.
licence: CC BY 4.0
task: bone_to_air
sensors: {body: throat microphone}
data: [{name: AN4, amount: 5 min, licence: BSD-like, attribution: CMU, notice: All rights reserved.}]
helps: [close talk]
limits: [whispering]
scores:
  what: Out of fold.
  command: bcfusion evaluate RUN
  utterances: 16
  metrics:
    stoi: {input: 0.665, enhanced: 0.75, change: 0.085, interval: [0.05, 0.12]}
    lsd: {input: 2.0, enhanced: 1.5, change: -0.5, higher_is_better: false}
training: [bcfusion train seed=0]
"""


class Half(nn.Module):
    """Half of the last sensor."""

    provides: tuple[str, ...] = ()

    def __init__(self, in_channels: int = 1) -> None:
        super().__init__()
        self.sample_rate, self.in_channels, self.hop, self.causal, self.delay = 16000, in_channels, 1, True, 0
        self.gain = nn.Parameter(torch.tensor(0.5))

    def forward(self, inputs: Tensor) -> Tensor:
        return self.gain * inputs[:, -1:]


@pytest.fixture
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the shipped models throat, with a card, and fusion; the working directory has a recording."""
    folder = tmp_path / "pretrained"
    for name, sensors in (("throat", ["body"]), ("fusion", ["body", "noisy"])):
        config = {"_target_": f"{__name__}.Half", "in_channels": len(sensors)}
        save_bundle(folder / name, Half(len(sensors)), config, sensors, {}, dtype=torch.float16)
    (folder / "throat" / "card.yaml").write_text(CARD)
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(models, "SHIPPED", folder)
    monkeypatch.delenv("BCFUSION_MODELS", raising=False)
    monkeypatch.setenv("COLUMNS", "100")
    soundfile.write("in.wav", [0.5] * 800, 16000)
    return folder


def test_the_list_and_the_card_show_data_licences_scores_and_size(
    shipped: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["models"]) == 0
    listed = " ".join(capsys.readouterr().out.split())
    for text in (
        *("throat: Restores speech. task bone_to_air, body at 16 kHz latency 0.0 ms", "data AN4 (BSD-like)"),
        *("STOI 0.665 → 0.750", "fusion: it has no card task", "body, noisy at 16 kHz", "data no card", "size 0.0 MB"),
    ):
        assert text in listed, text
    assert cli.main(["models", "throat"]) == 0
    card = capsys.readouterr().out
    for text in (
        *("body, throat microphone", "stored in float16", "- close talk", "- whispering", "AN4, 5 min: BSD-like, CMU"),
        *("AN4: All rights reserved.", "[+0.050, +0.120]", "LSD ↓", "bcfusion evaluate RUN", "CC BY 4.0"),
        *("0.0 ms: it is causal", "bcfusion train seed=0", str(shipped / "throat")),
    ):
        assert text in card, text


def test_json_has_everything(shipped: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["models", "--json"]) == 0
    fusion, throat = json.loads(capsys.readouterr().out)
    assert (fusion["name"], fusion["sensors"], fusion["card"]) == ("fusion", ["body", "noisy"], None)
    assert (throat["parameters"], throat["dtype"], throat["shipped"]) == (1, "float16", True)
    assert throat["card"]["scores"]["metrics"]["stoi"]["interval"] == [0.05, 0.12]
    assert throat["bytes"] == sum(file.stat().st_size for file in (shipped / "throat").iterdir())
    assert cli.main(["models", "throat", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == throat


def test_without_models_it_says_so(
    shipped: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models, "SHIPPED", shipped / "absent")
    monkeypatch.setenv("BCFUSION_MODELS", "nowhere")
    assert cli.main(["models"]) == 0
    printed = capsys.readouterr()
    assert printed.out.startswith("there is no model with a name")
    assert "BCFUSION_MODELS: there is no folder " in printed.err
    assert cli.main(["models", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == []
    assert cli.main(["models", "throat"]) == 2
    assert "there is no model named throat" in capsys.readouterr().err


def test_what_is_damaged_is_reported_and_the_others_are_listed(
    shipped: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (shipped / "throat" / "card.yaml").write_text("summary: 3")
    assert cli.main(["models"]) == 0
    printed = capsys.readouterr()
    assert "throat" in printed.out
    assert f"without its card: {shipped / 'throat' / 'card.yaml'} is damaged: summary must be text" in printed.err
    assert cli.main(["models", "throat"]) == 2
    assert "summary must be text" in capsys.readouterr().err
    for content in (b"short", struct.pack("<Q", 2) + b"[]", struct.pack("<Q", 9) + b'{"x": {}}'):
        (shipped / "fusion" / "generator.safetensors").write_bytes(content)
        assert cli.main(["models", "--json"]) == 0
        printed = capsys.readouterr()
        assert [each["name"] for each in json.loads(printed.out)] == ["throat"]
        assert "left out: " in printed.err
    assert cli.main(["models", "troat"]) == 2
    assert "did you mean 'throat'?\nmodels: fusion, throat" in capsys.readouterr().err


def test_enhance_takes_a_name_and_says_which_model_it_was(shipped: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["enhance", "throat", "in.wav", "--output", "out"]) == 0
    assert capsys.readouterr().out.startswith("throat: the shipped model\n[1/1] in.wav")
    assert abs(soundfile.read("out/in.wav")[0][400] - 0.25) < 1e-3
    assert cli.main(["enhance", "in.wav", "throat"]) == 2
    assert "write bcfusion enhance throat in.wav" in capsys.readouterr().err
    assert cli.main(["enhance", "troat", "in.wav"]) == 2
    assert "troat: no such run, bundle or shipped model; did you mean 'throat'?" in capsys.readouterr().err


def test_enhance_explains_what_a_model_of_several_sensors_needs(
    shipped: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    card = {**yaml.safe_load(CARD), "sensors": {"body": "throat microphone", "noisy": "any microphone"}}
    (shipped / "fusion" / "card.yaml").write_text(yaml.safe_dump(card))
    with pytest.raises(SystemExit):
        cli.main(["enhance", "fusion"])
    needs = capsys.readouterr().err
    assert "fusion takes body (throat microphone) and noisy (any microphone)" in needs
    assert "give --sensor body=FOLDER --sensor noisy=FOLDER, or recordings" in needs
    assert cli.main(["enhance", "fusion", "in.wav"]) == 2
    assert "the model takes 2 in one file (body, noisy)" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        cli.main(["enhance", "throat"])
    assert "give recordings, or --sensor NAME=FOLDER" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("sensors", "training", "expected"),
    [
        (["body"], {}, ["experiment=identity", "recipe=bone_to_air", "sample_rate=16000", "machine=cpu"]),
        (
            ["body", "noisy"],
            {"recipe": "x"},
            ["experiment=identity", "recipe=fusion", "sample_rate=16000", "machine=cpu"],
        ),
        (["narrow"], {}, ["experiment=identity", "recipe=bandwidth_extension", "sample_rate=16000", "machine=cpu"]),
        (
            ["a", "b"],
            {},
            ["experiment=identity", "task.sensors=[a,b]", "degradation=none", "sample_rate=16000", "machine=cpu"],
        ),
        (["body"], {"overrides": ["experiment=seanet", "init_from=x"]}, ["experiment=seanet", "machine=cpu"]),
        (["body"], {"overrides": ["experiment=seanet", "machine=gpu"]}, ["experiment=seanet", "machine=gpu"]),
    ],
)
def test_a_bundle_that_records_no_settings_is_evaluated_in_the_recipe_of_its_sensors(
    tmp_path: Path, sensors: list[str], training: dict[str, object], expected: list[str]
) -> None:
    content = {"sensors": sensors, "sample_rate": 16000, "training": training}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(content))
    assert recorded_for_evaluation(tmp_path) == expected


@pytest.mark.slow
def test_evaluate_and_listen_take_a_name_and_pairs(shipped: Path, capsys: pytest.CaptureFixture[str]) -> None:
    generator = torch.Generator().manual_seed(0)
    for name in ("body", "air"):
        Path(name).mkdir()
        for number in range(2):
            sound = 0.1 * torch.randn(16000, generator=generator)
            soundfile.write(f"{name}/{number}.wav", sound.numpy(), 16000)
    pairs = ["data=pairs", "data.body=body", "data.air=air", "metrics=[si_sdr]"]
    assert cli.main(["evaluate", "throat", *pairs, "output=scores"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("throat: the shipped model\n")
    assert "\nthroat on the test files:" in printed
    assert Path("scores/scores.csv").read_text().count("\n") == 5
    assert cli.main(["listen", "throat", *pairs]) == 0
    assert "listen.html: 2 utterances" in capsys.readouterr().out
    assert cli.main(["listen", "troat"]) == 2
    assert "did you mean 'throat'?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("bcfusion models ", ["fusion", "throat"]),
        ("bcfusion models throat ", []),
        ("bcfusion models --j", ["--json"]),
        ("bcfusion enhance thr", ["throat", "throat_recordings/"]),
        ("bcfusion enhance in", []),  # the shell completes file names
        ("bcfusion enhance throat in", []),
        ("bcfusion evaluate f", ["fusion"]),
        ("bcfusion adapt f", ["fusion"]),
        ("bcfusion listen RUN thr", ["throat", "throat_recordings/"]),
        ("bcfusion listen ", []),
        ("bcfusion train init_from=f", ["init_from=fusion"]),
    ],
)
def test_names_are_completed(shipped: Path, line: str, found: list[str]) -> None:
    Path("throat_recordings").mkdir()
    assert candidates(line) == found


@pytest.mark.parametrize("word", ["zoo", "pretrained", "list"])
def test_words_of_other_programs_lead_to_the_verb(word: str) -> None:
    assert "did you mean 'models'?" in cli.unknown_verb(word, [])


def test_a_name_in_the_place_of_the_verb_is_answered_with_what_to_type(shipped: Path) -> None:
    assert cli.unknown_verb("throat", ["in.wav"]).endswith("a model\nwrite bcfusion enhance throat in.wav")


@pytest.mark.slow
def test_the_list_loads_neither_torch_nor_hydra(shipped: Path) -> None:
    code = (
        "import sys; from bcfusion.cli import main; assert main(['models', '--json']) == 0\n"
        "heavy = {'torch', 'hydra', 'omegaconf', 'lightning'} & set(sys.modules); assert not heavy, heavy"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": str(ROOT), "BCFUSION_MODELS": str(shipped), "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "throat" in done.stdout
