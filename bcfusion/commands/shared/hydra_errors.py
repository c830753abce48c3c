"""Messages of one or two lines, with the nearest known name, for the errors that Hydra raises while it composes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import yaml
from hydra.errors import (
    CompactHydraException,
    ConfigCompositionException,
    HydraException,
    MissingConfigException,
    OverrideParseException,
)
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from bcfusion.configuration.paths import ROOT_CONFIG, conf_dir, group_members, groups
from bcfusion.errors import BcfusionError
from bcfusion.nearest import did_you_mean, nearest

#: launchers in separate packages, and the extra that installs each
LAUNCHERS = {
    "joblib": "joblib",
    "submitit_local": "slurm",
    "submitit_slurm": "slurm",
    "ray": "ray",
}
MOST_NAMES = 40  #: names listed as alternatives; a longer list is no help


def explain(error: Exception, overrides: Sequence[str], extra_dirs: Sequence[Path]) -> str | None:
    """Return one or two lines for the user, or None if ``error`` is not one that the user can fix.

    Args:
        error: raised while the configuration was composed, before any task ran.
        overrides: overrides of the command line.
        extra_dirs: folders of the user's own group members.
    """
    for link in _chain(error):
        if isinstance(link, BcfusionError):  # raised in a resolver, wrapped by OmegaConf
            return str(link)
    if isinstance(error, MissingConfigException):
        return _missing_member(error, extra_dirs)
    if isinstance(error, OverrideParseException):
        return (
            f"cannot read the argument '{error.override}'\n"
            "write key=value, with quotes around values that hold special characters, as in 'key=\"a, b\"'"
        )
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        mark = error.problem_mark
        return f"{mark.name}, line {mark.line + 1}: not valid YAML: {error.problem}"
    if isinstance(error, ConfigCompositionException):
        return _composition(error, overrides, extra_dirs)
    if isinstance(error, (HydraException, OmegaConfBaseException)):
        return _shortened(error)
    if isinstance(error, ValueError):
        return _value(error, overrides, extra_dirs)
    if isinstance(error, OSError):
        return f"{error.filename}: {error.strerror}" if error.filename else str(error)
    return None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _missing_member(error: MissingConfigException, extra_dirs: Sequence[Path]) -> str:
    group, _, member = (error.missing_cfg_file or "").rpartition("/")
    if not group:
        members = sorted(file.stem for folder in (conf_dir(), *extra_dirs) for file in folder.glob("*.yaml"))
        return f"there is no root configuration '{member}'{did_you_mean(member, members)}\n{_available(members)}"
    if group == "hydra/launcher" and member in LAUNCHERS:
        return f"{group}={member}: its package is not installed: pip install 'bcfusion[{LAUNCHERS[member]}]'"
    # Hydra gives no alternatives for a list group.
    members = sorted(error.options) if error.options else group_members(group, extra_dirs)
    if not members:
        return f"{group}={member}: there is no group '{group}'{did_you_mean(group, groups(extra_dirs))}"
    return f"{group}={member}: there is no '{member}' in {group}{did_you_mean(member, members)}\n{_available(members)}"


def _composition(error: ConfigCompositionException, overrides: Sequence[str], extra_dirs: Sequence[Path]) -> str:
    text = str(error)
    cause = error.__cause__
    if isinstance(cause, (ConfigAttributeError, ConfigKeyError)):
        override = re.search(r"\+(.*)$", text)
        return _unknown_key(cause, override[1] if override else "", extra_dirs)
    if match := re.match(r"Ambiguous value for argument '(?P<key>[^=]*)=(?P<values>.*)'", text):
        key, values = match["key"], match["values"]
        return (
            f"{key}={values}: several values for one key\n"
            f"write {key}=[{values}] for a list, or add -m to run once per value"
        )
    if match := re.match(r"Could not delete from config\. '(?P<key>.*)' does not exist", text):
        return _nothing_to_remove(match["key"], overrides, extra_dirs)
    if match := re.match(r"Could not delete '(?P<group>[^'=]*)", text):
        group = match["group"]
        return f"~{group}: there is no such choice to remove; {_how_to_choose_none(group)}"
    if match := re.match(r"Could not append to config\. An item is already at '(?P<key>.*)'", text):
        return f"+{match['key']}: there is such a key already; leave out the + to change it"
    if match := re.match(r"(In '(?P<file>.*)': )?Could not override '(?P<group>[^']*)'", text):
        where = f"{match['file']}.yaml: " if match["file"] else ""
        name = match["group"].rpartition("/")[2]
        return f"{where}there is no group '{name}' to override{did_you_mean(name, groups(extra_dirs))}"
    return _shortened(error)


def _unknown_key(error: OmegaConfBaseException, override: str, extra_dirs: Sequence[Path]) -> str:
    key, full_key = str(error.key), str(error.full_key)
    parent = full_key.removesuffix(key).rstrip(".")
    node = error.parent_node
    siblings = (
        [str(name) for name in node if name != "hydra"] if isinstance(node, DictConfig) and not node._is_none() else []
    )
    if not parent:  # groups that set no key of their own name, such as experiment, are chosen there too
        siblings = sorted({*siblings, *groups(extra_dirs)})
    elif not siblings:
        return f"{full_key}: '{parent}' has no keys"
    near = nearest(key, siblings)
    hint = f"; did you mean '{f'{parent}.' if parent else ''}{near}'?" if near else ""
    keys = (
        f"keys of {parent}: {_listed(sorted(siblings))}; "
        if parent
        else ("" if near else f"keys: {_listed(siblings)}; ")
    )
    return f"{full_key}: there is no such key{hint}\n{keys}to add one write +{override or full_key}"


def _nothing_to_remove(key: str, overrides: Sequence[str], extra_dirs: Sequence[Path]) -> str:
    parent, _, name = key.rpartition(".")
    node = _composed([override for override in overrides if not override.startswith("~")], extra_dirs)
    if node is not None and parent:
        node = OmegaConf.select(node, parent)
    names = [str(sibling) for sibling in node] if isinstance(node, DictConfig) else []
    near = nearest(name, names)
    hint = f"; did you mean '~{f'{parent}.' if parent else ''}{near}'?" if near else ""
    return f"~{key}: there is no such key to remove{hint}" + (
        f"\nkeys of {parent}: {_listed(names)}" if parent and names else ""
    )


def _composed(overrides: list[str], extra_dirs: Sequence[Path]) -> DictConfig | ListConfig | None:
    """Return the configuration without the overrides that failed, to list its keys; None if that fails too."""
    from hydra import compose, initialize_config_dir

    search = (
        [f"hydra.searchpath=[{','.join(f'file://{folder.absolute()}' for folder in extra_dirs)}]"] if extra_dirs else []
    )
    try:
        with initialize_config_dir(str(conf_dir()), version_base="1.3"):
            return compose("train", overrides=[*overrides, *search])
    except (CompactHydraException, OmegaConfBaseException, ValueError):
        return None


def _value(error: ValueError, overrides: Sequence[str], extra_dirs: Sequence[Path]) -> str:
    """Find the argument that Hydra means: it raises plain ValueErrors that do not name it."""
    if "Config group override" in str(error):
        known = groups(extra_dirs)
        for override in overrides:
            group, _, value = override.lstrip("+").partition("=")
            if group == "":
                return f"cannot read the argument '{override}': write key=value"
            if group in known and value not in group_members(group, extra_dirs) and not value.startswith("["):
                available = _available(group_members(group, extra_dirs))
                return f"{override}: name a member of {group}, or {_how_to_choose_none(group)}\n{available}"
    if match := re.match(r"invalid literal for int\(\) with base 10: '(.*)'", str(error)):
        for override in overrides:
            if f".{match[1]}" in override.partition("=")[0]:
                return f"{override}: the key before '{match[1]}' is a list, whose items are numbered from 0"
    return _shortened(error)


def _shortened(error: Exception) -> str:
    """Return the first two lines of a message and its causes, without OmegaConf's internal details."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    causes = [str(link).splitlines()[0] for link in list(_chain(error))[1:] if str(link)]
    full_key = getattr(error, "full_key", None)
    lines = [line for line in lines if not re.match(r"(full_key|object_type|reference_type)\b", line)]
    if full_key and lines:
        lines[0] = f"{full_key}: {lines[0]}"
    return "\n".join([*lines, *causes][:2]) or type(error).__name__


def _how_to_choose_none(group: str) -> str:
    """Return how a group is left empty: Hydra removes one with ``~``, but not one that holds a list."""
    defaults = yaml.safe_load((conf_dir() / ROOT_CONFIG).read_text(encoding="utf-8"))["defaults"]
    is_list = any(isinstance(entry, dict) and isinstance(entry.get(group), list) for entry in defaults)
    return f"write {group}=[] for none" if is_list else f"write ~{group} for none"


def _available(names: Sequence[str]) -> str:
    return f"available: {_listed(names)}"


def _listed(names: Sequence[str]) -> str:
    more = f", ... ({len(names) - MOST_NAMES} more)" if len(names) > MOST_NAMES else ""
    return ", ".join(names[:MOST_NAMES]) + more
