"""``debug=replay``: repeat the step that ended a run because it was not finite, and show where that began."""

from __future__ import annotations

import math
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count, takewhile
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer, seed_everything
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn
from torch.utils.data import DataLoader

from bcfusion.configuration.moved import with_current_targets
from bcfusion.contracts import Anchor
from bcfusion.errors import ConfigError, TrainingError
from bcfusion.run import checkpoint
from bcfusion.run.layout import RunDir
from bcfusion.training import device
from bcfusion.training.assemble import build_module
from bcfusion.training.guard import NonFiniteSteps
from bcfusion.training.initial_state import restore_networks, restore_session
from bcfusion.training.module import SpeechModule
from bcfusion.training.non_finite import Fault, Watcher

__all__ = ["Replay", "replay"]

_SHOWN = 16  #: items of a batch in the text


@dataclass
class Replay:
    """What the repetition of a step has shown.

    Attributes:
        run: the run that it ended.
        step: its number; with accumulation that of its last batch.
        bad: whether it was not finite here either.
        rank: the process of the run whose batches these are.
        batches: lines about the items of each batch.
        weights: names of the parameters that were not finite before the step.
        values: what each batch logged, by tag.
        differences: values that differ from those of the run, one line each; empty: it was repeated bit for bit.
        gradients: norm of each loss's own gradient at the generator's output, by loss, of the last batch.
        faults: what was not finite first: an output, a gradient, the gradient of a parameter.
        operation: the operation whose gradient was NaN, and the lines of code that called it; empty: none was.
        largest: the parameter with the largest finite gradient, and that gradient.
    """

    run: RunDir
    step: int
    bad: bool = False
    rank: int = 0
    batches: list[list[str]] = field(default_factory=list)
    weights: list[str] = field(default_factory=list)
    values: list[dict[str, float]] = field(default_factory=list)
    differences: list[str] = field(default_factory=list)
    gradients: dict[str, float] = field(default_factory=dict)
    faults: dict[str, Fault] = field(default_factory=dict)
    operation: str = ""
    largest: tuple[str, float] = ("", 0.0)

    def text(self) -> str:
        """Return everything for people to read."""
        lines = [f"Step {self.step} of {self.run.path}, repeated from {self.run.diverged(self.rank)}"]
        for number, items in enumerate(self.batches, 1):
            lines += [f"\nBatch {number} of {len(self.batches)}" if len(self.batches) > 1 else "\nBatch", *items]
        if self.weights:
            lines.append(f"\nNot finite before the step: {', '.join(self.weights[:8])}")
        lines.append("\nLosses, and the norm of each one's gradient at the output of the generator")
        for name, value in self._losses().items():
            norm = self.gradients.get(name.removeprefix("loss/"))
            lines.append(f"  {name:<32}{_number(value):>12}" + ("" if norm is None else f"{_number(norm):>12}"))
        lines.append("\nNot finite first")
        lines += [f"  {kind + ':':<11}{fault}" for kind, fault in self.faults.items()]
        if not self.faults:
            name, size = self.largest
            lines.append(f"  nothing but the norm of all gradients together: the largest is {size:.3g}, of {name}")
        if self.operation:
            lines += ["  operation: " + self.operation.replace("\n", "\n    ")]
        if self.differences:
            lines += ["\nOther values than in the run, on another device or with other libraries:", *self.differences]
        else:
            lines.append("\nAll values are those of the run, bit for bit")
        return "\n".join(lines)

    def _losses(self) -> dict[str, float]:
        """Return the losses of the first batch in which one is not finite, else of the last."""
        chosen = [{k: v for k, v in values.items() if "loss" in k} for values in self.values]
        return next((each for each in chosen if not all(map(math.isfinite, each.values()))), chosen[-1])


def replay(run: RunDir, accelerator: str = "auto") -> Replay:
    """Repeat the step that ended a run, in its state before that step, and find what became non-finite first.

    The networks, optimisers, random states and batches are those that the run has left in ``diverged``; the
    configuration is the run's own. One process computes on one device, without ``trainer.compile``; of a run of several
    processes, the batches of each are tried until one shows a fault.

    Args:
        run: the run.
        accelerator: ``trainer.accelerator``.

    Raises:
        ConfigError: the run has left no step.
        CheckpointError: its files are damaged.
        TrainingError: the step is finite here.
    """
    if not run.diverged().is_file():
        raise ConfigError(
            [
                f"debug=replay: {run.path} holds no {run.diverged().relative_to(run.path)}, which a run has after too "
                "many non-finite steps in a row (trainer.max_bad_steps) have ended it"
            ]
        )
    content: dict[str, Any] = {}
    bad: list[Replay] = []
    for rank in takewhile(lambda rank: run.diverged(rank).is_file(), count()):
        content |= checkpoint.read(run.diverged(rank))  # those above 0 share the networks of rank 0
        found = _Repetition(run, rank, content, accelerator).found()
        bad += [found] if found.bad else []
        if found.bad and (found.faults or found.weights):
            return found
    if not bad:
        raise TrainingError(
            f"debug=replay: the step that ended {run.path} is finite here: run.json there names the device and the "
            "versions with which it was not"
        )
    return bad[0]


class _Repetition:
    """One step of one process of a run, repeated once, and again in anomaly mode if a gradient was NaN."""

    def __init__(self, run: RunDir, rank: int, content: Mapping[str, Any], accelerator: str) -> None:
        self.run, self.rank, self.content = run, rank, content
        cfg = OmegaConf.create(with_current_targets(content["config"]))
        assert isinstance(cfg, DictConfig)
        self.cfg = cfg
        self.cfg.trainer.accelerator = accelerator

    def found(self) -> Replay:
        """Repeat the step and return what it shows."""
        device.configure(self.cfg.trainer)
        threads = torch.get_num_threads()
        torch.set_num_threads(self.content["threads"])  # sums depend on it
        try:
            seed_everything(self.cfg.seed, workers=False, verbose=False)
            return self._found()
        finally:
            torch.set_num_threads(threads)

    def _found(self) -> Replay:
        step = int(self.content["step"]) + len(self.content["batches"]) - 1
        result = Replay(self.run, step, rank=self.rank)
        result.batches = [_items(batch, self.cfg) for batch in self.content["batches"]]
        module, _ = build_module(self.cfg)
        restore_networks(module, self.content, self.run.diverged(self.rank))
        networks = _networks(module)
        for root, network in networks.items():
            named = ((name, p) for name, p in network.named_parameters() if not bool(p.isfinite().all()))
            result.weights += [f"{root}.{name}" for name, _ in named]
        watcher = Watcher(networks)
        begin = _Begin(self.content, lambda name, norm: result.gradients.__setitem__(name, norm))
        with watcher.watching():
            result.bad = self._fit(module, begin)
        if module.kept is None:  # the step was finite
            return result
        result.values = module.kept.values()
        result.differences = _differences(self.content["values"], result.values)
        kinds = {"output": watcher.forward, "gradient": watcher.backward, "parameter": watcher.parameter}
        result.faults = {kind: fault for kind, fault in kinds.items() if fault is not None}
        result.largest = watcher.largest
        if watcher.backward is not None:
            result.operation = self._operation()
        return result

    def _operation(self) -> str:
        """Return the operation in whose backward pass a NaN arose, with the code that called it; empty: none did."""
        module, _ = build_module(self.cfg)
        restore_networks(module, self.content, self.run.diverged(self.rank))
        said: list[str] = []
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                self._fit(module, _Begin(self.content), anomalies=True)
            except RuntimeError as error:
                if "returned nan values" not in str(error):
                    raise
                said.append(str(error))
            calls = [str(each.message) for each in caught if "Traceback of forward call" in str(each.message)]
        return "\n".join([*said[:1], *(line for call in calls[:1] for line in _last_calls(call))])

    def _fit(self, module: SpeechModule, begin: _Begin, anomalies: bool = False) -> bool:
        """Train on the batches; return whether the step was bad, as in the run."""
        batches = self.content["batches"]
        with tempfile.TemporaryDirectory() as scratch, warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"lightning\.")
            trainer = Trainer(
                accelerator=self.cfg.trainer.accelerator,
                devices=1,
                precision=self.cfg.trainer.precision,
                max_epochs=1,
                limit_train_batches=len(batches),
                limit_val_batches=0,
                logger=False,
                callbacks=[begin],
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
                default_root_dir=scratch,
                detect_anomaly=anomalies,
            )
            loader: Any = DataLoader(batches, batch_size=None, collate_fn=lambda one: one)
            try:
                trainer.fit(module, train_dataloaders=loader)
            except NonFiniteSteps:
                return True
            finally:
                module.close()
        return False


class _Begin(Callback):
    """Restores the state before the step, and before each batch the random numbers.

    Args:
        content: of the file that the run has left.
        measured: called with each loss and the norm of its gradient; None: losses are not measured one by one.
    """

    def __init__(self, content: Mapping[str, Any], measured: Callable[[str, float], None] | None = None) -> None:
        self._content = content
        self._measured = measured

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        assert isinstance(module, SpeechModule)
        restore_session(module, trainer, self._content)
        if self._measured is not None:
            module.balancer = _Measured(module.balancer, self._measured)

    def on_train_batch_start(self, trainer: Trainer, module: LightningModule, batch: Any, batch_idx: int) -> None:
        checkpoint.restore_random_states(self._content["batch_random"][batch_idx])


class _Measured(nn.Module):
    """A balancer that measures each loss's gradient before it does its own work."""

    def __init__(self, balancer: Any, measured: Callable[[str, float], None]) -> None:
        super().__init__()
        self.anchor = getattr(balancer, "anchor", None)
        self._balancer = (balancer,)
        self._measured = measured

    def backward(
        self,
        losses: Mapping[str, Tensor],
        weights: Mapping[str, float],
        anchor: Anchor,
        backward: Callable[[Tensor], None],
    ) -> Mapping[str, float | Tensor]:
        for name, loss in losses.items():
            self._measured(name, float(torch.linalg.vector_norm(anchor.gradient(loss))))
        shares: Mapping[str, float | Tensor] = self._balancer[0].backward(losses, weights, anchor, backward)
        return shares


def _networks(module: SpeechModule) -> dict[str, nn.Module]:
    """Return what takes part in a step, by the names that configurations have for it."""
    networks: dict[str, nn.Module] = {"generator": module.generator}
    if module.adversary is not None:
        networks |= {f"discriminators.{name}": each for name, each in module.adversary.discriminators.items()}
    networks |= {f"critics.{name}": critic.network for name, critic in module.critics.items()}
    return networks | {f"losses.{name}": loss for name, loss in module.losses.items()}


def _items(batch: Mapping[str, Any], cfg: DictConfig) -> list[str]:
    """Return a line about each item: how loud its signals are, what is not finite in them, where it comes from."""
    lines = []
    names = [*map(str, cfg.task.sensors), "target"]
    for place, name in enumerate(batch["ids"][:_SHOWN]):
        length = int(batch["lengths"][place])
        signals = [*batch["inputs"][place, :, :length], batch["target"][place, 0, :length]]
        said = [f"{sensor} {_level(signal)}" for sensor, signal in zip(names, signals, strict=True)]
        origin = batch.get("origins", [""] * len(batch["ids"]))[place]
        lines.append(
            f"  {name}: {length / cfg.sample_rate:.3f} s, {', '.join(said)}" + (f"; {origin}" if origin else "")
        )
    left = len(batch["ids"]) - _SHOWN
    return [*lines, *([f"  and {left} more"] if left > 0 else [])]


def _level(signal: Tensor) -> str:
    """Return level and peak of a signal in words, and what of it is not finite."""
    finite = signal[signal.isfinite()]
    if bad := signal.numel() - finite.numel():
        return f"not finite in {bad} of {signal.numel()} samples"
    power = float(finite.double().square().mean()) if finite.numel() else 0.0
    return f"{10 * math.log10(power):.1f} dB, peak {float(finite.abs().max()):.3g}" if power else "silent"


def _number(value: float) -> str:
    return f"{value:.6g}"


def _differences(before: Sequence[Mapping[str, float]], now: Sequence[Mapping[str, float]]) -> list[str]:
    """Return one line for each value that is not the same, NaN being the same as NaN."""
    lines = []
    for old, new in zip(before, now, strict=True):
        for tag in dict.fromkeys([*old, *new]):
            was, here = old.get(tag, math.nan), new.get(tag, math.nan)
            same = was == here or (math.isnan(was) and math.isnan(here)) or tag.endswith("/waiting")
            lines += [] if same else [f"  {tag}: was {was!r}, is {here!r}"]
    return lines


def _last_calls(trace: str) -> list[str]:
    """Return the innermost calls of a traceback that are not PyTorch's own, with their lines of code."""
    lines = trace.splitlines()
    calls = [
        (line.strip(), following.strip())
        for line, following in zip(lines, [*lines[1:], ""], strict=True)
        if line.lstrip().startswith("File ") and "/site-packages/" not in line
    ]
    return [f"{place}: {code}" for place, code in calls[-3:]]
