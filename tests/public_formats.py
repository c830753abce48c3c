"""Checkpoints in the formats of other projects, made without them: names and shapes by the lists of public tensors."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bcfusion.nn.pqmf import PQMF

KEY_LISTS = Path(__file__).parent / "importing" / "key_lists"
AP_BWE: dict[str, Any] = {
    **{"n_fft": 128, "hop_size": 16, "win_size": 64, "hr_sampling_rate": 16000, "lr_sampling_rate": 4000},
    **{"ConvNeXt_channels": 24, "ConvNeXt_layers": 2},
}


def key_list(name: str) -> dict[str, list[int]]:
    """Tensor to shape of a published checkpoint."""
    shapes: dict[str, list[int]] = json.loads((KEY_LISTS / f"{name}.json").read_text())
    return shapes


def random(shapes: Mapping[str, list[int]], seed: int = 0) -> dict[str, Tensor]:
    """Tensors of these shapes whose layers keep the level of a signal."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name, shape in shapes.items():
        fan_in = max(1, torch.Size(shape[1:]).numel())
        state[name] = torch.randn(shape, generator=generator) / fan_in**0.5 if len(shape) > 1 else torch.ones(shape)
        if name.endswith("bias"):
            state[name] = 0.1 * torch.randn(shape, generator=generator)
    return state


def ap_bwe_shapes(h: Mapping[str, Any]) -> dict[str, list[int]]:
    """The published list of AP-BWE with the sizes of a configuration."""
    channels, bins, layers = h["ConvNeXt_channels"], h["n_fft"] // 2 + 1, h["ConvNeXt_layers"]
    sizes = {512: channels, 513: bins, 1536: 3 * channels}
    return {
        name: [sizes.get(size, size) for size in shape]
        for name, shape in key_list("ap_bwe").items()
        if not name.startswith("convnext") or int(name.split(".")[1]) < layers
    }


def write_ap_bwe(folder: Path, state: Mapping[str, Tensor] | None = None, **changes: Any) -> Path:
    """Write ``g_test`` and ``config.json``; return the former."""
    h = {**AP_BWE, **changes}
    folder.mkdir(parents=True, exist_ok=True)
    torch.save({"generator": dict(state or random(ap_bwe_shapes(h)))}, folder / "g_test")
    (folder / "config.json").write_text(json.dumps(h))
    return folder / "g_test"


def eben_state(input_bands: int = 2) -> dict[str, Tensor]:
    """The generator of a published EBEN, with weight normalisation as it is stored."""
    shapes: dict[str, list[int]] = {}

    def normed(name: str, *shape: int) -> None:
        shapes[f"{name}.parametrizations.weight.original0"] = [shape[0], 1, 1]
        shapes[f"{name}.parametrizations.weight.original1"] = list(shape)

    def units(name: str, channels: int) -> None:
        for unit in range(3):
            normed(f"{name}.residuals.{unit}.dilated_conv", channels, channels, 3)
            normed(f"{name}.residuals.{unit}.pointwise_conv", channels, channels, 1)

    shapes["first_conv.weight"] = [32, input_bands, 3]
    for level, (channels, stride) in enumerate([(32, 2), (64, 4), (128, 8)]):
        units(f"encoder_blocks.{level}", channels)
        normed(f"encoder_blocks.{level}.conv", 2 * channels, channels, 2 * stride)
    for level, (channels, stride) in enumerate([(128, 8), (64, 4), (32, 2)]):
        units(f"decoder_blocks.{level}", channels)
        normed(f"decoder_blocks.{level}.conv_trans", 2 * channels, channels, 2 * stride)
    normed("latent_conv.1", 64, 256, 7)
    normed("latent_conv.3", 256, 64, 7)
    shapes["last_conv.weight"] = [4, 32, 3]
    bank = PQMF(4, 32, cutoff=0.1588, gain=0.9995)
    filters = {
        "pqmf.analysis_weights": bank.analysis_filters.clone(),
        "pqmf.synthesis_weights": bank.synthesis_filters.clone(),
    }
    return {**random(shapes), **filters}


def eben_discriminators(q: int = 4, min_channels: int = 8) -> dict[str, Tensor]:
    """The discriminators of a published EBEN."""
    shapes: dict[str, list[int]] = {}

    def normed(name: str, *shape: int) -> None:
        shapes[f"{name}.bias"] = [shape[0]]
        shapes[f"{name}.parametrizations.weight.original0"] = [shape[0], 1, 1]
        shapes[f"{name}.parametrizations.weight.original1"] = list(shape)

    for stack in range(3):
        place = f"pqmf_discriminators.{stack}.discriminator"
        normed(f"{place}.0.1", min_channels, 1, 3)
        width = min_channels
        for layer in range(1, 6):
            normed(f"{place}.{layer}.0", 2 * width, width // q, 7)
            width *= 2
        normed(f"{place}.6.0", width, width // q, 5)
        normed(f"{place}.7", 1, width, 3)
    place = "melgan_discriminator.discriminator"
    normed(f"{place}.0.1", 16, 1, 15)
    for layer, (inputs, outputs) in enumerate([(16, 64), (64, 256), (256, 1024), (1024, 1024)], start=1):
        normed(f"{place}.{layer}.0", outputs, inputs // 4, 41)
    normed(f"{place}.5.0", 1024, 1024, 5)
    normed(f"{place}.6", 1, 1024, 3)
    return random(shapes)
