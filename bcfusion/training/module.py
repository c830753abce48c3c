"""The Lightning module: a generator, its losses, an optional adversary, two optimisers, one step count.

Optimisation is manual. ``step`` counts batches: schedules, checkpoints, logs and budgets go by it, since Lightning's
``global_step`` counts every optimiser's steps.
"""

from __future__ import annotations

import inspect
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from lightning import LightningModule
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from bcfusion.contracts import Balancer, Batch
from bcfusion.errors import ConfigError, TrainingError
from bcfusion.evaluation.evaluate import enhance_item
from bcfusion.training.adversary import Adversary, Pair, detached
from bcfusion.training.anchor import OUTPUT, OutputAnchor, anchor_parameter
from bcfusion.training.ema import EmaGenerator
from bcfusion.training.statistics import average_running_statistics

JUDGEMENTS = frozenset({"estimate_judgements", "target_judgements"})
BATCH_NAMES = frozenset({"inputs", "target", "lengths"})
NETWORKS = ("generator", "discriminator")

OptimizerFactory = Callable[[Iterable[nn.Parameter]], Optimizer]
SchedulerFactory = Callable[[Optimizer], LRScheduler]


@dataclass
class Optimization:
    """How the two networks are optimised.

    Attributes:
        optimizers, schedulers, clip: by network, ``generator`` and ``discriminator``; a clip of None only measures.
        accumulate: batches whose gradients make one optimiser step.
        max_bad_steps: so many steps with a non-finite gradient in a row end the run.
    """

    optimizers: Mapping[str, OptimizerFactory]
    schedulers: Mapping[str, SchedulerFactory | None] = field(default_factory=dict)
    clip: Mapping[str, float | None] = field(default_factory=dict)
    accumulate: int = 1
    max_bad_steps: int = 10


class SpeechModule(LightningModule):
    """Trains a generator by weighted losses and, where there is one, against an adversary.

    Args:
        generator: fulfils :class:`bcfusion.contracts.Generator`.
        losses: by name; their ``forward`` asks by argument name for entries of the batch, of the generator's output, or
            for ``estimate_judgements`` and ``target_judgements``.
        weights: by the same names; a loss of weight 0 is computed without graph and logged.
        balancer: makes one gradient of the losses.
        adversary: None trains by regression.
        optimization: optimisers, schedulers, clipping, accumulation.
        ema_decay: of the averaged generator; None: none is kept.
        batch_names: further keys of a batch that losses may ask for (``noise``).

    Raises:
        ConfigError: a loss asks for what nobody provides.
    """

    def __init__(
        self,
        generator: nn.Module,
        losses: Mapping[str, nn.Module],
        weights: Mapping[str, float],
        balancer: Balancer,
        optimization: Optimization,
        adversary: Adversary | None = None,
        ema_decay: float | None = None,
        batch_names: Iterable[str] = (),
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.generator = generator
        self.losses = nn.ModuleDict(losses)
        self.weights = {name: float(weights[name]) for name in losses}
        self.balancer = balancer
        self.adversary = adversary
        self.optimization = optimization
        self.ema = None if ema_decay is None else EmaGenerator(generator, ema_decay)
        #: what the data still does to a batch when it is on the device: that of the datamodule, which Lightning would
        #: ask itself if it were handed to the trainer whole
        self.complete_batch: Callable[[Batch, int], Batch] | None = None
        self.step = 0
        self.skipped_steps = dict.fromkeys(NETWORKS, 0)
        self._bad_in_a_row = 0
        self._window_bad = False
        self._ids: list[tuple[int, list[str]]] = []  # step and ids of the batches of this window
        self._bad_batches: list[tuple[int, list[str]]] = []  # those of the bad windows in a row
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = defaultdict(int)
        self._asks = {name: tuple(inspect.signature(loss.forward).parameters) for name, loss in losses.items()}
        self._compares_judgements = any("target_judgements" in asks for asks in self._asks.values())
        # in a tuple: the parameter belongs to the generator, and is not to be registered here as well
        self._anchor_parameter = (anchor_parameter(generator, getattr(balancer, "anchor", OUTPUT)),)
        self._check_names(frozenset(batch_names))

    def _check_names(self, batch_names: frozenset[str]) -> None:
        provided = BATCH_NAMES | batch_names | {"estimate"} | set(getattr(self.generator, "provides", ()))
        if self.adversary is not None:
            provided |= JUDGEMENTS
        problems = [
            f"losses.{name}: asks for {', '.join(sorted(set(asks) - provided))}, which neither the batch nor "
            f"{type(self.generator).__name__} provides"
            for name, asks in self._asks.items()
            if not set(asks) <= provided
        ]
        if problems:
            raise ConfigError(problems)

    @property
    def best_generator(self) -> nn.Module:
        """The generator that is validated and shipped: the average where one is kept."""
        return self.generator if self.ema is None else self.ema.network

    # ---------------------------------------------------------------- optimisers

    def configure_optimizers(self) -> list[Optimizer]:
        """One optimiser for the generator and, with an adversary, one for the discriminators.

        Schedulers are kept and stepped here: Lightning never steps them in manual optimisation.
        """
        optimizers = [self.optimization.optimizers["generator"](self.generator.parameters())]
        if self.adversary is not None:
            optimizers.append(self.optimization.optimizers["discriminator"](self.adversary.parameters()))
        self.schedulers: dict[str, LRScheduler] = {}
        for network, optimizer in zip(NETWORKS, optimizers, strict=False):
            make = self.optimization.schedulers.get(network)
            if make is not None:
                self.schedulers[network] = make(optimizer)
        return optimizers

    def _optimizer(self, network: str) -> Any:
        optimizers = self.optimizers()
        return optimizers[NETWORKS.index(network)] if isinstance(optimizers, list) else optimizers

    def _optimizer_step(self, network: str, parameters: Iterable[nn.Parameter]) -> bool:
        """Clips, steps and clears; a step with a non-finite gradient is left out. Returns whether it was taken."""
        optimizer = self._optimizer(network)
        limit = self.optimization.clip.get(network)
        norm = torch.nn.utils.clip_grad_norm_(parameters, float("inf") if limit is None else limit)
        finite = bool(torch.isfinite(norm))  # the one synchronisation of a step: the decision has to be the host's
        if finite:
            optimizer.step()
            if network in self.schedulers:
                self.schedulers[network].step()
            self._note(f"gradient_norm/{network}", norm)
        else:
            self.skipped_steps[network] += 1
            self._window_bad = True
        optimizer.zero_grad(set_to_none=True)
        return finite

    # ---------------------------------------------------------------- training

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Completes a batch on the device, as with sensors that are simulated there."""
        return batch if self.complete_batch is None else self.complete_batch(batch, dataloader_idx)

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """One batch: the generator learns, the discriminators learn, in the order and at the steps of the adversary."""
        accumulate = self.optimization.accumulate
        window = self.step // accumulate  # index of the optimiser step; schedules go by it
        closes_window = (self.step + 1) % accumulate == 0
        adversary = self.adversary if self.adversary is not None and self.adversary.schedule.active(window) else None
        generator_learns = adversary is None or adversary.schedule.generator_learns(window)
        discriminators_learn = adversary is not None and adversary.schedule.discriminators_learn(window)

        target = batch["target"]
        with torch.set_grad_enabled(generator_learns):
            outputs = self._generate(self.generator, batch["inputs"])
        anchor = OutputAnchor(outputs, *self._anchor_parameter) if generator_learns else None
        outputs = outputs if anchor is None else anchor.outputs
        valid = torch.arange(target.shape[-1], device=target.device) < batch["lengths"].view(-1, 1, 1)
        estimate = outputs["estimate"] * valid

        both: Pair | None = None
        if adversary is not None and adversary.shared_passes and generator_learns and discriminators_learn:
            both = adversary.judge_for_both(estimate, target)
        # at a step in which one side alone learns there is no order
        generator_first = adversary is None or adversary.order == "generator_first" or not discriminators_learn
        if anchor is not None and generator_first:
            self._generator_learns(batch, anchor, estimate, window, both, first=True)
            if closes_window:
                self._generator_step()
        if adversary is not None and discriminators_learn:
            first = anchor is None or not generator_first
            judgements = both or adversary.judge_for_discriminators(estimate, target, first=first)
            loss = adversary.objective.discriminator(judgements.target, judgements.estimate)
            # shared judgements lead to the estimate as well: no gradient is spent on that here
            self.manual_backward(loss / accumulate, inputs=adversary.learning_parameters())
            self._note("discriminator/loss", loss)
            for name, value in adversary.health(judgements).items():
                self._note(f"discriminator/{name}", value)
            if closes_window:
                self._optimizer_step("discriminator", adversary.parameters())
        if anchor is not None and not generator_first:
            self._generator_learns(batch, anchor, estimate, window, None, first=False)
            if closes_window:
                self._generator_step()
        self._ids.append((self.step, list(batch["ids"])))
        if closes_window:
            self._count_bad()
        self.step += 1

    def _generator_step(self) -> None:
        """The generator's optimiser step; the average follows where it was taken."""
        taken = self._optimizer_step("generator", self.generator.parameters())
        average_running_statistics(self.generator)
        if taken and self.ema is not None:
            self.ema.update(self.generator)

    def _generator_learns(
        self, batch: Batch, anchor: OutputAnchor, estimate: Tensor, window: int, both: Pair | None, first: bool
    ) -> None:
        """The generator's losses and its backward pass.

        Args:
            anchor: holds the generator's outputs. estimate: that of the outputs, 0 behind each item's length.
            window: index of the optimiser step.
            both: judgements that serve both updates; None: the discriminators judge for the generator alone.
            first: whether those would be the first passes of this batch.
        """
        adversary = self.adversary if self.adversary is not None and self.adversary.schedule.active(window) else None
        names: dict[str, Any] = {**batch, **anchor.outputs}
        losses: dict[str, Tensor] = {}
        weights: dict[str, float] = {}
        ramp = 1.0
        if adversary is not None:
            ramp = adversary.schedule.ramp(window)
            if both is None:
                target = batch["target"] if self._compares_judgements else None
                judgements = adversary.judge_for_generator(estimate, target, first)
            else:
                judgements = Pair(both.estimate, detached(both.target))
            names |= {"estimate_judgements": judgements.estimate, "target_judgements": judgements.target}
            adversarial = adversary.objective.generator(judgements.estimate)
            self._note("loss/adversarial", adversarial)
            if adversary.weight != 0.0:
                losses["adversarial"], weights["adversarial"] = adversarial, ramp * adversary.weight
        for name, loss in self.losses.items():
            asks = self._asks[name]
            needs_adversary = bool(JUDGEMENTS.intersection(asks))
            if needs_adversary and adversary is None:
                continue  # it has not started yet
            weight = self.weights[name] * (ramp if needs_adversary else 1.0)
            if adversary is not None and name in adversary.warm_up_losses:
                weight *= 1.0 - ramp
            with torch.set_grad_enabled(weight != 0.0):
                value = loss(**{argument: names[argument] for argument in asks})
            self._note(f"loss/{name}", value)
            if weight != 0.0:
                losses[name], weights[name] = value, weight

        def backward(gradient: Tensor) -> None:
            anchor.backward(gradient / self.optimization.accumulate, self.manual_backward)

        shares = self.balancer.backward(losses, weights, anchor, backward)
        self._note("loss/total", sum((weights[name] * value for name, value in losses.items()), torch.zeros(())))
        for name, share in shares.items():
            self._note(f"share/{name}", share)

    def _generate(self, network: nn.Module, inputs: Tensor) -> dict[str, Tensor]:
        outputs = network(inputs)
        return outputs if isinstance(outputs, dict) else {"estimate": outputs}

    def _count_bad(self) -> None:
        self._bad_in_a_row = self._bad_in_a_row + 1 if self._window_bad else 0
        self._bad_batches = [*self._bad_batches, *self._ids] if self._window_bad else []
        self._ids = []
        self._window_bad = False
        if self._bad_in_a_row >= self.optimization.max_bad_steps:
            raise NonFiniteSteps(self._bad_in_a_row, self._bad_batches)

    # ---------------------------------------------------------------- log

    def _note(self, tag: str, value: Tensor | float) -> None:
        """Adds to the mean that the next log point shows; nothing leaves the device here."""
        value = value.detach().float() if isinstance(value, Tensor) else torch.tensor(float(value))
        self._sums[tag] = self._sums[tag] + value if tag in self._sums else value
        self._counts[tag] += 1

    def take_log(self) -> dict[str, float]:
        """Means of everything noted since the last call, learning rates and skipped steps."""
        values = {tag: float(total) / self._counts[tag] for tag, total in self._sums.items()}
        self._sums.clear()
        self._counts.clear()
        optimizers = self.optimizers()
        for network, optimizer in zip(
            NETWORKS, optimizers if isinstance(optimizers, list) else [optimizers], strict=False
        ):
            values[f"lr/{network}"] = float(optimizer.param_groups[0]["lr"])
            values[f"skipped_steps/{network}"] = float(self.skipped_steps[network])
        for name, count in getattr(self.balancer, "skipped", {}).items():
            values[f"skipped_losses/{name}"] = float(count)
        return values

    # ---------------------------------------------------------------- validation

    def validation_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The estimate ``(B, 1, T)`` of the averaged generator; the quality callback scores it."""
        estimates = [enhance_item(self.best_generator, inputs) for inputs in batch["inputs"]]
        return torch.stack([torch.from_numpy(estimate) for estimate in estimates]).unsqueeze(1)

    # ---------------------------------------------------------------- state beyond weights

    def training_state(self) -> dict[str, Any]:
        """What a resumed run needs besides weights and optimisers, as plain containers."""
        return {
            "step": self.step,
            "skipped_steps": dict(self.skipped_steps),
            "bad_in_a_row": self._bad_in_a_row,
            "schedulers": {name: scheduler.state_dict() for name, scheduler in self.schedulers.items()},
            "balancer": self.balancer.state_dict() if isinstance(self.balancer, nn.Module) else {},
        }

    def load_training_state(self, state: Mapping[str, Any]) -> None:
        """Takes up what :meth:`training_state` gave."""
        self.step = int(state["step"])
        self.skipped_steps.update(state["skipped_steps"])
        self._bad_in_a_row = int(state["bad_in_a_row"])
        for name, scheduler in self.schedulers.items():
            scheduler.load_state_dict(state["schedulers"][name])
        if isinstance(self.balancer, nn.Module):
            self.balancer.load_state_dict(state["balancer"])


class NonFiniteSteps(TrainingError):
    """Too many steps in a row had a non-finite gradient."""

    def __init__(self, count: int, batches: list[tuple[int, list[str]]]) -> None:
        self.batches = batches
        step, ids = batches[-1]
        super().__init__(
            f"{count} steps in a row up to step {step} had a non-finite gradient. Last batch: {', '.join(ids[:4])}"
            f"{', ...' if len(ids) > 4 else ''}\n"
            "Lower optimizer.lr, set trainer.clip.generator, or listen to these files."
        )
