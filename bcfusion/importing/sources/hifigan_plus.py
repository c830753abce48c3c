"""HiFi-GAN+ of the hifi-gan-bwe package: a model that it has exported (.pt), or a checkpoint of its training.

An exported model is an archive of TorchScript, which holds code; only its tensors are read. All published models have
the sizes of the paper.
"""

from __future__ import annotations

from bcfusion.errors import CheckpointError
from bcfusion.importing.files import Found
from bcfusion.importing.source import Choices, Converted, Source
from bcfusion.importing.torchscript import read_archive
from bcfusion.importing.weights import Weights, is_torchscript, only_tensors, read_pickle
from bcfusion.run.card import Corpus

LAYERS = 8  # of a stack


def convert(found: Found, choices: Choices) -> Converted:
    """Translate a checkpoint; see :class:`bcfusion.importing.source.Source`."""
    file = found.weights
    if is_torchscript(file):
        tensors = read_archive(file)
    else:
        content = read_pickle(file)
        tensors = only_tensors(content.get("gen_model", content), file)
    weights = Weights(tensors, file)
    rate = weights.take("sample_rate")
    if rate is None:
        raise CheckpointError(f"{file} has no tensor sample_rate: it is no model of hifi-gan-bwe")
    channels, _, kernel_size = weights.shape("_wavenet._layers.0._conv.weight")
    numbers = {int(name.split(".")[2]) for name in weights.left if name.startswith("_wavenet._layers.")}
    count = max(numbers) + 1
    if count % LAYERS:
        raise CheckpointError(f"{file}: {count} layers are not stacks of {LAYERS}, the only ones that are published")
    weights.layer("first", "_wavenet._conv_in")
    for layer in range(count):
        ours, theirs = f"layers.{layer}", f"_wavenet._layers.{layer}"
        weights.layer(f"{ours}.dilated", f"{theirs}._conv")
        weights.layer(f"{ours}.skip", f"{theirs}._conv_skip")
        if layer < count - 1:
            weights.layer(f"{ours}.residual", f"{theirs}._conv_out")
        else:
            weights.drop(f"{theirs}._conv_out.")  # nothing uses what it adds to
    weights.layer("last", "_wavenet._conv_out")
    arguments = {
        "_target_": "bcfusion.generators.hifigan_plus.HifiGanPlus",
        "channels": channels,
        "stacks": count // LAYERS,
        "layers": LAYERS,
        "kernel_size": kernel_size,
        "input_skip": False,
        "pad_file": True,
    }
    note = (
        "The public program resamples recordings by a window of 16 zero crossings first; here they are resampled as "
        "all recordings are."
    )
    return Converted(arguments, weights, int(rate), notes=(note,))


SOURCE = Source(
    project="hifi-gan-bwe (B. Spell)",
    network="HiFi-GAN+, which extends the bandwidth of speech",
    licence="MIT (of the package; the models state none of their own)",
    task="bandwidth_extension",
    data=(
        Corpus("VCTK, and noise of DNS in most models", "CC BY 4.0 (VCTK)", attribution="J. Yamagishi et al., VCTK"),
    ),
    weights=("*.pt",),
    experiment="hifigan_plus",
    convert=convert,
    refuses={
        "source_index": "HiFi-GAN+ has one output",
        "discriminators": "those of HiFi-GAN+ are not part of bcfusion",
    },
)
