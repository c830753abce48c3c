from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import DictConfig
from torch import Tensor

from bcfusion import audio
from bcfusion.contracts import Draw, Row, Simulator
from bcfusion.data.loading.augmentation import Augmentation
from bcfusion.data.loading.datamodule import SpeechDataModule
from bcfusion.data.seeding import generator_for, stable_seed
from bcfusion.data.simulation import Batched
from bcfusion.data.simulation.device_simulation import deferrable
from bcfusion.data.simulation.eben_lowpass import EbenLowpass
from bcfusion.errors import DataError
from bcfusion.run import checkpoint
from bcfusion.run.record import Provenance
from bcfusion.training.run import train

RATE = 16000


class Rows:
    def __init__(self, rows: list[Row]) -> None:
        self.all = rows

    def rows(self, split: str) -> list[Row]:
        return self.all if split == "train" else []


class Worn(Batched):
    """One draw for the wearer, one for the utterance, in a batch or one by one."""

    def batch(self, air: Tensor, draws: Sequence[Draw]) -> dict[str, Tensor]:
        mine = torch.stack([torch.rand(1, 1, generator=draw.body) for draw in draws])
        drawn = torch.stack([torch.rand(1, 1, generator=draw.generator) for draw in draws])
        return {"signal": mine * air + drawn * air.std(dim=-1, keepdim=True)}


class Noisy:
    """The air microphone in a room: makes noise and changes the target, and has no batch."""

    provides_noise = True

    def __call__(self, air: Tensor, draw: Draw) -> dict[str, Tensor]:
        noise = torch.randn(air.shape, generator=draw.generator)
        return {"signal": 0.5 * air + noise, "noise": noise, "target": 0.5 * air}


class NoisyBatch(Noisy):
    def batch(self, air: Tensor, draws: Sequence[Draw]) -> dict[str, Tensor]:
        raise AssertionError("noise is read by the loader")


SIMULATORS: dict[str, Simulator] = {"body": EbenLowpass(), "ear": Worn(), "noisy": Noisy()}


@pytest.fixture
def rows(tmp_path: Path) -> list[Row]:
    """Clips longer and shorter than a crop of half a second, two with a recording of the ear."""
    made = []
    for number, seconds in enumerate((2.0, 0.3, 1.0, 0.2, 0.3, 0.7)):
        path = tmp_path / f"{number}.wav"
        audio.write(path, np.random.default_rng(number).uniform(-0.5, 0.5, round(seconds * RATE)), RATE)
        paths = {"air": str(path)} | ({"ear": str(path)} if number % 3 == 0 else {})
        made.append(Row(str(number), paths, f"s{number % 2}", "train", RATE, seconds))
    return made


def data(rows: list[Row], on_device: bool, workers: int = 0, **changes: object) -> SpeechDataModule:
    values: dict[str, object] = {
        "simulators": SIMULATORS,
        "sensors": list(SIMULATORS),
        "augmentation": Augmentation(
            speed=[0.9, 1.0, 1.1],
            level=-26,
            gain=[-6, 6],
            polarity=0.5,
            body_gain=[-10, 10],
            body_polarity=0.5,
            body_sensors=["body", "ear"],
            body_equalisation=4.0,
            body_band_mask=0.3,
            body_noise=[20, 40],
        ),
        "sensor_dropout": 0.5,
        **changes,
    }
    return SpeechDataModule(
        Rows(rows),
        sample_rate=RATE,
        segment_seconds=0.5,
        batch_size=4,
        batches_per_pass=6,
        workers=workers,
        simulate_on_device=on_device,
        **values,  # type: ignore[arg-type]
    )


@pytest.mark.parametrize("workers", [0, 1])
def test_it_equals_the_loaders_simulation_with_every_augmentation(rows: list[Row], workers: int) -> None:
    module = data(rows, True, workers)
    assert module.deferred == {"body", "ear"}
    silent = 0
    for wanted, batch in zip(data(rows, False).train_dataloader(), module.train_dataloader(), strict=True):
        assert not torch.equal(batch["inputs"], wanted["inputs"])  # nothing is simulated yet
        complete = module.on_after_batch_transfer(batch, 0)
        assert complete.keys() == wanted.keys()
        assert complete["ids"] == wanted["ids"]
        for name in ("inputs", "target", "noise", "lengths"):
            assert torch.allclose(complete[name], wanted[name], rtol=0, atol=1e-5)  # type: ignore[literal-required]
        silent += int((wanted["inputs"].abs().amax(-1) == 0).sum())
        assert module.on_after_batch_transfer(complete, 0) is complete
    assert silent  # sensors were dropped, the same ones in both
    module.teardown()


def test_statistics_and_evaluation_get_complete_batches(rows: list[Row]) -> None:
    module, loaders = data(rows, True), data(rows, False)
    for batch, wanted in zip(module.pass_dataloader(), loaders.pass_dataloader(), strict=True):
        assert torch.equal(batch["inputs"], wanted["inputs"])
    module.corpus = Rows([])
    item = module.reader.read(rows[0], 0, RATE, ("evaluation", rows[0].id), training=False)
    assert "pending" not in item


def test_noise_is_the_loaders_work_even_if_a_batch_could_be_made() -> None:
    assert deferrable({"noisy": NoisyBatch(), "body": EbenLowpass()}) == {"body"}


def test_a_simulator_that_returns_what_it_did_not_announce_is_reported(rows: list[Row]) -> None:
    class Loud(EbenLowpass):
        def batch(self, *arguments: object, **named: object) -> dict[str, Tensor]:
            made = super().batch(*arguments, **named)  # type: ignore[arg-type]
            return made | {"noise": made["signal"]}

    module = data(rows, True, simulators={"body": Loud()}, sensors=["body"], augmentation=None, sensor_dropout=0.0)
    batch = next(iter(module.train_dataloader()))
    with pytest.raises(DataError, match="'body' returned signal, noise for a batch"):
        module.on_after_batch_transfer(batch, 0)


@pytest.mark.gpu
def test_on_a_gpu_it_equals_the_loaders_simulation(rows: list[Row]) -> None:
    module = data(rows, True)
    for wanted, batch in zip(data(rows, False).train_dataloader(), module.train_dataloader(), strict=True):
        moved = {name: value.cuda() if isinstance(value, Tensor) else value for name, value in batch.items()}
        complete = module.on_after_batch_transfer(moved, 0)  # type: ignore[arg-type]
        assert complete["inputs"].is_cuda
        assert torch.allclose(complete["inputs"].cpu(), wanted["inputs"], rtol=0, atol=1e-5)


def test_the_seed_of_a_deferred_sensor_is_that_of_the_loader(rows: list[Row]) -> None:
    alone = {"simulators": {"body": EbenLowpass()}, "sensors": ["body"], "sensor_dropout": 0.0}
    batch = next(iter(data(rows, True, **alone).train_dataloader()))
    (place, length, seed, body, _), *rest = batch["pending"][0]
    assert not rest
    assert place == 0
    assert body == stable_seed(0, "body", "body", "speaker", rows[int(batch["ids"][0])].speaker)
    assert length == int(batch["lengths"][0])
    drawn = torch.rand(3, generator=torch.Generator().manual_seed(seed))
    schedule = data(rows, False, **alone).train_dataloader().schedule  # type: ignore[attr-defined]
    epoch, index = schedule.batch(0)[0]
    assert torch.equal(drawn, torch.rand(3, generator=generator_for(0, "simulate", epoch, index, 0, "body")))


@pytest.mark.slow
def test_a_training_run_on_the_device_is_that_of_the_loader(tiny: Callable[..., DictConfig], tmp_path: Path) -> None:
    def weights(name: str, *overrides: str) -> dict[str, Tensor]:
        cfg = tiny("trainer.max_steps=2", "discriminators=[]", *overrides, discriminators=False)
        train(cfg, tmp_path / name, Provenance(recipe="bone_to_air", experiment="seanet"))
        content = checkpoint.read(tmp_path / name / "checkpoints" / "last.ckpt")
        return {name: value for name, value in content["generator"].items() if isinstance(value, Tensor)}

    one, other = weights("loader"), weights("device", "data.simulate_on_device=true")
    assert one.keys() == other.keys()
    assert all(torch.allclose(one[name], other[name], atol=1e-5) for name in one)
