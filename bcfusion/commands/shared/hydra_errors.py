"""Messages of one or two lines, with the nearest known name, for the errors that Hydra raises while it composes."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import yaml
from hydra.errors import (
    ConfigCompositionException,
    HydraException,
    MissingConfigException,
    OverrideParseException,
)
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from bcfusion.commands.shared.choices import available, how_to_choose_none, listed, no_member, several_values
from bcfusion.commands.shared.composition import composed
from bcfusion.commands.shared.mistyped import bare_word
from bcfusion.configuration.paths import conf_dir, group_members, groups
from bcfusion.configuration.suggestions import group_with, typed, unknown_key
from bcfusion.configuration.values import at
from bcfusion.errors import BcfusionError
from bcfusion.nearest import did_you_mean, nearest

#: launchers in separate packages, and the extra that installs each
LAUNCHERS = {
    "joblib": "joblib",
    "submitit_local": "slurm",
    "submitit_slurm": "slurm",
    "ray": "ray",
}
KEY_VALUE = "write key=value, with quotes around values that hold special characters, as in 'key=\"a, b\"'"


def explain(error: Exception, overrides: Sequence[str], extra_dirs: Sequence[Path], verb: str) -> str | None:
    """Return one or two lines for the user, or None if ``error`` is not one that the user can fix.

    Args:
        error: raised while the configuration was composed, before any task ran.
        overrides: overrides of the command line.
        extra_dirs: folders of the user's own group members.
        verb: the verb of the command line, for commands to paste.
    """
    for link in _chain(error):
        if isinstance(link, BcfusionError):  # raised in a resolver, wrapped by OmegaConf
            return str(link)
    if isinstance(error, MissingConfigException):
        return _missing_member(error, overrides, extra_dirs)
    if isinstance(error, OverrideParseException):
        return _unreadable(error.override, overrides, verb, extra_dirs)
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        mark = error.problem_mark
        return f"{mark.name}, line {mark.line + 1}: not valid YAML: {error.problem}"
    if isinstance(error, ConfigCompositionException):
        return _composition(error, overrides, extra_dirs, verb)
    if isinstance(error, HydraException) and "BasicSweeper does not support" in str(error):
        return "a range of values is searched, not swept over\nwrite bcfusion train -m hparams_search=optuna ..."
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


def _unreadable(argument: str, overrides: Sequence[str], verb: str, extra_dirs: Sequence[Path]) -> str:
    key, equals, value = argument.partition("=")
    if not equals:
        before = overrides[: overrides.index(argument)] if argument in overrides else []
        split = before[-1] if before and before[-1].partition("=")[2].startswith(("/", "~", ".")) else None
        if split is not None and "/" in argument:  # a path that the shell has split at a space
            return f"{argument}: no key\nif it belongs to {split}, write {_quoted(f'{split} {argument}')}"
        return bare_word(argument, verb, extra_dirs)
    if value.startswith("~"):  # the shell replaces it at the beginning of a word only
        path = typed(key, str(Path(os.path.expanduser(value))))
        return f"{argument}: the shell does not replace ~ after =\nwrite {path}"
    numbered = re.sub(r"\[(\d+)\]", r".\1", key)
    if numbered != key and _readable(f"{numbered}={value}"):
        return f"cannot read the argument '{argument}'\nwrite {shlex.quote(f'{numbered}={value}')}"
    if value.endswith(",") and _readable(argument.rstrip(",")):
        return f"{argument}: ends in a comma\nwrite {shlex.quote(argument.rstrip(','))}"
    if choice := re.fullmatch(r"\{(\w+(?:,\w+)+)\}", value):
        return several_values(key, choice[1], verb, composed([], extra_dirs) or {}, extra_dirs)
    quoted = f'{key}="{value}"'
    if '"' not in argument and not value.startswith("=") and _readable(quoted):
        return f"cannot read the argument '{argument}': its value holds special characters\nwrite {shlex.quote(quoted)}"
    return f"cannot read the argument '{argument}'\n{KEY_VALUE}"


def _quoted(argument: str) -> str:
    key, _, value = argument.partition("=")
    return shlex.quote(f'{key}="{value}"')


def _readable(argument: str) -> bool:
    from hydra.core.override_parser.overrides_parser import OverridesParser

    try:
        OverridesParser.create().parse_override(argument)
    except HydraException:
        return False
    return True


def _missing_member(error: MissingConfigException, overrides: Sequence[str], extra_dirs: Sequence[Path]) -> str:
    missing = error.missing_cfg_file or ""
    group, _, member = missing.rpartition("/")
    if not group:
        members = sorted(file.stem for folder in (conf_dir(), *extra_dirs) for file in folder.glob("*.yaml"))
        if found := group_with(member, extra_dirs):
            head = f"there is no root configuration '{member}'; it is a member of {' and '.join(found)}"
            return f"{head}\nwrite {found[0]}={member}"
        return f"there is no root configuration '{member}'{did_you_mean(member, members)}\n{available(members)}"
    if group == "hydra/launcher" and member in LAUNCHERS:
        return f"{group}={member}: its package is not installed: pip install 'bcfusion[{LAUNCHERS[member]}]'"
    known = groups(extra_dirs)
    if missing.partition("/")[0] in known:  # the member may be a path
        group, _, member = missing.partition("/")
    # Hydra gives no alternatives for a list group, and parts of members among the others.
    members = group_members(group, extra_dirs) or sorted(error.options or ())
    if not members:
        return f"{group}={member}: there is no group '{group}'{did_you_mean(group, known)}"
    return no_member(group, member, members, extra_dirs)


def _composition(
    error: ConfigCompositionException, overrides: Sequence[str], extra_dirs: Sequence[Path], verb: str
) -> str:
    text = str(error)
    cause = error.__cause__
    if isinstance(cause, (ConfigAttributeError, ConfigKeyError)):
        return _unknown_key(cause, overrides, extra_dirs)
    if match := re.match(r"Ambiguous value for argument '(?P<key>[^=]*)=(?P<values>.*)'", text):
        return several_values(match["key"], match["values"], verb, composed([], extra_dirs) or {}, extra_dirs)
    if match := re.match(r"Could not delete from config\. '(?P<key>.*)' does not exist", text):
        return _nothing_to_remove(match["key"], overrides, extra_dirs)
    if match := re.match(r"Could not delete '(?P<group>[^'=]*)", text):
        group = match["group"]
        return f"~{group}: there is no such choice to remove; {how_to_choose_none(group)}"
    if match := re.match(r"Could not append to config\. An item is already at '(?P<key>.*)'", text):
        return f"+{match['key']}: there is such a key already; leave out the + to change it"
    if match := re.match(r"Multiple values for (?P<group>[\w/]+)\.", text):
        group = match["group"]
        given = next((o for o in overrides if o.startswith(f"+{group}=")), f"+{group}")
        return f"{given}: {group} is chosen already; leave out the + to change it"
    if match := re.match(r"(In '(?P<file>.*)': )?Could not override '(?P<group>[^']*)'", text):
        where = f"{match['file']}.yaml: " if match["file"] else ""
        name = match["group"].rpartition("/")[2]
        return f"{where}there is no group '{name}' to override{did_you_mean(name, groups(extra_dirs))}"
    if match := re.match(r"Sweep parameters '(?P<override>.*)' requires --multirun", text):
        override = shlex.quote(match["override"])
        return f"{override}: several values need -m\nto search write bcfusion train -m hparams_search=optuna {override}"
    return _shortened(error)


def _unknown_key(error: OmegaConfBaseException, overrides: Sequence[str], extra_dirs: Sequence[Path]) -> str:
    key, full_key = str(error.key), str(error.full_key)
    typed_keys = [o for o in overrides if re.match(rf"{re.escape(full_key)}[.=]", o)]
    chosen = [o for o in typed_keys if o.partition("=")[0] in groups(extra_dirs)]  # a choice, as in group=member
    given = next(iter([o for o in typed_keys if o not in chosen] or typed_keys), full_key)
    whole, equals, value = given.partition("=")
    node = error.parent_node
    tree = OmegaConf.to_container(node._get_root(), resolve=False) if isinstance(node, DictConfig) else {}
    plain = {str(name): entry for name, entry in tree.items()} if isinstance(tree, dict) else {}
    meant = unknown_key(whole, value if equals else None, plain, extra_dirs)
    if meant is not None:
        return meant
    parent = full_key.removesuffix(key).rstrip(".")
    siblings = (
        [str(name) for name in node if name != "hydra"] if isinstance(node, DictConfig) and not node._is_none() else []
    )
    if not parent:  # groups that set no key of their own name, such as experiment, are chosen there too
        siblings = sorted({*siblings, *groups(extra_dirs)})
    elif not siblings:
        return f"{full_key}: '{parent}' has no keys"
    where = f"keys of {parent}" if parent else "keys"
    return f"{whole}: there is no such key\n{where}: {listed(sorted(siblings))}"


def _nothing_to_remove(key: str, overrides: Sequence[str], extra_dirs: Sequence[Path]) -> str:
    parent, _, name = key.rpartition(".")
    tree = composed([override for override in overrides if not override.startswith("~")], extra_dirs) or {}
    node = at(tree, parent) if parent else tree
    names = [str(sibling) for sibling in node] if isinstance(node, Mapping) else []
    near = nearest(name, [other for other in names if other != name])  # Hydra does not find a key that is null
    hint = f"; did you mean '~{f'{parent}.' if parent else ''}{near}'?" if near else ""
    return f"~{key}: there is no such key to remove{hint}" + (
        f"\nkeys of {parent}: {listed(names)}" if parent and names else ""
    )


def _value(error: ValueError, overrides: Sequence[str], extra_dirs: Sequence[Path]) -> str:
    """Find the argument that Hydra means: it raises plain ValueErrors that do not name it."""
    if "Config group override" in str(error):
        known = groups(extra_dirs)
        for override in overrides:
            group, _, value = override.lstrip("+").partition("=")
            if group == "":
                return f"cannot read the argument '{override}': write key=value"
            members = group_members(group, extra_dirs)
            if group in known and value not in members and not value.startswith("["):
                return f"{override}: names no member of {group}; {how_to_choose_none(group)}\n{available(members)}"
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
