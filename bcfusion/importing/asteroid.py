"""What the two networks of asteroid have in common: the file format, and outputs of which one is chosen."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from bcfusion.errors import CheckpointError
from bcfusion.importing.files import Found
from bcfusion.importing.source import Choices
from bcfusion.importing.weights import Weights, only_tensors, read_pickle

__all__ = ["LICENCE", "WEIGHTS", "licence_of", "model_of", "source_of"]

WEIGHTS = ("pytorch_model.bin", "*.pth", "*.pt", "*.bin")
LICENCE = "CC BY-SA (as most models of asteroid; this one states none)"


def model_of(found: Found, *names: str) -> tuple[dict[str, Any], Weights]:
    """Return the arguments and the tensors of a model that asteroid has serialised.

    Args:
        found: its file: a dictionary of ``model_name``, ``model_args``, ``state_dict`` and ``infos``.
        names: that ``model_name`` may have.

    Raises:
        CheckpointError: it is of another kind.
    """
    content = read_pickle(found.weights)
    if missing := [key for key in ("model_name", "model_args", "state_dict") if key not in content]:
        raise CheckpointError(f"{found.weights} has no {', '.join(missing)}: asteroid did not write it")
    if content["model_name"] not in names:
        raise CheckpointError(
            f"{found.weights} is a {content['model_name']}; this source imports {' or '.join(names)} only"
        )
    if not isinstance(content["model_args"], dict):
        raise CheckpointError(f"{found.weights}: model_args hold no arguments by name")
    return content["model_args"], Weights(only_tensors(content["state_dict"], found.weights), found.weights)


def licence_of(found: Found) -> str:
    """Return the licence that the uploader of a model has stated; empty if there is none."""
    infos = read_pickle(found.weights).get("infos")
    note = infos.get("license_note") if isinstance(infos, dict) else None
    return " ".join(re.sub(r"<[^>]*>", "", note).split()) if isinstance(note, str) else ""  # it has links, in HTML


def source_of(count: int, choices: Choices, where: Path) -> int:
    """Return which of ``count`` outputs becomes the estimate.

    Raises:
        CheckpointError: there are several and none was chosen, or there is none of that index.
    """
    if choices.source_index is None:
        if count == 1:
            return 0
        raise CheckpointError(
            f"{where} separates {count} sources, and a bundle has one estimate: choose one by --source-index 0 to "
            f"{count - 1}"
        )
    if choices.source_index >= count:
        raise CheckpointError(
            f"--source-index {choices.source_index}: {where} has {count} output{'s' if count > 1 else ''}, from 0"
        )
    return choices.source_index
