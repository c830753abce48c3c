"""The command that continues the training of an imported network."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from bcfusion.configuration.paths import conf_dir
from bcfusion.configuration.suggestions import read_yaml
from bcfusion.importing.bundle import Imported

__all__ = ["overrides_to_train"]

OF_THE_TASK = ("_target_", "sample_rate", "in_channels")
DEFAULTS = ("recipe=bone_to_air", "sample_rate=16000")


def overrides_to_train(imported: Imported) -> list[str]:
    """Return the overrides of ``bcfusion train`` that build the networks of an import: its experiment and the rest.

    What the experiment gives the networks anyway is left out.
    """
    experiment = read_yaml(conf_dir() / "experiment" / f"{imported.experiment}.yaml")
    own = read_yaml(conf_dir() / "generator" / f"{imported.experiment}.yaml")
    own = {**own, **(experiment.get("generator") or {})}
    words = [f"experiment={imported.experiment}", *(each for each in imported.overrides if each not in DEFAULTS)]
    words += _differences("generator", imported.generator, own)
    for name, node in imported.discriminators.items():
        shipped = read_yaml(conf_dir() / "discriminators" / f"{name}.yaml").get(name) or {}
        shipped = {**shipped, **((experiment.get("discriminators") or {}).get(name) or {})}
        words += _differences(f"discriminators.{name}", node, shipped)
    return words


def _differences(prefix: str, wanted: Mapping[str, Any], given: Mapping[str, Any]) -> Iterator[str]:
    for key, value in wanted.items():
        if key not in OF_THE_TASK and given.get(key) != value:  # an interpolation differs from every value
            yield f"{prefix}.{key}={_typed(value)}"


def _typed(value: Any) -> str:
    """Return a value as it is typed in an override."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{','.join(map(_typed, value))}]"
    return str(value)
