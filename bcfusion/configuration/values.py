"""A composed configuration as plain containers, for checks that continue past a value that cannot be resolved."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from bcfusion.errors import BcfusionError

if TYPE_CHECKING:
    from omegaconf import DictConfig, ListConfig
    from omegaconf.errors import OmegaConfBaseException

#: replaces a value that is missing or could not be resolved; the problem itself is reported once, by `resolved`
UNRESOLVED: Final = object()
#: keys of the root that say where and how a session begins, not what is trained
OF_A_SESSION = ("output_root", "resume", "init_discriminators", "replay")


def resolved(cfg: DictConfig) -> tuple[dict[str, Any], list[str]]:
    """Return plain containers with UNRESOLVED for each value that is missing or leads nowhere, and those problems."""
    # here, because bundles are loaded and runs are compared without OmegaConf
    from omegaconf import DictConfig, ListConfig, OmegaConf
    from omegaconf.errors import InterpolationToMissingValueError, OmegaConfBaseException

    problems: list[str] = []
    failures: dict[str, list[tuple[str, str]]] = {}

    def walk(node: DictConfig | ListConfig, path: str) -> Any:
        keys = list(node) if isinstance(node, DictConfig) else range(len(node))
        values = {key: leaf(node, key, f"{path}.{key}" if path else str(key)) for key in keys}
        return values if isinstance(node, DictConfig) else list(values.values())

    def leaf(node: DictConfig | ListConfig, key: Any, path: str) -> Any:
        if OmegaConf.is_missing(node, key):
            problems.append(f"{path}: a value is needed, as in {path}=VALUE")
            return UNRESOLVED
        try:
            value = node[key]
        except InterpolationToMissingValueError:  # the missing value is reported at its own path
            return UNRESOLVED
        except OmegaConfBaseException as error:
            raw: Any = OmegaConf.to_container(node, resolve=False)
            failures.setdefault(_cause(error), []).append((path, str(raw[key])))
            return UNRESOLVED
        return walk(value, path) if isinstance(value, (DictConfig, ListConfig)) else value

    tree = walk(cfg, "")
    for cause, places in failures.items():
        # A broken interpolation breaks those that refer to it; report only the places where the bad name is written.
        name = cause.split("'")[1] if "'" in cause else ""
        direct = [path for path, written in places if name and name in written]
        problems += [f"{path}: {cause}" for path in direct or [places[0][0]]]
    return tree, problems


def _cause(error: OmegaConfBaseException) -> str:
    link: BaseException | None = error
    while link is not None:
        if isinstance(link, BcfusionError):
            return str(link)
        link = link.__cause__ or link.__context__
    return str(error).splitlines()[0]


def without_refused(
    tree: Mapping[str, Any], written: Mapping[str, Any], problems: Sequence[str]
) -> tuple[dict[str, Any], list[str]]:
    """Return a configuration in which refused values, and those that follow them, are UNRESOLVED.

    Thus a fault is reported once, where it is written, and not again by each class that gets the value.

    Args:
        tree: the resolved configuration.
        written: the same, with its interpolations.
        problems: lines that begin with the path of a value; those about a mapping as a whole change nothing.

    Returns:
        The configuration, and the problems without those of values that follow another refused one.
    """
    refused = {problem.partition(":")[0] for problem in problems}
    following: set[str] = set()
    before = -1
    while len(following) > before:  # one value may follow another that follows a refused one
        before = len(following)
        known = refused | following
        following |= {path for path, value in leaves(written) if not known.isdisjoint(interpolated(str(value)))}
    refused |= following

    def kept(value: Any, path: str) -> Any:
        if isinstance(value, Mapping):
            return {key: kept(entry, f"{path}.{key}" if path else str(key)) for key, entry in value.items()}
        return UNRESOLVED if path in refused else value

    own = [problem for problem in problems if problem.partition(":")[0] not in following]
    return kept(tree, ""), own


def leaves(tree: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the dotted path and the value of every entry that is not a mapping itself."""
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value


def interpolated(text: str) -> list[str]:
    """Return the names of the keys to which a value refers, relative ones with their dots."""
    return re.findall(r"\$\{(?:oc\.select:)?(\.*[\w.]+)", text)


def nodes(tree: Any, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield every mapping of the tree with its YAML path, outer ones first."""
    if isinstance(tree, dict):
        yield path, tree
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in items:
        yield from nodes(value, f"{path}.{key}" if path else str(key))


def at(tree: Mapping[str, Any], path: str, missing: Any = UNRESOLVED) -> Any:
    """Return the value at a dotted path, or ``missing`` if there is none."""
    found: Any = tree
    for key in path.split("."):
        if not isinstance(found, Mapping) or key not in found:
            return missing
        found = found[key]
    return found


def group(tree: Mapping[str, Any], path: str) -> Mapping[str, Any]:
    """Return the mapping at a dotted path, or an empty one if there is none, it is null or it could not be resolved."""
    node = at(tree, path)
    return node if isinstance(node, Mapping) else {}


def is_resolved(value: Any) -> bool:
    """Return whether neither a value nor anything in it is UNRESOLVED."""
    if isinstance(value, Mapping):
        return all(is_resolved(entry) for entry in value.values())
    return all(is_resolved(entry) for entry in value) if isinstance(value, list) else value is not UNRESOLVED


def shown(value: Any) -> str:
    """Return a value as written in YAML, for messages."""
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else repr(value)
