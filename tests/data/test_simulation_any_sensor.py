from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from draws import draw
from omegaconf import DictConfig
from torch import Tensor

from bcfusion import audio
from bcfusion.configuration.check import verify
from bcfusion.configuration.compose import build
from bcfusion.contracts import BatchSimulator, Draw
from bcfusion.data.simulation.any_sensor import AnySensor
from bcfusion.data.simulation.device_simulation import deferrable
from bcfusion.errors import ConfigError


class Worn:
    """A sensor of one gain, with one number for the wearer and one for the utterance; it has no batch."""

    def __init__(self, gain: float) -> None:
        self.gain = gain

    def __call__(self, air: Tensor, draw: Draw) -> dict[str, Tensor]:
        wearer, utterance = torch.rand(1, generator=draw.body), torch.rand(1, generator=draw.generator)
        return {"signal": self.gain * (1 + wearer) * air + 0.01 * utterance}


class Noisy(Worn):
    provides_noise = True


class Demanding(Worn):
    def check_rate(self, sample_rate: int) -> None:
        if sample_rate < 16000:
            raise ConfigError(["Demanding needs 16000 Hz"])


def kinds() -> dict[str, Worn]:
    return {"one": Worn(1.0), "ten": Worn(10.0), "hundred": Worn(100.0)}


def test_a_speaker_has_one_sensor_in_all_utterances() -> None:
    sensor, air = AnySensor(kinds()), torch.ones(1, 8)
    levels = [[float(sensor(air, draw(take, body=speaker))["signal"][0, 0]) for take in range(3)] for speaker in (5, 6)]
    for of_speaker in levels:
        assert max(of_speaker) - min(of_speaker) < 0.01
        assert len(set(of_speaker)) == 3, "the utterances differ"
    assert abs(levels[0][0] - levels[1][0]) > 0.01


@pytest.mark.parametrize(
    ("shares", "expected"),
    [
        (None, (1 / 3, 1 / 3, 1 / 3)),
        ({"ten": 2.0}, (0.25, 0.5, 0.25)),
        ({"one": 0, "hundred": 3}, (0, 0.25, 0.75)),
        ({"hundred": 0}, (0.5, 0.5, 0)),
    ],
)
def test_shares_of_the_speakers(shares: dict[str, float] | None, expected: tuple[float, ...]) -> None:
    sensor = AnySensor(kinds(), shares)
    found = Counter(sensor.kind(draw(body=speaker)) for speaker in range(2000))
    for name, share in zip(kinds(), expected, strict=True):
        assert sensor.shares[name] == pytest.approx(share)
        assert found[name] / 2000 == pytest.approx(share, abs=0.035 if share else 0.0)  # three deviations


def test_a_batch_equals_single_calls() -> None:
    sensor = AnySensor(kinds())
    assert isinstance(sensor, BatchSimulator)
    air = torch.randn(12, 1, 50)
    made = sensor.batch(air, [draw(item, body=item) for item in range(12)])["signal"]
    assert len({sensor.kind(draw(body=item)) for item in range(12)}) == 3
    for item in range(12):
        torch.testing.assert_close(made[item], sensor(air[item], draw(item, body=item))["signal"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kinds": {}}, "kinds names no simulator"),
        ({"kinds": kinds(), "shares": {"two": 1}}, "shares.two is not one of the kinds: one, ten, hundred"),
        ({"kinds": kinds(), "shares": {"one": -1}}, "shares.one=-1 must be a number, 0 or more"),
        ({"kinds": kinds(), "shares": {"one": "a"}}, "shares.one='a' must be a number, 0 or more"),
        ({"kinds": kinds(), "shares": {"one": 0, "ten": 0, "hundred": 0}}, "shares leave no kind"),
        ({"kinds": {"room": Noisy(1.0)}}, "kinds.room returns room noise separately"),
        ({"kinds": {"old": lambda air: air}}, "kinds.old="),
    ],
)
def test_what_cannot_work_is_refused(arguments: dict[str, dict[str, object]], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        AnySensor(**arguments)  # type: ignore[arg-type]


def test_a_kind_that_refuses_the_sample_rate_is_named() -> None:
    sensor = AnySensor({"any": Worn(1.0), "high": Demanding(1.0)})
    sensor.check_rate(16000)
    with pytest.raises(ConfigError, match=r"^kinds.high: Demanding needs 16000 Hz$"):
        sensor.check_rate(8000)


def test_the_configuration(composed: Callable[..., DictConfig], tmp_path: Path) -> None:
    cfg = composed("degradation=any_sensor")
    assert verify(cfg) == []
    sensor = build(cfg.degradation.body)
    assert set(sensor.kinds) == {"contact", "in_ear", "narrow", "low_pass"}
    assert deferrable({"body": sensor}) == {"body"}
    air = 0.05 * torch.randn(40, 1, 4000)
    signal = sensor.batch(air, [draw(item, body=item) for item in range(40)])["signal"]
    assert signal.shape == air.shape
    assert signal.isfinite().all()
    assert (signal.diff(dim=-1).std(dim=-1) < 0.5 * air.diff(dim=-1).std(dim=-1)).all(), "all of them are dull"
    audio.write(tmp_path / "noise.wav", 0.1 * torch.randn(1, 16000), 16000)
    noisy = composed("degradation=any_sensor", f"data.noise_root={tmp_path}", "~degradation.body.kinds.low_pass")
    assert verify(noisy) == []
    with_leak = build(noisy.degradation.body)
    assert set(with_leak.kinds) == {"contact", "in_ear", "narrow"}
    assert deferrable({"body": with_leak}) == set(), "files are read by the loader"
