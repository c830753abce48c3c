"""Arguments that Hydra would misread or refuse without saying how to type them: dashes, quotes, spaces, bare words."""

from __future__ import annotations

import re
import shlex
from collections.abc import Collection, Sequence
from pathlib import Path

from bcfusion.commands.shared.composition import composed
from bcfusion.commands.verbs import VERBS
from bcfusion.configuration.paths import ROOT_CONFIG, conf_dir, group_members, groups
from bcfusion.configuration.suggestions import SYNONYMS, group_with, read_yaml, typed, unknown_key
from bcfusion.errors import ConfigError
from bcfusion.nearest import nearest
from bcfusion.run.layout import RunDir

#: settings of a verb itself, which are typed as keys are
OWN_KEYS = {"evaluate": ("split", "output", "group_by")}
DASHES = "\u2010\u2011\u2012\u2013\u2014\u2015\u2212"
QUOTES = "\u201c\u201d\u201e\u2018\u2019\u201a\u00ab\u00bb"
SPACES = "\u00a0\u2007\u202f\u200b"


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
    for at, argument in enumerate(argv):
        rest = argv[at + 1 :]
        problem = (
            _typographic(argument, options)
            or _spaces(argument, rest)
            or _open_bracket(argument, rest)
            or _option(argument, rest, options, verb, extra_dirs)
        )
        if problem:
            raise ConfigError(problem.splitlines())


def _typographic(argument: str, options: Collection[str]) -> str | None:
    """Find characters that a word processor or a web page has put in the place of those of a keyboard."""
    if argument[:1] in DASHES and argument:
        name, equals, value = argument.lstrip("-" + DASHES).partition("=")
        known = [option for option in options if option.lstrip("-") == name]
        plain = (known[0] if known else name) + equals + value
        return f"{argument}: begins with a dash that is not the - of the keyboard\nwrite {shlex.quote(plain)}"
    key, _, value = argument.partition("=")
    ends = {argument[:1], argument[-1:], value[:1]}
    if any(end and end in QUOTES for end in ends):
        plain = argument.translate({ord(quote): None for quote in QUOTES})
        return f"{argument}: has quotation marks that are not those of the keyboard\nwrite {shlex.quote(plain)}"
    if any(space in key or argument.endswith(space) for space in SPACES):
        plain = argument.translate({ord(space): None for space in SPACES})
        return f"{argument}: has a space that cannot be seen\nwrite {shlex.quote(plain)}"
    return None


def _spaces(argument: str, rest: Sequence[str]) -> str | None:
    """Find ``key = value``, ``key =value`` and ``key= value``."""

    def plain(word: str) -> bool:
        return bool(word) and "=" not in word and word[0] not in "-~"

    following, after = [*rest, "", ""][:2]
    words = [argument, following]
    if plain(argument) and following == "=" and after:
        words.append(after)
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
    what = "a bracket is not closed" if _balance(argument) > 0 else "a bracket is closed that was not opened"
    return f"{argument}: {what}"


def _balance(text: str) -> int:
    """Return how many more brackets and braces are opened than closed, outside of quotes."""
    bare = re.sub(r"\\.|'[^']*'|\"[^\"]*\"", "", text)
    return sum(bare.count(opening) - bare.count(closing) for opening, closing in ("[]", "{}"))


def _option(
    argument: str, rest: Sequence[str], options: Collection[str], verb: str, extra_dirs: Sequence[Path]
) -> str | None:
    """Find an option that does not exist, most often a key with dashes in front."""
    option, equals, value = argument.partition("=")
    if not re.match(r"--?[A-Za-z]", argument) or option in options:
        return None
    name = option.lstrip("-").replace("-", "_")
    root = {*groups(extra_dirs), *read_yaml(conf_dir() / ROOT_CONFIG), *OWN_KEYS.get(verb, ())}
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
    if word in ("bcfusion", verb):
        return f"{word}: typed twice\nwrite bcfusion {verb} experiment=NAME"
    if word in VERBS:
        return f"{word}: a verb of its own\nwrite bcfusion {word} ..., or see bcfusion {verb} --help"
    if found := group_with(word, extra_dirs):
        return f"cannot read the argument '{word}': a member of {' and '.join(found)}\nwrite {found[0]}={word}"
    if path.exists() and RunDir.around(path) is not None:
        return f"{word}: a run\nwrite bcfusion train resume={word} to continue it, bcfusion evaluate {word} to score it"
    if path.is_dir():
        return f"{word}: a folder\nwrite data=folder {typed('data.root', word)} for a corpus of speech in it"
    if path.suffix in (".jsonl", ".csv"):
        return f"{word}: write data=manifest {typed('data.path', word)} for the corpus of a manifest"
    if path.suffix in (".yaml", ".yml"):
        return member_from_path("experiment", word, extra_dirs)
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
