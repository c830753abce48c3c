from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor

from bcfusion import audio
from bcfusion.audio import AudioFormatError, UnreadableAudio
from bcfusion.contracts import Draw, Row
from bcfusion.data.loading.collate import Item, collate
from bcfusion.data.loading.reader import SensorReader
from bcfusion.data.loading.segments import EvalItems, TrainSegments
from bcfusion.data.seeding import generator_for, stable_seed
from bcfusion.errors import DataError

RATE = 8000


class Noisy:
    """A simulator that adds noise from its generator, and shows whether it is training."""

    def __call__(self, air: Tensor, draw: Draw) -> dict[str, Tensor]:
        noise = torch.randn(air.shape, generator=draw.generator) * (1.0 if draw.training else 0.01)
        return {"signal": air + noise, "noise": noise}


def scale(factor: float) -> object:
    def simulate(air: Tensor, draw: Draw) -> dict[str, Tensor]:
        return {"signal": air.mul_(factor)}  # in place on purpose: the target must not notice

    return simulate


def ramp(frames: int) -> np.ndarray:
    """Return samples whose values encode their positions."""
    return np.arange(1, frames + 1, dtype=np.float32) / 2**17


def row(path: Path, name: str, frames: int, **more: object) -> Row:
    file = path / f"{name}.wav"
    if not file.exists():
        audio.write(file, ramp(frames), RATE, "FLOAT")
    values = {"paths": {"air": str(file)}, "speaker": "s", "split": "train", "sample_rate": RATE}
    return Row(id=name, duration=frames / RATE, **{**values, **more})  # type: ignore[arg-type]


def reader(*sensors: str, **simulators: object) -> SensorReader:
    return SensorReader(sensors, simulators, RATE)  # type: ignore[arg-type]


def same(a: Item, b: Item) -> bool:
    return all(torch.equal(a[key], b[key]) if isinstance(a[key], Tensor) else a[key] == b[key] for key in a)  # type: ignore[literal-required]


def test_seeds_are_equal_on_every_machine_and_distinct_for_distinct_names() -> None:
    assert stable_seed(0, "crop", 1, 2) == 12813933753196916797  # hash() is salted in every process
    names = [(1, 23), (12, 3), ("1", 23), (1, "23"), (123,), (23, 1)]
    assert len({stable_seed(*name) for name in names}) == len(names)


def test_an_item_depends_on_seed_epoch_and_index_alone(tmp_path: Path) -> None:
    rows = [row(tmp_path, "a", 3 * RATE), row(tmp_path, "b", 5 * RATE)]
    segments = TrainSegments(rows, reader("noisy", noisy=Noisy()), 0.5, seed=3)
    first = segments[4, 7]
    torch.manual_seed(99)
    segments[0, 0]
    assert same(segments[4, 7], first)
    assert same(TrainSegments(rows, segments.reader, 0.5, seed=3)[4, 7], first)
    for other in (segments[5, 7], segments[4, 8], TrainSegments(rows, segments.reader, 0.5, seed=4)[4, 7]):
        assert not torch.equal(other["target"], first["target"])
        assert not torch.equal(other["noise"], first["noise"])


def test_a_crop_tells_its_files_and_the_second_at_which_it_begins(tmp_path: Path) -> None:
    long, short = row(tmp_path, "a", 2 * RATE, offset=1.0), row(tmp_path, "b", RATE // 4)
    audio.write(tmp_path / "a.wav", ramp(3 * RATE), RATE, "FLOAT")
    segments = TrainSegments([long, short], reader("air"), 0.5, seed=3)
    batch = collate([segments[0, index] for index in range(len(segments))])
    assert [origin.partition(" from ")[0] for origin in batch["origins"]] == [
        str(tmp_path / f"{name}.wav") for name in batch["ids"]
    ]
    for origin, target in zip(batch["origins"], batch["target"], strict=True):
        second = float(origin.removesuffix(" s").rpartition(" from ")[2])
        assert second == pytest.approx((float(target[0, 0]) * 2**17 - 1) / RATE, abs=1e-4)
    assert "origins" not in collate([EvalItems([short], reader("air"))[0]])


def test_reading_leaves_the_global_random_state_alone(tmp_path: Path) -> None:
    segments = TrainSegments([row(tmp_path, "a", RATE)], reader("noisy", noisy=Noisy()), 0.5, seed=3)
    before = torch.get_rng_state()
    segments[0, 0]
    assert torch.equal(torch.get_rng_state(), before)


def test_long_files_are_visited_in_proportion_and_short_ones_once(tmp_path: Path) -> None:
    rows = [row(tmp_path, "short", RATE // 10), row(tmp_path, "long", 6 * RATE), row(tmp_path, "one", RATE)]
    segments = TrainSegments(rows, reader("air"), 1.0, seed=0)
    assert [segments.row_of(index) for index in range(len(segments))] == [0, 1, 1, 1, 1, 1, 1, 2]


def test_crops_reach_every_place_of_a_file_up_to_both_ends(tmp_path: Path) -> None:
    segments = TrainSegments([row(tmp_path, "a", 12)], reader("air"), 8 / RATE, seed=0)
    firsts = {round(float(segments[epoch, 0]["target"][0, 0]) * 2**17) for epoch in range(100)}
    assert firsts == {1, 2, 3, 4, 5}


def test_a_short_clip_is_taken_whole_and_padded(tmp_path: Path) -> None:
    segments = TrainSegments([row(tmp_path, "a", 300)], reader("noisy", noisy=Noisy()), 1000 / RATE, seed=0)
    item = segments[0, 0]
    assert item["length"] == 300
    assert np.array_equal(item["target"][0, :300].numpy(), ramp(300))
    for key in ("inputs", "target", "noise"):
        assert item[key].shape == (1, 1000)  # type: ignore[literal-required]
        assert not item[key][:, 300:].any()  # type: ignore[literal-required]


def test_all_sensors_are_cut_at_the_same_place(tmp_path: Path) -> None:
    audio.write(tmp_path / "n.wav", 2 * ramp(RATE), RATE, "FLOAT")
    recorded = {"air": str(tmp_path / "a.wav"), "noisy": str(tmp_path / "n.wav")}
    segments = TrainSegments(
        [row(tmp_path, "a", RATE, paths=recorded)], reader("noisy", "half", "air", half=scale(0.5)), 0.25, seed=0
    )
    item = segments[1, 0]
    assert item["inputs"].shape == (3, RATE // 4)
    assert torch.equal(item["inputs"][0:1], 2 * item["target"])
    assert torch.equal(item["inputs"][1:2], 0.5 * item["target"])
    assert torch.equal(item["inputs"][2:3], item["target"])


def test_a_recording_is_preferred_to_a_simulation(tmp_path: Path) -> None:
    item_row = row(tmp_path, "a", 100, paths={"air": str(tmp_path / "a.wav"), "body": str(tmp_path / "a.wav")})
    item = EvalItems([item_row], reader("body", body=scale(0)))[0]
    assert torch.equal(item["inputs"], item["target"])


@pytest.mark.parametrize("lag", [5, -5])
def test_a_late_and_inverted_body_sensor_is_read_aligned_with_air(tmp_path: Path, lag: int) -> None:
    frames = 1000
    body = np.zeros(frames, dtype=np.float32)
    if lag > 0:
        body[lag:] = -ramp(frames)[:-lag]
    else:
        body[:lag] = -ramp(frames)[-lag:]
    audio.write(tmp_path / "body.wav", body, RATE, "FLOAT")
    paths = {"air": str(tmp_path / "a.wav"), "body": str(tmp_path / "body.wav")}
    item_row = row(tmp_path, "a", frames, paths=paths, lag=lag / RATE, polarity=-1)
    item = EvalItems([item_row], reader("body"))[0]
    inside = slice(5, -5)
    assert torch.equal(item["inputs"][0, inside], item["target"][0, inside])


def test_offset_and_duration_bound_what_is_read(tmp_path: Path) -> None:
    whole = row(tmp_path, "a", 1000)
    part = Row("p", whole.paths, "s", "train", RATE, duration=100 / RATE, offset=400 / RATE)
    assert np.array_equal(EvalItems([part], reader("air"))[0]["target"][0].numpy(), ramp(1000)[400:500])
    segments = TrainSegments([part], reader("air"), 10 / RATE, seed=0)
    values = torch.cat([segments[epoch, 0]["target"] for epoch in range(100)]) * 2**17
    assert (int(values.min()), int(values.max())) == (401, 500)


def test_a_file_of_another_rate_is_resampled_to_the_task(tmp_path: Path) -> None:
    time = np.arange(3 * RATE) / (3 * RATE)
    audio.write(tmp_path / "a.wav", 0.5 * np.sin(2 * np.pi * 440 * time), 3 * RATE, "FLOAT")
    target = EvalItems([row(tmp_path, "a", RATE, sample_rate=3 * RATE)], reader("air"))[0]["target"][0]
    expected = 0.5 * torch.sin(2 * torch.pi * 440 * torch.arange(RATE, dtype=torch.float64) / RATE)
    assert target.shape == (RATE,)
    assert float((target - expected)[200:-200].abs().max()) < 1e-4


def test_evaluation_is_the_same_in_every_run_and_simulators_know_of_it(tmp_path: Path) -> None:
    rows = [row(tmp_path, "a", 800), row(tmp_path, "b", 800)]
    items, again = (EvalItems(rows, reader("noisy", noisy=Noisy())) for _ in range(2))
    assert same(items[0], again[0])
    assert not torch.equal(items[0]["noise"], items[1]["noise"])
    assert torch.equal(EvalItems(rows[1:], items.reader)[0]["noise"], items[1]["noise"])
    assert float(items[0]["noise"].std()) < 0.02


def test_the_noise_of_a_sensor_does_not_depend_on_other_sensors(tmp_path: Path) -> None:
    rows = [row(tmp_path, "a", 800)]
    alone = EvalItems(rows, reader("noisy", noisy=Noisy()))[0]
    both = EvalItems(rows, reader("body", "noisy", noisy=Noisy(), body=scale(0.5)))[0]
    assert torch.equal(alone["noise"], both["noise"])


def test_files_that_cannot_be_read_are_replaced_and_named(tmp_path: Path) -> None:
    rows = [row(tmp_path, name, RATE) for name in ("good", "cut", "nan", "gone")]
    content = (tmp_path / "cut.wav").read_bytes()
    (tmp_path / "cut.wav").write_bytes(content[: len(content) // 2])
    soundfile.write(tmp_path / "nan.wav", np.full(RATE, np.nan, dtype=np.float32), RATE, subtype="FLOAT")
    (tmp_path / "gone.wav").unlink()
    segments = TrainSegments(rows, reader("air"), 0.5, seed=0)
    for index in (2, 4, 6):
        item = segments[0, index]
        assert item["id"] == "good"
        assert item["unreadable"][0] == rows[segments.row_of(index)].paths["air"]
        assert same(segments[0, index], item)
    assert segments[0, 0]["unreadable"] == []
    with pytest.raises(UnreadableAudio):
        EvalItems(rows, reader("air"))[1]


def test_training_ends_if_nothing_can_be_read(tmp_path: Path) -> None:
    rows = [row(tmp_path, "gone", RATE)]
    (tmp_path / "gone.wav").unlink()
    with pytest.raises(DataError, match=r"cannot be read.*gone\.wav"):
        TrainSegments(rows, reader("air"), 0.5, seed=0)[0, 0]
    with pytest.raises(DataError, match="no utterances"):
        TrainSegments([], reader("air"), 0.5, seed=0)


def test_a_wrong_channel_count_is_reported_and_not_replaced(tmp_path: Path) -> None:
    audio.write(tmp_path / "a.wav", np.zeros((2, RATE)), RATE)
    with pytest.raises(AudioFormatError, match=r"a\.wav has 2 channels"):
        TrainSegments([row(tmp_path, "a", RATE)], reader("air"), 0.5, seed=0)[0, 0]


@pytest.mark.parametrize("rate", [RATE, 2 * RATE])
def test_sensors_are_read_from_the_channels_that_the_row_names(tmp_path: Path, rate: int) -> None:
    levels = np.array([[0.1], [0.2], [0.4]]) * np.ones(rate)
    audio.write(tmp_path / "a.wav", levels, rate, "FLOAT")
    paths = dict.fromkeys(("air", "body", "noisy"), str(tmp_path / "a.wav"))
    three = Row("a", paths, "s", "train", rate, 1.0, channels={"air": 2, "body": 0, "noisy": 1})
    item = EvalItems([three], reader("body", "noisy"))[0]
    middle = RATE // 2
    assert item["target"][0, middle].item() == pytest.approx(0.4, abs=1e-4)
    assert item["inputs"][:, middle].tolist() == pytest.approx([0.1, 0.2], abs=1e-4)
    beyond = Row("b", paths, "s", "train", rate, 1.0, channels={"air": 3, "body": 0, "noisy": 1})
    with pytest.raises(AudioFormatError, match=r"has 3 channel\(s\), but sensor 'air' is channel 3, counted from 0"):
        EvalItems([beyond], reader("body"))[0]


def test_gain_and_polarity_are_undone_on_body_alone(tmp_path: Path) -> None:
    whole = row(tmp_path, "a", RATE)
    sensors = dict.fromkeys(("air", "body", "noisy"), whole.paths["air"])
    turned = row(tmp_path, "a", RATE, paths=sensors, polarity=-1, gain=20.0)
    item = EvalItems([turned], reader("body", "noisy"))[0]
    torch.testing.assert_close(item["inputs"][0], -10 * item["target"][0])
    assert torch.equal(item["inputs"][1], item["target"][0])


def test_a_wrong_rate_is_reported_and_not_replaced_if_resampling_is_off(tmp_path: Path) -> None:
    strict = SensorReader(["air"], {}, 16000, resample=False)
    with pytest.raises(AudioFormatError, match="8000 Hz, the task at 16000 Hz"):
        TrainSegments([row(tmp_path, "a", RATE)], strict, 0.5, seed=0)[0, 0]


def test_a_simulator_that_changes_the_length_is_named(tmp_path: Path) -> None:
    def short(air: Tensor, draw: Draw) -> dict[str, Tensor]:
        return {"signal": air[:, 1:]}

    with pytest.raises(DataError, match=r"simulator of 'body'.*\(1, 99\)"):
        EvalItems([row(tmp_path, "a", 100)], reader("body", body=short))[0]


def test_a_batch_is_padded_to_its_longest_item(tmp_path: Path) -> None:
    items = EvalItems([row(tmp_path, "a", 100), row(tmp_path, "b", 40)], reader("air", "noisy", noisy=Noisy()))
    batch = collate([items[0], items[1]])
    assert batch["inputs"].shape == (2, 2, 100)
    assert batch["target"].shape == batch["noise"].shape == (2, 1, 100)
    assert batch["lengths"].tolist() == [100, 40]
    assert batch["lengths"].dtype == torch.int64
    assert not batch["inputs"][1, :, 40:].any()
    assert np.array_equal(batch["target"][1, 0, :40].numpy(), ramp(40))
    assert batch["ids"] == ["a", "b"]
    assert "noise" not in collate([items[0], EvalItems([items.rows[1]], reader("air", "air"))[0]])


def test_generators_of_one_name_give_the_same_numbers() -> None:
    a, b, c = (torch.rand(3, generator=generator_for(*name)) for name in ((1, "x"), (1, "x"), (1, "y")))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


def test_sensor_dropout_silences_one_sensor_of_some_crops_and_never_the_target(tmp_path: Path) -> None:
    rows, both = [row(tmp_path, "a", RATE)], reader("air", "noisy", noisy=Noisy())
    plain, dropped = TrainSegments(rows, both, 0.25, seed=0), TrainSegments(rows, both, 0.25, 0, sensor_dropout=0.5)
    silent = []
    for epoch in range(200):
        item, whole = dropped[epoch, 0], plain[epoch, 0]
        assert torch.equal(item["target"], whole["target"])
        gone = [not channel.any() for channel in item["inputs"]]
        assert sum(gone) <= 1
        for channel, lost in enumerate(gone):
            assert lost or torch.equal(item["inputs"][channel], whole["inputs"][channel])
        silent.append(gone)
        assert same(dropped[epoch, 0], item)
    share = torch.tensor(silent).double().mean(0)
    assert all(0.15 < float(value) < 0.35 for value in share), share
    alone = TrainSegments(rows, reader("air"), 0.25, 0, sensor_dropout=1.0)
    assert all(alone[epoch, 0]["inputs"].any() for epoch in range(10))


@pytest.mark.parametrize("recorded", [True, False])
def test_the_gain_of_evaluation_acts_on_the_body_sensor_alone_and_on_nothing_else(
    tmp_path: Path, recorded: bool
) -> None:
    made = row(tmp_path, "a", RATE)
    if recorded:
        body = row(tmp_path, "b", RATE).paths["air"]
        made = row(tmp_path, "a", RATE, paths={**made.paths, "body": body}, gain=6.0, polarity=-1)
    simulators = {"body": scale(0.5), "noisy": Noisy()}
    plain, quiet = (
        SensorReader(("body", "noisy", "air"), simulators, RATE, evaluation_gain=gain)  # type: ignore[arg-type]
        for gain in (0.0, -20.0)
    )
    item, changed = EvalItems([made], plain)[0], EvalItems([made], quiet)[0]
    assert float(item["inputs"][0].abs().max()) > 0
    torch.testing.assert_close(changed["inputs"][0], 0.1 * item["inputs"][0])
    assert torch.equal(changed["inputs"][1:], item["inputs"][1:])
    assert torch.equal(changed["target"], item["target"])
    assert torch.equal(changed["noise"], item["noise"])
    assert same(TrainSegments([made], quiet, 0.5, 0)[0, 0], TrainSegments([made], plain, 0.5, 0)[0, 0])


def test_coded_files_are_read_in_training_and_long_ones_of_another_rate_to_their_last_sample(tmp_path: Path) -> None:
    coded = tmp_path / "gsm.wav"
    soundfile.write(coded, 0.5 * np.sin(np.arange(4000) / 9), RATE, subtype="GSM610")
    made = row(tmp_path, "gsm", 4000, paths={"air": str(coded)})
    item = TrainSegments([made], reader("air"), 0.1, seed=0)[0, 3]
    assert item["unreadable"] == []
    assert float(item["target"].std()) > 0.2
    frames = 397_228  # of which single precision makes a sample too few
    unlucky = tmp_path / "long.wav"
    soundfile.write(unlucky, np.full(frames, 0.1), 44100)
    long = Row("long", {"air": str(unlucky)}, "s", "test", 44100, frames / 44100)
    whole = EvalItems([long], SensorReader(["air"], {}, 16000))[0]
    assert whole["target"].shape[1] == round(frames * 16000 / 44100)
