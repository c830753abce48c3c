"""The Lightning module: a generator, its losses, an optional adversary and critics, their optimisers, one step count.

Optimisation is manual. ``step`` counts batches; schedules, checkpoints, logs and budgets go by it, since Lightning's
``global_step`` counts the steps of both optimisers.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from lightning import LightningModule
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from bcfusion.configuration.learning import critic_name_problems, loss_problems
from bcfusion.contracts import JUDGEMENTS, Balancer, Batch, asks_for
from bcfusion.errors import ConfigError
from bcfusion.evaluation.evaluate import enhance_item
from bcfusion.inference.chunks import measured_once
from bcfusion.nn.network import additional_lookahead, heard, outputs_to_learn_from, without_padding
from bcfusion.training.adversary import NOTHING, Adversary, Inside, Network, Pair, Turn, detached
from bcfusion.training.anchor import OUTPUT, OutputAnchor, anchor_parameter
from bcfusion.training.ema import EmaGenerator
from bcfusion.training.guard import StepGuard
from bcfusion.training.kept_step import KeptStep
from bcfusion.training.metric_gan import MetricGan
from bcfusion.training.optimization import NETWORKS, Optimization, fused_on_cpu
from bcfusion.training.ranks import average_running_statistics, gathered


class SpeechModule(LightningModule):
    """Trains a generator by weighted losses and, if there are any, against an adversary and by critics.

    It needs nothing but a Lightning ``Trainer`` and a loader of batches; see ``docs/library.md``.

    Args:
        generator: fulfils :class:`bcfusion.contracts.Generator`.
        losses: by name; the names of their ``forward``'s arguments select what they get: entries of the batch, of the
            generator's output, or ``estimate_judgements`` and ``target_judgements``.
        weights: by the same names; a loss of weight 0 is computed without a graph and logged.
        balancer: makes one gradient of the losses.
        optimization: optimisers, schedulers, clipping, accumulation.
        adversary: discriminators and their game; None: regression.
        ema_decay: decay of the averaged generator; None: no average is kept.
        critics: learn quality metrics, by name; each adds a loss of this name to those of the generator.
        batch_names: further keys of a batch that losses may ask for (``noise``).

    Attributes:
        step: number of batches trained on.
        kept: the present optimiser step, while the run ends if it is bad; else None.
        complete_batch: completes a batch after its transfer to the device, called with the batch and the index of its
            loader; None: batches arrive complete. It is the datamodule's hook, which Lightning calls by itself only if
            the trainer is given the datamodule.

    Raises:
        ConfigError: a loss asks for what nobody provides, or there is nothing to learn from.
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
        critics: Mapping[str, MetricGan] | None = None,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.generator = generator
        self.losses = nn.ModuleDict(losses)
        self.weights = {name: float(weights[name]) for name in losses}
        self.balancer = balancer
        self.adversary = adversary
        self.critics = dict(critics or {})
        self._critic_networks = nn.ModuleDict({name: critic.network for name, critic in self.critics.items()})
        self.optimization = optimization
        self.ema = None if ema_decay is None else EmaGenerator(generator, ema_decay)
        self.complete_batch: Callable[[Batch, int], Batch] | None = None
        self.step = 0
        self.kept: KeptStep | None = None
        self.schedulers: dict[Network, LRScheduler] = {}  # made with the optimisers
        self.guard = StepGuard([*NETWORKS, *self.critics], optimization.max_bad_steps)
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = defaultdict(int)
        self._losses_of_batch: list[Tensor] = []
        self._asks = {name: asks_for(loss) for name, loss in losses.items()}
        self._compares_judgements = any("target_judgements" in asks for asks in self._asks.values())
        # in a tuple, so that the generator's parameter is not registered here a second time
        self._anchor_parameter = (anchor_parameter(generator, getattr(balancer, "anchor", OUTPUT)),)
        self._ahead = additional_lookahead(generator)
        self._losses_teach = False  # seen in the first step
        self._fields = ExitStack()
        self._check(frozenset(batch_names))

    def _check(self, batch_names: frozenset[str]) -> None:
        problems = loss_problems(
            self._asks, self.weights, type(self.generator), batch_names, adversarial=self.adversary is not None
        )
        provided, possible = getattr(self.generator, "provides", ()), getattr(type(self.generator), "provides", ())
        problems += [
            f"losses.{name}: asks for {', '.join(absent)}, which {type(self.generator).__name__} provides only with "
            "other settings: see its docstring"
            for name, asks in self._asks.items()
            if (absent := [each for each in asks if each in possible and each not in provided])
        ]
        asked = {each for name, asks in self._asks.items() if self.weights[name] for each in asks}
        problems += [
            f"losses: none asks for {each}, and with these settings {type(self.generator).__name__} learns from "
            "nothing else: see its docstring"
            for each in getattr(self.generator, "learns_from", ())
            if each not in asked
        ]
        problems += critic_name_problems(self.critics, self.losses)
        takes = () if self.adversary is None else self.adversary.takes
        lacking = [name for name in takes if name not in getattr(self.generator, "provides", ())]
        if lacking:
            problems.append(
                f"discriminators: they judge {', '.join(lacking)} from inside the generator, which "
                f"{type(self.generator).__name__} does not provide; of EBEN: generator.provide_bands=true, of others: "
                "discriminators.pqmf_bands.bands_from=waveform"
            )
        if problems:
            raise ConfigError(problems)

    @property
    def best_generator(self) -> nn.Module:
        """The generator that is validated and shipped: the averaged one if there is one."""
        return self.generator if self.ema is None else self.ema.network

    @property
    def trainable(self) -> bool:
        """Whether the generator has a parameter to train."""
        return any(parameter.requires_grad for parameter in self.generator.parameters())

    # ---------------------------------------------------------------- optimisers

    def configure_optimizers(self) -> list[Optimizer]:
        """Make an optimiser for the generator, with an adversary one for the discriminators, and one for each critic.

        Schedulers are kept and stepped here, since Lightning does not step them in manual optimisation.
        """
        optimizers = [self.optimization.optimizers["generator"](self.generator.parameters())]
        if self.adversary is not None:
            optimizers.append(self.optimization.optimizers["discriminator"](self.adversary.parameters()))
        self.schedulers = {}
        for network, optimizer in zip(NETWORKS, optimizers, strict=False):
            make = self.optimization.schedulers.get(network)
            if make is not None:
                self.schedulers[network] = make(optimizer)
        optimizers += [critic.make_optimizer(critic.network.parameters()) for critic in self.critics.values()]
        return [fused_on_cpu(optimizer) for optimizer in optimizers]

    def _trained(self) -> dict[str, nn.Module]:
        """Return the networks that have an optimiser, by name, in the order of the optimisers."""
        networks: dict[str, nn.Module] = {"generator": self.generator}
        if self.adversary is not None:
            networks["discriminator"] = self.adversary
        return networks | {name: critic.network for name, critic in self.critics.items()}

    def _optimizer(self, network: str) -> Any:
        optimizers = self.optimizers()
        return optimizers[list(self._trained()).index(network)] if isinstance(optimizers, list) else optimizers

    def _optimizer_step(self, network: str) -> None:
        """Clip, step and clear the gradients of a network; a step with a non-finite gradient is left out."""
        optimizer = self._optimizer(network)
        trained = self._trained()[network]
        limit = self.critics[network].clip if network in self.critics else self.optimization.clip.get(network)
        gradients = [p.grad for p in trained.parameters() if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        if limit is not None:
            torch.nn.utils.clip_grads_with_norm_(trained.parameters(), limit, norm)
        finite = bool(torch.isfinite(norm))  # a network's one synchronisation in a step: the host has to decide
        if finite:
            optimizer.step()
            if network in self.schedulers:
                self.schedulers[network].step()
            self._note(f"gradient_norm/{network}", norm)
        else:
            self.guard.skip(network)
        optimizer.zero_grad(set_to_none=True)
        average_running_statistics(trained)
        if network == "generator" and finite and self.ema is not None:
            self.ema.update(self.generator)

    # ---------------------------------------------------------------- training

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Complete a batch on the device, for instance with sensors that are simulated there."""
        return batch if self.complete_batch is None else self.complete_batch(batch, dataloader_idx)

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """Train on one batch: the networks learn in the order of the adversary's turn."""
        accumulate = self.optimization.accumulate
        turn = Turn() if self.adversary is None else self.adversary.turn(self.step // accumulate)
        ends_step = (self.step + 1) % accumulate == 0
        if self.step % accumulate == 0 and self.guard.next_ends:
            self.kept = KeptStep(self)
        if self.kept is not None:
            self.kept.begin_batch(batch)

        with torch.set_grad_enabled("generator" in turn.order):
            outputs = outputs_to_learn_from(self.generator, batch)
        batch = heard(batch, self._ahead)
        anchor = OutputAnchor(outputs, *self._anchor_parameter) if "generator" in turn.order else None
        if anchor is not None and not self._losses_teach:
            self._refuse_idle_losses(anchor)
            self._losses_teach = True
        estimate = without_padding((outputs if anchor is None else anchor.outputs)["estimate"], batch["lengths"])
        judged = turn.adversarial or "discriminator" in turn.order
        inside = self._inside(outputs if anchor is None else anchor.outputs, batch) if judged else NOTHING
        shared = None
        if self.adversary is not None and turn.shared_passes:
            shared = self.adversary.judge_for_both(estimate, batch["target"], inside)

        self._critics_learn(batch, ends_step)
        for network in turn.order:
            first = network == turn.order[0]
            if network == "discriminator":
                self._discriminators_learn(batch, estimate, inside, shared, first)
            elif anchor is not None:
                self._generator_learns(batch, anchor, estimate, inside, turn, shared, first)
            if ends_step:
                self._optimizer_step(network)
        if ends_step and "generator" not in turn.order:  # it has measured the statistics of its items all the same
            average_running_statistics(self.generator)
        for critic in self.critics.values():  # after the steps, with which the host has waited for the device anyway
            if critic.active(self.step // accumulate):
                critic.submit(batch["ids"], estimate, batch["target"], batch["lengths"])

        self.guard.batch_ends(self.step, batch["ids"], ends_step, self._losses_of_batch)
        self._losses_of_batch = []
        if ends_step:
            self.kept = None
        self.step += 1

    def _inside(self, outputs: dict[str, Any], batch: Batch) -> Inside:
        """Return the signals from inside the generator that the discriminators judge; mostly there are none.

        Like waveforms they are 0 after the end of each item, in estimate and target, if the generator says how many
        samples a frame of them is.
        """
        takes = () if self.adversary is None else self.adversary.takes
        if not takes:
            return NOTHING
        with torch.no_grad():
            of_target = self.generator.inside(batch["target"])  # type: ignore[operator]
        hop, total = getattr(self.generator, "inside_hop", None), batch["target"].shape[-1]

        def ended(value: Tensor) -> Tensor:
            if hop is None:
                return value
            # items as long as the batch keep what a network makes of its last frame
            frames = torch.where(batch["lengths"] < total, -(-batch["lengths"] // hop), value.shape[-1])
            return without_padding(value, frames)

        return Inside({name: ended(outputs[name]) for name in takes}, {name: ended(of_target[name]) for name in takes})

    def _discriminators_learn(
        self, batch: Batch, estimate: Tensor, inside: Inside, shared: Pair | None, first: bool
    ) -> None:
        """Run the backward pass of the discriminators; arguments as of :meth:`_generator_learns`."""
        adversary = self.adversary
        assert adversary is not None
        judgements = shared or adversary.judge_for_discriminators(estimate, batch["target"], first, inside)
        loss = adversary.loss.discriminator(judgements.target, judgements.estimate)
        # shared judgements depend on the estimate too: no gradient is computed for it here
        self.manual_backward(loss / self.optimization.accumulate, inputs=adversary.learning_parameters())
        self._note("discriminator/loss", loss)
        for name, value in adversary.health(judgements).items():
            self._note(f"discriminator/{name}", value)

    def _critics_learn(self, batch: Batch, ends_step: bool) -> None:
        """Run the backward pass of each critic on estimates of an earlier batch and, with the last batch, its step."""
        for name, critic in self.critics.items():
            lesson = critic.lesson(batch["target"].device)
            if lesson is None:
                continue
            loss, log = lesson
            self.manual_backward(loss / self.optimization.accumulate)
            self._note(f"critic/{name}/loss", loss)
            for tag, value in log.items():
                self._note(f"critic/{name}/{tag}", value)
            if ends_step:
                self._optimizer_step(name)

    def _generator_learns(
        self,
        batch: Batch,
        anchor: OutputAnchor,
        estimate: Tensor,
        inside: Inside,
        turn: Turn,
        shared: Pair | None,
        first: bool,
    ) -> None:
        """Compute the generator's losses and run its backward pass.

        Args:
            batch: the batch of this step.
            anchor: holds the generator's outputs.
            estimate: ``(B, 1, T)`` of the outputs, 0 after the end of each item.
            inside: what the discriminators take from inside the generator.
            turn: the turn of this step.
            shared: judgements that serve both updates; None: the discriminators judge for this update only.
            first: whether passes for this update would be the first ones of this batch.
        """
        names: dict[str, Any] = {**batch, **anchor.outputs}
        losses: dict[str, Tensor] = {}
        weights: dict[str, float] = {}
        fading: frozenset[str] = frozenset()
        if self.adversary is not None and turn.adversarial:
            if shared is None:
                target = batch["target"] if self._compares_judgements else None
                judgements = self.adversary.judge_for_generator(estimate, target, first, inside)
            else:
                judgements = Pair(shared.estimate, detached(shared.target))
            names |= {"estimate_judgements": judgements.estimate, "target_judgements": judgements.target}
            adversarial = self.adversary.loss.generator(judgements.estimate)
            self._note("loss/adversarial", adversarial)
            if turn.ramp * self.adversary.weight != 0.0:
                losses["adversarial"], weights["adversarial"] = adversarial, turn.ramp * self.adversary.weight
            fading = self.adversary.warm_up_losses
        for name, loss in self.losses.items():
            asks = self._asks[name]
            needs_adversary = not JUDGEMENTS.isdisjoint(asks)
            if needs_adversary and not turn.adversarial:
                continue
            weight = self.weights[name] * (turn.ramp if needs_adversary else 1.0)
            if name in fading:
                weight *= 1.0 - turn.ramp
            with torch.set_grad_enabled(weight != 0.0):
                value = loss(**{argument: names[argument] for argument in asks})
            self._note(f"loss/{name}", value)
            if weight != 0.0:
                losses[name], weights[name] = value, weight
        for name, critic in self.critics.items():
            weight = critic.weight * critic.ramp(self.step // self.optimization.accumulate)
            if weight != 0.0:
                losses[name] = critic.generator_loss(estimate, batch["target"], batch["lengths"])
                weights[name] = weight
                self._note(f"loss/{name}", losses[name])

        def backward(gradient: Tensor) -> None:
            anchor.backward(gradient / self.optimization.accumulate, self.manual_backward)

        shares = self.balancer.backward(losses, weights, anchor, backward)
        self._note("loss/total", sum((weights[name] * value for name, value in losses.items()), torch.zeros(())))
        for name, share in shares.items():
            self._note(f"share/{name}", share)

    def _refuse_idle_losses(self, anchor: OutputAnchor) -> None:
        """Refuse losses that depend on nothing that is trained: their gradient would be 0, and their share a lie.

        All are looked at in the first step, those that have no weight yet as well.

        Raises:
            ConfigError: with a line for each of them.
        """
        judged = ("estimate", *(() if self.adversary is None else self.adversary.takes))
        asks = {
            f"losses.{name}": names if JUDGEMENTS.isdisjoint(names) else judged
            for name, names in self._asks.items()
            if self.weights[name] != 0.0
        }
        if self.adversary is not None and self.adversary.weight != 0.0:
            asks["adversarial"] = judged
        asks |= {f"critics.{name}": ("estimate",) for name, critic in self.critics.items() if critic.weight != 0.0}
        problems = [
            f"{name}: teaches nothing: no trained parameter of {type(self.generator).__name__} has an influence on "
            f"{' and '.join(each for each in names if each in anchor.outputs)}; leave it out, or train that part"
            for name, names in asks.items()
            if anchor.learnable.isdisjoint(names)
        ]
        if problems:
            raise ConfigError(problems)

    # ---------------------------------------------------------------- log

    def _note(self, tag: str, value: Tensor | float) -> None:
        """Add to the mean that :meth:`take_log` returns; the value stays on its device."""
        value = value.detach().float() if isinstance(value, Tensor) else torch.tensor(float(value))
        if "loss" in tag.split("/"):
            self._losses_of_batch.append(value)
        if self.kept is not None:
            self.kept.note(tag, value)
        self._sums[tag] = self._sums[tag] + value if tag in self._sums else value
        self._counts[tag] += 1

    def log_state(self) -> dict[str, tuple[float, int]]:
        """Return sum and number of this rank's values since the last call of :meth:`take_log`, by tag."""
        return {tag: (float(total), self._counts[tag]) for tag, total in self._sums.items()}

    def load_log_state(self, state: Mapping[str, Sequence[float]]) -> None:
        """Restore what :meth:`log_state` returned."""
        for tag, (total, count) in state.items():
            self._sums[tag], self._counts[tag] = torch.tensor(total, device=self.device), int(count)

    def take_log(self) -> dict[str, float]:
        """Return the means of all values since the last call, learning rates, and counts of skipped steps and losses.

        The tags are those of ``docs/curves.md``. The means are over all ranks, which must call it together: each has
        seen other items.
        """
        ranks = gathered(self.log_state())
        found = {tag: [rank[tag] for rank in ranks if tag in rank] for rank in ranks for tag in rank}
        values = {tag: sum(total for total, _ in parts) / sum(n for _, n in parts) for tag, parts in found.items()}
        self._sums.clear()
        self._counts.clear()
        for network in self._trained():
            values[f"lr/{network}"] = float(self._optimizer(network).param_groups[0]["lr"])
            values[f"skipped_steps/{network}"] = float(self.guard.skipped[network])
        for name, count in getattr(self.balancer, "skipped", {}).items():
            values[f"skipped_losses/{name}"] = float(count)
        return values

    # ---------------------------------------------------------------- validation

    def on_validation_epoch_start(self) -> None:
        """Let the receptive field, which long files need, be measured once until the weights change again."""
        self._fields.close()  # of a validation that an error has ended
        self._fields.enter_context(measured_once())

    def on_validation_epoch_end(self) -> None:
        """Forget it: the weights will change."""
        self._fields.close()

    def validation_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the estimate ``(B, 1, T)`` of the best generator, which callbacks may score."""
        estimates = [enhance_item(self.best_generator, inputs) for inputs in batch["inputs"]]
        return torch.stack([torch.from_numpy(estimate) for estimate in estimates]).unsqueeze(1)

    # ---------------------------------------------------------------- state beyond weights

    def training_state(self) -> dict[str, Any]:
        """Return what a resumed run needs in addition to weights and optimisers, as plain containers."""
        return {
            "step": self.step,
            **self.guard.state(),
            "schedulers": {name: scheduler.state_dict() for name, scheduler in self.schedulers.items()},
            "balancer": self.balancer.state_dict() if isinstance(self.balancer, nn.Module) else {},
        }

    def critic_states(self) -> dict[str, Any]:
        """Return what this rank's critics hold in addition to weights, by name, as plain containers."""
        return {name: critic.state() for name, critic in self.critics.items()}

    def load_critic_states(self, states: Mapping[str, Any]) -> None:
        """Restore what :meth:`critic_states` returned."""
        for name, critic in self.critics.items():
            critic.load_state(states[name])

    def close(self) -> None:
        """End the worker processes of the critics; they start again when they are needed."""
        for critic in self.critics.values():
            critic.close()

    def teardown(self, stage: str) -> None:
        """End worker processes with the trainer's work."""
        self._fields.close()
        self.close()

    def load_training_state(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`training_state` returned."""
        self.step = int(state["step"])
        self.guard.load_state(state)
        for name, scheduler in self.schedulers.items():
            scheduler.load_state_dict(state["schedulers"][name])
        if isinstance(self.balancer, nn.Module):
            self.balancer.load_state_dict(state["balancer"])
