"""Every command that the documentation shows can be typed: its verb, its options, its keys and members exist."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from bcfusion.cli import HYDRA_VERBS, VERBS, main
from bcfusion.commands.shared.mistyped import OWN_KEYS
from bcfusion.configuration.compose import register_resolvers
from bcfusion.configuration.paths import conf_dir
from bcfusion.search.sweeper import register_sweeper

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "recipes").glob("*/*.md"))]
OWN = ("helmet", "frame_mapper", "labelled_snr")  # parts of the project of docs/extending.md, whose test runs them
PLACES = {"$experiment": "identity", "$sensor": "accelerometer", "$x": "1"}
OF_EVALUATE = OWN_KEYS["evaluate"]  # settings of the verb itself, no keys
RECIPES = ("bone_to_air", "fusion", "bandwidth_extension")  # of the RUN that is evaluated
# an evaluation of folders or of scores has options and no run; a configuration of a run needs that run
WITHOUT_RUN = ("--enhanced", "--scores", "--sets", "--config-name")


def commands() -> Iterator[tuple[str, str]]:
    """Yield page and command: those in blocks of code, and those in a sentence between backticks."""
    for page in PAGES:
        text = re.sub(r"\\\n\s*", "", page.read_text())
        shown = re.findall(r"^(?: {4}|\$ )?(?:\w+=\S+ |taskset -c \d )*((?:bcfusion|python scripts/).*)$", text, re.M)
        shown += re.findall(r"`((?:bcfusion|python scripts/)[^`]+)`", text)
        for command in shown:
            words = command.partition(" #")[0].split()
            if len(words) > 1 and (words[0] == "python" or words[1] in VERBS):
                yield page.relative_to(ROOT).as_posix(), " ".join(words)


def typed(start: str, *verbs: str) -> list[tuple[str, str]]:
    found = dict.fromkeys((page, text) for page, text in commands() if text.startswith(start))
    return [(page, text) for page, text in found if not verbs or text.split()[1] in verbs]


def arguments(text: str) -> list[str]:
    for place, value in PLACES.items():
        text = text.replace(place, value)
    return [word for word in shlex.split(text)[2:] if word != "..."]


# ---------------------------------------------------------------- keys and members


def overrides(words: list[str]) -> tuple[list[str], list[str]]:
    """Return the overrides of one job, and the folders of --config-dir."""
    plain, folders = [], []
    rest = iter(words)
    for word in rest:
        if word == "--config-dir":
            folders.append(str(ROOT / next(rest)))
        elif word == "--cfg":
            next(rest)
        elif word not in ("-m", "--help", "-sc"):
            plain.append(word)
    jobs = []
    for override in OverridesParser.create().parse_overrides(plain):
        if not override.is_sweep_override():
            jobs.append(str(override.input_line))
        elif override.is_choice_sweep():
            jobs.append(f"{override.get_key_element()}={next(override.sweep_string_iterator())}")
        else:
            jobs.append(f"{override.get_key_element()}=1")
    return jobs, folders


@cache
def composes(job: tuple[str, ...]) -> str:
    """Return what is wrong with the configuration of a job, or an empty string."""
    register_resolvers()
    register_sweeper()
    try:
        with initialize_config_dir(str(conf_dir()), version_base="1.3"):
            compose("train", list(job), return_hydra_config=True)
    except HydraException as error:
        return str(error)
    return ""


def of_keys() -> list[tuple[str, str]]:
    found = typed("bcfusion ", *HYDRA_VERBS)
    return [(page, text) for page, text in found if not any(name in text for name in (*WITHOUT_RUN, *OWN))]


@pytest.mark.slow
@pytest.mark.parametrize(("page", "command"), of_keys())
def test_the_keys_and_members_of_a_command_exist(page: str, command: str) -> None:
    words = arguments(command)
    launcher = re.search(r"hydra/launcher=([a-z]+)", command)
    if launcher:
        pytest.importorskip(f"hydra_plugins.hydra_{launcher[1]}_launcher")
    bases = [""]
    if command.split()[1] == "evaluate":
        words = [word for word in words[1:] if word.partition("=")[0] not in OF_EVALUATE]
        bases = [f"recipe={recipe}" for recipe in RECIPES]
    if "resume=RUN" in words:  # the choices are those of the run
        bases += ["callbacks=[early_stopping]"]
    job, folders = overrides(words)
    search = [f"hydra.searchpath=[{','.join(f'file://{folder}' for folder in folders)}]"] if folders else []
    problems = [composes((*search, *filter(None, [base]), *job)) for base in bases]
    assert "" in problems, (page, command, problems)


def test_a_key_that_is_not_there_is_found() -> None:
    assert composes(("optimizer.lr=1e-3",)) == ""
    assert "optimiser" in composes(("optimiser.lr=1e-3",))
    assert "seanett" in composes(("experiment=seanett",))


# ---------------------------------------------------------------- options


@cache
def help_of(*words: str) -> str:
    """Return what ``bcfusion WORDS --help`` prints."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
        main([*words, "--help"])
    return out.getvalue()


@pytest.mark.parametrize(("page", "command"), sorted({*typed("bcfusion ")} - {*of_keys()}))
def test_the_options_of_a_command_exist(page: str, command: str) -> None:
    verb, words = command.split()[1], arguments(command)
    named = verb == "prepare" and words and not words[0].startswith("-") and words[0] not in ("CORPUS", "helmet.corpus")
    text = help_of(verb, words[0]) if named else help_of(verb, *(["folder"] if verb == "prepare" else []))
    for option in (word for word in words if word.startswith("--") and word != "--help"):
        assert re.search(rf"(?<![\w-]){option}(?![\w-])", text), (page, command, option)


@pytest.mark.parametrize(("page", "command"), typed("python scripts/"))
def test_the_options_of_a_script_exist(page: str, command: str) -> None:
    source = (ROOT / command.split()[1]).read_text()
    for option in re.findall(r" (--[\w-]+)", command):
        assert f'"{option}"' in source, (page, command, option)


# ---------------------------------------------------------------- README


def test_the_readme_is_short_and_its_table_has_every_verb() -> None:
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 90
    counts = [len(re.findall(pattern, text, re.M)) for pattern in (r"^\| -", r"^!\[", r"^```")]
    assert counts == [2, 1, 4], "a table of scores and one of verbs, one picture, two blocks of commands"
    verbs = text[text.index("| verb |") :]
    assert set(re.findall(r"^\| `(\w+)[^`]*` \|", verbs, flags=re.MULTILINE)) == VERBS.keys()


def test_each_of_the_two_commands_of_the_readme_is_one_line_that_installs_and_ci_takes_the_second_from_there() -> None:
    text = (ROOT / "README.md").read_text()
    lines = re.findall(r"^```\n(.*?)\n```$", text, flags=re.DOTALL | re.MULTILINE)
    assert [line.partition(" && ")[2] for line in lines] == ["bcfusion train experiment=seanet", "pytest"]
    assert all(line.startswith("pip install -c constraints.txt ") for line in lines)
    ci = (ROOT / ".ci" / "run").read_text()
    pattern = re.search(r"grep -E '([^']+)' README\.md", ci)
    assert pattern is not None
    assert [line for line in text.splitlines() if re.search(pattern[1], line)] == [lines[1]]
