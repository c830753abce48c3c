"""The shipped configuration and the shipped models, at work."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, cast

from bcfusion.doctor.finding import Finding, fail, note, ok, why
from bcfusion.doctor.remedies import after, repair_files

if TYPE_CHECKING:
    from bcfusion.contracts import Generator

__all__ = ["configuration", "models", "stream"]

SECONDS = 1.0  # of sound that each model restores
FRAMES = 50
STREAMED = "throat_causal"


def configuration() -> Iterator[Finding]:
    """Compose the configuration of ``bcfusion train`` without arguments, and import what it names."""
    try:
        from hydra import compose, initialize_config_dir
        from hydra.core.global_hydra import GlobalHydra

        from bcfusion.configuration.compose import plain, register_resolvers
        from bcfusion.configuration.paths import conf_dir, group_members
        from bcfusion.configuration.targets import locate
        from bcfusion.configuration.values import nodes
        from bcfusion.run.layout import register_run_dir

        register_resolvers()
        register_run_dir()
        GlobalHydra.instance().clear()
        try:
            with initialize_config_dir(str(conf_dir()), version_base="1.3"):
                settings = plain(compose("train"))
        finally:
            GlobalHydra.instance().clear()
        for _, node in nodes(settings):
            if isinstance(target := node.get("_target_"), str):
                locate(target)
        experiments = len(group_members("experiment"))
    except Exception as error:
        yield fail("configuration", why(error), after(error, repair_files("conf")))
        return
    network = settings["generator"]["_target_"].rpartition(".")[2]
    yield ok("configuration", f"composes: {network} at {settings['sample_rate']} Hz; {experiments} experiments")


def _repair() -> str:
    return repair_files("bcfusion/pretrained")


def models() -> Iterator[Finding]:
    """Let each shipped model restore a second of noise."""
    try:
        import torch

        from bcfusion.nn.network import estimate_of
        from bcfusion.run.bundle import load_generator
        from bcfusion.run.models import SHIPPED, missing_folders

        generator = torch.Generator().manual_seed(0)
        works, started = [], time.perf_counter()
        for folder in sorted(entry for entry in SHIPPED.iterdir() if (entry / "config.yaml").is_file()):
            try:
                model = load_generator(folder)
                spec = cast("Generator", model)
                shape = 1, spec.in_channels, round(SECONDS * spec.sample_rate)
                with torch.inference_mode():
                    output = estimate_of(model(0.1 * torch.randn(shape, generator=generator)))
            except Exception as error:
                yield fail("shipped models", f"{folder.name}: {why(error)}", after(error, _repair()))
                return
            if output.shape[-1] != shape[-1] or not bool(output.isfinite().all()):
                yield fail(
                    "shipped models",
                    f"{folder.name} gives NaN or the wrong length",
                    _repair(),
                )
                return
            works.append(folder.name)
    except Exception as error:
        yield fail("shipped models", why(error), after(error, _repair()))
        return
    if not works:
        yield fail("shipped models", "none are in the package", _repair())
        return
    took = time.perf_counter() - started
    yield ok("shipped models", f"{', '.join(works)}: {SECONDS:g} s of noise each, {took:.1f} s with loading")
    for line in missing_folders():
        yield note("named models", line, "make the folder, or take it out of the variable")


def stream() -> Iterator[Finding]:
    """Let the shipped causal model take frames one by one, as a stream does."""
    try:
        import numpy

        from bcfusion.live.steppers import open_stepper
        from bcfusion.run.models import SHIPPED

        stepper = open_stepper(SHIPPED / STREAMED, backend="auto")
        try:
            rng = numpy.random.default_rng(0)
            took = []
            for _ in range(FRAMES):
                frame = 0.1 * rng.standard_normal((len(stepper.sensors), stepper.frame)).astype(numpy.float32)
                started = time.perf_counter()
                output = stepper.step(frame)
                took.append(time.perf_counter() - started)
                if output.shape != (stepper.frame,) or not numpy.isfinite(output).all():
                    yield fail("stream", f"{STREAMED} gives NaN or the wrong length", _repair())
                    return
        finally:
            stepper.close()
    except Exception as error:
        yield fail("stream", why(error), after(error, _repair()))
        return
    by = "onnxruntime" if type(stepper).__name__ == "OnnxStepper" else "torch"
    each, lasts = sorted(took)[FRAMES // 2], stepper.frame / stepper.sample_rate
    text = f"{STREAMED} takes {1000 * each:.1f} ms for a frame of {1000 * lasts:.0f} ms, with one thread of {by}"
    yield ok("stream", text)
