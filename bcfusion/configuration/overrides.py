"""How the overrides of an earlier run and those typed now combine."""

from __future__ import annotations

import re
from collections.abc import Sequence

_OVERRIDE = re.compile(r"(?P<prefix>~|\+{0,2})(?P<key>[^=]*)(?P<value>=.*)?", re.DOTALL)


def merge_overrides(recorded: Sequence[str], given: Sequence[str]) -> list[str]:
    """Overrides with which an earlier run goes on: its own, as far as those typed now leave them standing.

    What is given wins: it drops the recorded override of the same key and of every key beneath it. Choosing
    ``data=folder`` therefore drops a recorded ``data=pairs`` together with its ``data.air=...``, and ``~losses.l1`` a
    recorded ``losses.l1.weight=2``. A key that only the run had added (``+key=1``) can be given without its ``+``.

    Args:
        recorded: overrides that the run was started with. given: overrides of this command line. Options such as
            ``--config-dir DIR`` may stand among both and stay where they are; the last one given counts.
    """
    added: dict[str, str] = {}
    kept = list(recorded)
    for key in (_parts(override)[1] for override in given if _is_override(override)):
        added |= {other: prefix for prefix, other in map(_parts, kept) if other == key and prefix in ("+", "++")}
        kept = [other for other in kept if not (_is_override(other) and _beneath(_parts(other)[1], key))]
    merged = []
    for override in given:
        prefix, key = _parts(override)
        before = added.get(key) if _is_override(override) else None
        if before and prefix == "":
            merged.append(before + override)
        elif before == "+" and prefix == "~":
            continue  # addition and removal cancel: without the run's own + there is nothing to remove
        elif before == "++" and prefix == "~":
            merged += [f"++{key}=0", f"~{key}"]  # whether there was one before or not, there is one to remove now
        else:
            merged.append(override)
    return kept + merged


def _is_override(argument: str) -> bool:
    """Options and their values stand among the overrides of a command line."""
    return not argument.startswith("-") and ("=" in argument or argument.startswith("~"))


def _parts(override: str) -> tuple[str, str]:
    """Prefix (``+``, ``++``, ``~`` or nothing) and key; a group's slashes are dots, as in the keys it fills."""
    match = _OVERRIDE.fullmatch(override.strip())
    if match is None:  # only for text that Hydra refuses anyway
        return "", ""
    return match["prefix"], match["key"].strip().replace("/", ".")


def _beneath(key: str, top: str) -> bool:
    """Whether ``key`` is ``top`` or one of the keys that it fills; ``group@package`` fills ``package``."""
    if key == top:
        return True
    package = top.partition("@")[2] or top
    return key.startswith((f"{package}.", f"{top}@"))
