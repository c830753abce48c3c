"""The gradient balancer of EnCodec, of which EBEN's is a case.

Défossez et al., "High Fidelity Neural Audio Compression", TMLR 2023 (2022), section 3.4; Hauret et al., "Configurable
EBEN: Extreme Bandwidth Extension Network to Enhance Body-Conducted Speech Capture", 2023.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from bcfusion.balancers.fixed import joining, shares
from bcfusion.contracts import Anchor
from bcfusion.errors import ConfigError

Weights = Literal["given", "equal"]


class GradientBalancer(nn.Module):
    r"""Gives each loss its share of the gradient, whatever the loss's own scale.

    The gradient is :math:`\sum_i R \, \frac{w_i}{\sum_j w_j} \, \frac{g_i}{\epsilon + n_i}`, where :math:`g_i` is the
    gradient of loss i, without its weight, and :math:`n_i` the bias-corrected moving average of its norm, this step's
    included. The sum over j is over the losses of this step, those of no gradient included: a loss that has not joined
    yet leaves its share to the others.

    Every loss has a moving average and a bias correction of its own, so it may join late; while it is away its average
    is kept. In three cases there is more to it than the formula:

    - A norm of exactly 0 does not enter the average: a loss that was satisfied for a long time has the norm that it
      had before.
    - The divisor is :math:`\epsilon + \max(n_i, \|g_i\| / s)`: no loss comes to more than s times its share, however
      suddenly its gradient grows. With a norm of at most s times its average this is the published formula.
    - A loss that is not finite, or whose gradient is not, on any rank, is left out of this step: its share goes to the
      others, its average stays as it is, and it is counted in :attr:`skipped`. Where no loss is left the gradient is
      NaN, not 0: a step of 0 would still move the weights by the optimiser's momentum, whereas a NaN is skipped, and
      counted, by the trainer's own guard.

    No decision is taken on the host: averages and counters stay on the device. They are part of ``state_dict()``.

    Fulfils :class:`bcfusion.contracts.Balancer`.

    Args:
        decay: of the moving averages; 0 takes each step's own norm.
        total_norm: R, the norm of the gradient if all losses pull the same way: at the output the mean over items of
            that of the item's own gradient, whatever the size of the batch.
        weights: ``given``: shares are in proportion to the weights; ``equal``: every loss with a weight other than 0
            has the same share (EBEN), so that a weight that rises from 0 counts in full from its first step.
        eps: added to every norm.
        spike_limit: s, at least 1.
        anchor: where gradients are measured: ``output``, or a parameter of the generator.

    Raises:
        ConfigError: an argument is out of range.
    """

    def __init__(
        self,
        decay: float = 0.999,
        total_norm: float = 1.0,
        weights: Weights = "given",
        eps: float = 1e-12,
        spike_limit: float = 10.0,
        anchor: str = "output",
    ) -> None:
        super().__init__()
        problems = [
            f"balancer.{name}: must be a number {bounds}, not {value}"
            for name, value, allowed, bounds in (
                ("decay", decay, 0.0 <= decay < 1.0, "of at least 0 and below 1"),
                ("total_norm", total_norm, total_norm > 0.0, "above 0"),
                ("eps", eps, eps > 0.0, "above 0"),
                ("spike_limit", spike_limit, spike_limit >= 1.0, "of at least 1"),
            )
            if not allowed
        ]
        if weights not in get_args(Weights):
            problems.append(f"balancer.weights: must be {' or '.join(get_args(Weights))}, not {weights!r}")
        if problems:
            raise ConfigError(problems)
        self.decay = decay
        self.total_norm = total_norm
        self.weights = weights
        self.eps = eps
        self.spike_limit = spike_limit
        self.anchor = anchor
        # By loss. total: decayed sum of its norms; count: of ones, by as many steps; skipped: steps without it.
        # Their names are known at run time only, so they cannot be buffers. Tensors are replaced, never written to.
        self._records: dict[str, dict[str, Tensor]] = {}

    @property
    def skipped(self) -> dict[str, int | Tensor]:
        """By name of every loss seen so far, the number of steps in which it was not finite and was left out."""
        return {name: record["skipped"] for name, record in self._records.items()}

    def backward(
        self,
        losses: Mapping[str, Tensor],
        weights: Mapping[str, float],
        anchor: Anchor,
        backward: Callable[[Tensor], None],
    ) -> dict[str, float | Tensor]:
        """One call of ``backward`` with the balanced gradient.

        Args:
            losses: scalars by name. weights: at least one for each loss; a loss of weight 0 is left out.
            anchor: measures the losses' gradients.
            backward: the trainer's own backward pass of the generator.

        Returns:
            For each loss the norm of its part of the gradient over the sum of these norms; 0 for all where no loss has
            a gradient.

        Raises:
            ConfigError: every weight is 0, which leaves nothing to train on.
            KeyError: a loss without a weight.
        """
        chosen = joining(losses, weights)
        # a loss may be NaN on one rank alone, and with a finite gradient: as a NaN gradient all ranks hear of it
        gradients = [torch.where(loss.isfinite(), anchor.gradient(loss), torch.nan) for loss in chosen.values()]
        norms = anchor.norms(gradients)
        usable = norms.isfinite()
        averages = self._averages(list(chosen), norms)

        # filled on the device: a tensor made from a list would be copied there, and the host would wait
        wanted = torch.stack(
            [norms.new_full((), 1.0 if self.weights == "equal" else weights[name]) for name in chosen]
        ) * usable.to(norms.dtype)
        divisors = self.eps + torch.maximum(averages, norms / self.spike_limit)
        factors = self.total_norm * wanted / wanted.sum() / torch.where(usable, divisors, 1.0)  # 0 / 0 if none is left
        gradient = torch.zeros_like(gradients[0])
        for factor, use, measured in zip(factors, usable, gradients, strict=True):
            gradient = gradient + factor * torch.where(use, measured, 0.0)  # 0 * NaN would be NaN
        backward(gradient)
        return shares(dict(zip(chosen, torch.where(usable, factors * norms, 0.0), strict=True)), losses)

    def _averages(self, names: Sequence[str], norms: Tensor) -> Tensor:
        """Takes up this step's norms ``(n,)`` and gives the averages ``(n,)``; 0 for a loss without any norm yet."""
        new = {
            "total": norms.new_zeros(()),
            "count": norms.new_zeros(()),
            "skipped": norms.new_zeros((), dtype=torch.int64),
        }
        past = [self._records.get(name, new) for name in names]
        # after a resume they come from the checkpoint, on the CPU
        total, count, skipped = (torch.stack([record[key].to(norms.device) for record in past]) for key in new)
        enters = norms > 0  # neither 0 nor NaN
        total = torch.where(enters, self.decay * total + norms, total)
        count = torch.where(enters, self.decay * count + 1.0, count)
        skipped = skipped + ~norms.isfinite()
        for index, name in enumerate(names):
            self._records[name] = {"total": total[index], "count": count[index], "skipped": skipped[index]}
        return total / count.clamp_min(1.0)  # with its first norm a count is 1, and never less again

    def get_extra_state(self) -> dict[str, dict[str, Tensor]]:
        """Averages and counters by loss, as plain containers of tensors: part of ``state_dict()``."""
        return {name: {key: value.clone() for key, value in record.items()} for name, record in self._records.items()}

    def set_extra_state(self, state: Any) -> None:
        """Takes up what :meth:`get_extra_state` gave, in place of everything measured so far."""
        self._records = {name: {key: value.clone() for key, value in record.items()} for name, record in state.items()}
