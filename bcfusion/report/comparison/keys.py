"""Values of a run by the keys that users type, and conditions on them such as ``optimizer.lr<1e-3``."""

from __future__ import annotations

import fnmatch
import math
import operator
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bcfusion.configuration.compose import LIST_GROUPS
from bcfusion.configuration.values import at, leaves
from bcfusion.errors import ConfigError
from bcfusion.nearest import did_you_mean
from bcfusion.report.comparison.run import Run, Which
from bcfusion.report.table import MISSING

__all__ = ["FACTS", "Condition", "fact", "known_key", "leaves", "setting", "text_of"]

#: Attributes of a run other than settings and scores, as keys of ``--sort`` and ``--filter``.
FACTS = ("state", "step", "best_step", "parameters", "latency_ms", "steps_per_second", "minutes")
ALIASES = {"pesq": "pesq_wb", "lr": "optimizer.lr"}
_CONDITION = re.compile(r"\s*([^=<>!]+?)\s*(==|!=|>=|<=|=|>|<)\s*(.*?)\s*")
_ORDERS = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}


def setting(run: Run, key: str) -> Any:
    """Return a run's value of a key as a user types it: a number, a string, the member of a group, or None."""
    if key == "recipe":
        return run.recipe or None
    if key == "experiment":
        return run.experiment
    value = at(run.settings, key, None)
    if isinstance(value, Mapping):
        if (member := run.choices.get(key)) or key not in (*LIST_GROUPS, "degradation"):
            return member  # none is known if a whole configuration was given in place of members
        return "+".join(value) or "none"
    if value is None and run.choices.get(key) is not None:
        return run.choices[key]  # a group that only changes others, such as debug
    if value is None and not run.record:  # the run failed before its configuration was written
        typed = run.overrides.get(key)
        return None if typed == "null" else _number(typed)
    return value


def fact(run: Run, key: str, which: Which = "best") -> Any:
    """Return a run's value of a metric, of one of :data:`FACTS`, or of a setting; None if it has none.

    Args:
        run: the run.
        key: name of the value, or one of :data:`ALIASES`.
        which: the scores to take metrics from; ``selection``, which chooses checkpoints, is always that of the
            validation files.
    """
    key = ALIASES.get(key, key)
    if key == "selection":
        return run.best.get(key)  # never the group of that name
    means = run.means(which)
    if key in means or key in run.best:
        return means.get(key)
    return getattr(run, key) if key in FACTS else setting(run, key)


def known_key(runs: Sequence[Run], key: str) -> str:
    """Return the key, with an alias written out.

    Raises:
        ConfigError: no run has such a setting, metric or fact.
    """
    key = ALIASES.get(key, key)
    options = dict.fromkeys((*FACTS, "recipe", "experiment"))
    for run in runs:
        options.update(dict.fromkeys((*run.best, *run.means("closing"), *run.overrides)))
        options.update(dict.fromkeys(name for name, _ in leaves(run.settings)))
        options.update(dict.fromkeys((*run.choices, *run.settings)))
    if all(run.evaluated is not None for run in runs):
        options["selection"] = None  # the usual order; bundles alone have none
    if key not in options:
        raise ConfigError([f"{key}: no run has such a key{did_you_mean(key, options)}"])
    return key


def text_of(value: Any) -> str:
    """Return a value as it is printed: numbers in their shortest form, an en dash for none."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return MISSING
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


@dataclass(frozen=True)
class Condition:
    """A filter of runs: ``key=value``, or with ``!=``, ``<``, ``<=``, ``>``, ``>=``.

    After ``=`` and ``!=`` several values may stand, separated by commas; ``*`` in a value matches any text.
    """

    key: str
    operator: str
    value: str

    @classmethod
    def parse(cls, text: str) -> Condition:
        """Read a condition as it is typed.

        Raises:
            ConfigError: it has no operator or no value, or compares by size with something that is not a number.
        """
        found = _CONDITION.fullmatch(text)
        if found is None or not found[3]:
            raise ConfigError([f"filter {text}: write key=value, key!=value, key<value, key>=value, ..."])
        condition = cls(ALIASES.get(found[1], found[1]), "=" if found[2] == "==" else found[2], found[3])
        if condition.operator in _ORDERS and not isinstance(_number(condition.value), float):
            raise ConfigError([f"filter {text}: {condition.value} is not a number"])
        return condition

    def holds(self, run: Run, which: Which = "best") -> bool:
        """Return whether a run fulfils it; a value that is missing or not a number is neither smaller nor larger."""
        value = fact(run, self.key, which)
        if self.operator in ("=", "!="):
            equal = any(_equal(value, wanted.strip()) for wanted in self.value.split(","))
            return equal == (self.operator == "=")
        number = _number(value)
        if not _is_number(number):
            return False
        return bool(_ORDERS[self.operator](number, float(self.value)))


def _equal(value: Any, wanted: str) -> bool:
    one, two = _number(value), _number(wanted)
    if _is_number(one) and _is_number(two):
        return math.isclose(one, two, rel_tol=1e-9)
    if value is None:
        return wanted in ("null", "none", MISSING)
    return fnmatch.fnmatchcase(text_of(value), wanted)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _number(value: Any) -> Any:
    """Return a string that is a number as that number, and anything else unchanged."""
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value
