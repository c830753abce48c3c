"""Build a network from the ``_target_`` and arguments in a file, without Hydra; only modules of torch are called."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from bcfusion.configuration.targets import HYDRA_KEYS, UnknownTarget, locate
from bcfusion.errors import CheckpointError, ConfigError

__all__ = ["build_generator"]

#: what constructors raise if arguments do not fit, or a size is more than memory holds
_REFUSALS = (
    TypeError,
    ValueError,
    ConfigError,
    RuntimeError,
    ArithmeticError,
    LookupError,
    AttributeError,
    MemoryError,
)


def build_generator(config: Mapping[str, Any], source: Path) -> nn.Module:
    """Return the network that ``config`` describes, nested modules included.

    Args:
        config: ``_target_``, the dotted path of a :class:`torch.nn.Module`, and its arguments.
        source: the file that holds it, for messages.

    Raises:
        CheckpointError: a class cannot be imported, is not a module, or refuses its arguments.
    """
    built = _build(config, source)
    if not isinstance(built, nn.Module):
        raise CheckpointError(f"{source} is damaged: its generator has no _target_, or is partial")
    return built


def _build(value: Any, source: Path) -> Any:
    """Instantiate nested ``_target_`` entries as Hydra would, but modules only."""
    if isinstance(value, (list, tuple)):
        return [_build(entry, source) for entry in value]
    if not isinstance(value, Mapping):
        return value
    positional = [_build(entry, source) for entry in value.get("_args_") or ()]
    arguments = {key: _build(entry, source) for key, entry in value.items() if key not in HYDRA_KEYS}
    if "_target_" not in value:
        return arguments
    kind = _module_class(str(value["_target_"]), source)
    if value.get("_partial_"):
        return functools.partial(kind, *positional, **arguments)
    try:
        return kind(*positional, **arguments)
    except _REFUSALS as error:
        raise CheckpointError(f"{source}: cannot build {value['_target_']}: {str(error)[:500]}") from error


def _module_class(target: str, source: Path) -> type[nn.Module]:
    try:
        found = locate(target)
    except UnknownTarget as error:
        raise CheckpointError(f"{source} needs {target}: {error}") from error
    if not (isinstance(found, type) and issubclass(found, nn.Module)):
        raise CheckpointError(f"{source} needs {target}, which is not a torch.nn.Module")
    return found
