from __future__ import annotations

import json
import pickle
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from draws import draw, seeded

from bcfusion.audio.level import active_level
from bcfusion.contracts import Draw, Simulator
from bcfusion.data.corpora import demo_noise
from bcfusion.data.simulation.air_noise import AirNoise, read_looped
from bcfusion.errors import ConfigError, DataError

RATE = 16000


def speech(length: int = 8000, seed: int = 1) -> torch.Tensor:
    return 0.05 * torch.randn(1, length, generator=seeded(seed))


def store(path: Path, samples: np.ndarray, rate: int = RATE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, rate, subtype="FLOAT")


def noise_folder(root: Path, seconds: float = 2.0, rate: int = RATE) -> str:
    for number in range(3):
        samples = np.random.default_rng(number).standard_normal(int(seconds * rate)) * 0.1
        store(root / f"{number}.wav", samples.astype(np.float32), rate)
    return str(root)


def ratio(result: dict[str, torch.Tensor]) -> float:
    """Signal-to-noise ratio in dB of what is in the result."""
    clean = result["signal"].double() - result["noise"].double()
    return float(10 * torch.log10(clean.square().sum() / result["noise"].double().square().sum()))


@pytest.mark.parametrize("wanted", [-10.0, 0.0, 15.0])
def test_the_ratio_is_that_of_the_slice(tmp_path: Path, wanted: float) -> None:
    # a noise whose level climbs by 40 dB: the ratio of the whole file would be far off on most slices
    climbing = np.random.default_rng(0).standard_normal(4 * RATE) * np.logspace(-3, -1, 4 * RATE)
    store(tmp_path / "climbing.wav", climbing.astype(np.float32))
    simulator = AirNoise(str(tmp_path), snr_range=(wanted, wanted))
    air = speech()
    for seed in range(5):
        out = simulator(air, draw(seed))
        assert ratio(out) == pytest.approx(wanted, abs=0.01)
        torch.testing.assert_close(out["signal"], air + out["noise"], atol=0, rtol=0)


def spoken(share: float, length: int = 2 * RATE, floor: float = 1e-3) -> torch.Tensor:
    """Speech at the beginning, then a pause with a floor 34 dB below it."""
    air = speech(length)
    air[:, round(share * length) :] *= floor / 0.05
    return air


@pytest.mark.parametrize("share", [0.25, 0.5, 1.0])
def test_the_ratio_counts_speech_while_somebody_speaks_or_over_the_slice(tmp_path: Path, share: float) -> None:
    root = noise_folder(tmp_path)
    air = spoken(share)
    pauses = 10 * np.log10(share)
    out = AirNoise(root, (3, 3))(air, draw())
    assert ratio(out) == pytest.approx(3 + pauses, abs=0.05)
    words, around = air[:, : round(share * 2 * RATE)].double(), out["noise"].double()
    assert float(10 * torch.log10(words.square().mean() / around.square().mean())) == pytest.approx(3, abs=0.05)
    assert ratio(AirNoise(root, (3, 3), snr_of="slice")(air, draw())) == pytest.approx(3, abs=0.01)


def test_the_active_level_is_that_of_the_frames_within_30_db_of_the_loudest() -> None:
    tone = torch.sin(2 * torch.pi * 500 * torch.arange(RATE) / RATE)[None]
    for drop, counts in ((-29.0, True), (-31.0, False)):
        air = 0.1 * tone
        air[:, RATE // 2 :] *= 10 ** (drop / 20)
        mean = 0.005 * (0.5 * (1 + 10 ** (drop / 10)) if counts else 1.0)
        assert active_level(air, RATE) == pytest.approx(mean**0.5, rel=1e-4)
    for length in (
        1,
        100,
        319,
        320,
        333,
        5000,
    ):  # for a steady signal it is the level, whatever remains after the last frame
        steady = 0.1 * torch.ones(1, length)
        assert active_level(steady, RATE) == pytest.approx(0.1, rel=1e-6)
    assert active_level(torch.zeros(1, 1000), RATE) == 0


def test_ratios_are_drawn_uniformly_from_the_range(tmp_path: Path) -> None:
    simulator = AirNoise(noise_folder(tmp_path), snr_range=(-10, 15))
    generator = seeded()
    drawn = np.array([ratio(simulator(speech(500), Draw(RATE, generator, generator, True))) for _ in range(300)])
    assert -10.01 < drawn.min() < -8
    assert 13 < drawn.max() < 15.01
    assert drawn.mean() == pytest.approx(2.5, abs=1.3)


def test_evaluation_is_the_same_for_an_utterance_and_differs_between_utterances(tmp_path: Path) -> None:
    root = noise_folder(tmp_path)
    first = AirNoise(root)(speech(), draw(7, False))
    torch.manual_seed(99)
    again = AirNoise(root)(speech(), draw(7, False))
    assert torch.equal(first["signal"], again["signal"])
    other = AirNoise(root)(speech(), draw(8, False))
    assert ratio(other) != pytest.approx(ratio(first), abs=0.01)
    assert isinstance(AirNoise(root), Simulator)


def test_a_fixed_ratio_of_the_evaluation_leaves_training_alone(tmp_path: Path) -> None:
    simulator = AirNoise(noise_folder(tmp_path), snr_range=(5, 6), evaluation_snr=-3.0)
    assert ratio(simulator(speech(), draw(0, False))) == pytest.approx(-3, abs=0.01)
    assert 5 <= ratio(simulator(speech(), draw())) <= 6.01


def test_a_fixed_ratio_meets_the_noise_that_a_drawn_one_does(tmp_path: Path) -> None:
    root = noise_folder(tmp_path)
    for seed in range(5):
        drawn, fixed = (
            AirNoise(root, evaluation_snr=snr)(speech(), draw(seed, False))["noise"] for snr in (None, -3.0)
        )
        torch.testing.assert_close(fixed / fixed.std(), drawn / drawn.std())


def places(simulator: AirNoise, training: bool, length: int, draws: int = 60) -> torch.Tensor:
    """The values of a ramp that were read, scaled back, over many draws: where in the file the noise came from."""
    found = []
    for seed in range(draws):
        noise = simulator(torch.ones(1, length), draw(seed, training))["noise"][0].double()
        found.append(noise / (noise[1:] - noise[:-1]).median())
    return torch.cat(found)


def test_of_one_folder_training_uses_the_first_part_of_each_file_and_evaluation_the_last(tmp_path: Path) -> None:
    store(tmp_path / "ramp.wav", (np.arange(1, 20001) / 20000).astype(np.float32))
    simulator = AirNoise(str(tmp_path), snr_range=(0, 0))
    training, evaluation = places(simulator, True, 500), places(simulator, False, 500)
    assert float(training.min()) < 2000
    assert 15000 < float(training.max()) < 16001.5
    assert 15999.5 < float(evaluation.min()) < 16500
    assert 19000 < float(evaluation.max()) < 20001.5


def test_folders_named_by_split_are_used_by_split_and_whole(tmp_path: Path) -> None:
    for split, sign in (("train", 1.0), ("valid", -1.0), ("test", -1.0)):
        store(tmp_path / split / "deep" / "constant.wav", np.full(4000, 0.1 * sign, dtype=np.float32))
    simulator = AirNoise(str(tmp_path))
    for seed in range(10):
        assert bool((simulator(speech(3800), draw(seed))["noise"] > 0).all())
        assert bool((simulator(speech(3800), draw(seed, False))["noise"] < 0).all())


def test_a_lone_train_folder_still_keeps_training_and_evaluation_apart(tmp_path: Path) -> None:
    store(tmp_path / "train" / "step.wav", np.repeat(np.array([0.1, -0.1], np.float32), [8000, 2000]))
    simulator = AirNoise(str(tmp_path))
    assert bool((simulator(speech(1000), draw())["noise"] > 0).all())
    assert bool((simulator(speech(1000), draw(0, False))["noise"] < 0).all())


def manifest(root: Path, *lines: dict[str, object]) -> str:
    (root / "noise.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    return str(root / "noise.jsonl")


def test_a_manifest_gives_split_part_and_channel_of_each_noise(tmp_path: Path) -> None:
    levels = np.repeat(np.array([0.1, 0.2, 0.3, 0.4], np.float32), 4000)
    store(tmp_path / "a.wav", np.stack([levels, -levels], 1))
    path = manifest(
        tmp_path,
        {"noise": "a.wav", "split": "train", "offset": 0.25, "duration": 0.25, "noise_channel": 1, "id": "a"},
        {"noise": "a.wav", "split": "valid", "offset": 0.5, "duration": 0.25, "noise_channel": 0, "id": "b"},
        {"noise": "a.wav", "split": "test", "offset": 0.75, "noise_channel": 0, "id": "c"},
    )
    simulator = AirNoise(path)
    used: dict[bool, set[float]] = {True: set(), False: set()}
    for seed in range(12):
        for training in (True, False):
            simulator.snr_range = (0.0, 0.0)
            assert simulator._noises is not None
            sources = simulator._noises.of(training)
            source = sources[seed % len(sources)]
            samples = read_looped(source, 0.0, 1.0, 6000, RATE, seeded(seed))
            used[training] |= {round(float(value), 3) for value in samples.unique()}
            sign = simulator(speech(1000), draw(seed, training))["noise"].sign().unique()
            assert sign.tolist() == [-1.0 if training else 1.0]
    assert used == {True: {-0.2}, False: {0.3, 0.4}}


def test_a_manifest_must_keep_training_and_evaluation_apart(tmp_path: Path) -> None:
    store(tmp_path / "a.wav", 0.1 * np.ones(RATE, np.float32))
    halves = ({"noise": "a.wav", "id": "1", "split": "train", "duration": 0.6},
              {"noise": "a.wav", "id": "2", "split": "valid", "offset": 0.5})  # fmt: skip
    with pytest.raises(DataError, match=r"lists 1 part\(s\) of noise for both training and evaluation.*a\.wav"):
        AirNoise(manifest(tmp_path, *halves))
    AirNoise(manifest(tmp_path, {**halves[0], "duration": 0.5}, halves[1]))
    with pytest.raises(DataError, match="lists no noise with split valid or test"):
        AirNoise(manifest(tmp_path, halves[0]))
    evaluation = AirNoise(manifest(tmp_path, halves[1]))
    evaluation(speech(100), draw(0, False))
    with pytest.raises(DataError, match="lists nothing with split train"):
        evaluation(speech(100), draw())


def test_a_short_noise_is_repeated(tmp_path: Path) -> None:
    store(tmp_path / "train" / "short.wav", np.random.default_rng(0).uniform(-1, 1, 300).astype(np.float32))
    store(tmp_path / "valid" / "short.wav", np.ones(5, dtype=np.float32))
    noise = AirNoise(str(tmp_path))(speech(1000), draw())["noise"][0]
    torch.testing.assert_close(noise[:700], noise[300:], atol=0, rtol=0)
    assert not torch.equal(noise[:300], noise[1:301])


def test_noise_of_another_rate_keeps_its_pitch(tmp_path: Path) -> None:
    tone = np.sin(2 * np.pi * 1000 * np.arange(88200) / 44100).astype(np.float32)
    store(tmp_path / "tone.wav", np.stack([tone, tone], 1), 44100)
    noise = AirNoise(str(tmp_path))(speech(16000), draw())["noise"][0]
    spectrum = torch.fft.rfft(noise * torch.hann_window(16000)).abs()
    assert int(spectrum.argmax()) == 1000
    assert float(spectrum[1100:].max() / spectrum.max()) < 1e-3


def test_channels_are_drawn_and_not_mixed(tmp_path: Path) -> None:
    store(tmp_path / "opposed.wav", np.tile(np.array([0.5, -0.5], np.float32), (20000, 1)))
    signs = {float(AirNoise(str(tmp_path))(speech(100), draw(s))["noise"].sign().mean()) for s in range(12)}
    assert signs == {1.0, -1.0}


@pytest.mark.parametrize("rounding", [0.0, 0.3, 1.0])
def test_a_slice_without_speech_gets_noise_as_if_speech_were_at_its_nominal_level(
    tmp_path: Path, rounding: float
) -> None:
    simulator = AirNoise(noise_folder(tmp_path), snr_range=(0, 0))
    steps_of_16_bits = rounding / 32768 * torch.randn(1, 4000, generator=seeded()).sign()
    out = simulator(steps_of_16_bits, draw())
    assert float(20 * torch.log10(out["noise"].square().mean().sqrt())) == pytest.approx(-26.0, abs=0.01)


def test_silent_noise_files_are_reported_skipped_and_never_divided_by(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store(tmp_path / "silent.wav", np.zeros(20000, dtype=np.float32))
    only_silence = AirNoise(str(tmp_path))
    for seed in range(3):
        assert torch.equal(only_silence(speech(), draw(seed))["signal"], speech())
    [record] = caplog.records  # once, not for each utterance
    assert f"{tmp_path}: 8 draws in a row are digital silence, the last from {tmp_path}/silent.wav" in record.message
    assert "Check data.noise_root" in record.message
    caplog.clear()
    noise_folder(tmp_path)
    simulator = AirNoise(str(tmp_path))
    assert all(bool(simulator(speech(100), draw(seed))["noise"].any()) for seed in range(30))
    assert not caplog.records


def test_loud_sums_are_neither_clipped_nor_rescaled(tmp_path: Path) -> None:
    air = 0.9 * torch.sign(speech())
    out = AirNoise(noise_folder(tmp_path), snr_range=(-10, -10))(air, draw())
    assert float(out["signal"].abs().max()) > 1.5
    torch.testing.assert_close(out["signal"] - out["noise"], air, atol=1e-6, rtol=0)


@pytest.mark.parametrize("length", [1, 2, 3, 1000, 40000])
def test_any_length_and_silence(tmp_path: Path, length: int) -> None:
    simulator = AirNoise(noise_folder(tmp_path, seconds=1.0))
    for air in (torch.zeros(1, length), speech(length)):
        for training in (True, False):
            before = air.clone()
            out = simulator(air, draw(0, training))
            assert out["signal"].shape == out["noise"].shape == (1, length)
            assert out["signal"].dtype == out["noise"].dtype == torch.float32
            assert bool(out["signal"].isfinite().all())
            assert torch.equal(air, before)


@pytest.mark.slow
def test_without_a_folder_the_demo_noises_are_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BCFUSION_CACHE", str(tmp_path))
    monkeypatch.setattr(demo_noise, "DemoNoise", partial(demo_noise.DemoNoise, seconds=2.0))
    simulator = AirNoise()
    assert not any(tmp_path.iterdir())
    assert simulator(speech(), draw())["noise"].any()
    assert len(list(tmp_path.rglob("*.flac"))) > 3
    restored = pickle.loads(pickle.dumps(simulator))
    assert torch.equal(
        restored(speech(), draw(1, False))["signal"],
        simulator(speech(), draw(1, False))["signal"],
    )


def test_what_the_user_got_wrong_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no noise folder"):
        AirNoise(str(tmp_path / "nowhere"))
    with pytest.raises(DataError, match="no audio in the noise folder"):
        AirNoise(str(tmp_path))
    with pytest.raises(ConfigError, match="snr_range"):
        AirNoise(None, snr_range=(15, -10))
    with pytest.raises(ConfigError, match="two numbers"):
        AirNoise(None, snr_range=(15,))
    with pytest.raises(ConfigError, match="snr_of='file'"):
        AirNoise(None, snr_of="file")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="evaluation_snr"):
        AirNoise(None, evaluation_snr=float("nan"))
    store(tmp_path / "tiny.wav", np.ones(1, dtype=np.float32))
    with pytest.raises(DataError, match=r"tiny\.wav holds only 1 samples"):
        AirNoise(str(tmp_path))(speech(), draw())
