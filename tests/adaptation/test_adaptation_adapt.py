from __future__ import annotations

import json
import math
import os
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from made_up_pairs import RATE, Hum, five_pairs, save_hum, speech_like, through_the_sensor, write_pair
from torch import Tensor

from bcfusion.adaptation.adapt import Settings, adapt
from bcfusion.adaptation.curve import Curve, choose, selection_for, steps_to_score
from bcfusion.adaptation.fold_run import FoldJob, Trainee, Workers, train_fold
from bcfusion.adaptation.learning import Learner, losses_of
from bcfusion.adaptation.pairs import checked, pieces_of
from bcfusion.adaptation.plan import Load, Pace
from bcfusion.adaptation.report import record_of, report_text, write_adaptation
from bcfusion.contracts import Batch, Row
from bcfusion.errors import ConfigError, DataError, TrainingError
from bcfusion.generators.seanet import SEANet
from bcfusion.generators.unet_causal import UNetCausal
from bcfusion.losses.prediction import PredictionMseLoss
from bcfusion.losses.waveform import L1Loss
from bcfusion.objectives.bridge import Bridge
from bcfusion.objectives.paths import Flow
from bcfusion.run.bundle import bundle_of, load_generator, save_bundle

L1 = {"l1": {"_target_": "bcfusion.losses.waveform.L1Loss", "weight": 100.0}}
SHORT = Settings(steps=16, lr=2e-2, batch_size=4, segment_seconds=1.0, processes=1)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> list[Row]:
    return five_pairs(tmp_path_factory.mktemp("pairs"))


# ---------------------------------------------------------------- the number of steps


def curve_of(scores: dict[int, list[float]], folds: list[int]) -> Curve:
    """Return a curve in which recording ``n`` of a step has the n-th score as its STOI, and a PESQ of 1."""
    names = [f"r{place}" for place in range(len(folds))]
    steps = {
        step: {name: {"stoi": value, "pesq_wb": 1.0} for name, value in zip(names, values, strict=True)}
        for step, values in scores.items()
    }
    return Curve(dict(zip(names, folds, strict=True)), steps[0], steps)


EVERY = [0, 0, 1, 1, 2, 2, 3, 3]


@pytest.mark.parametrize(
    ("scores", "folds", "chosen"),
    [
        ({0: [0.5] * 8, 8: [0.6] * 8, 16: [0.55] * 8}, EVERY, 8),
        ({0: [0.5] * 8, 8: [0.5] * 8, 16: [0.4] * 8}, EVERY, 0),  # no gain: fewer steps are better
        ({0: [0.5] * 8, 8: [0.8, 0.3, 0.5, 0.5, 0.6, 0.5, 0.4, 0.5]}, EVERY, 0),  # not clear
        ({0: [0.5] * 8, 8: [0.6, 0.6, 0.6, 0.4, 0.6, 0.45, 0.6, 0.5]}, EVERY, 8),  # above its standard error
        ({0: [0.5] * 2, 8: [0.6, 0.55]}, [0, 1], 8),  # no interval: the gain decides
        ({0: [0.5] * 2, 8: [0.6, 0.35]}, [0, 1], 0),
        ({0: [0.5], 8: [0.52]}, [0], 8),
        ({0: [0.5] * 4, 8: [math.nan] * 4}, [0, 1, 2, 3], 0),  # outputs without a score are worse than any
        ({0: [0.5] * 4, 8: [0.7, 0.7, 0.7, math.nan]}, [0, 1, 2, 3], 0),
        ({0: [0.5] * 5 + [math.nan], 8: [0.6] * 5 + [math.nan]}, [0, 1, 2, 3, 0, 1], 8),  # nor has the input one
    ],
)
def test_steps_are_chosen_by_held_out_scores(scores: dict[int, list[float]], folds: list[int], chosen: int) -> None:
    choice = choose(curve_of(scores, folds), selection_for(RATE), [step for step in scores if step])
    assert choice.steps == chosen
    assert choice.certain == (len(folds) >= 4)


def test_random_weights_are_compared_with_the_start_but_never_given_up_for_it() -> None:
    scores = {0: [0.9] * 8, 8: [0.5] * 8, 16: [0.6] * 8}
    choice = choose(curve_of(scores, EVERY), selection_for(RATE), [8, 16], fresh=True)
    assert (choice.steps, choice.best) == (16, 16)
    assert choice.why == "of the trainings from random weights, 16 steps score best on held-out recordings"
    assert choice.gains["stoi"].mean == pytest.approx(-0.3)
    assert all(values["stoi"] == 0.6 for values in choice.out_of_fold.values())


def test_no_recording_takes_part_in_the_choice_that_it_is_scored_by() -> None:
    scores = {0: [0.5, 0.5, 0.5, 0.5], 8: [0.9, 0.6, 0.6, 0.6], 16: [0.5, 0.65, 0.65, 0.65]}
    curve = curve_of(scores, [0, 1, 2, 3])
    choice = choose(curve, selection_for(RATE), [8, 16])
    assert choice.best == 8  # by the mean of all, because of the first recording
    assert choice.out_of_fold["r0"]["stoi"] == 0.5  # the others choose 16
    assert choice.out_of_fold["r1"]["stoi"] == 0.6
    assert choice.gains["stoi"].mean == pytest.approx((0.0 + 3 * 0.1) / 4)


def test_a_longer_run_scores_the_same_steps_and_more() -> None:
    assert steps_to_score(8) == [8]
    assert steps_to_score(32) == [8, 11, 16, 23, 32]
    assert steps_to_score(40) == [8, 11, 16, 23, 32, 40]
    assert set(steps_to_score(32)) < set(steps_to_score(128))


def test_the_time_limits_the_steps() -> None:
    load = Load([20.0] * 4, [4 / 3] * 4, processes=2)
    pace = Pace(step=0.5, score=0.02)
    found = [load.steps_within(seconds, pace) for seconds in (60, 300, 600)]
    assert found == sorted(found)
    assert found[0] >= 8
    for seconds, steps in zip((60, 300, 600), found, strict=True):
        assert load.needed(steps, pace) <= seconds < load.needed(2 * steps, pace)
    with pytest.raises(TrainingError, match=r"5 s are left and .* 0.50 s a step: give more --minutes"):
        load.steps_within(5.0, pace)


@pytest.mark.parametrize(
    ("setting", "message"),
    [({"minutes": 0}, "minutes=0 must be above 0"), ({"steps": 0}, "steps=0"), ({"share": 1.0}, "share=1.0")],
)
def test_settings_out_of_range_are_refused(setting: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Settings(**setting)


# ---------------------------------------------------------------- losses and batches


@pytest.mark.parametrize(
    ("stored", "names", "source"),
    [
        (L1, ["l1"], "of its own training"),
        (
            {**L1, "fm": {"_target_": "bcfusion.losses.feature_matching.FeatureMatchingLoss", "weight": 2.0}},
            ["l1"],
            "of its own training",
        ),
        (None, ["log_mel", "mr_stft"], "not stored"),
        ({"gone": {"_target_": "nowhere.Loss", "weight": 1.0}}, ["log_mel", "mr_stft"], "not stored"),
    ],
)
def test_losses_are_those_of_the_training_without_adversary(
    tmp_path: Path, stored: dict[str, Any] | None, names: list[str], source: str
) -> None:
    generator = load_generator(save_hum(tmp_path / "b", losses=stored))
    bundle = bundle_of(generator)
    assert bundle is not None
    losses, where = losses_of(bundle, generator, tmp_path / "b")
    assert list(losses) == names
    assert source in where
    if stored is not None and names == ["l1"]:
        assert losses["l1"][1] == 100.0


@pytest.mark.slow
@pytest.mark.parametrize("predict", ["velocity", "data"])
def test_a_network_on_a_path_learns_what_it_is_taught(predict: Any) -> None:
    """At any time of the path, not only at the one with which it restores speech in a step."""
    torch.manual_seed(0)
    times = []

    class Noting(UNetCausal):
        def spectrum(self, real: Tensor, imag: Tensor) -> Any:
            times.extend(self.time(real).flatten().tolist())
            return super().spectrum(real, imag)

    loss = {"velocity": PredictionMseLoss(), "data": L1Loss()}[predict]
    learner = Learner(Bridge(partial(Noting, channels=(4, 4)), Flow(), predict=predict), {"loss": (loss, 1.0)}, 1e-3)
    speech = 0.1 * torch.randn(4, 1, 3200)
    batch: Batch = {"inputs": 0.5 * speech, "target": speech, "lengths": torch.full((4,), 3200)}
    assert all(math.isfinite(learner.step(batch)) for _ in range(3))
    assert len(set(times)) == 12


def test_batches_mix_pairs_with_speech_through_the_calibrated_sensor(tmp_path: Path, pairs: list[Row]) -> None:
    settings = replace(SHORT, share=0.75)
    speech = [replace(each, id=f"speech{n}", paths={"air": each.paths["air"]}) for n, each in enumerate(pairs)]
    start = save_hum(tmp_path / "b")
    trainee = Trainee(load_generator(start), start, ["body"], speech, settings, "cpu")
    batches = trainee.batches(pieces_of(pairs[:2]), tmp_path)
    batch = batches.batch(3)
    assert [name.startswith("speech") for name in batch["ids"]] == [False, True, True, True]
    again = trainee.batches(pieces_of(pairs[:2]), tmp_path).batch(3)
    assert torch.equal(batch["inputs"], again["inputs"])
    assert (tmp_path / "body.json").is_file()
    spectrum = torch.fft.rfft(batch["inputs"][1:, 0]).abs().square()
    assert spectrum[:, 4000:].sum() < 0.05 * spectrum[:, :1000].sum()  # the sensor ends at about 1 kHz
    assert not torch.equal(batch["target"], batches.batch(4)["target"])


def test_a_network_of_two_sensors_learns_from_a_column_of_each(tmp_path: Path, pairs: list[Row]) -> None:
    from bcfusion import audio

    rows = []
    for each in pairs[:2]:
        air, rate = audio.read(each.paths["air"])
        noise = 0.5 * torch.randn(air.shape, generator=torch.Generator().manual_seed(1)).clamp(-1.5, 1.5).numpy()
        audio.write(tmp_path / f"{each.id}.wav", air[0] + noise[0], rate)
        rows.append(replace(each, paths={**each.paths, "noisy": str(tmp_path / f"{each.id}.wav")}))
    sensors = ["body", "noisy"]
    kept, refused = checked(rows, sensors, RATE)  # noise is no reason to refuse
    assert refused == []
    sizes: dict[str, Any] = {"channels": 2, "strides": [2, 4], "dilations": [1], "bottleneck_channels": 4}
    config = {"_target_": "bcfusion.generators.seanet.SEANet", "in_channels": 2, **sizes}
    start = save_bundle(tmp_path / "b", SEANet(in_channels=2, **sizes), config, sensors, {"losses": L1})
    trainee = Trainee(load_generator(start), start, sensors, [], SHORT, "cpu")
    batches = trainee.batches(pieces_of(kept), tmp_path)
    batch = batches.batch(0)
    assert batch["inputs"].shape == (4, 2, RATE)
    assert not torch.equal(batch["inputs"][:, :1], batch["target"])
    with pytest.raises(DataError, match=r"no recording of noisy in any .* takes body and noisy: give --pairs MANIFEST"):
        adapt(start, pairs, SHORT, say=str)
    learner = trainee.learner(batches)
    before = {name: value.clone() for name, value in learner.averaged.named_parameters()}
    assert learner.step(batch) > 0
    assert any(not torch.equal(value, before[name]) for name, value in learner.averaged.named_parameters())


@pytest.mark.parametrize(("seconds", "reached"), [(0.0, 1), (math.inf, 2)])
def test_a_fold_ends_when_its_time_is_over_but_not_without_a_score(
    tmp_path: Path, pairs: list[Row], seconds: float, reached: int
) -> None:
    start = save_hum(tmp_path / "b", losses=L1)
    trainee = Trainee(load_generator(start), start, ["body"], [], SHORT, "cpu")
    training, held = (tuple(pieces_of([row])) for row in pairs[:2])
    job = FoldJob(2, start, ("body",), (), SHORT, "cpu", tmp_path, training, held, (1, 2), seconds)
    result = train_fold(job, trainee)
    assert (result.number, result.steps) == (2, reached)
    assert sorted({score.step for score in result.scores}) == list(range(reached + 1))
    assert {score.recording for score in result.scores} == {"p1"}


@pytest.mark.slow
def test_a_process_that_is_killed_is_no_traceback(tmp_path: Path) -> None:
    trainee = Trainee(load_generator(start := save_hum(tmp_path / "b")), start, ["body"], [], SHORT, "cpu")
    job = FoldJob(0, start, ("body",), (), SHORT, "cpu", tmp_path, (), (), ())
    with Workers(2, 1) as workers:
        for process in list(workers._executor._processes.values()):  # type: ignore[union-attr]
            process.kill()
        with pytest.raises(TrainingError, match="was killed, perhaps out of memory; 2 of them run at once"):
            list(workers.run([job], trainee, lambda: None))


# ---------------------------------------------------------------- the whole


@pytest.mark.slow
def test_a_network_is_adapted_again_the_same_and_written(tmp_path: Path, pairs: list[Row]) -> None:
    start = save_hum(tmp_path / "start", losses=L1)
    said: list[str] = []
    done = adapt(start, pairs, SHORT, say=said.append)
    assert done.adapted
    assert done.choice.gains["stoi"].low > 0
    assert abs(done.generator.level.item()) < 0.02  # the hum is gone
    assert done.steps == round(done.choice.steps * (5 / 3 + 3 * 5 / 4) / 4)  # as many passes over more
    assert done.tried == 16
    assert any(line.startswith("5 recordings, 15 s; 4 folds; up to 16 steps each") for line in said)
    again = adapt(start, pairs, SHORT, say=said.append)
    state = done.generator.state_dict()
    assert all(torch.equal(state[name], value) for name, value in again.generator.state_dict().items())
    assert {**record_of(done), "seconds": 0} == {**record_of(again), "seconds": 0}

    write_adaptation(done, tmp_path / "out")
    loaded = load_generator(tmp_path / "out")
    assert torch.equal(loaded.level, done.generator.level)
    training = bundle_of(loaded).training  # type: ignore[union-attr]
    assert training["overrides"] == ["seed=1"]  # with which `evaluate` composes
    assert training["adaptation"]["steps"]["final"] == training["step"] == done.steps
    assert training["adapted_to"] == sorted(os.path.realpath(path) for row in pairs for path in row.paths.values())
    assert done.seen == 0
    twice = replace(done, bundle=bundle_of(loaded), rows=[*pairs[:3], replace(pairs[3], paths={"air": "other.wav"})])
    assert twice.seen == 3
    assert "the start was adapted to 3 of these 4 recordings before" in report_text(twice)
    assert "was adapted to" not in report_text(done)
    record = json.loads((tmp_path / "out" / "report.json").read_text())
    assert [each["id"] for each in record["recordings"]] == [row.id for row in pairs]
    assert all(each["out_of_fold"]["stoi"] > each["start"]["stoi"] for each in record["recordings"])
    assert sorted(map(int, record["curve"])) == [0, *steps_to_score(16)]
    assert record["gain_over_start"]["stoi"]["low"] > 0
    assert "| p0 | " in (tmp_path / "out" / "report.md").read_text()
    assert (tmp_path / "out" / "config.yaml").read_text().startswith("# bcfusion enhance out ")


@pytest.mark.slow
def test_the_start_is_kept_unchanged_where_nothing_helps(tmp_path: Path, pairs: list[Row]) -> None:
    start = save_hum(tmp_path / "start", level=0.0, losses=L1)
    kept = adapt(start, pairs, replace(SHORT, steps=8, lr=0.5), say=str)  # steps that destroy
    assert not kept.adapted
    assert all(torch.equal(kept.generator.state_dict()[name], value) for name, value in Hum(0.0).state_dict().items())
    assert "The start is kept, unchanged" in report_text(kept)
    fresh = adapt(start, pairs, replace(SHORT, steps=8, lr=0.5, fresh=True), say=str)
    assert fresh.adapted
    assert fresh.choice.gains["stoi"].mean < 0
    assert not torch.equal(fresh.generator.state_dict()["level"], kept.generator.state_dict()["level"])
    worse = {name: {**values, "stoi": values["stoi"] - 0.05} for name, values in kept.choice.out_of_fold.items()}
    text = report_text(replace(kept, choice=replace(kept.choice, out_of_fold={**worse, "p0": kept.curve.input["p0"]})))
    assert "STOI below the input's by more than 0.01: p1 (−0.050), p2 (−0.050)" in text


def test_random_weights_of_what_is_not_trained_are_refused(
    tmp_path: Path, pairs: list[Row], monkeypatch: pytest.MonkeyPatch
) -> None:
    start = load_generator(save_hum(tmp_path / "start", losses=L1))
    start.get_parameter("level").requires_grad_(False)
    monkeypatch.setattr("bcfusion.adaptation.adapt.load_generator", lambda *_, **__: start)
    with pytest.raises(
        DataError, match=r"--fresh: parts of .* are not trained, such as the codebooks of a codec: random"
    ):
        adapt(tmp_path / "start", pairs, replace(SHORT, fresh=True), say=str)


@pytest.mark.slow
def test_a_single_recording_is_divided_and_gives_no_interval(tmp_path: Path) -> None:
    air = speech_like(0, 12.0)
    alone = write_pair(tmp_path, "alone", through_the_sensor(air), air)
    done = adapt(save_hum(tmp_path / "start", losses=L1), [alone], replace(SHORT, steps=8), say=str)
    assert done.adapted
    text = report_text(done)
    assert "One recording: its last 4 s are scored" in text
    assert "fewer than 4 recordings: no interval" in text
    assert "[" not in text
    assert "low" not in record_of(done)["gain_over_start"]["score"]


@pytest.mark.slow
def test_folds_in_processes_give_what_they_give_here(tmp_path: Path, pairs: list[Row]) -> None:
    sizes: dict[str, Any] = {"channels": 2, "strides": [2, 4], "dilations": [1], "bottleneck_channels": 4}
    torch.manual_seed(0)
    config = {"_target_": "bcfusion.generators.seanet.SEANet", **sizes}
    start = save_bundle(tmp_path / "start", SEANet(**sizes), config, ["body"], {"losses": L1})
    short = replace(SHORT, steps=2, lr=1e-3, batch_size=2)
    here, there = (adapt(start, pairs, replace(short, processes=count), say=str) for count in (1, 2))
    assert here.curve.steps == there.curve.steps
    assert here.steps == there.steps


@pytest.mark.parametrize(
    ("count", "message"),
    [(3, "3 usable recordings with 9.0 s in all: at least 10 s are needed"), (0, "0 usable recordings")],
)
def test_too_little_is_refused(tmp_path: Path, pairs: list[Row], count: int, message: str) -> None:
    with pytest.raises(DataError, match=message):
        adapt(save_hum(tmp_path / "start"), pairs[:count], SHORT, say=str)
