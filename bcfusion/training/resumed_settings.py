"""The settings of a run that is resumed: those it was started with, whatever the YAML files say today."""

from __future__ import annotations

import inspect
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig, OmegaConf, flag_override

from bcfusion.configuration.compose import LIST_GROUPS, plain
from bcfusion.configuration.later import LATER
from bcfusion.configuration.locations import absolute_paths
from bcfusion.configuration.moved import with_current_targets
from bcfusion.configuration.overrides import below, key_of
from bcfusion.configuration.targets import UnknownTarget, locate
from bcfusion.errors import CheckpointError, ConfigError
from bcfusion.files import from_yaml, read_object
from bcfusion.run.layout import RunDir
from bcfusion.run.record import Provenance

# What may change when a run is resumed: where and how it runs, how long, and what it reports; not what it computes.
FREE_SETTINGS = {
    "": (
        *("resume", "init_discriminators", "output_root", "machine", "budget", "metrics", "callbacks", "logger"),
        "replay",
    ),
    "data": ("workers", "max_unreadable_share"),
    "trainer": (
        *("accelerator", "devices", "strategy", "max_steps", "validate_every", "max_valid_items", "max_test_items"),
        *("checkpoint_every", "log_every", "max_bad_steps", "keep_best", "samples", "tf32", "cudnn_benchmark"),
        *("deterministic", "compile", "statistics_batches", "hang_minutes", "num_nodes", "environment"),
    ),
}
# Choices that set keys of any section.
SETS_ANY = ("experiment", "recipe", "machine", "hparams_search")
ABSENT: Any = object()  #: the value of a key that one of two configurations lacks


@dataclass(frozen=True)
class Change:
    """A setting of a run, ``key``, that differs from the one it was started with; each may be ``ABSENT``."""

    key: str
    before: Any
    now: Any

    def __str__(self) -> str:
        before, now = (None if value is ABSENT else value for value in (self.before, self.now))
        return f"{self.key}: was {before}, now {now}"


def keep_settings(cfg: DictConfig, recorded: Mapping[str, Any], run: RunDir, provenance: Provenance) -> None:
    """Give a composed configuration, in place, the settings of the run that it resumes, and say which these are.

    YAML files of another version, or files of the user that have changed since, give settings that the run was not
    started with. Nobody asked for these: the run's own remain. What differs because the command line does is refused.

    Args:
        cfg: the configuration of this session.
        recorded: that of the run, from its checkpoint.
        run: its directory.
        provenance: the command line of this session.

    Raises:
        ConfigError: the command line asks for other settings.
        CheckpointError: the run's own files are damaged.
    """
    changes = _changes(recorded, plain(cfg), run)
    typed = _typed_now(run, provenance)
    refused = [change for change in changes if typed is None or _sets(typed, change.key) or not _can_undo(cfg, change)]
    if refused:
        raise ConfigError(
            [
                f"resume: {run.path} keeps the settings it was started with; start a new run from its weights with "
                f"init_from={run.path}, or leave out:",
                *map(str, refused),
            ]
        )
    for change in changes:
        _undo(cfg, change)
    if changes:
        rank_zero_only(print)(
            f"resume: {run.path} goes on with the settings it was started with, though the YAML files have others by "
            f"now: {'; '.join(map(str, changes))}"
        )


def changed_settings(before: Mapping[str, Any], now: Mapping[str, Any], path: str = "") -> list[Change]:
    """Return the settings of a run that differ from those it was started with.

    A run of an earlier version lacks the arguments that its classes have got since. At their defaults these change
    nothing.
    """
    changes: list[Change] = []
    for key in dict.fromkeys([*before, *now]):
        name = f"{path}.{key}" if path else key
        of_critic = path.startswith("critics.") and path.count(".") == 1
        if key in FREE_SETTINGS.get(path, ()) or (of_critic and key == "workers"):
            continue
        if key not in before and (_is_default(now, key) or (name in LATER and now[key] == LATER[name])):
            continue
        old, new = before.get(key, ABSENT), now.get(key, ABSENT)
        if isinstance(old, dict) and isinstance(new, dict):
            changes += changed_settings(old, new, name)
        elif old != new:
            changes.append(Change(name, old, new))
    return changes


def _changes(recorded: Mapping[str, Any], now: dict[str, Any], run: RunDir) -> list[Change]:
    changes = changed_settings(with_current_targets(recorded), now)
    if changes and run.config.is_file():  # a relative path that leads to the same place from another folder is the same
        try:
            own = with_current_targets(from_yaml(run.config.read_bytes()))
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise CheckpointError(f"{run.config} cannot be read: {error}") from error
        places = {change.key for change in changed_settings(absolute_paths(own), absolute_paths(now))}
        changes = [change for change in changes if change.key in places]
    return changes


def _is_default(node: Mapping[str, Any], key: str) -> bool:
    """Return whether a value of a node is what its class takes without it."""
    try:
        argument = inspect.signature(locate(str(node["_target_"]))).parameters[key]
    except (KeyError, UnknownTarget, TypeError, ValueError):
        return False
    default = list(argument.default) if isinstance(argument.default, tuple) else argument.default
    return bool(default == node[key])


def _typed_now(run: RunDir, provenance: Provenance) -> list[str] | None:
    """Return the keys that this command line sets otherwise than that of the run; None: any, or it is not known."""
    if not provenance.command:  # train was called with a configuration from elsewhere
        return None
    try:
        before = list(map(str, from_yaml(run.overrides.read_bytes()) or ()))
        record = read_object(run.record)
    except (OSError, ValueError, TypeError):
        return None
    for name in ("config_dir", "config_name"):
        if _place(record.get(name)) != _place(getattr(provenance, name)):
            return None
    keys = [key_of(override) for override in set(before).symmetric_difference(provenance.overrides)]
    return None if any(key in SETS_ANY for key in keys) else keys


def _place(name: str | None) -> str | None:
    return None if name is None else os.path.abspath(name)


def _sets(typed: Iterable[str], key: str) -> bool:
    """Return whether one of the typed keys sets this one: it is the same, above it or below it."""
    return any(below(key, each) or below(each, key) for each in typed)


def _can_undo(cfg: DictConfig, change: Change) -> bool:
    """Return whether the earlier value of a key is known: of one that came later it may not be."""
    parent = change.key.rpartition(".")[0]
    known = change.before is not ABSENT or change.key in LATER or parent in LIST_GROUPS
    return known or "_target_" in (OmegaConf.select(cfg, parent) if parent else cfg)


def _undo(cfg: DictConfig, change: Change) -> None:
    """Give a key its earlier value. An argument that came later is removed: its class takes its default."""
    before = LATER.get(change.key, ABSENT) if change.before is ABSENT else change.before
    with flag_override(cfg, ["readonly", "struct"], False):
        if before is not ABSENT:
            OmegaConf.update(cfg, change.key, before, merge=False, force_add=True)
        else:
            parent, _, name = change.key.rpartition(".")
            del OmegaConf.select(cfg, parent)[name]
