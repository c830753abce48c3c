"""The configuration that a command line composes to, for messages about what is wrong with the command line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bcfusion.configuration.paths import conf_dir, group_members

if TYPE_CHECKING:
    from omegaconf import DictConfig


def composed(overrides: Sequence[str], extra_dirs: Sequence[Path]) -> dict[str, Any] | None:
    """Return the configuration as plain containers, unresolved; None if it cannot be composed.

    Args:
        overrides: of a command line; of a sweep the first job counts.
        extra_dirs: folders of the user's own group members.
    """
    from hydra.errors import CompactHydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        tree = OmegaConf.to_container(compose_first_job(overrides, extra_dirs), resolve=False)
    except (CompactHydraException, OmegaConfBaseException, ValueError):
        return None
    return {str(key): value for key, value in tree.items()} if isinstance(tree, dict) else None


def compose_first_job(overrides: Sequence[str], extra_dirs: Sequence[Path]) -> DictConfig:
    """Compose the configuration, of a sweep that of its first job; raise what Hydra raises.

    Args:
        overrides: of a command line; Hydra's own settings are left out.
        extra_dirs: folders of the user's own group members.
    """
    from hydra import compose, initialize_config_dir

    single = _first_of_sweeps([override for override in overrides if not override.startswith("hydra.")], extra_dirs)
    search = [f"hydra.searchpath=[{','.join(f'file://{folder.absolute()}' for folder in extra_dirs)}]"]
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return compose("train", overrides=[*single, *(search if extra_dirs else [])])


def _first_of_sweeps(overrides: Sequence[str], extra_dirs: Sequence[Path]) -> list[str]:
    """Return the overrides of one job of a sweep; a range that is searched stands for 1."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.core.override_parser.types import Glob

    single = []
    for override in OverridesParser.create().parse_overrides(list(overrides)):
        if not override.is_sweep_override():
            single.append(str(override.input_line))
        elif isinstance(pattern := override.value(), Glob):
            members = pattern.filter(group_members(override.key_or_group, extra_dirs))
            single += [f"{override.get_key_element()}={name}" for name in members[:1]]
        else:
            first = next(override.sweep_string_iterator()) if override.is_choice_sweep() else "1"
            single.append(f"{override.get_key_element()}={first}")
    return single
