"""Adversarial objectives: what the discriminators and the generator each minimise."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from bcfusion.contracts import Judgement
from bcfusion.errors import ConfigError

GeneratorForm = Literal["plain", "clipped"]


class HingeObjective:
    """Hinge game (Lim and Ye 2017, "Geometric GAN").

    Each term is the mean over one sub-discriminator's logits (items have equally many), and sub-discriminators are then
    averaged: each has the same say however many logits it gives, and the scale does not grow with their number. Logits
    are taken as float32. The padding behind an item's length is judged like the rest.

    Args:
        generator_form: ``plain``: -D(x) (MelGAN, Kumar et al. 2019), a gradient that never fades; ``clipped``:
            relu(1 - D(x)) (SEANet, EBEN), none where the discriminator is already deceived by the margin.

    Raises:
        ConfigError: another ``generator_form``.
    """

    def __init__(self, generator_form: GeneratorForm = "plain") -> None:
        forms = get_args(GeneratorForm)
        if generator_form not in forms:
            raise ConfigError([f"generator_form is {generator_form!r}: choose one of {', '.join(forms)}"])
        self.generator_form = generator_form

    def discriminator(self, target_judgements: Sequence[Judgement], estimate_judgements: Sequence[Judgement]) -> Tensor:
        """Scalar: mean relu(1 - D(target)) + mean relu(1 + D(estimate)). The estimate must come detached.

        Raises:
            ValueError: no judgement, or not as many of the one as of the other.
        """
        if len(target_judgements) != len(estimate_judgements):
            raise ValueError(
                f"{len(target_judgements)} judgements of the target, {len(estimate_judgements)} of the estimate"
            )
        of_target = _mean_over_judgements(target_judgements, lambda logits: torch.relu(1.0 - logits))
        of_estimate = _mean_over_judgements(estimate_judgements, lambda logits: torch.relu(1.0 + logits))
        return of_target + of_estimate

    def generator(self, estimate_judgements: Sequence[Judgement]) -> Tensor:
        """Scalar: mean -D(estimate), or mean relu(1 - D(estimate)) in the clipped form.

        Raises:
            ValueError: no judgement.
        """
        if self.generator_form == "plain":
            return _mean_over_judgements(estimate_judgements, torch.neg)
        return _mean_over_judgements(estimate_judgements, lambda logits: torch.relu(1.0 - logits))


def _mean_over_judgements(judgements: Iterable[Judgement], of_logits: Callable[[Tensor], Tensor]) -> Tensor:
    means = [of_logits(judgement.logits.float()).mean() for judgement in judgements]
    if not means:
        raise ValueError("no sub-discriminator gave a judgement")
    return torch.stack(means).mean()
