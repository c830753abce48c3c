"""``bcfusion init``: copy a shipped experiment as the start of your own."""

from __future__ import annotations

import argparse
import os
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

from bcfusion.commands import exit_status
from bcfusion.commands.shared.arguments import verb_parser
from bcfusion.configuration.machine import CPU
from bcfusion.configuration.paths import conf_dir, group_members
from bcfusion.errors import ConfigError
from bcfusion.files import write_text
from bcfusion.nearest import did_you_mean

HELP = """\
Copy a shipped experiment to edit it, with its settings for a CPU, if it has any. Without a name, list the shipped
experiments.

examples:
  bcfusion init --list
  bcfusion init seanet                                   write ./conf/experiment/my_seanet.yaml
  bcfusion init seanet --to conf/experiment/wide.yaml    then: bcfusion train experiment=wide
"""


def main(argv: list[str]) -> None:
    """Run the verb.

    Raises:
        ConfigError: there is no such experiment, or it may not be written where it was asked to.
        WriteError: the file cannot be written.
    """
    arguments = _parser().parse_args(argv)
    if arguments.list or arguments.experiment is None:
        names = group_members("experiment")
        width = max(map(len, names)) + 2
        for name in names:
            print(f"{name:<{width}}{_summary(conf_dir() / 'experiment' / f'{name}.yaml')}")
        return
    source = _shipped(arguments.experiment)
    target = arguments.to or Path("conf", "experiment", f"my_{arguments.experiment}.yaml")
    _check_target(target, arguments.force)
    command = f"bcfusion train {shlex.quote(f'experiment={target.stem}')}{_config_dir_option(target)}"
    write_text(target, _with_command(source.read_text(encoding="utf-8"), command))
    print(f"{target}: edit it, then run\n  {command}")
    for name, text in _for_cpu(source.stem, target.stem):
        file = target.parent / CPU / f"{name}.yaml"
        write_text(file, _with_command(text, f"{command} machine={CPU}"))
        print(f"{file}: what a CPU needs instead, used when there is no GPU or with machine={CPU}")


def _parser() -> argparse.ArgumentParser:
    parser = verb_parser("init", HELP)
    parser.add_argument("experiment", nargs="?", help="a shipped experiment")
    parser.add_argument("--to", type=Path, metavar="FILE", help="file to write, in a folder named experiment")
    parser.add_argument("--list", action="store_true", help="print the shipped experiments and stop")
    parser.add_argument("--force", action="store_true", help="overwrite an existing file")
    return parser


def _shipped(name: str) -> Path:
    members = group_members("experiment")
    if name not in members:
        meant = Path(name.rpartition("=")[2]).stem  # experiment=NAME, or its file
        hint = f"; write bcfusion init {meant}" if meant in members else did_you_mean(meant, members)
        raise ConfigError([f"there is no shipped experiment '{name}'{hint}", f"available: {', '.join(members)}"])
    return conf_dir() / "experiment" / f"{name}.yaml"


def _check_target(target: Path, force: bool) -> None:
    if target.suffix != ".yaml" or target.absolute().parent.name != "experiment":
        raise ConfigError([f"--to {target}: must be a .yaml file in a folder named experiment"])
    shipped = conf_dir() / "experiment" / target.name
    if os.path.exists(shipped):
        raise ConfigError(
            [f"{target}: '{target.stem}' is a shipped experiment, which cannot be replaced; choose another name"]
        )
    for file in (target, target.parent / CPU / target.name):
        if os.path.exists(file) and not force:
            raise ConfigError([f"{file} exists; --force overwrites it, --to FILE writes elsewhere"])


def _config_dir_option(target: Path) -> str:
    """Return the option that a file outside ``./conf`` needs; members of ``./conf`` are found without one."""
    folder = target.absolute().parent.parent
    return "" if folder == Path("conf").absolute() else f" --config-dir {shlex.quote(str(target.parent.parent))}"


def _with_command(text: str, command: str) -> str:
    """Replace the command at the top, which is the one of the copied experiment."""
    lines = text.splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith("# bcfusion "))
    lines[at] = f"# {command}"
    return "\n".join(lines) + "\n"


def _for_cpu(shipped: str, own: str, name: str | None = None) -> Iterator[tuple[str, str]]:
    """Yield name and text of the files with the settings for a CPU; none if the experiment has none.

    They build on the copy instead of the shipped experiment, so that what is edited there has an effect. Settings that
    start from those of another experiment need a copy of these too, as a part.
    """
    file = conf_dir() / "experiment" / CPU / f"{shipped}.yaml"
    if not file.is_file():
        return
    text = file.read_text(encoding="utf-8")
    if start := re.search(rf"^  - /experiment/{CPU}/(\w+)$", text, re.MULTILINE):
        part = f"_{own}_{start[1]}"
        yield from _for_cpu(start[1], own, part)
        text = text.replace(start[0], f"  - /experiment/{CPU}/{part}", 1)
    else:
        text = text.replace(f"  - /experiment/{shipped}\n", f"  - /experiment/{own}\n", 1)
    yield name or own, text


def _summary(file: Path) -> str:
    """Return the first comment that is neither the package nor the command."""
    comments = (line[1:].strip() for line in file.read_text(encoding="utf-8").splitlines() if line.startswith("#"))
    return next((text for text in comments if not text.startswith(("@package", "bcfusion "))), "")


if __name__ == "__main__":
    sys.exit(exit_status(main, sys.argv[1:]))
