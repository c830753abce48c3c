"""What verbs import, by counting in fresh processes, and the collector during imports."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from bcfusion import startup
from bcfusion.commands.verbs import VERBS

ROOT = Path(__file__).resolve().parent.parent
#: packages that take long to import, or bring many others
HEAVY = {
    *("torch", "lightning", "hydra", "omegaconf", "numpy", "scipy", "soundfile", "torchaudio", "torchmetrics"),
    *("matplotlib", "PIL", "pandas", "sklearn", "onnx", "onnxruntime", "tensorboard", "google", "sympy", "triton"),
    *("fastapi", "uvicorn", "huggingface_hub", "requests", "wandb", "mlflow", "optuna", "pyarrow", "librosa"),
}
CALLED = """
import contextlib, io, json, sys
before = set(sys.modules)
from bcfusion.cli import main
statuses = []
with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
    for arguments in json.loads(sys.argv[1]):
        try:
            statuses.append(main(arguments))
        except SystemExit as stop:
            statuses.append(stop.code)
print(json.dumps([statuses, sorted(set(sys.modules) - before)]))
"""


def imported(*calls: tuple[str, ...], code: str = CALLED, cwd: Path) -> tuple[list[int], set[str]]:
    """Return the statuses of command lines, and the modules that a fresh process had to import for them."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps(calls)],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": path, "COLUMNS": "120"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    statuses, modules = json.loads(done.stdout.splitlines()[-1])
    return statuses, set(modules)


def heavy(modules: set[str]) -> set[str]:
    return {name.partition(".")[0] for name in modules} & HEAVY


# ---------------------------------------------------------------- verbs


@pytest.mark.slow
def test_help_imports_a_handful_of_modules(tmp_path: Path) -> None:
    statuses, modules = imported(("--help",), cwd=tmp_path)
    assert statuses == [0]
    assert {name for name in modules if name.startswith("bcfusion")} == {
        *("bcfusion", "bcfusion.cli", "bcfusion.commands", "bcfusion.commands.verbs")
    }
    assert len(modules) <= 15, sorted(modules)


@pytest.mark.slow
def test_import_bcfusion_imports_nothing_else(tmp_path: Path) -> None:
    code = "import json, sys; before = set(sys.modules); import bcfusion; "
    code += "print(json.dumps([[], sorted(set(sys.modules) - before)]))"
    assert imported(code=code, cwd=tmp_path)[1] <= {"bcfusion", "__future__"}


@pytest.mark.slow
def test_the_help_of_every_verb_is_light(tmp_path: Path) -> None:
    for verb in VERBS:
        statuses, modules = imported((verb, "--help"), cwd=tmp_path)
        allowed = {"numpy"} if verb == "inspect" else set()  # its help names a limit of the measurement
        assert statuses == [0], verb
        assert heavy(modules) <= allowed, verb
        assert len(modules) <= 220, f"{verb}: {len(modules)} modules"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("call", "status", "allowed", "most"),
    [
        (("models",), 0, set(), 200),
        (("init",), 0, set(), 90),
        (("compare", "no_runs"), 2, {"numpy"}, 340),
        (("listen", "no_run"), 2, {"numpy"}, 350),
        (("enhance", "no_model", "no_file.wav"), 2, {"numpy", "soundfile"}, 320),
        (("export", "no_model"), 2, set(), 160),
        (("serve", "no_model"), 2, set(), 160),
        (("pull", "no_repository"), 2, set(), 160),
        (("prepare", "no_corpus"), 2, {"numpy", "soundfile"}, 300),
        (("inspect", "no_manifest.csv"), 2, {"numpy", "soundfile"}, 390),
        (("train", "--cfg", "job"), 0, {"torch", "numpy", "hydra", "omegaconf"}, 1450),
        (("train", "generator=no_member"), 2, {"torch", "numpy", "hydra", "omegaconf"}, 1450),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, tuple) else "",
)
def test_calls_import_what_they_need(
    call: tuple[str, ...], status: int, allowed: set[str], most: int, tmp_path: Path
) -> None:
    """Mistakes are reported before torch is imported, except where whether there is a GPU decides on the settings."""
    statuses, modules = imported(call, cwd=tmp_path)
    assert statuses == [status]
    assert heavy(modules) <= allowed | ({"triton"} if "torch" in allowed else set())  # of torch, where it is installed
    assert len(modules) <= most


@pytest.mark.slow
def test_check_imports_little_beside_torch_lightning_and_hydra(tmp_path: Path) -> None:
    code = "import json, sys; before = set(sys.modules); import torch, lightning, hydra; "
    code += "print(json.dumps([[], sorted(set(sys.modules) - before)]))"
    needed = imported(code=code, cwd=tmp_path)[1]
    statuses, modules = imported(("check", "check.step=false", "machine=cpu"), cwd=tmp_path)
    assert statuses == [0]
    assert heavy(modules - needed) - heavy(needed) <= {"soundfile", "tensorboard", "google", "librosa"}
    assert len(modules) <= len(needed) + 400


# ---------------------------------------------------------------- the collector


@pytest.fixture
def freezes(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[bool]]:
    """The moments at which what exists is frozen, which would last until the end of this process."""
    noted: list[bool] = []
    monkeypatch.setattr(gc, "freeze", lambda: noted.append(gc.isenabled()))
    monkeypatch.setattr(startup, "_owned", False)
    yield noted
    for name in [name for name in sys.modules if name.startswith("made_up")]:
        del sys.modules[name]


def many_modules() -> None:
    sys.modules.update({f"made_up_{number}": ModuleType("made_up") for number in range(startup.MANY)})


def test_nothing_is_collected_while_modules_are_imported(freezes: list[bool]) -> None:
    assert gc.isenabled()
    with startup.loading():
        with startup.loading():
            assert not gc.isenabled()
        assert not gc.isenabled()
        with pytest.raises(ImportError), startup.loading():
            raise ImportError
        assert not gc.isenabled()
        many_modules()
    assert gc.isenabled()
    assert freezes == []  # not in a process that others use too


def test_a_process_of_its_own_freezes_what_many_imports_made(freezes: list[bool]) -> None:
    startup.own_process()
    with startup.loading():
        sys.modules["made_up"] = ModuleType("made_up")
    assert freezes == []  # so that the leftovers of a job are collected when the next one imports its network
    with startup.loading():
        many_modules()
    assert freezes == [True]


def test_the_console_script_owns_its_process_and_a_call_from_python_does_not(
    freezes: list[bool], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from bcfusion.cli import main

    for arguments, owned in ((["pull", "nothing"], False), (None, True)):
        monkeypatch.setattr(sys, "argv", ["bcfusion", "pull", "nothing"])
        assert main(arguments) == 2
        assert startup._owned is owned
    assert "nothing" in capsys.readouterr().err
