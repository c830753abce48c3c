from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from draws import draw, seeded
from torch import Tensor

from bcfusion import audio
from bcfusion.contracts import Draw, Row
from bcfusion.data.loading.reader import SensorReader
from bcfusion.data.loading.segments import EvalItems
from bcfusion.data.simulation.air_noise import AirNoise
from bcfusion.data.simulation.room import Response, Rooms, direct_path, read_response, room_sources
from bcfusion.data.simulation.sources import Source
from bcfusion.errors import ConfigError, DataError

RATE = 16000


def speech(length: int = 8000, seed: int = 1) -> Tensor:
    return 0.05 * torch.randn(1, length, generator=seeded(seed))


def response(direct: int = 150, level: float = 0.2, tail: float = 0.3, length: int = 4000) -> np.ndarray:
    """A direct path, two reflections and a decaying tail, at any level and with any delay."""
    taps = np.zeros(length, np.float32)
    taps[direct + 100 :] = tail * np.random.default_rng(0).standard_normal(length - direct - 100) * 0.1
    taps[direct + 100 :] *= np.exp(-np.arange(length - direct - 100) / 800)
    taps[direct] = 1.0
    taps[direct + 320] = 0.6
    taps[direct + 1600] = 0.4
    return level * taps


def store(path: Path, taps: np.ndarray, rate: int = RATE) -> str:
    audio.write(path, taps, rate, "FLOAT")
    return str(path)


def read(path: str, rate: int = RATE) -> Response:
    return read_response(Source(path), rate, seeded())


def noises(root: Path) -> str:
    for split, number in (("train", 0), ("valid", 1)):
        store(root / split / "n.wav", 0.1 * np.random.default_rng(number).standard_normal(3 * RATE))
    return str(root)


def rooms(root: Path, **changes: object) -> Rooms:
    for split in ("train", "valid"):
        store(root / split / "room.wav", response(level=0.2 if split == "train" else -3.0))
    return Rooms(str(root), **changes)  # type: ignore[arg-type]


def lag(late: Tensor, early: Tensor) -> int:
    """Samples by which one signal lags the other, from their circular cross-correlation."""
    product = torch.fft.rfft(late.flatten()).conj() * torch.fft.rfft(early.flatten())
    correlation = torch.fft.irfft(product, n=late.numel())
    place = int(correlation.abs().argmax())
    return -(place if place < late.numel() // 2 else place - late.numel())


@pytest.mark.parametrize("direct", [0, 7, 150, 900])
@pytest.mark.parametrize("level", [0.01, -3.0])
def test_the_direct_path_has_no_delay_and_the_level_and_sign_of_the_speech(
    tmp_path: Path, direct: int, level: float
) -> None:
    room = read(store(tmp_path / "r.wav", response(direct, level, tail=0.0)))
    impulse = torch.zeros(1, 3000)
    impulse[0, 500] = 1.0
    out = room.reverberate(impulse)[0]
    expected = torch.zeros(3000)
    expected[500], expected[820], expected[2100] = 1.0, 0.6, 0.4
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-5)
    assert lag(room.reverberate(speech()), speech()) == 0


def test_a_direct_path_between_two_samples_is_found_to_half_a_sample_and_has_unit_level(tmp_path: Path) -> None:
    place = 200.4  # a band-limited pulse, which rings before its peak
    taps = 0.02 * np.sinc(np.arange(2000) - place)
    taps[600:] += 0.015 * np.sinc(np.arange(1400) - 300)
    room = read(store(tmp_path / "r.wav", taps))
    assert room.direct == round(0.001 * RATE)
    assert lag(room.reverberate(speech()), speech()) == 0
    direct = room.early(40).reverberate(speech())
    assert float(direct.square().mean().sqrt() / speech().square().mean().sqrt()) == pytest.approx(1.0, abs=0.02)


def test_a_wall_may_be_louder_than_the_direct_path() -> None:
    taps = torch.zeros(500)
    taps[40], taps[41], taps[300] = 0.55, 0.6, -1.0
    assert direct_path(taps) == 41
    assert direct_path(torch.tensor([0.0, 1.0, 0.5])) == 1
    assert direct_path(torch.tensor([-1.0])) == 0


def test_a_response_of_another_rate_keeps_its_times(tmp_path: Path) -> None:
    room = read(store(tmp_path / "r.wav", response(direct=450, tail=0.0, length=12000), 48000))
    out = room.reverberate(speech())
    assert lag(out, speech()) == 0
    peaks = room.taps.abs().topk(40).indices - room.direct
    assert {0, round(320 / 3)} <= set(peaks.tolist())


def test_of_several_channels_one_is_drawn_unless_it_is_named(tmp_path: Path) -> None:
    store(tmp_path / "r.wav", np.stack([response(50), response(50, tail=0.0)]))
    path = str(tmp_path / "r.wav")
    drawn = [read_response(Source(path), RATE, seeded(seed)).taps for seed in range(8)]
    assert len({float(taps.square().sum()) for taps in drawn}) == 2
    named = [read_response(Source(path, channel=1), RATE, seeded(seed)).taps for seed in range(8)]
    assert all(torch.equal(taps, named[0]) for taps in named)


def parts(simulator: AirNoise, air: Tensor, training: bool = True, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Speech and noise at the microphone, from the same draws at two ratios."""
    loud = simulator(air, draw(seed, training))["signal"].double()
    simulator.snr_range = (100.0, 100.0)
    reverberant = simulator(air, draw(seed, training))["signal"].double()
    return reverberant, loud - reverberant


@pytest.mark.parametrize("wanted", [-5.0, 10.0])
def test_the_ratio_is_that_of_the_reverberant_speech(tmp_path: Path, wanted: float) -> None:
    simulator = AirNoise(noises(tmp_path / "n"), (wanted, wanted), rooms=rooms(tmp_path / "r"))
    reverberant, noise = parts(simulator, speech())
    ratio = 10 * torch.log10(reverberant.square().sum() / noise.square().sum())
    assert float(ratio) == pytest.approx(wanted, abs=0.02)
    assert float((reverberant - speech()).square().sum()) > 0.2 * float(speech().square().sum())


def test_the_target_is_dry_and_everything_else_is_noise(tmp_path: Path) -> None:
    simulator = AirNoise(noises(tmp_path / "n"), rooms=rooms(tmp_path / "r"))
    out = simulator(speech(), draw())
    assert set(out) == {"signal", "noise"}
    torch.testing.assert_close(out["signal"] - out["noise"], speech(), rtol=0, atol=1e-6)


def test_early_reflections_may_belong_to_the_target(tmp_path: Path) -> None:
    simulator = AirNoise(noises(tmp_path / "n"), rooms=rooms(tmp_path / "r", early_reflections=0.05))
    out = simulator(speech(), draw())
    torch.testing.assert_close(out["signal"] - out["noise"], out["target"], rtol=0, atol=1e-6)
    assert lag(out["target"], speech()) == 0
    taps = torch.from_numpy(response(direct=0, level=1.0)[:801])  # 50 ms
    full = torch.nn.functional.conv1d(torch.nn.functional.pad(speech()[None], (800, 0)), taps.flip(0)[None, None])[0]
    torch.testing.assert_close(out["target"], full, rtol=0, atol=1e-4)


def test_the_body_sensor_stays_dry_and_the_reader_hands_the_target_on(tmp_path: Path) -> None:
    file = store(tmp_path / "a.wav", speech()[0].numpy())
    row = Row("a", {"air": file}, "s", "valid", RATE, 0.5)

    def body(air: Tensor, draw: Draw) -> dict[str, Tensor]:
        return {"signal": air}

    noisy = AirNoise(noises(tmp_path / "n"), rooms=rooms(tmp_path / "r", early_reflections=0.05))
    for order in (("body", "noisy"), ("noisy", "body")):
        item = EvalItems([row], SensorReader(order, {"body": body, "noisy": noisy}, RATE))[0]
        channels = dict(zip(order, item["inputs"], strict=True))
        assert torch.equal(channels["body"], speech()[0])
        torch.testing.assert_close(item["target"][0] + item["noise"][0], channels["noisy"], rtol=0, atol=1e-6)
        assert float((item["target"] - speech()).square().sum()) > 0.1 * float(speech().square().sum())


def test_the_noise_is_reverberant_if_asked_and_the_room_is_full_of_it_at_once(tmp_path: Path) -> None:
    store(tmp_path / "n" / "train" / "clicks.wav", np.tile(np.eye(1, 4000, dtype=np.float32)[0], 10))
    store(tmp_path / "n" / "valid" / "clicks.wav", np.ones(4000, np.float32))
    simulator = AirNoise(str(tmp_path / "n"), (0, 0), rooms=rooms(tmp_path / "r", speech=False, noise=True))
    out = simulator(speech(4000), draw())
    torch.testing.assert_close(out["signal"] - out["noise"], speech(4000), rtol=0, atol=1e-6)
    # any 4000 samples of a click every 4000 samples hold the whole response, of the click inside or of the one before
    noise = out["noise"][0] / out["noise"].abs().max()
    assert noise.roll(-int(noise.argmax()))[320] == pytest.approx(0.6, abs=0.1)
    assert noise.roll(-int(noise.argmax()))[1600] == pytest.approx(0.4, abs=0.1)


def test_a_share_of_the_utterances_is_dry(tmp_path: Path) -> None:
    simulator = AirNoise(noises(tmp_path / "n"), (100, 100), rooms=rooms(tmp_path / "r", share=0.3))
    generator = seeded()
    outs = [simulator(speech(600), Draw(RATE, generator, generator, True))["signal"] for _ in range(60)]
    dry = sum(float((out - speech(600)).abs().max()) < 1e-4 for out in outs)
    assert 32 <= dry <= 52


def test_without_responses_nothing_is_drawn_and_nothing_changes(tmp_path: Path) -> None:
    root = noises(tmp_path / "n")
    plain, roomless = (AirNoise(root, rooms=room)(speech(), draw()) for room in (None, Rooms()))
    assert all(torch.equal(plain[key], roomless[key]) for key in ("signal", "noise"))


def test_training_and_evaluation_are_in_different_rooms(tmp_path: Path) -> None:
    for room in range(5):
        for number in range(3):
            store(tmp_path / "folders" / f"Room{room}" / f"{number}.wav", response(10, length=2000))
    split = room_sources(tmp_path / "folders")
    training, evaluation = ({Path(s.path).parent.name for s in found} for found in (split.training, split.evaluation))
    assert len(training) == 4
    assert training | evaluation == {f"Room{room}" for room in range(5)}
    assert not training & evaluation
    assert len(split.training) == 12
    flat = room_sources(tmp_path / "folders" / "Room0")
    assert len(flat.training) == 2
    assert len(flat.evaluation) == 1
    assert not set(flat.training) & set(flat.evaluation)


def test_a_manifest_assigns_responses_to_splits(tmp_path: Path) -> None:
    lines = []
    for split, tail in (("train", 0.0), ("valid", 0.3), ("test", 0.3)):
        store(tmp_path / f"{split}.wav", np.stack([response(tail=0.3 - tail), response(tail=tail)]))
        lines.append(json.dumps({"rir": f"{split}.wav", "split": split, "rir_channel": 1}))
    (tmp_path / "rooms.jsonl").write_text("\n".join(lines))
    drawn = Rooms(str(tmp_path / "rooms.jsonl"))
    wanted = {training: read_response(Source(str(tmp_path / f), channel=1), RATE, seeded()).taps
              for training, f in ((True, "train.wav"), (False, "test.wav"))}  # fmt: skip
    for seed in range(6):
        for training in (True, False):
            assert torch.equal(drawn.response(draw(seed, training)).taps, wanted[training])


@pytest.mark.parametrize("length", [1, 2, 5, 1000])
def test_any_length_and_silence(tmp_path: Path, length: int) -> None:
    simulator = AirNoise(noises(tmp_path / "n"), rooms=rooms(tmp_path / "r", noise=True, early_reflections=0.02))
    for air in (torch.zeros(1, length), speech(length)):
        for training in (True, False):
            out = simulator(air, draw(0, training))
            assert {signal.shape for signal in out.values()} == {(1, length)}
            assert {signal.dtype for signal in out.values()} == {torch.float32}
            assert all(bool(signal.isfinite().all()) for signal in out.values())


def test_silent_and_broken_responses_are_left_out_and_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    drawn = rooms(tmp_path)
    store(tmp_path / "train" / "silent.wav", np.zeros(100, np.float32))
    (tmp_path / "train" / "broken.wav").write_bytes(b"RIFF")
    drawn = Rooms(str(tmp_path))
    with caplog.at_level(logging.WARNING):
        found = [drawn.response(draw(seed)).taps for seed in range(12)]
    assert all(torch.equal(taps, found[0]) for taps in found)
    assert sorted(Path(record.args[0].path).name for record in caplog.records) == ["broken.wav", "silent.wav"]  # type: ignore[index,union-attr]
    (tmp_path / "train" / "room.wav").unlink()
    with pytest.raises(DataError, match=r"no room response could be read in 8 draws.*data\.room_root"):
        drawn.response(draw())


def test_what_the_user_got_wrong_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no rir folder .*set data\.room_root"):
        Rooms(str(tmp_path / "nowhere"))
    with pytest.raises(DataError, match="no audio in the rir folder"):
        Rooms(str(tmp_path))
    store(tmp_path / "one.wav", response())
    with pytest.raises(DataError, match="only one room response"):
        Rooms(str(tmp_path))
    with pytest.raises(ConfigError) as error:
        Rooms(share=2.0, speech=False, early_reflections=0.05)
    assert len(str(error.value).splitlines()) == 2
    with pytest.raises(ConfigError, match="early_reflections=-1"):
        Rooms(early_reflections=-1)
