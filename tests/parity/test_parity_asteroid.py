"""One training step of Conv-TasNet, and one of DCCRN, against asteroid's."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from parity import TOLERANCE, Read, change_slope, double_precision, named, note, one_step, relative, speech_like
from torch import Tensor, nn

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

BOTTLENECK, BLOCKS, SAMPLES = 6, 6, 1600


def small_conv_tasnet() -> ConvTasNet:
    return ConvTasNet(filters=24, bottleneck_channels=BOTTLENECK, hidden_channels=10, blocks=3, repeats=2)


def conv_tasnet_difference(ours: ConvTasNet, what: str) -> float:
    from asteroid.losses import singlesrc_neg_sisdr
    from asteroid.models import ConvTasNet as Public

    public = Public(
        1, n_blocks=3, n_repeats=2, bn_chan=BOTTLENECK, hid_chan=10, skip_chan=BOTTLENECK, n_filters=24, stride=8
    )

    def our_view(read: Read) -> dict[str, Tensor]:
        tensors = {n: read(p) for n, p in ours.named_parameters() if "project" not in n}
        for index, block in enumerate(ours.blocks):
            both = [read(block.project.weight), read(block.project.bias)]
            if index < BLOCKS - 1:  # the input of the next block first, then the skip path
                kinds = [("res", slice(BOTTLENECK)), ("skip", slice(BOTTLENECK, None))]
            else:
                kinds = [("skip", slice(None))]
            for kind, part in kinds:
                tensors |= {f"blocks.{index}.{kind}.{i}": tensor[part] for i, tensor in enumerate(both)}
        return tensors

    target = speech_like(2, SAMPLES, seed=0)
    inputs = target + speech_like(2, SAMPLES, seed=1)
    lengths = torch.full((2,), SAMPLES)

    def public_loss() -> Tensor:
        # the segments of ours that reach over the ends of the file are complete here with the zeros around it
        estimate = public(F.pad(inputs, (8, 8)))[..., 8:-8]
        return singlesrc_neg_sisdr(estimate[:, 0], target[:, 0]).mean()

    loss = SiSnrLoss(eps=1e-12)
    public_view = named(
        public,
        ("encoder.filterbank._filters", "encoder.weight"),
        ("decoder.filterbank._filters", "decoder.weight"),
        ("masker.bottleneck", "bottleneck"),
        ("masker.mask_net", "output"),
        ("masker.TCN", "blocks"),
        ("shared_block.0", "expand"),
        ("shared_block.1", "expand_act.0"),
        ("shared_block.2", "expand_act.1"),
        ("shared_block.3", "depthwise"),
        ("shared_block.4", "depthwise_act.0"),
        ("shared_block.5", "depthwise_act.1"),
        ("gamma", "weight"),
        ("beta", "bias"),
        ("res_conv.weight", "res.0"),
        ("res_conv.bias", "res.1"),
        ("skip_conv.weight", "skip.0"),
        ("skip_conv.bias", "skip.1"),
        without=f"TCN.{BLOCKS - 1}.res_conv",  # which nothing uses
    )
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


class PublicDCCRN(nn.Module):
    """The blocks of asteroid's DCCRN, in its order, padded with a frame before each encoder block as in the paper.

    asteroid pads none: each level has a frame less. Its network also drops the bin of half the sample rate in place of
    that of 0 Hz, has a slope of its own for the imaginary parts, and a dense layer that mixes real and imaginary parts,
    where the authors' code, which ours follows, has one for either part.
    """

    def __init__(self) -> None:
        super().__init__()
        from asteroid import complex_nn
        from asteroid.masknn.convolutional import DCUNetComplexDecoderBlock, DCUNetComplexEncoderBlock
        from asteroid.masknn.recurrent import DCCRMaskNetRNN

        sizes, padding = [1, *(width // 2 for width in CHANNELS)], ((5, 2), (2, 1), (2, 0))
        self.encoders = nn.ModuleList(
            DCUNetComplexEncoderBlock(before, after, *padding, activation="prelu") for before, after in pairwise(sizes)
        )
        features = sizes[-1] * (BINS >> len(CHANNELS))
        self.rnn = DCCRMaskNetRNN(features, hid_size=UNITS // 2)
        self.rnn.linear = complex_nn.OnReIm(nn.Linear, UNITS // 2, features)
        self.decoder = DCUNetComplexDecoderBlock(2 * sizes[2], sizes[1], *padding, (1, 0), activation="prelu")
        self.last = complex_nn.ComplexConvTranspose2d(2 * sizes[1], 1, *padding, (1, 0))
        self.bound = complex_nn.BoundComplexMask("tanh")
        for block in (*self.encoders, self.decoder):
            block.activation.im_module = block.activation.re_module

    def forward(self, spectrum: Tensor) -> Tensor:
        h, outputs = spectrum.unsqueeze(1), []
        for encoder in self.encoders:
            h = encoder(F.pad(h, (1, 0)))
            outputs.append(h)
        h = torch.cat([self.rnn(h), outputs.pop()], dim=1)
        h = self.decoder.deconv(h)[..., 1:]  # the decoder sees the later frames
        h = self.decoder.activation(self.decoder.norm(h))
        return self.bound(self.last(torch.cat([h, outputs.pop()], dim=1))[..., 1:])[:, 0] * spectrum


def small_dccrn() -> DCCRN:
    sizes = {"n_fft": 2 * BINS, "hop_length": 8, "win_length": 2 * BINS}
    return DCCRN(channels=CHANNELS, lstm_units=UNITS, complex_lstm=True, **sizes)  # type: ignore[arg-type]


def dccrn_difference(ours: DCCRN, what: str) -> float:
    public = PublicDCCRN()

    def convolution(read: Read, layer: nn.Module, name: str, bias: bool = False) -> dict[str, Tensor]:
        weight = read(layer.weight)
        dim = 1 if isinstance(layer, nn.ConvTranspose2d) or "decoder" in name or "last" in name else 0
        real, imag = weight.chunk(2, dim=dim)
        tensors = {f"{name}.re": real, f"{name}.im": imag}
        if bias:
            tensors |= dict(zip((f"{name}.re bias", f"{name}.im bias"), read(layer.bias).chunk(2), strict=True))
        return tensors

    def parts(read: Read, block: nn.Module, norm: nn.Module, act: nn.Module, name: str) -> dict[str, Tensor]:
        tensors = {f"{name}.slope": read(act.weight)}
        for key in ("weight", "bias"):
            real, imag = read(getattr(norm, key)).chunk(2)
            tensors |= {f"{name}.norm.re.{key}": real, f"{name}.norm.im.{key}": imag}
        return tensors | convolution(read, block.conv.layer, name)

    def our_view(read: Read) -> dict[str, Tensor]:
        tensors = {}
        for index, block in enumerate(ours.encoder):
            tensors |= parts(read, block, block.norm, block.activation, f"encoder.{index}")
        first = ours.decoder[0]
        tensors |= parts(read, first, first.after[0], first.after[1], "decoder")
        tensors |= convolution(read, ours.decoder[1].conv.layer, "last", bias=True)
        for index, lstm in enumerate(list(ours.bottleneck)[:2]):
            for part, kind in (("real", "re"), ("imag", "im")):
                cells = dict(getattr(lstm, part).named_parameters())
                tensors |= {f"lstm.{index}.{kind}.{n.split('.')[-1]}": read(p) for n, p in cells.items()}
        for part, kind in (("real", "re"), ("imag", "im")):
            tensors |= {f"dense.{kind}.{n}": read(p) for n, p in getattr(ours.bottleneck[2], part).named_parameters()}
        return tensors

    def of_public(read: Read, block: nn.Module, layer: nn.Module, name: str) -> dict[str, Tensor]:
        tensors = {f"{name}.slope": read(block.activation.re_module.weight)}
        for kind in ("re", "im"):
            tensors[f"{name}.{kind}"] = read(getattr(layer, f"{kind}_module").weight)
            norm = getattr(block.norm, f"{kind}_module")
            tensors |= {f"{name}.norm.{kind}.{key}": read(getattr(norm, key)) for key in ("weight", "bias")}
        return tensors

    def public_view(read: Read) -> dict[str, Tensor]:
        tensors = {}
        for index, block in enumerate(public.encoders):
            tensors |= of_public(read, block, block.conv, f"encoder.{index}")
        tensors |= of_public(read, public.decoder, public.decoder.deconv, "decoder")
        for kind in ("re", "im"):
            last = getattr(public.last, f"{kind}_module")
            tensors |= {f"last.{kind}": read(last.weight), f"last.{kind} bias": read(last.bias)}
            for index, rnn in enumerate(public.rnn.rnn.rnns):
                cells = getattr(rnn, f"{kind}_module").rnn.named_parameters()
                tensors |= {f"lstm.{index}.{kind}.{n}": read(p) for n, p in cells}
            dense = getattr(public.rnn.linear, f"{kind}_module")
            tensors |= {f"dense.{kind}.{n}": read(p) for n, p in dense.named_parameters()}
        return tensors

    with torch.no_grad():
        for block in (*ours.encoder, ours.decoder[0]):
            block.conv.layer.bias.zero_()  # the normalisation cancels it; asteroid has none
    spectrum = torch.randn(2, BINS, FRAMES, dtype=torch.complex128)
    target = torch.randn(2, BINS, FRAMES, dtype=torch.complex128)

    def our_loss() -> Tensor:
        real, imag = (F.pad(part, (0, 0, 1, 0)).unsqueeze(1) for part in (spectrum.real, spectrum.imag))
        (real, imag), _ = ours.spectrum(real, imag)
        return (torch.complex(real, imag)[:, 1:] - target).abs().square().mean()

    public_loss = lambda: (public(spectrum) - target).abs().square().mean()  # noqa: E731
    return one_step(SOURCE, what, (ours, our_view, our_loss), (public, public_view, public_loss))


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
