"""The files of a public checkpoint: in a folder, beside a file, or in a repository of the Hugging Face hub."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bcfusion.errors import CheckpointError
from bcfusion.files import from_json
from bcfusion.nearest import nearest_path
from bcfusion.run.fetching import Fetched, Reference, fetch, parse_reference

__all__ = ["Found", "find_files"]


@dataclass(frozen=True)
class Found:
    """The files of one checkpoint on this machine.

    Attributes:
        weights: holds the tensors.
        config: holds the arguments; None without one.
        repository: of the hub, if they come from there.
        revision: of the repository, the full hash of its commit.
    """

    weights: Path
    config: Path | None = None
    repository: str | None = None
    revision: str | None = None

    @property
    def origin(self) -> str:
        """Where the checkpoint comes from, without paths of this machine."""
        if self.repository is not None:
            return f"{self.repository} of the Hugging Face hub, revision {self.revision}"
        return f"the file {self.weights.name}, SHA-256 {self.checksums()[self.weights.name]}"

    def checksums(self) -> dict[str, str]:
        """Return file name to SHA-256, in hexadecimal digits."""
        sums = {}
        for file in (self.weights, self.config):
            if file is not None:
                with file.open("rb") as content:
                    sums[file.name] = hashlib.file_digest(content, "sha256").hexdigest()
        return sums

    def settings(self) -> dict[str, Any]:
        """Return the content of ``config``; empty without one.

        Raises:
            CheckpointError: it is not a JSON object.
        """
        if self.config is None:
            return {}
        try:
            content = from_json(self.config.read_bytes())
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{self.config} cannot be read as JSON: {error}") from error
        if not isinstance(content, dict):
            raise CheckpointError(f"{self.config} holds no keys: it is not the configuration of a checkpoint")
        return content


def find_files(given: str, weights: Sequence[str], config: str | None, needs_config: bool = False) -> Found:
    """Return the files of a checkpoint.

    Args:
        given: a file, a folder, or a repository ``OWNER/NAME`` or ``OWNER/NAME@REVISION``. What exists on this machine
            is no repository, nor is what would lie in a folder that exists.
        weights: patterns of the file with the tensors, the preferred one first.
        config: name of the file with the arguments; None if there is none.
        needs_config: whether the checkpoint is useless without it.

    Raises:
        CheckpointError: there is no such file, folder or repository, it lacks a file, the hub cannot be reached, or
            ``huggingface_hub`` is not installed.
    """
    path = Path(os.path.expanduser(given))
    if path.is_file():
        beside = None if config is None or path.name == config else path.with_name(config)
        found = Found(path, beside if beside is not None and beside.is_file() else None)
    elif path.is_dir():
        found = _in_folder(path, weights, config)
    elif (reference := parse_reference(given)) is not None and not path.parent.is_dir():
        fetched = _fetched(reference, [*([config] if config else []), *weights], needs_config)
        inside = _in_folder(fetched.folder, weights, config)
        found = Found(inside.weights, inside.config, fetched.repository, fetched.revision)
    else:
        hint = nearest_path(path) or "; give a file, a folder, or OWNER/NAME of the Hugging Face hub"
        raise CheckpointError(f"there is no {given}{hint}")
    if needs_config and found.config is None:
        raise CheckpointError(
            f"{found.weights.parent} has no {config}, which holds the arguments of the network: put it beside "
            f"{found.weights.name}"
        )
    return found


def _in_folder(folder: Path, weights: Sequence[str], config: str | None) -> Found:
    for pattern in weights:
        files = sorted(file for file in folder.glob(pattern) if file.is_file())
        if len(files) > 1:
            names = ", ".join(file.name for file in files[:4])
            raise CheckpointError(f"{folder} holds several checkpoints ({names}): give the path of one of them")
        if files:
            beside = folder / config if config is not None else None
            return Found(files[0], beside if beside is not None and beside.is_file() else None)
    raise CheckpointError(f"{folder} holds no {' or '.join(weights)}: give the folder or the file of a checkpoint")


def _fetched(reference: Reference, patterns: Sequence[str], needs_config: bool) -> Fetched:
    wanted = patterns if needs_config else patterns[:2]
    instead = (
        f"bring {' and '.join(wanted)} of its repository {reference.name} into a folder, and give that folder instead"
    )
    return fetch(reference, patterns, instead=instead)
