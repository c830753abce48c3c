"""EBEN of Vibravox: Cnam-LMSSC/EBEN_<sensor> of the hub, or a Lightning checkpoint of the vibravox package.

``config.json`` holds ``m`` (bands), ``n`` (taps) and ``p`` (input bands). A Lightning checkpoint holds the generator
and the discriminators; on the hub the discriminators have a repository of their own,
``Cnam-LMSSC/DiscriminatorEBENMultiScales_<sensor>``.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import minimize_scalar
from torch import Tensor

from bcfusion.errors import CheckpointError
from bcfusion.importing.files import Found
from bcfusion.importing.source import Choices, Converted, Source
from bcfusion.importing.weights import Weights, only_tensors, read_pickle, read_tensors
from bcfusion.nn.pqmf import PQMF
from bcfusion.run.card import Corpus

SAMPLE_RATE = 16000  # of all published ones; no file states it
TAPS_ERROR = 1e-4  # relative, of published taps against ours of the same cutoff and gain


def convert(found: Found, choices: Choices) -> Converted:
    """Translate a checkpoint; see :class:`bcfusion.importing.source.Source`."""
    generator, discriminators = _networks(found)
    file = found.weights
    if choices.discriminators is not None:
        file = choices.discriminators.weights
        discriminators = _split(file)[1] if file.suffix == ".ckpt" else read_tensors(file)
    weights = Weights(generator, found.weights)
    arguments = _arguments(weights, found)
    _generator(weights)
    if discriminators is None:
        return Converted(arguments, weights, SAMPLE_RATE)
    judges = Weights(discriminators, file)
    node = {
        "_target_": "bcfusion.discriminators.pqmf_bands.PQMFBandsDiscriminator",
        **_discriminators(judges),
        "bands": arguments["bands"],
        "taps": arguments["taps"],
        "padding": "published",
        "bands_from": "generator",  # whose filters are the published ones
    }
    return Converted(
        {**arguments, "provide_bands": True},
        weights,
        SAMPLE_RATE,
        discriminators={"pqmf_bands": node},
        discriminator_weights=judges,
    )


def _networks(found: Found) -> tuple[dict[str, Tensor], dict[str, Tensor] | None]:
    """Return the tensors of the generator, and those of the discriminators if they are in the same file."""
    if found.weights.suffix != ".ckpt":
        return read_tensors(found.weights), None
    return _split(found.weights)


def _split(file: Path) -> tuple[dict[str, Tensor], dict[str, Tensor] | None]:
    """Return the tensors of both networks in a Lightning checkpoint; None for discriminators that it does not have."""
    state = only_tensors(read_pickle(file).get("state_dict"), file, "state_dict")
    generator, discriminators = (
        {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
        for prefix in ("generator.", "discriminator.")
    )
    if not generator:
        raise CheckpointError(f"{file} has no tensors of a generator: it is no checkpoint of EBEN")
    return generator, discriminators or None


# ---------------------------------------------------------------- the generator


def _arguments(weights: Weights, found: Found) -> dict[str, Any]:
    """Return the arguments that the tensors imply, after they have been compared with those that the file states."""
    bands, _, taps = weights.shape("pqmf.analysis_weights")
    channels, input_bands, _ = weights.shape("first_conv.weight")
    implied = {"m": bands, "n": taps, "p": input_bands}
    for name, value in found.settings().items():
        if name in implied and value != implied[name]:
            raise CheckpointError(
                f"{found.config} says {name}={value}, but the tensors in {found.weights.name} are those of "
                f"{name}={implied[name]}: the files do not belong together"
            )
    analysis, synthesis = weights.left["pqmf.analysis_weights"], weights.left.get("pqmf.synthesis_weights")
    cutoff, gain = _filters(analysis, synthesis, weights)
    weights.drop("pqmf.")
    latent, _, _ = weights.shape("latent_conv.1.weight")
    return {
        "_target_": "bcfusion.generators.eben.EBEN",
        "bands": bands,
        "input_bands": input_bands,
        "channels": channels,
        "taps": taps,
        "cutoff": cutoff,
        "filter_gain": gain,
        "latent_channels": latent,
    }


def _filters(analysis: Tensor, synthesis: Tensor | None, weights: Weights) -> tuple[float, float]:
    """Return cutoff and gain of our filter bank whose taps are those of the checkpoint, whatever search found them.

    Raises:
        CheckpointError: there are none; the bank is of another kind.
    """
    bands, _, taps = analysis.shape
    wanted = analysis.double().numpy()

    def fitted(cutoff: float) -> tuple[float, float]:
        """Return the gain that fits best, and the relative error that is left."""
        own = PQMF(bands, taps, cutoff=cutoff).analysis_filters.double().numpy()
        gain = float((own * wanted).sum() / (own * own).sum())
        return gain, float(np.linalg.norm(wanted - gain * own) / np.linalg.norm(wanted))

    found = minimize_scalar(
        lambda cutoff: fitted(cutoff)[1] ** 2,
        bounds=(1 / (4 * bands), 1 / bands),
        method="bounded",
        options={"xatol": 1e-9},
    )
    gain, error = fitted(float(found.x))
    ours = bands * analysis.flip(-1)  # the synthesis filters are the analysis filters, reversed in time
    if synthesis is None or synthesis.shape != analysis.shape:
        raise CheckpointError(f"{weights.file} has no pqmf.synthesis_weights that belong to its pqmf.analysis_weights")
    apart = min(float((synthesis - each).norm() / synthesis.norm()) for each in (ours, bands * analysis))
    if not (error < TAPS_ERROR and apart < TAPS_ERROR and gain > 0 and math.isfinite(error)):
        raise CheckpointError(
            f"{weights.file}: the taps in pqmf.analysis_weights are not those of a cosine-modulated Kaiser window of "
            f"beta 9 (they differ by {100 * max(error, apart):.2g} %): this filter bank cannot be imported"
        )
    return float(found.x), gain


def _generator(weights: Weights) -> None:
    def units(ours: str, theirs: str) -> None:
        for unit in range(3):
            weights.layer(f"{ours}.units.{unit}.dilated", f"{theirs}.residuals.{unit}.dilated_conv", bias=False)
            weights.layer(f"{ours}.units.{unit}.pointwise", f"{theirs}.residuals.{unit}.pointwise_conv", bias=False)

    weights.layer("first", "first_conv", bias=False)
    for level in range(3):
        units(f"encoder.{level}", f"encoder_blocks.{level}")
        weights.layer(f"encoder.{level}.down", f"encoder_blocks.{level}.conv", bias=False)
        weights.layer(f"decoder.{level}.up", f"decoder_blocks.{level}.conv_trans", bias=False)
        units(f"decoder.{level}", f"decoder_blocks.{level}")
    weights.layer("reduce", "latent_conv.1", bias=False)
    weights.layer("expand", "latent_conv.3", bias=False)
    weights.layer("last", "last_conv", bias=False)


# ---------------------------------------------------------------- the discriminators


def _discriminators(weights: Weights) -> dict[str, int]:
    """Move the tensors of the discriminators, and return the sizes that they imply."""
    widest, per_band, _ = weights.shape("pqmf_discriminators.0.discriminator.1.0.weight")
    min_channels = widest // 2
    for stack in range(3):
        _stack(weights, f"pqmf_bands.stacks.{stack}", f"pqmf_discriminators.{stack}.discriminator", 7)
    _stack(weights, "pqmf_bands.full_band", "melgan_discriminator.discriminator", 6)
    return {"q": min_channels // per_band, "min_channels": min_channels}


def _stack(weights: Weights, ours: str, theirs: str, hidden: int) -> None:
    for layer in range(hidden):
        place = 1 if layer == 0 else 0  # a padding comes before the first convolution
        weights.layer(f"{ours}.layers.{layer}", f"{theirs}.{layer}.{place}")
    weights.layer(f"{ours}.logits", f"{theirs}.{hidden}")


SOURCE = Source(
    project="Vibravox (J. Hauret et al., Cnam-LMSSC)",
    network="EBEN, which restores the speech of one body-conduction sensor",
    licence="MIT",
    task="bone_to_air",
    data=(Corpus("Vibravox speech_clean, one sensor", "CC BY 4.0", attribution="J. Hauret et al., Vibravox"),),
    weights=("model.safetensors", "pytorch_model.bin", "*.ckpt"),
    config="config.json",
    experiment="eben",
    convert=convert,
    refuses={"source_index": "EBEN has one output"},
)
