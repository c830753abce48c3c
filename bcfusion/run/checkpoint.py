"""Checkpoints of training: plain containers, written atomically, restored by our own code.

Lightning's loop state is not used: with two optimisers its step count is wrong, and it does not resume exactly in the
middle of an epoch. To continue, a run needs the number of batches done, weights, optimisers, schedulers, random states
and the best scores so far; everything else is a function of the batch index.
"""

from __future__ import annotations

import random
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bcfusion.errors import CheckpointError
from bcfusion.files import appearing
from bcfusion.nearest import nearest_path
from bcfusion.nn.revision import revision_problems
from bcfusion.run.bundle_files import read_bundle, read_discriminators
from bcfusion.run.description import find_bundle
from bcfusion.run.fetching import repository_of
from bcfusion.run.layout import RunDir
from bcfusion.run.stored import check_format, require_stored_whole

__all__ = ["generator_state", "load_weights", "random_states", "read", "restore_random_states", "weights_of", "write"]

KIND = "bcfusion-checkpoint"
FORMAT = 1
MAGNITUDE, DIRECTION = ".original0", ".original1"  # of torch's weight norm, after `parametrizations.NAME`


def random_states() -> dict[str, Any]:
    """Return the random states of Python, NumPy, torch and CUDA in this process, as plain containers."""
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
    """Restore what :func:`random_states` returned. CUDA states are restored only onto the same number of devices."""
    version, internal, gauss = states["python"]
    random.setstate((version, tuple(internal), gauss))
    name, keys, position, has_gauss, cached = states["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, cached))  # noqa: NPY002
    torch.set_rng_state(states["torch"].cpu())
    cuda = states["cuda"]
    if cuda and torch.cuda.is_available() and len(cuda) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all([state.cpu() for state in cuda])


def write(path: Path, content: Mapping[str, Any]) -> None:
    """Write a checkpoint, so that a crash or a power failure in between leaves the previous one whole."""
    with appearing(path, fsync=True) as part, part.open("wb") as file:  # a path's name would become part of the content
        torch.save({"kind": KIND, "format": FORMAT, **content}, file)


def read(path: Path, *, mmap: bool = False) -> dict[str, Any]:
    """Return the content of a checkpoint, with its tensors on the CPU.

    Args:
        path: the file.
        mmap: map the tensors from the file instead of reading them, so that those that are not used cost nothing.

    Raises:
        CheckpointError: the file is missing, damaged, not a checkpoint of bcfusion, or of a newer format.
    """
    if not path.is_file():
        raise CheckpointError(f"there is no checkpoint at {path}{nearest_path(path)}")
    if not zipfile.is_zipfile(path):  # torch.save writes a zip archive, whose directory is at the end of the file
        raise CheckpointError(f"{path} is not a checkpoint, or damaged: give a run directory, a bundle or a .ckpt")
    require_stored_whole(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except Exception as error:  # torch raises many kinds for archives that it did not write
        raise CheckpointError(
            f"{path} is not a checkpoint of bcfusion, or a damaged one ({type(error).__name__})"
        ) from error
    if not isinstance(content, dict) or content.get("kind") != KIND:
        raise CheckpointError(f"{path} is not a checkpoint of bcfusion: give a .ckpt that `bcfusion train` wrote")
    check_format(content, FORMAT, path)
    return content


def generator_state(content: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the generator's weights of a checkpoint: the averaged ones if it has any."""
    # the average may hold parameters only; buffers then come from the network itself
    return {**content["generator"], **(content.get("generator_ema") or {})}


def weights_of(source: Path) -> tuple[dict[str, Tensor], dict[str, Tensor] | None]:
    """Return generator weights (averaged if available) and discriminator weights (if any) to start a run from.

    Args:
        source: a run directory (its ``best.ckpt`` is preferred to its bundle), a checkpoint, or a bundle. A bundle has
            discriminators only if it was imported with them.

    Raises:
        CheckpointError: it is none of these, or damaged.
    """
    best = RunDir(source).best
    if source.is_dir() and (repository_of(source) is not None or not best.is_file()):  # from the hub never a pickle
        folder = find_bundle(source)
        if folder is None:
            raise CheckpointError(f"{source} is neither a run with checkpoints/best.ckpt nor a bundle")
        return read_bundle(folder)[1], read_discriminators(folder)
    content = read(best if source.is_dir() else source)
    return generator_state(content), content["discriminators"]


def load_weights(module: nn.Module, state: Mapping[str, Tensor], source: Path) -> None:
    """Load a state dict that must fit exactly, except that weight norm may be folded in either or in neither.

    Args:
        module: the network, unchanged if the state does not fit.
        state: tensors by name.
        source: the file that they come from, for the message.

    Raises:
        CheckpointError: tensors are missing, unknown or of another shape, or belong to another revision of the network,
            see :mod:`bcfusion.nn.revision`.
    """
    revisions = revision_problems(module, state)
    if revisions:
        raise CheckpointError(
            f"the weights in {source} do not fit this bcfusion: {'; '.join(revisions)}. The tensors have the same "
            "shapes, but the network computes something else with them: train it again, or use the bcfusion that wrote "
            'it ("git" in the run.json of a run)'
        )
    own = module.state_dict()
    given = _weight_norm_as_in(own, state)
    problems = []
    for word, names in (("missing", own.keys() - given.keys()), ("unknown", given.keys() - own.keys())):
        if names:
            problems.append(f"{len(names)} {word} (such as {min(names)})")
    reshaped = sorted(name for name in own.keys() & given.keys() if own[name].shape != given[name].shape)
    if reshaped:
        name = reshaped[0]
        shapes = f"{tuple(given[name].shape)}, the network has {tuple(own[name].shape)}"
        problems.append(f"{len(reshaped)} of another shape (such as {name}: {shapes})")
    if problems:
        raise CheckpointError(f"{source} does not fit {type(module).__name__}: tensors {'; '.join(problems)}")
    module.load_state_dict(given)


def _weight_norm_as_in(own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return ``state`` with each weight as ``own`` holds it: plain, or as magnitude and direction of weight norm."""
    given = dict(state)
    for magnitude in {name for name in (*own, *state) if name.endswith(MAGNITUDE)}:
        layer, _, parameter = magnitude.removesuffix(MAGNITUDE).rpartition("parametrizations.")
        folded, direction = layer + parameter, magnitude.removesuffix(MAGNITUDE) + DIRECTION
        if magnitude in own and folded in given:
            weight = given.pop(folded)
            given |= {magnitude: _norm(weight, own[magnitude]), direction: weight}
        elif folded in own and {magnitude, direction} <= given.keys():
            length, weight = given.pop(magnitude), given.pop(direction)
            given[folded] = weight * (length / _norm(weight, length))
    return given


def _norm(weight: Tensor, magnitude: Tensor) -> Tensor:
    """Return the norm of ``weight`` over the dimensions that its magnitude does not have."""
    dims = [dim for dim, size in enumerate(magnitude.shape) if size == 1 and dim < weight.ndim]
    return torch.linalg.vector_norm(weight, dim=dims, keepdim=True)
