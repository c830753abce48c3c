"""Conv-TasNet of asteroid: pytorch_model.bin of the hub, or a file that asteroid has serialised."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from bcfusion.errors import CheckpointError
from bcfusion.importing.asteroid import LICENCE, WEIGHTS, licence_of, model_of, source_of
from bcfusion.importing.files import Found
from bcfusion.importing.settings import supported
from bcfusion.importing.source import Choices, Converted, Source
from bcfusion.importing.weights import Weights
from bcfusion.run.card import Corpus

DEFAULTS: dict[str, Any] = {  # of the public constructor, for arguments that a file does not state
    "n_blocks": 8,
    "n_repeats": 3,
    "bn_chan": 128,
    "hid_chan": 512,
    "skip_chan": 128,
    "conv_kernel_size": 3,
    "norm_type": "gLN",
    "mask_act": "sigmoid",
    "causal": False,
    "fb_name": "free",
    "kernel_size": 16,
    "n_filters": 512,
    "stride": 8,
    "encoder_activation": None,
    "sample_rate": 8000,
}
#: what a norm is called there, and here; there ``cLN`` is over the channels of each frame
NORMS = {"gLN": "gLN", "GlobLN": "gLN", "cLN": "channel_LN", "ChanLN": "channel_LN"}
NORMS |= {"cgLN": "cLN", "CumLN": "cLN", "bN": "BN", "BatchNorm": "BN"}
ALLOWED: dict[str, tuple[Any, ...]] = {
    "norm_type": tuple(NORMS),
    "mask_act": ("sigmoid", "relu", "softmax"),
    "causal": (False,),
    "fb_name": ("free", "FreeFB"),
    "encoder_activation": (None, "linear", "relu"),
}


def convert(found: Found, choices: Choices) -> Converted:
    """Translate a checkpoint; see :class:`bcfusion.importing.source.Source`."""
    given, weights = model_of(found, "ConvTasNet")
    args = {**DEFAULTS, **given}
    file, sources = found.weights, int(args.get("n_src", 1))
    supported(file, args, ALLOWED)
    _check_sizes(args, file, sources)
    chosen = source_of(sources, choices, file)
    norm = NORMS[args["norm_type"]]
    _move(weights, args, norm, chosen, sources)
    arguments = {
        "_target_": "bcfusion.generators.conv_tasnet.ConvTasNet",
        "filters": args["n_filters"],
        "filter_length": args["kernel_size"],
        "bottleneck_channels": args["bn_chan"],
        "hidden_channels": args["hid_chan"],
        "kernel_size": args["conv_kernel_size"],
        "blocks": args["n_blocks"],
        "repeats": args["n_repeats"],
        "norm": norm,
        "skip_path": bool(args["skip_chan"]),
        "head": "mask",
        "mask_activation": args["mask_act"],
        "encoder_activation": args["encoder_activation"] or "linear",
        "edge_segments": False,
    }
    notes = (f"It separates {sources} sources; this bundle has that of index {chosen}.",) if sources > 1 else ()
    return Converted(arguments, weights, int(args["sample_rate"]), licence=licence_of(found), notes=notes)


def _check_sizes(args: Mapping[str, Any], where: object, sources: int) -> None:
    """Refuse sizes for which there is no argument here.

    Raises:
        CheckpointError: naming the setting.
    """
    fits = {
        f"stride={args['stride']} must be half of kernel_size={args['kernel_size']}": 2 * args["stride"]
        == args["kernel_size"],
        f"skip_chan={args['skip_chan']} must be 0 or bn_chan={args['bn_chan']}": args["skip_chan"]
        in (None, 0, args["bn_chan"]),
        f"out_chan={args.get('out_chan')} must be n_filters={args['n_filters']}": args.get("out_chan")
        in (None, args["n_filters"]),
        f"mask_act=softmax needs n_src=2, not {sources}": args["mask_act"] != "softmax" or sources == 2,
    }
    for message, holds in fits.items():
        if not holds:
            raise CheckpointError(f"{where} cannot be imported: {message}")


def _move(weights: Weights, args: Mapping[str, Any], norm: str, chosen: int, sources: int) -> None:
    def normalisation(ours: str, theirs: str) -> None:
        if norm == "BN":
            weights.layer(ours, theirs)
            for name in ("running_mean", "running_var", "num_batches_tracked"):
                weights.move(f"{ours}.{name}", f"{theirs}.{name}")
        else:
            weights.move(f"{ours}.weight", f"{theirs}.gamma")
            weights.move(f"{ours}.bias", f"{theirs}.beta")

    weights.move("encoder.weight", "encoder.filterbank._filters")
    normalisation("bottleneck.0", "masker.bottleneck.0")
    weights.layer("bottleneck.1", "masker.bottleneck.1")
    count = args["n_blocks"] * args["n_repeats"]
    for block in range(count):
        ours, theirs = f"blocks.{block}", f"masker.TCN.{block}"
        shared = f"{theirs}.shared_block"
        weights.layer(f"{ours}.expand", f"{shared}.0")
        weights.layer(f"{ours}.expand_act.0", f"{shared}.1", bias=False)
        normalisation(f"{ours}.expand_act.1", f"{shared}.2")
        weights.layer(f"{ours}.depthwise", f"{shared}.3")
        weights.layer(f"{ours}.depthwise_act.0", f"{shared}.4", bias=False)
        normalisation(f"{ours}.depthwise_act.1", f"{shared}.5")
        if not args["skip_chan"]:
            weights.layer(f"{ours}.project", f"{theirs}.res_conv")
        elif block == count - 1:  # nothing uses what the last block adds to
            weights.layer(f"{ours}.project", f"{theirs}.skip_conv")
            weights.drop(f"{theirs}.res_conv.")
        else:
            weights.join(f"{ours}.project", f"{theirs}.res_conv", f"{theirs}.skip_conv")
    weights.layer("output.0", "masker.mask_net.0", bias=False)
    filters = args["n_filters"]
    # the maps lie one after the other; a softmax keeps all of them, that of the chosen source first
    order = [chosen, *(index for index in range(sources) if index != chosen)]
    kept = order if args["mask_act"] == "softmax" else order[:1]

    def maps(tensor: Tensor) -> Tensor:
        return tensor.unflatten(0, (sources, filters))[kept].flatten(0, 1)

    if weights.shape("masker.mask_net.1.weight")[0] == sources * filters:
        weights.move("output.1.weight", "masker.mask_net.1.weight", maps)
        weights.move("output.1.bias", "masker.mask_net.1.bias", maps)
    else:
        weights.layer("output.1", "masker.mask_net.1")  # refused for its shape
    weights.move("decoder.weight", "decoder.filterbank._filters")


SOURCE = Source(
    project="asteroid (M. Pariente et al.)",
    network="Conv-TasNet, which enhances speech or separates speakers",
    licence=LICENCE,
    task="bone_to_air",
    data=(Corpus("not stated in the file; as a rule its name says it", "see the corpus"),),
    weights=WEIGHTS,
    experiment="conv_tasnet",
    convert=convert,
    refuses={"discriminators": "Conv-TasNet is trained without discriminators"},
)
