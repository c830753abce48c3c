"""The two files of a bundle: how they are read and written.

``generator.safetensors`` holds the weights, with weight norm folded in. ``config.yaml`` holds the class they belong to
with its arguments, the sensors and the sample rate it was trained for, and where it comes from.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from bcfusion import __version__
from bcfusion.errors import CheckpointError
from bcfusion.files import appearing_folder
from bcfusion.run.layout import BUNDLE_CONFIG, BUNDLE_WEIGHTS, RunDir
from bcfusion.run.stored import check_format, require_keys

__all__ = ["Bundle", "find_bundle", "plain", "read_bundle", "write_bundle"]

FORMAT = 1
FILES = {BUNDLE_WEIGHTS, BUNDLE_CONFIG}
HEADER = "# bcfusion enhance {name} RECORDINGS --output ENHANCED\n"


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
        training: recipe, experiment, overrides, config_dir, step and metrics of the run that made it.
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
    bcfusion: str = __version__
    format: int = FORMAT


def find_bundle(path: Path) -> Path | None:
    """Return the bundle that ``path`` is, or that the run at ``path`` holds; None if there is neither."""
    return next(
        (folder for folder in (path, RunDir(path).bundle) if all((folder / name).is_file() for name in FILES)), None
    )


def read_bundle(path: Path) -> tuple[Bundle, dict[str, Tensor]]:
    """Return the description and the weights, with weight norm folded in, of a bundle.

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
    bundle = _read_description(folder / BUNDLE_CONFIG)
    try:
        return bundle, load_file(folder / BUNDLE_WEIGHTS)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{folder / BUNDLE_WEIGHTS} is damaged or not a safetensors file: {error}") from error


def write_bundle(folder: Path, bundle: Bundle, state: Mapping[str, Tensor]) -> None:
    """Write a bundle; the folder appears whole, in place of an earlier bundle.

    Args:
        folder: where to write it.
        bundle: its description.
        state: its weights, with weight norm folded in.

    Raises:
        CheckpointError: ``folder`` holds something other than a bundle.
        TypeError: the description holds values that YAML cannot.
    """
    if folder.exists() and not (folder.is_dir() and {entry.name for entry in folder.iterdir()} <= FILES):
        raise CheckpointError(f"{folder} exists and is not a bundle: move it away, or write the bundle elsewhere")
    values = asdict(bundle)
    ordered = {"format": values.pop("format"), "bcfusion": values.pop("bcfusion"), **values}
    text = yaml.safe_dump(plain(ordered), sort_keys=False, allow_unicode=True)
    with appearing_folder(folder) as part:
        # clones: safetensors refuses tensors that share memory, and a view would take its whole storage along
        save_file({name: tensor.detach().clone().contiguous() for name, tensor in state.items()}, part / BUNDLE_WEIGHTS)
        (part / BUNDLE_CONFIG).write_text(HEADER.format(name=folder.name) + text, encoding="utf-8")


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


def _read_description(source: Path) -> Bundle:
    try:
        content = yaml.safe_load(source.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{source} is damaged: it is not YAML ({type(error).__name__})") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{source} is damaged: it holds no keys")
    check_format(content, FORMAT, source)
    require_keys(content, ("generator", "sample_rate", "sensors", "hop", "delay", "causal", "receptive_field"), source)
    reach, delay = content["receptive_field"], content["delay"]
    try:
        return Bundle(
            generator=dict(content["generator"]),
            sample_rate=int(content["sample_rate"]),
            sensors=[str(sensor) for sensor in content["sensors"]],
            hop=int(content["hop"]),
            delay=None if delay is None else int(delay),
            causal=bool(content["causal"]),
            receptive_field=None if reach is None else (int(reach[0]), int(reach[1])),
            training=dict(content.get("training") or {}),
            bcfusion=str(content.get("bcfusion", "unknown")),
            format=int(content["format"]),
        )
    except (TypeError, ValueError, IndexError) as error:
        raise CheckpointError(f"{source} is damaged: a value is of the wrong kind ({error})") from error
