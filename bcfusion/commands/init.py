"""``bcfusion init``: a shipped experiment as the beginning of one's own."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from bcfusion.commands import exit_status
from bcfusion.configuration.paths import conf_dir, group_members
from bcfusion.errors import ConfigError
from bcfusion.nearest import nearest

HELP = """\
Copy a shipped experiment to edit it. Without a name: list the shipped experiments.

examples:
  bcfusion init --list
  bcfusion init seanet                                   makes ./conf/experiment/my_seanet.yaml
  bcfusion init seanet --to conf/experiment/wide.yaml    then: bcfusion train experiment=wide
"""


def main(argv: list[str]) -> None:
    """Runs the verb.

    Raises:
        ConfigError: there is no such experiment, or the file cannot stand where it was asked to.
    """
    arguments = _parser().parse_args(argv)
    if arguments.list or arguments.experiment is None:
        for name in group_members("experiment"):
            print(f"{name:<24}{_summary(conf_dir() / 'experiment' / f'{name}.yaml')}")
        return
    source = _shipped(arguments.experiment)
    target = arguments.to or Path("conf", "experiment", f"my_{arguments.experiment}.yaml")
    _check_target(target, arguments.force)
    command = f"bcfusion train experiment={target.stem}{_config_dir_option(target)}"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(_with_command(source.read_text(encoding="utf-8"), command), encoding="utf-8")
    print(f"{target}: edit it, then run\n  {command}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="bcfusion init", description=HELP, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("experiment", nargs="?", help="a shipped experiment")
    parser.add_argument("--to", type=Path, metavar="FILE", help="where to, in a folder named experiment")
    parser.add_argument("--list", action="store_true", help="print the shipped experiments and stop")
    parser.add_argument("--force", action="store_true", help="overwrite the file if it is there")
    return parser


def _shipped(name: str) -> Path:
    members = group_members("experiment")
    if name not in members:
        near = nearest(name, members)
        hint = f"; did you mean '{near}'?" if near else ""
        raise ConfigError([f"there is no shipped experiment '{name}'{hint}", f"available: {', '.join(members)}"])
    return conf_dir() / "experiment" / f"{name}.yaml"


def _check_target(target: Path, force: bool) -> None:
    if target.suffix != ".yaml" or target.absolute().parent.name != "experiment":
        raise ConfigError([f"--to {target}: must be a .yaml file in a folder named experiment, where it is looked for"])
    shipped = conf_dir() / "experiment" / target.name
    if shipped.exists():
        raise ConfigError(
            [f"{target}: '{target.stem}' is a shipped experiment, which it cannot replace; choose another name"]
        )
    if target.exists() and not force:
        raise ConfigError([f"{target} is there already; --force overwrites it, --to FILE writes elsewhere"])


def _config_dir_option(target: Path) -> str:
    """What must be typed besides, for a file that does not lie in ``./conf``, which is found by itself."""
    folder = target.absolute().parent.parent
    return "" if folder == Path("conf").absolute() else f" --config-dir {target.parent.parent}"


def _with_command(text: str, command: str) -> str:
    """The file with its own command at the top, in place of that of the experiment it was copied from."""
    lines = text.splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith("# bcfusion "))
    lines[at] = f"# {command}"
    return "\n".join(lines) + "\n"


def _summary(file: Path) -> str:
    """The first comment that is neither the package nor the command."""
    comments = (line[1:].strip() for line in file.read_text(encoding="utf-8").splitlines() if line.startswith("#"))
    return next((text for text in comments if not text.startswith(("@package", "bcfusion "))), "")


if __name__ == "__main__":
    sys.exit(exit_status(main, sys.argv[1:]))
