"""The check of a composed configuration: what is shipped passes, and each kind of mistake is found at its place."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conftest import noise_problem
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf, open_dict

from bcfusion.configuration.check import verify, verify_or_raise
from bcfusion.configuration.compose import build, drop_unchosen, generator_node, register_resolvers
from bcfusion.configuration.learning import empty_band, full_band_sensors, learning_warnings, provides_noise
from bcfusion.configuration.paths import conf_dir, group_members
from bcfusion.data.simulation.eben_lowpass import EbenLowpass
from bcfusion.errors import ConfigError


@pytest.fixture(autouse=True)
def _hydra() -> Iterator[None]:
    register_resolvers()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        yield


def composed(*overrides: str) -> DictConfig:
    return compose("train", list(overrides))


def filled(cfg: DictConfig) -> DictConfig:
    """Return ``cfg`` with what a generator leaves to the user: runs that VoiceFixer is made of, weights of a codec."""
    for key in OmegaConf.missing_keys(cfg.generator):
        OmegaConf.update(cfg, key, None if key == "generator.model" else "RUN")  # a codec of random weights
    return cfg


BANDWIDTH = "recipe=bandwidth_extension"
CODED = (BANDWIDTH, "degradation=narrowband_codec")

#: one experiment per kind of network and recipe; the others are in the slow tier
QUICK = {("seanet", "bone_to_air"), ("two_branch", "fusion"), ("eben_causal", "bandwidth_extension")}


@pytest.mark.parametrize(
    ("experiment", "recipe"),
    [
        pytest.param(experiment, recipe, marks=[] if (experiment, recipe) in QUICK else pytest.mark.slow)
        for experiment, recipe in itertools.product(group_members("experiment"), group_members("recipe"))
    ],
)
def test_every_experiment_passes_with_every_recipe(experiment: str, recipe: str) -> None:
    cfg = filled(composed(f"experiment={experiment}", f"recipe={recipe}"))
    drop_unchosen(cfg)  # as the command line does
    assert verify(cfg) == noise_problem(cfg)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("group", "member"),
    [
        (group, member)
        for group in (
            "generator",
            "adversarial",
            "balancer",
            "optimizer",
            "scheduler",
            "logger",
            "callbacks",
            "trainer",
        )
        for member in group_members(group)
    ]
    + [("debug", member) for member in group_members("debug")],
)
def test_every_member_of_a_group_passes(group: str, member: str) -> None:
    assert verify(filled(composed(f"{group}={member}"))) == []


def usable_metrics() -> list[str]:
    """Return all metrics except the recogniser, which is the user's own, and those whose packages are missing here."""
    packages = {"dnsmos": ("speechmos", "onnxruntime", "librosa"), "nisqa": ("librosa",), "visqol": ("visqol",)}
    packages |= {"distill_mos": ("distillmos", "xls_r_sqa"), "speaker_similarity": ("onnxruntime", "huggingface_hub")}
    return [
        name
        for name in group_members("metrics")
        if name != "wer" and all(find_spec(package) for package in packages.get(name, ()))
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("group", "members"), [("discriminators", group_members("discriminators")), ("metrics", usable_metrics())]
)
def test_all_members_of_a_list_group_pass_together(group: str, members: list[str]) -> None:
    assert verify(composed(f"{group}=[{','.join(members)}]")) == []


@pytest.mark.slow
def test_a_metric_of_a_recogniser_asks_for_its_command_and_its_transcripts(tmp_path: Path) -> None:
    assert any("metrics.wer.command" in problem for problem in verify(composed("metrics=[pesq_wb,stoi,wer]")))
    chosen = ("metrics=[pesq_wb,stoi,wer]", 'metrics.wer.command="cat {wav}"')
    [problem] = verify(composed(*chosen))
    assert problem.startswith("metrics.wer: WordErrorRate: transcripts=None")
    (tmp_path / "utterance.txt").write_text("said")
    assert verify(composed(*chosen, f"metrics.wer.transcripts={tmp_path}")) == []


def test_all_losses_pass_together_except_those_of_what_only_some_networks_provide() -> None:
    """SEANet with a body sensor gives an estimate and nothing else, and its data have no noise."""
    problems = verify(composed(f"losses=[{','.join(group_members('losses'))}]"))
    asked = {"component": "mask, noise", "deep_clustering": "embedding, noise", "kl": "mu, log_var"}
    asked |= {"generator_log_mel": "log_mel", "generator_log_bands": "band_levels"}
    asked |= {"log_magnitude_mse": "log_magnitude, deviation, scale", "msa": "mask", "tpsa": "mask"}
    asked |= {"latent_l1": "latent, target_latent, latent_mask"}
    asked |= {"inconsistency": "spectrum", "prediction_mse": "prediction, prediction_target, prediction_mask"}
    assert set(problems) == {
        f"losses.{name}: asks for {what}, which neither the data nor SEANet provides" for name, what in asked.items()
    }


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ("adversarial.order=first", "adversarial.order: must be generator_first or discriminator_first, not 'first'"),
        ("adversarial.shared_passes=1.5", "adversarial.shared_passes: must be auto or true or false, not 1.5"),
        ("adversarial.ramp_steps=-1", "adversarial.ramp_steps: must be a whole number of at least 0, not -1"),
        (
            "adversarial.warm_up_losses=[mrstft]",
            "adversarial.warm_up_losses: there is no loss 'mrstft'; did you mean 'mr_stft'?",
        ),
    ],
)
def test_impossible_adversarial_settings_are_refused(override: str, problem: str) -> None:
    assert problem in verify(composed(override))


@pytest.mark.slow
def test_contradictory_adversarial_settings_are_refused() -> None:
    assert any(
        "nobody learns" in problem
        for problem in verify(composed("adversarial.interval=2", "adversarial.generator_interval=2"))
    )
    together = composed("adversarial.order=discriminator_first", "adversarial.shared_passes=true")
    assert any(problem.startswith("adversarial.shared_passes") for problem in verify(together))


@pytest.mark.slow
def test_a_warm_up_after_which_nothing_is_learned_is_refused() -> None:
    silent = ["adversarial.weight=0", "adversarial.start_step=5", "losses=[l1,mr_stft]"]
    assert verify(composed(*silent, "adversarial.warm_up_losses=[l1]")) == []
    problems = verify(composed(*silent, "adversarial.warm_up_losses=[l1,mr_stft]"))
    assert [problem.partition(":")[0] for problem in problems] == ["adversarial"]


def test_a_head_start_in_which_nothing_is_learned_is_refused() -> None:
    settings = ["losses=[feature_matching]", "adversarial.start_step=0"]
    assert verify(composed(*settings)) == []
    problems = verify(composed(*settings, "adversarial.head_start=20"))
    assert problems == [
        "losses: nothing to learn from in the first 20 steps, in which the discriminators learn alone; give a loss of "
        "the signals with a weight, or set adversarial.head_start=0"
    ]


def test_a_loss_that_the_adaptive_balancer_cannot_find_is_named() -> None:
    assert verify(composed("balancer=adaptive", "balancer.adversarial=[adversarial,feature_matching]")) == []
    problems = verify(composed("balancer=adaptive", "balancer.adversarial=[adversary]"))
    assert problems == [
        "balancer.adversarial: there is no loss 'adversary'; there are adversarial, l1, mr_stft, feature_matching"
    ]


def test_settings_of_members_that_are_not_chosen_are_left_out() -> None:
    """An experiment sets weights for its losses; one that builds on it, or the user, may choose others."""
    cfg = composed("experiment=cpu/seanet_adaptive", "losses=[mr_stft]", "discriminators=[]")
    assert sorted(drop_unchosen(cfg)) == ["losses.feature_matching", "losses.l1"]
    assert list(cfg.losses) == ["mr_stft"]
    assert verify(cfg) == []


def test_settings_of_a_member_that_does_not_exist_are_reported() -> None:
    cfg = composed("+losses.mrstft.weight=2")
    assert drop_unchosen(cfg) == []
    assert verify(cfg) != []


@pytest.mark.slow
@pytest.mark.parametrize("selection", group_members("selection"))
def test_every_selection_is_by_a_value_that_some_metric_gives(selection: str) -> None:
    assert verify(composed(f"selection={selection}", f"metrics=[{','.join(usable_metrics())}]")) == []


def test_regression_passes_although_a_loss_lacks_judgements() -> None:
    assert verify(composed("discriminators=[]", "losses=[l1,feature_matching]")) == []


def test_regression_ignores_the_turns_of_an_adversary() -> None:
    intervals = ["adversarial.interval=2", "adversarial.generator_interval=2"]
    order = ["adversarial.order=discriminator_first", "adversarial.shared_passes=true"]
    assert verify(composed("experiment=seanet_regression", *intervals, *order)) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("overrides", "problem"),
    [
        (["data=folder"], "data.root: a value is needed, as in data.root=VALUE"),
        (["sample_rate=${nosuch}"], "sample_rate: Interpolation key 'nosuch' not found"),
        (
            ["generator._target_=bcfusion.generators.seanet.SEANett"],
            "generator._target_: bcfusion.generators.seanet has no 'SEANett'; did you mean 'SEANet'?",
        ),
        (
            ["generator._target_=bcfusion.generators.sea_net.SEANet"],
            "generator._target_: bcfusion.generators has no 'sea_net'; did you mean 'seanet'?",
        ),
        (
            ["generator._target_=nosuchpackage.Net"],
            "generator._target_: there is no package 'nosuchpackage'; install it, or run from its folder",
        ),
        (["generator._target_=3"], "generator._target_: must be the dotted path of a class, not 3"),
        (
            ["generator._target_=bcfusion.generators"],
            "generator._target_: bcfusion.generators is not a class or function",
        ),
        (["+generator.chanels=3"], "generator.chanels: SEANet has no argument 'chanels'; did you mean 'channels'?"),
        (["generator.channels=wide"], "generator.channels: must be a whole number, not 'wide'"),
        (["generator.causal=3"], "generator.causal: must be true or false, not 3"),
        (
            ["adversarial.loss.generator_form=plan"],
            "adversarial.loss.generator_form: must be one of plain, clipped, not 'plan'",
        ),
        (
            ["~degradation.body.cutoff_frequency", "+degradation.body.cutof=3"],
            "degradation.body.cutof: EbenLowpass has no argument 'cutof'; did you mean 'cutoff_frequency'?",
        ),
        (["+optimizer.generator.learning_rate=1"], "optimizer.generator.learning_rate: Adam has no argument"),
        (
            ["generator.sample_rate=8000"],
            "generator.sample_rate: is 8000, but sample_rate is 16000; write ${sample_rate}",
        ),
        (["losses.l1.weight=-1"], "losses.l1.weight: must be a number of at least 0, not -1"),
        (["losses.l1.weight=nan"], "losses.l1.weight: must be a number of at least 0, not nan"),
        (["losses.l1.weight=inf"], "losses.l1.weight: must be a number of at least 0, not inf"),
        (["~losses.l1.weight"], "losses.l1.weight: give one; 0 logs the loss only"),
        (
            ["losses=[l1]", "discriminators=[]", "losses.l1.weight=0"],
            "losses: nothing to learn from; give a loss with a weight, or discriminators",
        ),
        (["data.batch_size=0"], "data.batch_size: must be a whole number of at least 1, not 0"),
        (["data.batch_size=2.5"], "data.batch_size: must be a whole number of at least 1, not 2.5"),
        (["data.segment_seconds=0"], "data.segment_seconds: must be a number above 0, not 0"),
        (["budget.minutes=-1"], "budget.minutes: must be a number above 0 or null, not -1"),
        (
            ["budget.minutes=null"],
            "budget.minutes: nothing ends the run, since trainer.max_steps is null too; write budget.minutes=60",
        ),
        (["trainer.ema_decay=2"], "trainer.ema_decay: must be a number of at least 0 and below 1 or null, not 2"),
        (["metrics=[stoi]"], "selection.pesq_wb: no metric gives 'pesq_wb'; they give stoi; write selection=stoi"),
        (
            ["metrics=[stoi]", "selection=stoi"],
            "trainer.keep_best: no metric gives 'pesq_wb'; they give stoi; write 'trainer.keep_best=[stoi]'",
        ),
        (["generator.strides=[2,4,x]"], "generator.strides: must be a list of whole numbers, not [2, 4, 'x']"),
        (["trainer.compile=yes"], "trainer.compile: must be true or false, not 'yes'; write trainer.compile=true"),
        (["trainer.keep_best=[stio]"], "trainer.keep_best: no metric gives 'stio'; did you mean 'stoi'?"),
        (
            ["selection=stoi", "+selection.si_sdr_lag_ms={weight: 1, worst: 0, best: 1}"],
            "selection.si_sdr_lag_ms: si_sdr_lag_ms is for information",
        ),
        (
            ["selection=stoi", "selection.stoi.worst=1", "selection.stoi.best=0"],
            "selection.stoi: higher values are better; exchange worst and best",
        ),
        (
            ["selection=lsd", "selection.lsd.worst=0", "selection.lsd.best=4"],
            "selection.lsd: lower values are better; exchange worst and best",
        ),
        (["selection.stoi.weight=0"], "selection.stoi.weight: must be above 0, not 0"),
        (["selection.stoi.worst=1"], "selection.stoi: worst and best are the same"),
        (["~selection.stoi.worst"], "selection.stoi: must have weight, worst and best, and nothing else"),
        (["metrics=[]"], "metrics: name at least one; the best checkpoint is chosen by them, as in 'metrics=[pesq_wb,"),
        (
            ["+metrics.stoi.exended=true"],
            "metrics.stoi.exended: Stoi has no argument 'exended'; did you mean 'extended'?",
        ),
        (["task.sensors=[]"], "task.sensors: name at least one sensor"),
        (["optimizer.generator.lr=5"], "optimizer.generator.lr: must be a number above 0 and of at most 1, not 5"),
        (
            ["data.augmentation.body_polarity=0.5", "data.augmentation.body_sensors=[ear]"],
            "data.augmentation.body_sensors=['ear'] must name the sensors to which body_gain, body_polarity",
        ),
        (["task.sensors=[body,body]"], "task.sensors: body is named more than once"),
        (["data.sensor_dropout=0.5"], "data.sensor_dropout: 0.5 has no effect with one sensor (body)"),
        (["data.evaluation_body_gain=200"], "data.evaluation_body_gain: must be a number of at least -100 and of at"),
        (
            [BANDWIDTH, "data.evaluation_body_gain=-10"],
            "data.evaluation_body_gain: -10 has no effect without the sensor body: the task has narrow",
        ),
        (["data.segment_seconds=0.001"], "data.segment_seconds: 0.001 must be at least 0.02: a crop of 16 sample(s)"),
        (["data.min_bandwidth=9000"], "data.min_bandwidth: 9000 must be at most half of sample_rate, 8000"),
        (["cutoff_frequency=8000"], "cutoff_frequency: 8000 must be below half of sample_rate, 8000"),
        ([BANDWIDTH, "narrow_rate=32000"], "narrow_rate: 32000 must be below sample_rate, 16000"),
        ([BANDWIDTH, "degradation.narrow.rate=32000"], "degradation.narrow: Narrowband: rate=32000 must be below the"),
        ([BANDWIDTH, "metrics.lsd_hf.low_frequency=9000"], "metrics.lsd_hf: Lsd: low_frequency=9000 must be below"),
        (["sample_rate=8000"], "metrics.pesq_wb: Pesq: mode=wb needs a sample rate of at least 16000 Hz, not 8000"),
        (["optimizer.lr=1000"], "optimizer.lr: must be a number above 0 and of at most 1, not 1000"),
        (["optimizer.generator.betas=[2,0.9]"], "optimizer.generator: Invalid beta parameter at index 0: 2"),
        (["optimizer=adamw", "optimizer.weight_decay=-1"], "optimizer.weight_decay: must be a number of at least 0"),
        (
            ["scheduler=exponential", "scheduler.gamma=1.5"],
            "scheduler.gamma: must be a number above 0 and of at most 1",
        ),
        (["scheduler=cosine", "scheduler.steps=0"], "scheduler.steps: must be a whole number of at least 1"),
        (["scheduler=cosine", "scheduler.lowest=0.1"], "scheduler.lowest: 0.1 must be at most optimizer.lr, 0.0003"),
        (
            ["+scheduler.generator={_target_: torch.optim.lr_scheduler.ExponentialLR, _partial_: true, gamma: -2}"],
            "scheduler.generator: gives a learning rate of -0.0006 after one step",
        ),
        (["adversarial.speech_level=70"], "adversarial.speech_level: must be a number above 0 and of at most 1"),
        (["degradation.body.noise_std=-1"], "degradation.body: EbenLowpass: noise_std=-1 must be from 0 to 10"),
        (["degradation.body.cutoff_frequency=9000"], "degradation.body: EbenLowpass: a cutoff of up to 10800 Hz needs"),
        (["degradation.body.q=0"], "degradation.body: EbenLowpass: q=0 must be from 0.01 to 100"),
        (
            ["degradation=transfer_function", "degradation.body.calibration=/nowhere"],
            "degradation.body: TransferFunction: cannot read calibration /nowhere: No such file or directory; make one",
        ),
        (["degradation=accelerometer", "degradation.body.orders=[1.5,3]"], "degradation.body.orders: must be a list"),
        (
            ["degradation=accelerometer", "degradation.body.cutoff=[9000,9500]"],
            "degradation.body: Accelerometer: cutoff=[9000.0, 9500.0] must begin below 8000 Hz",
        ),
        (["degradation=accelerometer", "degradation.body.leak_root=/nowhere"], "degradation.body: no noise folder"),
        (["recipe=fusion", "degradation.noisy.snr_range=[15,-10]"], "degradation.noisy: AirNoise: snr_range=[15, -10]"),
        (
            ["recipe=fusion", "data.noise_root=/nowhere"],
            "degradation.noisy: no noise folder /nowhere: set data.noise_root",
        ),
        (["recipe=fusion", "data.room_root=/nowhere"], "degradation.noisy.rooms: no rir folder /nowhere"),
        (
            ["recipe=fusion", "degradation.noisy.rooms.share=2"],
            "degradation.noisy.rooms: Rooms: share=2 must be from 0",
        ),
        (
            [*CODED, "degradation.narrow.probability=1.5"],
            "degradation.narrow: Codec: probability=1.5 must be from 0 to 1",
        ),
        (
            [*CODED, "degradation.narrow.rate=48000"],
            "degradation.narrow: Codec: rate=48000 must not be above the sample",
        ),
    ],
)
def test_a_mistake_is_found_at_its_place(overrides: list[str], problem: str) -> None:
    problems = verify(composed(*overrides))
    assert any(found.startswith(problem) for found in problems), problems


@pytest.mark.parametrize(
    ("overrides", "problem"),
    [
        (["sample_rate=16k"], "sample_rate: must be a whole number of at least 1, not '16k'"),
        (["sample_rate=null"], "sample_rate: must be a whole number of at least 1, not null"),
        ([BANDWIDTH, "narrow_rate=32000"], "narrow_rate: 32000 must be below sample_rate, 16000"),
        ([BANDWIDTH, "cutoff_frequency=9000"], "cutoff_frequency: 9000 must be below half of sample_rate, 8000"),
        (["task.sensors=body"], "task.sensors: must be a list, not 'body'; write 'task.sensors=[body]'"),
        (["task.sensors=null"], "task.sensors: must be a list, not null"),
        (["selection.stoi=3"], "selection.stoi: holds weight, worst, best, and cannot be 3"),
        (["output_root=null"], "output_root: must be a path, not null"),
        (["init_from=2024"], "init_from: must be a path or null, with quotes around a number, not 2024"),
        (["data.corpus=null"], "data.corpus: must be a mapping with _target_, as the members of data have it"),
        (["adversarial.loss=null"], "adversarial.loss: must be a mapping with _target_"),
        (["~generator._target_"], "generator: must be a mapping with _target_"),
        (["trainer.keep_best=stoi"], "trainer.keep_best: must be a list, not 'stoi'; write 'trainer.keep_best=[stoi]'"),
        (["trainer.tf32=yes"], "trainer.tf32: must be true or false, not 'yes'; write trainer.tf32=true"),
        (["data.resample=maybe"], "data.resample: must be true or false, not 'maybe'"),
        (["data.workers=many"], "data.workers: must be auto or a whole number of at least 0, not 'many'"),
        (["data.speakers=anna"], "data.speakers: must be a list of names, as in data.speakers=[NAME], or null for all"),
        (["data.speakers=3"], "data.speakers: must be a list of names, as in data.speakers=[NAME], or null for all"),
        *(
            ([f"trainer.devices={devices}"], "trainer.devices: must be auto, a whole number of at least 1, -1 for all")
            for devices in ("all", "0", "-2", "1.5", "true", "null", "[]", "[-1]")
        ),
    ],
)
def test_a_fault_is_reported_once(overrides: list[str], problem: str) -> None:
    """By one check, in one wording, and not again by what follows the value."""
    [found] = verify(composed(*overrides))
    assert found.startswith(problem)


@pytest.mark.parametrize(
    ("removed", "found"),
    [
        (["~data.batch_size"], ["data.batch_size"]),
        (["~data"], ["data"]),
        (["experiment=seanet", "~data"], ["data"]),
        (["~seed", "~trainer.log_every"], ["seed", "trainer.log_every"]),
        (["~budget", "~optimizer"], ["budget", "optimizer"]),
        (["~sample_rate"], ["sample_rate"]),
        (["~recipe"], ["task"]),
    ],
)
def test_keys_that_every_run_reads_cannot_be_removed(removed: list[str], found: list[str]) -> None:
    problems = verify(composed(*removed))
    assert sorted(problems) == [
        f"{path}: every run needs this key; leave out ~{path}, or add it to your YAML" for path in found
    ]


def test_what_is_not_read_can_be_removed() -> None:
    assert verify(composed("discriminators=[]", "losses=[l1]", "~adversarial")) == []
    assert verify(composed("~optimizer", "~scheduler", "~adversarial", "~balancer"), training=False) == []


@pytest.mark.parametrize("devices", ["auto", "1", "'2'", "-1", "[0,1]"])
def test_devices_that_lightning_takes_pass(devices: str) -> None:
    assert verify(composed(f"trainer.devices={devices}")) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("override", "path", "says"),
    [
        ("generator.channels=0", "generator", "channels"),
        ("discriminators.melgan_msd.channels=0", "discriminators.melgan_msd", "channels"),
        ("losses.mr_stft.resolutions=[[512,0,240]]", "losses.mr_stft", "0"),
        ("balancer.decay=2", "balancer", "decay"),
        ("data.augmentation.polarity=2", "data.augmentation", "polarity"),
    ],
)
def test_a_range_is_stated_by_the_constructor_and_reported_by_the_check(override: str, path: str, says: str) -> None:
    [problem] = verify(composed(override))
    assert problem.startswith(f"{path}: ")
    assert says in problem


def test_a_simulator_and_its_recordings_are_judged_together_with_what_is_inside() -> None:
    noisy = "degradation.noisy"
    roots = ("data.noise_root=/nowhere", "data.room_root=/nowhere")
    problems = verify(composed("recipe=fusion", *roots, f"{noisy}.snr_range=[15,-10]", f"{noisy}.rooms.share=2"))
    assert [problem.split(":")[0] for problem in problems] == [f"{noisy}.rooms"] * 2 + [noisy] * 2
    body = "degradation.body"
    recorded = ("degradation=recorded_noise", f"{body}.noise_root=/nowhere", f"{body}.level=[10,20]")
    problems = verify(composed(*recorded, f"{body}.simulator.inverted=2"))
    assert [problem.split(":")[0] for problem in problems] == [f"{body}.simulator", body, body]


def test_simulators_of_sensors_that_the_task_lacks_are_not_built() -> None:
    assert verify(composed("degradation=fusion", "degradation.noisy.snr_range=[15,-10]")) == []


@pytest.mark.parametrize(
    ("member", "recipe", "warned"),
    [
        ("resunet_mask", "bandwidth_extension", True),
        ("resunet_mask", "bone_to_air", True),
        ("resunet_mask", "fusion", False),
        ("band_gain", "bone_to_air", True),
        ("band_gain", "fusion", False),
        ("band_gain_folding", "bandwidth_extension", False),
        ("seanet_streaming", "bandwidth_extension", False),
    ],
)
def test_a_mask_over_an_empty_band_is_warned_of(member: str, recipe: str, warned: bool) -> None:
    cfg = composed(f"generator={member}", f"recipe={recipe}")
    warning = empty_band(build(cfg.generator), cfg.input_bandwidth)
    assert (warning is not None) == warned
    assert warning is None or f"nothing above {cfg.input_bandwidth} Hz" in warning


@pytest.mark.parametrize(
    ("changes", "warned"),
    [
        (["degradation=none"], False),
        (["degradation=transfer_function", "degradation.body.calibration=FILE.json"], False),
        (["degradation=magnitude_ratio", "degradation.body.calibration=FILE.json"], False),
        (["generator.excitation=noise"], False),
        (["degradation=accelerometer"], True),
        (["degradation=none", "generator=resunet_mask"], True),
    ],
)
def test_gains_raise_what_a_recorded_or_measured_sensor_holds(changes: list[str], warned: bool) -> None:
    cfg = composed("generator=band_gain", *changes)
    warning = empty_band(build(cfg.generator), cfg.input_bandwidth, full_band_sensors(cfg))
    assert (warning is not None) == warned
    assert warning is None or "generator.excitation=noise" in warning


def test_only_a_simulator_that_says_so_leaves_no_band_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    cfg = composed()
    assert not full_band_sensors(cfg)
    monkeypatch.setattr(EbenLowpass, "full_band", lambda self: None, raising=False)  # a method of that name
    assert not full_band_sensors(cfg)
    monkeypatch.setattr(EbenLowpass, "full_band", True)
    assert full_band_sensors(cfg)


@pytest.mark.slow
def test_only_heads_that_mask_are_warned_of() -> None:
    for member, mask in (("dccrn", "polar_mask"), ("dpcrn", "mask"), ("bsrnn", "mask")):
        for head, warned in ((mask, True), ("mapping", False)):
            generator = build(composed(f"generator={member}", f"generator.head={head}").generator)
            assert (empty_band(generator, 4000) is not None) == warned, (member, head)


def test_presets_of_fusion_drop_sensors_only_where_there_are_several() -> None:
    preset = "experiment=two_branch"
    assert composed(preset, "recipe=fusion").data.sensor_dropout == 0.1
    assert composed(preset, "recipe=bone_to_air").data.sensor_dropout == 0


@pytest.mark.parametrize("preset", sorted((conf_dir() / "experiment").rglob("*.yaml")), ids=lambda file: file.stem)
def test_an_experiment_sets_nothing_that_nobody_reads(preset: Path) -> None:
    """Its own file makes a key known: one in the wrong place would be no mistake of typing."""
    written = yaml.safe_load(preset.read_text())
    for group in ("data", "trainer", "adversarial", "scheduler", "optimizer", "objective", "selection", "budget"):
        members = [yaml.safe_load(file.read_text()) or {} for file in (conf_dir() / group).glob("*.yaml")]
        members.append(yaml.safe_load((conf_dir() / "train.yaml").read_text()).get(group) or {})
        known = {path for member in members for path in paths(member)}
        for path in paths(written.get(group) or {}):
            assert path in known or any(f"{path}.".startswith(f"{each}.") for each in known), f"{group}.{path}"


def paths(tree: dict[str, Any], above: str = "") -> Iterator[str]:
    for key, value in tree.items():
        yield f"{above}{key}"
        if isinstance(value, dict):
            yield from paths(value, f"{above}{key}.")


def test_a_velocity_that_no_loss_compares_is_warned_of() -> None:
    for losses, warned in (("[si_snr]", True), ("[prediction_mse]", False), ("[l1,prediction_mse]", False)):
        cfg = composed("experiment=dpcrn", "objective=flow", f"losses={losses}")
        warnings = learning_warnings(cfg, build(generator_node(cfg)))
        assert [text.startswith("losses: none compares the velocity") for text in warnings] == [True] * warned


@pytest.mark.parametrize(
    ("overrides", "heard"),
    [
        ([], False),
        (["degradation=accelerometer"], False),
        (["degradation=any_sensor"], True),
        (["recipe=fusion"], True),
    ],
)
def test_noise_that_nothing_adds_is_warned_of(tmp_path: Path, overrides: list[str], heard: bool) -> None:
    cfg = composed(*overrides, f"data.noise_root={tmp_path}")
    warnings = learning_warnings(cfg, None)
    expected = ["data.noise_root: has no effect, since nothing in degradation takes recordings of noise"]
    assert warnings == ([] if heard else expected)
    assert learning_warnings(composed(*overrides), None) == []


def test_a_check_draws_no_random_numbers() -> None:
    before = torch.random.get_rng_state()
    assert verify(composed()) == []
    assert torch.equal(torch.random.get_rng_state(), before)


def test_an_evaluation_checks_only_what_it_builds() -> None:
    """The network is the bundle's: what it was built from may be gone."""
    cfg = composed("balancer.decay=2", "losses.l1.weight=-1", "generator.channels=0", "data.batch_size=0")
    assert [problem.partition(":")[0] for problem in verify(cfg, training=False)] == ["data.batch_size"]
    for missing in (["generator=codec"], ["generator=codec", "generator.model=/nowhere"], ["generator=voicefixer"]):
        assert verify(composed(*missing)) != []
        assert verify(composed(*missing), training=False) == []


def test_all_problems_come_at_once() -> None:
    cfg = composed("data=folder", "losses.l1.weight=-1", "+generator.chanels=3", "metrics=[stoi]", "data.batch_size=0")
    with pytest.raises(ConfigError) as caught:
        verify_or_raise(cfg)
    paths = {problem.partition(":")[0] for problem in caught.value.problems}
    assert {"data.root", "losses.l1.weight", "generator.chanels", "selection.pesq_wb", "data.batch_size"} <= paths


def test_one_missing_value_is_one_problem() -> None:
    assert verify(composed("data=folder")) == ["data.root: a value is needed, as in data.root=VALUE"]
    assert verify(composed("optimizer.lr=${nosuch}")) == ["optimizer.lr: Interpolation key 'nosuch' not found"]


# ---------------------------------------------------------------- classes of the user's own


@pytest.fixture
def own_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "my_losses.py").write_text(
        "class Masked:\n"
        "    def __init__(self, power: float) -> None: ...\n"
        "    def forward(self, estimate, mask): ...\n"
        "class Noisy:\n"
        "    def forward(self, estimate, target, lengths, noise): ...\n"
        "class MaskNet:\n"
        "    provides = ('mask',)\n"
        "class Air:\n"
        "    provides_noise = True\n"
        "class Archive:\n"
        "    recorded_sensors = ('throat',)\n"
        "class Unfinished:\n"
        "    def __init__(self): raise NotImplementedError\n"
        "    def forward(self, estimate): ...\n"
    )
    (tmp_path / "my_broken.py").write_text("import nosuchdependency\n")
    monkeypatch.syspath_prepend(tmp_path)
    return "my_losses"


def test_a_bug_in_a_constructor_is_reported_with_its_place(own_package: str) -> None:
    [problem] = verify(composed(f"+losses.own={{_target_: {own_package}.Unfinished, weight: 1}}"))
    assert re.fullmatch(r"losses\.own: NotImplementedError \(.*my_losses\.py, line \d+\)", problem)


def test_a_metric_without_directions_is_reported(own_package: str) -> None:
    [problem] = verify(composed(f"+metrics.own={{_target_: {own_package}.Archive}}"))
    assert problem == "metrics.own: its class must have higher_is_better, a dict with the direction of each value"


@pytest.mark.slow
def test_a_required_argument_may_not_be_missing_unless_the_node_is_partial(own_package: str) -> None:
    missing = "losses.own.power: Masked needs this argument"
    assert missing in verify(composed(f"+losses.own={{_target_: {own_package}.Masked, weight: 1}}"))
    assert missing not in verify(
        composed(f"+losses.own={{_target_: {own_package}.Masked, _partial_: true, weight: 1}}")
    )
    assert missing not in verify(composed(f"+losses.own={{_target_: {own_package}.Masked, _args_: [2], weight: 1}}"))


@pytest.mark.slow
def test_a_loss_is_refused_unless_someone_provides_what_it_asks_for(own_package: str) -> None:
    own = f"+losses.own={{_target_: {own_package}.Masked, power: 1, weight: 1}}"
    assert "losses.own: asks for mask, which neither the data nor SEANet provides" in verify(composed(own))
    assert verify(composed(own, f"generator={{_target_: {own_package}.MaskNet}}", *_bare_generator())) == []


def _bare_generator() -> list[str]:
    """Return overrides that remove the shipped network's arguments, which a class without arguments does not take."""
    return [f"~generator.{key}" for key in composed().generator if key != "_target_"]


@pytest.mark.slow
def test_noise_is_provided_if_a_simulator_declares_it(own_package: str) -> None:
    own = f"+losses.own={{_target_: {own_package}.Noisy, weight: 1}}"
    quiet = composed(own)
    noisy = composed(own, "~degradation.body", f"+degradation.body={{_target_: {own_package}.Air}}")
    assert "losses.own: asks for noise, which neither the data nor SEANet provides" in verify(quiet)
    assert verify(noisy) == []
    assert not provides_noise(quiet)
    assert provides_noise(noisy)


@pytest.mark.slow
def test_a_sensor_needs_a_recording_or_a_simulator(own_package: str) -> None:
    archive = ["~data.corpus", f"+data.corpus={{_target_: {own_package}.Archive}}"]
    assert verify(composed(*archive, "degradation=none", "task.sensors=[throat]")) == []
    assert verify(composed(*archive, "task.sensors=[throat,body]")) == []
    assert verify(composed(*archive, "degradation=none", "task.sensors=[ear]")) == [
        "task.sensors: 'ear' is neither recorded in this corpus nor simulated by degradation (none)"
    ]


def test_a_module_that_cannot_be_imported_is_reported_with_the_reason(own_package: str) -> None:
    problems = verify(composed("generator._target_=my_broken.Net"))
    assert "generator._target_: my_broken needs the package 'nosuchdependency', which is not installed" in problems


# ---------------------------------------------------------------- keys that a YAML file may add


def with_keys(**keys: object) -> DictConfig:
    """Return what a user's experiment file may compose to: it can add any key."""
    cfg = composed()
    with open_dict(cfg):
        cfg.merge_with(OmegaConf.create(keys))
    return cfg


@pytest.mark.slow
def test_a_key_that_resembles_a_shipped_one_is_reported_as_a_typing_error() -> None:
    assert verify(with_keys(trainer={"max_step": 5})) == [
        "trainer.max_step: there is no such key; did you mean 'trainer.max_steps'?"
    ]
    assert verify(with_keys(budgett={"minutes": 5})) == ["budgett: there is no such key; did you mean 'budget'?"]


@pytest.mark.slow
def test_keys_of_the_users_own_are_accepted() -> None:
    assert verify(with_keys(laboratory={"microphone": 3}, trainer={"my_note": "x"})) == []
    assert verify(with_keys(seeds=5, seed="${seeds}")) == []  # close to a shipped key, but read by an interpolation
