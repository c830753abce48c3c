"""The two files of a bundle: how they are read and written.

``generator.safetensors`` holds the weights, with weight norm folded in. ``config.yaml`` holds the class they belong to
with its arguments, the sensors and the sample rate it was trained for, and where it comes from. Parameters may be
stored in float16, which halves the file; they are read back as float32, and buffers are always stored as they are.

Beside an imported bundle there may be ``discriminators.safetensors``, for fine-tuning.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from bcfusion.errors import CheckpointError
from bcfusion.files import appearing_folder
from bcfusion.run.card import CARD
from bcfusion.run.description import FILES, Bundle, find_bundle, read_description
from bcfusion.run.layout import BUNDLE_CONFIG, BUNDLE_DISCRIMINATORS, BUNDLE_WEIGHTS

__all__ = ["HEADER", "KNOWN", "plain", "read_bundle", "read_discriminators", "require_place", "write_bundle"]

#: files of a model in a folder
KNOWN = (*sorted(FILES), CARD, BUNDLE_DISCRIMINATORS)
HEADER = "# bcfusion enhance {name} RECORDINGS --output ENHANCED\n"


def read_bundle(path: Path) -> tuple[Bundle, dict[str, Tensor]]:
    """Return the description and the weights of a bundle, with weight norm folded in; float16 becomes float32.

    Args:
        path: the bundle, or the run directory that holds it.

    Raises:
        CheckpointError: there is no bundle, or it is damaged or of a newer format.
    """
    folder = find_bundle(path)
    if folder is None:
        raise CheckpointError(
            f"{path} is neither a bundle ({BUNDLE_WEIGHTS} and {BUNDLE_CONFIG}) nor a run directory with one in bundle/"
        )
    bundle = read_description(folder)
    try:
        state = load_file(folder / BUNDLE_WEIGHTS)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{folder / BUNDLE_WEIGHTS} is damaged or not a safetensors file: {error}") from error
    if bundle.dtype != "float32":
        stored = getattr(torch, bundle.dtype)
        state = {name: tensor.float() if tensor.dtype == stored else tensor for name, tensor in state.items()}
    return bundle, state


def read_discriminators(folder: Path) -> dict[str, Tensor] | None:
    """Return the weights of the discriminators beside an imported bundle; None if there are none.

    Args:
        folder: the bundle.

    Raises:
        CheckpointError: the file is damaged.
    """
    file = folder / BUNDLE_DISCRIMINATORS
    if not file.is_file():
        return None
    try:
        return load_file(file)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{file} is damaged or not a safetensors file: {error}") from error


def write_bundle(folder: Path, bundle: Bundle, state: Mapping[str, Tensor]) -> None:
    """Write a bundle; the folder appears whole, in place of an earlier bundle.

    Args:
        folder: where to write it.
        bundle: its description.
        state: its weights, with weight norm folded in, in the precision that ``bundle.dtype`` names.

    Raises:
        CheckpointError: ``folder`` holds something other than a bundle.
        TypeError: the description holds values that YAML cannot.
    """
    if folder.exists() and not (folder.is_dir() and {entry.name for entry in folder.iterdir()} <= FILES):
        raise CheckpointError(f"{folder} exists and is not a bundle: move it away, or write the bundle elsewhere")
    values = asdict(bundle)
    ordered = {"format": values.pop("format"), "bcfusion": values.pop("bcfusion"), **values}
    if bundle.dtype == "float32":
        del ordered["dtype"]
    text = yaml.safe_dump(plain(ordered), sort_keys=False, allow_unicode=True)
    with appearing_folder(folder) as part:
        # clones: safetensors refuses tensors that share memory, and a view would take its whole storage along
        save_file({name: tensor.detach().clone().contiguous() for name, tensor in state.items()}, part / BUNDLE_WEIGHTS)
        (part / BUNDLE_CONFIG).write_text(HEADER.format(name=folder.name) + text, encoding="utf-8")


def require_place(output: Path, overwrite: bool) -> None:
    """Refuse to write a model with its card over anything but an earlier one, and over that only with ``overwrite``.

    Raises:
        CheckpointError: ``output`` is in use.
    """
    if not output.exists():
        return
    if not output.is_dir():
        raise CheckpointError(f"{output} exists and is no folder: give another --output")
    if others := sorted({entry.name for entry in output.iterdir()} - set(KNOWN)):
        raise CheckpointError(f"{output} holds other things than a model ({others[0]}): give another --output")
    if not overwrite and any(output.iterdir()):
        raise CheckpointError(f"{output} holds a bundle: give --overwrite to replace it")


def plain(value: Any) -> Any:
    """Return containers and numbers of any library as those that YAML can hold.

    Raises:
        TypeError: there is a value of another kind.
    """
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(entry) for entry in value]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if value is None or type(value) in (bool, int, float, str):  # exactly: YAML cannot write NumPy's subclass of float
        return value
    if hasattr(value, "item"):  # NumPy and torch scalars
        return value.item()
    raise TypeError(f"{value!r} cannot go into a bundle: plain values only")
