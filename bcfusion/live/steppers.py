"""A model, in whichever form it is given, as a stepper."""

from __future__ import annotations

import logging
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, cast

from bcfusion.contracts import Generator
from bcfusion.errors import BcfusionError, CheckpointError, ConfigError
from bcfusion.inference.blend import blended, input_share
from bcfusion.inference.stepping import Stepper, TorchStepper
from bcfusion.nn.network import usual_frame
from bcfusion.run.bundle import in_steps, load_generator

if TYPE_CHECKING:
    from torch import nn

__all__ = ["BACKENDS", "missing_packages", "open_stepper", "prepared", "wants_onnx"]

T = TypeVar("T")

BACKENDS = ("auto", "onnx", "torch")
_PACKAGES = ("onnx", "onnxscript", "onnxruntime")

logger = logging.getLogger(__name__)


def open_stepper(
    model: Path,
    backend: str = "auto",
    frame: int | None = None,
    strength: float = 1.0,
    limit_db: float | None = None,
    threads: int = 1,
    say: Callable[[str], None] = lambda _: None,
    *,
    trust_code: bool = False,
    steps: int | None = None,
) -> Stepper:
    """Return a model as a stepper, and whatever it takes to step it.

    Args:
        model: a bundle, run directory or checkpoint; or an exported ``.onnx`` file.
        backend: ``torch``; ``onnx``, for which a bundle is exported in memory; or ``auto``: onnx where its packages are
            installed and the network can be exported.
        frame: samples of a frame, a multiple of the network's hop; None: see
            :func:`bcfusion.nn.network.usual_frame`. An exported file has its own.
        strength: see :func:`bcfusion.inference.blend.blended`.
        limit_db: likewise.
        threads: that compute.
        say: is told what takes seconds.
        trust_code: see :func:`bcfusion.load_generator`.
        steps: see :func:`bcfusion.run.bundle.in_steps`.

    Raises:
        BcfusionError: there is no such model, it is not causal, packages are missing, or an argument does not fit.
    """
    if model.suffix.lower() == ".onnx":
        if steps is not None:
            raise ConfigError([f"--steps: {model} is exported with its steps; give them to bcfusion export"])
        return _exported(model, backend, frame, input_share(strength, limit_db), threads)
    wants_onnx(backend)  # before the model is loaded
    generator = in_steps(load_generator(model, trust_code=trust_code), steps)
    spec = cast("Generator", generator)
    if not spec.causal:
        raise ConfigError(
            [
                f"{model} is not causal and cannot stream\n"
                "bcfusion models says which models can; bcfusion enhance restores files with this one"
            ]
        )
    if frame is None:
        frame = usual_frame(spec)
    if frame % spec.hop:  # which neither backend takes; PyTorch says it at once
        backend = "torch"
    generator, samples = blended(generator, strength, limit_db), frame

    def by_onnxruntime() -> Stepper:
        say("the network is prepared for onnxruntime; bcfusion export MODEL does that once and for all")
        return _onnx(generator, samples, threads)

    def by_torch() -> Stepper:
        import torch

        torch.set_num_threads(threads)
        return TorchStepper(generator, samples)

    return prepared(backend, by_onnxruntime, by_torch)


def wants_onnx(backend: str) -> bool:
    """Return whether a backend is onnxruntime's, or ``auto`` where that is installed.

    Raises:
        ConfigError: its packages are missing.
    """
    missing = missing_packages()
    if backend == "onnx" and missing:
        raise ConfigError([f"--backend onnx needs {', '.join(missing)}: pip install 'bcfusion[onnx]'"])
    return backend == "onnx" or (backend == "auto" and not missing)


def prepared(backend: str, by_onnxruntime: Callable[[], T], by_torch: Callable[[], T], name: str = "it") -> T:
    """Return a network as one of two functions prepares it for a backend.

    Args:
        backend: one of ``BACKENDS``; with ``auto``, a network that cannot be exported is prepared by PyTorch.
        by_onnxruntime: exports the network.
        by_torch: takes it as it is.
        name: of the network, for messages.

    Raises:
        BcfusionError: packages are missing, or it cannot be prepared for that backend.
    """
    if wants_onnx(backend):
        try:
            return by_onnxruntime()
        except BcfusionError as error:
            if backend == "onnx":
                raise
            logger.warning("%s is computed by PyTorch, since the network cannot be exported: %s", name, error)
    return by_torch()


def missing_packages() -> list[str]:
    """Return the packages that onnxruntime's backend needs and that are not installed."""
    return [name for name in _PACKAGES if find_spec(name) is None]


def _onnx(generator: nn.Module, frame: int, threads: int) -> Stepper:
    from bcfusion.export.onnx_export import export_step
    from bcfusion.export.onnx_stepper import OnnxStepper

    return OnnxStepper(export_step(generator, frame).SerializeToString(), threads=threads)


def _exported(model: Path, backend: str, frame: int | None, share: float, threads: int) -> Stepper:
    if backend == "torch":
        raise ConfigError([f"{model} is computed by onnxruntime: leave out --backend torch, or give the bundle"])
    if share:
        raise ConfigError([f"{model} holds its own mixture: give --strength or --limit-db to bcfusion export"])
    if find_spec("onnxruntime") is None:
        raise ConfigError([f"{model} needs onnxruntime: pip install 'bcfusion[onnx]'"])
    if not model.is_file():
        raise CheckpointError(f"no such file: {model}")
    from bcfusion.export.onnx_stepper import OnnxStepper

    stepper: Stepper = OnnxStepper(model, threads=threads)
    if frame not in (None, stepper.frame):
        own = stepper.frame
        raise ConfigError([f"--frame {frame}: {model} was exported with frames of {own} samples; leave the option out"])
    return stepper
