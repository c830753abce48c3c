"""What a mistyped key or member was meant to be: searched in every group and in all of the composed configuration."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from bcfusion.configuration.compose import LIST_GROUPS
from bcfusion.configuration.moved import RENAMED, current_target
from bcfusion.configuration.paths import conf_dir, group_members, groups
from bcfusion.configuration.targets import HYDRA_KEYS, takes_argument
from bcfusion.configuration.values import UNRESOLVED, at
from bcfusion.files import from_yaml
from bcfusion.nearest import nearest

#: what other frameworks call a key or group, and its name here
SYNONYMS = {
    "learning_rate": "optimizer.lr",
    "epochs": "trainer.max_steps",
    "max_epochs": "trainer.max_steps",
    "num_epochs": "trainer.max_steps",
    "steps": "trainer.max_steps",
    "num_workers": "data.workers",
    "gpus": "trainer.devices",
    "device": "trainer.accelerator",
    "model": "generator",
    "network": "generator",
    "net": "generator",
    "dataset": "data",
    "corpus": "data",
    "loss": "losses",
    "task": "recipe",
    "hours": "budget.minutes",
    "time": "budget.minutes",
    "output": "output_root",
    "output_dir": "output_root",
    "checkpoint": "init_from",
    "ckpt": "init_from",
    "pretrained": "init_from",
    "fs": "sample_rate",
    "sr": "sample_rate",
}
OTHER_UNIT = ("epochs", "max_epochs", "num_epochs", "hours")  #: their value means something else here
OPEN_MAPPINGS = ("data.parts", "data.shares")  #: whose entries the user names
MOST = 3  #: candidates named in one message


def typed(key: str, value: str | None) -> str:
    """Return an override as it is typed in a shell; without a value, the key alone."""
    return shlex.quote(key if value is None else f"{key}={value}")


def unknown_key(key: str, value: str | None, tree: Mapping[str, Any], extra_dirs: Sequence[Path] = ()) -> str | None:
    """Return one or two lines about a key that does not exist: what it was meant to be, ready to paste.

    Args:
        key: as typed, with dots.
        value: as typed; None if there is none.
        tree: the composed configuration as plain containers, unresolved.
        extra_dirs: folders of the user's own group members.

    Returns:
        None if nothing is known that it could have been meant to be.
    """
    known = [*_paths(tree), *groups(extra_dirs)]
    section, _, rest = key.partition(".")
    if line := _not_chosen(key, value, tree, extra_dirs):
        return line
    if line := renamed_argument(key, value, tree) or _argument(key, value, tree):
        return line
    if line := _weight_of_discriminator(key, value, tree) or _entry_to_add(key, value, tree):
        return line
    others = [path for path in known if not key.startswith(f"{path}.")]  # not a section that the key is in
    close = nearest(key, others, cutoff=0.85)
    if close is None and (members := _members_with(section, rest, extra_dirs)):
        first = members[0]
        named = " and ".join(f"{section}={member}" for member in members[:MOST])
        more = f" and {len(members) - MOST} more" if len(members) > MOST else ""
        return f"{key}: a key of {named}{more}, which is not chosen\nwrite {section}={first} {typed(key, value)}"
    last = key.rpartition(".")[2]
    found = [close] if close else _same_name(last, tree)
    if not found and SYNONYMS.get(last) in known:
        found = [SYNONYMS[last]]
    if not found and (similar := _similar(key, tree, known)):
        found = [similar]
    if not found:
        return None
    question = f"{key}: there is no such key; did you mean {' or '.join(repr(path) for path in found[:MOST])}?"
    return question if last in OTHER_UNIT else f"{question}\nwrite {typed(found[0], value)}"


def _similar(key: str, tree: Mapping[str, Any], known: Sequence[str]) -> str | None:
    """Return the key of a similar name in the same section, else elsewhere."""
    parent, _, last = key.rpartition(".")
    section = at(tree, parent, None) if parent else {name: None for name in known if "." not in name}
    sibling = nearest(last, map(str, section)) if isinstance(section, Mapping) else None
    if sibling is not None:
        return f"{parent}.{sibling}" if parent else sibling
    if len(last) < 4:
        return None  # similar to too much
    leaves = {path.rpartition(".")[2]: path for path in sorted(known, key=lambda path: -path.count("."))}
    return leaves.get(nearest(last, leaves, cutoff=0.75) or "")


def _not_chosen(key: str, value: str | None, tree: Mapping[str, Any], extra_dirs: Sequence[Path]) -> str | None:
    """Return a message for a setting of a member of a list group that is not chosen."""
    group, _, rest = key.partition(".")
    name = rest.partition(".")[0]
    chosen = tree.get(group)
    if group not in LIST_GROUPS or name in (chosen or {}) or name not in group_members(group, extra_dirs):
        return None
    members = ",".join([*(chosen or {}), name])
    setting = f" {typed(key, value)}" if "." in rest else ""
    return f"{key}: '{name}' is not among the chosen {group}\nwrite {typed(group, f'[{members}]')}{setting}"


def renamed_argument(key: str, value: str | None, tree: Mapping[str, Any]) -> str | None:
    """Return a message for an argument that has another name now, with the value that means the same, or None.

    Args:
        key: as typed, with dots, without ``+``.
        value: as typed, several ones with commas; None if there is none.
        tree: the composed configuration as plain containers, unresolved.
    """
    parent, _, name = key.rpartition(".")
    node = at(tree, parent, None) if parent else None
    target = node.get("_target_") if isinstance(node, Mapping) else None
    renamed = RENAMED.get(current_target(target), {}).get(name) if isinstance(target, str) else None
    if renamed is None:
        return None
    now, meant = f"{parent}.{renamed[0]}", {str(old).lower(): new for old, new in renamed[1].items()}
    values = (value or "").lower().split(",")
    known = all(one.strip() in meant for one in values)
    write = [",".join(meant[one.strip()] for one in values)] if known else list(meant.values())
    return f"{key}: its name is {now} now\nwrite {' or '.join(typed(now, one) for one in write)}"


def _argument(key: str, value: str | None, tree: Mapping[str, Any]) -> str | None:
    """Return a message for an argument that the class of the node takes, though its YAML does not set it."""
    parent, _, name = key.rpartition(".")
    node = at(tree, parent, None) if parent else None
    target = node.get("_target_") if isinstance(node, Mapping) else None
    if not isinstance(target, str) or not takes_argument(target, name):
        return None
    owner = target.rpartition(".")[2]
    return f"{key}: an argument of {owner} that its YAML does not set\nto set it write {typed(f'+{key}', value)}"


def _entry_to_add(key: str, value: str | None, tree: Mapping[str, Any]) -> str | None:
    """Return a message for an entry of an open mapping that resembles none of those it has."""
    parent, _, name = key.rpartition(".")
    entries = at(tree, parent, None) if parent in OPEN_MAPPINGS else None
    if not isinstance(entries, Mapping) or nearest(name, map(str, entries)):
        return None
    return f"{key}: {parent} has only {', '.join(map(str, entries))}\nto add {name} write {typed(f'+{key}', value)}"


def _weight_of_discriminator(key: str, value: str | None, tree: Mapping[str, Any]) -> str | None:
    group, _, rest = key.partition(".")
    name = rest.removesuffix(".weight")
    if group != "discriminators" or name == rest or name not in (tree.get(group) or {}):
        return None
    others = ",".join(other for other in tree[group] if other != name)
    return (
        f"{key}: a discriminator has no weight; {typed('adversarial.weight', value)} is that of the loss of them all\n"
        f"to leave {name} out write {typed(group, f'[{others}]')}"
    )


def _members_with(group: str, rest: str, extra_dirs: Sequence[Path]) -> list[str]:
    """Return the members of a group of one choice whose YAML sets the key ``rest``."""
    if not rest or group in LIST_GROUPS or group not in groups(extra_dirs):
        return []
    folders = (conf_dir(), *extra_dirs)
    return [
        member
        for member in group_members(group, extra_dirs)
        if any(_has(content, rest) for folder in folders if (content := read_yaml(folder / group / f"{member}.yaml")))
    ]


def _has(content: Mapping[str, Any], path: str) -> bool:
    return at(content, path) is not UNRESOLVED


@cache
def read_yaml(file: Path) -> dict[str, Any]:
    """Return the mapping in a YAML file; an empty one if there is none, or it cannot be read."""
    try:
        content = from_yaml(file.read_bytes())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _paths(tree: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Yield every key with dots, outer ones first; lists are values."""
    for key, value in tree.items():
        if key in HYDRA_KEYS or (not prefix and key == "hydra"):
            continue
        yield f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from _paths(value, f"{prefix}{key}.")


def _same_name(last: str, tree: Mapping[str, Any]) -> list[str]:
    """Return the keys elsewhere whose last part is ``last``, of the outermost level that has any."""
    found = [
        path
        for path in _paths(tree)
        if path.rpartition(".")[2].lower() == last.lower() and "." in path and not _follows(at(tree, path, None))
    ]
    level = min((path.count(".") for path in found), default=0)
    return [path for path in found if path.count(".") == level]


def _follows(value: Any) -> bool:
    return isinstance(value, str) and value.startswith("${")


def group_with(member: str, extra_dirs: Iterable[Path] = ()) -> list[str]:
    """Return the groups that have a member of this name, the one that a user most likely means first."""
    folders = list(extra_dirs)
    order = ("experiment", "recipe", "generator")
    found = [group for group in groups(folders) if member in group_members(group, folders)]
    return sorted(found, key=lambda group: order.index(group) if group in order else len(order))
