"""Generate the reference of the configuration from the comments of its YAML files.

python scripts/config_reference.py generator       print the page of one group of conf/

A file of ``conf/`` opens with the command that uses it, followed by a description; each key has its comment after it.
A page shows these for every file of a group, with the keys as they are typed on the command line.
"""

from __future__ import annotations

import argparse
import html
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import yaml

CONF = Path(__file__).parents[1] / "conf"
ROOT_FILE = "train"  #: the file that composes all groups
_GLOBAL = "_global_"
_CODE = re.compile(r"(`[^`]+`)")


@dataclass(frozen=True)
class Key:
    """One key.

    Attributes:
        path: the key as typed.
        value: the value as written in the file, empty for a mapping.
        comment: the comment of the key, or ``""``.
    """

    path: str
    value: str
    comment: str


@dataclass(frozen=True)
class Choice:
    """An entry of a defaults list.

    Attributes:
        group: the group that is chosen from; empty for the file's own group.
        value: the member, or a list of members.
        comment: the comment of the entry, or ``""``.
    """

    group: str
    value: str
    comment: str


@dataclass(frozen=True)
class Entry:
    """One YAML file.

    Attributes:
        name: name of the member.
        command: the command that uses it.
        description: the other lines of its header.
        choices: its defaults list.
        keys: its keys.
    """

    name: str
    command: str
    description: tuple[str, ...]
    choices: tuple[Choice, ...]
    keys: tuple[Key, ...]


def groups(conf: Path = CONF) -> dict[str, list[Path]]:
    """Return the groups (nested ones as ``hydra/launcher``) and their files, ``_base`` first."""
    found: dict[str, list[Path]] = {}
    for path in sorted(conf.rglob("*.yaml")):
        if path.parent != conf:
            found.setdefault(path.parent.relative_to(conf).as_posix(), []).append(path)
    return found


def read_entry(path: Path, group: str) -> Entry:
    """Read a file with its comments.

    Args:
        path: the file.
        group: the group that it belongs to, ``""`` for the root file.

    Raises:
        ValueError: it does not open with a comment that gives the command.
    """
    return _parsed(path, group, path.read_text(encoding="utf-8"))


@cache  # the pages of all groups read the same files, some of them for every entry
def _parsed(path: Path, group: str, text: str) -> Entry:
    comments = _comments(text)
    header = []
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        header.append(line[1:].removeprefix(" ").rstrip())
    package = next((line.split()[1] for line in header if line.startswith("@package ")), group.replace("/", "."))
    header = [line for line in header if not line.startswith("@package ")]
    if not header:
        raise ValueError(f"{path}: the first line must be a comment, the command that uses this file")
    prefix = f"{package}." if package not in ("", _GLOBAL) else ""
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    keys: list[Key] = []
    choices: list[Choice] = []
    if isinstance(root, yaml.MappingNode):
        for name, value in root.value:
            if name.value == "defaults":
                choices += _choices(value, text, comments)
            else:
                keys += _keys(name, value, text, comments, prefix, deep=package == _GLOBAL)
    return Entry(path.stem, header[0], tuple(header[1:]), tuple(choices), tuple(keys))


def _comments(text: str) -> dict[int, str]:
    """Return the comment of each line of code, numbered from 0.

    It is the comment after the code, continued in the same column of the next lines; otherwise the one above. The
    comment at the top of a file, up to a line without comment, belongs to no key.
    """
    scalars = [t for t in yaml.scan(text) if isinstance(t, yaml.ScalarToken)]
    inside = {i for t in scalars for i in range(t.start_mark.index, t.end_mark.index)}
    found: dict[int, str] = {}
    above: list[str] = []
    start, last, column = 0, -1, -1  # first line and column of the latest comment
    header = True
    for number, line in enumerate(text.splitlines(keepends=True)):
        places = (m.start() for m in re.finditer(r"(?:(?<=\s)|^)#", line))
        place = next((p for p in places if start + p not in inside), None)
        start += len(line)
        comment = "" if place is None else line[place + 1 :].strip()
        if line[:place].strip():  # code
            if comment or above:
                found[number] = comment or " ".join(above)
            above, header = [], False
            last, column = (number, place) if place is not None else (-1, -1)
        elif last >= 0 and place == column:
            found[last] += " " + comment
        else:
            header, last = header and place is not None, -1
            above = [] if header or place is None else [*above, comment]
    return found


def _keys(
    name: yaml.Node, value: yaml.Node, text: str, comments: dict[int, str], prefix: str, deep: bool
) -> Iterator[Key]:
    """Yield the keys of one node.

    Args:
        name: the node of the key.
        value: the node of its value.
        text: the whole file.
        comments: line to comment.
        prefix: path of the parent key, with a dot at the end.
        deep: include keys in braces, which in a file of overrides are keys of other groups.
    """
    path, comment = prefix + name.value, comments.get(name.start_mark.line, "")
    if isinstance(value, yaml.MappingNode) and (deep or not value.flow_style) and value.value:
        if comment:
            yield Key(path, "", comment)
        for inner_name, inner in value.value:
            own = {} if value.flow_style else comments  # the comment of a line with braces is about the whole
            yield from _keys(inner_name, inner, text, own, f"{path}.", deep)
    else:
        yield Key(path, _source(value, text), comment or comments.get(value.end_mark.line, ""))


def _source(node: yaml.Node, text: str) -> str:
    """Return a value as written; block lists in brackets."""
    if isinstance(node, yaml.SequenceNode) and not node.flow_style:
        return f"[{', '.join(_source(item, text) for item in node.value)}]"
    return " ".join(text[node.start_mark.index : node.end_mark.index].split())


def _choices(node: yaml.Node, text: str, comments: dict[int, str]) -> Iterator[Choice]:
    for item in node.value:
        comment = comments.get(item.start_mark.line, "")
        if isinstance(item, yaml.MappingNode):
            [(name, value)] = item.value
            yield Choice(name.value.removeprefix("override ").strip("/"), _source(value, text), comment)
        elif item.value != "_self_":
            yield Choice("", item.value, comment)


# ---------------------------------------------------------------- Markdown


def page(group: str, conf: Path = CONF) -> str:
    """Return the page of a group: a table of its files, then each of them."""
    entries = [read_entry(path, group) for path in groups(conf)[group]]
    root = read_entry(conf / f"{ROOT_FILE}.yaml", "")
    lines = [f"# {group}", ""]
    for choice in (c for c in root.choices if c.group == group):
        typed = f"{group}=[NAME,NAME]" if choice.value.startswith("[") else f"{group}=NAME"
        what = f": {prose(choice.comment)}" if choice.comment else ""
        lines += [f"`{typed}`{what}. Without it: `{choice.value}`.", ""]
    lines += ["| name | what it is |", "| --- | --- |"]
    lines += [f"| [`{entry.name}`](#{entry.name}) | {prose(_first_sentence(entry))} |" for entry in entries]
    for entry in entries:
        lines += ["", *section(with_comments(entry, conf), group, known=groups(conf))]
    return "\n".join(lines) + "\n"


def with_comments(entry: Entry, conf: Path = CONF) -> Entry:
    """Return an entry whose uncommented overrides have the comments of these keys in their own groups.

    The comment comes from the member that the entry chooses; if it chooses none, from all members if they agree.
    """
    chosen = {choice.group: choice.value for choice in entry.choices}
    known = {name: paths for name, paths in groups(conf).items() if name in {k.path.split(".")[0] for k in entry.keys}}
    found: dict[str, set[str]] = {}
    for group, paths in known.items():
        for path in paths:
            if chosen.get(group, path.stem) in (path.stem, "null") or chosen[group].startswith("["):
                for key in read_entry(path, group).keys:
                    found.setdefault(key.path, set()).add(key.comment)
    agreed = {path: next(iter(comments)) for path, comments in found.items() if len(comments) == 1}
    return replace(entry, keys=tuple(replace(k, comment=k.comment or agreed.get(k.path, "")) for k in entry.keys))


def index(conf: Path = CONF) -> str:
    """Return the page of the root file, with a table of all groups and links to their pages."""
    root, known = read_entry(conf / f"{ROOT_FILE}.yaml", ""), groups(conf)
    comments = {choice.group: choice for choice in root.choices}
    lines = ["# Configuration", "", *[prose(line) for line in root.description], ""]
    lines += ["| group | what it is | without it | members |", "| --- | --- | --- | --- |"]
    for group, paths in known.items():
        choice = comments.get(group)
        what, default = (prose(choice.comment), f"`{choice.value}`") if choice else ("", "")
        members = ", ".join(f"`{path.stem}`" for path in paths if not path.stem.startswith("_"))
        lines.append(f"| [{group}]({group}.md) | {what} | {default} | {members} |")
    return "\n".join([*lines, "", "## Keys of the root", "", *_table(root.keys), ""])


def section(entry: Entry, group: str, known: dict[str, list[Path]] | None = None) -> list[str]:
    """Return the lines of one file: its command, description, choices and keys.

    Args:
        entry: the file.
        group: the group that it belongs to.
        known: groups that have a page to link to.
    """
    lines = [f"## `{entry.name}`", "", "```", entry.command, "```", "", *_description(entry.description)]
    if entry.choices:
        chosen = ", ".join(_choice(choice, group, known or {}) for choice in entry.choices)
        lines += [f"It starts from {chosen}.", ""]
    return [*lines, *_table(entry.keys)] if entry.keys else lines[:-1]


def _choice(choice: Choice, group: str, known: dict[str, list[Path]]) -> str:
    code = f"`{choice.group}={choice.value}`" if choice.group else f"`{choice.value}`"
    of = choice.group or group
    if of not in known or choice.value in ("null", "[]"):
        return code
    page_of = "" if of == group else "../" * group.count("/") + f"{of}.md"
    anchor = "" if choice.value.startswith("[") else f"#{choice.value}"
    return f"[{code}]({page_of}{anchor})" if page_of or anchor else code


def _description(lines: tuple[str, ...]) -> list[str]:
    """Return the description as prose, with indented lines as code."""
    out: list[str] = []
    for line in lines:
        indented = line.startswith("  ")
        if indented and (not out or not out[-1].startswith("    ")):
            out.append("")
        if not indented and out and out[-1].startswith("    "):
            out.append("")
        out.append("    " + line.strip() if indented else prose(line))
    return [*out, ""]


def _table(keys: tuple[Key, ...]) -> list[str]:
    lines = ["| key | value | |", "| --- | --- | --- |"]
    for key in keys:
        value = f"`{key.value}`" if key.value else ""
        lines.append(f"| `{key.path}` | {value} | {prose(key.comment)} |")
    return lines


def _first_sentence(entry: Entry) -> str:
    text = " ".join(line for line in entry.description if not line.startswith("  "))
    target = next((key for key in entry.keys if key.path.endswith("._target_")), None)
    if not text and target:  # the description may be the comment of the class
        return target.comment or f"`{target.value.rpartition('.')[2]}`"
    return re.split(r"(?<=[^.\s]\w[.:])\s+(?=[A-Z])", text, maxsplit=1)[0].rstrip(":")


def prose(text: str) -> str:
    """Return a comment as Markdown, with special characters escaped and links to the pages that it names."""
    parts = _CODE.split(text)
    for i in range(0, len(parts), 2):
        escaped = re.sub(r"([\\*_|\[\]{}#])", r"\\\1", html.escape(parts[i], quote=False))
        escaped = re.sub(r"docs/(\w+)\.md", lambda m: f"[{m[1]}](../{m[1]}.md)", escaped)
        escaped = re.sub(r"recipes/([\w\\]+)/RESULTS\.md", _results, escaped)
        parts[i] = escaped
    return "".join(parts)


def _results(match: re.Match[str]) -> str:
    recipe = match[1].replace("\\", "")
    return f"[results](../recipes/{recipe}/results.md)"


def main() -> None:
    parser = argparse.ArgumentParser(description="Print the reference page of a configuration group.")
    parser.add_argument("group", choices=sorted(groups()), help="folder of conf/")
    print(page(parser.parse_args().group), end="")


if __name__ == "__main__":
    main()
