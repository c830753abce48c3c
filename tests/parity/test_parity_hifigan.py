"""HiFi-GAN: vocoder, discriminators and losses; HiFi-GAN+: network and losses of the content."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from parity import (
    TOLERANCE,
    Read,
    View,
    change_slope,
    double_precision,
    muffled,
    named,
    narrow,
    note,
    one_step,
    relative,
    speech_like,
)
from torch import Tensor, nn

from bcfusion.discriminators.hifigan_scale import HifiGanMultiScaleDiscriminator
from bcfusion.discriminators.multi_period import MultiPeriodDiscriminator
from bcfusion.generators.hifigan import Vocoder
from bcfusion.generators.hifigan_plus import HifiGanPlus
from bcfusion.losses.adversarial import LeastSquaresLoss
from bcfusion.losses.feature_matching import FeatureMatchingLoss
from bcfusion.losses.mel import LogMelLoss
from bcfusion.losses.spectral import MultiResolutionStftLoss
from bcfusion.losses.waveform import L1Loss

REASON = "scripts/install_public_code.sh installs the public code"
SOURCE, PLUS = "hifi-gan 0.0.2", "hifi-gan-bwe 0.1.14"
WIDEST, SAMPLES = 32, 2048


@pytest.fixture(autouse=True)
def _double() -> Iterator[None]:
    torch.manual_seed(0)
    with double_precision():
        yield


NORM = (("weight_g", "parametrizations.weight.original0"), ("weight_v", "parametrizations.weight.original1"))


def flat(network: nn.Module, *changes: tuple[str, str]) -> View:
    """Return a view in which a convolution has the same shape whether it is built in one or in two dimensions."""
    view = named(network, *changes)
    return lambda read: {name: tensor.flatten() for name, tensor in view(read).items()}


# ---------------------------------------------------------------- HiFi-GAN


def vocoder_difference(what: str, slope: float = 0.1) -> float:
    models = pytest.importorskip("hifi_gan.models", reason=REASON)
    sizes = SimpleNamespace(
        resblock="1",
        resblock_kernel_sizes=[3, 7],
        resblock_dilation_sizes=[[1, 3, 5], [1, 3, 5]],
        upsample_rates=[4, 2],
        upsample_kernel_sizes=[8, 4],
        upsample_initial_channel=16,
    )
    public = models.Generator(sizes)
    ours = Vocoder(
        channels=16,
        rates=(4, 2),
        kernel_sizes=(8, 4),
        residual_kernel_sizes=(3, 7),
        dilations=((1, 3, 5), (1, 3, 5)),
        negative_slope=slope,
    )
    changes = [("conv_pre", "first"), ("conv_post", "last"), ("convs1", "dilated"), ("convs2", "plain"), *NORM]
    changes += [(f"resblocks.{index}.", f"blocks.{index // 2}.fused.{index % 2}.") for index in range(4)]
    changes += [(f"ups.{index}.", f"blocks.{index}.up.") for index in range(2)]
    mel, target = torch.randn(2, 80, 12), torch.randn(2, 1, 96)

    def loss(network: nn.Module) -> Tensor:
        return (network(mel) - target).abs().mean()

    ours_and_public = [(ours, named(ours), lambda: loss(ours))]
    ours_and_public += [(public, named(public, *changes), lambda: loss(public))]
    return one_step(SOURCE, what, *ours_and_public)


def test_a_step_of_the_vocoder_is_that_of_the_public_code() -> None:
    assert vocoder_difference("vocoder, L1, 1 step") <= TOLERANCE


def test_a_changed_slope_of_the_vocoder_is_found() -> None:
    assert vocoder_difference("", slope=0.101) > TOLERANCE


class Ours(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mpd = MultiPeriodDiscriminator(channels=[WIDEST] * 5)
        self.msd = HifiGanMultiScaleDiscriminator(channels=[WIDEST] * 7)


class Public(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        models = pytest.importorskip("hifi_gan.models", reason=REASON)
        with narrow(models, WIDEST, "Conv1d", "Conv2d"):
            self.mpd = models.MultiPeriodDiscriminator()
            self.msd = models.MultiScaleDiscriminator()


def both() -> tuple[Ours, Public]:
    """Return both discriminators, with the same vectors of the spectral norm's power iteration, which stands still.

    The public code updates the first vector before the second, torch's newer spectral norm, which ours uses, after it,
    and ours once per batch instead of in each pass. Both converge to the same norm.
    """
    ours, public = Ours(), Public()
    first = ours.msd.scales[0]
    layers = [*public.msd.discriminators[0].convs, public.msd.discriminators[0].conv_post]
    for layer, of_public in zip([*first.layers, first.logits], layers, strict=True):
        norm = layer.parametrizations.weight[0]
        norm._u.copy_(of_public.weight_u)
        norm._v.copy_(of_public.weight_v)
    return ours.eval(), public.eval()


COLUMNS = (".columns", "")
VIEW = [
    ("mpd.discriminators", "mpd.periods"),
    ("msd.discriminators", "msd.scales"),
    ("convs", "layers"),
    ("conv_post", "logits"),
    ("weight_orig", "parametrizations.weight.original"),
    *NORM,
]


def discriminators_difference(ours: Ours, public: Public, what: str) -> float:
    from hifi_gan.models import discriminator_loss

    target = speech_like(2, SAMPLES, seed=0)
    estimate = muffled(target)
    objective = LeastSquaresLoss(per_discriminator="sum")

    def our_loss() -> Tensor:
        on_target, on_estimate = ([*ours.mpd(x), *ours.msd(x)] for x in (target, estimate))
        return objective.discriminator(on_target, on_estimate)

    def public_loss() -> Tensor:
        return sum(discriminator_loss(*network(target, estimate)[:2])[0] for network in (public.mpd, public.msd))

    return one_step(SOURCE, what, (ours, flat(ours, COLUMNS), our_loss), (public, flat(public, *VIEW), public_loss))


def test_a_step_of_the_discriminators_is_that_of_the_public_code() -> None:
    found = discriminators_difference(*both(), "multi-period and multi-scale discriminators, LSGAN, 1 step")
    assert found <= TOLERANCE


def test_a_changed_slope_or_pooling_of_the_discriminators_is_found() -> None:
    ours, public = both()
    ours.mpd.periods[1].columns.negative_slope = 0.101
    assert discriminators_difference(ours, public, "") > TOLERANCE
    ours, public = both()
    ours.msd.halve = nn.AvgPool1d(4, stride=2, padding=2, count_include_pad=False)
    assert discriminators_difference(ours, public, "") > TOLERANCE


def defined_log_mel(signal: Tensor, filters: Tensor) -> Tensor:
    """The input of HiFi-GAN's loss as its paper and configuration define it: 1024 points, hop 256, 80 bands."""
    padded = F.pad(signal, (384, 384), mode="reflect").squeeze(1)
    spectrum = torch.stft(padded, 1024, 256, window=torch.hann_window(1024), center=False, return_complex=True)
    magnitude = (spectrum.real.square() + spectrum.imag.square() + 1e-9).sqrt()
    return (filters.T @ magnitude).clamp_min(1e-5).log()


def test_the_generators_losses_are_the_defined_ones_and_those_of_the_public_code() -> None:
    """45 x log mel + 2 x feature matching + LSGAN, and the gradient of the sum at the estimate."""
    ours, public = both()
    with torch.no_grad():
        mine = flat(ours, COLUMNS)(lambda p: p.data)
        for name, weight in flat(public, *VIEW)(lambda p: p.data).items():
            mine[name].copy_(weight)
    from hifi_gan.models import feature_loss, generator_loss

    target = speech_like(2, SAMPLES, seed=0)
    estimate = muffled(target).requires_grad_()
    mel = LogMelLoss(22050, flooring="clamped", padding="reflect", between_hops=True)
    matching = FeatureMatchingLoss(per_layer="sum", per_discriminator="sum", logits=True)
    objective = LeastSquaresLoss(per_discriminator="sum")
    on_target, on_estimate = ([*ours.mpd(x), *ours.msd(x)] for x in (target, estimate))
    found = {
        "log mel": 45 * mel(estimate, target, torch.tensor([SAMPLES, SAMPLES])),
        "feature matching": 2 * matching(on_estimate, on_target),
        "adversarial": objective.generator(on_estimate),
    }
    judged = [network(target, estimate) for network in (public.mpd, public.msd)]
    distance = defined_log_mel(estimate, mel.filters) - defined_log_mel(target, mel.filters)
    published = {
        "log mel": 45 * distance.abs().mean(),
        "feature matching": sum(feature_loss(*pair[2:]) for pair in judged),
        "adversarial": sum(generator_loss(pair[1])[0] for pair in judged),
    }
    # from the definitions, apart from any code
    by_layer = [
        (r, g) for pair in judged for dr, dg in zip(*pair[2:], strict=True) for r, g in zip(dr, dg, strict=True)
    ]
    defined = 2 * sum((r - g).abs().mean() for r, g in by_layer)
    assert relative(found["feature matching"], defined) < 1e-9
    logits = [g for pair in judged for g in pair[1]]
    assert relative(found["adversarial"], sum((1 - g).square().mean() for g in logits)) < 1e-9
    for name in found:
        gradients = [torch.autograd.grad(loss[name], estimate, retain_graph=True)[0] for loss in (found, published)]
        difference = max(relative(found[name], published[name]), relative(*gradients))
        note(SOURCE if name != "log mel" else "its definition", f"HiFi-GAN's loss, {name}", difference)
        assert difference <= TOLERANCE


# ---------------------------------------------------------------- HiFi-GAN+


def plus_difference(ours: HifiGanPlus, what: str) -> float:
    models = pytest.importorskip("hifi_gan_bwe.models", reason=REASON)
    from hifi_gan_bwe.criteria import ContentCriteria

    public = models.WaveNet(2, 3, 1, 8, 1, kernel_size=3, dilation_base=3)
    criteria, rate, samples = ContentCriteria(), 48000, 9600
    target = speech_like(2, samples, seed=0, sample_rate=rate)
    inputs, lengths = muffled(target), torch.full((2,), samples)
    hops = [(512, 128, 512), (1024, 256, 1024), (2048, 512, 2048), (4096, 1024, 4096)]
    losses = [
        L1Loss(),
        MultiResolutionStftLoss(
            hops, spectral_convergence_weight=0, floor=1e-5, flooring="magnitude", padding="reflect"
        ),
        LogMelLoss(rate, 2048, 480, 1200, 128, f_min=4000, padding="reflect", magnitude_eps=1e-20),
    ]
    losses[2].filters.copy_(criteria._melspec_xform.mel_scale.fb)  # on another mel scale, without equal areas

    def our_loss() -> Tensor:
        return sum(loss(ours(inputs), target, lengths) for loss in losses)

    changes = [("_conv_in", "first"), ("_layers", "layers"), ("_conv_skip", "skip"), ("_conv_out", "residual")]
    names = [*changes, ("_conv.", "dilated.")]

    def public_view(read: Read) -> dict[str, Tensor]:
        view = named(public, *names, without="_layers.5._conv_out")(read)  # which nothing uses
        return {name.removeprefix("residual").replace("layers", "layers"): t for name, t in view.items()}

    def our_view(read: Read) -> dict[str, Tensor]:
        return {name.removeprefix("last"): tensor for name, tensor in named(ours)(read).items()}

    return one_step(
        PLUS,
        what,
        (ours, our_view, our_loss),
        (public, public_view, lambda: criteria(torch.tanh(public(inputs)), target)),
    )


def small_plus() -> HifiGanPlus:
    return HifiGanPlus(sample_rate=48000, channels=8, layers=3, input_skip=False)


def test_a_step_on_the_content_is_that_of_the_public_code() -> None:
    assert plus_difference(small_plus(), "HiFi-GAN+, L1 + log STFT + log mel, 1 step") <= TOLERANCE


def test_a_changed_gain_or_padding_of_hifi_gan_plus_is_found() -> None:
    ours = small_plus()
    ours.layers[2].dilated.padding_mode = "reflect"
    assert plus_difference(ours, "") > TOLERANCE
    ours = small_plus()
    change_slope(ours.layers[1].dilated)
    assert plus_difference(ours, "") > TOLERANCE
