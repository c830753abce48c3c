"""Models by name: which there are, what a MODEL means, and their cards."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from bcfusion.errors import CheckpointError
from bcfusion.generators.seanet import SEANet
from bcfusion.run import models
from bcfusion.run.bundle import load_generator, save_bundle
from bcfusion.run.card import read_card
from bcfusion.run.description import find_bundle
from bcfusion.run.models import named_models, resolve_model

TINY = {"channels": 2, "strides": [2, 4], "dilations": [1], "bottleneck_channels": 4}
CONFIG = {"_target_": "bcfusion.generators.seanet.SEANet", **TINY}
CARD: dict[str, Any] = {
    "summary": "A throat microphone.",
    "licence": "CC BY 4.0",
    "data": [{"name": "pairs", "licence": "CC0"}],
    "sensors": {"body": "on the neck"},
    "helps": ["speech"],
    "scores": {
        "what": "out of fold",
        "utterances": 16,
        "metrics": {"stoi": {"input": 0.6, "enhanced": 0.7, "change": 0.1, "interval": [0.05, 0.15]}},
    },
}


def make(folder: Path) -> Path:
    torch.manual_seed(0)
    return save_bundle(folder, SEANet(**TINY), CONFIG, ["body"], {"recipe": "bone_to_air"})


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory beside shipped/throat, shipped/fusion and the user's own/throat, own/helmet."""
    for name in ("shipped/throat", "shipped/fusion", "own/helmet", "own/run/bundle"):
        make(tmp_path / name)
    (tmp_path / "own" / "recordings").mkdir()
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    monkeypatch.setattr(models, "SHIPPED", tmp_path / "shipped")
    monkeypatch.delenv("BCFUSION_MODELS", raising=False)
    return tmp_path


def test_models_are_the_folders_with_a_bundle_and_the_own_ones_come_first(
    places: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert list(named_models()) == ["fusion", "throat"]
    make(places / "own" / "throat")
    monkeypatch.setenv("BCFUSION_MODELS", f"{places / 'nowhere'}:{places / 'own'}")
    found = named_models()
    assert list(found) == ["helmet", "run", "throat", "fusion"]
    assert not found["throat"].shipped
    assert found["throat"].hides == (places / "shipped" / "throat",)
    note = resolve_model("throat").note
    assert note == f"throat: the model in {places / 'own'} (BCFUSION_MODELS), not the shipped model of that name"
    assert resolve_model("run").path == places / "own" / "run"
    with pytest.raises(
        CheckpointError, match=r"did you mean 'helmet'\?\nBCFUSION_MODELS: there is no folder .*nowhere"
    ):
        resolve_model("helmt")


def test_a_name_is_the_shipped_model_unless_a_model_is_at_that_path(places: Path) -> None:
    shipped = places / "shipped" / "throat"
    found = resolve_model("throat")
    assert (found.path, found.note) == (shipped, "throat: the shipped model")
    assert resolve_model(found.path).note is None
    Path("throat").mkdir()
    Path("throat/a.wav").touch()
    for searched in (False, True):
        found = resolve_model("throat", searched=searched)
        assert (found.path, found.note) == (shipped, "throat: the shipped model; ./throat holds no model")
    assert resolve_model("./throat") == resolve_model("throat/") == models.Resolved(Path.cwd() / "throat")
    with pytest.raises(CheckpointError, match=r"cwd/throat is neither a bundle"):
        load_generator(resolve_model("./throat").path)  # not the shipped one
    Path("throat/seed1").mkdir()
    Path("throat/seed1/run.json").touch()  # a folder of runs
    assert find_bundle(Path("x" * 300)) is None  # no name of a file
    assert resolve_model("throat").path == shipped
    assert resolve_model("throat", searched=True).note == "throat: ./throat, not the shipped model of that name"
    make(Path("throat/bundle"))
    found = resolve_model("throat")
    assert (found.path, found.note) == (Path("throat"), "throat: ./throat, not the shipped model of that name")
    assert found.named is None


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("troat", "troat: no such run, bundle or shipped model; did you mean 'throat'?"),
        ("Fusion", "Fusion: no such run, bundle or shipped model; did you mean 'fusion'?"),
        ("zzz", "zzz: no such run, bundle or shipped model; bcfusion models lists those with a name"),
        ("runs/zzz", "no model at runs/zzz: give a run directory, a bundle or a .ckpt; there is no folder runs"),
        ("zzz.ckpt", "no model at zzz.ckpt: give a run directory, a bundle or a .ckpt"),
    ],
)
def test_an_unknown_name_gets_the_nearest(places: Path, given: str, says: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        load_generator(given)
    assert str(caught.value) == says


def test_without_any_model_names_are_paths(places: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "SHIPPED", places / "absent")
    assert named_models() == {}
    with pytest.raises(CheckpointError, match=r"^throat: no such run, bundle or shipped model$"):
        load_generator("throat")
    make(Path("throat"))
    assert resolve_model("throat") == models.Resolved(Path("throat"))


def test_a_model_is_loaded_by_its_name_in_python(places: Path) -> None:
    generator = load_generator("throat")
    x = torch.randn(1, 1, 500, generator=torch.Generator().manual_seed(0))
    assert torch.equal(generator(x), load_generator(places / "shipped" / "throat")(x))
    assert generator.bundle.training == {"recipe": "bone_to_air"}


# ---------------------------------------------------------------- cards


def test_a_card_is_read_as_it_was_written(tmp_path: Path) -> None:
    file = tmp_path / "card.yaml"
    assert read_card(file) is None
    file.write_text(yaml.safe_dump(CARD))
    card = read_card(file)
    assert card is not None
    assert card.scores is not None
    assert card.scores.metrics["stoi"].interval == (0.05, 0.15)
    assert math.isclose(card.scores.metrics["stoi"].change, 0.1)
    file.write_text(yaml.safe_dump(card.plain()))
    assert read_card(file) == card


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"licence": None}, "licence is missing"),
        ({"summary": ""}, "summary must be text, not ''"),
        ({"data": "LibriSpeech"}, "data must be a list, not 'LibriSpeech'"),
        ({"data": [{"name": "x"}]}, "data[0].licence is missing"),
        ({"data": [{"name": "x", "license": "CC0", "licence": "y"}]}, "did you mean 'licence'?"),
        ({"limts": []}, "limts is no key of a card; did you mean 'limits'?"),
        ({"helps": [1]}, "helps must be a list of texts; 1 is none"),
        ({"scores": {"what": "x", "metrics": {"stoi": {"input": "a"}}}}, "scores.metrics.stoi.input must be a number"),
        ({"scores": {"what": "x", "utterances": -1}}, "scores.utterances must be a whole number"),
        ({"format": 2}, "update it"),
    ],
)
def test_a_damaged_card_names_the_file_and_the_key(tmp_path: Path, changes: dict[str, Any], says: str) -> None:
    (tmp_path / "card.yaml").write_text(yaml.safe_dump({**CARD, **changes}))
    with pytest.raises(CheckpointError) as caught:
        read_card(tmp_path / "card.yaml")
    text = str(caught.value)
    assert text.startswith(f"{tmp_path / 'card.yaml'} is damaged: ")
    assert says in text
    assert "\n" not in text


@pytest.mark.parametrize(("content", "says"), [("a: [1\n  b: }", "not YAML"), ("- 1", "it must hold keys")])
def test_a_card_that_is_no_mapping(tmp_path: Path, content: str, says: str) -> None:
    (tmp_path / "card.yaml").write_text(content)
    with pytest.raises(CheckpointError, match=says):
        read_card(tmp_path / "card.yaml")
