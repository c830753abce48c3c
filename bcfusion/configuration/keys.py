"""The plain keys of a configuration, those that are not arguments of a ``_target_``: their names and values."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from bcfusion.configuration.accepted import (
    BOOL,
    COUNT,
    COUNT_OR_NULL,
    FROM_ZERO,
    POSITIVE,
    POSITIVE_OR_NULL,
    SHARE,
    WEIGHT,
    Choice,
    Devices,
    Number,
    PathText,
)
from bcfusion.configuration.paths import ROOT_CONFIG, conf_dir
from bcfusion.configuration.values import UNRESOLVED, at, nodes, shown
from bcfusion.nearest import nearest
from bcfusion.requirements import is_number

_BODY = "body"  # the sensor to which data.evaluation_body_gain applies, BODY of bcfusion.data.loading.reader
SHORTEST_SEGMENT = 0.02  #: seconds of a training crop: a low voice has a period of 12 ms
KEYS: dict[str, Number | Choice | Devices | PathText] = {
    "sample_rate": COUNT,
    "seed": Number(low_allowed=True, high=2**32 - 1, whole=True),
    "output_root": PathText(),
    "resume": PathText(optional=True),
    "init_from": PathText(optional=True),
    "cutoff_frequency": POSITIVE,
    "narrow_rate": COUNT,
    "input_bandwidth": POSITIVE,
    "budget.minutes": POSITIVE_OR_NULL,
    "machine": Choice(("cpu", "gpu")),
    "data.segment_seconds": POSITIVE,
    "data.batch_size": COUNT,
    "data.resample": BOOL,
    "data.simulate_on_device": BOOL,
    "data.max_unreadable_share": SHARE,
    "data.sensor_dropout": SHARE,
    "data.evaluation_body_gain": Number(low=-100.0, low_allowed=True, high=100.0),  # dB
    "data.min_bandwidth": POSITIVE_OR_NULL,
    "data.max_train_items": COUNT_OR_NULL,
    "data.shuffle_buffer": COUNT,
    "adversarial.weight": WEIGHT,
    "adversarial.start_step": FROM_ZERO,
    "adversarial.head_start": FROM_ZERO,
    "adversarial.ramp_steps": FROM_ZERO,
    "adversarial.interval": COUNT,
    "adversarial.generator_interval": COUNT,
    "adversarial.order": Choice(("generator_first", "discriminator_first")),
    "adversarial.shared_passes": Choice(("auto", True, False)),
    "adversarial.speech_level": Number(high=1.0, optional=True),  # re full scale
    # Adam moves each weight by up to the rate in a step, and weights are of the order of 0.1
    "optimizer.lr": Number(high=1.0),
    "optimizer.lr_discriminator": Number(high=1.0),
    "optimizer.weight_decay": WEIGHT,
    "scheduler.gamma": Number(high=1.0),
    "scheduler.steps": COUNT_OR_NULL,
    "scheduler.lowest": WEIGHT,
    "scheduler.every": COUNT,
    "scheduler.decay": Number(high=1.0),
    "scheduler.warm_up": FROM_ZERO,
    "scheduler.patience": FROM_ZERO,
    "scheduler.factor": Number(high=1.0, high_allowed=False),
    # fp16 is not supported: gradients would be clipped before they are unscaled, and its frequent overflows counted
    # as bad steps
    "trainer.precision": Choice(("32-true", "bf16-mixed")),
    "trainer.accelerator": Choice(("auto", "cpu", "gpu")),
    "trainer.devices": Devices(),
    "trainer.num_nodes": COUNT,
    "trainer.hang_minutes": POSITIVE,
    "trainer.max_steps": Number(low_allowed=True, whole=True, optional=True),
    "trainer.validate_every": COUNT,
    "trainer.max_valid_items": COUNT_OR_NULL,
    "trainer.max_test_items": COUNT_OR_NULL,
    "trainer.checkpoint_every": COUNT,
    "trainer.log_every": COUNT,
    "trainer.accumulate": COUNT,
    "trainer.clip.generator": POSITIVE_OR_NULL,
    "trainer.clip.discriminator": POSITIVE_OR_NULL,
    "trainer.max_bad_steps": COUNT,
    "trainer.ema_decay": Number(low_allowed=True, high=1.0, high_allowed=False, optional=True),
    "trainer.statistics_batches": COUNT,
    "trainer.samples": FROM_ZERO,
    "trainer.tf32": BOOL,
    "trainer.cudnn_benchmark": BOOL,
    "trainer.deterministic": BOOL,
    "trainer.compile": BOOL,
    "init_discriminators": BOOL,
    "replay": BOOL,
}


def key_problems(tree: Mapping[str, Any]) -> list[str]:
    """Return a message for each value of the table that is not accepted, alone or together with another one.

    Keys that are not there are skipped; without the key ``discriminators``, there are some.
    """
    values = {path: at(tree, path) for path in KEYS}
    found = {path: KEYS[path].problem(value) for path, value in values.items() if value is not UNRESOLVED}
    problems = [f"{path}: {problem}" for path, problem in found.items() if problem]
    problems += _frequency_problems(values) + _data_problems(tree)
    lowest, highest = values["scheduler.lowest"], values["optimizer.lr"]
    if is_number(lowest) and is_number(highest) and lowest > highest:
        problems.append(f"scheduler.lowest: {lowest:g} must be at most optimizer.lr, {highest:g}, where it begins")
    adversarial = bool(at(tree, "discriminators"))  # without any, these settings have no effect
    intervals = (values["adversarial.interval"], values["adversarial.generator_interval"])
    if adversarial and all(isinstance(interval, int) and interval > 1 for interval in intervals):
        problems.append("adversarial: interval or generator_interval must be 1, or nobody learns at some steps")
    if (
        adversarial
        and values["adversarial.order"] == "discriminator_first"
        and values["adversarial.shared_passes"] is True
    ):
        problems.append(
            "adversarial.shared_passes: must be auto or false with adversarial.order=discriminator_first, in which the "
            "generator is judged by weights that have just changed"
        )
    accumulate = values["trainer.accumulate"]
    if isinstance(accumulate, int) and accumulate > 1:  # no state is saved between batches of one optimiser step
        problems += [
            f"{path}: {values[path]} must be a multiple of trainer.accumulate, {accumulate}"
            for path in ("trainer.validate_every", "trainer.checkpoint_every", "trainer.max_steps")
            if isinstance(values[path], int) and values[path] % accumulate
        ]
    return problems


def _frequency_problems(values: Mapping[str, Any]) -> list[str]:
    """Return a message for each frequency that the sample rate cannot hold."""
    rate, narrow = values["sample_rate"], values["narrow_rate"]
    if not is_number(rate):
        return []
    if is_number(narrow) and narrow >= rate:  # the frequencies follow from it
        return [f"narrow_rate: {narrow} must be below sample_rate, {rate}"]
    limits = {"cutoff_frequency": "below", "input_bandwidth": "at most", "data.min_bandwidth": "at most"}
    return [
        f"{path}: {values[path]:g} must be {limit} half of sample_rate, {rate / 2:g}"
        for path, limit in limits.items()
        if is_number(values[path]) and (values[path] > rate / 2 or (limit == "below" and values[path] == rate / 2))
    ]


def _data_problems(tree: Mapping[str, Any]) -> list[str]:
    """Return a message for each key of ``data`` that does not fit the sensors or the sample rate."""
    sensors, rate = at(tree, "task.sensors"), at(tree, "sample_rate")
    dropout, speakers = at(tree, "data.sensor_dropout"), at(tree, "data.speakers", None)
    gain = at(tree, "data.evaluation_body_gain")
    seconds, workers = at(tree, "data.segment_seconds"), at(tree, "data.workers", "auto")
    problems = []
    if is_number(dropout) and dropout > 0 and isinstance(sensors, list) and len(sensors) == 1:
        problems.append(
            f"data.sensor_dropout: {dropout:g} has no effect with one sensor ({sensors[0]}), which is never silenced; "
            "set it to 0, or choose a task of several sensors"
        )
    if is_number(gain) and gain != 0 and isinstance(sensors, list) and sensors and _BODY not in sensors:
        problems.append(
            f"data.evaluation_body_gain: {gain:g} has no effect without the sensor {_BODY}: the task has "
            f"{', '.join(map(str, sensors))}"
        )
    if isinstance(sensors, list) and (twice := sorted({str(name) for name in sensors if sensors.count(name) > 1})):
        problems.append(f"task.sensors: {', '.join(twice)} is named more than once")
    if is_number(seconds) and is_number(rate) and 0 < seconds < SHORTEST_SEGMENT:
        problems.append(
            f"data.segment_seconds: {seconds:g} must be at least {SHORTEST_SEGMENT:g}: a crop of "
            f"{round(seconds * rate)} sample(s) holds no speech"
        )
    if workers not in ("auto", UNRESOLVED) and (problem := FROM_ZERO.problem(workers)):
        problems.append(f"data.workers: {problem.replace('must be', 'must be auto or', 1)}")
    several = isinstance(speakers, Sequence) and not isinstance(speakers, str)
    if speakers is not None and speakers is not UNRESOLVED and not (several and speakers):
        problems.append(
            "data.speakers: must be a list of names, as in data.speakers=[NAME], or null for all, "
            f"not {shown(speakers)}"
        )
    return problems


def key_rules(section: str, others: Mapping[str, Any] | None = None, **values: Any) -> list[str]:
    """Return the messages of :func:`key_problems` for arguments that a class takes from a section.

    For :func:`bcfusion.requirements.require`, so that a class need not repeat the ranges of its keys.

    Args:
        section: the section that holds the keys, such as ``data``.
        others: further sections and keys of the root that the rules of these keys look at.
        values: the arguments, named as the keys.
    """
    return key_problems({**(others or {}), section: values})


def misspelt_keys(tree: Mapping[str, Any], text: str) -> list[str]:
    """Return a message for each key that is not a shipped one but resembles one: added by a user's YAML, to no effect.

    Keys that resemble nothing may be the user's own, and so may those that an interpolation reads. Arguments of
    ``_target_`` nodes and members of list groups are not judged here.

    Args:
        tree: the configuration as plain containers.
        text: the unresolved configuration as YAML, in which interpolations can be seen.
    """
    shipped = shipped_keys(conf_dir())
    problems = []
    for path, node in nodes(tree):
        known = at(shipped, path) if path else shipped
        if "_target_" in node or not isinstance(known, dict) or path == "selection":
            continue
        prefix = f"{path}." if path else ""
        for key, value in node.items():
            if key in known or (isinstance(value, dict) and "_target_" in value):
                continue
            near = nearest(str(key), known, cutoff=0.8)
            if near and not re.search(rf"\{{{re.escape(f'{prefix}{key}')}\b", text):
                problems.append(f"{prefix}{key}: there is no such key; did you mean '{prefix}{near}'?")
    return problems


@cache
def shipped_keys(root: Path) -> dict[str, Any]:
    """Return every key that a shipped file sets, whichever members are chosen."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # parsing them all in Python takes half a second
    keys: dict[str, Any] = {}
    for file in (root / ROOT_CONFIG, *sorted(root.glob("*/*.yaml"))):
        text = file.read_text(encoding="utf-8")
        content = yaml.load(text, loader) or {}  # nosec B506 # a safe loader
        at_root = file.parent == root or text.startswith("# @package _global_")
        _overlay(keys, content if at_root else {file.parent.name: content})
    return keys


def _overlay(keys: dict[str, Any], content: Mapping[str, Any]) -> None:
    for key, value in content.items():
        if key == "defaults":
            continue
        if isinstance(value, dict) and isinstance(keys.setdefault(key, {}), dict):
            _overlay(keys[key], value)
        else:
            keys.setdefault(key, value)
