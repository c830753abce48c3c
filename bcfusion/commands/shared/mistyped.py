"""Arguments that Hydra would misread or refuse without saying how to type them: dashes, quotes, spaces, bare words."""

from __future__ import annotations

import re
import shlex
from collections.abc import Collection, Sequence
from pathlib import Path

from bcfusion.commands.shared.characters import typographic
from bcfusion.commands.shared.composition import composed
from bcfusion.commands.verbs import VERBS
from bcfusion.configuration.paths import ROOT_CONFIG, conf_dir, group_members, groups
from bcfusion.configuration.suggestions import SYNONYMS, group_with, read_yaml, typed, unknown_key
from bcfusion.errors import ConfigError
from bcfusion.nearest import nearest
from bcfusion.run.layout import RunDir

#: settings of a verb itself, which are typed as keys are
OWN_KEYS = {"evaluate": ("split", "steps", "output", "group_by"), "check": ("check.step",)}


def refuse_mistyped(argv: Sequence[str], options: Collection[str], verb: str, extra_dirs: Sequence[Path]) -> None:
    """Raise an error for the first argument that cannot be meant as it is typed.

    Args:
        argv: arguments after the verb.
        options: the options that exist, with their dashes.
        verb: the verb.
        extra_dirs: folders of the user's own group members.

    Raises:
        ConfigError: with the argument as it should be typed.
    """
    root = {*groups(extra_dirs), *read_yaml(conf_dir() / ROOT_CONFIG), *OWN_KEYS.get(verb, ())}
    for at, argument in enumerate(argv):
        rest = argv[at + 1 :]
        problem = (
            typographic(argument, options)
            or _spaces(argument, rest, root, extra_dirs)
            or _open_bracket(argument, rest)
            or _file_of_member(argument, extra_dirs)
            or _option(argument, rest, options, root, extra_dirs)
        )
        if problem:
            raise ConfigError(problem.splitlines())


def _spaces(argument: str, rest: Sequence[str], root: Collection[str], extra_dirs: Sequence[Path]) -> str | None:
    """Find ``key = value``, ``key =value``, ``key= value``, ``key value``, and a key without any value."""

    def plain(word: str) -> bool:
        return bool(word) and "=" not in word and word[0] not in "-~"

    following, after = [*rest, "", ""][:2]
    words = [argument, following]
    if plain(argument) and following == "=" and after:
        words.append(after)
    elif argument in root and plain(following):
        return f"{argument} {following}: no =\nwrite {shlex.quote(f'{argument}={following}')}"
    elif re.fullmatch(r"[^=-][^=]*=", argument) and not plain(following):
        head = f"{argument}: has no value, perhaps because a variable of the shell is not set\n"
        if argument[:-1] in groups(extra_dirs):
            return f"{head}available: {', '.join(group_members(argument[:-1], extra_dirs))}"
        return f"{head}write {argument}null for none, {shlex.quote(argument + chr(34) * 2)} for an empty text"
    elif not (plain(argument) and re.match("=.", following)) and not (
        re.fullmatch(r"[^=-][^=]*=", argument) and plain(following)
    ):
        return None
    return f"{' '.join(words)}: no spaces around =\nwrite {shlex.quote(''.join(words))}"


def _open_bracket(argument: str, rest: Sequence[str]) -> str | None:
    """Find a list or mapping that the shell has split at its spaces, or that is not closed."""
    if "=" not in argument or _balance(argument) == 0:
        return None
    whole = argument
    for word in rest:
        whole += f" {word}"
        if _balance(whole) == 0 and "=" not in word.partition("{")[0]:
            return f"{argument}: the shell splits arguments at spaces\nwrite {shlex.quote(whole)}"
    if _balance(argument) > 0:
        closed = argument + {"[": "]", "{": "}"}.get(re.sub(r"[^\[{]", "", argument)[-1:], "]")
        hint = f"\nwrite {shlex.quote(closed)}" if _balance(closed) == 0 else ""
        return f"{argument}: a bracket is not closed{hint}"
    return f"{argument}: a bracket is closed that was not opened"


def _file_of_member(argument: str, extra_dirs: Sequence[Path]) -> str | None:
    """Find the name of a file, or of a part that members include, in the place of a member."""
    group, _, member = argument.lstrip("+").partition("=")
    if group not in groups(extra_dirs) or not re.fullmatch(r"_\w+|[^/\[]*\.ya?ml", member):
        return None
    if member.startswith("_"):
        members = ", ".join(group_members(group, extra_dirs))
        return f"{argument}: {member} is a part of the members of {group}, not one of them\navailable: {members}"
    return member_from_path(group, member, extra_dirs)


def _balance(text: str) -> int:
    """Return how many more brackets and braces are opened than closed, outside of quotes."""
    bare = re.sub(r"\\.|'[^']*'|\"[^\"]*\"", "", text)
    return sum(bare.count(opening) - bare.count(closing) for opening, closing in ("[]", "{}"))


def _option(
    argument: str, rest: Sequence[str], options: Collection[str], root: Collection[str], extra_dirs: Sequence[Path]
) -> str | None:
    """Find an option that does not exist, most often a key with dashes in front."""
    option, equals, value = argument.partition("=")
    if not re.match(r"--?[A-Za-z]", argument) or option in options:
        return None
    name = option.lstrip("-").replace("-", "_")
    following = rest[0] if rest and "=" not in rest[0] and not rest[0].startswith("-") else None
    text = value if equals else following
    given = argument if equals or following is None else f"{option} {following}"
    close = nearest(option, options, cutoff=0.75)
    if name.partition(".")[0] not in root:
        if close:
            return f"there is no option {option}; did you mean '{close}'?"
        if not option.startswith("--") and any(option.startswith(o) for o in options if len(o) == 2):
            return None  # an option of one letter with its value, such as -cjob
        if name in SYNONYMS:
            name = SYNONYMS[name]
        else:
            meant = unknown_key(name, text, composed([], extra_dirs) or {}, extra_dirs)
            if meant is None:
                return f"there is no option {option}; see --help"
            name = meant.rpartition("write ")[2].partition("=")[0] if "\nwrite" in meant else name
    return f"{given}: keys are typed without dashes\nwrite {typed(name, text if text is not None else 'VALUE')}"


def bare_word(word: str, verb: str, extra_dirs: Sequence[Path]) -> str:
    """Return one or two lines about an argument that has no ``=``."""
    path = Path(word)
    if word == "help":
        return f"help: an option here\nwrite bcfusion {verb} --help"
    if word in ("bcfusion", verb):
        return f"{word}: typed twice\nwrite bcfusion {verb} experiment=NAME"
    if word in VERBS:
        return f"{word}: a verb of its own\nwrite bcfusion {word} ..., or see bcfusion {verb} --help"
    if word in groups(extra_dirs):
        return f"{word}: a group; write {word}=NAME\navailable: {', '.join(group_members(word, extra_dirs))}"
    if word in read_yaml(conf_dir() / ROOT_CONFIG):
        return f"{word}: a key without its value\nwrite {word}=VALUE"
    if found := group_with(word, extra_dirs):
        return f"cannot read the argument '{word}': a member of {' and '.join(found)}\nwrite {found[0]}={word}"
    if path.exists() and RunDir.around(path) is not None:
        if verb == "evaluate":
            return f"{word}: evaluate takes one model at a time; bcfusion compare puts several into one table"
        return f"{word}: a run\nwrite bcfusion train resume={word} to continue it, bcfusion evaluate {word} to score it"
    if path.is_dir():
        return f"{word}: a folder\nwrite data=folder {typed('data.root', word)} for a corpus of speech in it"
    if path.suffix in (".jsonl", ".csv"):
        return f"{word}: write data=manifest {typed('data.path', word)} for the corpus of a manifest"
    if path.suffix in (".yaml", ".yml"):
        return member_from_path("experiment", word, extra_dirs)
    if "/" in word or "\\" in word:
        return (
            f"cannot read the argument '{word}': a path without its key\n"
            f"write {typed('resume', word)} to continue a run, data=folder {typed('data.root', word)} for a corpus"
        )
    near = nearest(word, [name for group in ("experiment", "recipe") for name in group_members(group, extra_dirs)])
    hint = f"; did you mean {group_with(near, extra_dirs)[0]}={near}?" if near and len(word) > 2 else ""
    return (
        f"cannot read the argument '{word}'{hint}\n"
        "write key=value, with quotes around values that hold special characters, as in 'key=\"a, b\"'"
    )


def member_from_path(group: str, value: str, extra_dirs: Sequence[Path]) -> str:
    """Return two lines about a path where the name of a member of ``group`` belongs."""
    path = Path(value)
    name = path.stem if path.suffix in (".yaml", ".yml") else path.name
    head = f"{group}={value}: a path; name the member without folder and suffix\n"
    if name in group_members(group, extra_dirs):
        return f"{head}write {group}={name}"
    folder = path.parent.parent if path.parent.name == group else None
    if path.is_file() and folder is not None:
        return f"{head}write --config-dir {shlex.quote(str(folder))} {group}={name}"
    if path.is_file():
        return f"{head}put the file into conf/{group}/ and write {group}={name}"
    return f"{head}there is no '{name}' in {group}; bcfusion train --help lists all"
