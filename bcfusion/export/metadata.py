"""What an exported file says of itself: strings under keys that start with ``bcfusion.``.

Nothing here loads torch, so that whoever runs a file need not.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

from bcfusion import __version__
from bcfusion.errors import ExportError
from bcfusion.files import from_json

__all__ = [
    "INPUT",
    "OPSET",
    "OUTPUT",
    "PACKED",
    "PREFIX",
    "Metadata",
    "StateTensor",
    "needs_onnx",
    "parse_metadata",
    "sidecar_of",
]

FORMAT = 1
OPSET = 18  #: of ONNX's standard operators; what torch writes by itself
PREFIX = "bcfusion."
INPUT, OUTPUT = "x", "y"  #: names of the signals
PACKED = "state"  #: name of the one input of a packed state
NEXT = ".next"  #: appended to the name of a state's input, the name of its output

Kind = Literal["stream", "whole", "sherpa-onnx"]
Precision = Literal["fp32", "fp16", "int8"]


@dataclass(frozen=True)
class StateTensor:
    """A part of the state of a stream, as an input and an output of a step.

    Attributes:
        input: its name as an input.
        shape: of the tensor, float32; a stream starts from zeros.
    """

    input: str
    shape: tuple[int, ...]

    @property
    def output(self) -> str:
        """Its name as an output."""
        return self.input + NEXT


@dataclass(frozen=True)
class Metadata:
    """The content of the metadata.

    Attributes:
        kind: ``stream``, a step; ``whole``, whole files; ``sherpa-onnx``, a step for its speech denoiser.
        sample_rate: Hz.
        frame: samples of a step; 0 for whole files.
        hop: of the network, in samples.
        lookahead: samples by which the output of a stream is late, beside the frame; 0 for whole files.
        delay: of the network: output n depends on no input after n + delay; None if it depends on the whole file.
        sensors: names, in the order of the channels.
        skip_channel: index of the sensor that the network starts from.
        states: inputs after ``x``.
        packed: whether the state is one vector.
        precision: of the weights.
        strength_share: g of :func:`bcfusion.inference.blend.input_share`; 0 without.
        network: name of the class.
        version: of bcfusion.
        licence: corpora that the network was trained on, with their licences, and the licence of the weights, if known.
        origin: where the weights come from.
        format: version of these keys.
    """

    kind: Kind
    sample_rate: int
    frame: int
    hop: int
    lookahead: int
    delay: int | None
    sensors: tuple[str, ...]
    skip_channel: int
    states: tuple[StateTensor, ...] = ()
    packed: bool = False
    precision: Precision = "fp32"
    strength_share: float = 0.0
    network: str = ""
    version: str = __version__
    licence: tuple[Mapping[str, Any], ...] = ()
    origin: Mapping[str, Any] = field(default_factory=dict)
    format: int = FORMAT

    def plain(self) -> dict[str, Any]:
        """Return the content as JSON has it, by keys without the prefix."""
        states = [{"input": state.input, "output": state.output, "shape": list(state.shape)} for state in self.states]
        own = {**vars(self), "sensors": list(self.sensors), "states": states, "licence": list(self.licence)}
        return {**own, "origin": dict(self.origin)}

    def strings(self) -> dict[str, str]:
        """Return the content as it is stored: text as it is, no delay as the empty string, all else as JSON."""

        def stored(value: Any) -> str:
            return value if isinstance(value, str) else "" if value is None else json.dumps(value, ensure_ascii=False)

        return {PREFIX + key: stored(value) for key, value in self.plain().items()}


def parse_metadata(stored: Mapping[str, str], where: str | os.PathLike[str]) -> Metadata:
    """Return the metadata of an exported file from the strings in it.

    Args:
        stored: keys with their prefix; others are not looked at.
        where: the file, for messages.

    Raises:
        ExportError: it was not exported by bcfusion, is of a newer format, or a value is damaged.
    """
    own = {key.removeprefix(PREFIX): value for key, value in stored.items() if key.startswith(PREFIX)}
    if "format" not in own:
        raise ExportError(f"{where} was not written by bcfusion export: it has no metadata of it")
    if own["format"] != str(FORMAT):
        raise ExportError(f"{where} has metadata of format {own['format']}, this bcfusion reads {FORMAT}: update it")
    try:
        return Metadata(
            kind=cast("Kind", own["kind"]),
            sample_rate=int(own["sample_rate"]),
            frame=int(own["frame"]),
            hop=int(own["hop"]),
            lookahead=int(own["lookahead"]),
            delay=int(own["delay"]) if own["delay"] else None,
            sensors=tuple(from_json(own["sensors"])),
            skip_channel=int(own["skip_channel"]),
            states=tuple(StateTensor(each["input"], tuple(each["shape"])) for each in from_json(own["states"])),
            packed=own["packed"] == "true",
            precision=cast("Precision", own["precision"]),
            strength_share=float(own["strength_share"]),
            network=own["network"],
            version=own["version"],
            licence=tuple(from_json(own["licence"])),
            origin=from_json(own["origin"]),
        )
    except (KeyError, ValueError, TypeError) as error:
        raise ExportError(f"{where} is damaged: its metadata cannot be read ({error!r})") from error


def sidecar_of(file: Path) -> Path:
    """Return the file with the metadata of an exported file as JSON: its name with the suffix ``.json``."""
    return file.with_suffix(".json")


def needs_onnx() -> ExportError:
    """Return the error for a missing package."""
    return ExportError("ONNX needs the packages onnx, onnxscript and onnxruntime: run pip install 'bcfusion[onnx]'")
