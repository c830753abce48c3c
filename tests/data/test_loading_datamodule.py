from __future__ import annotations

import logging
import os
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from torch import Tensor

from bcfusion import audio
from bcfusion.contracts import Corpus, Draw, Row
from bcfusion.data.corpora.folder import FolderCorpus
from bcfusion.data.corpora.listing import ManifestCorpus
from bcfusion.data.corpora.pairs import PairsCorpus
from bcfusion.data.loading.augmentation import Augmentation
from bcfusion.data.loading.datamodule import SpeechDataModule
from bcfusion.data.loading.loaders import automatic_workers
from bcfusion.data.simulation.air_noise import AirNoise
from bcfusion.data.simulation.codec import Codec
from bcfusion.data.simulation.eben_lowpass import EbenLowpass
from bcfusion.data.simulation.narrowband import Narrowband
from bcfusion.errors import AudioError, ConfigError, DataError

RATE = 8000
CONF = Path(__file__).parents[2] / "conf"


def halved(air: Tensor, draw: Draw) -> dict[str, Tensor]:
    return {"signal": 0.5 * air}


class Rows:
    """A corpus of given rows."""

    def __init__(self, **splits: list[Row]) -> None:
        self.splits = splits

    def rows(self, split: str) -> list[Row]:
        return self.splits.get(split, [])


def rows(folder: Path, split: str, number: int, rate: int = RATE) -> list[Row]:
    made = []
    for index in range(number):
        path = folder / split / f"{index}.wav"
        audio.write(path, np.random.default_rng(index).uniform(-0.5, 0.5, rate + 10 * index), rate)
        made.append(Row(f"{split}/{index}", {"air": str(path)}, "s", split, rate, audio.info(path).duration))
    return made


def module(corpus: Corpus, **changes: object) -> SpeechDataModule:
    values: dict[str, object] = {
        "simulators": {"body": halved},
        "sensors": ["body"],
        "sample_rate": RATE,
        "segment_seconds": 0.5,
        "batch_size": 2,
        "batches_per_pass": 3,
        "workers": 0,
    }
    return SpeechDataModule(corpus, **{**values, **changes})  # type: ignore[arg-type]


def test_three_loaders_without_a_trainer(tmp_path: Path) -> None:
    corpus = Rows(**{split: rows(tmp_path, split, 3) for split in ("train", "valid", "test")})
    data = module(corpus)
    data.setup()
    batches = list(data.train_dataloader())
    assert [batch["inputs"].shape for batch in batches] == [(2, 1, RATE // 2)] * 3
    assert torch.equal(batches[0]["inputs"], 0.5 * batches[0]["target"])
    assert [batch["ids"] for batch in data.val_dataloader()] == [["valid/0"], ["valid/1"], ["valid/2"]]
    assert [batch["target"].shape[-1] for batch in data.test_dataloader()] == [RATE, RATE + 10, RATE + 20]
    assert data.train_dataloader() is data.train_dataloader()
    data.teardown("fit")


def test_without_a_test_split_validation_utterances_are_tested(tmp_path: Path) -> None:
    data = module(Rows(train=rows(tmp_path, "train", 1), valid=rows(tmp_path, "valid", 2)))
    data.setup("test")
    assert data.test_split == "valid"
    assert len(data.test_dataloader()) == 2
    both = module(Rows(valid=rows(tmp_path, "valid", 2), test=rows(tmp_path, "test", 1)))
    assert both.test_split == "test"


def test_a_split_without_utterances_is_reported(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="Rows has no utterances for the split 'valid'"):
        module(Rows(train=rows(tmp_path, "train", 1))).setup("fit")
    with pytest.raises(DataError, match="'train'"):
        module(Rows()).setup("fit")


def test_a_split_without_utterances_names_the_manifest(tmp_path: Path) -> None:
    audio.write(tmp_path / "a.flac", np.zeros(RATE, dtype=np.float32), RATE)
    path = tmp_path / "corpus.csv"
    path.write_text("air,split\na.flac,train\n")
    with pytest.raises(DataError, match=re.escape(f"ManifestCorpus of {path} has no utterances for the split 'valid'")):
        module(ManifestCorpus(str(path))).setup("fit")


def test_a_sensor_that_is_neither_recorded_nor_simulated_is_reported_with_the_corpus(tmp_path: Path) -> None:
    made = rows(tmp_path, "train", 2)
    with pytest.raises(DataError, match="sensor 'noisy': Rows has no recording of it for 2 of 2 utterances of train"):
        module(Rows(train=made), sensors=["body", "noisy"]).rows("train")
    recorded = [Row(r.id, {**r.paths, "noisy": r.paths["air"]}, "s", "train", RATE, r.duration) for r in made]
    assert module(Rows(train=recorded), sensors=["body", "noisy"]).rows("train") == recorded


def test_ranks_share_evaluation_and_training_without_overlap(tmp_path: Path) -> None:
    corpus = Rows(train=rows(tmp_path, "train", 4), valid=rows(tmp_path, "valid", 5))
    ids: dict[str, list[str]] = {"train": [], "valid": []}
    for rank in range(2):
        data = module(corpus, segment_seconds=1.0, batches_per_pass=1)
        data.trainer = SimpleNamespace(global_rank=rank, world_size=2)  # type: ignore[assignment]
        ids["train"] += [name for batch in data.train_dataloader() for name in batch["ids"]]
        ids["valid"] += [name for batch in data.val_dataloader() for name in batch["ids"]]
    for split, names in ids.items():
        assert sorted(names) == [row.id for row in corpus.rows(split)]


def test_another_rate_is_reported_at_once_if_resampling_is_off(tmp_path: Path) -> None:
    corpus = Rows(train=rows(tmp_path, "train", 2, rate=16000))
    with pytest.raises(DataError, match=r"0\.wav has 16000 Hz, the task 8000 Hz \(2 of 2 files"):
        module(corpus, resample=False).rows("train")
    batch = next(iter(module(corpus).train_dataloader()))
    assert batch["target"].shape == (2, 1, RATE // 2)


def test_two_rows_of_one_id_are_reported(tmp_path: Path) -> None:
    [row] = rows(tmp_path, "train", 1)
    with pytest.raises(DataError, match="same id 'train/0'"):
        module(Rows(train=[row, row])).rows("train")


def test_all_wrong_arguments_are_reported_at_once() -> None:
    with pytest.raises(ConfigError) as error:
        module(Rows(), sensors=[], segment_seconds=0, batch_size=0, workers="many", max_unreadable_share=2)
    assert len(str(error.value).splitlines()) == 5


class OldSignature:
    def __call__(
        self, air: Tensor, sample_rate: int, generator: torch.Generator, training: bool
    ) -> dict[str, Tensor]:  # pragma: no cover
        return {"signal": air}


class OldBatch:
    def __call__(self, air: Tensor, draw: Draw) -> dict[str, Tensor]:  # pragma: no cover
        return {"signal": air}

    def batch(
        self, air: Tensor, sample_rate: int, generators: list[torch.Generator], training: bool
    ) -> dict[str, Tensor]:
        return {"signal": air}  # pragma: no cover


@pytest.mark.parametrize("simulator", [OldSignature(), OldBatch()])
def test_a_simulator_with_the_signature_before_draw_is_named_with_the_present_one(simulator: object) -> None:
    name = rf"{type(simulator).__name__} must be called as simulator\(air, draw\)"
    with pytest.raises(ConfigError, match=rf"^degradation: body=\S+\.{name}"):
        module(Rows(), simulators={"body": simulator})
    with pytest.raises(ConfigError, match=rf"^Codec: simulator=\S+\.{name}"):
        Codec(simulator)  # type: ignore[arg-type]


@pytest.mark.parametrize(("cores", "workers"), [(1, 0), (2, 0), (4, 3), (64, 8)])
def test_automatic_workers_leave_a_core(monkeypatch: pytest.MonkeyPatch, cores: int, workers: int) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _process: set(range(cores)))
    assert automatic_workers() == workers
    assert module(Rows(), workers="auto").workers == workers


@pytest.mark.parametrize(
    ("overrides", "kind"),
    [
        (["+data=folder", "data.root={root}"], FolderCorpus),
        (["+data=pairs", "data.body={root}", "data.air={root}"], PairsCorpus),
        (["+data=manifest", "data.path={root}/m.jsonl"], ManifestCorpus),
    ],
)
def test_the_shipped_configurations_make_their_corpus(tmp_path: Path, overrides: list[str], kind: type) -> None:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose(overrides=[override.format(root=tmp_path) for override in overrides])
    corpus = instantiate(config.data.corpus)
    assert isinstance(corpus, kind)
    keys = ("segment_seconds", "batch_size", "workers", "resample", "max_unreadable_share")
    assert SpeechDataModule(corpus, {}, ["air"], RATE, **{key: config.data[key] for key in keys}).batch_size == 8


def test_utterances_of_less_bandwidth_are_left_out_of_training_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    measured = [3000.0, None, 3999.0, 500.0]
    made = [replace(row, bandwidth=b) for row, b in zip(rows(tmp_path, "train", 4), measured, strict=True)]
    valid = [replace(row, bandwidth=500.0) for row in rows(tmp_path, "valid", 2)]
    data = module(Rows(train=made, valid=valid), min_bandwidth=3500)
    with caplog.at_level(logging.WARNING):
        assert [row.id for row in data.rows("train")] == ["train/1", "train/2"]
    assert "2 of 4 training utterances hold speech up to less than 3500 Hz" in caplog.text
    assert "1 have no measured bandwidth" in caplog.text
    assert len(data.rows("valid")) == 2
    with pytest.raises(DataError, match=r"all 2 training utterances of Rows hold speech up to less than 3500 Hz"):
        module(Rows(train=valid), min_bandwidth=3500).rows("train")
    with pytest.raises(DataError, match=r"no training utterance of Rows has a measured bandwidth.*bcfusion prepare"):
        module(Rows(train=made[1:2]), min_bandwidth=3500).rows("train")
    with pytest.raises(ConfigError, match=r"data\.min_bandwidth: 5000 must be at most half of sample_rate, 4000"):
        module(Rows(train=made), min_bandwidth=5000)


def test_augmentation_changes_training_and_not_validation(tmp_path: Path) -> None:
    corpus = Rows(train=rows(tmp_path, "train", 3), valid=rows(tmp_path, "valid", 2))
    plain, changed = module(corpus), module(corpus, augmentation=Augmentation(gain=(-20, -10)))
    for before, after in zip(plain.train_dataloader(), changed.train_dataloader(), strict=True):
        loudness = after["target"].square().mean((1, 2)) / before["target"].square().mean((1, 2))
        assert bool(((loudness > 0.0099) & (loudness < 0.1001)).all())
    for before, after in zip(plain.val_dataloader(), changed.val_dataloader(), strict=True):
        assert torch.equal(before["inputs"], after["inputs"])


def test_a_wide_file_in_a_worker_is_reported_in_one_line(tmp_path: Path) -> None:
    made = rows(tmp_path, "train", 1)
    audio.write(made[0].paths["air"], np.zeros((2, RATE)), RATE)
    data = module(Rows(train=made), workers=1)
    with pytest.raises(AudioError, match=r"^\S+0\.wav has 2 channels, sensor 'air' is one") as error:
        next(iter(data.train_dataloader()))
    assert "Traceback" not in str(error.value)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"segment_seconds": 0.001}, "SpeechDataModule: data.segment_seconds: 0.001 must be at least 0.02"),
        ({"sensor_dropout": 0.5}, "SpeechDataModule: data.sensor_dropout: 0.5 has no effect with one sensor (body)"),
        ({"evaluation_body_gain": "loud"}, "SpeechDataModule: data.evaluation_body_gain: must be a number of at least"),
        (
            {"evaluation_body_gain": 6, "sensors": ["ear", "noisy"]},
            "SpeechDataModule: data.evaluation_body_gain: 6 has no effect without the sensor body: the task has ear, n",
        ),
        ({"sensors": ["body", "body"]}, "SpeechDataModule: task.sensors: body is named more than once"),
        ({"simulate_on_device": "no"}, "SpeechDataModule: data.simulate_on_device: must be true or false, not 'no'"),
        ({"workers": -1}, "SpeechDataModule: data.workers: must be auto or a whole number of at least 0, not -1"),
        ({"batch_size": 10**10}, "data.batch_size: reading 10000000000 crops of 0.5 s takes 640000.0 GB of memory"),
        (
            {"simulators": {"body": Narrowband(8000)}},
            "degradation.body: Narrowband: rate=8000 must be below the sample",
        ),
        (
            {"simulators": {"body": Codec(Narrowband(9000)), "ear": EbenLowpass(4000)}, "sensors": ["body", "ear"]},
            "degradation.body: Narrowband: rate=9000 must be below the sample rate, 8000 Hz\n"
            "degradation.ear: EbenLowpass: a cutoff of up to 4800 Hz needs a sample rate above 9600 Hz, not 8000",
        ),
    ],
)
def test_the_library_refuses_what_the_check_refuses(changes: dict[str, object], says: str) -> None:
    with pytest.raises(ConfigError) as error:
        module(Rows(), **changes)
    assert str(error.value).startswith(says)


def test_a_ratio_that_no_recording_takes_is_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    made = rows(tmp_path, "valid", 3)
    recorded = [replace(row, paths={**row.paths, "noisy": row.paths["air"]}) for row in made[:2]]
    setting = {"simulators": {"noisy": AirNoise(None, evaluation_snr=5.0)}, "sensors": ["noisy"]}
    data = module(Rows(valid=[*recorded, made[2]], train=recorded), **setting)
    with caplog.at_level(logging.WARNING):
        data.rows("train")
        assert not caplog.records
        data.rows("valid")
    expected = "degradation.noisy.evaluation_snr=5 has no effect on 2 of 3 valid utterances, whose noisy was recorded"
    assert [record.getMessage() for record in caplog.records] == [expected]


def test_files_of_a_lower_rate_are_named_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    made = [*rows(tmp_path, "train", 3), *rows(tmp_path / "wide", "train/wide", 2, 2 * RATE)]
    data = module(Rows(train=made, valid=rows(tmp_path, "valid", 1)), sample_rate=2 * RATE, simulators={"body": halved})
    with caplog.at_level(logging.WARNING):
        data.setup("fit")
    [record] = caplog.records
    assert "3 of 5 train files have a lower sample rate, 8000 Hz" in record.getMessage()
    assert "empty above 4000 Hz" in record.getMessage()
    assert data.contents("train") == "5 files, 1 speaker, 0.1 min, 8000 Hz (3), 16000 Hz (2)"
    caplog.clear()
    module(Rows(train=made)).rows("train")  # nothing is lost by resampling to a lower rate
    assert not caplog.records


def test_crops_that_are_mostly_padding_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    corpus = Rows(train=rows(tmp_path, "train", 2))
    module(corpus, segment_seconds=1.9, batch_size=1).train_dataloader()
    assert not caplog.records
    module(corpus, segment_seconds=2.1, batch_size=1).train_dataloader()
    assert "segment_seconds=2.1: the longest training file has 1 s; the rest of each crop is padding" in caplog.text


def test_a_sample_batch_is_the_beginning_of_training(tmp_path: Path) -> None:
    data = module(Rows(train=rows(tmp_path, "train", 3)), batch_size=4)
    first = next(iter(data.train_dataloader()))
    assert torch.equal(data.sample_batch(4)["inputs"], first["inputs"])
    assert torch.equal(data.sample_batch(1)["inputs"], first["inputs"][:1])
