"""Messages about choices of members: one that does not exist, several where one is meant, none."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bcfusion.commands.shared.mistyped import member_from_path
from bcfusion.configuration.compose import LIST_GROUPS
from bcfusion.configuration.needed import NEEDED_GROUPS
from bcfusion.configuration.paths import ROOT_CONFIG, conf_dir, groups
from bcfusion.configuration.suggestions import group_with, read_yaml, typed
from bcfusion.configuration.values import at
from bcfusion.nearest import did_you_mean, nearest
from bcfusion.run.layout import RunDir

MOST_NAMES = 40  #: names listed as alternatives; a longer list is no help


def no_member(group: str, member: str, members: Sequence[str], extra_dirs: Sequence[Path]) -> str:
    """Return two lines about a member that does not exist: what it is elsewhere, or the nearest one, and all of them.

    Args:
        group: the group.
        member: what was typed.
        members: the members that exist.
        extra_dirs: folders of the user's own group members.
    """
    head = f"{group}={member}: there is no '{member}' in {group}"
    path = Path(member)
    if member.lower() in ("none", "null", "no", "off", "false"):
        return f"{head}; {how_to_choose_none(group)}\n{available(members)}"
    if group == "trainer" and member in ("gpu", "cpu", "cuda"):
        return f"{head}\nwrite trainer.accelerator={member.replace('cuda', 'gpu')}"
    if group == "data":
        if line := _data(head, member):
            return line
    elif path.exists() and RunDir.around(path) is not None:
        return f"{group}={member}: a run\nwrite resume={member} to continue it, init_from={member} to start from it"
    if path.suffix in (".yaml", ".yml") or "/" in member:
        return member_from_path(group, member, extra_dirs)
    elsewhere = [other for other in group_with(member, extra_dirs) if other != group]
    if elsewhere and not _close(member, members):
        other = elsewhere[0]
        choice = f"{other}=[{member}]" if other in LIST_GROUPS else f"{other}={member}"
        return f"{head}, but in {' and '.join(elsewhere)}\nwrite {shlex.quote(choice)}"
    return f"{head}{did_you_mean(member, members)}\n{available(members)}"


def _close(member: str, members: Sequence[str]) -> bool:
    return nearest(member, members, cutoff=0.85) is not None


def _data(head: str, member: str) -> str | None:
    """Return two lines about a corpus that is prepared first, or about a path of data."""
    from bcfusion.commands.shared.corpora import corpus_names

    path = Path(os.path.expanduser(member))
    if member.lower() in corpus_names():
        name = member.lower()
        return (
            f"{head}; {name} is a corpus for bcfusion prepare\nwrite bcfusion prepare {name} --root DIR "
            f"--out {name}.jsonl, then data=manifest data.path={name}.jsonl"
        )
    if path.suffix in (".jsonl", ".csv"):
        return f"{head}\nwrite data=manifest {typed('data.path', member)} for the corpus of a manifest"
    if path.is_dir() or "/" in member:
        return f"{head}\nwrite data=folder {typed('data.root', member)} for a corpus of speech in a folder"
    return None


def several_values(key: str, values: str, verb: str, tree: Mapping[str, Any], extra_dirs: Sequence[Path]) -> str:
    """Return two lines about ``key=a,b`` without ``-m``.

    Args:
        key: as typed.
        values: what follows the ``=``.
        verb: the verb of the command line.
        tree: the configuration as plain containers, without the overrides.
        extra_dirs: folders of the user's own group members.
    """
    head = f"{key}={values}: several values for one key\n"
    plain = key.lstrip("+~")
    if plain in LIST_GROUPS or isinstance(at(tree, plain), list):
        hint = f"write {shlex.quote(f'{key}=[{values}]')} for a list"
        return f"{head}{hint}, or add -m to run once per value" if verb == "train" else head + hint
    if re.fullmatch(r"[1-9]\d{0,2}(,\d{3})+", values) and isinstance(at(tree, plain), int):
        return f"{head}write {key}={values.replace(',', '')} for one number, or add -m to run once per value"
    if re.fullmatch(r"\d+,\d+", values) and isinstance(at(tree, plain), float):
        number = f"write {key}={values.replace(',', '.')} for one number"
        return head + (number if verb == "evaluate" else f"{number}, or add -m to run once per value")
    if verb in ("train", "check"):
        sweep = f"to run once per value write bcfusion {verb} -m {key}={values}"
        of_null = at(tree, plain) is None and plain not in groups(extra_dirs)
        return head + (f"write {shlex.quote(f'{key}=[{values}]')} for a list; " if of_null else "") + sweep
    return f"{head}{verb} takes one; run it once per value"


def how_to_choose_none(group: str) -> str:
    """Return how a group is left empty: Hydra removes one with ``~``, but not one that holds a list.

    Some groups cannot be empty, and then this is said.
    """
    if group in NEEDED_GROUPS:
        return "one is needed"
    defaults = read_yaml(conf_dir() / ROOT_CONFIG).get("defaults", [])
    is_list = any(isinstance(entry, dict) and isinstance(entry.get(group), list) for entry in defaults)
    return f"write {group}=[] for none" if is_list else f"write ~{group} for none"


def available(names: Sequence[str]) -> str:
    """Return the names that exist, as the second line of a message."""
    return f"available: {listed(names)}"


def listed(names: Sequence[str]) -> str:
    """Return names separated by commas, of a long list the first ones and how many more there are."""
    more = f", ... ({len(names) - MOST_NAMES} more)" if len(names) > MOST_NAMES else ""
    return ", ".join(names[:MOST_NAMES]) + more
