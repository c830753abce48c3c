"""``bcfusion import``, and the other verbs with the bundles that it writes."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
import yaml
from public_formats import eben_discriminators, eben_state, write_ap_bwe
from safetensors.torch import load_file, save_file

from bcfusion import cli
from bcfusion.commands.completion import candidates
from bcfusion.run.card import CARD, read_card
from bcfusion.run.description import read_description


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with the files of an AP-BWE in ``public``."""
    monkeypatch.chdir(tmp_path)
    write_ap_bwe(Path("public"))
    return tmp_path


@pytest.fixture
def pairs(speech: Path) -> list[str]:
    """Overrides that give a verb two short utterances of synthetic speech."""
    return ["data=folder", f"data.root={speech}", "data.workers=0", "trainer.max_test_items=2", "metrics=[stoi,si_sdr]"]


def run(*arguments: Any) -> int:
    return cli.main([str(argument) for argument in arguments])


def printed_command(text: str, start: str) -> list[str]:
    """The words of the command in the line that starts so."""
    line = next(line for line in text.splitlines() if line.startswith(start))
    return shlex.split(line.removeprefix(start))


def test_the_bundle_says_where_it_comes_from(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("import", "ap_bwe", "public/g_test", "--output", "models/wide") == 0
    said = capsys.readouterr().out
    assert "models/wide: AP-BWE, which extends the bandwidth of speech" in said
    assert "next: bcfusion enhance models/wide RECORDINGS" in said
    bundle = read_description(Path("models/wide"))
    assert bundle.sensors == ["narrow"]
    assert bundle.sample_rate == 16000
    origin = bundle.training["imported"]
    assert origin["source"] == "ap_bwe"
    assert sorted(origin["checkpoint"]["files"]) == ["config.json", "g_test"]
    assert all(len(digest) == 64 for digest in origin["checkpoint"]["files"].values())
    assert str(place) not in (Path("models/wide") / "config.yaml").read_text()
    card = read_card(Path("models/wide") / CARD)
    assert card is not None
    assert card.task == "bandwidth_extension"
    assert "MIT" in card.licence
    assert any(origin["checkpoint"]["files"]["g_test"] in note for note in card.notes)
    assert "It expects speech whose band ends at 2000 Hz." in card.notes


def test_models_prints_the_card(place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    run("import", "ap_bwe", "public", "--output", "models/wide")
    monkeypatch.setenv("BCFUSION_MODELS", "models")
    capsys.readouterr()
    assert run("models", "wide") == 0
    said = capsys.readouterr().out
    assert "a public checkpoint of AP-BWE" in said.replace("\n", " ")
    assert "VCTK: CC BY 4.0" in said


def test_an_existing_folder_is_replaced_only_if_it_is_a_model_and_only_on_demand(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ("import", "ap_bwe", "public", "--output", "wide")
    assert run(*command) == 0
    assert run(*command) == 2
    assert "wide holds a bundle: give --overwrite to replace it" in capsys.readouterr().err
    assert run(*command, "--overwrite") == 0
    Path("wide/notes.txt").write_text("mine")
    assert run(*command, "--overwrite") == 2
    assert "wide holds other things than a model (notes.txt)" in capsys.readouterr().err
    assert Path("wide/notes.txt").exists()


def test_sources_are_completed_and_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert candidates("bcfusion import ") == ["ap_bwe", "conv_tasnet", "dccrn", "eben", "hifigan", "hifigan_plus"]
    assert "--discriminators" in candidates("bcfusion import eben x --")
    with pytest.raises(SystemExit):
        run("import", "--help")
    said = capsys.readouterr().out
    assert "  eben          EBEN of Vibravox" in said
    assert "OWNER/NAME of the hub" in said


def test_a_mistyped_source_is_answered_by_the_nearest(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("import", "ap_bew", "public", "--output", "wide") == 2
    assert "there is no source ap_bew; did you mean 'ap_bwe'?\nsources: ap_bwe," in capsys.readouterr().err


def test_options_without_a_use_are_refused(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("import", "ap_bwe", "public", "--output", "wide", "--source-index", "1") == 2
    assert "--source-index 1: AP-BWE has one output" in capsys.readouterr().err
    assert not Path("wide").exists()


# ---------------------------------------------------------------- the other verbs


@pytest.mark.slow
def test_enhance_evaluate_listen_and_compare_take_an_imported_bundle(
    place: Path, pairs: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    run("import", "ap_bwe", "public", "--output", "models/wide")
    run("import", "ap_bwe", "public", "--output", "models/other")
    soundfile.write("recording.wav", 0.1 * np.random.default_rng(0).standard_normal(8000), 8000)
    assert run("enhance", "models/wide", "recording.wav", "--output", "restored") == 0
    restored = next(Path("restored").rglob("*.wav"))
    assert soundfile.info(restored).samplerate in (8000, 16000)
    assert soundfile.info(restored).duration == pytest.approx(1.0)

    for name in ("wide", "other"):
        assert run("evaluate", f"models/{name}", *pairs) == 0
    assert "stoi" in capsys.readouterr().out.lower()
    [scores] = Path("models/wide/evaluation").glob("*/scores.csv")
    assert {line.split(",")[1] for line in scores.read_text().splitlines()[1:]} == {"input", "enhanced"}

    assert run("listen", "models/wide", "models/other", *pairs, "--output", "page.html", "--utterances", "1") == 0
    assert "other" in Path("page.html").read_text()

    capsys.readouterr()
    assert run("compare", "models", "--scores", "closing", "--output", "table.md") == 0
    table = Path("table.md").read_text()
    assert "wide" in table
    assert "other" in table
    assert "STOI" in table


@pytest.mark.slow
def test_compare_leaves_a_bundle_out_that_was_not_evaluated(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("import", "ap_bwe", "public", "--output", "models/wide")
    assert run("compare", "models") == 2
    assert "models: no run in it" in capsys.readouterr().err


@pytest.mark.slow
def test_the_printed_command_trains_from_both_networks(
    tmp_path: Path, speech: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder, state, config in (
        ("generator", eben_state(input_bands=2), {"m": 4, "n": 32, "p": 2}),
        ("judges", eben_discriminators(q=3, min_channels=6), {"q": 3, "min_channels": 6}),
    ):
        Path(folder).mkdir()
        save_file({name: tensor.contiguous() for name, tensor in state.items()}, f"{folder}/model.safetensors")
        Path(folder, "config.json").write_text(json.dumps(config))
    assert run("import", "eben", "generator", "--discriminators", "judges", "--output", "models/throat") == 0
    words = printed_command(capsys.readouterr().out, "train from it: ")
    assert words[:3] == ["bcfusion", "train", "experiment=eben"]
    assert words[-2:] == ["init_from=models/throat", "init_discriminators=true"]
    assert "generator.input_bands=2" in words
    assert "discriminators.pqmf_bands.q=3" in words
    short = ["data.batch_size=2", "data.segment_seconds=0.128", "data.workers=0", "trainer.accelerator=cpu"]
    short += ["trainer.max_valid_items=1", "trainer.samples=1", "metrics=[stoi]", "selection=stoi"]
    short += ["trainer.keep_best=[stoi]", "trainer.max_steps=1", "trainer.validate_every=1", "optimizer.lr=1e-12"]
    data = ["data=folder", f"data.root={speech}", "adversarial.start_step=0", "trainer.max_test_items=1"]
    assert run(*words[1:], *data, *short, f"output_root={tmp_path / 'runs'}") == 0
    [trained] = (tmp_path / "runs").rglob("best.ckpt")
    content = torch.load(trained, weights_only=True)
    judges = load_file("models/throat/discriminators.safetensors")
    found = content["discriminators"]["pqmf_bands.stacks.0.logits.bias"]
    torch.testing.assert_close(found, judges["pqmf_bands.stacks.0.logits.bias"], rtol=0, atol=1e-6)
    generator = load_file("models/throat/generator.safetensors")
    torch.testing.assert_close(content["generator"]["last.weight"], generator["last.weight"], rtol=0, atol=1e-6)


def test_in_fusion_the_network_takes_the_air_microphone(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("import", "ap_bwe", "public", "--output", "a", "--recipe", "fusion") == 0
    assert read_description(Path("a")).sensors == ["noisy"]
    assert "task.sensors=[noisy]" in printed_command(capsys.readouterr().out, "train from it: ")


def test_the_sensor_and_the_recipe_can_be_chosen(place: Path) -> None:
    assert run("import", "ap_bwe", "public", "--output", "a", "--recipe", "bone_to_air", "--sensor", "temple") == 0
    content = yaml.safe_load(Path("a/config.yaml").read_text())
    assert content["sensors"] == ["temple"]
    assert content["training"]["recipe"] == "bone_to_air"
    assert "overrides" not in content["training"]  # the verbs look for a task that fits the sensor
