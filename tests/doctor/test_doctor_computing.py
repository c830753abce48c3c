"""GPUs that are hidden, do not compute or are not fit for torch; precision; compilers; determinism."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from bcfusion.doctor import at_work, computing
from bcfusion.doctor.finding import FAIL, NOTE, OK, Finding

ROOT = Path(__file__).resolve().parents[2]


# ---------------------------------------------------------------- GPUs


@pytest.fixture
def without_gpu(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Finding]:
    """Return a function that gives the finding of a machine whose torch finds no GPU."""

    def look(*, built: str | None = "13.0", driver: str | None = None, warned: str = "", **variables: str) -> Finding:
        def available() -> bool:
            if warned:
                warnings.warn(warned, stacklevel=1)
            return False

        for name in computing.HIDES:
            monkeypatch.delenv(name, raising=False)
        for name, text in variables.items():
            monkeypatch.setenv(name, text)
        monkeypatch.setattr(torch.cuda, "is_available", available)
        monkeypatch.setattr(torch.version, "cuda", built)
        monkeypatch.setattr(torch.version, "hip", None)
        monkeypatch.setattr(computing, "_driver", lambda: driver)
        monkeypatch.setattr(computing.Path, "exists", lambda _: False)
        [found] = computing.gpus()
        return found

    return look


def test_a_machine_without_a_gpu_trains_on_its_cpu(without_gpu: Callable[..., Finding]) -> None:
    found = without_gpu()
    assert (found.status, found.text) == (OK, "none: experiments have their settings for CPUs")


def test_a_gpu_that_is_not_used_is_noted_with_the_reason(without_gpu: Callable[..., Finding]) -> None:
    hidden = without_gpu(CUDA_VISIBLE_DEVICES="")
    assert (hidden.status, hidden.remedy) == (NOTE, "unset CUDA_VISIBLE_DEVICES")
    for_cpus = without_gpu(built=None, driver="580.65.06")
    assert for_cpus.status == NOTE
    assert "built for CPUs only" in for_cpus.text
    old = without_gpu(driver="470.1", warned="CUDA initialization: The NVIDIA driver on your system is too old")
    assert old.status == NOTE
    assert "driver on your system is too old" in old.text
    assert "newer driver" in old.remedy
    contained = without_gpu(driver="580.65.06")
    assert contained.status == NOTE
    assert "--gpus all" in contained.remedy


@pytest.fixture
def with_gpus(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[Finding]]:
    """Return a function that gives the findings for GPUs that are made up; they compute on the CPU, or fail."""

    def look(*names: str, broken: str = "", free: int = 70, major: int = 9) -> list[Finding]:
        def info(index: int) -> tuple[int, int]:
            if names[index] == broken:
                raise RuntimeError("CUDA error: no kernel image is available for execution on the device")
            return free * 10**9, 80 * 10**9

        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: len(names))
        monkeypatch.setattr(
            torch.cuda, "get_device_properties", lambda index: SimpleNamespace(name=names[index], major=major, minor=0)
        )
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: names[index])
        monkeypatch.setattr(torch.cuda, "mem_get_info", info)
        monkeypatch.setattr(computing, "_has_bf16", lambda *_: major >= 8)
        monkeypatch.setattr(torch, "device", lambda *_: "cpu")
        monkeypatch.setattr(computing, "_driver", lambda: "580.65.06")
        return list(computing.gpus())

    return look


def test_each_gpu_has_its_line(with_gpus: Callable[..., list[Finding]]) -> None:
    [found] = with_gpus("H200")
    assert (found.name, found.status) == ("GPU", OK)
    assert found.text == "H200, 70 of 80 GB are free, capability 9.0, bf16, TF32, driver 580.65.06"
    [old] = with_gpus("V100", major=7)
    assert "neither bf16 nor TF32" in old.text
    [full] = with_gpus("H200", free=1)
    assert full.status == NOTE
    assert [each.name for each in with_gpus("A", "B")] == ["GPU 0", "GPU 1"]


def test_a_gpu_that_does_not_compute_would_end_a_training(
    with_gpus: Callable[..., list[Finding]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    fine, broken, other = with_gpus("A", "B", "C", broken="B")
    assert (fine.status, other.status) == (OK, OK)
    assert broken.status == FAIL
    assert "no kernel image" in broken.text
    assert broken.remedy == "export CUDA_VISIBLE_DEVICES=0,2, or trainer.accelerator=cpu"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-a1,GPU-b2")
    assert with_gpus("A", "B", broken="B")[1].remedy.startswith("export CUDA_VISIBLE_DEVICES=GPU-a1, or ")
    assert with_gpus("B", broken="B")[0].remedy == "trainer.accelerator=cpu", "there is no other"


@pytest.mark.gpu
def test_a_real_gpu_computes() -> None:
    assert {finding.status for finding in computing.gpus()} <= {OK, NOTE}


def test_the_version_of_the_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "version"
    monkeypatch.setattr(computing, "_DRIVER", file)
    assert computing._driver() is None
    file.write_text("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build\nGCC version:\n")
    assert computing._driver() == "580.65.06"


# ---------------------------------------------------------------- precision


def findings_with(check: str, **environment: str) -> list[Finding]:
    code = (
        "import json, dataclasses; from bcfusion.doctor import computing; "
        f"print(json.dumps([dataclasses.asdict(each) for each in computing.{check}()]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return [Finding(**each) for each in json.loads(done.stdout)]


@pytest.mark.slow
@pytest.mark.skipif("avx512" not in Path("/proc/cpuinfo").read_text(), reason="torch asks the CPU, oneDNN the variable")
def test_recurrent_layers_that_cannot_be_trained_in_bfloat16() -> None:
    """Torch takes the kernels of oneDNN, and oneDNN has none: as on some processors, here by its own variable."""
    [found] = findings_with("precision", ONEDNN_MAX_CPU_ISA="AVX2", CUDA_VISIBLE_DEVICES="")
    assert found.status == NOTE
    assert found.text.startswith("bf16-mixed fails on this CPU for networks with LSTM: RuntimeError: could not create")
    assert found.remedy.startswith("trainer.precision=32-true")


def test_what_fails_in_bfloat16_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    class Unable(torch.nn.GRU):
        def forward(self, *_: object) -> None:
            raise RuntimeError("no kernel. Set a variable.")

    monkeypatch.setattr(computing, "_COARSE", math.inf)  # whatever this machine makes of convolutions
    for name in ("LSTM", "GRU"):
        monkeypatch.setattr(torch.nn, name, Unable)
    [found] = computing.precision()
    assert found.status == NOTE
    assert found.text.endswith("for networks with LSTM or GRU: RuntimeError: no kernel")


def test_wrong_numbers_in_bfloat16_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    class Wrong(torch.nn.Conv1d):
        def forward(self, input: torch.Tensor) -> torch.Tensor:
            output = super().forward(input)
            return output.flip(-1) if torch.is_autocast_enabled("cpu") and self.kernel_size == (8,) else output

    monkeypatch.setattr(torch.nn, "Conv1d", Wrong)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    found = list(computing.precision())
    assert [each.status for each in found] == [NOTE]
    assert "convolution" in found[0].text
    assert found[0].text.endswith("ArithmeticError: wrong numbers")
    assert "ONEDNN_MAX_CPU_ISA=AVX512_CORE_BF16" in found[0].remedy


# ---------------------------------------------------------------- compilation, determinism


@pytest.mark.slow
def test_a_compiler_that_is_missing_or_cannot_do_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    [found] = computing.compilation()
    assert (found.status, found.text) == (NOTE, "there is no C++ compiler (no-such-compiler)")
    compiler = tmp_path / "c++"
    compiler.write_text(
        "#!/bin/sh\necho 'probe.cpp:1:10: fatal error: Python.h: No such file or directory' >&2\nexit 1\n"
    )
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", f"'{compiler}' --option")
    [found] = computing.compilation()
    assert found.status == NOTE
    assert found.text.endswith("does not compile: Python.h: No such file or directory")
    assert "python3-dev" in found.remedy


def test_settings_that_keep_results_from_repeating(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CUBLAS_WORKSPACE_CONFIG", "NVIDIA_TF32_OVERRIDE", "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE"):
        monkeypatch.delenv(name, raising=False)
    assert [finding.status for finding in computing.determinism()] == [OK]
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "1")
    [found] = computing.determinism()
    assert (found.status, found.remedy) == (NOTE, "unset NVIDIA_TF32_OVERRIDE")
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":1:1")
    [found] = computing.determinism()
    assert found.status == NOTE
    assert ":4096:8" in found.remedy
    monkeypatch.delenv("NVIDIA_TF32_OVERRIDE")
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    assert [finding.status for finding in computing.determinism()] == [OK]


# ---------------------------------------------------------------- at work


@pytest.mark.slow
def test_the_shipped_models_and_the_configuration_work() -> None:
    [models] = at_work.models()
    assert models.status == OK
    assert models.text.startswith("bandwidth_8k, fusion, throat, throat_causal: 1 s of noise each")
    for check in (at_work.configuration, at_work.stream):
        assert [finding.status for finding in check()] == [OK], check


def test_a_damaged_model_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from bcfusion.run import models

    monkeypatch.setattr(models, "SHIPPED", tmp_path)
    [found] = at_work.models()
    assert (found.status, found.text) == (FAIL, "none are in the package")
    shutil.copytree(ROOT / "bcfusion" / "pretrained" / "throat_causal", tmp_path / "throat_causal")
    assert [finding.status for finding in at_work.models()] == [OK]
    (tmp_path / "throat_causal" / "generator.safetensors").write_bytes(b"half")
    for check in (at_work.models, at_work.stream):
        [found] = check()
        assert found.status == FAIL
        assert "generator.safetensors" in found.text
        assert "restore bcfusion/pretrained" in found.remedy or "unpack" in found.remedy


def test_a_model_that_makes_no_sound_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from bcfusion.run import bundle

    class Broken(torch.nn.Module):
        in_channels, sample_rate = 1, 16000

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            return inputs / 0

    monkeypatch.setattr(bundle, "load_generator", lambda _: Broken())
    [found] = at_work.models()
    assert (found.status, found.text) == (FAIL, "bandwidth_8k gives NaN or the wrong length")


def test_a_configuration_that_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from bcfusion.configuration import paths

    monkeypatch.setattr(paths, "__file__", str(tmp_path / "bcfusion" / "configuration" / "paths.py"))
    [found] = at_work.configuration()
    assert found.status == FAIL
    assert "configuration files of bcfusion are missing" in found.text


def test_what_the_configuration_names_is_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard.summary.writer.event_file_writer", None)
    monkeypatch.delitem(sys.modules, "bcfusion.training.loggers", raising=False)
    monkeypatch.delattr("bcfusion.training.loggers", raising=False)
    [found] = at_work.configuration()
    assert found.status == FAIL
    assert "bcfusion.training.loggers" in found.text


def test_a_folder_of_models_that_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BCFUSION_MODELS", str(tmp_path / "gone"))
    _, found = at_work.models()
    assert (found.name, found.status) == ("named models", NOTE)
    assert "gone" in found.text
