"""The transformer on spectra with the weights of NVIDIA NeMo's, in float64."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest
import torch
from parity import TOLERANCE, Read, double_precision, named, one_step, without_init
from torch import Tensor, nn

from bcfusion.generators import spectrogram_transformer
from bcfusion.generators.spectrogram_transformer import SpectrogramTransformer

REASON = "scripts/install_public_code.sh installs the public code"
FRAMES, BINS = 23, 17


@pytest.fixture(autouse=True)
def _double() -> Iterator[None]:
    torch.manual_seed(0)
    with double_precision():
        yield


def public_code(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Import the module alone: its base class and its checks of types load the whole framework."""
    without_init(*("nemo" + part for part in ("", ".collections", ".collections.audio", ".collections.audio.parts")))
    without_init("nemo.collections.audio.parts.submodules")

    class NeuralModule(nn.Module):
        pass

    def typecheck() -> Callable[[Any], Any]:
        return lambda function: function

    def anything(*arguments: Any, **named_arguments: Any) -> None:
        return None

    core: dict[str, dict[str, Any]] = {
        "nemo.core": {},
        "nemo.core.classes": {"NeuralModule": NeuralModule, "typecheck": typecheck},
        "nemo.core.neural_types": dict.fromkeys(
            ("BoolType", "FloatType", "LengthsType", "NeuralType", "SpectrogramType"), anything
        ),
        "nemo.utils": {"logging": type("Silent", (), {"debug": anything, "warning": anything})},
    }
    for name, content in core.items():
        module = ModuleType(name)
        vars(module).update(content)
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.delitem(sys.modules, "nemo.collections.audio.parts.submodules.transformerunet", raising=False)
    return pytest.importorskip("nemo.collections.audio.parts.submodules.transformerunet", reason=REASON)


def difference(monkeypatch: pytest.MonkeyPatch, what: str) -> float:
    monkeypatch.setattr(spectrogram_transformer, "_EPS", 0.0)  # the public one divides by a norm without it
    sizes: dict[str, Any] = {"dim": 12, "depth": 4, "heads": 3}
    public = public_code(monkeypatch).SpectrogramTransformerUNet(
        in_channels=2, freq_dim=BINS, time_hidden_dim=8, conv_pos_embed_kernel_size=5, max_positions=FRAMES, **sizes
    )
    ours = SpectrogramTransformer(
        in_channels=2, embedding=8, kernel_size=5, dropout=0.0, head="mapping", normalize_frames=False,
        n_fft=2 * (BINS - 1), win_length=2 * (BINS - 1), hop_length=(BINS - 1) // 2, **sizes,
    )  # fmt: skip
    with torch.no_grad():
        for name, parameter in public.named_parameters():
            if "to_gamma" in name or "to_beta" in name:  # otherwise nothing depends on the time at the first step
                parameter.add_(0.1 * torch.randn(parameter.shape))

    def our_view(read: Read) -> dict[str, Tensor]:
        tensors: dict[str, Tensor] = {}
        for name, tensor in named(ours)(read).items():
            if ".modulation." in name:
                gain, shift = tensor.chunk(2)
                tensors |= {f"{name} gain": gain, f"{name} shift": shift}
            elif name == "first.weight":  # (part, sensor, bin): the public one has the sensors first
                tensors[name] = tensor.unflatten(1, (2, 2, BINS))
            else:
                tensors[name] = tensor
        return tensors

    changes = [
        ("sinu_pos_emb.0.weights", "time_embedding.frequencies"), ("sinu_pos_emb.1", "time_embedding.linear"),
        ("proj_in", "first"), ("proj_out", "last"), ("conv_embed.dw_conv1d.0", "places"),
        ("transformerunet.slopes", "alibi.slopes"), ("transformerunet.final_norm.gamma", "last_norm.weight"),
        ("transformerunet.layers", "layers"), ("in_proj_", "inward."), ("out_proj", "outward"),
    ]  # fmt: skip
    parts = ("join", "attention_norm", "attention", "feed_forward_norm", "feed_forward")
    for layer in range(sizes["depth"]):
        changes += [(f"layers.{layer}.{index}.", f"layers.{layer}.{part}.") for index, part in enumerate(parts)]
    changes += [("feed_forward.0", "feed_forward.inward"), ("feed_forward.3", "feed_forward.outward")]

    def public_view(read: Read) -> dict[str, Tensor]:
        tensors = {}
        for name, tensor in named(public, *changes)(read).items():
            if name == "alibi.slopes":
                tensors[name] = tensor.flatten()
            elif name == "first.weight":
                tensors[name] = tensor.unflatten(1, (2, 2, BINS)).transpose(1, 2)
            elif ".to_gamma." in name:
                tensors[name.replace("to_gamma", "modulation") + " gain"] = tensor
            elif ".to_beta." in name:
                tensors[name.replace("to_beta", "modulation") + " shift"] = tensor
            else:
                tensors[name] = tensor
        return tensors

    spectrum, target = torch.randn(2, 2, 2, BINS, FRAMES), torch.randn(2, 2, BINS, FRAMES)
    time = torch.tensor([0.2, 0.9])
    lengths = torch.full((2,), FRAMES)

    def our_loss() -> Tensor:
        with ours.at_time(time):
            (real, imag), _ = ours.spectrum(spectrum[:, 0], spectrum[:, 1])
        return (torch.stack([real, imag], dim=1) - target).square().mean()

    def public_loss() -> Tensor:
        estimate, _ = public(torch.complex(spectrum[:, 0], spectrum[:, 1]), lengths, time)
        return (torch.stack([estimate.real[:, 0], estimate.imag[:, 0]], dim=1) - target).square().mean()

    return one_step("nemo_toolkit 3.0.0", what, (ours, our_view, our_loss), (public.train(), public_view, public_loss))


def test_a_step_of_the_transformer_is_that_of_nemo(monkeypatch: pytest.MonkeyPatch) -> None:
    assert difference(monkeypatch, "spectrogram transformer, velocity MSE, 1 step") <= TOLERANCE


def test_a_skip_of_full_scale_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spectrogram_transformer, "_SKIP", 1.0)
    assert difference(monkeypatch, "") > TOLERANCE
