"""Build a network from the ``_target_`` and arguments in a file, without Hydra; only modules of torch are called.

A class that is not bcfusion's own is imported only if the user has said so: see :mod:`bcfusion.run.trust`.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from bcfusion.configuration.moved import current_target
from bcfusion.configuration.targets import HYDRA_KEYS, UnknownTarget, locate
from bcfusion.errors import CheckpointError, ConfigError
from bcfusion.run.trust import VARIABLE, may_be_built, may_be_imported

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


def build_generator(config: Mapping[str, Any], source: Path, *, trust_code: bool = False) -> nn.Module:
    """Return the network that ``config`` describes, nested modules included.

    Args:
        config: ``_target_``, the dotted path of a :class:`torch.nn.Module`, and its arguments.
        source: the file that holds it, for messages.
        trust_code: whether any class may be named; else those of bcfusion and, of other packages, those that the user
            has imported or trusts (:func:`bcfusion.run.trust.may_be_imported`).

    Raises:
        CheckpointError: a class is not trusted, cannot be imported, is not a module, or refuses its arguments.
    """
    built = _build(config, source, trust_code)
    if not isinstance(built, nn.Module):
        raise CheckpointError(f"{source} is damaged: its generator has no _target_, or is partial")
    return built


def _build(value: Any, source: Path, trust_code: bool) -> Any:
    """Instantiate nested ``_target_`` entries as Hydra would, but modules only."""
    if isinstance(value, (list, tuple)):
        return [_build(entry, source, trust_code) for entry in value]
    if not isinstance(value, Mapping):
        return value
    positional = [_build(entry, source, trust_code) for entry in value.get("_args_") or ()]
    arguments = {key: _build(entry, source, trust_code) for key, entry in value.items() if key not in HYDRA_KEYS}
    if "_target_" not in value:
        return arguments
    kind = _module_class(str(value["_target_"]), source, trust_code)
    if value.get("_partial_"):
        return functools.partial(kind, *positional, **arguments)
    try:
        return kind(*positional, **arguments)
    except _REFUSALS as error:
        raise CheckpointError(f"{source}: cannot build {value['_target_']}: {str(error)[:500]}") from error


def _module_class(target: str, source: Path, trust_code: bool) -> type[nn.Module]:
    if not trust_code and not may_be_imported(current_target(target)):
        raise CheckpointError(_consent(target, source))
    try:
        found = locate(target)
    except UnknownTarget as error:
        raise CheckpointError(f"{source} needs {target}: {error}") from error
    if not (isinstance(found, type) and issubclass(found, nn.Module)):
        raise CheckpointError(f"{source} needs {target}, which is not a torch.nn.Module")
    if not trust_code and not may_be_built(current_target(target), found):
        raise CheckpointError(_consent(target, source))
    return found


def _consent(target: str, source: Path) -> str:
    module, package = target.rpartition(".")[0], target.partition(".")[0]
    return (
        f"{source} needs {target}, which is not a network of bcfusion\nif it is your own, run in the folder whose "
        f"./conf names it, set {VARIABLE}={package} or, in Python, import {module} before; of others, read the code "
        "first, which runs with all your rights, then give trust_code=True (--trust-code)"
    )
