"""Networks on spectrograms with copied weights: VoiceFixer's ResUNet and BSRNN."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate

import pytest
import torch
from parity import TOLERANCE, Read, double_precision, named, narrow, one_step, without_init
from torch import Tensor, nn

from bcfusion.generators.bsrnn import BSRNN
from bcfusion.nn import resunet
from bcfusion.nn.resunet import ResUNet

REASON = "scripts/install_public_code.sh installs the public code"


@pytest.fixture(autouse=True)
def _double() -> Iterator[None]:
    torch.manual_seed(0)
    with double_precision():
        yield


# ---------------------------------------------------------------- VoiceFixer

CANCELLED = "shortcut.bias"  # by the batch normalisation of the next block: gradients are rounding errors
WIDTH, MELS = 32, 128


def resunet_difference(what: str, frames: int = 128) -> float:
    without_init("voicefixer", "voicefixer.restorer", "voicefixer.tools")  # it downloads weights when it is imported
    model = pytest.importorskip("voicefixer.restorer.model_kqq_bn", reason=REASON)
    with narrow(model, WIDTH, "EncoderBlockRes", "DecoderBlockRes", "ConvBlockRes"):
        public = model.UNetResComplex_100Mb(channels=1)
    ours = ResUNet(channels=[WIDTH] * 6)
    changes = [(f"encoder_block{n}.", f"encoder.{n - 1}.") for n in range(1, 7)]
    changes += [(f"decoder_block{n}.", f"decoder.{n - 1}.") for n in range(1, 7)]
    changes += [("conv_block7", "bottom"), ("after_conv_block1", "head"), ("after_conv2", "last")]
    changes += [
        (f"encoder.{level}.conv_block{n}", f"encoder.{level}.{n - 1}") for level in range(6) for n in range(1, 5)
    ]
    changes += [
        (f"decoder.{level}.conv_block{n}", f"decoder.{level}.blocks.{n - 2}") for level in range(6) for n in range(2, 6)
    ]
    changes += [(f"decoder.{level}.conv1", f"decoder.{level}.up") for level in range(6)]
    changes += [(f"decoder.{level}.bn1", f"decoder.{level}.norm") for level in range(6)]
    changes += [("conv1", "first"), ("conv2", "second"), ("bn1", "norms.0"), ("bn2", "norms.1")]

    def our_view(read: Read) -> dict[str, Tensor]:  # its kernels are of (time, frequency)
        return {name: t.mT if t.ndim == 4 else t for name, t in named(ours, without=CANCELLED)(read).items()}

    mel, target = torch.randn(2, 1, frames, MELS), torch.randn(2, 1, frames, MELS - 1)
    return one_step(
        "voicefixer 0.1.3",
        what,
        (ours, our_view, lambda: (ours(mel.mT[:, :, : MELS - 1]).mT - target).abs().mean()),
        (
            public,
            named(public, *changes, without=CANCELLED),
            lambda: (public(mel)["mel"][..., : MELS - 1] - target).abs().mean(),
        ),
    )


@pytest.mark.slow
def test_a_step_of_voicefixers_resunet_is_that_of_the_public_code() -> None:
    assert resunet_difference("ResUNet, L1, 1 step") <= TOLERANCE


@pytest.mark.slow
def test_a_changed_slope_of_the_resunet_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resunet, "SLOPE", 0.0101)
    assert resunet_difference("", frames=64) > TOLERANCE


# ---------------------------------------------------------------- BSRNN

CHANNELS, WIDTHS = 6, (5, 4, 8)


def test_a_step_of_bsrnn_is_that_of_espnet() -> None:
    """With its mask alone: espnet adds a second output to the masked spectrum, which is set to zero here."""
    without_init("espnet2", "espnet2.enh", "espnet2.enh.layers")
    bsrnn = pytest.importorskip("espnet2.enh.layers.bsrnn", reason=REASON)
    ends = list(accumulate(WIDTHS))
    bins = ends[-1]
    bands = [(end - width, end - 1) for end, width in zip(ends, WIDTHS, strict=True)]
    public = bsrnn.BSRNN(input_dim=bins, num_channel=CHANNELS, num_layer=2, target_fs=16000, subbands=bands)
    n_fft = 2 * (bins - 1)
    spacing = 16000 / n_fft
    ours = BSRNN(
        channels=CHANNELS,
        layers=2,
        rnn_channels=4 * CHANNELS,
        mlp_channels=4 * CHANNELS,
        band_widths=[*(width * spacing for width in WIDTHS[:-1]), 8000 - sum(WIDTHS[:-1]) * spacing],
        head="mask",
        n_fft=n_fft,
        win_length=n_fft,
        hop_length=n_fft // 2,
    )
    assert ours.band_bins == list(WIDTHS)
    for mlp in public.mask_decoder.mlp_residual:
        nn.init.zeros_(mlp[3].weight)
        nn.init.zeros_(mlp[3].bias)

    def our_view(read: Read) -> dict[str, Tensor]:
        tensors = {}
        for band, (first, last) in enumerate(bands):
            part = slice(first, last + 1)
            output, bias = read(ours.output.output_weight)[part], read(ours.output.output_bias)[:, part, 0]
            tensors |= {
                f"split.{band}": read(ours.split.weight)[part],
                f"split.{band} bias": read(ours.split.bias)[:, band, 0],
                f"hidden.{band}": read(ours.output.hidden_weight)[band],
                f"hidden.{band} bias": read(ours.output.hidden_bias)[band, 0, 0],
                f"value.{band}": output[..., :2],
                f"gate.{band}": output[..., 2:],
                f"value.{band} bias": bias[:2],
                f"gate.{band} bias": bias[2:],
            }
        for index, block in enumerate(ours.blocks):
            for kind in ("time", "band"):
                norm, layer = getattr(block, f"{kind}_norm"), getattr(block, kind)
                parts = {"norm": norm, "linear": layer.linear, "lstm": layer.lstm}
                for name, module in parts.items():
                    for own, parameter in module.named_parameters():
                        tensors[f"{kind}.{index}.{name}.{own.split('.')[-1]}"] = read(parameter)
        return tensors

    def public_view(read: Read) -> dict[str, Tensor]:
        tensors = {}
        for band, width in enumerate(WIDTHS):
            split, mlp = public.band_split.fc[band], public.mask_decoder.mlp_mask[band]
            output, bias = read(mlp[3].weight)[..., 0].unflatten(0, (2, width, 2)), read(mlp[3].bias)
            tensors |= {
                f"split.{band}": read(split.weight)[..., 0].unflatten(1, (width, 2)).permute(1, 2, 0),
                f"split.{band} bias": read(split.bias),
                f"hidden.{band}": read(mlp[1].weight)[..., 0].T,
                f"hidden.{band} bias": read(mlp[1].bias),
                f"value.{band}": output[0].transpose(1, 2),
                f"gate.{band}": output[1].transpose(1, 2),
                f"value.{band} bias": bias.unflatten(0, (2, width, 2))[0].T,
                f"gate.{band} bias": bias.unflatten(0, (2, width, 2))[1].T,
            }
        for index in range(2):
            for kind, own in (("time", "time"), ("band", "freq")):
                parts = {
                    "norm": getattr(public, f"norm_{own}")[index],
                    "linear": getattr(public, f"fc_{own}")[index],
                    "lstm": getattr(public, f"rnn_{own}")[index],
                }
                for name, module in parts.items():
                    tensors |= {f"{kind}.{index}.{name}.{n}": read(p) for n, p in module.named_parameters()}
        return tensors

    spectrum, target = torch.randn(2, 7, bins, 2), torch.randn(2, 7, bins, 2)

    def our_loss() -> Tensor:
        real, imag = (part.mT.unsqueeze(1) for part in spectrum.unbind(-1))
        (real, imag), _ = ours.spectrum(real, imag)
        return (torch.stack([real, imag], dim=-1).transpose(1, 2) - target).square().mean()

    difference = one_step(
        "espnet 202511",
        "BSRNN, complex MSE, 1 step",
        (ours, our_view, our_loss),
        (public, public_view, lambda: (public(spectrum)[:, 0] - target).square().mean()),
    )
    assert difference <= TOLERANCE
