"""A shipped model is made of a bundle, a card and tables of scores; and those that are shipped are whole."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch
import yaml
from script_loading import load_script

from bcfusion.generators.seanet import SEANet
from bcfusion.run.bundle import load_generator, save_bundle
from bcfusion.run.card import Card, read_card
from bcfusion.run.description import read_description
from bcfusion.run.models import SHIPPED

TINY = {"channels": 2, "strides": [2, 4], "dilations": [1], "bottleneck_channels": 4}
CONFIG = {"_target_": "bcfusion.generators.seanet.SEANet", **TINY}
OVERRIDES = [
    *("recipe=bone_to_air", "experiment=seanet", "generator.channels=2", "sample_rate=16000"),
    *("data=pairs", "data.body=/home/me/body", "init_from=runs/x", "budget.minutes=3", "seed=1", "generator.x_from=/y"),
]
CARD = """\
summary: A throat microphone.
licence: CC BY 4.0
sensors: {body: on the neck}
data: [{name: pairs, licence: CC0}]
scores: {what: Out of fold., command: bcfusion evaluate RUN}
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory with a bundle, a card and the scores of two folds, one of them with two seeds."""
    torch.manual_seed(0)
    losses = {"l1": {"_target_": "bcfusion.losses.waveform.L1Loss", "weight": 2.0}}
    training = {
        **{"recipe": "bone_to_air", "step": 7, "config_dir": "/home/me/conf", "overrides": OVERRIDES},
        "losses": losses,
    }
    save_bundle(tmp_path / "bundle", SEANet(**TINY), CONFIG, ["body"], training)
    (tmp_path / "card.yaml").write_text(CARD)
    folds = {"a": [("u1", 0.5, 0.6), ("u2", 0.6, 0.8)], "b": [("u3", 0.7, 0.8)], "c": [("u3", 0.7, 1.0)]}
    for name, rows in folds.items():
        with (tmp_path / f"{name}.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["id", "system", "speaker", "corpus", "snr", "stoi", "skipped"])
            for item, before, after in rows:
                writer.writerow([item, "input", "", "", "", before, ""])
                writer.writerow([item, "enhanced", "", "", "", after, ""])
    monkeypatch.chdir(tmp_path)
    return tmp_path


def ship(*arguments: str) -> int:
    status: int = load_script("ship_model").main(
        ["bundle", "--name", "throat", "--card", "card.yaml", "--output", "models", *arguments]
    )
    return status


def test_a_model_is_shipped_with_its_scores_and_without_the_machine(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ship("--scores", "a.csv", "b.csv", "c.csv", "--metrics", "stoi") == 0
    printed = capsys.readouterr().out
    assert "float16 weights: the output has an SNR of " in printed
    assert "of at most 8 in the package" in printed
    folder = place / "models" / "throat"
    assert sorted(file.name for file in folder.iterdir()) == ["card.yaml", "config.yaml", "generator.safetensors"]
    card = read_card(folder / "card.yaml")
    assert isinstance(card, Card)
    assert card.scores is not None
    assert card.scores.utterances == 3
    stoi = card.scores.metrics["stoi"]
    assert (stoi.input, stoi.enhanced, stoi.change) == (0.6, 0.76667, 0.16667)  # of u3 the mean of two seeds
    assert stoi.interval is not None
    assert 0.1 <= stoi.interval[0] < stoi.change < stoi.interval[1] <= 0.2
    assert "stored in float16: the output has an SNR of " in card.notes[-1]
    assert "home" not in (folder / "config.yaml").read_text()
    bundle = read_description(folder)
    assert bundle.dtype == "float16"
    assert bundle.training == {
        "recipe": "bone_to_air",
        "step": 7,
        "losses": {"l1": {"_target_": "bcfusion.losses.waveform.L1Loss", "weight": 2.0}},  # by which it is adapted
        "overrides": ["recipe=bone_to_air", "experiment=seanet", "generator.channels=2", "sample_rate=16000"],
    }
    x = torch.randn(1, 1, 800, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(load_generator(folder)(x), load_generator(place / "bundle")(x), rtol=0, atol=1e-2)
    assert ship() == 2
    assert "--overwrite" in capsys.readouterr().err
    assert ship("--overwrite", "--dtype", "float32") == 0
    assert "SNR of inf dB" in capsys.readouterr().out
    assert read_description(folder).dtype == "float32"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--card", "none.yaml"], "there is no card at none.yaml"),
        (["--least-snr", "200"], "is below --least-snr 200"),
        (["--scores", "a.csv"], "a.csv has no pesq_wb of input"),
        (["--scores", "a.csv", "--metrics", "stoi", "--input", "noisy"], "a.csv has no stoi of noisy"),
        (["--scores", "card.yaml"], "no columns id and system"),
        (["--signal", "a.wav", "b.wav"], "2 sounds for a network of 1 sensors"),
    ],
)
def test_a_model_that_cannot_be_shipped_leaves_nothing(
    place: Path, arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ship(*arguments) == 2
    assert says in capsys.readouterr().err
    assert not (place / "models").exists()


def test_a_card_of_other_sensors_is_refused(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "card.yaml").write_text(CARD.replace("body", "forehead"))
    assert ship() == 2
    assert "sensors names forehead; the network takes ['body']" in capsys.readouterr().err


# ---------------------------------------------------------------- what is shipped


def incomplete(folder: Path) -> list[str]:
    """Return what the folder of a shipped model lacks."""
    card, bundle = read_card(folder / "card.yaml"), read_description(folder)
    if card is None:
        return ["a card"]
    texts = [*(file.read_text() for file in folder.glob("*.yaml"))]
    parts = {
        "a sentence on every sensor": card.sensors.keys() == set(bundle.sensors),
        "float16 weights": bundle.dtype == "float16",
        "scores": card.scores is not None and bool(card.scores.metrics) and bool(card.scores.command),
        "intervals": card.scores is not None and all(each.interval for each in card.scores.metrics.values()),
        "where it helps and where not": bool(card.helps and card.limits),
        "the commands of its training": bool(card.training),
        "attributions": all(corpus.attribution for corpus in card.data),
        "nothing of a machine": not any(place in text for text in texts for place in ("/home/", "/tmp/", "/work/")),
    }
    return [part for part, present in parts.items() if not present]


def test_every_shipped_model_is_whole() -> None:
    folders = [folder for folder in SHIPPED.iterdir() if folder.is_dir()]
    assert {folder.name: incomplete(folder) for folder in folders} == {folder.name: [] for folder in folders}


def test_an_incomplete_model_is_found(place: Path) -> None:
    assert ship() == 0
    folder = place / "models" / "throat"
    missing = incomplete(folder)
    assert "scores" in missing
    assert "the commands of its training" in missing
    assert "float16 weights" not in missing
    card = yaml.safe_load((folder / "card.yaml").read_text())
    (folder / "card.yaml").write_text(yaml.safe_dump({**card, "training": ["bcfusion train data.body=/work/x"]}))
    assert "nothing of a machine" in incomplete(folder)
    (folder / "card.yaml").unlink()
    assert incomplete(folder) == ["a card"]
