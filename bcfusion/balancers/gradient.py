"""The gradient balancer of EnCodec, of which EBEN's is a case.

Défossez et al., "High Fidelity Neural Audio Compression", TMLR 2023 (2022), section 3.4; Hauret et al., "Configurable
EBEN: Extreme Bandwidth Extension Network to Enhance Body-Conducted Speech Capture", 2023.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from bcfusion.balancers.base import LossBalancer
from bcfusion.contracts import Anchor
from bcfusion.requirements import above, at_least, one_of, require

Weights = Literal["given", "equal"]
Average = Literal["corrected", "first"]


class GradientBalancer(LossBalancer):
    r"""Gives each loss its share of the gradient, whatever the loss's own scale.

    The gradient is :math:`\sum_i R \, \frac{w_i}{\sum_j w_j} \, \frac{g_i}{\epsilon + n_i}`, where :math:`g_i` is the
    gradient of loss i without its weight, and :math:`n_i` the bias-corrected moving average of its norm, including this
    step's. The sum over j runs over the losses of this step, including those without a gradient: a loss that has not
    joined yet leaves its share to the others.

    Every loss has its own moving average and bias correction, so it may join late; while it is absent its average is
    kept. In three cases the balancer departs from the formula:

    - A norm of exactly 0 does not enter the average: a loss that was satisfied for a long time keeps the norm that it
      had before. A loss that never had another norm is left out: if it does not reach the parameter that is the anchor,
      its gradient elsewhere cannot be scaled.
    - The divisor is :math:`\epsilon + \max(n_i, \|g_i\| / s)`: no loss gets more than s times its share, however
      suddenly its gradient grows. With a norm of at most s times its average this is the published formula.
      ``spike_limit=None`` turns off this departure and the one before.
    - A loss that is not finite, or whose gradient is not, on any rank, is left out of this step: its share goes to the
      others, its average stays unchanged, and it is counted in :attr:`skipped`. If no loss is left, the gradient is
      NaN, not 0: a step of 0 would still move the weights by the optimiser's momentum, whereas a NaN is skipped, and
      counted, by the trainer's own guard.

    No decision is taken on the host: averages and counters stay on the device. They are part of ``state_dict()``.

    The public step of EBEN is ``decay=0.9, total_norm=None, weights="equal", eps=1e-4, spike_limit=None,
    average="first"`` with the generator's last convolution as the anchor. The public balancer of EnCodec is
    ``spike_limit=None`` and a ``total_norm`` of its own times the batch size, since it averages over items the norms of
    gradients that are already divided by their number.

    Args:
        decay: of the moving averages; 0 uses the norms of each step alone.
        total_norm: R, the norm of the gradient if all losses pull the same way: at the output the mean over items of
            the norm of the item's own gradient, whatever the batch size. None: the number of losses of this step, so
            that with equal weights the part of each loss has a norm of about 1.
        weights: ``given``: shares are in proportion to the weights; ``equal``: every loss with a weight other than 0
            has the same share (EBEN), so that a weight that rises from 0 counts in full from its first step.
        eps: added to every norm.
        spike_limit: s, at least 1; None: no limit, and a norm of 0 enters the average like any other.
        average: ``corrected``: the moving average of a loss is corrected for its start at 0, so that its first norms
            count alike (EnCodec); ``first``: it starts at the loss's first norm (EBEN).
        anchor: where gradients are measured: ``output``, or a parameter of the generator.

    Raises:
        ConfigError: an argument is out of range.
    """

    def __init__(
        self,
        decay: float = 0.999,
        total_norm: float | None = 1.0,
        weights: Weights = "given",
        eps: float = 1e-12,
        spike_limit: float | None = 10.0,
        average: Average = "corrected",
        anchor: str = "output",
    ) -> None:
        require(
            self,
            (0.0 <= decay < 1.0, f"decay={decay} must be at least 0 and below 1"),
            [] if total_norm is None else above(0, total_norm=total_norm),
            above(0, eps=eps),
            [] if spike_limit is None else at_least(1, spike_limit=spike_limit),
            one_of(get_args(Weights), weights=weights),
            one_of(get_args(Average), average=average),
        )
        super().__init__(anchor)
        self.decay = decay
        self.total_norm = total_norm
        self.weights = weights
        self.eps = eps
        self.spike_limit = spike_limit
        self.average = average
        # By loss. total: decayed sum of its norms; count: the same sum of ones, for the bias correction, or 1 if the
        # average starts at the first norm; skipped: steps without it. Their names are known at run time only, so they
        # cannot be buffers. Tensors are replaced, never written to.
        self._records: dict[str, dict[str, Tensor]] = {}

    @property
    def skipped(self) -> dict[str, int | Tensor]:
        """Number of steps in which a loss was not finite and was left out, for every loss seen so far."""
        return {name: record["skipped"] for name, record in self._records.items()}

    def combine(
        self, losses: Mapping[str, Tensor], weights: Mapping[str, float], anchor: Anchor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the balanced gradient, and the norms of the losses' parts in it."""
        # a loss may be NaN on one rank alone, and with a finite gradient: a NaN gradient makes it known to all ranks
        gradients = [torch.where(loss.isfinite(), anchor.gradient(loss), torch.nan) for loss in losses.values()]
        norms = anchor.norms(gradients)
        usable = norms.isfinite()
        averages = self._averages(list(losses), norms)

        # filled on the device: a tensor made from a list would be copied there, and the host would wait
        wanted = torch.stack(
            [norms.new_full((), 1.0 if self.weights == "equal" else weights[name]) for name in losses]
        ) * usable.to(norms.dtype)
        least = 0.0 if self.spike_limit is None else norms / self.spike_limit
        divisors = self.eps + averages.clamp_min(least)
        total_norm = len(losses) if self.total_norm is None else self.total_norm
        factors = total_norm * wanted / wanted.sum() / torch.where(usable, divisors, 1.0)  # 0 / 0 if none is left
        if self.spike_limit is not None:
            factors = torch.where(usable & (averages == 0), 0.0, factors)
        gradient = torch.zeros_like(gradients[0])
        for factor, use, measured in zip(factors, usable, gradients, strict=True):
            gradient = gradient + factor * torch.where(use, measured, 0.0)  # 0 * NaN would be NaN
        return gradient, dict(zip(losses, torch.where(usable, factors * norms, 0.0), strict=True))

    def _averages(self, names: Sequence[str], norms: Tensor) -> Tensor:
        """Add this step's norms ``(n,)``; return the averages ``(n,)``, 0 for a loss that has had no norm yet."""
        new = {
            "total": norms.new_zeros(()),
            "count": norms.new_zeros(()),
            "skipped": norms.new_zeros((), dtype=torch.int64),
        }
        past = [self._records.get(name, new) for name in names]
        # after a resume they are on the CPU, as in the checkpoint
        total, count, skipped = (torch.stack([record[key].to(norms.device) for record in past]) for key in new)
        enters = norms.isfinite() if self.spike_limit is None else norms > 0  # never NaN
        if self.average == "first":
            total = torch.where(enters, torch.where(count > 0, torch.lerp(norms, total, self.decay), norms), total)
            count = torch.where(enters, 1.0, count)
        else:
            total = torch.where(enters, self.decay * total + norms, total)
            count = torch.where(enters, self.decay * count + 1.0, count)
        skipped = skipped + ~norms.isfinite()
        for index, name in enumerate(names):
            self._records[name] = {"total": total[index], "count": count[index], "skipped": skipped[index]}
        return total / count.clamp_min(1.0)  # a count is 1 with its first norm, and never falls below

    def get_extra_state(self) -> dict[str, dict[str, Tensor]]:
        """Return averages and counters by loss, as plain containers of tensors: part of ``state_dict()``."""
        return {name: {key: value.clone() for key, value in record.items()} for name, record in self._records.items()}

    def set_extra_state(self, state: Any) -> None:
        """Replace everything measured so far by what :meth:`get_extra_state` returned."""
        self._records = {name: {key: value.clone() for key, value in record.items()} for name, record in state.items()}
