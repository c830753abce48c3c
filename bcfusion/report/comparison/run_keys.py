"""What tells runs apart: the keys in which they differ, short names, and conditions such as ``optimizer.lr<1e-3``."""

from __future__ import annotations

import fnmatch
import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bcfusion.errors import ConfigError
from bcfusion.nearest import nearest
from bcfusion.report.comparison.run import Run, Which

__all__ = ["FACTS", "Condition", "changed_keys", "fact", "known_key", "run_names", "setting", "text_of"]

#: What a run is besides its settings and scores, by the keys of ``--sort`` and ``--filter``.
FACTS = ("state", "step", "best_step", "parameters", "latency_ms", "steps_per_second", "minutes")
ALIASES = {"pesq": "pesq_wb", "lr": "optimizer.lr"}
# Where a run lies, and which run it goes on with, is no difference between systems.
_NO_DIFFERENCE = ("output_root", "resume", "recipe", "experiment")
_LONGEST_DIFFERENCE = 40  # letters behind the name of the experiment
_CONDITION = re.compile(r"\s*([^=<>!]+?)\s*(==|!=|>=|<=|=|>|<)\s*(.*?)\s*")


def setting(run: Run, key: str) -> Any:
    """A run's value of a key as a user types it: a number, a text, the member of a group; None: it has none."""
    if key == "recipe":
        return run.recipe or None
    if key == "experiment":
        return run.experiment
    value = _leaf(run.settings, key)
    if isinstance(value, Mapping):
        return run.choices.get(key) or "+".join(value) or "none"
    if value is None and run.choices.get(key) is not None:
        return run.choices[key]  # a group that only changes others, such as debug
    if value is None and not run.run:  # it failed before its configuration was written
        typed = run.overrides.get(key)
        return None if typed == "null" else _number(typed)
    return value


def _leaf(settings: Any, key: str) -> Any:
    for part in key.split("."):
        settings = settings.get(part) if isinstance(settings, Mapping) else None
    return settings


def fact(run: Run, key: str, which: Which = "best") -> Any:
    """A run's value of a metric, of one of :data:`FACTS`, or of a setting; None: it has none.

    Args:
        run: of which it is asked. key: its name, or one of :data:`ALIASES`. which: scores are asked for; ``selection``,
            which chooses checkpoints, is of the validation files in any case.
    """
    key = ALIASES.get(key, key)
    if key == "selection":
        return run.best.get(key)  # never the group of that name
    means = run.means(which)
    if key in means or key in run.best:
        return means.get(key)
    if key == "minutes":
        return run.seconds / 60
    return getattr(run, key) if key in FACTS else setting(run, key)


def known_key(runs: Sequence[Run], key: str) -> str:
    """The key, written out where it is a short form.

    Raises:
        ConfigError: no run has such a setting, metric or fact.
    """
    key = ALIASES.get(key, key)
    options = dict.fromkeys((*FACTS, "recipe", "experiment"))
    for run in runs:
        options.update(
            dict.fromkeys(
                (*run.best, *run.means("closing"), *run.overrides, *(name for name, _ in _leaves(run.settings)))
            )
        )
        options.update(dict.fromkeys((*run.choices, *run.settings)))
    if key not in options:
        near = nearest(key, options)
        raise ConfigError([f"{key}: no run has such a key" + (f"; did you mean {near}?" if near else "")])
    return key


def text_of(value: Any) -> str:
    """A value as it is printed: numbers in their shortest form, an en dash for none."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def changed_keys(runs: Sequence[Run]) -> list[str]:
    """Keys whose values differ among the runs, those that somebody typed first.

    What a chosen member brings along is not listed: between ``generator=eben`` and ``generator=seanet`` the choice
    says it. A key that nobody typed is listed where runs of the same choices differ in it, as after an edit of a YAML
    file; not, though, where it follows from another key by interpolation, nor where a run does not know it yet.

    Args:
        runs: all that are shown; what differs is a question of them all.
    """
    typed = [key for key in dict.fromkeys(key for run in runs for key in run.overrides) if key not in _NO_DIFFERENCE]
    listed: dict[str, tuple[str, ...]] = {}

    def values(key: str) -> tuple[str, ...]:
        return tuple(text_of(setting(run, key)) for run in runs)

    for key in typed:
        of = values(key)
        if len(set(of)) > 1:
            listed[key] = of
    for key in dict.fromkeys(_edited(runs)):
        if key.partition(".")[0] in _NO_DIFFERENCE or any(f"{key}.".startswith(f"{other}.") for other in listed):
            continue
        of = values(key)
        if len(set(of)) > 1 and of not in listed.values():
            listed[key] = of
    return list(listed)


def _edited(runs: Sequence[Run]) -> Iterator[str]:
    """Groups in which runs of one experiment differ, and keys in which runs of the same choices do."""
    written = [run for run in runs if run.run]
    experiments, choices = defaultdict(list), defaultdict(list)
    for run in written:
        experiments[run.recipe, run.experiment].append(run)
        choices[tuple(sorted((group, str(member)) for group, member in run.choices.items()))].append(run)
    for alike in experiments.values():
        for group in alike[0].choices:
            if len({str(run.choices.get(group)) for run in alike}) > 1:
                yield group
    for alike in choices.values():
        if len(alike) > 1:
            flat = [dict(_leaves(run.settings)) for run in alike]
            for key in dict.fromkeys(key for leaves in flat for key in leaves):
                held = [leaves[key] for leaves in flat if leaves.get(key) is not None]
                if any(value != held[0] for value in held[1:]) and "${" not in str(_leaf(alike[0].composed, key)):
                    yield key


def _leaves(settings: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value


def run_names(runs: Sequence[Run]) -> list[str]:
    """A short name for each run, no two the same: ``seanet``, or with what differs ``seanet lr=0.001``."""
    bases = [str(run.experiment or run.choices.get("generator") or "run") for run in runs]
    for base in {base for base in bases if bases.count(base) > 1}:
        places = [place for place, other in enumerate(bases) if other == base]
        alike = [runs[place] for place in places]
        if len({run.recipe for run in alike}) > 1:
            for place in places:
                bases[place] = f"{runs[place].recipe} {base}".strip()
    names = list(bases)
    for base in dict.fromkeys(bases):
        places = [place for place, other in enumerate(bases) if other == base]
        for place, what in zip(places, _differences([runs[place] for place in places]), strict=True):
            names[place] = f"{base} {what}".strip()
    repeated = Counter(names)
    counted: Counter[str] = Counter()
    for place, name in enumerate(names):
        if repeated[name] > 1:
            counted[name] += 1
            names[place] = f"{name} ({counted[name]})"
    return names


def _differences(runs: Sequence[Run]) -> list[str]:
    """``lr=0.001 seed=1`` for each run: the fewest keys, the most telling first, that tell the runs apart."""
    keys = changed_keys(runs)
    values = {key: [text_of(setting(run, key)) for run in runs] for key in keys}
    short = Counter(key.rpartition(".")[2] for key in keys)
    heads = {key: last if short[last := key.rpartition(".")[2]] == 1 else key for key in keys}
    chosen: list[str] = []
    texts = [""] * len(runs)
    for key in sorted(keys, key=lambda key: -len(set(values[key]))):
        kept = [other for other in keys if other in chosen or other == key]
        longer = [" ".join(f"{heads[k]}={values[k][place]}" for k in kept) for place in range(len(runs))]
        if len(set(longer)) > len(set(texts)) and max(map(len, longer)) <= _LONGEST_DIFFERENCE:
            chosen, texts = kept, longer
    return texts


@dataclass(frozen=True)
class Condition:
    """``key=value``, or ``!=``, ``<``, ``<=``, ``>``, ``>=``; of ``=a,b*`` either may hold, ``*`` is any text."""

    key: str
    operator: str
    value: str

    @classmethod
    def parse(cls, text: str) -> Condition:
        """Reads a condition as it is typed.

        Raises:
            ConfigError: there is no operator in it, or no value, or an order with a text.
        """
        found = _CONDITION.fullmatch(text)
        if found is None or not found[3]:
            raise ConfigError([f"filter {text}: write key=value, key!=value, key<value, key>=value, ..."])
        condition = cls(ALIASES.get(found[1], found[1]), "=" if found[2] == "==" else found[2], found[3])
        if condition.operator in ("<", "<=", ">", ">=") and not isinstance(_number(condition.value), float):
            raise ConfigError([f"filter {text}: {condition.value} is no number"])
        return condition

    def holds(self, run: Run, which: Which = "best") -> bool:
        """Whether it holds for a run; an order does not hold for one without the value, or with a text."""
        value = fact(run, self.key, which)
        if self.operator in ("=", "!="):
            equal = any(_equal(value, wanted.strip()) for wanted in self.value.split(","))
            return equal == (self.operator == "=")
        have, wanted = _number(text_of(value) if isinstance(value, str) else value), float(self.value)
        if not isinstance(have, (int, float)) or isinstance(have, bool):
            return False
        return {
            "<": have < wanted,
            "<=": have <= wanted,
            ">": have > wanted,
            ">=": have >= wanted,
        }[self.operator]


def _equal(value: Any, wanted: str) -> bool:
    one, two = _number(value), _number(wanted)
    if isinstance(one, (int, float)) and isinstance(two, float) and not isinstance(one, bool):
        return math.isclose(one, two, rel_tol=1e-9)
    if value is None:
        return wanted in ("null", "none", "–")
    return fnmatch.fnmatchcase(text_of(value), wanted)


def _number(value: Any) -> Any:
    """A text that reads as a number as that number; anything else as it is."""
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value
