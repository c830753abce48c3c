"""The model card says what is recorded, and says so where something is not."""

from __future__ import annotations

import ast
import re
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from made_up_runs import made_up_run, utterances

from bcfusion.errors import CheckpointError
from bcfusion.generators.seanet import SEANet
from bcfusion.hub.card import card_text, code
from bcfusion.hub.facts import Facts, OnnxFacts, facts_of
from bcfusion.hub.front_matter import licence_id
from bcfusion.run.building import build_generator
from bcfusion.run.bundle import bundle_of, load_generator, save_bundle
from bcfusion.run.card import Card
from bcfusion.run.description import find_bundle
from bcfusion.run.models import SHIPPED

SIZES: dict[str, Any] = {"channels": 2, "strides": [2, 4], "dilations": [1], "bottleneck_channels": 4}
CONFIG = {"_target_": "bcfusion.generators.seanet.SEANet", **SIZES}


def facts(model: Path) -> Facts:
    generator = load_generator(model)
    bundle = bundle_of(generator)
    folder = find_bundle(model)
    assert bundle is not None
    assert folder is not None
    return facts_of(model, generator, bundle, folder / "generator.safetensors")


def front(text: str) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load(text.split("---\n")[1])
    return content


def cells(text: str, row: str) -> list[str]:
    """The cells of the one row of the tables that begins so."""
    [line] = [line for line in text.splitlines() if line.startswith(f"| {row} |")]
    return [cell.strip() for cell in line.strip("|").split("|")][1:]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A finished run with a bundle."""
    folder = made_up_run(tmp_path / "run", closing=utterances(0.8), input_stoi=0.6)
    training = {"recipe": "bone_to_air", "experiment": "seanet", "step": 200, "losses": {"l1": {"weight": 2.0}}}
    for file in (folder / "bundle").iterdir():
        file.unlink()
    save_bundle(folder / "bundle", SEANet(**SIZES), CONFIG, ["body"], training)
    return folder


def test_a_run_gets_its_scores_with_intervals_beside_those_of_the_input(run: Path) -> None:
    text = card_text(facts(run), "me/throat", licence="cc-by-4.0")
    assert "Restores air-conducted speech from a body-conduction sensor." in text
    values = np.array(utterances(0.8))
    assert cells(text, "")[:2] == ["STOI ↑", "LSD ↓"]
    found = re.fullmatch(r"([\d.]+) \[([\d.]+), ([\d.]+)\]", cells(text, "output")[0])
    assert found is not None
    mean, low, high = map(float, found.groups())
    assert mean == pytest.approx(values[:, 0].mean(), abs=5e-4)
    assert low < mean < high
    assert high - low == pytest.approx(2 * 1.96 * values[:, 0].std() / np.sqrt(20), rel=0.2)
    assert cells(text, "input")[0].startswith("0.6")
    assert re.fullmatch(r"\+0\.\d{3} \[\+0\.\d{3}, \+0\.\d{3}\]", cells(text, "change of input")[0])
    assert "On the test files: 20 utterances." in text  # how many speakers is not recorded
    matter = front(text)
    assert matter["license"] == "cc-by-4.0"
    assert matter["library_name"] == "bcfusion"
    assert matter["pipeline_tag"] == "audio-to-audio"
    assert "bone-conduction" in matter["tags"]
    [result] = matter["model-index"][0]["results"]
    assert {metric["type"]: metric["value"] for metric in result["metrics"]}["stoi"] == pytest.approx(mean, abs=5e-4)
    assert "datasets" not in matter
    assert "language" not in matter
    for line in (
        "- recipe: `bone_to_air`",
        "- steps: 200",
        "- losses: `l1` (weight 2)",
        "the demo corpus, which bcfusion",
    ):
        assert line in text


def test_another_checkpoint_than_the_best_does_not_get_the_scores_of_the_best(run: Path) -> None:
    from bcfusion.run import checkpoint

    network = SEANet(**SIZES)
    content = {"config": {"generator": CONFIG, "task": {"sensors": ["body"]}}, "generator": network.state_dict()}
    for name in ("best", "step-100"):
        checkpoint.write(run / "checkpoints" / f"{name}.ckpt", {**content, "step": 100, "training": {}})

    def of(file: Path) -> Facts:
        generator = load_generator(file)
        bundle = bundle_of(generator)
        assert bundle is not None
        return facts_of(file, generator, bundle, run / "bundle" / "generator.safetensors")

    assert of(run / "checkpoints" / "best.ckpt").scores is not None
    adapted = save_bundle(run / "adapted", network, CONFIG, ["body"], {})  # another model, in the folder of the run
    assert of(adapted).scores is None
    assert of(adapted).session == {}
    text = card_text(of(run / "checkpoints" / "step-100.ckpt"), "me/x")
    assert "It has no scores: how well it does is not recorded." in text
    assert "model-index" not in front(text)


def test_what_a_bare_bundle_does_not_record_is_said_to_be_unknown(tmp_path: Path) -> None:
    folder = save_bundle(tmp_path / "bundle", SEANet(**SIZES), CONFIG, ["body"], {})
    text = card_text(facts(folder), "me/x", without_onnx="it was left out.")
    for line in (
        "What it was trained to restore is not recorded.",
        "It has no scores: how well it does is not recorded.",
        "- data: its name and its licence are not recorded",
        "| licence | not stated |",
        "There is no `model.onnx`: it was left out.",
    ):
        assert line in text
    matter = front(text)
    assert set(matter) == {"library_name", "pipeline_tag", "tags"}
    assert "real-time" not in text.partition("## Use")[2]
    assert not re.search(r"None|nan|\[\]|\{\}", text.partition("```")[0])


@pytest.mark.parametrize("name", sorted(folder.name for folder in SHIPPED.iterdir() if folder.is_dir()))
def test_a_shipped_model_keeps_the_words_of_its_card(name: str) -> None:
    known = facts(SHIPPED / name)
    assert known.card is not None
    text = card_text(known, f"me/{name}")
    for words in (known.card.summary, *known.card.helps, *known.card.limits, *known.card.notes, *known.card.training):
        assert words in text
    for corpus in known.card.data:
        assert corpus.licence in text
        assert corpus.attribution in text
        assert corpus.notice in text
    assert known.card.scores is not None
    for score in known.card.scores.metrics.values():
        assert score.interval is not None
    assert re.search(r"\[.+, .+\]", cells(text, "change")[0])
    matter = front(text)
    assert matter["license"] == "mit"
    assert "openslr/librispeech_asr" in matter["datasets"]
    assert ("streaming" in matter["tags"]) == known.bundle.causal
    values = {metric["type"]: metric["value"] for metric in matter["model-index"][0]["results"][0]["metrics"]}
    assert values == {key: round(score.enhanced, 5) for key, score in known.card.scores.metrics.items()}
    assert ("latency | it needs the whole file" in text) == (known.bundle.delay is None)
    if name == "throat_causal":
        assert "32.0 ms: a frame of 16.0 ms and 16.0 ms of look-ahead" in text
        assert matter["language"] == ["en", "fr", "ko"]
    if name == "fusion":
        assert "--sensor body=body.wav --sensor noisy=noisy.wav" in text
        assert 'enhance_file(model, ["body.wav", "noisy.wav"], "restored.wav")' in text


def test_a_network_of_somebodys_own_asks_for_consent(tmp_path: Path) -> None:
    known = facts(save_bundle(tmp_path / "bundle", SEANet(**SIZES), CONFIG, ["body"], {}))
    text = card_text(replace(known, own_code="helmet.Net", adapted_to=7), "me/x")
    assert 'load_generator("hf:me/x", trust_code=True)' in text
    assert "recording.wav --output restored --trust-code" in text
    assert "The network needs `helmet.Net`, which is neither part of bcfusion nor of this repository" in text
    assert "- adapted to 7 recorded pairs" in text


def test_of_a_flow_the_card_names_the_network_the_path_and_the_steps(tmp_path: Path) -> None:
    config = {
        "_target_": "bcfusion.objectives.bridge.Bridge",
        "path": {"_target_": "bcfusion.objectives.paths.Flow"},
        "domain": "waveform",
        "steps": 5,
        "network": {**CONFIG, "_partial_": True},
    }
    bridge = build_generator(config, tmp_path)
    text = card_text(facts(save_bundle(tmp_path / "bundle", bridge, config, ["body"], {})), "me/x")
    assert "| network | `SEANet` along a `Flow`, in 5 steps |" in text


def test_the_exported_file_is_described_as_it_was_measured(tmp_path: Path) -> None:
    known = facts(save_bundle(tmp_path / "bundle", SEANet(**SIZES), CONFIG, ["body"], {}))
    text = card_text(replace(known, onnx=OnnxFacts(0, 123_456, 3e-6, 0.0123)), "me/x")
    assert "differs from that of the network by at most 3e-06" in text
    assert "0.012 in onnxruntime, on one thread of the machine that exported it" in text
    assert "ONNX 0.12 MB" in text
    assert "onnx" in front(text)["tags"]


@pytest.mark.parametrize(
    ("stated", "known"),
    [
        ("MIT; name the authors of the data", "mit"),
        ("CC BY 4.0", "cc-by-4.0"),
        ("CC BY-NC-SA 4.0 (data)", "cc-by-nc-sa-4.0"),
        ("Apache 2.0", "apache-2.0"),
        ("CC0", "cc0-1.0"),
        ("ours, not to be passed on", None),
        ("", None),
    ],
)
def test_licences_have_the_names_of_the_hub(stated: str, known: str | None) -> None:
    assert licence_id(stated) == known


@pytest.mark.parametrize("name", ["a", "body mic", "`", "a`b``c", "x\n## y", "<b>|[a](b)"])
def test_names_of_a_run_stay_in_their_place(name: str) -> None:
    text = code(name)
    assert "\n" not in text
    fence = re.match("`+", text)
    assert fence is not None
    inside = text[fence.end() : -fence.end()]
    assert text == fence[0] + inside + fence[0]
    assert fence[0] not in re.findall("`+", inside)  # a run of as many would end it
    assert inside.strip() == " ".join(name.split())


def test_names_of_sensors_do_not_break_what_is_to_be_typed(tmp_path: Path) -> None:
    sensors = ['Kehlkopf "links"', "Größe's"]
    config = {**CONFIG, "in_channels": 2, "causal": True}
    known = facts(save_bundle(tmp_path / "bundle", SEANet(**SIZES, in_channels=2, causal=True), config, sensors, {}))
    text = card_text(known, "me/x")
    python, shell = (text.split(f"```{kind}\n")[1].split("```")[0] for kind in ("python", "bash"))
    [call] = [line for line in python.splitlines() if line.startswith("enhance_file")]
    assert ast.literal_eval(call.removeprefix("enhance_file(model, ").removesuffix(', "restored.wav")')) == [
        f"{sensor}.wav" for sensor in sensors
    ]
    enhance = shlex.split(shell.splitlines()[0])
    assert [enhance[n + 1] for n, word in enumerate(enhance) if word == "--sensor"] == [
        f"{sensor}={sensor}.wav" for sensor in sensors
    ]
    stream = shlex.split(shell.splitlines()[1])
    assert stream[stream.index("--channels") + 1] == f"{sensors[0]}=1,{sensors[1]}=2"


def test_the_licence_is_the_same_everywhere(tmp_path: Path) -> None:
    known = facts(save_bundle(tmp_path / "bundle", SEANet(**SIZES), CONFIG, ["body"], {}))
    for stated, given, identifier in (
        ("MIT; name the authors", None, "mit"),
        ("MIT; name the authors", "mit", "mit"),
        ("llama3", "llama3", "llama3"),
    ):
        text = card_text(replace(known, card=Card("x", stated, ())), "me/x", licence=given)
        assert front(text)["license"] == identifier
        assert cells(text, "licence") == [stated]
    for stated in ("CC BY 4.0", "ours, not to be passed on"):
        with pytest.raises(CheckpointError, match=r"--licence mit differs from the licence in card\.yaml, "):
            card_text(replace(known, card=Card("x", stated, ())), "me/x", licence="mit")


def test_a_card_that_only_says_how_it_would_be_scored_does_not_hide_what_was_measured(run: Path) -> None:
    card = {"summary": "x", "licence": "MIT", "data": [], "scores": {"what": "Ten held-out speakers."}}
    (run / "card.yaml").write_text(yaml.safe_dump(card))
    text = card_text(facts(run), "me/x")
    assert "On the test files: 20 utterances." in text
    assert "stoi" in str(front(text)["model-index"])
