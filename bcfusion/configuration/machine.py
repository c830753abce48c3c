"""Whose settings an experiment has: the published ones, or those that make it affordable on a CPU.

``conf/experiment/NAME.yaml`` is the published recipe, ``conf/experiment/cpu/NAME.yaml`` what a CPU needs instead. On
the command line ``experiment=NAME`` means the second if there is no GPU; ``machine=cpu`` and ``machine=gpu`` choose.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bcfusion.configuration.paths import conf_dir, group_members
from bcfusion.errors import ConfigError

if TYPE_CHECKING:
    from hydra.core.override_parser.types import Override

__all__ = ["CPU", "GPU", "announcement", "as_typed", "for_machine", "minutes_without", "published_name"]

CPU, GPU, AUTO = "cpu", "gpu", "auto"
_PREFIX = f"{CPU}/"


def published_name(experiment: Any) -> Any:
    """Return the name of an experiment as it is typed, whichever machine's settings were chosen."""
    return experiment.removeprefix(_PREFIX) if isinstance(experiment, str) else experiment


def has_cpu_settings(experiment: str, extra_dirs: Iterable[Path] = ()) -> bool:
    """Return whether ``experiment/cpu`` of the shipped or a further folder has a file of this name."""
    return any((folder / "experiment" / CPU / f"{experiment}.yaml").is_file() for folder in (conf_dir(), *extra_dirs))


def for_machine(
    overrides: Sequence[str], on_gpu: Callable[[str], bool], extra_dirs: Iterable[Path] = (), *, sweeping: bool = True
) -> list[str]:
    """Return overrides that choose the machine, and of each experiment the file for it.

    Applied to its own result it changes nothing.

    Args:
        overrides: as typed. ``machine=auto`` and no ``machine`` mean the same.
        on_gpu: returns whether a run uses a GPU, given ``trainer.accelerator``.
        extra_dirs: folders of the user's own group members.
        sweeping: whether a key may have several values; without it they are left as they are, for Hydra to refuse.

    Raises:
        ConfigError: ``machine`` has another or several values, or contradicts the experiment.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import OverrideParseException

    extra_dirs = list(extra_dirs)
    try:
        parsed = OverridesParser.create().parse_overrides(list(overrides))
    except OverrideParseException:
        return list(overrides)  # Hydra says what is wrong with it
    typed = _machine([each for each in parsed if each.key_or_group == "machine"])
    others = [each for each in parsed if each.key_or_group != "machine"]
    chosen = [name for each in others if _chooses(each) for name in _names(each, extra_dirs)]
    of_cpu = [name for name in chosen if name.startswith(_PREFIX)]
    if typed == GPU and of_cpu and len(of_cpu) == len(chosen):
        raise ConfigError([f"machine={GPU}: experiment={of_cpu[0]} has the settings of a CPU", f"write machine={CPU}"])
    machine = typed
    if machine == AUTO:
        accelerator = next((str(each.value()) for each in reversed(others) if _sets_accelerator(each)), "auto")
        machine = GPU if on_gpu(accelerator) else CPU
    if machine == GPU:
        if of_cpu and len(of_cpu) < len(chosen):
            return [str(each.input_line) for each in others]  # a sweep over both: each file chooses its own
        return [*(str(each.input_line) for each in others), f"machine={CPU if of_cpu else GPU}"]
    written = [
        each.input_line if each.is_sweep_override() and not sweeping else _for_cpu(each, extra_dirs) for each in others
    ]
    return [*map(str, written), f"machine={CPU}"]


def as_typed(overrides: Sequence[str], machine: str) -> list[str]:
    """Return the overrides of a job so that :func:`for_machine` can be given them again, with the chosen machine."""
    names = [
        f"experiment={published_name(override.partition('=')[2])}" if override.startswith("experiment=") else override
        for override in overrides
        if not override.startswith("machine=")
    ]
    return [*names, f"machine={machine}"]


def minutes_without(max_steps: Any, minutes: float) -> float | None:
    """Return ``minutes`` for a run without a number of steps, and None for one that ends after ``max_steps``."""
    return minutes if max_steps is None else None


def announcement(cfg: Mapping[str, Any], experiment: str, why: str) -> str:
    """Return the line that says that a run does not have the published settings of its experiment.

    Args:
        cfg: the composed configuration.
        experiment: its name as typed.
        why: the reason, such as "no GPU".
    """
    return f"{why}: CPU settings of experiment={experiment}: {settings(cfg)}; machine={GPU} keeps the published ones"


def settings(cfg: Mapping[str, Any]) -> str:
    """Return what differs most between machines: batch, crop, when the discriminators join, and the length."""
    parts = [f"batch {cfg['data']['batch_size']} x {cfg['data']['segment_seconds']:g} s"]
    parts.append(f"losses {', '.join(cfg['losses'])}")
    if cfg["discriminators"]:
        parts.append(f"discriminators from step {cfg['adversarial']['start_step']}")
    if cfg.get("critics"):
        parts.append(f"critics {', '.join(cfg['critics'])}")
    if cfg["trainer"]["max_steps"] is not None:
        parts.append(f"{cfg['trainer']['max_steps']} steps")
    if cfg["budget"]["minutes"] is not None:
        parts.append(f"{cfg['budget']['minutes']:g} minutes")
    return ", ".join(parts)


def _machine(typed: Sequence[Override]) -> str:
    """Return the machine that the overrides ask for; the last one counts."""
    if not typed:
        return AUTO
    value = typed[-1].value()
    if typed[-1].is_sweep_override():
        raise ConfigError(
            [
                "machine: has one value in a sweep",
                f"write experiment=NAME,{_PREFIX}NAME machine={GPU} to sweep over both settings of an experiment",
            ]
        )
    if value not in (AUTO, CPU, GPU):
        raise ConfigError([f"machine: must be one of {AUTO}, {CPU}, {GPU}, not {value}"])
    return str(value)


def _chooses(override: Override) -> bool:
    return override.key_or_group == "experiment" and not override.is_delete() and override.value() is not None


def _sets_accelerator(override: Override) -> bool:
    return override.key_or_group == "trainer.accelerator" and not override.is_sweep_override()


def _names(override: Override, extra_dirs: Sequence[Path]) -> list[str]:
    """Return the experiments that an override names, of a sweep all."""
    from hydra.core.override_parser.types import Glob

    if isinstance(pattern := override.value(), Glob):
        return list(pattern.filter(group_members("experiment", extra_dirs)))
    if override.is_choice_sweep():
        return [str(name).strip("'\"") for name in override.sweep_string_iterator()]
    return [str(override.value())]


def _for_cpu(override: Override, extra_dirs: Sequence[Path]) -> str:
    if not _chooses(override) or (override.is_sweep_override() and not override.is_discrete_sweep()):
        return str(override.input_line)
    names = [
        f"{_PREFIX}{name}" if has_cpu_settings(name, extra_dirs) else name for name in _names(override, extra_dirs)
    ]
    return f"{override.get_key_element()}={','.join(names)}" if names else str(override.input_line)
