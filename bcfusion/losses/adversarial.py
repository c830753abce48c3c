"""Adversarial losses: those of the discriminators and of the generator."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from bcfusion.contracts import Judgement
from bcfusion.requirements import one_of, require

GeneratorForm = Literal["plain", "clipped"]
Reduction = Literal["mean", "sum"]


def reduce_list(values: Sequence[Tensor], reduction: Reduction) -> Tensor:
    """Return the mean or sum, element by element, of at least one tensor; all have the same shape."""
    stacked = torch.stack(list(values))
    return stacked.sum(0) if reduction == "sum" else stacked.mean(0)


class _LogitLoss(ABC):
    """A game that is played logit by logit, over any number of sub-discriminators.

    Each term is the mean over one sub-discriminator's logits (items have equally many), so that each sub-discriminator
    has the same influence however many logits it outputs. Logits are converted to float32. The padding past the end of
    an item is judged like the rest.

    Args:
        per_discriminator: ``mean``: sub-discriminators are averaged, and the scale does not depend on their number;
            ``sum``: they are added up (MelGAN, HiFi-GAN), and the weight relative to other losses grows with their
            number.

    Raises:
        ConfigError: another ``per_discriminator``.
    """

    boundary: float

    def __init__(self, per_discriminator: Reduction = "mean") -> None:
        require(self, one_of(get_args(Reduction), per_discriminator=per_discriminator))
        self.per_discriminator = per_discriminator

    def discriminator(self, target_judgements: Sequence[Judgement], estimate_judgements: Sequence[Judgement]) -> Tensor:
        """Return the cost of the target's logits plus that of the estimate's, which must be detached: a scalar.

        Raises:
            ValueError: no judgement, or unequal numbers of judgements.
        """
        if len(target_judgements) != len(estimate_judgements):
            raise ValueError(
                f"{len(target_judgements)} judgements of the target, {len(estimate_judgements)} of the estimate"
            )
        of_target = self._over_discriminators(target_judgements, self._cost_as_target)
        of_estimate = self._over_discriminators(estimate_judgements, self._cost_as_estimate)
        return of_target + of_estimate

    def generator(self, estimate_judgements: Sequence[Judgement]) -> Tensor:
        """Return the cost of not deceiving the discriminators: a scalar.

        Raises:
            ValueError: no judgement.
        """
        return self._over_discriminators(estimate_judgements, self._cost_to_generator)

    @abstractmethod
    def _cost_as_target(self, logits: Tensor) -> Tensor:
        """Return the discriminators' cost for each logit of the target."""

    @abstractmethod
    def _cost_as_estimate(self, logits: Tensor) -> Tensor:
        """Return the discriminators' cost for each logit of the estimate."""

    def _cost_to_generator(self, logits: Tensor) -> Tensor:
        """Return the generator's cost for each logit of the estimate: by default the discriminators' for a target."""
        return self._cost_as_target(logits)

    def _over_discriminators(self, judgements: Sequence[Judgement], cost: Callable[[Tensor], Tensor]) -> Tensor:
        if not judgements:
            raise ValueError("no sub-discriminator gave a judgement")
        means = [cost(judgement.logits.float()).mean() for judgement in judgements]
        return reduce_list(means, self.per_discriminator)


class HingeLoss(_LogitLoss):
    """Hinge game (Lim and Ye 2017, "Geometric GAN"), with margins of 1 on either side of the boundary 0.

    The discriminators minimise mean relu(1 - D(target)) + mean relu(1 + D(estimate)). Means are over the logits of one
    sub-discriminator; logits are converted to float32, and the padding past the end of an item is judged like the rest.

    Args:
        generator_form: ``plain``: mean -D(estimate) (MelGAN, Kumar et al. 2019), a gradient that never vanishes;
            ``clipped``: mean relu(1 - D(estimate)) (SEANet, EBEN), no gradient once the discriminator is deceived by
            the margin.
        per_discriminator: ``mean``: sub-discriminators are averaged, and the scale does not depend on their number;
            ``sum``: they are added up, as in MelGAN.

    Raises:
        ConfigError: another ``generator_form`` or ``per_discriminator``.
    """

    boundary = 0.0

    def __init__(self, generator_form: GeneratorForm = "plain", per_discriminator: Reduction = "mean") -> None:
        require(self, one_of(get_args(GeneratorForm), generator_form=generator_form))
        super().__init__(per_discriminator)
        self.generator_form = generator_form

    def _cost_as_target(self, logits: Tensor) -> Tensor:
        return torch.relu(1.0 - logits)

    def _cost_as_estimate(self, logits: Tensor) -> Tensor:
        return torch.relu(1.0 + logits)

    def _cost_to_generator(self, logits: Tensor) -> Tensor:
        return -logits if self.generator_form == "plain" else super()._cost_to_generator(logits)


class LeastSquaresLoss(_LogitLoss):
    """Least-squares game (Mao et al. 2017, "Least Squares Generative Adversarial Networks"), as in HiFi-GAN.

    The discriminators minimise mean (1 - D(target))^2 + mean D(estimate)^2, the generator mean (1 - D(estimate))^2: a
    gradient that grows with the distance from the desired logit, also beyond it. Means are over the logits of one
    sub-discriminator; logits are converted to float32, and the padding past the end of an item is judged like the rest.

    Args:
        per_discriminator: ``mean``: sub-discriminators are averaged, and the scale does not depend on their number;
            ``sum``: they are added up, as in HiFi-GAN.

    Raises:
        ConfigError: another ``per_discriminator``.
    """

    boundary = 0.5

    def _cost_as_target(self, logits: Tensor) -> Tensor:
        return (1.0 - logits).square()

    def _cost_as_estimate(self, logits: Tensor) -> Tensor:
        return logits.square()
