"""EnCodec: its discriminator on spectrograms, and its balancer of gradients."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from parity import TOLERANCE, double_precision, muffled, named, note, one_step, relative, speech_like, without_init
from torch import Tensor

from bcfusion.balancers.gradient import GradientBalancer
from bcfusion.contracts import Judgement
from bcfusion.discriminators.multi_stft import MultiStftDiscriminator
from bcfusion.losses.adversarial import HingeLoss
from bcfusion.training.anchor import OutputAnchor

REASON = "scripts/install_public_code.sh installs the public code"
WEIGHT_NORM = (("weight_g", "parametrizations.weight.original0"), ("weight_v", "parametrizations.weight.original1"))
N_FFTS, HOPS = (256, 512), (64, 128)


@pytest.fixture(autouse=True)
def _double() -> Iterator[None]:
    torch.manual_seed(0)
    with double_precision():
        yield


def discriminator_difference(ours: MultiStftDiscriminator, what: str) -> float:
    msstftd = pytest.importorskip("encodec.msstftd", reason=REASON)
    public = msstftd.MultiScaleSTFTDiscriminator(4, n_ffts=N_FFTS, hop_lengths=HOPS, win_lengths=N_FFTS)
    target = speech_like(2, 2048, seed=0)
    estimate, objective = muffled(target), HingeLoss()

    def judged(signal: Tensor) -> list[Judgement]:
        # its frames begin and end with whole windows; ours are those of the signal with zeros around it
        pairs = zip(public.discriminators, N_FFTS, strict=True)
        return [Judgement(*network(F.pad(signal, (n_fft // 2, n_fft // 2)))) for network, n_fft in pairs]

    changes = [("discriminators", "resolutions"), ("convs", "layers"), ("conv_post", "logits"), ("conv.conv.", "")]
    changes += [("layers.0.conv.", "layers.0."), ("conv.", ""), *WEIGHT_NORM]
    return one_step(
        "encodec 0.1.1",
        what,
        (ours, named(ours), lambda: objective.discriminator(ours(target), ours(estimate))),
        (public, named(public, *changes), lambda: objective.discriminator(judged(target), judged(estimate))),
    )


def small(**arguments: float) -> MultiStftDiscriminator:
    return MultiStftDiscriminator(N_FFTS, HOPS, channels=4, **arguments)  # type: ignore[arg-type]


def test_a_step_of_the_discriminator_is_that_of_the_public_code() -> None:
    assert discriminator_difference(small(), "multi-scale STFT discriminator, hinge, 1 step") <= TOLERANCE


def test_a_changed_slope_of_the_discriminator_is_found() -> None:
    assert discriminator_difference(small(negative_slope=0.21), "") > TOLERANCE


SLOPES = {"l1": 1.0, "stft": 45.0, "adversarial": 0.01}


def gradients_of(balancer: GradientBalancer, estimates: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield our gradient at the estimate and the public one, over steps whose losses change their scale."""
    without_init("audiocraft", "audiocraft.losses", "flashy")
    flashy = pytest.importorskip("flashy.utils", reason=REASON)
    import sys
    from types import SimpleNamespace

    # the rest of it, for several processes and for logs, would need five more packages
    sys.modules["flashy"].averager = flashy.averager  # type: ignore[attr-defined]
    sys.modules["flashy"].distrib = SimpleNamespace(average_metrics=lambda metrics, count: metrics)  # type: ignore[attr-defined]
    from audiocraft.losses.balancer import Balancer

    weights = {"l1": 1.0, "stft": 2.0, "adversarial": 4.0}
    public = Balancer(weights, ema_decay=balancer.decay)
    for step, estimate in enumerate(estimates):
        found: list[Tensor] = []

        def losses(x: Tensor, step: int = step) -> dict[str, Tensor]:
            target = torch.linspace(-1, 1, x.shape[-1])
            values = {"l1": (x - target).abs().mean(), "stft": (x - target).square().mean(), "adversarial": -x.mean()}
            return {name: slope * (1 + step) ** 2 * values[name] for name, slope in SLOPES.items()}

        anchor = OutputAnchor({"estimate": estimate.clone().requires_grad_()})
        balancer.backward(losses(anchor.outputs["estimate"]), weights, anchor, found.append)
        output = estimate.clone().requires_grad_()
        public.backward(losses(output), output)
        assert output.grad is not None
        yield found[0], output.grad


def test_twenty_gradients_of_the_balancer_are_those_of_the_public_code() -> None:
    items = 3
    balancer = GradientBalancer(decay=0.9, total_norm=items, spike_limit=None)
    pairs = gradients_of(balancer, torch.randn(20, items, 1, 50))
    difference = max(relative(ours, public) for ours, public in pairs)
    note("audiocraft 1.3.0", "EnCodec's balancer, 20 steps", difference)
    assert difference <= 1e-8


@pytest.mark.parametrize("fault", [{"decay": 0.91}, {"total_norm": 3.01}, {"average": "first"}, {"eps": 1e-3}], ids=str)
def test_a_changed_balancer_is_found(fault: dict[str, float]) -> None:
    balancer = GradientBalancer(**{"decay": 0.9, "total_norm": 3, "spike_limit": None, **fault})  # type: ignore[arg-type]
    decay, balancer.decay = balancer.decay, 0.9  # of the public one
    pairs = gradients_of(balancer, torch.randn(20, 3, 1, 50))
    balancer_differs = False
    for ours, public in pairs:
        balancer.decay = decay
        balancer_differs |= relative(ours, public) > TOLERANCE
    assert balancer_differs
