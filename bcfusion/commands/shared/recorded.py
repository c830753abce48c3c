"""How an earlier run was configured, so that a verb can start from there."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from bcfusion.configuration.locations import absolute
from bcfusion.configuration.machine import CPU
from bcfusion.configuration.paths import conf_dir, group_members
from bcfusion.configuration.suggestions import read_yaml
from bcfusion.configuration.values import at
from bcfusion.errors import CheckpointError, ConfigError
from bcfusion.files import from_json, from_yaml
from bcfusion.run.description import find_bundle
from bcfusion.run.fetching import repository_of
from bcfusion.run.layout import BUNDLE_CONFIG, RunDir
from bcfusion.run.portable import portable_overrides
from bcfusion.run.yaml_file import read_yaml as read_bundle_yaml

Kind = TypeVar("Kind", list[Any], dict[str, Any])

# Settings of training that mean nothing, or something else, in an evaluation.
TRAINING_ONLY = ("resume", "init_from", "init_discriminators", "debug", "budget", "output_root")
# Settings that a trained model carries with it, and how it was trained.
TRAINED = (
    *("experiment", "generator", "objective", "losses", "discriminators", "critics", "adversarial", "balancer"),
    *("optimizer", "scheduler", "selection", "hparams_search", "callbacks", "logger", *TRAINING_ONLY),
)
# Keys of trainer that concern an evaluation, and keys of data that do not.
OF_TRAINER = ("accelerator", "samples", "max_valid_items", "max_test_items", "tf32", "cudnn_benchmark", "deterministic")
NOT_OF_DATA = ("min_bandwidth", "max_train_items", "speakers", "sensor_dropout", "simulate_on_device", "augmentation")


def recorded_overrides(model: str | Path) -> list[str]:
    """Return the command-line arguments that compose the configuration of an earlier run, ``--config-dir`` included.

    A relative path of a run that leads elsewhere from this working directory is replaced by the place that it meant.

    Args:
        model: a run directory, something inside one, a bundle or a checkpoint. Anything else gives an empty list: the
            verb that loads it reports what is wrong with it.
    """
    path = Path(model)
    bundle = find_bundle(path)
    if repository_of(bundle or path) is not None:  # what a stranger has written there about data is not read
        return [] if bundle is None else _of_hub(bundle)
    run = RunDir.around(path)
    if run is not None and run.overrides.is_file():
        overrides = _read(run.overrides, from_yaml, list)
        record = _read(run.record, from_json, dict) if run.record.is_file() else {}
        if record.get("config_name"):  # a whole configuration, which may have changed since: the run has its own copy
            return ["--config-dir", str(run.path), "--config-name", run.config.stem]
        overrides = _located(overrides, record.get("relative_paths") or {}, run)
        return _arguments({"overrides": overrides, "config_dir": record.get("config_dir")})
    if (path / BUNDLE_CONFIG).is_file():
        return _of_bundle(_read(path / BUNDLE_CONFIG, from_yaml, dict))
    if path.is_file() and path.suffix == ".ckpt":
        from bcfusion.run import checkpoint

        return _arguments(checkpoint.read(path, mmap=True)["training"])
    return []


def recorded_for_evaluation(model: str | Path) -> list[str]:
    """Return :func:`recorded_overrides` without what concerns training alone."""
    overrides = recorded_overrides(model)
    return [each for each in overrides if each.lstrip("+~").partition("=")[0].split(".")[0] not in TRAINING_ONLY]


def require_of_evaluation(overrides: Sequence[str]) -> None:
    """Check that overrides concern the evaluation, not the model, which has been trained.

    Raises:
        ConfigError: one would have no effect.
    """
    problems = []
    for override in overrides:
        key, equals, _ = override.lstrip("+").partition("=")
        if not equals or key.startswith(("-", "~")) or not _is_of_training(key.replace("@", ".").split(".")):
            continue
        steps = "; the number of steps is steps=N" if key == "objective.steps" else ""
        problems.append(f"{key}: has no effect on a model that has been trained{steps}")
    if problems:
        raise ConfigError(problems)


def _is_of_training(parts: Sequence[str]) -> bool:
    """Return whether a key, by its parts, has no effect on an evaluation."""
    group, name = parts[0], parts[1] if len(parts) > 1 else ""
    return (
        group in TRAINED or (group == "trainer" and name not in OF_TRAINER) or (group == "data" and name in NOT_OF_DATA)
    )


def _read(file: Path, reader: Callable[[bytes], Any], kind: type[Kind]) -> Kind:
    """Return the content of a file, empty if it holds nothing.

    Raises:
        CheckpointError: it cannot be read, or holds something of another kind.
    """
    try:
        content = reader(file.read_bytes())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file} cannot be read: {error}") from error
    if content is not None and not isinstance(content, kind):
        raise CheckpointError(f"{file} is damaged: it holds no {'list' if kind is list else 'keys'}")
    return content or kind()


def _located(overrides: Sequence[str], relative: Mapping[str, Any], run: RunDir) -> list[str]:
    """Return overrides in which the paths that were written relative to a run's own working directory still hold."""
    located = list(map(str, overrides))
    if not isinstance(relative, Mapping) or not relative or not run.config.is_file():
        return located
    config = _read(run.config, from_yaml, dict)
    for key, written in relative.items():
        place = at(config, key, None)
        if place is None or place == absolute(written):
            continue
        typed = [n for n, override in enumerate(located) if override.lstrip("+").partition("=")[0] == key]
        if typed:
            prefix = located[typed[-1]].partition(key)[0]
            located[typed[-1]] = f"{prefix}{key}={_quoted(place)}"
        else:  # written in a YAML file of the user
            located.append(f"{key}={_quoted(place)}")
    return located


def _quoted(value: Any) -> str:
    """Return a path, or a list of them, as the value of an override."""
    if isinstance(value, list):
        return f"[{','.join(map(_quoted, value))}]"
    return "'{}'".format(os.fspath(value).replace("'", "\\'"))


def _plain_or_quoted(name: str) -> str:
    return name if name.isidentifier() else _quoted(name)


def _of_bundle(content: Mapping[str, Any]) -> list[str]:
    """Return the recorded overrides of a bundle or, if it records none, those of the task that it fits."""
    training = content.get("training") or {}
    if "overrides" in training:
        return _arguments(training)
    sensors = list(map(str, content.get("sensors") or ()))
    of_recipe = {
        name: at(read_yaml(conf_dir() / "recipe" / f"{name}.yaml"), "task.sensors", None)
        for name in group_members("recipe")
    }
    fitting = next((name for name, own in of_recipe.items() if own == sensors), None)
    task = (
        [f"recipe={fitting}"]
        if fitting
        else [f"task.sensors=[{','.join(map(_plain_or_quoted, sensors))}]", "degradation=none"]
    )
    # the network is the bundle's, whatever the configuration says; the identity has no settings that could be refused
    return ["experiment=identity", *task, f"sample_rate={content.get('sample_rate', 16000)}", f"machine={CPU}"]


def _of_hub(folder: Path) -> list[str]:
    content = read_bundle_yaml(folder / BUNDLE_CONFIG)
    if not isinstance(content, dict):  # reported when it is loaded
        return []
    training = content.get("training")
    overrides = training.get("overrides") if isinstance(training, dict) else None
    own = {} if overrides is None else {"overrides": portable_overrides(map(str, overrides))}
    return _of_bundle({**content, "training": own})


def _arguments(training: dict[str, Any]) -> list[str]:
    config_dir = training.get("config_dir")
    options = ["--config-dir", str(config_dir)] if config_dir else []
    overrides = [str(override) for override in training.get("overrides") or ()]
    if not any(override.startswith("machine=") for override in overrides):
        overrides.append(f"machine={CPU}")  # of a time when experiments had these settings alone
    return [*options, *overrides]
