"""Checks of ``_target_`` nodes against the classes they name: whether they exist and take these arguments."""

from __future__ import annotations

import collections.abc
import inspect
import pkgutil
import types
import typing
from collections.abc import Callable, Collection, Mapping
from importlib import import_module
from typing import Any, Literal

from bcfusion.configuration.moved import current_target
from bcfusion.configuration.values import UNRESOLVED
from bcfusion.nearest import did_you_mean
from bcfusion.startup import loading

#: keys of a node that are for Hydra, not for the class
HYDRA_KEYS = frozenset({"_target_", "_partial_", "_recursive_", "_convert_", "_args_"})


class UnknownTarget(Exception):
    """A dotted path leads nowhere. The text names the part that does not exist, or cannot be imported."""


def locate(target: str) -> Any:
    """Return the class or function at a dotted path.

    Raises:
        UnknownTarget: there is none, or its module cannot be imported.
    """
    target = current_target(target)
    name, *parts = target.split(".")
    found: Any = _module(name, name)
    for part in parts:
        parent, name = name, f"{name}.{part}"
        if hasattr(found, part):
            found = getattr(found, part)
        elif isinstance(found, types.ModuleType) and hasattr(found, "__path__"):
            found = _module(name, part, found)
        else:
            public = [option for option in dir(found) if not option.startswith("_")]
            raise UnknownTarget(f"{parent} has no '{part}'{did_you_mean(part, public)}")
    if not callable(found):
        raise UnknownTarget(f"{target} is not a class or function")
    return found


def _module(name: str, last: str, package: types.ModuleType | None = None) -> types.ModuleType:
    try:
        with loading():
            return import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise UnknownTarget(f"{name} needs the package '{error.name}', which is not installed") from error
        if package is None:
            raise UnknownTarget(f"there is no package '{name}'; install it, or run from its folder") from error
        siblings = [module.name for module in pkgutil.iter_modules(package.__path__)]
        public = [option for option in dir(package) if not option.startswith("_")]
        raise UnknownTarget(f"{package.__name__} has no '{last}'{did_you_mean(last, [*siblings, *public])}") from error
    except Exception as error:  # a user's own module may fail in any way while it is imported
        raise UnknownTarget(f"{name} cannot be imported: {type(error).__name__}: {error}") from error


def takes_argument(target: str, name: str) -> bool:
    """Return whether the class or function at a dotted path names this argument; false if there is none."""
    try:
        parameters = inspect.signature(locate(target)).parameters
    except (UnknownTarget, TypeError, ValueError):
        return False
    kinds = inspect.Parameter
    return name in parameters and parameters[name].kind in (kinds.POSITIONAL_OR_KEYWORD, kinds.KEYWORD_ONLY)


def argument_problems(
    path: str, node: Mapping[str, Any], function: Callable[..., Any], given: Collection[str]
) -> list[str]:
    """Return a message for each argument that is unknown, missing or of the wrong type, with its YAML path.

    Args:
        path: YAML path of the node.
        node: the node, resolved.
        function: the class or function that ``_target_`` names.
        given: names of arguments that the program adds when it builds the node.
    """
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):  # some built-in classes have no signature
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
            takes = f"; it takes {', '.join(names)}" if names else "; it takes no arguments"
            hint = did_you_mean(name, names) or takes
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


_LISTS = (list, tuple, collections.abc.Sequence, collections.abc.Iterable, collections.abc.Collection)
_PLURAL = {int: "whole numbers", float: "numbers", bool: "true or false", str: "strings"}
_SIMPLE = {int: "a whole number", float: "a number", bool: "true or false", str: "a string", type(None): "null"}


def misfit(value: Any, hint: Any) -> str | None:
    """Return in words what a type hint expects if ``value`` does not match it, else None.

    Only unions of ``int``, ``float``, ``bool``, ``str``, ``None``, literals and lists of these are judged; other hints
    accept anything.
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
        elif typing.get_origin(option) in _LISTS:
            expected = _list_misfit(value, option)
            if expected is None:
                return None
            words.append(expected)
        else:
            return None
    return " or ".join(words)


def _list_misfit(value: Any, hint: Any) -> str | None:
    """Return what a type of lists expects if ``value`` is not such a list; the items of others are not judged."""
    kinds = [kind for kind in typing.get_args(hint) if kind is not Ellipsis]
    fixed = typing.get_origin(hint) is tuple and Ellipsis not in typing.get_args(hint)
    several = fixed and len(set(kinds)) > 1
    words = "values" if several or not kinds else _PLURAL.get(kinds[0], "lists" if _is_list(kinds[0]) else "values")
    expected = f"a list of {len(kinds)} {words}" if fixed else f"a list of {words}"
    if not isinstance(value, list | tuple):
        return expected
    if fixed and len(value) != len(kinds):
        return expected
    pairs = zip(value, kinds if fixed else kinds[:1] * len(value), strict=False)
    return expected if any(misfit(item, kind) for item, kind in pairs) else None


def _is_list(hint: Any) -> bool:
    return typing.get_origin(hint) in _LISTS


def _is(value: Any, kind: type) -> bool:
    if kind is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, kind)
