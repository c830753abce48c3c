"""The settings of a run that is resumed: those it was started with, whatever the YAML files say today."""

from __future__ import annotations

import inspect
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig, OmegaConf, flag_override

from bcfusion.configuration.check import verify_or_raise
from bcfusion.configuration.compose import LIST_GROUPS, plain
from bcfusion.configuration.later import LATER
from bcfusion.configuration.locations import absolute_paths
from bcfusion.configuration.moved import with_current_targets
from bcfusion.configuration.overrides import below, key_of
from bcfusion.configuration.targets import UnknownTarget, locate
from bcfusion.configuration.values import at
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
    "data.corpus": ("max_unreadable_share",),
    "trainer": (
        *("accelerator", "devices", "strategy", "max_steps", "validate_every", "max_valid_items", "max_test_items"),
        *("checkpoint_every", "log_every", "max_bad_steps", "keep_best", "samples", "tf32", "cudnn_benchmark"),
        *("deterministic", "compile", "statistics_batches", "hang_minutes", "num_nodes", "environment"),
    ),
}
# A choice that sets keys of any section; groups without a section of their own (experiment, debug) do, too.
SETS_ANY = ("machine",)
# Groups whose choice may change, as all of their settings may.
FREE_GROUPS = ("trainer", "machine", "debug", "hparams_search", *FREE_SETTINGS[""])
ABSENT: Any = object()  #: the value of a key that one of two configurations lacks
NOTHING = (None, ABSENT)


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
    recorded = with_current_targets(recorded)
    places = _places(recorded, run)
    changes = _changes(recorded, places, plain(cfg))
    typed = _typed_now(run, provenance, recorded)
    refused = [
        change for change in changes if typed is None or _sets(typed, change.key) or not _can_undo(cfg, change, places)
    ]
    if refused:
        raise ConfigError(
            [
                f"resume: {run.path} keeps the settings it was started with; start a new run from its weights with "
                f"init_from={run.path}, or leave out:",
                *map(str, refused),
            ]
        )
    for change in changes:
        if _source(cfg, change.key) is None:  # what follows another key may have changed with it
            _undo(cfg, change)
    whole: list[str] = []
    for change in _changes(recorded, places, plain(cfg)):
        if any(below(change.key, source) for source in whole):
            continue
        if (source := _source(cfg, change.key)) is None:
            _undo(cfg, change)
        else:
            whole.append(source)
            _undo(cfg, Change(source, at(places, source, ABSENT), None))
    _keep_order(cfg, recorded)
    if changes:
        verify_or_raise(cfg)  # what has been checked had other settings
    shown = [
        change for change in changes if change.key != "init_from"
    ]  # a name was recorded as the place that it meant
    if shown:
        rank_zero_only(print)(
            f"resume: {run.path} continues with its own settings; the YAML files have others now: "
            f"{'; '.join(map(str, shown))}"
        )


def kept_choices(run: RunDir, provenance: Provenance) -> Provenance:
    """Return the record of a session that resumes a run: with the members of groups that the run was started with."""
    before = read_object(run.record).get("choices")
    kept = {} if not isinstance(before, Mapping) else {k: v for k, v in before.items() if k not in FREE_GROUPS}
    return replace(provenance, choices={**provenance.choices, **kept})


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
        elif old != new and not (old in NOTHING and new in NOTHING):
            changes.append(Change(name, old, new))
    return changes


def _changes(before: Mapping[str, Any], places: Mapping[str, Any], now: dict[str, Any]) -> list[Change]:
    """Return what has changed, except relative paths that lead to the same place from another folder."""
    changes = changed_settings(before, now)
    if not changes:
        return []
    moved = {change.key: change for change in changed_settings(places, absolute_paths(now))}
    return [moved[change.key] for change in changes if change.key in moved]


def _places(recorded: Mapping[str, Any], run: RunDir) -> Mapping[str, Any]:
    """Return the settings of a run with absolute paths, as it recorded them."""
    if not run.config.is_file():
        return recorded
    try:
        own = with_current_targets(from_yaml(run.config.read_bytes()))
        return absolute_paths(own)
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{run.config} cannot be read: {error}") from error


def _is_default(node: Mapping[str, Any], key: str) -> bool:
    """Return whether a value of a node is what its class takes without it."""
    try:
        argument = inspect.signature(locate(str(node["_target_"]))).parameters[key]
    except (KeyError, UnknownTarget, TypeError, ValueError):
        return False
    default = list(argument.default) if isinstance(argument.default, tuple) else argument.default
    return bool(default == node[key])


def _typed_now(run: RunDir, provenance: Provenance, recorded: Mapping[str, Any]) -> list[str] | None:
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
    return None if any(key in SETS_ANY or key.split(".")[0] not in recorded for key in keys) else keys


def _place(name: str | None) -> str | None:
    return None if name is None else os.path.abspath(name)


def _sets(typed: Iterable[str], key: str) -> bool:
    """Return whether one of the typed keys sets this one: it is the same, above it or below it."""
    return any(below(key, each) or below(each, key) for each in typed)


def _source(cfg: DictConfig, key: str) -> str | None:
    """Return the key itself, or the shortest one above it, that is an interpolation: it follows another key."""
    node: Any = cfg
    path = ""
    for name in key.split("."):
        if not isinstance(node, DictConfig) or name not in node:
            return None
        path = f"{path}.{name}" if path else name
        if OmegaConf.is_interpolation(node, name):
            return path
        node = node._get_node(name)
    return None


def _keep_order(cfg: DictConfig, recorded: Mapping[str, Any]) -> None:
    """Give the members of list groups the order of the run: states of optimisers are saved by position."""
    for group in LIST_GROUPS:
        before: Mapping[str, Any] = recorded.get(group) or {}
        now: Any = cfg.get(group) or {}
        if list(before) != list(now) and set(before) == set(now):
            with flag_override(cfg, ["readonly", "struct"], False):
                nodes = {name: now._get_node(name) for name in before}
                for name, node in nodes.items():
                    del now[name]
                    now[name] = node


def _can_undo(cfg: DictConfig, change: Change, places: Mapping[str, Any]) -> bool:
    """Return whether the earlier value of a key is known: of one that came later it may not be."""
    if (source := _source(cfg, change.key)) is not None and at(places, source, ABSENT) is not ABSENT:
        return True
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
