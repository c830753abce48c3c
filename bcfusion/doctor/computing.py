"""What networks are computed on: GPUs, precisions, compilation, determinism."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bcfusion.doctor.finding import Finding, fail, note, ok, why
from bcfusion.doctor.project import GB, TORCH
from bcfusion.doctor.remedies import reinstall

__all__ = ["compilation", "determinism", "gpus", "precision"]

COMPILE_SECONDS = 60
#: makes torch look at other devices than there are
HIDES = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES")
#: values that CUDA's library of matrix products needs to repeat its results
WORKSPACES = (":4096:8", ":16:8")
_COARSE = 0.1  # error of a layer in bfloat16, of its output; rounding gives 0.003 to 0.02
_DRIVER = Path("/proc/driver/nvidia/version")


def gpus() -> Iterator[Finding]:
    """Look at each GPU, and multiply two matrices on it."""
    import torch

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        available = torch.cuda.is_available()
        number = torch.cuda.device_count() if available else 0
    if not number:
        yield _without_gpu(torch, " ".join(str(warning.message) for warning in caught))
        return
    for index in range(number):
        name = "GPU" if number == 1 else f"GPU {index}"
        try:
            yield _gpu(torch, index, name)
        except Exception as error:
            remedy = "trainer.accelerator=cpu"
            if number > 1:
                # names of GPUs stay what they are, and numbers are those of the machine
                shown = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(number)))
                others = [each for place, each in enumerate(shown.split(",")) if place != index]
                remedy = f"export CUDA_VISIBLE_DEVICES={','.join(others)}, or {remedy}"
            yield fail(name, f"{_name(torch, index)} does not compute: {why(error)}", remedy)


def _gpu(torch: Any, index: int, name: str) -> Finding:
    device = torch.device("cuda", index)
    properties = torch.cuda.get_device_properties(index)
    free, total = torch.cuda.mem_get_info(index)
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.randn(256, 256, generator=generator) for _ in range(2))
    product = (left.to(device) @ right.to(device)).cpu()
    if not torch.allclose(product, left @ right, atol=0.5):  # TensorFloat-32 is off by 0.05
        return fail(name, f"{properties.name} computes wrong products", "trainer.accelerator=cpu; look at its driver")
    kinds = [kind for kind, has in (("bf16", _has_bf16(torch, index)), ("TF32", properties.major >= 8)) if has]
    text = ", ".join(
        [
            f"{properties.name}, {free / GB:.0f} of {total / GB:.0f} GB are free",
            f"capability {properties.major}.{properties.minor}",
            *(kinds or ["neither bf16 nor TF32"]),
            *([f"driver {driver}"] if (driver := _driver()) else []),
        ]
    )
    if free < 2 * GB:
        return note(name, text, "end what else computes on it: nvidia-smi lists the processes")
    return ok(name, text)


def _has_bf16(torch: Any, index: int) -> bool:
    with torch.cuda.device(index):
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))


def _name(torch: Any, index: int) -> str:
    try:
        return str(torch.cuda.get_device_name(index))
    except Exception:
        return "it"


def _without_gpu(torch: Any, warned: str) -> Finding:
    """Return why torch uses no GPU: there is none, or one that it cannot use, which is seldom wanted."""
    for name in HIDES:
        if os.environ.get(name) is not None and os.environ[name].strip() in ("", "-1"):
            return note("GPU", f"none, because {name} hides them", f"unset {name}")
    there = _driver() is not None or Path("/dev/nvidia0").exists() or Path("/dev/kfd").exists()
    build = "for CUDA" if torch.version.cuda else "for ROCm" if torch.version.hip else "for CPUs only"
    if warned:
        remedy = "install a newer driver, or a torch that is built for this one; without either the CPU computes"
        return note("GPU", f"not usable by torch {torch.__version__}: {' '.join(warned.split())[:160]}", remedy)
    if there and not (torch.version.cuda or torch.version.hip):
        text = f"there is one, but torch {torch.__version__} is built for CPUs only"
        return note("GPU", text, reinstall(*TORCH, kind="auto"))
    if there:
        remedy = "docker run --gpus all in a container; otherwise nvidia-smi shows whether the driver works"
        return note("GPU", f"there is a driver, but torch, built {build}, finds no device", remedy)
    return ok("GPU", "none: experiments have their settings for CPUs")


def _driver() -> str | None:
    """Return the version of NVIDIA's driver; None without one."""
    try:
        words = _DRIVER.read_text().partition("\n")[0].split()
    except OSError:
        return None
    return next((word for word in words if word.replace(".", "").isdecimal() and "." in word), "of unknown version")


def precision() -> Iterator[Finding]:
    """Train one step of recurrent and convolutional layers in mixed precision, which some processors cannot, or do
    wrongly: with the matrix tiles of AMX, oneDNN's convolutions of some sizes were seen to give noise."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    where = "GPU" if device == "cuda" else "CPU"
    layers = {"LSTM": torch.nn.LSTM(32, 24, 2, batch_first=True, bidirectional=True), "GRU": torch.nn.GRU(32, 24)}
    convolutions = [torch.nn.Conv1d(32, 24, 3), torch.nn.Conv1d(16, 16, 8, 4), torch.nn.Conv1d(8, 16, 8)]
    broken = {}
    for name, layer in (*layers.items(), *(("convolution", each) for each in convolutions)):
        inputs = torch.randn(4, getattr(layer, "in_channels", 32), 32, device=device)
        try:
            with torch.autocast(device, dtype=torch.bfloat16):
                output = layer.to(device)(inputs)
                output = output[0] if isinstance(output, tuple) else output
            output.float().square().mean().backward()
            exact = layer(inputs)
            exact = exact[0] if isinstance(exact, tuple) else exact
            if not (output.float() - exact).norm() < _COARSE * exact.norm():
                raise ArithmeticError("wrong numbers")
        except Exception as error:
            broken[name] = why(error).partition(". ")[0]  # oneDNN goes on about its variables
    if not broken:
        yield ok("precision", f"32-true; bf16-mixed computes on this {where}, recurrent layers too")
        return
    text = f"bf16-mixed fails on this {where} for networks with {' or '.join(broken)}: {next(iter(broken.values()))}"
    remedy = "trainer.precision=32-true, as by default"
    if device == "cpu":
        remedy += "; ONEDNN_MAX_CPU_ISA=AVX512_CORE_BF16 leaves out AMX"
    yield note("precision", text, remedy)


def compilation() -> Iterator[Finding]:
    """Compile a few lines of C++ against Python, as torch.compile does."""
    name, remedy = "torch.compile", "apt-get install g++ python3-dev; trainer.compile=false, the default, needs neither"
    compiler = os.environ.get("CXX") or "g++"
    command = shlex.split(compiler)
    program = shutil.which(command[0])
    if program is None:
        yield note(name, f"there is no C++ compiler ({compiler})", remedy)
        return
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "probe.cpp")
        source.write_text("#include <Python.h>\n#include <omp.h>\nint threads() { return omp_get_max_threads(); }\n")
        include = sysconfig.get_paths()["include"]
        options = ["-shared", "-fPIC", "-fopenmp", f"-I{include}", str(source), "-o", str(Path(folder, "probe.so"))]
        try:
            done = subprocess.run(
                [program, *command[1:], *options], capture_output=True, text=True, timeout=COMPILE_SECONDS, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            yield note(name, f"{program}: {why(error)}", remedy)
            return
    if done.returncode:
        reason = next((line for line in done.stderr.splitlines() if "error" in line), "it fails").partition("error: ")
        yield note(name, f"{program} does not compile: {reason[2] or reason[0]}", remedy)
    else:
        yield ok(name, f"{program} compiles against Python {sys.version_info.major}.{sys.version_info.minor}")


def determinism() -> Iterator[Finding]:
    """Look at settings of the environment that keep trainer.deterministic=true from working."""
    workspace = os.environ.get("CUBLAS_WORKSPACE_CONFIG")
    if workspace is not None and workspace not in WORKSPACES:
        text = f"CUBLAS_WORKSPACE_CONFIG={workspace}: trainer.deterministic=true fails on a GPU"
        yield note("determinism", text, f"export CUBLAS_WORKSPACE_CONFIG={WORKSPACES[0]}, or unset it")
        return
    override = {
        name: os.environ[name]
        for name in ("NVIDIA_TF32_OVERRIDE", "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE")
        if os.environ.get(name)
    }
    if override:
        shown = ", ".join(f"{name}={value}" for name, value in override.items())
        text = f"{shown} overrules trainer.tf32 and what is computed in full precision"
        yield note("determinism", text, f"unset {' '.join(override)}")
        return
    yield ok("determinism", "nothing in the environment keeps trainer.deterministic=true from working")
