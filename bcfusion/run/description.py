"""What a bundle says of itself, read without torch: its ``config.yaml``, and the header of its weights."""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Iterable
from dataclasses import dataclass, field
from operator import index
from pathlib import Path
from reprlib import repr as short
from typing import Any

from bcfusion import __version__
from bcfusion.errors import CheckpointError
from bcfusion.files import from_json
from bcfusion.run.layout import BUNDLE_CONFIG, BUNDLE_WEIGHTS, RunDir
from bcfusion.run.stored import check_format, require_keys
from bcfusion.run.yaml_file import read_yaml

__all__ = ["DTYPES", "FILES", "Bundle", "count_parameters", "find_bundle", "read_description"]

FORMAT = 1
FILES = {BUNDLE_WEIGHTS, BUNDLE_CONFIG}
DTYPES = ("float32", "float16")  #: in which the parameters may be stored
# Persistent buffers: statistics that were measured, not trained.
_MEASURED = ("mean", "var", "deviation", "num_batches_tracked")


@dataclass(frozen=True)
class Bundle:
    """The content of a bundle's ``config.yaml``.

    Attributes:
        generator: ``_target_`` and arguments of the network.
        sample_rate: in Hz.
        sensors: their names, in the order of the input channels.
        hop: samples per frame.
        delay: algorithmic latency in samples; None if the network needs the whole file.
        causal: whether the network can stream, with a latency of ``delay`` in all.
        receptive_field: measured number of samples before and after that an output sample depends on; None if it has
            no bound.
        training: recipe, experiment, overrides, config_dir, losses, step and metrics of the run that made it; the files
            that it was adapted to; repository and revision, if it comes from the Hugging Face hub.
        dtype: in which the parameters are stored, one of :data:`DTYPES`; named in the file only if it is not float32.
        bcfusion: version that wrote it.
        format: version of the file format.
    """

    generator: dict[str, Any]
    sample_rate: int
    sensors: list[str]
    hop: int
    delay: int | None
    causal: bool
    receptive_field: tuple[int, int] | None
    training: dict[str, Any] = field(default_factory=dict)
    dtype: str = "float32"
    bcfusion: str = __version__
    format: int = FORMAT

    @property
    def latency_ms(self) -> float | None:
        """Algorithmic latency in milliseconds; None if the network needs the whole file."""
        return None if self.delay is None else 1000 * self.delay / self.sample_rate

    def adapted_to(self, files: Iterable[str]) -> bool:
        """Return whether the network was adapted to one of these files, so that it is not scored on unseen ones."""
        known = set(self.training.get("adapted_to") or ())
        return any(os.path.realpath(file) in known for file in files)


def find_bundle(path: Path) -> Path | None:
    """Return the bundle that ``path`` is, or that the run at ``path`` holds; None if there is neither."""
    # not Path.is_file: it raises for a folder that this user may not enter, and for a name that is too long
    places = (path, RunDir(path).bundle)
    return next((folder for folder in places if all(os.path.isfile(folder / name) for name in FILES)), None)


def read_description(folder: Path) -> Bundle:
    """Return the description in a bundle.

    Args:
        folder: the bundle.

    Raises:
        CheckpointError: its ``config.yaml`` cannot be read, is damaged or of a newer format.
    """
    source = folder / BUNDLE_CONFIG
    content = read_yaml(source)
    if not isinstance(content, dict):
        raise CheckpointError(f"{source} is damaged: it holds no keys")
    check_format(content, FORMAT, source)
    require_keys(content, ("generator", "sample_rate", "sensors", "hop", "delay", "causal", "receptive_field"), source)
    reach, delay = content["receptive_field"], content["delay"]
    dtype = content.get("dtype", "float32")
    if dtype not in DTYPES:
        raise CheckpointError(f"{source} is damaged: dtype must be {' or '.join(DTYPES)}, not {short(dtype)}")
    try:
        bundle = Bundle(
            generator=dict(content["generator"]),
            sample_rate=int(content["sample_rate"]),
            sensors=[str(sensor) for sensor in content["sensors"]],
            hop=int(content["hop"]),
            delay=None if delay is None else int(delay),
            causal=bool(content["causal"]),
            receptive_field=None if reach is None else (int(reach[0]), int(reach[1])),
            training=dict(content.get("training") or {}),
            dtype=dtype,
            bcfusion=str(content.get("bcfusion", "unknown")),
            format=int(content["format"]),
        )
    except (TypeError, ValueError, LookupError, OverflowError) as error:
        reason = str(error)[:200]
        raise CheckpointError(f"{source} is damaged: a value is of the wrong kind ({reason})") from error
    if min(bundle.sample_rate, bundle.hop) < 1:
        raise CheckpointError(f"{source} is damaged: sample_rate and hop must be above 0")
    return bundle


def count_parameters(weights: Path) -> int:
    """Return the number of trained values in a ``.safetensors`` file, from its header; measured statistics are not.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not a safetensors file.
    """
    with weights.open("rb") as file:
        size = file.read(8)
        if len(size) < 8 or (length := struct.unpack("<Q", size)[0]) > weights.stat().st_size:
            raise ValueError(f"{weights} is not a safetensors file")
        header = from_json(file.read(length))
    try:
        return sum(
            math.prod(map(index, tensor["shape"]))  # whole numbers: a text times a number may fill the memory
            for name, tensor in header.items()
            if name != "__metadata__" and not name.endswith(_MEASURED)
        )
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"the header of {weights} does not list tensors") from error
