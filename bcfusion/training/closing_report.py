"""What a run prints at its end: where its files are, why it ended, what low scores mean, and what to type next."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from lightning import Trainer
from omegaconf import DictConfig, OmegaConf

from bcfusion.configuration.machine import CPU, GPU
from bcfusion.evaluation.scores import Scores
from bcfusion.evaluation.systems import ENHANCED
from bcfusion.run.layout import RunDir
from bcfusion.training.callbacks.early_stopping import EarlyStopping
from bcfusion.training.callbacks.progress import rounded
from bcfusion.training.module import SpeechModule
from bcfusion.training.selection import Selection

__all__ = ["below_input", "ended_because", "next_commands", "patience_key", "root_of"]

USUAL_MINUTES = {CPU: 9, GPU: 60}  #: of a run without a number of steps, as in conf/machine and conf/train.yaml


def ended_because(trainer: Trainer) -> str | None:
    """Return why training ended, as the callback says that ended it; None if nothing was trained."""
    callbacks: list[object] = list(trainer.callbacks)  # type: ignore[attr-defined]
    reasons = [getattr(callback, "reason", None) for callback in callbacks]
    return next((reason for reason in reversed(reasons) if isinstance(reason, str)), None)


def below_input(
    scores: Scores, cfg: DictConfig, module: SpeechModule, minutes: float, steps_within: Callable[[float], int | None]
) -> Iterator[str]:
    """Yield lines that explain scores below those of the input: how short the run was and who has not joined yet.

    Args:
        scores: of the closing evaluation.
        cfg: of the run.
        module: the module that was trained; its step counts.
        minutes: that the run took until its closing evaluation.
        steps_within: returns how many steps fit into a number of seconds, None if it is not known.
    """
    selection = Selection(cfg.selection)
    before, after = scores.mean(scores.systems[-2]), scores.mean(ENHANCED)  # the last sensor, as in validations
    unusable = selection.unusable(before) or selection.unusable(after)
    if unusable or not module.step or selection.score(after) >= selection.score(before):
        return
    worse = [
        name
        for name, criterion in selection.criteria.items()
        if (after[name] - before[name]) * (criterion.best - criterion.worst) < 0
    ]
    pairs = ", ".join(f"{name} {after[name]:.3f} against {before[name]:.3f}" for name in worse)
    yield f"The output scores below the input: {pairs}."
    steps = cfg.trainer.max_steps
    usual = USUAL_MINUTES[cfg.machine]
    if steps is not None and cfg.machine == GPU:
        if module.step < 0.8 * steps:
            yield f"  The run was short: {module.step} of the {steps} steps of its recipe (trainer.max_steps)."
    elif minutes < 0.8 * usual:
        further = steps_within(60 * (usual - minutes))
        about = "" if further is None else f", about {rounded(module.step + further)} steps at this rate"
        done = f"{module.step} {'step' if module.step == 1 else 'steps'} in {minutes:.1f} minutes"
        yield f"  The run was short: {done}; usual are {usual:g} minutes{about}."
    start = 0 if module.adversary is None else module.adversary.schedule.start_step * module.optimization.accumulate
    if module.step < start:
        yield f"  The discriminators have not joined: they do so at step {start} (adversarial.start_step)."


def next_commands(run: RunDir, cfg: DictConfig, pictures: bool, reason: str | None, step: int) -> Mapping[str, str]:
    """Return commands to type after a run, ready to be pasted, by what they do.

    Args:
        run: the run directory.
        cfg: its configuration.
        pictures: whether the run has written samples.
        reason: why training ended, of :func:`ended_because`.
        step: number of steps trained.
    """
    path = shlex.quote(str(run.path))
    sounds = sorted(run.samples.glob("*.input.wav")) if pictures else []
    if len(cfg.task.sensors) > 1:
        recording = " ".join(f"--sensor {sensor}=FOLDER" for sensor in cfg.task.sensors)
    else:
        recording = shlex.quote(str(sounds[0])) if sounds else "RECORDING.wav"
    commands = {
        "listen": f"bcfusion listen {path}",
        "enhance": f"bcfusion enhance {path} {recording}",
        "compare": f"bcfusion compare {shlex.quote(str(root_of(run.path)))}",
    }
    if reason is None or not step:
        return commands
    longer = []  # both may have ended the run at once
    if cfg.trainer.max_steps is not None and step >= cfg.trainer.max_steps:
        longer.append(f"trainer.max_steps={2 * step}")
    if reason.startswith("early stopping"):
        key = patience_key(cfg)
        longer.append(f"{key}={2 * OmegaConf.select(cfg, key, default=EarlyStopping().patience)}")
    if not longer and cfg.budget.minutes is not None:
        longer.append(f"budget.minutes={2 * cfg.budget.minutes:g}")
    return {**commands, "continue": " ".join([run.resume_command, *longer])}


def patience_key(cfg: DictConfig) -> str:
    """Return the key of the patience of early stopping, whatever its entry is called."""
    entries = cfg.callbacks.items()
    name = next((name for name, node in entries if str(node._target_).endswith(".EarlyStopping")), "early_stopping")
    return f"callbacks.{name}.patience"


def root_of(run_dir: Path) -> Path:
    """Return the folder of all runs that belong together, for TensorBoard and ``bcfusion compare``."""
    return run_dir.parent if run_dir.is_absolute() else Path(*run_dir.parts[:1])
