"""Locations of configuration files: the shipped folder, the user's own, the groups and their members.

Importing this module loads neither OmegaConf nor Hydra, so that the command line answers at once.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from bcfusion.errors import ConfigError

ROOT_CONFIG = "train.yaml"


def conf_dir() -> Path:
    """Return the absolute path of the shipped configuration: inside the package in a wheel, beside it in a checkout.

    Raises:
        ConfigError: neither exists, as in a package that was copied without its configuration.
    """
    package = Path(__file__).resolve().parent.parent
    for folder in (package / "conf", package.parent / "conf"):
        if (folder / ROOT_CONFIG).is_file():
            return folder
    raise ConfigError([f"{package / 'conf'}: the configuration files of bcfusion are missing; install bcfusion again"])


def user_conf_dir(cwd: Path) -> Path | None:
    """Return the user's own ``conf`` folder in ``cwd``, or None if there is none or it is the shipped one."""
    folder = cwd / "conf"
    return folder.resolve() if folder.is_dir() and folder.resolve() != conf_dir() else None


def group_members(group: str, extra_dirs: Iterable[Path] = ()) -> list[str]:
    """Return the names that ``group=`` accepts, sorted: the group's YAML files in the shipped and further folders.

    A file whose name begins with an underscore is not a member, but a part that members include.
    """
    folders = [folder / group for folder in (conf_dir(), *extra_dirs)]
    return sorted({file.stem for folder in folders for file in folder.glob("[!_]*.yaml")})


def groups(extra_dirs: Iterable[Path] = ()) -> list[str]:
    """Return the names of all configuration groups, sorted, without Hydra's own."""
    folders = [group for folder in (conf_dir(), *extra_dirs) for group in folder.iterdir() if group.is_dir()]
    return sorted({folder.name for folder in folders if folder.name != "hydra" and any(folder.glob("*.yaml"))})
