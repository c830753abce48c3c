"""What a source of public checkpoints is, and which ones there are."""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bcfusion.errors import CheckpointError
from bcfusion.nearest import did_you_mean

if TYPE_CHECKING:
    from bcfusion.importing.files import Found
    from bcfusion.importing.weights import Weights
    from bcfusion.run.card import Corpus

__all__ = ["Choices", "Converted", "Source", "find_source", "source_names", "summary_of"]

PACKAGE = "bcfusion.importing.sources"


@dataclass(frozen=True)
class Choices:
    """What a user chooses about an import.

    Attributes:
        source_index: which output of a network that separates several sources, from 0; None: not chosen.
        discriminators: the checkpoint of the discriminators, where it is one of its own; None: the same or none.
    """

    source_index: int | None = None
    discriminators: Found | None = None


@dataclass(frozen=True)
class Converted:
    """A checkpoint, as far as a source has translated it.

    Attributes:
        generator: ``_target_`` of our network and its arguments, without sample rate and number of sensors.
        weights: its tensors by our names.
        sample_rate: in Hz.
        discriminators: name of a member of conf/discriminators to its ``_target_`` and arguments.
        discriminator_weights: their tensors by our names, each preceded by the member's name.
        licence: of the weights, if the checkpoint states it; otherwise that of the source is given.
        notes: what differs from the public program, in sentences.
        overrides: of the recipe, such as the rate of narrow-band speech.
    """

    generator: dict[str, Any]
    weights: Weights
    sample_rate: int
    discriminators: Mapping[str, dict[str, Any]] = field(default_factory=dict)
    discriminator_weights: Weights | None = None
    licence: str = ""
    notes: tuple[str, ...] = ()
    overrides: tuple[str, ...] = ()


@dataclass(frozen=True)
class Source:
    """A kind of public checkpoint.

    Attributes:
        project: who publishes the checkpoints, in short.
        network: what the network is, in short.
        licence: of the published weights, as far as it is known.
        task: name of the recipe that a bundle is evaluated and trained with.
        data: what the published weights were trained on.
        weights: patterns of the file that holds the tensors, the preferred one first.
        config: name of the file that holds the arguments; None if they are in the file of the tensors.
        needs_config: whether nothing can be imported without that file.
        experiment: member of conf/experiment with this network, to train from the bundle.
        convert: translates the files.
        refuses: option of the verb that this source has no use for, to why not.
    """

    project: str
    network: str
    licence: str
    task: str
    data: tuple[Corpus, ...]
    weights: tuple[str, ...]
    convert: Callable[[Found, Choices], Converted]
    experiment: str
    config: str | None = None
    needs_config: bool = False
    refuses: Mapping[str, str] = field(default_factory=dict)


def source_names() -> list[str]:
    """Return the names of all sources, sorted; nothing is imported."""
    return sorted(file.stem for file in _folder().glob("*.py") if not file.stem.startswith("_"))


def summary_of(name: str) -> str:
    """Return the first line of a source's docstring; nothing is imported."""
    text = ast.get_docstring(ast.parse((_folder() / f"{name}.py").read_text(encoding="utf-8"))) or ""
    return text.partition("\n")[0].rstrip(".")


def find_source(name: str) -> Source:
    """Return a source by its name.

    Raises:
        CheckpointError: there is none of that name.
    """
    names = source_names()
    if name not in names:
        raise CheckpointError(f"there is no source {name}{did_you_mean(name, names)}\nsources: {', '.join(names)}")
    source = import_module(f"{PACKAGE}.{name}").SOURCE
    assert isinstance(source, Source)
    return source


def _folder() -> Path:
    return Path(__file__).parent / "sources"
