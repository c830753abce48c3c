"""Paths in a configuration."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import DictConfig, OmegaConf

from bcfusion.configuration.compose import plain
from bcfusion.configuration.locations import absolute_paths, is_path_key, relative_paths
from bcfusion.configuration.paths import conf_dir
from bcfusion.configuration.values import at


@pytest.mark.parametrize(
    ("typed", "keys"),
    [
        ("data=folder data.root=x", ["data.root", "data.corpus.root"]),
        (
            "data=manifest data.path=x metrics=[wer] metrics.wer.command=cat",
            ["data.path", "metrics.wer.transcripts"],
        ),
        ("data=pairs data.body=x data.air=x", ["data.body", "data.air", "data.corpus.air"]),
        ("recipe=fusion data.noise_root=x data.room_root=x", ["data.noise_root", "degradation.noisy.noise_root"]),
        ("degradation=transfer_function degradation.body.calibration=x", ["degradation.body.calibration"]),
        ("degradation=recorded_noise degradation.body.noise_root=x", ["degradation.body.noise_root"]),
        ("experiment=voicefixer generator.mel_from=x generator.vocoder_from=x", ["generator.mel_from"]),
        ("metrics=[nisqa] metrics.nisqa.weights=x", ["metrics.nisqa.weights"]),
        ("init_from=x output_root=x", ["init_from", "output_root"]),
    ],
)
def test_no_path_depends_on_the_working_directory(
    composed: Callable[..., DictConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, typed: str, keys: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    cfg = composed(*typed.split())
    config = plain(cfg)
    made = absolute_paths(config)
    assert {at(made, key) for key in keys} == {str(tmp_path / "x")}
    written = [each.partition("=")[0] for each in typed.split() if each.endswith("=x")]
    assert sorted(relative_paths(cfg)) == sorted(key for key in written if key != "output_root")
    assert {at(config, key) for key in keys} == {"x"}


@pytest.mark.parametrize("value", ["https://host/{a,b}.tar", "/elsewhere", None, ["https://host/a.tar"]])
def test_urls_and_absolute_paths_stay(value: object) -> None:
    assert absolute_paths({"data": {"root": value}}) == {"data": {"root": value}}


def test_what_is_no_path_stays() -> None:
    config = {"balancer": {"weights": "given"}, "data": {"corpus": {"splits": {"train": "train"}}}, "name": "runs"}
    assert absolute_paths(config) == config


def test_no_shipped_key_that_is_taken_for_a_path_holds_a_word() -> None:
    """A run records its paths as absolute ones, so a word among them would be another one when the run is resumed."""
    taken: dict[str, str] = {}

    def look(node: object, above: str) -> None:
        if isinstance(node, dict):
            for key, value in node.items():
                look(value, f"{above}.{key}" if above else str(key))
        elif isinstance(node, str) and is_path_key(above) and node != "???" and "${" not in node:
            taken[above] = node

    for file in conf_dir().rglob("*.yaml"):
        if "hydra" not in file.relative_to(conf_dir()).parts:
            look(OmegaConf.to_container(OmegaConf.load(file)), "")
    assert taken == {"output_root": "runs"}
