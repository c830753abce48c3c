"""AP-BWE, bandwidth extension: g_* of the authors' code with its config.json."""

from __future__ import annotations

from bcfusion.importing.files import Found
from bcfusion.importing.settings import required
from bcfusion.importing.source import Choices, Converted, Source
from bcfusion.importing.weights import Weights, only_tensors, pointwise, read_pickle
from bcfusion.run.card import Corpus

FLOOR = 1e-4  # of an amplitude, in the authors' code
KEYS = ("n_fft", "hop_size", "win_size", "hr_sampling_rate", "ConvNeXt_channels", "ConvNeXt_layers")
STREAMS = {"amplitude": "mag", "phase": "pha"}


def convert(found: Found, choices: Choices) -> Converted:
    """Translate a checkpoint; see :class:`bcfusion.importing.source.Source`."""
    h = required(found, KEYS)
    content = read_pickle(found.weights)
    weights = Weights(only_tensors(content.get("generator", content), found.weights), found.weights)
    kernel_size = weights.shape("conv_pre_mag.weight")[2]
    expansion = weights.shape("convnext_mag.0.pwconv1.weight")[0] // int(h["ConvNeXt_channels"])
    for ours, theirs in STREAMS.items():
        weights.layer(f"{ours}.start.0", f"conv_pre_{theirs}")
        weights.layer(f"{ours}.start.1", f"norm_pre_{theirs}")
        for block in range(h["ConvNeXt_layers"]):
            mine, public = f"{ours}.blocks.{block}", f"convnext_{theirs}.{block}"
            weights.layer(f"{mine}.depthwise", f"{public}.dwconv")
            weights.layer(f"{mine}.norm", f"{public}.norm")
            weights.layer(f"{mine}.widen", f"{public}.pwconv1", pointwise)
            weights.layer(f"{mine}.narrow", f"{public}.pwconv2", pointwise)
            weights.move(f"{mine}.scale", f"{public}.gamma", pointwise)
        weights.layer(f"{ours}.end", f"norm_post_{theirs}")
    weights.layer("to_amplitude", "linear_post_mag", pointwise)
    weights.layer("to_cosine", "linear_post_pha_r", pointwise)
    weights.layer("to_sine", "linear_post_pha_i", pointwise)
    arguments = {
        "_target_": "bcfusion.generators.ap_bwe.ApBwe",
        "n_fft": h["n_fft"],
        "hop_length": h["hop_size"],
        "win_length": h["win_size"],
        "channels": h["ConvNeXt_channels"],
        "blocks": h["ConvNeXt_layers"],
        "expansion": expansion,
        "kernel_size": kernel_size,
        "phase_skip": False,
        "floor": FLOOR,
        "published_spectra": True,
    }
    narrow = h.get("lr_sampling_rate")
    return Converted(
        arguments,
        weights,
        int(h["hr_sampling_rate"]),
        notes=(f"It expects speech whose band ends at {narrow / 2:g} Hz.",) if narrow else (),
        overrides=(f"narrow_rate={narrow}",) if narrow else (),
    )


SOURCE = Source(
    project="AP-BWE (Y.-X. Lu et al.)",
    network="AP-BWE, which extends the bandwidth of speech",
    licence="MIT (of the code; the models state none of their own)",
    task="bandwidth_extension",
    data=(Corpus("VCTK", "CC BY 4.0", attribution="J. Yamagishi et al., VCTK"),),
    weights=("g_*",),
    config="config.json",
    needs_config=True,
    experiment="ap_bwe",
    convert=convert,
    refuses={
        "source_index": "AP-BWE has one output",
        "discriminators": "those of AP-BWE are not part of bcfusion",
    },
)
