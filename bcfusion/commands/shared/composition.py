"""The configuration that a command line composes to, for messages about what is wrong with the command line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bcfusion.configuration.paths import conf_dir


def composed(overrides: Sequence[str], extra_dirs: Sequence[Path]) -> dict[str, Any] | None:
    """Return the configuration as plain containers, unresolved; None if it cannot be composed.

    Args:
        overrides: of a command line; of a sweep over members of a group the first is taken, other sweeps are left out.
        extra_dirs: folders of the user's own group members.
    """
    from hydra import compose, initialize_config_dir
    from hydra.errors import CompactHydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    search = [f"hydra.searchpath=[{','.join(f'file://{folder.absolute()}' for folder in extra_dirs)}]"]
    try:
        single = without_sweeps([override for override in overrides if not override.startswith("hydra.")])
        with initialize_config_dir(str(conf_dir()), version_base="1.3"):
            cfg = compose("train", overrides=[*single, *(search if extra_dirs else [])])
        tree = OmegaConf.to_container(cfg, resolve=False)
    except (CompactHydraException, OmegaConfBaseException, ValueError):
        return None
    return {str(key): value for key, value in tree.items()} if isinstance(tree, dict) else None


def without_sweeps(overrides: Sequence[str]) -> list[str]:
    """Return the overrides of one job of a sweep: the first of several members, no other sweep."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    single = []
    for override in OverridesParser.create().parse_overrides(list(overrides)):
        if not override.is_sweep_override():
            single.append(str(override.input_line))
        elif override.is_choice_sweep() and "." not in override.key_or_group:
            single.append(f"{override.get_key_element()}={next(override.sweep_string_iterator())}")
    return single
