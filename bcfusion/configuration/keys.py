"""The plain keys of a configuration: which ones there are, and which numbers they may hold."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

import yaml

from bcfusion.configuration.paths import ROOT_CONFIG, conf_dir
from bcfusion.configuration.targets import UNRESOLVED, is_number


@dataclass(frozen=True)
class Number:
    """Which numbers a key may hold."""

    low: float = 0.0
    low_allowed: bool = False
    high: float | None = None
    high_allowed: bool = True
    whole: bool = False
    optional: bool = False

    def problem(self, value: Any) -> str | None:
        """What is expected instead of ``value``, or None where it is allowed."""
        if value is None and self.optional:
            return None
        fits = is_number(value) and (not self.whole or isinstance(value, int))
        fits = fits and (value > self.low or (self.low_allowed and value == self.low))
        fits = fits and (self.high is None or value < self.high or (self.high_allowed and value == self.high))
        if fits:
            return None
        kind = "a whole number" if self.whole else "a number"
        bound = f"{'of at least' if self.low_allowed else 'above'} {self.low:g}"
        upper = "" if self.high is None else f" and {'of at most' if self.high_allowed else 'below'} {self.high:.10g}"
        return f"must be {kind} {bound}{upper}{' or null' if self.optional else ''}, not {shown(value)}"


COUNT = Number(low=1, low_allowed=True, whole=True)
COUNT_OR_NULL = Number(low=1, low_allowed=True, whole=True, optional=True)
WEIGHT = Number(low_allowed=True)
FROM_ZERO = Number(low_allowed=True, whole=True)
POSITIVE = Number()
POSITIVE_OR_NULL = Number(optional=True)
NUMBERS = {
    "sample_rate": COUNT,
    "seed": Number(low_allowed=True, high=2**32 - 1, whole=True),
    "cutoff_frequency": POSITIVE,
    "narrow_rate": POSITIVE,
    "budget.minutes": POSITIVE_OR_NULL,
    "budget.minutes_cpu": POSITIVE,
    "budget.minutes_gpu": POSITIVE,
    "data.segment_seconds": POSITIVE,
    "data.batch_size": COUNT,
    "data.max_unreadable_share": Number(low_allowed=True, high=1.0),
    "data.sensor_dropout": Number(low_allowed=True, high=1.0),
    "data.min_bandwidth": POSITIVE_OR_NULL,
    "data.augmentation.polarity": Number(low_allowed=True, high=1.0),
    "data.augmentation.body_polarity": Number(low_allowed=True, high=1.0),
    "data.max_train_items": COUNT_OR_NULL,
    "data.shuffle_buffer": COUNT,
    "adversarial.weight": WEIGHT,
    "adversarial.start_step": FROM_ZERO,
    "adversarial.ramp_steps": FROM_ZERO,
    "adversarial.interval": COUNT,
    "adversarial.generator_interval": COUNT,
    "adversarial.speech_level": POSITIVE_OR_NULL,
    "optimizer.lr": POSITIVE,
    "optimizer.lr_discriminator": POSITIVE,
    "trainer.num_nodes": COUNT,
    "trainer.max_steps": Number(low_allowed=True, whole=True, optional=True),
    "trainer.validate_every": COUNT,
    "trainer.max_valid_items": COUNT_OR_NULL,
    "trainer.checkpoint_every": COUNT,
    "trainer.log_every": COUNT,
    "trainer.accumulate": COUNT,
    "trainer.clip.generator": POSITIVE_OR_NULL,
    "trainer.clip.discriminator": POSITIVE_OR_NULL,
    "trainer.max_bad_steps": COUNT,
    "trainer.ema_decay": Number(low_allowed=True, high=1.0, high_allowed=False, optional=True),
    "trainer.samples": FROM_ZERO,
}


# fp16 is not among them: its scaled gradients would be clipped as they are, and overflow is its daily bread
CHOICES: dict[str, tuple[str | bool, ...]] = {
    "trainer.precision": ("32-true", "bf16-mixed"),
    "trainer.accelerator": ("auto", "cpu", "gpu"),
    "adversarial.order": ("generator_first", "discriminator_first"),
    "adversarial.shared_passes": ("auto", True, False),
}


def nodes(tree: Any, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every mapping of the tree with its YAML path, outer ones first."""
    if isinstance(tree, dict):
        yield path, tree
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in items:
        yield from nodes(value, f"{path}.{key}" if path else str(key))


def at(tree: Mapping[str, Any], path: str) -> Any:
    """The value at a dotted path, or UNRESOLVED where there is none."""
    found: Any = tree
    for key in path.split("."):
        if not isinstance(found, Mapping) or key not in found:
            return UNRESOLVED
        found = found[key]
    return found


def shown(value: Any) -> str:
    """A value as YAML has it, for messages."""
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else repr(value)


def number_problems(tree: Mapping[str, Any]) -> list[str]:
    """Numbers that are out of range, or that are none; keys that the configuration lacks are left alone."""
    values = {path: at(tree, path) for path in NUMBERS}
    found = {path: NUMBERS[path].problem(value) for path, value in values.items() if value is not UNRESOLVED}
    return [f"{path}: {problem}" for path, problem in found.items() if problem]


def choice_problems(tree: Mapping[str, Any]) -> list[str]:
    """Values of keys that take one of a few words."""
    return [
        f"{path}: must be {' or '.join(str(choice).lower() for choice in choices)}, not {shown(at(tree, path))}"
        for path, choices in CHOICES.items()
        if at(tree, path) is not UNRESOLVED and at(tree, path) not in choices
    ]


def misspelt_keys(tree: Mapping[str, Any], text: str) -> list[str]:
    """Keys that look like a shipped one but are not, as a YAML file of the user's may bring: they would be ignored.

    Keys that resemble nothing may be the user's own, and so may those that an interpolation reads. Arguments of
    ``_target_`` nodes and members of list groups are judged elsewhere.

    Args:
        tree: plain containers. text: the unresolved configuration as YAML, to see what interpolations read.
    """
    shipped = _shipped_keys()
    problems = []
    for path, node in nodes(tree):
        known = at(shipped, path) if path else shipped
        if "_target_" in node or not isinstance(known, dict) or path == "selection":
            continue
        for key, value in node.items():
            if key in known or (isinstance(value, dict) and "_target_" in value):
                continue
            above = f"{path}." if path else ""
            near = get_close_matches(str(key), known, n=1, cutoff=0.8)
            if near and f"{{{above}{key}" not in text:
                problems.append(f"{above}{key}: there is no such key; did you mean '{above}{near[0]}'?")
    return problems


def _shipped_keys() -> dict[str, Any]:
    """All keys that the shipped files fill, whichever member is chosen."""
    root = conf_dir()
    keys: dict[str, Any] = {}
    for file in (root / ROOT_CONFIG, *sorted(root.glob("*/*.yaml"))):
        text = file.read_text(encoding="utf-8")
        content = yaml.safe_load(text) or {}
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
