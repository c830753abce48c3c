"""Every conf/balancer/*.yaml, shipped now or added later, fulfils the contract of a balancer."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from bcfusion.contracts import Balancer
from bcfusion.errors import ConfigError
from bcfusion.training.anchor import OUTPUT, OutputAnchor, anchor_parameter

FILES = sorted((Path(__file__).parents[2] / "conf" / "balancer").glob("*.yaml"))
WEIGHTS = {"l1": 2.0, "energy": 0.5, "adversarial": 0.3, "joins_later": 1.0}


class TinyGenerator(nn.Module):
    """Returns the estimate, with ``masks`` also a mask of other dimensions."""

    def __init__(self, masks: bool) -> None:
        super().__init__()
        self.masks = masks
        self.first = nn.Conv1d(1, 4, 5, padding=2)
        self.last = nn.utils.parametrizations.weight_norm(nn.Conv1d(4, 1, 5, padding=2))

    def forward(self, inputs: Tensor) -> dict[str, Tensor]:
        hidden = torch.tanh(self.first(inputs))
        estimate = self.last(hidden)
        return {"estimate": estimate, "mask": hidden.unflatten(-1, (-1, 8))} if self.masks else {"estimate": estimate}


def load(path: Path, **settings: Any) -> Any:
    config = OmegaConf.load(path)
    assert isinstance(config, DictConfig)
    return instantiate(config, **settings)


@pytest.fixture(params=FILES, ids=[path.stem for path in FILES])
def path(request: pytest.FixtureRequest) -> Path:
    return request.param


def settings_of(path: Path) -> list[dict[str, str]]:
    """Return the anchors to test, the output and a parameter, for balancers that have this setting."""
    return [{"anchor": OUTPUT}, {"anchor": "last.weight"}] if "anchor" in OmegaConf.load(path) else [{}]


CASES = [(path, settings) for path in FILES for settings in settings_of(path)]


@pytest.fixture(params=CASES, ids=["-".join([path.stem, *settings.values()]) for path, settings in CASES])
def case(request: pytest.FixtureRequest) -> tuple[Path, dict[str, str]]:
    return request.param


@pytest.fixture
def balancer(case: tuple[Path, dict[str, str]]) -> Any:
    path, settings = case
    return load(path, **settings)


@pytest.fixture(params=[False, True], ids=["estimate", "estimate and mask"])
def generator(request: pytest.FixtureRequest) -> TinyGenerator:
    torch.manual_seed(0)
    return TinyGenerator(masks=request.param)


def losses_of(outputs: dict[str, Tensor]) -> dict[str, Tensor]:
    estimate = outputs["estimate"]
    target = torch.linspace(-0.5, 0.5, estimate.shape[-1])
    losses = {
        "l1": (estimate - target).abs().mean(),
        "energy": 30 * estimate.square().mean(),
        "adversarial": -0.01 * torch.tanh(estimate).mean(),
    }
    if "mask" in outputs:
        losses["l1"] = losses["l1"] + outputs["mask"].square().mean()
    return losses


def learn(balancer: Any, generator: TinyGenerator, names: tuple[str, ...] = ()) -> tuple[list[Tensor], dict[str, Any]]:
    """Return the gradients that the trainer's backward pass gets, and the shares."""
    outputs = generator(torch.randn(3, 1, 64, generator=torch.Generator().manual_seed(1)))
    anchor = OutputAnchor(outputs, anchor_parameter(generator, balancer.anchor))
    losses = losses_of(anchor.outputs)
    given: list[Tensor] = []

    def backward(gradient: Tensor) -> None:
        given.append(gradient)
        anchor.backward(gradient, lambda tensor, gradient=None: tensor.backward(gradient))

    generator.zero_grad(set_to_none=True)
    shares = balancer.backward({name: losses[name] for name in names or losses}, WEIGHTS, anchor, backward)
    assert given[0].shape == anchor.leaf.shape
    return given, dict(shares)


def test_there_are_balancers() -> None:
    assert {"fixed", "adaptive", "gradient", "eben"} <= {path.stem for path in FILES}


def test_file_opens_with_its_command_and_explains_every_key(path: Path) -> None:
    lines = path.read_text().splitlines()
    assert lines[0] == f"# bcfusion train balancer={path.stem}"
    silent = [line for line in lines if ": " in line and "_target_" not in line and "#" not in line]
    assert not silent, "keys without a comment"


def test_file_shows_every_setting_of_the_class_at_a_value_it_accepts(path: Path) -> None:
    config = OmegaConf.load(path)
    keys = set(config) - {"_target_"}
    assert keys == set(inspect.signature(type(load(path)).__init__).parameters) - {"self", "args", "kwargs"}


def test_it_is_a_balancer_and_declares_its_anchor(case: tuple[Path, dict[str, str]], balancer: Any) -> None:
    assert isinstance(balancer, Balancer)
    assert isinstance(balancer, nn.Module), "its state goes into the checkpoint"
    assert balancer.anchor == case[1].get("anchor", OUTPUT)
    assert load(case[0]).anchor == OUTPUT, "the shipped files name no layer"


def test_the_generator_has_one_backward_pass_with_a_finite_gradient(balancer: Any, generator: TinyGenerator) -> None:
    for _ in range(3):
        given, _ = learn(balancer, generator)
        assert len(given) == 1
        assert given[0].dtype == torch.float32
        assert not given[0].requires_grad
        assert given[0].isfinite().all()
        assert torch.count_nonzero(given[0]) > 0
    for name, parameter in generator.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all()
        assert torch.count_nonzero(parameter.grad) > 0


def test_shares_sum_to_1_and_have_the_names_of_the_losses(balancer: Any, generator: TinyGenerator) -> None:
    for names in ((), ("l1", "energy"), ("adversarial",), ("l1", "adversarial")):
        _, shares = learn(balancer, generator, names)
        assert tuple(shares) == (names or ("l1", "energy", "adversarial"))
        assert all(isinstance(share, float) or not share.requires_grad for share in shares.values())
        values = [float(share) for share in shares.values()]
        assert all(0.0 < value <= 1.0 for value in values)
        assert sum(values) == pytest.approx(1.0, abs=1e-5)


def test_a_loss_alone_is_followed_in_its_own_direction(balancer: Any, generator: TinyGenerator) -> None:
    given, _ = learn(balancer, generator, ("energy",))
    outputs = generator(torch.randn(3, 1, 64, generator=torch.Generator().manual_seed(1)))
    anchor = OutputAnchor(outputs)
    own = anchor.gradient(losses_of(anchor.outputs)["energy"])
    similarity = torch.cosine_similarity(given[0].flatten(), own.flatten(), dim=0)
    assert similarity.item() == pytest.approx(1.0, abs=1e-5)


def test_state_loads_into_a_fresh_balancer_and_holds_nothing_but_tensors(
    case: tuple[Path, dict[str, str]], balancer: Any, generator: TinyGenerator, tmp_path: Path
) -> None:
    learn(balancer, generator)
    torch.save(balancer.state_dict(), tmp_path / "state.pt")
    fresh = load(case[0], **case[1])
    fresh.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    one, two = learn(balancer, generator)[0][0], learn(fresh, generator)[0][0]
    assert torch.equal(one, two)


def test_weights_that_are_all_0_are_refused(balancer: Any) -> None:
    anchor = OutputAnchor({"estimate": torch.zeros(1, 1, 4, requires_grad=True)})
    loss = anchor.outputs["estimate"].sum()
    with pytest.raises(ConfigError, match="l1"):
        balancer.backward({"l1": loss}, {"l1": 0.0}, anchor, lambda _: None)
    with pytest.raises(KeyError, match="l1"):
        balancer.backward({"l1": loss}, {}, anchor, lambda _: None)
