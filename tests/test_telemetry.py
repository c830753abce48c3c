"""Libraries send nothing to their makers."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bcfusion.telemetry import without_telemetry

ROOT = Path(__file__).resolve().parents[1]


def test_what_the_user_has_set_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORT_DISABLE_TELEMETRY", "0")
    without_telemetry()
    assert os.environ["ORT_DISABLE_TELEMETRY"] == "0"


@pytest.mark.slow
def test_a_session_of_onnxruntime_leaves_no_device_id(tmp_path: Path) -> None:
    """Whoever uses the library without the command line is not told upon either."""
    pytest.importorskip("onnxruntime")
    code = (
        "from bcfusion.errors import ExportError\n"
        "from bcfusion.export.onnx_stepper import open_session\n"
        "try:\n    open_session(b'no model')\n"
        "except ExportError as error:\n    print(error)\n"
    )
    environment = {name: text for name, text in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    environment |= {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert done.stdout.startswith("onnxruntime cannot load the model")
    assert list(tmp_path.rglob("*")) == []
