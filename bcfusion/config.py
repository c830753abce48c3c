"""Where the configuration lives and the small functions around it: group members, run directories, recorded overrides.

Importing this module loads neither OmegaConf nor Hydra, so that the command line can answer at once.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bcfusion.errors import BcfusionError, ConfigError

if TYPE_CHECKING:
    from omegaconf import DictConfig

ROOT_CONFIG = "train.yaml"
LAST_CHECKPOINT = Path("checkpoints") / "last.ckpt"

# ---------------------------------------------------------------- the files of the configuration


def conf_dir() -> Path:
    """Absolute path of the shipped configuration: inside the package in a wheel, beside it in a checkout.

    Raises:
        ConfigError: neither is there, as in a package that was copied without its configuration.
    """
    package = Path(__file__).resolve().parent
    for folder in (package / "conf", package.parent / "conf"):
        if (folder / ROOT_CONFIG).is_file():
            return folder
    raise ConfigError([f"{package / 'conf'}: the configuration files of bcfusion are missing; install bcfusion again"])


def user_conf_dir(cwd: Path) -> Path | None:
    """The user's own ``conf`` folder in ``cwd``, or None where there is none or where it is the shipped one."""
    folder = cwd / "conf"
    return folder.resolve() if folder.is_dir() and folder.resolve() != conf_dir() else None


def group_members(group: str, extra_dirs: Iterable[Path] = ()) -> list[str]:
    """Names that may stand behind ``group=``, sorted: the group's YAML files in the shipped and further folders.

    A file whose name begins with an underscore is a part that others include.
    """
    folders = [folder / group for folder in (conf_dir(), *extra_dirs)]
    return sorted({file.stem for folder in folders for file in folder.glob("[!_]*.yaml")})


def groups(extra_dirs: Iterable[Path] = ()) -> list[str]:
    """Names of all configuration groups, sorted, without Hydra's own."""
    folders = [group for folder in (conf_dir(), *extra_dirs) for group in folder.iterdir() if group.is_dir()]
    return sorted({folder.name for folder in folders if folder.name != "hydra" and any(folder.glob("*.yaml"))})


def nearest(name: str, options: Iterable[str]) -> str | None:
    """The option that ``name`` was most likely meant to be, or None where nothing is close."""
    by_lower = {option.lower(): option for option in options}
    close = get_close_matches(name.lower(), by_lower, n=1, cutoff=0.6)
    if close:
        return by_lower[close[0]]
    begun = sorted(option for option in by_lower if len(name) >= 2 and option.startswith(name.lower()))
    return by_lower[begun[0]] if begun else None


# ---------------------------------------------------------------- resolvers


def register_resolvers() -> None:
    """Makes our resolvers (``${n_sensors:...}`` and so on) known to OmegaConf; may be repeated."""
    from omegaconf import OmegaConf

    OmegaConf.register_new_resolver("n_sensors", len, replace=True)
    OmegaConf.register_new_resolver("divide", divide, replace=True)
    OmegaConf.register_new_resolver("bands_up_to", bands_up_to, replace=True)
    # Cached: with resume=auto the newest run is looked up once, not anew whenever the key is read.
    OmegaConf.register_new_resolver("run_dir", run_dir, replace=True, use_cache=True)


def divide(numerator: float, denominator: float) -> float:
    """The quotient; an int where two ints divide without remainder, so that sample counts and rates stay whole."""
    if isinstance(numerator, int) and isinstance(denominator, int) and numerator % denominator == 0:
        return numerator // denominator
    return numerator / denominator


def bands_up_to(frequency: float, sample_rate: int, bands: int) -> int:
    """How many of ``bands`` equal bands, from the lowest, reach ``frequency`` in Hz; at least one, at most all."""
    return min(bands, max(1, math.ceil(2 * bands * frequency / sample_rate)))


def run_dir(root: str, resume: str | None, recipe: str | None, experiment: str | None, now: str) -> str:
    """The directory of a run.

    Args:
        root: directory of all runs.
        resume: None for a new run; ``auto`` for the run below ``root/recipe/experiment`` whose
            ``checkpoints/last.ckpt`` was written last, or a new run where there is none; else a run directory, its
            checkpoints folder or a checkpoint in it.
        recipe, experiment: names of the chosen group members; None stands as ``default``.
        now: time stamp that names a new run; given, so that every reader of one process gets the same directory. In
            a step of several processes that srun started, the numbers of job and step name it.

    Raises:
        ConfigError: ``resume`` is a path, but not that of a run.
    """
    runs = Path(root) / _choice(recipe) / _choice(experiment)
    if int(os.environ.get("SLURM_STEP_NUM_TASKS", 1)) > 1:  # srun's must agree, and each looks at its own clock
        now = f"slurm-{os.environ['SLURM_JOB_ID']}.{os.environ['SLURM_STEP_ID']}"
    if resume is None:
        return str(runs / now)
    if resume == "auto":
        resumable = sorted(runs.glob(f"*/{LAST_CHECKPOINT}"), key=lambda path: (path.stat().st_mtime_ns, str(path)))
        return str(resumable[-1].parent.parent if resumable else runs / now)
    return str(find_run(resume))


def find_run(path: str | Path) -> Path:
    """The run directory that ``path`` means: itself, or the one around a checkpoints folder or a checkpoint.

    Raises:
        ConfigError: there is nothing at ``path``, or it belongs to no run.
    """
    path = Path(path)
    if not path.exists():
        raise ConfigError([f"resume: there is no {path}; give a run directory, or a checkpoint inside one, or auto"])
    if path.is_file() and path.suffix == ".ckpt" and path.name != LAST_CHECKPOINT.name:
        raise ConfigError(
            [
                f"resume: {path} holds weights, not the state of a run: give {path.with_name(LAST_CHECKPOINT.name)}, "
                f"or start anew with init_from={path}"
            ]
        )
    if path.is_file():
        run = path.parent.absolute().parent
    else:
        run = path.absolute().parent if path.name == "checkpoints" else path
    if not any((run / "checkpoints").glob("*.ckpt")):
        raise ConfigError([f"resume: {path} is no run: a run directory holds checkpoints/last.ckpt"])
    return run


def _choice(name: str | None) -> str:
    return "default" if name in (None, "null", "") else str(name)


#: groups from which several members are chosen, each keyed by its own name
LIST_GROUPS = ("discriminators", "losses", "metrics")


def drop_unchosen(cfg: DictConfig, extra_dirs: Iterable[Path] = ()) -> list[str]:
    """Removes settings for members of list groups that are not chosen, in place.

    An experiment sets the weights of its losses; with ``losses=[mr_stft]`` typed behind it, or in an experiment that
    builds on it, those of the others have nothing to apply to. Names that are no members stay, and are reported when
    the configuration is checked.

    Returns:
        What was removed, as ``GROUP.NAME``.
    """
    from omegaconf import DictConfig, open_dict

    removed = []
    for group in LIST_GROUPS:
        chosen = cfg.get(group)
        members = group_members(group, extra_dirs)
        for name, node in list(chosen.items()) if isinstance(chosen, DictConfig) else ():
            if name in members and isinstance(node, DictConfig) and "_target_" not in node:
                with open_dict(chosen):
                    del chosen[name]
                removed.append(f"{group}.{name}")
    return removed


# ---------------------------------------------------------------- values


def plain(cfg: DictConfig) -> dict[str, Any]:
    """``cfg`` as plain dicts, lists and scalars with every interpolation resolved, fit for YAML and for checkpoints.

    Raises:
        ConfigError: a mandatory value is missing or an interpolation leads nowhere.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        container = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        where = f"{error.full_key}: " if error.full_key else ""
        raise ConfigError([f"{where}{str(error).splitlines()[0]}"]) from error
    if not isinstance(container, dict):
        raise ConfigError([f"the configuration is a {type(container).__name__}, not a mapping"])
    return {str(key): value for key, value in container.items()}


def build(node: Any, **arguments: Any) -> Any:
    """Instantiates a ``_target_`` node; further arguments are added to those of the node.

    Raises:
        BcfusionError: the class refused its arguments; Hydra would wrap what it said.
    """
    from hydra.errors import InstantiationException
    from hydra.utils import instantiate

    try:
        return instantiate(node, **arguments)
    except InstantiationException as error:
        cause = error.__cause__
        if isinstance(cause, BcfusionError):
            raise cause from None
        if isinstance(cause, TypeError | ValueError):  # what constructors say of unsuitable arguments
            raise ConfigError([f"{node['_target_']}: {cause}"]) from error
        raise


# ---------------------------------------------------------------- overrides of an earlier run

_OVERRIDE = re.compile(r"(?P<prefix>~|\+{0,2})(?P<key>[^=]*)(?P<value>=.*)?", re.DOTALL)


def merge_overrides(recorded: Sequence[str], given: Sequence[str]) -> list[str]:
    """Overrides with which an earlier run goes on: its own, as far as those typed now leave them standing.

    What is given wins: it drops the recorded override of the same key and of every key beneath it. Choosing
    ``data=folder`` therefore drops a recorded ``data=pairs`` together with its ``data.air=...``, and ``~losses.l1`` a
    recorded ``losses.l1.weight=2``. A key that only the run had added (``+key=1``) can be given without its ``+``.

    Args:
        recorded: overrides that the run was started with. given: overrides of this command line. Options such as
            ``--config-dir DIR`` may stand among both and stay where they are; the last one given counts.
    """
    added: dict[str, str] = {}
    kept = list(recorded)
    for key in (_parts(override)[1] for override in given if _is_override(override)):
        added |= {other: prefix for prefix, other in map(_parts, kept) if other == key and prefix in ("+", "++")}
        kept = [other for other in kept if not (_is_override(other) and _beneath(_parts(other)[1], key))]
    merged = []
    for override in given:
        prefix, key = _parts(override)
        before = added.get(key) if _is_override(override) else None
        if before and prefix == "":
            merged.append(before + override)
        elif before == "+" and prefix == "~":
            continue  # addition and removal cancel: without the run's own + there is nothing to remove
        elif before == "++" and prefix == "~":
            merged += [f"++{key}=0", f"~{key}"]  # whether there was one before or not, there is one to remove now
        else:
            merged.append(override)
    return kept + merged


def _is_override(argument: str) -> bool:
    """Options and their values stand among the overrides of a command line."""
    return not argument.startswith("-") and ("=" in argument or argument.startswith("~"))


def _parts(override: str) -> tuple[str, str]:
    """Prefix (``+``, ``++``, ``~`` or nothing) and key; a group's slashes are dots, as in the keys it fills."""
    match = _OVERRIDE.fullmatch(override.strip())
    if match is None:  # only for text that Hydra refuses anyway
        return "", ""
    return match["prefix"], match["key"].strip().replace("/", ".")


def _beneath(key: str, top: str) -> bool:
    """Whether ``key`` is ``top`` or one of the keys that it fills; ``group@package`` fills ``package``."""
    if key == top:
        return True
    package = top.partition("@")[2] or top
    return key.startswith((f"{package}.", f"{top}@"))
