"""Bundles: all that inference needs of a trained generator, in a folder of two files.

``generator.safetensors`` holds the weights, with weight norm folded in. ``config.yaml`` says which class they belong to
and with which arguments, the sensors and the sample rate it was trained for, and where it comes from. Neither can run
code: the class is looked up by name and must be a ``torch.nn.Module``.
"""

from __future__ import annotations

import copy
import difflib
import functools
import importlib
import os
import pickle
import secrets
import shutil
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from bcfusion import __version__
from bcfusion.configuration.moved import current_target
from bcfusion.contracts import Generator
from bcfusion.errors import CheckpointError
from bcfusion.nn.conv import remove_weight_norm
from bcfusion.probe import receptive_field
from bcfusion.run.checkpoint import FORMAT as CHECKPOINT_FORMAT
from bcfusion.run.checkpoint import KIND as CHECKPOINT_KIND

__all__ = ["Bundle", "bundle_of", "load_generator", "save_bundle"]

FORMAT = 1
WEIGHTS = "generator.safetensors"
CONFIG = "config.yaml"
HYDRA_KEYS = ("_target_", "_partial_", "_convert_")
HEADER = "# bcfusion enhance {name} RECORDINGS --output ENHANCED\n"


@dataclass(frozen=True)
class Bundle:
    """What ``config.yaml`` of a bundle says.

    Attributes:
        generator: ``_target_`` and arguments of the network.
        sample_rate: in Hz. sensors: names, in the order of the input channels.
        hop, delay: samples; delay None: it hears the whole file. causal: whether it streams, ``delay`` late in all.
        receptive_field: samples before and after that an output sample depends on, measured; None: not bounded.
        training: recipe, experiment, overrides, config_dir, step and metrics of the run it comes from.
        bcfusion: version that wrote it. format: of the folder.
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


def save_bundle(
    path: str | os.PathLike[str],
    generator: nn.Module,
    generator_config: Mapping[str, Any],
    sensors: list[str],
    training: Mapping[str, Any],
) -> Path:
    """Write a bundle. The folder appears whole; one that was there before is replaced once the new one is complete.

    Args:
        path: the folder to write.
        generator: the network, left as it is (weight norm, device, train or eval mode).
        generator_config: ``_target_`` and the arguments that built it.
        sensors: one name for each input channel.
        training: where it comes from, plain values (recipe, experiment, overrides, config_dir, step, metrics).

    Returns:
        The folder.

    Raises:
        CheckpointError: the path holds something that is not a bundle, or the sensors do not match the network.
    """
    folder = Path(path)
    if folder.exists() and not (folder.is_dir() and {entry.name for entry in folder.iterdir()} <= {WEIGHTS, CONFIG}):
        raise CheckpointError(f"{folder} exists and is no bundle: move it away, or write the bundle elsewhere")
    clean = remove_weight_norm(copy.deepcopy(generator).cpu()).eval()
    bundle = _describe(clean, _plain(generator_config), list(sensors), _plain(training), folder)
    # Clones: safetensors refuses tensors that share memory, and a view would drag its whole storage along.
    state = {name: tensor.detach().clone().contiguous() for name, tensor in clean.state_dict().items()}
    folder.parent.mkdir(parents=True, exist_ok=True)
    fresh = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.new")
    fresh.mkdir()
    try:
        save_file(state, fresh / WEIGHTS)
        values = asdict(bundle)
        ordered = {"format": values.pop("format"), "bcfusion": values.pop("bcfusion"), **values}
        text = yaml.safe_dump(_plain(ordered), sort_keys=False, allow_unicode=True)
        (fresh / CONFIG).write_text(HEADER.format(name=folder.name) + text, encoding="utf-8")
        _swap(fresh, folder)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return folder


def load_generator(path: str | os.PathLike[str], device: str | torch.device = "cpu") -> nn.Module:
    """Load a trained generator for inference: eval mode, weight norm removed, its :class:`Bundle` in ``.bundle``.

    Args:
        path: a bundle, a run directory (its bundle, or its best checkpoint where the run did not end), or a training
            checkpoint (``.ckpt``, from which the averaged weights are taken where there are some).
        device: where to put it.

    Raises:
        CheckpointError: nothing there, damaged, of another kind, of a newer format, or its class or weights do not fit.
    """
    source = Path(path).expanduser()
    if source.is_dir():
        generator, bundle = _load_folder(source)
    elif source.is_file():
        generator, bundle = _from_checkpoint(source)
    else:
        raise CheckpointError(f"no model at {source}: give a run directory, a bundle or a .ckpt{_nearest(source)}")
    vars(generator)["bundle"] = bundle
    return generator.eval().to(device)


def bundle_of(generator: nn.Module) -> Bundle | None:
    """The description that :func:`load_generator` attached, or None for a network from elsewhere."""
    bundle = vars(generator).get("bundle")
    return bundle if isinstance(bundle, Bundle) else None


def _describe(
    generator: nn.Module, config: dict[str, Any], sensors: list[str], training: dict[str, Any], where: Path
) -> Bundle:
    spec = cast("Generator", generator)
    if len(sensors) != spec.in_channels:
        raise CheckpointError(f"{where}: {len(sensors)} sensors {sensors} for a network of {spec.in_channels} channels")
    known = bundle_of(generator)  # of the same network: what was measured when it was loaded need not be again
    return Bundle(
        generator=config,
        sample_rate=int(spec.sample_rate),
        sensors=sensors,
        hop=int(spec.hop),
        delay=None if spec.delay is None else int(spec.delay),
        causal=bool(spec.causal),
        receptive_field=known.receptive_field if known else receptive_field(generator),
        training=training,
    )


def _swap(fresh: Path, folder: Path) -> None:
    """Put ``fresh`` in the place of ``folder``; what was there stays until then and comes back if that fails."""
    if not folder.exists():
        os.replace(fresh, folder)
        return
    old = fresh.with_suffix(".old")
    os.replace(folder, old)
    try:
        os.replace(fresh, folder)
    except OSError:
        os.replace(old, folder)
        raise
    shutil.rmtree(old)


def _load_folder(folder: Path) -> tuple[nn.Module, Bundle]:
    for candidate in (folder, folder / "bundle"):
        if (candidate / CONFIG).is_file() and (candidate / WEIGHTS).is_file():
            return _from_bundle(candidate)
    checkpoints = folder / "checkpoints"
    if (checkpoints / "best.ckpt").is_file():  # a run that did not reach its end
        return _from_checkpoint(checkpoints / "best.ckpt")
    if checkpoints.is_dir():
        raise CheckpointError(f"{folder} is a run without a bundle or a best.ckpt: give another file of {checkpoints}")
    raise CheckpointError(
        f"{folder} is neither a bundle ({WEIGHTS} and {CONFIG}) nor a run directory with one in bundle/"
    )


def _from_bundle(folder: Path) -> tuple[nn.Module, Bundle]:
    source = folder / CONFIG
    try:
        content = yaml.safe_load(source.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{source} is damaged: it is not YAML ({type(error).__name__})") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{source} is damaged: it holds no keys")
    _check_format(content, FORMAT, source)
    _require(content, ("generator", "sample_rate", "sensors", "hop", "delay", "causal", "receptive_field"), source)
    field_, delay = content["receptive_field"], content["delay"]
    try:
        bundle = Bundle(
            generator=dict(content["generator"]),
            sample_rate=int(content["sample_rate"]),
            sensors=[str(sensor) for sensor in content["sensors"]],
            hop=int(content["hop"]),
            delay=None if delay is None else int(delay),
            causal=bool(content["causal"]),
            receptive_field=None if field_ is None else (int(field_[0]), int(field_[1])),
            training=dict(content.get("training") or {}),
            bcfusion=str(content.get("bcfusion", "unknown")),
            format=int(content["format"]),
        )
    except (TypeError, ValueError, IndexError) as error:
        raise CheckpointError(f"{source} is damaged: a value is of the wrong kind ({error})") from error
    generator = remove_weight_norm(_build_generator(bundle.generator, source))
    try:
        state = load_file(folder / WEIGHTS)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{folder / WEIGHTS} is damaged or no safetensors file: {error}") from error
    _load_state(generator, state, folder / WEIGHTS)
    return generator, bundle


def _from_checkpoint(source: Path) -> tuple[nn.Module, Bundle]:
    if source.name in (WEIGHTS, CONFIG):
        raise CheckpointError(f"{source} is one file of a bundle: give its folder, {source.parent}")
    if not zipfile.is_zipfile(source):  # what torch.save writes is a zip archive, whose directory is at its end
        raise CheckpointError(f"{source} is no checkpoint, or a damaged one: give a run directory, a bundle or a .ckpt")
    try:
        # Mapped, not read: optimisers and discriminators of the run stay on the disk.
        content = torch.load(source, map_location="cpu", weights_only=True, mmap=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, LookupError) as error:
        raise CheckpointError(f"{source} is not a checkpoint of bcfusion, or a damaged one") from error
    if not isinstance(content, dict) or content.get("kind") != CHECKPOINT_KIND:
        raise CheckpointError(f"{source} is not a checkpoint of bcfusion: give a .ckpt that `bcfusion train` wrote")
    _check_format(content, CHECKPOINT_FORMAT, source)
    _require(content, ("config", "generator"), source)
    config = content["config"]
    _require(config, ("generator", "task"), source, "config.")
    _require(config["task"], ("sensors",), source, "config.task.")
    generator = _build_generator(config["generator"], source)
    # The average may hold parameters only: buffers come from the network itself.
    _load_state(generator, {**content["generator"], **(content.get("generator_ema") or {})}, source)
    generator = remove_weight_norm(generator).eval()
    training = {"step": content.get("step"), **(content.get("training") or {})}
    return generator, _describe(generator, config["generator"], list(config["task"]["sensors"]), training, source)


def _build_generator(config: Mapping[str, Any], source: Path) -> nn.Module:
    built = _build(config, source)
    if not isinstance(built, nn.Module):
        raise CheckpointError(f"{source} is damaged: its generator has no _target_, or is partial")
    return built


def _build(value: Any, source: Path) -> Any:
    """Instantiate nested ``_target_`` entries as Hydra would, modules only."""
    if isinstance(value, (list, tuple)):
        return [_build(entry, source) for entry in value]
    if not isinstance(value, Mapping):
        return value
    built = {key: _build(entry, source) for key, entry in value.items() if key not in HYDRA_KEYS}
    if "_target_" not in value:
        return built
    kind = _module_class(str(value["_target_"]), source)
    if value.get("_partial_"):
        return functools.partial(kind, **built)
    try:
        return kind(**built)
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{source}: cannot build {value['_target_']}: {error}") from error


def _module_class(target: str, source: Path) -> type[nn.Module]:
    module_name, _, name = current_target(target).rpartition(".")
    try:
        found = getattr(importlib.import_module(module_name), name, None)
    except (ImportError, ValueError) as error:
        raise CheckpointError(
            f"{source} needs {target}, which cannot be imported here ({error}): install the package that has it"
        ) from error
    if not (isinstance(found, type) and issubclass(found, nn.Module)):
        raise CheckpointError(f"{source} needs {target}: there is no torch.nn.Module of that name in {module_name}")
    return found


def _check_format(content: Mapping[str, Any], known: int, source: Path) -> None:
    found = content.get("format")
    if not isinstance(found, int):
        raise CheckpointError(f"{source} says no format: it was not written by bcfusion, or was edited")
    if found > known:
        raise CheckpointError(
            f"{source} is of format {found}, this is bcfusion {__version__}, which knows {known}: update bcfusion"
        )


def _require(content: object, keys: tuple[str, ...], source: Path, prefix: str = "") -> None:
    missing = [prefix + key for key in keys if not isinstance(content, Mapping) or key not in content]
    if missing:
        raise CheckpointError(f"{source} is damaged or incomplete: {', '.join(missing)} missing")


def _load_state(generator: nn.Module, state: Mapping[str, Tensor], source: Path) -> None:
    """Load exactly these tensors, or say which of them do not belong to the network."""
    own = generator.state_dict()
    problems = []
    for word, names in (("missing", own.keys() - state.keys()), ("unknown", state.keys() - own.keys())):
        if names:
            problems.append(f"{len(names)} {word} (as {min(names)})")
    shaped = sorted(name for name in own.keys() & state.keys() if own[name].shape != state[name].shape)
    if shaped:
        name = shaped[0]
        shapes = f"{tuple(state[name].shape)}, the network has {tuple(own[name].shape)}"
        problems.append(f"{len(shaped)} of another shape (as {name}: {shapes})")
    if problems:
        raise CheckpointError(f"{source} does not fit {type(generator).__name__}: tensors {'; '.join(problems)}")
    generator.load_state_dict(state)


def _plain(value: Any) -> Any:
    """Containers and numbers of any library as those of YAML."""
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if value is None or type(value) in (bool, int, float, str):  # exactly: YAML cannot write NumPy's subclass of float
        return value
    if hasattr(value, "item"):  # NumPy and torch scalars
        return value.item()
    raise TypeError(f"{value!r} cannot go into a bundle: plain values only")


def _nearest(path: Path) -> str:
    """The nearest name beside a missing path, as the end of a message."""
    missing = path
    while not missing.parent.is_dir() and missing.parent != missing:
        missing = missing.parent
    names = [entry.name for entry in missing.parent.iterdir()]
    close = difflib.get_close_matches(missing.name, names, n=1)
    return f"; did you mean {missing.parent / close[0]}?" if close else ""
