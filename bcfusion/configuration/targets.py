"""Checks of ``_target_`` nodes against the classes they name: is there one, and does it take these arguments."""

from __future__ import annotations

import inspect
import math
import pkgutil
import types
import typing
from collections.abc import Callable, Collection, Mapping
from importlib import import_module
from typing import Any, Final, Literal

from bcfusion.configuration.moved import current_target
from bcfusion.nearest import nearest

#: keys of a node that Hydra takes for itself
HYDRA_KEYS = frozenset({"_target_", "_partial_", "_recursive_", "_convert_", "_args_"})
#: stands for a value that could not be resolved, which is reported elsewhere
UNRESOLVED: Final = object()


class UnknownTarget(Exception):
    """The text says what of a dotted path does not exist or cannot be imported, with the nearest name."""


def locate(target: str) -> Any:
    """The class or function at a dotted path.

    Raises:
        UnknownTarget: there is none, or its module cannot be imported.
    """
    target = current_target(target)
    root, *parts = target.split(".")
    found: Any = _module(root, root)
    name = root
    for part in parts:
        parent, name = name, f"{name}.{part}"
        if hasattr(found, part):
            found = getattr(found, part)
        elif isinstance(found, types.ModuleType) and hasattr(found, "__path__"):
            found = _module(name, part, found)
        else:
            public = [option for option in dir(found) if not option.startswith("_")]
            raise UnknownTarget(f"{parent} has no '{part}'{_hint(part, public)}")
    if not callable(found):
        raise UnknownTarget(f"{target} is no class or function")
    return found


def _module(name: str, last: str, package: types.ModuleType | None = None) -> types.ModuleType:
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise UnknownTarget(f"{name} needs the package '{error.name}', which is not installed") from error
        if package is None:
            raise UnknownTarget(f"there is no package '{name}'; install it, or run where it lies") from error
        siblings = [module.name for module in pkgutil.iter_modules(package.__path__)]
        public = [option for option in dir(package) if not option.startswith("_")]
        raise UnknownTarget(f"{package.__name__} has no '{last}'{_hint(last, [*siblings, *public])}") from error
    except Exception as error:  # a user's own module may fail in any way while it is imported
        raise UnknownTarget(f"{name} cannot be imported: {type(error).__name__}: {error}") from error


def argument_problems(
    path: str, node: Mapping[str, Any], function: Callable[..., Any], given: Collection[str]
) -> list[str]:
    """What is wrong with the arguments of a node, each line beginning with its YAML path.

    Args:
        path: of the node. node: resolved. function: what ``_target_`` names.
        given: names of arguments that the program adds when it builds the node.
    """
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):  # some built-in classes have none
        return []
    kinds = inspect.Parameter
    names = [name for name, p in parameters.items() if p.kind in (kinds.POSITIONAL_OR_KEYWORD, kinds.KEYWORD_ONLY)]
    positional = [
        name for name, p in parameters.items() if p.kind in (kinds.POSITIONAL_ONLY, kinds.POSITIONAL_OR_KEYWORD)
    ]
    takes_any = any(p.kind is kinds.VAR_KEYWORD for p in parameters.values())
    arguments = {key: value for key, value in node.items() if key not in HYDRA_KEYS}
    by_position = positional[: len(node.get("_args_") or ())]
    target = str(node["_target_"]).rpartition(".")[2]
    problems = []
    for name in arguments:
        if name not in names and not takes_any:
            hint = _hint(name, names) or (f"; it takes {', '.join(names)}" if names else "; it takes no arguments")
            problems.append(f"{path}.{name}: {target} has no argument '{name}'{hint}")
    if not node.get("_partial_"):
        for name in names:
            required = parameters[name].default is kinds.empty
            if required and name not in arguments and name not in by_position and name not in given:
                problems.append(f"{path}.{name}: {target} needs this argument")
    hints = _type_hints(function)
    for name, value in arguments.items():
        if name in names and name in hints and (expected := misfit(value, hints[name])):
            problems.append(f"{path}.{name}: must be {expected}, not {value!r}")
    return problems


def _type_hints(function: Callable[..., Any]) -> dict[str, Any]:
    try:
        return typing.get_type_hints(function.__init__ if inspect.isclass(function) else function)
    except (AttributeError, NameError, TypeError):  # hints that only a type checker can read
        return {}


_SIMPLE = {int: "a whole number", float: "a number", bool: "true or false", str: "a text", type(None): "null"}


def misfit(value: Any, hint: Any) -> str | None:
    """What ``hint`` asks for, in words, where ``value`` is no such thing; None where it fits or cannot be judged.

    Judged are unions of ``int``, ``float``, ``bool``, ``str``, ``None`` and literals; every other hint lets all pass.
    """
    if value is UNRESOLVED:
        return None
    options = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
    words = []
    for option in options:
        if typing.get_origin(option) is Literal:
            choices = typing.get_args(option)
            if value in choices:
                return None
            words.append("one of " + ", ".join("null" if choice is None else str(choice) for choice in choices))
        elif option in _SIMPLE:
            if _is(value, option):
                return None
            words.append(_SIMPLE[option])
        else:
            return None
    return " or ".join(words)


def _is(value: Any, kind: type) -> bool:
    if kind is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, kind)


def is_number(value: Any) -> bool:
    """Whether ``value`` is a finite number; true and false are none."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _hint(name: str, options: Collection[str]) -> str:
    near = nearest(name, options)
    return f"; did you mean '{near}'?" if near else ""
