"""A network as a program of ``torch.export``: a ``.pt2`` file that runs where torch is, without bcfusion."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, cast

import torch
from torch import nn

from bcfusion.errors import ExportError, first_line
from bcfusion.export.describe import describe
from bcfusion.export.metadata import Metadata, parse_metadata
from bcfusion.export.onnx_export import quiet, traced
from bcfusion.export.step import StreamingStep, frame_of, ready
from bcfusion.inference.stepping import Frames
from bcfusion.run.card import Card

__all__ = ["ProgramStepper", "load_program", "program_of", "save_program"]

EXTRA = "bcfusion.json"  #: name of the extra file with the metadata, an object of strings


def program_of(
    generator: nn.Module,
    frame: int | None = None,
    *,
    packed: bool = False,
    card: Card | None = None,
    origin: Mapping[str, Any] | None = None,
) -> tuple[torch.export.ExportedProgram, Metadata]:
    """Return a program with the arguments, inputs and outputs of :func:`bcfusion.export.onnx_export.export_step`.

    Raises:
        ExportError: see there.
        ConfigError: likewise.
    """
    own = ready(generator)
    size = frame_of(own, frame)
    step = StreamingStep(own, packed)
    metadata = describe(own, size, step.states, step.packed, card, origin)
    return traced(step, (torch.zeros(1, len(metadata.sensors), size), *step.zeros())), metadata


def save_program(program: torch.export.ExportedProgram, metadata: Metadata, file: Path) -> None:
    """Write a program with its metadata as the extra file :data:`EXTRA`."""
    with quiet(), file.open("wb") as stream:  # by name, torch asks for a suffix, which an unfinished file lacks
        torch.export.save(program, cast("IO[bytes]", stream), extra_files={EXTRA: json.dumps(metadata.strings())})


def load_program(file: Path) -> tuple[nn.Module, Metadata]:
    """Return the program in a file as a module, and its metadata.

    Raises:
        ExportError: it is missing, damaged, or not of bcfusion.
    """
    extra = {EXTRA: ""}
    try:
        with quiet(), file.open("rb") as stream:
            program = torch.export.load(cast("IO[bytes]", stream), extra_files=extra)
    except Exception as error:
        raise ExportError(f"torch cannot load {file}: {first_line(error)}") from error
    return program.module(), parse_metadata(json.loads(extra[EXTRA] or "{}"), file)


class ProgramStepper:
    """An exported program as a :class:`~bcfusion.inference.stepping.Stepper`.

    Args:
        module: from :func:`load_program`.
        metadata: likewise.
    """

    def __init__(self, module: nn.Module, metadata: Metadata) -> None:
        self.sample_rate, self.sensors = metadata.sample_rate, metadata.sensors
        self.frame, self.lookahead = metadata.frame, metadata.lookahead
        self._module, self._shapes = module, [state.shape for state in metadata.states]
        self._state: list[torch.Tensor] = []
        self.reset()

    def step(self, chunk: Frames) -> Frames:
        with torch.inference_mode():
            y, *self._state = self._module(torch.from_numpy(chunk)[None], *self._state)
        return cast("Frames", y[0, 0].numpy())

    def reset(self) -> None:
        self._state = [torch.zeros(shape) for shape in self._shapes]

    def close(self) -> None:
        self._state = []
