"""HiFi-GAN V1 and V2, vocoders: g_* of the authors' code with its config.json.

A bundle makes speech from the mel spectrogram of its own input.
"""

from __future__ import annotations

from math import prod
from typing import Any

from bcfusion.errors import CheckpointError
from bcfusion.importing.files import Found
from bcfusion.importing.settings import required
from bcfusion.importing.source import Choices, Converted, Source
from bcfusion.importing.weights import Weights, only_tensors, read_pickle
from bcfusion.run.card import Corpus

FLOOR = 1e-5  # of a mel magnitude, in the authors' code
KEYS = ("sampling_rate", "n_fft", "hop_size", "win_size", "num_mels", "fmin", "fmax", "upsample_initial_channel")
LISTS = ("upsample_rates", "upsample_kernel_sizes", "resblock_kernel_sizes", "resblock_dilation_sizes")


def convert(found: Found, choices: Choices) -> Converted:
    """Translate a checkpoint; see :class:`bcfusion.importing.source.Source`."""
    h = required(found, (*KEYS, *LISTS))
    if str(h.get("resblock", "1")) != "1":
        raise CheckpointError(
            f"{found.config}: resblock={h['resblock']} has residual blocks of another kind (HiFi-GAN V3); V1 and V2, "
            "with resblock=1, can be imported"
        )
    if prod(h["upsample_rates"]) != h["hop_size"]:
        raise CheckpointError(
            f"{found.config}: the product of upsample_rates={h['upsample_rates']} must be hop_size={h['hop_size']}"
        )
    content = read_pickle(found.weights)
    weights = Weights(only_tensors(content.get("generator", content), found.weights), found.weights)
    blocks = len(h["resblock_kernel_sizes"])
    weights.layer("vocoder.first", "conv_pre")
    for level in range(len(h["upsample_rates"])):
        weights.layer(f"vocoder.blocks.{level}.up", f"ups.{level}")
        for block, dilations in enumerate(h["resblock_dilation_sizes"]):
            ours, theirs = f"vocoder.blocks.{level}.fused.{block}", f"resblocks.{level * blocks + block}"
            for layer in range(len(dilations)):
                weights.layer(f"{ours}.dilated.{layer}", f"{theirs}.convs1.{layer}")
                weights.layer(f"{ours}.plain.{layer}", f"{theirs}.convs2.{layer}")
    weights.layer("vocoder.last", "conv_post")
    arguments: dict[str, Any] = {
        "_target_": "bcfusion.generators.hifigan.HifiGan",
        "n_fft": h["n_fft"],
        "win_length": h["win_size"],
        "n_mels": h["num_mels"],
        "f_min": float(h["fmin"]),
        "f_max": None if h["fmax"] is None else float(h["fmax"]),
        "floor": FLOOR,
        "channels": h["upsample_initial_channel"],
        "rates": h["upsample_rates"],
        "kernel_sizes": h["upsample_kernel_sizes"],
        "residual_kernel_sizes": h["resblock_kernel_sizes"],
        "dilations": h["resblock_dilation_sizes"],
        "published_mel": True,
    }
    note = "It is a vocoder: it makes speech from the mel spectrogram of its input, and restores nothing by itself."
    return Converted(arguments, weights, int(h["sampling_rate"]), notes=(note,))


SOURCE = Source(
    project="hifi-gan (J. Kong, J. Kim, J. Bae)",
    network="HiFi-GAN, a vocoder",
    licence="MIT (of the code; the models state none of their own)",
    task="bone_to_air",
    data=(Corpus("LJ Speech, VCTK or LibriTTS; the name of the published file says which", "see the corpus"),),
    weights=("g_*", "generator*"),
    config="config.json",
    needs_config=True,
    experiment="hifigan",
    convert=convert,
    refuses={
        "source_index": "HiFi-GAN has one output",
        "discriminators": "only the generator of HiFi-GAN is imported",
    },
)
