"""Settings in which runs differ, and short names made of them."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence

from bcfusion.configuration.locations import is_path_key
from bcfusion.configuration.values import OF_A_SESSION, at, leaves
from bcfusion.report.comparison.keys import setting, text_of
from bcfusion.report.comparison.run import Run

__all__ = ["changed_keys", "run_names", "shortened"]

# Where a run is stored, and which run it resumes, does not distinguish systems.
_NO_DIFFERENCE = ("output_root", "resume", "recipe", "experiment")
_LONGEST_DIFFERENCE = 40  # characters after the name of the experiment
_LONGEST_VALUE = 24  # characters of one value in a name
# What says which task a run has, whatever it was trained with: compared between experiments too.
_TASK_GROUPS = ("data", "degradation")


def changed_keys(runs: Sequence[Run]) -> list[str]:
    """Return the keys whose values differ among the runs, typed ones first.

    Keys that come with a chosen member are not listed: between ``generator=eben`` and ``generator=seanet`` the choice
    itself is the difference. A key that was not typed is listed if runs of the same choices differ in it, as after an
    edit of a YAML file; or if it is a part of the task (``sample_rate``, ``narrow_rate``, ``degradation`` and its keys,
    where the data are), which an experiment may set. It is not listed if it follows from another key by interpolation
    or if a run does not have it yet.
    """
    typed = [key for key in dict.fromkeys(key for run in runs for key in run.overrides) if key not in _NO_DIFFERENCE]
    listed: dict[str, tuple[str, ...]] = {}

    def values(key: str) -> tuple[str, ...]:
        texts = tuple(text_of(setting(run, key)) for run in runs)
        if is_path_key(key):  # as typed, in a run that failed before it wrote its configuration
            return tuple(next((full for full in texts if full.endswith(f"/{text}")), text) for text in texts)
        return texts

    for key in typed:
        texts = values(key)
        if len(set(texts)) > 1:
            listed[key] = texts
    for key in dict.fromkeys(_edited(runs)):
        if key.partition(".")[0] in _NO_DIFFERENCE or any(f"{key}.".startswith(f"{other}.") for other in listed):
            continue
        texts = values(key)
        if len(set(texts)) > 1 and texts not in listed.values():
            listed[key] = texts
    return list(listed)


def _edited(runs: Sequence[Run]) -> Iterator[str]:
    """Yield the keys of the task in which runs differ, and what differs between runs of one experiment."""
    written = [run for run in runs if run.record]
    yield from _task_keys(written)
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
            yield from _differing(alike)


def _differing(runs: Sequence[Run], counts: Callable[[str], bool] = lambda key: True) -> Iterator[str]:
    """Yield the keys in which runs that have them differ, without those that follow from others."""
    flat = [dict(leaves(run.settings)) for run in runs]
    for key in dict.fromkeys(key for settings in flat for key in settings if counts(key)):
        held = [settings[key] for settings in flat if settings.get(key) is not None]
        if any(value != held[0] for value in held[1:]) and "${" not in str(at(runs[0].composed, key, None)):
            yield key


def _task_keys(runs: Sequence[Run]) -> Iterator[str]:
    """Yield the keys that describe a task in which runs differ: root keys, and the members of two groups."""
    if len(runs) < 2:
        return
    yield from _differing(runs, lambda key: "." not in key and key not in OF_A_SESSION)
    for group in _TASK_GROUPS:
        if len({str(run.choices.get(group)) for run in runs}) > 1:
            yield group
        else:
            yield from _differing(
                runs,
                lambda key, group=group: (  # type: ignore[misc]
                    key.startswith(f"{group}.")
                    and not key.endswith("._target_")
                    and (group != "data" or is_path_key(key) or key.startswith("data.corpus."))
                ),
            )


def shortened(text: str, width: int) -> str:
    """Return a text of at most ``width`` characters, cut in the middle: names often differ at their ends."""
    if len(text) <= width:
        return text
    end = (width - 1) // 2
    return f"{text[: width - 1 - end]}…{text[len(text) - end :]}"


def run_names(runs: Sequence[Run]) -> list[str]:
    """Return a short, unique name for each run: ``seanet``, or with what differs ``seanet lr=0.001``."""
    bases = [str(run.experiment or run.choices.get("generator") or "run") for run in runs]
    for base in {base for base in bases if bases.count(base) > 1}:
        places = [place for place, other in enumerate(bases) if other == base]
        if len({runs[place].recipe for place in places}) > 1:
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
    """Return ``lr=0.001 seed=1`` for each run: the fewest keys that distinguish the runs, by their number of values."""
    keys = changed_keys(runs)
    values = {key: [shortened(text_of(setting(run, key)), _LONGEST_VALUE) for run in runs] for key in keys}
    short = Counter(key.rpartition(".")[2] for key in keys)
    heads = {key: last if short[last := key.rpartition(".")[2]] == 1 else key for key in keys}
    chosen: list[str] = []
    texts = [""] * len(runs)
    for longest in (_LONGEST_DIFFERENCE, 2 * _LONGEST_DIFFERENCE):  # rather a long name than the same one twice
        for key in sorted(keys, key=lambda key: -len(set(values[key]))):
            kept = [other for other in keys if other in chosen or other == key]
            longer = [" ".join(f"{heads[k]}={values[k][place]}" for k in kept) for place in range(len(runs))]
            if len(set(longer)) > len(set(texts)) and max(map(len, longer)) <= longest:
                chosen, texts = kept, longer
        if len(set(texts)) == len(texts):
            break
    return texts
