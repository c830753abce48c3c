"""Keys that a command line adds, ``+key=value``: only what somebody reads may be added."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bcfusion.configuration.paths import conf_dir
from bcfusion.configuration.suggestions import read_yaml, renamed_argument, typed, unknown_key
from bcfusion.configuration.values import interpolated

#: groups with entries of any name: each is a node with a class or, in `selection`, the criterion of a metric value
OPEN_GROUPS = ("discriminators", "critics", "losses", "metrics", "degradation", "callbacks", "logger", "selection")
#: arguments of Lightning's Trainer that bcfusion sets itself, and the key to use instead, if there is one
SET_BY_BCFUSION = {
    "accumulate_grad_batches": "trainer.accumulate",
    "barebones": None,
    "benchmark": "trainer.cudnn_benchmark",
    "callbacks": "callbacks",
    "check_val_every_n_epoch": "trainer.validate_every",
    "default_root_dir": "output_root",
    "enable_checkpointing": None,
    "enable_model_summary": None,
    "enable_progress_bar": None,
    "fast_dev_run": "debug",
    "gradient_clip_algorithm": "trainer.clip.generator",
    "gradient_clip_val": "trainer.clip.generator",
    "limit_predict_batches": None,
    "limit_test_batches": None,
    "limit_train_batches": "data.max_train_items",
    "limit_val_batches": "trainer.max_valid_items",
    "log_every_n_steps": "trainer.log_every",
    "logger": "logger",
    "max_epochs": "trainer.max_steps",
    "max_time": "budget.minutes",
    "min_epochs": None,
    "min_steps": None,
    "num_sanity_val_steps": None,
    "overfit_batches": "debug",
    "plugins": "trainer.environment",
    "reload_dataloaders_every_n_epochs": None,
    "use_distributed_sampler": None,
    "val_check_interval": "trainer.validate_every",
}


class Addition(NamedTuple):
    """A key that the command line adds.

    Attributes:
        key: with dots.
        value: as a plain value; None for a sweep.
        text: the value as typed; None if there is none.
    """

    key: str
    value: Any
    text: str | None


def addition_problems(
    additions: Iterable[Addition], base: Mapping[str, Any], texts: Iterable[str], extra_dirs: Sequence[Path] = ()
) -> list[str]:
    """Return a message for each added key that nobody reads.

    A key is read if a constructor takes it, if it is an entry of an open group such as ``losses``, if Lightning's
    Trainer takes it (below ``trainer``) or if an interpolation names it.

    Args:
        additions: what the command line adds.
        base: the configuration without the additions, as plain containers, unresolved.
        texts: the configuration and the values of the command line as text, in which interpolations can be seen.
        extra_dirs: folders of the user's own group members.
    """
    read = [name for text in texts for name in interpolated(text)]
    problems = []
    for addition in additions:
        if problem := _problem(addition, base, read, extra_dirs):
            problems.append(problem)
    return problems


def _problem(
    addition: Addition, base: Mapping[str, Any], read: Sequence[str], extra_dirs: Sequence[Path]
) -> str | None:
    parts = addition.key.split(".")
    node: Any = base
    for depth, part in enumerate(parts):
        if not isinstance(node, Mapping) or "_target_" in node:
            # others are judged by Hydra, or with the arguments of the class
            return renamed_argument(addition.key, addition.text, base)
        if part in node:
            node = node[part]
            continue
        above = ".".join(parts[:depth])
        if _is_read(addition.key, read):
            return None
        if above in OPEN_GROUPS:
            return _entry(addition, above) if depth == len(parts) - 1 else None
        if above == "trainer" and depth == len(parts) - 1 and _is_trainers(part):
            instead = SET_BY_BCFUSION.get(part)
            if part not in SET_BY_BCFUSION:
                return None
            return f"{addition.key}: bcfusion sets this argument itself" + (f"; see {instead}" if instead else "")
        meant = unknown_key(addition.key, addition.text, base, extra_dirs)
        return meant or f"+{addition.key}: nothing reads this key; bcfusion check --cfg job prints all keys"
    return None


def _entry(addition: Addition, group: str) -> str | None:
    value = addition.value
    if value is None or (isinstance(value, Mapping) and ("_target_" in value or group == "selection")):
        return None
    example = "{weight:1,worst:0,best:1}" if group == "selection" else "{_target_:my_package.MyClass}"
    return f"+{addition.key}: an entry of {group} is a mapping, as in {typed(f'+{addition.key}', example)}"


def _is_read(key: str, read: Iterable[str]) -> bool:
    """Return whether an interpolation names a key, the mapping that it is in, or a relative path that ends in it."""
    for name in read:
        if name.startswith("."):
            if key.endswith(f".{name.lstrip('.')}") or key == name.lstrip("."):
                return True
        elif key == name or key.startswith(f"{name}.") or name.startswith(f"{key}."):
            return True
    return False


def _is_trainers(name: str) -> bool:
    from lightning import Trainer

    return name in inspect.signature(Trainer).parameters


def trainer_arguments(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that were added to the section ``trainer`` and that Lightning's Trainer takes."""
    shipped = {key for file in (conf_dir() / "trainer").glob("*.yaml") for key in read_yaml(file)}
    own = {*shipped, *SET_BY_BCFUSION}
    return {name: value for name, value in settings.items() if name not in own and _is_trainers(str(name))}
