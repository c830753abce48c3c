"""A critic that learns a quality metric while the generator learns to please it (MetricGAN)."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.optim import Optimizer

from bcfusion.contracts import Critic, Metric
from bcfusion.evaluation.pool import Scorer
from bcfusion.evaluation.systems import ENHANCED
from bcfusion.losses.valid import valid_samples
from bcfusion.requirements import above, ascending, at_least, one_of, require, whole, within
from bcfusion.training.ranks import mean_over_ranks


@dataclass
class _Batch:
    """Estimates and targets of one batch on the CPU, cut to the length of each item, whose scores are pending."""

    ids: list[str]
    estimates: list[Tensor]
    targets: list[Tensor]
    submitted: bool = False


@dataclass
class _Pair:
    """An estimate and its target on the CPU, ``(T,)`` each, with the normalised score."""

    estimate: Tensor
    target: Tensor
    score: float


class MetricGan:
    r"""Teach a critic the score that a metric gives to estimates, and the generator to raise it.

    Fu et al. 2019, "MetricGAN: generative adversarial networks based black-box metric scores optimization for speech
    enhancement", and 2021, "MetricGAN+", with the pairs that have been scored before. With the normalised score
    :math:`Q \in [0, 1]` of a pair, the critic D minimises the mean of :math:`(D(y, y) - 1)^2` over targets y, of
    :math:`(D(\hat y, y) - Q)^2` over the estimates of one batch, and of the same over ``replayed`` older pairs; the
    generator minimises :math:`(D(\hat y, y) - 1)^2`.

    PESQ takes milliseconds of a processor. Worker processes compute it while training goes on, and at each batch the
    critic learns from the estimates of exactly ``delay`` batches before; it waits if their scores are not there. So the
    result does not depend on how fast the workers are, and since batches with pending scores are part of the
    checkpoint, nor on interruptions. Neither network learns from crops whose target is a pause, or that are too short
    for the critic, and the critic from none without a score.

    On several ranks each scores its own batch and draws from its own older pairs; every pair counts alike, whichever
    rank has it. A run that is resumed with another number of ranks begins with no pending batch and no older pairs.

    Args:
        network: predicts scores; fulfils :class:`bcfusion.contracts.Critic`.
        metric: scores an estimate of a crop.
        value: name of the metric's value that the critic learns.
        scale: the values that become 0 and 1; what is outside is clipped. A perfect estimate has the second at least.
        optimizer: makes the critic's optimiser from its parameters.
        sample_rate: Hz.
        weight: of the generator's loss.
        delay: batches from an estimate to the critic's lesson on it.
        clip: largest norm of the critic's gradient; None: unlimited.
        max_items: at most this many items of a batch are scored; None: all.
        silence_db: RMS level in dBFS below which a target is a pause.
        history: number of older pairs that are kept; a new one replaces the oldest.
        replayed: number of older pairs, drawn at random, that the critic sees at each batch.
        start_step: optimiser steps before the critic starts to learn.
        ramp_steps: steps from then over which ``weight`` rises linearly from 0: an untrained critic knows nothing.
        workers: scoring processes of this critic on each rank; 0: score in the training process; None: half of the
            available cores, 1 to 8.

    Raises:
        ConfigError: a number is out of range, or the metric has no such value, is better when lower, or cannot work at
            this sample rate.
    """

    def __init__(
        self,
        network: nn.Module,
        metric: Metric,
        value: str,
        scale: Sequence[float],
        optimizer: Callable[[Iterable[nn.Parameter]], Optimizer],
        sample_rate: int = 16000,
        weight: float = 0.05,
        delay: int = 4,
        clip: float | None = None,
        max_items: int | None = None,
        silence_db: float = -45.0,
        history: int = 64,
        replayed: int = 8,
        start_step: int = 0,
        ramp_steps: int = 0,
        workers: int | None = None,
    ) -> None:
        counts = {"delay": delay, "max_items": 1 if max_items is None else max_items}
        others = {"history": history, "replayed": replayed, "start_step": start_step, "ramp_steps": ramp_steps}
        require(
            self,
            one_of(metric.names, value=value),
            ascending(-1e6, 1e6, scale=scale),
            at_least(1, **counts),
            above(0, clip=1 if clip is None else clip),
            at_least(0, weight=weight, workers=workers or 0, **others),
            whole(workers=workers or 0, **counts, **others),
            within(-300, 0, silence_db=silence_db),
        )
        better = bool(metric.higher_is_better[value])
        require(self, (better, f"value={value}: lower is better, or neither; the critic learns scores that rise"))
        require(self, (scale[0] < scale[1], f"scale={list(scale)} must be two different numbers"))
        self.network = network
        self.least_samples = int(cast("Critic", network).least_samples)
        self.weight = float(weight)
        self.delay = delay
        self.clip = clip
        self.start_step, self.ramp_steps = start_step, ramp_steps
        self.make_optimizer = optimizer
        self.value = value
        self._lowest, self._highest = float(scale[0]), float(scale[1])
        self._max_items, self._replayed = max_items, replayed
        self._least_power = 10.0 ** (silence_db / 10.0)
        # the number of pending batches bounds the backlog
        self._scorer = Scorer({"metric": metric}, sample_rate, workers, backlog=sys.maxsize)
        self._pending: deque[_Batch] = deque()
        self._history: deque[_Pair] = deque(maxlen=history)

    # ---------------------------------------------------------------- schedule

    def active(self, step: int) -> bool:
        """Return whether estimates are scored at optimiser step ``step``, counted from 0."""
        return step >= self.start_step

    def ramp(self, step: int) -> float:
        """Return the factor, in [0, 1], on the generator's weight at an optimiser step; 0: the critic is not asked."""
        begun = step - self.start_step - self.delay
        return 0.0 if begun < 0 else min((begun + 1) / max(self.ramp_steps, 1), 1.0)

    # ---------------------------------------------------------------- the critic learns

    def submit(self, ids: Sequence[str], estimate: Tensor, target: Tensor, lengths: Tensor) -> None:
        """Have the estimates of a batch scored.

        Args:
            ids: of the items.
            estimate: ``(B, 1, T)``.
            target: ``(B, 1, T)``.
            lengths: ``(B,)``.
        """
        count = len(ids) if self._max_items is None else min(self._max_items, len(ids))
        whole_estimate, whole_target = (signal[:count, 0].detach().float().cpu() for signal in (estimate, target))
        sizes = lengths[:count].tolist()
        batch = _Batch(
            list(ids[:count]),
            [item[:size].clone() for item, size in zip(whole_estimate, sizes, strict=True)],
            [item[:size].clone() for item, size in zip(whole_target, sizes, strict=True)],
        )
        self._pending.append(batch)
        self._score_pending()

    def _score_pending(self) -> None:
        """Send what is not with the workers yet, oldest first: the last batch or, after a resume, several."""
        for batch in self._pending:
            if not batch.submitted:
                for name, estimate, target in zip(batch.ids, batch.estimates, batch.targets, strict=True):
                    self._scorer.submit(name, {ENHANCED: estimate.numpy()}, target.numpy())
                batch.submitted = True

    def lesson(self, device: torch.device) -> tuple[Tensor, dict[str, float]] | None:
        """Return the critic's loss on the batch of ``delay`` batches before, and what is logged of it.

        Returns:
            The scalar loss, with a graph to the critic's parameters, and: ``score``, mean of the metric over this
            batch; ``error``, mean distance of the prediction from the normalised score; ``unscored``, share of items
            without a score; ``waiting``, seconds until the scores were there. None while no batch is old enough.
        """
        if len(self._pending) < self.delay:
            return None
        self._score_pending()
        batch = self._pending.popleft()
        began = time.monotonic()
        rows = self._scorer.collect(len(batch.ids)).rows
        waited = time.monotonic() - began
        scores = [row.values[self.value] for row in rows]
        new = [
            _Pair(estimate, target, min(max((score - self._lowest) / (self._highest - self._lowest), 0.0), 1.0))
            for estimate, target, score in zip(batch.estimates, batch.targets, scores, strict=True)
            if score == score and self._judges(target)
        ]
        log = {"waiting": waited, "unscored": 1.0 - len(new) / len(rows)}
        perfect = [_Pair(pair.target, pair.target, 1.0) for pair in new]
        older = [self._history[place] for place in torch.randperm(len(self._history))[: self._replayed].tolist()]
        self._history.extend(new)
        scored = [score for score in scores if score == score]
        # gradients and logs are averaged over ranks, which may have different numbers of pairs
        counts = torch.tensor([float(len(pairs)) for pairs in (new, older, scored)], device=device)
        mean_new, mean_older, mean_scored = mean_over_ranks(counts)
        with parametrize.cached():  # one step of the power iteration and one set of weights for all passes
            terms, error = [], torch.zeros((), device=device)
            for pairs, mean_count in ((new, mean_new), (perfect, mean_new), (older, mean_older)):
                if pairs:
                    prediction, score = self._judge(pairs, device)
                    terms.append((prediction - score).square().sum() / mean_count)
                    if pairs is new:
                        error = (prediction - score).abs().sum().detach()
            # with several ranks each takes part in the exchange of gradients and in the power iterations, whatever it
            # has to learn from
            for module in self.network.modules():
                terms += [0.0 * getattr(module, name).sum() for name in getattr(module, "parametrizations", ())]
            terms += [0.0 * parameter.sum() for parameter in self.network.parameters()]
        if mean_new > 0:
            log["score"] = sum(scored) / float(mean_scored)
            log["error"] = float(error / mean_new)
        return torch.stack(terms).sum(), log

    def _judges(self, target: Tensor) -> bool:
        """Return whether ``target (T,)`` is long and loud enough to be judged."""
        return target.shape[0] >= self.least_samples and float(target.square().mean()) > self._least_power

    def _judge(self, pairs: Sequence[_Pair], device: torch.device) -> tuple[Tensor, Tensor]:
        """Return predictions and scores ``(n,)`` of pairs of any lengths; their order is that of both tensors."""
        predictions, scores = [], []
        for members in _by_length([pair.estimate.shape[0] for pair in pairs]):
            estimate = torch.stack([pairs[place].estimate for place in members]).to(device)
            target = torch.stack([pairs[place].target for place in members]).to(device)
            predictions.append(self.network(estimate[:, None], target[:, None]))
            scores += [pairs[place].score for place in members]
        return torch.cat(predictions), torch.tensor(scores, device=device)

    # ---------------------------------------------------------------- the generator learns

    def generator_loss(self, estimate: Tensor, target: Tensor, lengths: Tensor) -> Tensor:
        """Return the generator's loss, a float32 scalar in [0, 1], with a graph to the estimate and nothing else.

        Items that are too short for the critic, or whose target is a pause, count as 0.

        Args:
            estimate: ``(B, 1, T)``.
            target: ``(B, 1, T)``.
            lengths: ``(B,)``.
        """
        samples, signals, _ = valid_samples(estimate, target, lengths)
        values = 0.0 * (samples.sum(-1) + signals.sum(-1))  # NaN if either is not finite
        audible = signals.square().sum(-1) / lengths.clamp_min(1) > self._least_power
        sizes = torch.where(audible, lengths, 0).tolist()
        with self._frozen(), parametrize.cached():
            for members in _by_length(sizes):
                size = sizes[members[0]]
                if size < self.least_samples:
                    continue
                items = torch.tensor(members, device=estimate.device)
                predicted = self.network(estimate[items, :, :size], target[items, :, :size])
                values = values.index_add(0, items, (1.0 - predicted).square().to(values.dtype))
        return values.mean()

    @contextmanager
    def _frozen(self) -> Iterator[None]:
        """Turn off gradients of the critic's weights, and the power iteration of its norms."""
        parameters = [parameter for parameter in self.network.parameters() if parameter.requires_grad]
        self.network.eval()
        for parameter in parameters:
            parameter.requires_grad_(False)
        try:
            yield
        finally:
            self.network.train()
            for parameter in parameters:
                parameter.requires_grad_(True)

    # ---------------------------------------------------------------- state

    def state(self) -> dict[str, Any]:
        """Return pending batches and older pairs as plain containers; the weights are those of ``network``."""
        return {
            "pending": [
                {"ids": list(batch.ids), "estimates": list(batch.estimates), "targets": list(batch.targets)}
                for batch in self._pending
            ],
            "history": [
                {"estimate": pair.estimate, "target": pair.target, "score": pair.score} for pair in self._history
            ],
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`state` returned; pending batches are scored again."""
        self._scorer.reset()
        self._pending = deque(_Batch(**batch) for batch in state["pending"])
        self._history = deque((_Pair(**pair) for pair in state["history"]), maxlen=self._history.maxlen)

    def close(self) -> None:
        """End the scoring processes; those of a batch that is still pending start again when it is needed."""
        self._scorer.close()
        for batch in self._pending:
            batch.submitted = False


def _by_length(lengths: Sequence[int]) -> list[list[int]]:
    """Return the places of equal lengths, each in ascending order: what is padded would not be judged alone."""
    groups: dict[int, list[int]] = {}
    for place, length in enumerate(lengths):
        groups.setdefault(length, []).append(place)
    return list(groups.values())
