"""The commands that are printed: for the Python that runs, from where bcfusion came, and only for what is lacking."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from bcfusion.doctor import project, remedies
from bcfusion.doctor.remedies import MEMORY, after, install, install_extra, pip, reinstall, repair_files


def test_pip_is_that_of_the_python_that_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/a b/python")
    monkeypatch.setattr(remedies, "find_spec", lambda _: object())
    assert pip("install x") == "'/a b/python' -m pip install x"
    monkeypatch.setattr(remedies, "find_spec", lambda _: None)
    assert pip("install x") == "uv pip install --python '/a b/python' x"
    assert pip("check") == "uv pip check --python '/a b/python'"


def test_a_checkout_is_installed_and_mended_from_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remedies, "checkout", lambda: tmp_path)
    assert install_extra("onnx") == f"cd {tmp_path} && {pip('install')} -c constraints.txt -e '.[onnx]'"
    assert repair_files("conf") == f"unpack bcfusion again into {tmp_path}"
    (tmp_path / ".git").mkdir()
    assert repair_files("conf").endswith(f"git -C {tmp_path} restore conf undoes it")


def test_a_wheel_is_installed_from_where_it_came(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remedies, "checkout", lambda: None)
    monkeypatch.setattr(remedies, "_origin", lambda: "file:///wheels/b.whl")
    assert repair_files("conf").endswith("--no-deps file:///wheels/b.whl")
    assert install_extra("onnx") == pip("install 'bcfusion[onnx] @ file:///wheels/b.whl'")
    monkeypatch.setattr(remedies, "_origin", lambda: None)
    monkeypatch.setattr(remedies, "read_project", lambda: project.Project("", (), {"onnx": ("onnx>=1",)}))
    assert install_extra("onnx") == install("onnx>=1")


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        ImportError("libtorch_cpu.so: failed to map segment from shared object"),
        OSError(12, "Cannot allocate memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"),
    ],
)
def test_what_lacks_memory_is_not_installed_again(error: Exception) -> None:
    assert after(error, "reinstall") == MEMORY


@pytest.mark.slow
def test_a_module_that_is_missing_is_installed_by_its_distribution() -> None:
    assert after(ModuleNotFoundError("", name="numpy.core"), "else") == reinstall("numpy")
    assert after(ModuleNotFoundError("", name="torch.x"), "else") == "else"
    assert after(ModuleNotFoundError("", name="unknown_to_everybody"), "else") == "else", "its name may be anybody's"
    assert after(ValueError("other"), "else") == "else"


def test_a_module_of_a_distribution_that_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remedies.metadata, "packages_distributions", lambda: {})
    assert after(ModuleNotFoundError("", name="yaml"), "else") == install(remedies.wanted("pyyaml"))
