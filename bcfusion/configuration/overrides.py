"""Merge the overrides of an earlier run with those of the command line."""

from __future__ import annotations

import re
from collections.abc import Sequence

_OVERRIDE = re.compile(r"(?P<prefix>~|\+{0,2})(?P<key>[^=]*)(?P<value>=.*)?", re.DOTALL)


def merge_overrides(recorded: Sequence[str], given: Sequence[str]) -> list[str]:
    """Return the overrides that continue an earlier run: its own, unless the command line replaces them.

    A given override drops the recorded override of the same key and of every key below it. Choosing ``data=folder``
    therefore drops a recorded ``data=pairs`` together with its ``data.air=...``, and ``~losses.l1`` drops a recorded
    ``losses.l1.weight=2``. A key that was added by the run (``+key=1``) can be given without its ``+``.

    Options such as ``--config-dir DIR`` may be among both lists and keep their position; the last one counts.

    Args:
        recorded: overrides that the run was started with.
        given: overrides of this command line.
    """
    added: dict[str, str] = {}
    kept = list(recorded)
    for key in (key_of(override) for override in given if _is_override(override)):
        added |= {other: prefix for prefix, other in map(_parts, kept) if other == key and prefix in ("+", "++")}
        kept = [other for other in kept if not (_is_override(other) and below(key_of(other), key))]
    merged = []
    for override in given:
        prefix, key = _parts(override)
        before = added.get(key) if _is_override(override) else None
        if before and prefix == "":
            merged.append(before + override)
        elif before == "+" and prefix == "~":
            continue  # addition and removal cancel: without the recorded + there is nothing to remove
        elif before == "++" and prefix == "~":
            merged += [f"++{key}=0", f"~{key}"]  # created first: only an existing key can be removed
        else:
            merged.append(override)
    return kept + merged


def _is_override(argument: str) -> bool:
    """Return whether an argument is an override, not an option or its value."""
    return not argument.startswith("-") and ("=" in argument or argument.startswith("~"))


def _parts(override: str) -> tuple[str, str]:
    """Return prefix (``+``, ``++``, ``~`` or nothing) and key; slashes of a group become dots, as in its keys."""
    match = _OVERRIDE.fullmatch(override.strip())
    if match is None:  # text that Hydra refuses anyway
        return "", ""
    return match["prefix"], match["key"].strip().replace("/", ".")


def key_of(override: str) -> str:
    """Return the key that an override sets, adds or removes; slashes of a group become dots, as in its keys."""
    return _parts(override)[1]


def below(key: str, top: str) -> bool:
    """Return whether ``key`` is ``top`` or a key below it; ``group@package`` sets keys of ``package``."""
    if key == top:
        return True
    package = top.partition("@")[2] or top
    return key.startswith((f"{package}.", f"{top}@"))
