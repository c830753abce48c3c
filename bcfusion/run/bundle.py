"""Bundles: all that inference needs of a trained generator, in a folder of two files.

Neither file holds code. The class of the network is looked up by name and must be a ``torch.nn.Module`` of bcfusion, or
of a package that the user trusts (:mod:`bcfusion.run.trust`). See :mod:`bcfusion.run.bundle_files` for what the files
hold.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from bcfusion.configuration.compose import generator_node
from bcfusion.configuration.moved import current_target
from bcfusion.contracts import BuiltFromFiles, Generator, Stepwise
from bcfusion.errors import CheckpointError, ConfigError
from bcfusion.nearest import nearest_path
from bcfusion.nn.conv import remove_weight_norm
from bcfusion.probe import receptive_field
from bcfusion.run import checkpoint
from bcfusion.run.building import build_generator
from bcfusion.run.bundle_files import plain, read_bundle, write_bundle
from bcfusion.run.checkpoint import load_weights
from bcfusion.run.description import DTYPES, Bundle, find_bundle
from bcfusion.run.fetching import repository_of
from bcfusion.run.layout import BUNDLE_CONFIG, BUNDLE_WEIGHTS, RunDir
from bcfusion.run.models import resolve_model
from bcfusion.run.stored import require_keys
from bcfusion.run.trust import own_training

__all__ = ["Bundle", "bundle_of", "in_steps", "load_generator", "save_bundle"]


def save_bundle(
    path: str | os.PathLike[str],
    generator: nn.Module,
    generator_config: Mapping[str, Any],
    sensors: list[str],
    training: Mapping[str, Any],
    dtype: torch.dtype = torch.float32,
) -> Path:
    """Write a bundle. The folder appears whole, and replaces an earlier bundle only once it is complete.

    Args:
        path: the folder to write.
        generator: the network; it is left unchanged (weight norm, device, train or eval mode).
        generator_config: ``_target_`` and the arguments that built it.
        sensors: one name for each input channel.
        training: where it comes from, in plain values (recipe, experiment, overrides, config_dir, losses, step,
            metrics).
        dtype: in which parameters are stored: torch.float32, or torch.float16 for half the size. They are float32 again
            when they are loaded, rounded. Buffers (statistics, positions, counters) are stored as they are.

    Returns:
        The folder.

    Raises:
        CheckpointError: ``path`` holds something that is not a bundle, the sensors do not match the network, or a
            weight lies outside the range of float16.
        ValueError: ``dtype`` is another one.
        TypeError: ``generator_config`` or ``training`` hold values that YAML cannot.
    """
    folder = Path(path)
    stored_as = str(dtype).removeprefix("torch.")
    if stored_as not in DTYPES:
        raise ValueError(f"dtype must be torch.float32 or torch.float16, not {dtype}")
    clean = remove_weight_norm(copy.deepcopy(generator).cpu()).eval()
    bundle = replace(_describe(clean, plain(generator_config), list(sensors), plain(training), folder), dtype=stored_as)
    state = clean.state_dict()
    if dtype != torch.float32:
        state |= {name: _rounded(name, value, dtype, folder) for name, value in _float_parameters(clean)}
    write_bundle(folder, bundle, state)
    return folder


def load_generator(
    path: str | os.PathLike[str], device: str | torch.device = "cpu", *, trust_code: bool = False
) -> nn.Module:
    """Load a trained generator for inference: in eval mode, weight norm removed, its :class:`Bundle` in ``.bundle``.

    Args:
        path: a bundle, a run directory (its bundle is loaded, or its best checkpoint if the run did not reach its end),
            a checkpoint (``.ckpt``, whose averaged weights are loaded if it has any), the name of a model, or
            ``hf:OWNER/NAME`` for one on the Hugging Face hub, see :func:`bcfusion.run.models.resolve_model`.
        device: where to put the network.
        trust_code: whether the model may name classes that are not bcfusion's own. They are not part of it: they are
            imported from this machine, and building them runs them. Without it, a model on the disk may name classes
            of a module that this program has imported, or of a package that ``BCFUSION_TRUST`` or ``./conf`` names;
            one of the hub may not.

    Returns:
        A network that fulfils :class:`bcfusion.contracts.Generator`: ``(B, S, T)`` to ``(B, 1, T)``.

    Raises:
        CheckpointError: there is nothing at ``path``; it is damaged, of another kind or of a newer format; its class or
            its weights do not fit, or its class is not trusted; or it is on the hub and cannot be fetched.

    Example:
        >>> import tempfile, torch
        >>> from bcfusion.generators.seanet import SEANet
        >>> from bcfusion.run.bundle import load_generator, save_bundle
        >>> sizes = {"channels": 2, "strides": [2, 4], "dilations": [1], "bottleneck_channels": 4}
        >>> config = {"_target_": "bcfusion.generators.seanet.SEANet", **sizes}
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     bundle = save_bundle(f"{folder}/bundle", SEANet(**sizes), config, ["body"], {"step": 0})
        ...     generator = load_generator(bundle)
        >>> generator.bundle.sensors, generator.bundle.sample_rate
        (['body'], 16000)
        >>> with torch.inference_mode():
        ...     generator(torch.zeros(1, 1, 1000)).shape
        torch.Size([1, 1, 1000])
    """
    source = resolve_model(path, trust_code=trust_code).path
    if source.is_dir() and (find_bundle(source) or not RunDir(source).checkpoints.is_dir()):
        generator, bundle = _from_bundle(source, trust_code)
        if (origin := repository_of(find_bundle(source) or source)) is not None:  # what is made of it can say so
            known = dict(zip(("repository", "revision"), origin, strict=True))
            training = bundle.training if trust_code else own_training(bundle.training)
            bundle = replace(bundle, training={**training, "hub": known})
    elif source.is_dir():  # a run that did not reach its end
        generator, bundle = _from_checkpoint(_best_checkpoint(RunDir(source)), trust_code)
    elif source.is_file():
        generator, bundle = _from_checkpoint(source, trust_code)
    else:
        raise CheckpointError(f"no model at {source}: give a run directory, a bundle or a .ckpt{nearest_path(source)}")
    vars(generator)["bundle"] = bundle
    return generator.eval().to(device)


def bundle_of(generator: nn.Module) -> Bundle | None:
    """Return the description that :func:`load_generator` attached, or None for a network from elsewhere."""
    bundle = vars(generator).get("bundle")
    return bundle if isinstance(bundle, Bundle) else None


def in_steps(generator: nn.Module, steps: int | None, option: str = "--steps") -> nn.Module:
    """Let a loaded generator take another number of steps; what its bundle says of it follows.

    Args:
        generator: of :func:`load_generator`; changed in place.
        steps: as :meth:`bcfusion.contracts.Stepwise.set_steps` takes them; None: as the bundle says.
        option: how the number is given, for the message.

    Returns:
        The generator.

    Raises:
        ConfigError: it restores speech in one pass, or less than one step.
    """
    if steps is None:
        return generator
    if not isinstance(generator, Stepwise):
        raise ConfigError([f"{option}: {type(generator).__name__} restores speech in one pass, not in steps"])
    generator.set_steps(steps)
    bundle = vars(generator).pop("bundle", None)
    if isinstance(bundle, Bundle):
        place = Path(str(bundle.training.get("run", "bundle")))
        vars(generator)["bundle"] = _describe(
            generator, {**bundle.generator, "steps": steps}, bundle.sensors, bundle.training, place
        )
    return generator


def _describe(
    generator: nn.Module, config: dict[str, Any], sensors: list[str], training: dict[str, Any], where: Path
) -> Bundle:
    spec = cast("Generator", generator)
    if len(sensors) != spec.in_channels:
        raise CheckpointError(f"{where}: {len(sensors)} sensors {sensors} for a network of {spec.in_channels} channels")
    known = bundle_of(generator)  # a loaded network need not be measured again
    return Bundle(
        generator=_without_files(config, [part for part in generator.modules() if isinstance(part, BuiltFromFiles)]),
        sample_rate=int(spec.sample_rate),
        sensors=sensors,
        hop=int(spec.hop),
        delay=None if spec.delay is None else int(spec.delay),
        causal=bool(spec.causal),
        receptive_field=known.receptive_field if known else receptive_field(generator),
        training=training,
    )


def _without_files(config: Any, parts: list[Any]) -> Any:
    """Return the description of a network in which those of its parts name no files."""
    if isinstance(config, list):
        return [_without_files(each, parts) for each in config]
    if not isinstance(config, Mapping):
        return config
    made = {key: _without_files(value, parts) for key, value in config.items()}
    for part in parts:
        if current_target(str(made.get("_target_"))) == f"{type(part).__module__}.{type(part).__qualname__}":
            made = plain(part.without_files(made))
    return made


def _float_parameters(generator: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield the float32 parameters by their names in the state dict; one that two layers share has two names."""
    for name, value in generator.named_parameters(remove_duplicate=False):
        if value.dtype == torch.float32:
            yield name, value.detach()


def _rounded(name: str, value: Tensor, dtype: torch.dtype, where: Path) -> Tensor:
    rounded = value.to(dtype)
    if bool((rounded.isinf() & ~value.isinf()).any()):
        limit = torch.finfo(dtype).max
        raise CheckpointError(f"{where}: {name} holds values above {limit:g}, the largest in float16: store float32")
    return rounded


def _from_bundle(source: Path, trust_code: bool) -> tuple[nn.Module, Bundle]:
    bundle, state = read_bundle(source)
    generator = remove_weight_norm(build_generator(bundle.generator, source, trust_code=trust_code))
    load_weights(generator, state, source)
    return generator, bundle


def _best_checkpoint(run: RunDir) -> Path:
    if run.best.is_file():
        return run.best
    raise CheckpointError(
        f"{run.path} is a run without a bundle or a best.ckpt: give one of the checkpoints in {run.checkpoints}"
    )


def _from_checkpoint(source: Path, trust_code: bool) -> tuple[nn.Module, Bundle]:
    if source.name in (BUNDLE_WEIGHTS, BUNDLE_CONFIG):
        raise CheckpointError(f"{source} is one file of a bundle: give its folder, {source.parent}")
    content = checkpoint.read(source, mmap=True)  # optimisers and discriminators stay on the disk
    require_keys(content, ("config", "generator"), source)
    config = content["config"]
    require_keys(config, ("generator", "task"), source, "config.")
    require_keys(config["task"], ("sensors",), source, "config.task.")
    node = generator_node(config)
    generator = build_generator(node, source, trust_code=trust_code)
    load_weights(generator, checkpoint.generator_state(content), source)
    generator = remove_weight_norm(generator).eval()
    training = {"step": content.get("step"), **(content.get("training") or {})}
    return generator, _describe(generator, node, list(config["task"]["sensors"]), training, source)
