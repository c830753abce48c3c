from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import Tensor

from bcfusion.contracts import AdversarialObjective, Judgement
from bcfusion.errors import ConfigError
from bcfusion.losses.adversarial import HingeObjective


def judgements(*logits: list[float] | Tensor) -> list[Judgement]:
    return [Judgement(logits=torch.as_tensor(values)[None], features=[]) for values in logits]


def test_shipped_config_makes_an_objective() -> None:
    path = Path(__file__).parents[2] / "conf" / "adversarial" / "hinge.yaml"
    config = OmegaConf.load(path)
    assert set(config) == {"weight", "start_step", "interval", "objective"}
    assert isinstance(instantiate(config.objective), AdversarialObjective)
    assert path.read_text().startswith("# bcfusion train adversarial=hinge\n")


def test_a_discriminator_that_cannot_tell_pays_2_and_a_sure_one_nothing() -> None:
    objective = HingeObjective()
    assert objective.discriminator(judgements([0.0, 0.0]), judgements([0.0, 0.0])).item() == 2.0
    assert objective.discriminator(judgements([1.0, 7.0]), judgements([-1.0, -7.0])).item() == 0.0


def test_discriminator_pays_for_what_is_on_the_wrong_side_of_the_margin() -> None:
    # relu(1 - y): 0.5, 3 -> 1.75; relu(1 + x): 0, 1.5 -> 0.75
    loss = HingeObjective().discriminator(judgements([0.5, -2.0]), judgements([-3.0, 0.5]))
    assert loss.item() == pytest.approx(2.5)


def test_plain_form_rewards_deception_without_end_and_the_clipped_one_up_to_the_margin() -> None:
    logits = torch.tensor([3.0, 0.5, -2.0], requires_grad=True)
    plain, clipped = HingeObjective("plain"), HingeObjective("clipped")
    assert plain.generator(judgements(logits)).item() == pytest.approx(-0.5)
    assert clipped.generator(judgements(logits)).item() == pytest.approx((0 + 0.5 + 3) / 3)
    (gradient,) = torch.autograd.grad(plain.generator(judgements(logits)), logits)
    assert gradient.tolist() == pytest.approx([-1 / 3] * 3)
    (gradient,) = torch.autograd.grad(clipped.generator(judgements(logits)), logits)
    assert gradient.tolist() == pytest.approx([0.0, -1 / 3, -1 / 3])


def test_sub_discriminators_have_the_same_say_however_many_logits_they_give() -> None:
    few, many = [-1.0], [3.0] * 100
    assert HingeObjective().generator(judgements(few, many)).item() == pytest.approx(-1.0)
    # D: (0 + 4) / 2 for the estimate, (2 + 0) / 2 for the target
    assert HingeObjective().discriminator(judgements(few, many), judgements(few, many)).item() == pytest.approx(3.0)


def test_logits_of_bfloat16_are_averaged_in_float32() -> None:
    logits = torch.full((1000,), 1.0078125, dtype=torch.bfloat16)
    loss = HingeObjective().generator(judgements(logits))
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(-1.0078125, rel=1e-6)


def test_no_judgements_or_unequal_ones_are_refused() -> None:
    with pytest.raises(ValueError, match="no sub-discriminator"):
        HingeObjective().generator([])
    with pytest.raises(ValueError, match="2 judgements of the target, 1 of the estimate"):
        HingeObjective().discriminator(judgements([0.0], [0.0]), judgements([0.0]))


def test_unknown_generator_form_names_the_choices() -> None:
    wrong: dict[str, Any] = {"generator_form": "soft"}
    with pytest.raises(ConfigError, match=r"'soft'.*plain, clipped"):
        HingeObjective(**wrong)
