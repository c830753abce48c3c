from __future__ import annotations

import math
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from bcfusion import audio
from bcfusion.audio.level import active_level
from bcfusion.contracts import Corpus, Draw, Row
from bcfusion.data.loading.augmentation import LARGEST_BOOST, Augmentation, sped
from bcfusion.data.loading.collate import Item
from bcfusion.data.loading.datamodule import SpeechDataModule
from bcfusion.data.loading.reader import SensorReader
from bcfusion.data.loading.segments import TrainSegments
from bcfusion.errors import ConfigError

RATE = 8000
OWN = {"body_equalisation": 4.0, "body_band_mask": 0.5, "body_noise": (20.0, 50.0)}
SENSORS = ("body", "noisy")


class Noisy:
    """A microphone with noise from its generator, half as loud as the air."""

    def __call__(self, air: Tensor, draw: Draw) -> dict[str, Tensor]:
        noise = 0.01 * torch.randn(air.shape, generator=draw.generator)
        return {"signal": air + noise, "noise": noise}


def rows(folder: Path, tones: tuple[float, ...] = (440.0,), seconds: float = 1.5) -> list[Row]:
    """One utterance for each tone: air is the tone, body the same a tenth as loud and inverted."""
    made = []
    for number, tone in enumerate(tones):
        time = np.arange(round(seconds * RATE)) / RATE
        signal = 0.3 * np.sin(2 * np.pi * tone * time) + 0.001 * np.random.default_rng(number).standard_normal(
            len(time)
        )
        paths = {sensor: str(folder / f"{number}_{sensor}.wav") for sensor in ("air", "body")}
        audio.write(paths["air"], signal, RATE, "FLOAT")
        audio.write(paths["body"], -0.1 * signal, RATE, "FLOAT")
        made.append(Row(f"u{number}", paths, f"s{number}", "train", RATE, seconds))
    return made


def segments(made: list[Row], augmentation: Augmentation | None, seconds: float = 0.5, **more: float) -> TrainSegments:
    reader = SensorReader(SENSORS, {"noisy": Noisy()}, RATE)
    return TrainSegments(made, reader, seconds, 3, augmentation=augmentation, **more)


def factor(changed: Tensor, plain: Tensor) -> float:
    """The factor between two signals, which must be the same at every sample."""
    place = plain.abs().argmax()
    value = float((changed.flatten()[place] / plain.flatten()[place]).double())
    torch.testing.assert_close(changed, plain * value, rtol=1e-5, atol=1e-7)
    return value


def test_without_arguments_no_bit_changes(tmp_path: Path) -> None:
    made = rows(tmp_path)
    plain, same = segments(made, None)[2, 1], segments(made, Augmentation())[2, 1]
    for key in ("inputs", "target", "noise"):
        assert torch.equal(same[key], plain[key])


def test_gain_and_polarity_are_one_factor_for_sensors_target_and_noise(tmp_path: Path) -> None:
    made = rows(tmp_path)
    plain, changed = segments(made, None), segments(made, Augmentation(gain=(-12, 6), polarity=0.5))
    factors = []
    for epoch in range(40):
        before, after = plain[epoch, 0], changed[epoch, 0]
        found = [factor(after["inputs"][channel], before["inputs"][channel]) for channel in range(2)]
        found += [factor(after["target"], before["target"]), factor(after["noise"], before["noise"])]
        assert max(found) == pytest.approx(min(found), rel=1e-6)
        factors.append(found[0])
    levels = [20 * math.log10(abs(value)) for value in factors]
    assert -12 <= min(levels) < -9
    assert 3 < max(levels) <= 6
    assert 10 <= sum(value < 0 for value in factors) <= 30


def test_the_target_comes_to_the_level_and_the_sensors_keep_their_ratio(tmp_path: Path) -> None:
    made = rows(tmp_path)
    before, after = segments(made, None)[0, 1], segments(made, Augmentation(level=-35.0))[0, 1]
    assert 20 * math.log10(active_level(after["target"], RATE)) == pytest.approx(-35.0, abs=1e-4)
    powers = [[item[key].double().square().sum(-1) for key in ("inputs", "target")] for item in (before, after)]
    ratios = [torch.cat([inputs / inputs[1], inputs / target]) for inputs, target in powers]
    torch.testing.assert_close(ratios[1], ratios[0], rtol=1e-6, atol=0)


@pytest.mark.parametrize(("level", "raised"), [(0.0, 0.0), (1e-5, 0.0), (1e-3, LARGEST_BOOST)])
def test_silence_is_left_alone_and_hum_is_not_blown_up(level: float, raised: float) -> None:
    target = level * torch.ones(1, 4000)
    item = Item(inputs=target.repeat(2, 1), target=target.clone(), length=4000, id="a", unreadable=[])
    augmentation = Augmentation(level=-20.0)
    augmentation.apply(item, augmentation.draw(torch.Generator()), SENSORS, RATE)
    expected = target * 10 ** (raised / 20)
    torch.testing.assert_close(item["target"], expected, rtol=1e-6, atol=0)
    torch.testing.assert_close(item["inputs"], expected.repeat(2, 1), rtol=1e-6, atol=0)


def test_body_gain_and_polarity_touch_the_body_sensor_alone(tmp_path: Path) -> None:
    made = rows(tmp_path)
    plain = segments(made, None)
    changed = segments(made, Augmentation(body_gain=(-10, 10), body_polarity=0.5))
    factors = []
    for epoch in range(40):
        before, after = plain[epoch, 1], changed[epoch, 1]
        for key in ("target", "noise"):
            assert torch.equal(after[key], before[key])
        assert torch.equal(after["inputs"][1], before["inputs"][1])
        factors.append(factor(after["inputs"][0], before["inputs"][0]))
    levels = [20 * math.log10(abs(value)) for value in factors]
    assert -10 <= min(levels) < -7
    assert 7 < max(levels) <= 10
    assert 10 <= sum(value < 0 for value in factors) <= 30


def peak_frequency(signal: Tensor) -> float:
    spectrum = torch.fft.rfft(signal * torch.hann_window(signal.shape[-1]), n=8 * RATE).abs()
    return float(spectrum.argmax()) / 8


@pytest.mark.parametrize("speed", [0.9, 1.1, 1.37])
def test_speed_changes_pitch_and_duration_of_sensors_and_target_alike(tmp_path: Path, speed: float) -> None:
    made = rows(tmp_path)
    crop = segments(made, Augmentation(speed=[speed]))[1, 0]
    assert crop["length"] == crop["target"].shape[-1] == RATE // 2
    for signal in (crop["target"][0], crop["inputs"][0], crop["inputs"][1]):
        assert peak_frequency(signal) == pytest.approx(440 * speed, abs=0.5)
    # body is still the inverted tenth of air at every sample; the other sensor is simulated from the faster air
    torch.testing.assert_close(crop["inputs"][:1], -0.1 * crop["target"], rtol=0, atol=1e-6)
    torch.testing.assert_close(crop["inputs"][1:] - crop["noise"], crop["target"], rtol=0, atol=1e-6)
    whole = segments(made, Augmentation(speed=[speed]), seconds=2.0)[0, 0]
    assert whole["length"] == math.floor(1.5 * RATE / Fraction(str(speed)))
    assert not whole["target"][:, whole["length"] :].any()


@pytest.mark.parametrize("speed", [Fraction(9, 10), Fraction(11, 10), Fraction(137, 100), Fraction(2)])
@pytest.mark.parametrize("start", [0, 1, 700, 1234])
def test_a_crop_at_another_speed_is_that_of_the_whole_utterance(speed: Fraction, start: int) -> None:
    signal = torch.randn(1, 6000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    whole = audio.resample(signal, speed.numerator, speed.denominator)
    assert whole.shape[-1] - 1 <= sped(6000, speed) <= whole.shape[-1]
    for length in (300, sped(6000, speed) - start):
        change = audio.RateChange(speed.numerator, speed.denominator)
        first, last, skip = change.window(start, start + length, 6000)
        made = audio.resample(signal[:, first:last], speed.numerator, speed.denominator)
        cut = made[:, skip : skip + length]
        torch.testing.assert_close(cut, whole[:, start : start + length], rtol=0, atol=1e-9)


def test_speeds_are_drawn_equally_often() -> None:
    augmentation = Augmentation(speed=[0.9, 1.0, 1.1])
    generator = torch.Generator().manual_seed(0)
    drawn = [augmentation.draw(generator).speed for _ in range(600)]
    assert {Fraction(9, 10), Fraction(1), Fraction(11, 10)} == set(drawn)
    assert all(160 <= drawn.count(speed) <= 240 for speed in set(drawn))


def test_what_is_drawn_does_not_depend_on_what_else_is_switched_on() -> None:
    alone = Augmentation(body_gain=(-10, 10))
    among = Augmentation([0.9, 1.1], -26.0, (-6, 6), 0.5, (-10, 10), 0.0, **OWN)  # type: ignore[arg-type]
    for number in range(10):
        draws = [each.draw(torch.Generator().manual_seed(number)) for each in (alone, among)]
        assert draws[0].body == draws[1].body
        assert draws[0].seeds == draws[1].seeds


def test_what_begins_with_body_touches_the_body_sensor_alone(tmp_path: Path) -> None:
    made = rows(tmp_path)
    plain = segments(made, None)
    for name, value in OWN.items():
        changed = segments(made, Augmentation(**{name: value}))  # type: ignore[arg-type]
        befores, afters = ([each[epoch, 1] for epoch in range(8)] for each in (plain, changed))
        differ = 0
        for before, after in zip(befores, afters, strict=True):
            for key in ("target", "noise"):
                assert torch.equal(after[key], before[key])
            assert torch.equal(after["inputs"][1], before["inputs"][1])
            differ += not torch.equal(after["inputs"][0], before["inputs"][0])
        assert differ == 8 if name != "body_band_mask" else 0 < differ < 8
        again = segments(made, Augmentation(**{name: value}))  # type: ignore[arg-type]
        assert torch.equal(again[3, 1]["inputs"], afters[3]["inputs"])


class Listed:
    """A corpus of given rows."""

    def __init__(self, made: list[Row]) -> None:
        self.made = made

    def rows(self, split: str) -> list[Row]:
        return self.made if split == "train" else []


def loaded(corpus: Corpus, workers: int, start: int) -> list[Tensor]:
    data = SpeechDataModule(
        corpus,
        {"noisy": Noisy()},
        SENSORS,
        RATE,
        segment_seconds=0.3,
        batch_size=2,
        batches_per_pass=4,
        workers=workers,
        sensor_dropout=0.3,
        augmentation=Augmentation([0.9, 1.0, 1.1], -26.0, (-6, 6), 0.5, (-10, 10), 0.5, **OWN),  # type: ignore[arg-type]
    )
    loader = data.train_dataloader()
    loader.start_batch = start
    batches = [torch.cat([batch["inputs"], batch["target"], batch["noise"]], 1) for batch in loader]
    data.teardown("fit")
    return batches


def test_crops_are_the_same_with_any_number_of_workers_and_after_a_resume(tmp_path: Path) -> None:
    corpus = Listed(rows(tmp_path, (300.0, 500.0, 700.0)))
    here, there, resumed = loaded(corpus, 0, 0), loaded(corpus, 2, 0), loaded(corpus, 2, 2)
    assert len(here) == 4
    assert all(torch.equal(one, other) for one, other in zip(here, there, strict=True))
    assert all(torch.equal(one, other) for one, other in zip(here[2:], resumed, strict=True))


def test_wrong_arguments_are_reported_by_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as error:
        Augmentation(speed=[0.95, 3.0], level=3.0, polarity=1.5, body_polarity=-1, body_sensors="body")
    assert [word in str(error.value) for word in ("speed", "level", "polarity=1.5", "body_polarity", "body_sensors")]
    assert len(str(error.value).splitlines()) == 5
    for wrong in ([0.955], [], 0.9, ["fast"]):
        with pytest.raises(ConfigError, match="speed"):
            Augmentation(speed=wrong)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"body_gain=\[10, -10\]"):
        Augmentation(body_gain=(10, -10))
    with pytest.raises(ConfigError) as error:
        Augmentation(
            body_equalisation=-1,
            body_equalisation_octaves=0,
            body_band_mask=2,
            body_band_octaves=[2, 1],
            body_noise=[50, 20],
        )
    names = ("body_equalisation=", "body_equalisation_octaves", "body_band_mask", "body_band_octaves", "body_noise")
    assert all(name in str(error.value) for name in names)
    only = Augmentation(body_equalisation=3.0, body_sensors=["throat"])
    with pytest.raises(ConfigError, match="must name the sensors"):
        SpeechDataModule(Listed(rows(tmp_path)), {"noisy": Noisy()}, SENSORS, RATE, augmentation=only)
    augmentation = Augmentation(body_gain=(-10, 10), body_sensors=["throat"])
    with pytest.raises(ConfigError, match=r"body_sensors=\['throat'\] must name .* one or more of body, noisy"):
        SpeechDataModule(Listed(rows(tmp_path)), {"noisy": Noisy()}, SENSORS, RATE, augmentation=augmentation)
