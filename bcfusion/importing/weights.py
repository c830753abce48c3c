"""Tensors of a public checkpoint, read without running code, and their way to the names of our networks."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.modules.module import _EXTRA_STATE_KEY_SUFFIX
from torch.torch_version import TorchVersion

from bcfusion.errors import CheckpointError
from bcfusion.nn.conv import remove_weight_norm
from bcfusion.run.stored import require_stored_whole

__all__ = ["Weights", "pointwise", "read_pickle", "read_tensors"]

_PLAIN: list[Any] = [TorchVersion]  # texts that some programs store beside the tensors
#: how torch's two implementations of weight normalisation name magnitude and direction of a parameter ``weight``
_STYLES = (("{}{}_g", "{}{}_v"), ("{}parametrizations.{}.original0", "{}parametrizations.{}.original1"))


def read_pickle(file: Path) -> dict[str, Any]:
    """Return the content of a file of ``torch.save``, of which tensors and plain values only are accepted.

    Raises:
        CheckpointError: it is no such file, it holds objects of other classes, which are never loaded, or no keys.
    """
    require_stored_whole(file)
    try:
        with torch.serialization.safe_globals(_PLAIN):
            content = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for files that it did not write
        found = re.search(r"GLOBAL ([\w.]+)", str(error))
        reason = f"it holds a {found[1]}" if found else type(error).__name__
        raise CheckpointError(
            f"{file} cannot be read as a file of torch.save that holds tensors and plain values only: {reason}"
        ) from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{file} holds a {type(content).__name__}, not the keys of a checkpoint")
    return content


def read_tensors(file: Path) -> dict[str, Tensor]:
    """Return the tensors in a safetensors file, or in a file of ``torch.save`` that holds nothing else.

    Raises:
        CheckpointError: the file is neither, or holds other things.
    """
    if file.suffix == ".safetensors":
        try:
            return load_file(file)
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{file} is damaged or not a safetensors file: {error}") from error
    return only_tensors(read_pickle(file), file)


def only_tensors(content: Any, file: Path, where: str = "") -> dict[str, Tensor]:
    """Return a mapping after it has been checked that it holds tensors by name.

    Raises:
        CheckpointError: it holds something else.
    """
    place = f"{file}{f': {where}' if where else ''}"
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{place} is no state dict: it holds no tensors by name")
    wrong = next((str(name) for name, value in content.items() if not isinstance(value, Tensor)), None)
    if wrong is not None:
        raise CheckpointError(f"{place} is no state dict: {wrong} is no tensor")
    return {str(name): tensor for name, tensor in content.items()}


def is_torchscript(file: Path) -> bool:
    """Return whether a file is an archive of ``torch.jit.save``."""
    if not zipfile.is_zipfile(file):
        return False
    with zipfile.ZipFile(file) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def pointwise(weight: Tensor) -> Tensor:
    """Return the weight ``(out, in)`` of a linear layer as that of a convolution with a kernel of 1."""
    return weight.unsqueeze(-1)


class Weights:
    """Tensors on their way from the names of a public checkpoint to ours.

    A source moves each tensor once. What it does not move, and what our network then still lacks, is reported by
    :meth:`load`, in the names of the checkpoint where it has them. Weight normalisation, in either of torch's two
    forms, is folded in beforehand: to a source, a normalised layer has a plain ``weight``.

    Args:
        tensors: by the names of the checkpoint.
        file: where they come from, for messages.
    """

    def __init__(self, tensors: Mapping[str, Tensor], file: Path) -> None:
        self.file = file
        self.left = _folded(tensors)
        self.state: dict[str, Tensor] = {}
        self.names: dict[str, str] = {}  # ours to that of the checkpoint
        self.absent: list[str] = []

    def shape(self, theirs: str) -> tuple[int, ...]:
        """Return the shape of a tensor.

        Raises:
            CheckpointError: it is not there.
        """
        if theirs not in self.left:
            raise CheckpointError(f"{self.file} has no tensor {theirs}: it is a checkpoint of something else")
        return tuple(self.left[theirs].shape)

    def move(self, ours: str, theirs: str, change: Callable[[Tensor], Tensor] | None = None) -> None:
        """Give a tensor our name.

        Args:
            ours: its new name.
            theirs: its name in the checkpoint.
            change: of its shape or its values.
        """
        tensor = self.left.pop(theirs, None)
        if tensor is None:
            self.absent.append(theirs)
            return
        self.state[ours] = tensor if change is None else change(tensor)
        self.names[ours] = theirs

    def layer(
        self, ours: str, theirs: str, change: Callable[[Tensor], Tensor] | None = None, bias: bool = True
    ) -> None:
        """Move the ``weight`` of a layer, changed by ``change``, and its ``bias``, if it has one."""
        self.move(f"{ours}.weight", f"{theirs}.weight", change)
        if bias:
            self.move(f"{ours}.bias", f"{theirs}.bias")

    def join(self, ours: str, *theirs: str) -> None:
        """Move layers that are one layer here: their outputs, weights and biases, one after the other."""
        for parameter in ("weight", "bias"):
            parts = [self.take(f"{name}.{parameter}") for name in theirs]
            if all(part is not None for part in parts):
                self.put(
                    f"{ours}.{parameter}", torch.cat([p for p in parts if p is not None]), f"{theirs[0]}.{parameter}"
                )

    def put(self, ours: str, tensor: Tensor, theirs: str = "") -> None:
        """Add a tensor that was computed from several, or that the checkpoint does not have."""
        self.state[ours] = tensor
        self.names[ours] = theirs

    def take(self, theirs: str) -> Tensor | None:
        """Take a tensor out, to compute another from it; None if it is not there, which :meth:`load` reports."""
        tensor = self.left.pop(theirs, None)
        if tensor is None:
            self.absent.append(theirs)
        return tensor

    def drop(self, prefix: str) -> None:
        """Leave out all tensors whose names begin with ``prefix``: our network computes them itself."""
        self.left = {name: tensor for name, tensor in self.left.items() if not name.startswith(prefix)}

    def load(self, module: nn.Module) -> None:
        """Load the tensors into a network, whose weight normalisation is removed.

        Raises:
            CheckpointError: tensors are missing, unknown, or of another shape; the first of each is named.
        """
        remove_weight_norm(module)
        own = module.state_dict()
        absent = [*self.absent, *sorted(_needed(own) - self.state.keys())] if not self.absent else self.absent
        problems = []
        if absent:
            problems.append(f"{len(absent)} missing (such as {absent[0]})")
        unknown = sorted(self.left) or sorted(self.state.keys() - own.keys())
        if unknown:
            problems.append(f"{len(unknown)} unknown (such as {self.names.get(unknown[0]) or unknown[0]})")
        reshaped = [name for name in self.state if name in own and own[name].shape != self.state[name].shape]
        if reshaped:
            name = reshaped[0]
            shapes = f"{tuple(self.state[name].shape)}, the arguments ask for {tuple(own[name].shape)}"
            problems.append(f"{len(reshaped)} of another shape (such as {self.names[name] or name}: {shapes})")
        if problems:
            raise CheckpointError(f"{self.file} does not fit {type(module).__name__}: tensors {'; '.join(problems)}")
        revisions = {name: value for name, value in own.items() if name.endswith(_EXTRA_STATE_KEY_SUFFIX)}
        module.load_state_dict({**revisions, **self.state})


def _needed(own: Mapping[str, Tensor]) -> set[str]:
    return {name for name in own if not name.endswith(_EXTRA_STATE_KEY_SUFFIX)}


def _folded(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors with plain weights in place of magnitudes and directions."""
    folded = dict(tensors)
    for name in tensors:
        for magnitude, direction in _STYLES:
            prefix, parameter = _parts(name, magnitude)
            other = direction.format(prefix, parameter)
            if parameter and other in folded and name in folded:
                length, weight = folded.pop(name).float(), folded.pop(other).float()
                over = [dim for dim, size in enumerate(length.shape) if size == 1]
                folded[f"{prefix}{parameter}"] = weight * (
                    length / torch.linalg.vector_norm(weight, dim=over, keepdim=True)
                )
    return {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in folded.items()}


def _parts(name: str, style: str) -> tuple[str, str]:
    """Return the layer's prefix and the parameter's name, the latter empty if ``name`` is no magnitude of a style."""
    ending = style.rpartition("{}")[2]
    if not name.endswith(ending):
        return "", ""
    layer, _, parameter = name.removesuffix(ending).rpartition(".")
    if "parametrizations" in style:
        if layer.rpartition(".")[2] != "parametrizations":
            return "", ""
        layer = layer.removesuffix("parametrizations").removesuffix(".")
    return (f"{layer}." if layer else ""), parameter
