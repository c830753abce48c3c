"""Twenty training steps of EBEN are those of the public code: losses, gradients and weights, to rounding errors."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from parity import TOLERANCE, double_precision, note, relative

from bcfusion.generators import eben
from bcfusion.losses.spectral import MultiResolutionStftLoss, a_weighting_filter

pytest.importorskip("vibravox", reason="scripts/install_public_code.sh installs the public code")
pytest.importorskip("auraloss")

from eben_steps import NARROW, PUBLISHED, SETTINGS, Differences, OurStep, PublicStep, run

SOURCE = "vibravox 0.1.1, auraloss 0.4.0"
STEPS = 20


@pytest.fixture(autouse=True)
def _double() -> Iterator[None]:
    with double_precision():
        yield


def start(*overrides: str, narrow: bool = True, lr: float = 3e-4) -> tuple[OurStep, PublicStep]:
    torch.manual_seed(0)
    public = PublicStep(narrow=narrow, lr=lr)
    ours = OurStep(*(NARROW if narrow else []), *PUBLISHED, f"optimizer.lr={lr}", *overrides)
    public.copy_to(ours)
    return ours, public


def worst(steps: list[Differences]) -> Differences:
    return Differences(*map(max, zip(*steps, strict=True)))


def check(found: Differences, what: str) -> None:
    for compared, difference in found._asdict().items():
        note(SOURCE, f"{what}: {compared}", difference)
    assert max(found) <= TOLERANCE, found


@pytest.mark.slow
def test_twenty_steps_are_those_of_the_public_code() -> None:
    """At 1/30 of the published rate: there, a rounding error of 1e-16 grows to a percent within ten steps."""
    steps = list(run(*start(lr=1e-5), STEPS))
    check(worst(steps), f"EBEN, {STEPS} steps, rate 1e-5")


@pytest.mark.slow
def test_each_of_twenty_steps_at_the_published_rate_is_that_of_the_public_code() -> None:
    """Each starts from the public state, so that rounding errors do not accumulate."""
    steps = list(run(*start(), STEPS, together=True))
    check(worst(steps), f"EBEN, each of {STEPS} steps, rate 3e-4")


@pytest.mark.slow
def test_a_step_at_the_published_sizes_is_that_of_the_public_code() -> None:
    steps = list(run(*start("adversarial.shared_passes=false", narrow=False), 1))  # four passes, as there
    check(worst(steps), "EBEN, 23.2 M parameters of discriminators, 1 step")


FAULTS: dict[str, list[str]] = {
    "slope of the generator": ["generator.negative_slope=0.011"],
    "slope of the discriminators": ["discriminators.pqmf_bands.negative_slope=0.21"],
    "padding of the discriminators": ["discriminators.pqmf_bands.padding=aligned"],
    "padding of the STFT": ["losses.mr_stft.padding=zeros"],
    "weight of the log magnitude": ["losses.mr_stft.log_magnitude_weight=1.01"],
    "weight of the adversarial loss": ["balancer.weights=given", "adversarial.weight=1.01"],
    "weight of feature matching": ["balancer.weights=given", "losses.feature_matching.weight=1.01"],
    "momentum": ["optimizer.generator.betas=[0.51,0.9]"],
    "decay of the averages": ["balancer.decay=0.91"],
    "order of the updates": ["adversarial.order=discriminator_first"],
}


def found_by_step(ours: OurStep, public: PublicStep) -> int | None:
    """Return the first of three steps in which the comparison fails; None if it passes."""
    return next((step for step, found in enumerate(run(ours, public, 3), 1) if max(found) > TOLERANCE), None)


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_found(fault: str) -> None:
    assert found_by_step(*start(*FAULTS[fault]))


@pytest.mark.slow
def test_a_changed_padding_in_the_generator_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def with_zeros(*arguments: Any, **sizes: Any) -> Any:
        layer = convolution(*arguments, **sizes)
        layer.padding_mode = "zeros"
        return layer

    convolution = eben._convolution
    monkeypatch.setattr(eben, "_convolution", with_zeros)
    assert found_by_step(*start())


#: with these values the form makes no difference on speech; tests of the losses and balancers show what it is for
SAME_ON_SPEECH = {"no limit on spikes", "STFT loss without limits on silence", "features without a floor"}


@pytest.mark.slow
@pytest.mark.parametrize("setting", [name for name in SETTINGS if name not in SAME_ON_SPEECH])
def test_each_option_is_needed_for_the_public_form(setting: str) -> None:
    torch.manual_seed(0)
    public = PublicStep()
    others = [o for name, overrides in SETTINGS.items() if name != setting for o in overrides]
    if setting == "balancer":  # of another balancer, the other settings are no arguments
        others = [o for o in others if not o.startswith("balancer")] + ["balancer=fixed"]
    ours = OurStep(*NARROW, *others, "optimizer.lr=3e-4")
    public.copy_to(ours)
    assert found_by_step(ours, public)


@pytest.mark.parametrize("level", [0.1, 0.0], ids=["speech", "silence"])
@pytest.mark.parametrize("weighted", [False, True])
def test_the_stft_loss_is_that_of_auraloss_even_on_silence(weighted: bool, level: float) -> None:
    import auraloss

    public = auraloss.freq.MultiResolutionSTFTLoss(perceptual_weighting=weighted, sample_rate=16000)
    ours = MultiResolutionStftLoss(
        flooring="clamped",
        silence_db=None,
        convergence_limit=None,
        convergence_over="batch",
        padding="reflect",
        a_weighting=weighted,
        a_weighting_taps=101 if weighted else None,
        sample_rate=16000,
    )
    if weighted:
        for resolution in public.stft_losses:  # it rounds its own to float32
            resolution.prefilter.fir.weight.data = ours.prefilter.view(1, 1, -1)
    generator = torch.Generator().manual_seed(0)
    target = level * torch.randn(2, 1, 4000, generator=generator)
    estimate = target + 0.05 * torch.randn(2, 1, 4000, generator=generator)
    estimate.requires_grad_()
    values = ours(estimate, target, torch.tensor([4000, 4000])), public(estimate, target)
    gradients = [torch.autograd.grad(value, estimate)[0] for value in values]
    difference = max(relative(*values), relative(*gradients))
    note(SOURCE, f"STFT loss, {'A-weighted, ' if weighted else ''}{'speech' if level else 'silent target'}", difference)
    assert difference <= 1e-9


def test_the_filter_of_the_a_weighting_is_that_of_auraloss() -> None:
    from auraloss.perceptual import FIRFilter

    public = FIRFilter(filter_type="aw", fs=16000).fir.weight.flatten()
    assert relative(torch.from_numpy(a_weighting_filter(101, 16000)), public) < 1e-7


def test_the_filters_of_the_bank_are_those_of_the_public_code_to_its_rounding_errors() -> None:
    from vibravox.torch_modules.dsp.pqmf import PseudoQMFBanks

    with torch.device("cpu"):
        public = PseudoQMFBanks(decimation=4, kernel_size=32)
    ours = eben.EBEN(channels=2, latent_channels=2, cutoff=0.15886658430099487, filter_gain=None).pqmf
    assert relative(ours.analysis_filters, public.analysis_weights) < 1e-6
    assert relative(ours.synthesis_filters, public.synthesis_weights) < 1e-6
