"""Checkpoints: plain containers, written atomically, restored by our own code.

Lightning's loop state is not used: with two optimisers its step count is wrong, and its own resume in the middle of an
epoch is not exact. What a run needs to go on is the number of batches done, weights, optimisers, schedulers, random
states and the best scores so far; everything else is a function of the batch index.
"""

from __future__ import annotations

import os
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn
from torch.nn.utils import parametrize

from bcfusion.errors import CheckpointError

KIND = "bcfusion-checkpoint"
FORMAT = 1


def random_states() -> dict[str, Any]:
    """Random states of Python, NumPy, torch and CUDA in this process, as plain containers."""
    version, internal, gauss = random.getstate()
    # the legacy state is what libraries draw from that were not given a generator
    name, keys, position, has_gauss, cached = np.random.get_state(legacy=True)  # noqa: NPY002
    return {
        "python": [version, list(internal), gauss],
        "numpy": [name, torch.from_numpy(np.asarray(keys, dtype=np.int64)), position, has_gauss, cached],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def restore_random_states(states: Mapping[str, Any]) -> None:
    """Sets what :func:`random_states` gave. CUDA states are set where as many devices are at hand."""
    version, internal, gauss = states["python"]
    random.setstate((version, tuple(internal), gauss))
    name, keys, position, has_gauss, cached = states["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, cached))  # noqa: NPY002
    torch.set_rng_state(states["torch"].cpu())
    cuda = states["cuda"]
    if cuda and torch.cuda.is_available() and len(cuda) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all([state.cpu() for state in cuda])


def write(path: Path, content: Mapping[str, Any]) -> None:
    """Writes a checkpoint so that a crash in between leaves the old one whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            torch.save({"kind": KIND, "format": FORMAT, **content}, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def read(path: Path) -> dict[str, Any]:
    """Reads a checkpoint to the CPU.

    Raises:
        CheckpointError: the file is missing, damaged, or no checkpoint of bcfusion.
    """
    if not path.is_file():
        raise CheckpointError(f"checkpoint not found: {path}")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for files that it did not write
        raise CheckpointError(f"{path} is no checkpoint, or a damaged one ({type(error).__name__})") from error
    if not isinstance(content, dict) or content.get("kind") != KIND:
        raise CheckpointError(f"{path} is not a checkpoint of bcfusion: give a .ckpt that `bcfusion train` wrote")
    if content["format"] > FORMAT:
        raise CheckpointError(
            f"{path} was written by a newer bcfusion (format {content['format']}, known here: {FORMAT})"
        )
    return content


def weights_of(source: Path) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor] | None]:
    """Generator weights (averaged where there are such) and discriminator weights, if any, to start a run from.

    Args:
        source: a run directory (its best.ckpt is taken), a checkpoint, or a bundle.

    Raises:
        CheckpointError: there is none of these, or it is damaged.
    """
    if source.is_dir():
        best = source / "checkpoints" / "best.ckpt"
        for folder in (source, source / "bundle"):
            weights = folder / "generator.safetensors"
            if weights.is_file() and not best.is_file():
                try:
                    return load_file(weights), None
                except (SafetensorError, OSError) as error:
                    raise CheckpointError(f"{weights} is damaged or no safetensors file: {error}") from error
        if not best.is_file():
            raise CheckpointError(f"{source} is neither a run with checkpoints/best.ckpt nor a bundle")
        source = best
    content = read(source)
    return content["generator_ema"] or content["generator"], content["discriminators"]


def load_weights(module: nn.Module, state: Mapping[str, torch.Tensor], source: Path) -> None:
    """Loads a state dict, with or without weight norm, into a module, with or without weight norm.

    Raises:
        CheckpointError: names or shapes do not fit.
    """
    own = module.state_dict()
    rest = dict(state)
    fused = []
    for name, child in module.named_modules():
        key = f"{name}.weight" if name else "weight"
        if parametrize.is_parametrized(child, "weight") and key in rest:
            fused.append((child, rest.pop(key)))
            own = {k: v for k, v in own.items() if not k.startswith(f"{name}.parametrizations.weight.")}
    wrong = sorted(set(own) ^ set(rest)) or [k for k in own if own[k].shape != rest[k].shape]
    wrong += [f"{type(c).__name__}.weight" for c, tensor in fused if tensor.shape != c.weight.shape]
    if wrong:
        raise CheckpointError(
            f"the weights in {source} are those of another network: {len(wrong)} of its entries do not fit "
            f"({', '.join(wrong[:2])}, ...)"
        )
    module.load_state_dict(rest, strict=not fused)
    with torch.no_grad():
        for child, tensor in fused:
            child.weight = tensor  # the parametrization splits it into direction and norm
