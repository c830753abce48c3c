"""Statistics of the training set: when they are taken, from which data, and where they are stored."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch
from conftest import TINY
from omegaconf import DictConfig
from torch import Tensor, nn

import bcfusion
from bcfusion.configuration.compose import build, drop_unchosen
from bcfusion.contracts import Batch, Fitted
from bcfusion.errors import ConfigError, DataError
from bcfusion.generators.bilstm_mapping import BiLSTMMapping
from bcfusion.run import checkpoint
from bcfusion.run.record import Provenance
from bcfusion.training.assemble import build_datamodule
from bcfusion.training.run import Result, train

Compose = Callable[..., DictConfig]
SMALL = Path(__file__).parents[1] / "generators" / "small" / "bilstm_mapping.yaml"
STATISTICS = ("input_mean", "input_deviation", "output_mean", "output_deviation")
SETTINGS = [setting for setting in TINY if not setting.startswith("generator.")]


@pytest.fixture
def mapping(composed: Compose, speech: Path) -> Compose:
    def compose(*overrides: str) -> DictConfig:
        sizes = [f"generator.{line.replace(': ', '=')}" for line in SMALL.read_text().split("\n") if line]
        cfg = composed("experiment=bilstm_mapping", "data=folder", f"data.root={speech}", *SETTINGS, *sizes, *overrides)
        drop_unchosen(cfg)
        return cfg

    return compose


@pytest.fixture
def fits(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The ids of the utterances that each call of ``fit`` got."""
    calls: list[list[str]] = []
    fit = BiLSTMMapping.fit

    def spy(self: BiLSTMMapping, batches: Iterable[Batch]) -> None:
        seen = list(batches)
        calls.append([name for batch in seen for name in batch["ids"]])
        fit(self, seen)

    monkeypatch.setattr(BiLSTMMapping, "fit", spy)
    return calls


def run(cfg: DictConfig, run_dir: Path) -> Result:
    return train(cfg, run_dir, Provenance(recipe="bone_to_air", experiment="bilstm_mapping"))


def saved(run_dir: Path) -> dict[str, Any]:
    return checkpoint.read(run_dir / "checkpoints" / "last.ckpt")


def assert_same_statistics(one: dict[str, Tensor], two: dict[str, Tensor]) -> None:
    for name in STATISTICS:
        assert torch.equal(one[name], two[name]), name


@pytest.mark.slow
def test_a_new_run_is_fitted_once_and_a_resumed_one_keeps_the_statistics(
    mapping: Compose, fits: list[list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = ["trainer.validate_every=2"]
    run(mapping(*settings, "trainer.max_steps=2"), tmp_path / "parts")
    assert len(fits) == 1
    assert "Fitted BiLSTMMapping to the training set in one pass" in capsys.readouterr().out

    datamodule = build_datamodule(mapping(*settings))
    datamodule.setup("fit")
    alone = build(mapping(*settings).generator)
    alone.fit(datamodule.pass_dataloader())
    assert float(alone.output_mean.std()) > 0.1
    first = saved(tmp_path / "parts")
    assert_same_statistics(first["generator"], alone.state_dict())
    assert_same_statistics(first["generator_ema"], alone.state_dict())
    assert_same_statistics(bcfusion.load_generator(tmp_path / "parts" / "bundle").state_dict(), alone.state_dict())

    del fits[:]
    run(mapping(*settings, "trainer.max_steps=4", f"resume={tmp_path / 'parts'}"), tmp_path / "parts")
    assert fits == []
    assert "Fitted" not in capsys.readouterr().out
    run(mapping(*settings, "trainer.max_steps=4"), tmp_path / "whole")
    whole, parts = saved(tmp_path / "whole")["generator"], saved(tmp_path / "parts")["generator"]
    for name, tensor in whole.items():
        assert torch.equal(tensor, parts[name]), name


@pytest.mark.slow
def test_a_run_that_starts_from_other_weights_keeps_their_statistics(
    mapping: Compose, fits: list[list[str]], tmp_path: Path
) -> None:
    settings = ["trainer.max_steps=1", "trainer.validate_every=1"]
    run(mapping(*settings, "data.speakers=[s00]"), tmp_path / "run")
    run(mapping(*settings, f"init_from={tmp_path / 'run'}"), tmp_path / "next")
    assert len(fits) == 1
    assert_same_statistics(saved(tmp_path / "next")["generator"], saved(tmp_path / "run")["generator"])


@pytest.mark.slow
def test_every_crop_of_an_epoch_is_in_the_pass_and_every_rank_sees_all_of_them(mapping: Compose) -> None:
    cfg = mapping("data.batch_size=3", "data.segment_seconds=0.5")
    seen = []
    for rank, world_size in ((0, 1), (0, 2), (1, 2)):
        datamodule = build_datamodule(cfg)
        datamodule.trainer = SimpleNamespace(global_rank=rank, world_size=world_size)  # type: ignore[assignment]
        seen.append([name for batch in datamodule.pass_dataloader() for name in batch["ids"]])
    rows = datamodule.rows("train")
    epoch = sum(max(1, round(row.duration / 0.5)) for row in rows)
    assert seen[0] == seen[1] == seen[2]
    assert len(seen[0]) == -(-epoch // 3) * 3
    for row in rows:
        assert seen[0][:epoch].count(row.id) == max(1, round(row.duration / 0.5))


@pytest.mark.slow
def test_one_speaker_alone_is_trained_on_and_fitted_to(mapping: Compose, fits: list[list[str]], tmp_path: Path) -> None:
    cfg = mapping("trainer.max_steps=1", "trainer.validate_every=1", "data.speakers=[s01]")
    run(cfg, tmp_path / "run")
    assert {name.split("/")[1] for name in fits[0]} == {"s01"}
    datamodule, everyone = build_datamodule(cfg), build_datamodule(mapping())
    assert {row.speaker for row in datamodule.rows("train")} == {"s01"}
    for split in ("valid", "test"):
        assert datamodule.rows(split) == everyone.rows(split)


@pytest.mark.parametrize(
    ("speakers", "problem"),
    [
        ("[s00,s77]", r"data\.speakers: s77 not among the 2 training speakers of FolderCorpus: s00, s01"),
        ("s00", r"speakers: must be a list of names, as in data\.speakers=\[NAME\], .*, not 's00'"),
        ("[]", r"speakers: must be a list of names, .*, not \[\]"),
    ],
)
def test_impossible_speakers_are_refused_by_name(mapping: Compose, speakers: str, problem: str) -> None:
    with pytest.raises((ConfigError, DataError), match=problem):
        build_datamodule(mapping(f"data.speakers={speakers}")).setup("fit")


class Loudness(nn.Module):
    """Scales the sensor to the level of the air microphone: a statistic, and nothing to train."""

    provides: tuple[str, ...] = ()
    circumstances: ClassVar[list[tuple[bool, bool]]] = []
    gain: Tensor

    def __init__(self, sample_rate: int, in_channels: int) -> None:
        super().__init__()
        self.sample_rate, self.in_channels = sample_rate, in_channels
        self.hop, self.causal, self.delay = 1, True, 0
        self.register_buffer("gain", torch.ones(()))

    def fit(self, batches: Iterable[Batch]) -> None:
        self.circumstances.append((torch.is_grad_enabled(), self.training))
        powers = [(batch["target"].square().mean(), batch["inputs"].square().mean()) for batch in batches]
        target, inputs = torch.tensor(powers).sum(0)
        self.gain.copy_((target / inputs).sqrt())

    def forward(self, inputs: Tensor) -> Tensor:
        return self.gain * inputs[:, -1:]


@pytest.mark.slow
def test_a_users_own_generator_is_fitted_though_it_has_nothing_to_train(
    composed: Compose, speech: Path, tmp_path: Path
) -> None:
    cfg = composed("experiment=identity", "data=folder", f"data.root={speech}", *SETTINGS)
    cfg.generator = {"_target_": "test_training_fitting.Loudness", "sample_rate": 16000, "in_channels": 1}
    assert isinstance(build(cfg.generator), Fitted)
    Loudness.circumstances.clear()
    result = run(cfg, tmp_path / "run")
    assert Loudness.circumstances == [(False, False)]
    gain = float(bcfusion.load_generator(result.run_dir / "bundle").state_dict()["gain"])
    assert gain > 1.05  # the low-pass removes power
