"""DCCRN of asteroid (DCCRNet): pytorch_model.bin of the hub, or a file that asteroid has serialised."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from bcfusion.errors import CheckpointError
from bcfusion.importing.asteroid import LICENCE, WEIGHTS, licence_of, model_of, source_of
from bcfusion.importing.files import Found
from bcfusion.importing.settings import supported
from bcfusion.importing.source import Choices, Converted, Source
from bcfusion.importing.weights import Weights
from bcfusion.run.card import Corpus

DEFAULTS: dict[str, Any] = {  # of the public constructor, for arguments that a file does not state
    "stft_n_filters": 512,
    "stft_kernel_size": 400,
    "stft_stride": 100,
    "sample_rate": 16000,
    "mask_bound": "tanh",
}
ALLOWED = {"mask_bound": ("tanh", "BDT")}
FILTERS = "encoder.filterbank._filters"  # of the STFT; the arguments of older files do not state all sizes
STATISTICS = ("weight", "bias", "running_mean", "running_var")


def convert(found: Found, choices: Choices) -> Converted:
    """Translate a checkpoint; see :class:`bcfusion.importing.source.Source`."""
    given, weights = model_of(found, "DCCRNet")
    args = {**DEFAULTS, **given}
    supported(found.weights, args, ALLOWED)
    if FILTERS in weights.left:  # the windowed transform: real and imaginary parts of all bins
        rows, _, win_length = weights.shape(FILTERS)
        args |= {"stft_n_filters": rows - 2, "stft_kernel_size": win_length}
    weights.drop("encoder.")  # they follow from the sizes
    weights.drop("decoder.")
    names = {name.split(".")[2] for name in weights.left if ".conv.re_module.weight" in name and "encoders" in name}
    levels = len(names)
    if not levels:
        raise CheckpointError(f"{found.weights} has no tensors of an encoder: it is no DCCRNet")
    shapes = [weights.shape(f"masker.encoders.{level}.conv.re_module.weight") for level in range(levels)]
    recurrent = f"masker.encoders.{levels}"
    layers = sum(name.endswith(".re_module.rnn.weight_hh_l0") for name in weights.left)
    units = 2 * weights.shape(f"{recurrent}.rnn.rnns.0.re_module.rnn.weight_hh_l0")[1]
    sources = weights.shape("masker.output_layer.0.re_module.weight")[1]
    chosen = source_of(sources, choices, found.weights)
    _move(weights, levels, layers, chosen)
    arguments = {
        "_target_": "bcfusion.generators.dccrn.DCCRN",
        "channels": [2 * shape[0] for shape in shapes],
        "kernel_size": list(shapes[0][2:]),
        "lstm_units": units,
        "lstm_layers": layers,
        "complex_lstm": True,
        "complex_dense": True,
        "activation_per_part": True,
        "inner_frames": True,
        "head": "polar_mask",
        "n_fft": args["stft_n_filters"],
        "hop_length": args["stft_stride"],
        "win_length": args["stft_kernel_size"],
        "window": "sqrt_hann",
    }
    notes = (f"It separates {sources} sources; this bundle has that of index {chosen}.",) if sources > 1 else ()
    return Converted(arguments, weights, int(args["sample_rate"]), licence=licence_of(found), notes=notes)


def _move(weights: Weights, levels: int, layers: int, chosen: int) -> None:
    def convolution(ours: str, theirs: str, outputs: int) -> Tensor | None:
        """Join W_r and W_i along the outputs; return the weight."""
        return _joined(weights, f"{ours}.conv.layer.weight", f"{theirs}.re_module.weight", outputs)

    def after(norm: str, slopes: str, theirs: str) -> None:
        for name in STATISTICS:
            _joined(weights, f"{norm}.{name}", f"{theirs}.norm.re_module.{name}", 0)
        weights.move(f"{norm}.num_batches_tracked", f"{theirs}.norm.re_module.num_batches_tracked")
        weights.drop(f"{theirs}.norm.im_module.num_batches_tracked")
        _joined(weights, f"{slopes}.weight", f"{theirs}.activation.re_module.weight", 0)

    for level in range(levels):
        ours, theirs = f"encoder.{level}", f"masker.encoders.{level}"
        weight = convolution(ours, f"{theirs}.conv", 0)
        if weight is not None:  # batch normalisation cancels biases, and theirs has none
            weights.put(f"{ours}.conv.layer.bias", torch.zeros(weight.shape[0]))
        after(f"{ours}.norm", f"{ours}.activation", theirs)
    recurrent = f"masker.encoders.{levels}"
    for layer in range(layers):
        for part, module in (("real", "re_module"), ("imag", "im_module")):
            for name in ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"):
                weights.move(
                    f"bottleneck.{layer}.{part}.layers.{name}", f"{recurrent}.rnn.rnns.{layer}.{module}.rnn.{name}"
                )
    weights.layer(f"bottleneck.{layers}.real", f"{recurrent}.linear.re_module")
    weights.layer(f"bottleneck.{layers}.imag", f"{recurrent}.linear.im_module")
    for level in range(levels - 1):
        ours, theirs = f"decoder.{level}", f"masker.decoders.{level + 1}"
        weight = convolution(ours, f"{theirs}.deconv", 1)
        if weight is not None:
            weights.put(f"{ours}.conv.layer.bias", torch.zeros(weight.shape[1]))
        after(f"{ours}.after.0", f"{ours}.after.1", theirs)
    ours, theirs = f"decoder.{levels - 1}.conv.layer", "masker.output_layer.0"
    _joined(weights, f"{ours}.weight", f"{theirs}.re_module.weight", 1, chosen)
    _joined(weights, f"{ours}.bias", f"{theirs}.re_module.bias", 0, chosen)


def _joined(weights: Weights, ours: str, real: str, over: int, chosen: int | None = None) -> Tensor | None:
    """Join the tensors of both parts along one dimension, all of it or what belongs to one source; return them."""
    parts = [weights.take(name) for name in (real, real.replace("re_module", "im_module"))]
    found = [part for part in parts if part is not None]
    if len(found) < len(parts):
        return None
    if chosen is not None:
        found = [part.narrow(over, chosen, 1) for part in found]
    joined = torch.cat(found, dim=over)
    weights.put(ours, joined, real)
    return joined


SOURCE = Source(
    project="asteroid (M. Pariente et al.)",
    network="DCCRN, which enhances speech",
    licence=LICENCE,
    task="bone_to_air",
    data=(Corpus("not stated in the file; as a rule its name says it", "see the corpus"),),
    weights=WEIGHTS,
    experiment="dccrn_cl",
    convert=convert,
    refuses={"discriminators": "DCCRN is trained without discriminators"},
)
