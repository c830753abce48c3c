"""One training step of Conv-TasNet, and one of DCCRN, against asteroid's."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from asteroid_networks import (
    PublicDCCRN,
    conv_tasnet_output,
    conv_tasnet_views,
    dccrn_output,
    dccrn_views,
    public_conv_tasnet,
    without_cancelled_biases,
)
from parity import TOLERANCE, change_slope, double_precision, note, one_step, relative, speech_like
from torch import Tensor

from bcfusion.generators.conv_tasnet import ConvTasNet
from bcfusion.generators.dccrn import DCCRN
from bcfusion.losses.waveform import SiSnrLoss
from bcfusion.nn.network import estimate_of

pytest.importorskip("asteroid", reason="scripts/install_public_code.sh installs the public code")

SOURCE = "asteroid 0.7.0"


@pytest.fixture(autouse=True)
def _double() -> Iterator[None]:
    torch.manual_seed(0)
    with double_precision():
        yield


# ---------------------------------------------------------------- Conv-TasNet

SIZES, SAMPLES = (24, 6, 10, 3, 2), 1600


def small_conv_tasnet() -> ConvTasNet:
    return ConvTasNet(filters=24, bottleneck_channels=6, hidden_channels=10, blocks=3, repeats=2)


def conv_tasnet_difference(ours: ConvTasNet, what: str) -> float:
    from asteroid.losses import singlesrc_neg_sisdr

    public = public_conv_tasnet(*SIZES)
    our_view, public_view = conv_tasnet_views(ours, public)
    target = speech_like(2, SAMPLES, seed=0)
    inputs = target + speech_like(2, SAMPLES, seed=1)
    lengths = torch.full((2,), SAMPLES)

    def public_loss() -> Tensor:
        return singlesrc_neg_sisdr(conv_tasnet_output(public, inputs)[:, 0], target[:, 0]).mean()

    loss = SiSnrLoss(eps=1e-12)
    return one_step(
        SOURCE,
        what,
        (ours, our_view, lambda: loss(estimate_of(ours(inputs)), target, lengths)),
        (public, public_view, public_loss),
    )


def test_a_step_of_conv_tasnet_is_that_of_asteroid() -> None:
    assert conv_tasnet_difference(small_conv_tasnet(), "Conv-TasNet, SI-SNR, 1 step") <= TOLERANCE


def test_a_changed_padding_or_slope_of_conv_tasnet_is_found() -> None:
    ours = small_conv_tasnet()
    ours.blocks[2].depthwise.left += 1
    assert conv_tasnet_difference(ours, "") > TOLERANCE
    ours = small_conv_tasnet()
    change_slope(ours.blocks[2].expand_act[0])
    assert conv_tasnet_difference(ours, "") > TOLERANCE


# ---------------------------------------------------------------- DCCRN

CHANNELS, UNITS, BINS, FRAMES = (8, 12), 16, 16, 9


def small_dccrn() -> DCCRN:
    sizes = {"n_fft": 2 * BINS, "hop_length": 8, "win_length": 2 * BINS}
    return DCCRN(channels=CHANNELS, lstm_units=UNITS, complex_lstm=True, **sizes)  # type: ignore[arg-type]


def dccrn_difference(ours: DCCRN, what: str) -> float:
    public = PublicDCCRN(CHANNELS, UNITS, BINS)
    our_view, public_view = dccrn_views(ours, public)
    without_cancelled_biases(ours)
    spectrum = torch.randn(2, BINS, FRAMES, dtype=torch.complex128)
    target = torch.randn(2, BINS, FRAMES, dtype=torch.complex128)
    return one_step(
        SOURCE,
        what,
        (ours, our_view, lambda: (dccrn_output(ours, spectrum) - target).abs().square().mean()),
        (public, public_view, lambda: (public(spectrum) - target).abs().square().mean()),
    )


def test_a_step_of_dccrn_is_that_of_the_blocks_of_asteroid() -> None:
    difference = dccrn_difference(small_dccrn(), "DCCRN-CL, complex MSE, 1 step")
    assert difference <= TOLERANCE


def test_a_changed_slope_of_dccrn_is_found() -> None:
    ours = small_dccrn()
    change_slope(ours.encoder[1].activation)
    assert dccrn_difference(ours, "") > TOLERANCE


def test_si_snr_is_that_of_asteroid_down_to_its_regularisation() -> None:
    from asteroid.losses import singlesrc_neg_sisdr

    target, estimate = speech_like(2, 4000, seed=0), speech_like(2, 4000, seed=0) + 0.3 * speech_like(2, 4000, seed=1)
    ours = SiSnrLoss(eps=1e-12)(estimate, target, torch.full((2,), 4000))
    difference = relative(ours, singlesrc_neg_sisdr(estimate[:, 0], target[:, 0]).mean())
    note(SOURCE, "SI-SNR", difference)
    assert difference < 1e-6
