"""Paths in a configuration: which keys hold one, and where a relative one leads."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from omegaconf import DictConfig

__all__ = ["absolute", "absolute_paths", "is_path_key", "relative_paths"]

#: dotted keys whose values are files or folders, whatever class takes them
_PATH_KEY = re.compile(
    r"output_root"
    r"|(.*\.)?(root|path|model|calibration|transcripts|(?!bands_from)\w+_(root|dir|path|file|from))"
    r"|data\.(corpus\.)?(body|air|parts\.[^.]+)"
    r"|metrics\.\w+\.weights"
)


def is_path_key(key: str) -> bool:
    """Return whether a dotted key holds a path, by its name."""
    return _PATH_KEY.fullmatch(key) is not None


def absolute(value: Any) -> Any:
    """Return a relative path, or a list of them, from the root of the file system; anything else unchanged."""
    if isinstance(value, list):
        return [absolute(entry) for entry in value]
    if not isinstance(value, str) or not value or os.path.isabs(value):
        return value
    if "://" in value or value.startswith("hf:"):  # an address, or a model on the Hugging Face hub
        return value
    return os.path.abspath(os.path.expanduser(value))


def absolute_paths(config: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Return a plain configuration in which no path depends on the working directory."""
    made: dict[str, Any] = {}
    for key, value in config.items():
        name = f"{above}{key}"
        if isinstance(value, Mapping):
            made[key] = absolute_paths(value, f"{name}.")
        else:
            made[key] = absolute(value) if is_path_key(name) else value
    return made


def relative_paths(cfg: DictConfig, above: str = "") -> dict[str, Any]:
    """Return the relative paths that are written in a composed configuration, by their dotted keys.

    Interpolations are left out: they follow the keys that they refer to.
    """
    from omegaconf import DictConfig, OmegaConf

    found: dict[str, Any] = {}
    key: Any
    for key in cfg:
        name = f"{above}{key}"
        if OmegaConf.is_missing(cfg, key) or OmegaConf.is_interpolation(cfg, key):
            continue
        value = cfg[key]
        if isinstance(value, DictConfig):
            found |= relative_paths(value, f"{name}.")
        elif is_path_key(name) and name != "output_root":  # where new runs go says nothing about this one
            plain = OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
            if absolute(plain) != plain:
                found[name] = plain
    return found
