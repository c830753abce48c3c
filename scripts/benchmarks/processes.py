"""Functions in fresh processes with a set number of threads; the peak of their memory."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from benchmarks.harness import Disagreement, Missing

SCRIPTS = Path(__file__).resolve().parents[1]
ROOT = SCRIPTS.parent
PARITY = ROOT / "tests" / "parity"
REASONS: dict[str, type[Exception]] = {"missing": Missing, "disagreement": Disagreement}


class Failed(Exception):
    """A process ended without an answer, or its function raised something unforeseen: in one line."""


def environment(threads: int) -> dict[str, str]:
    """Return the variables of a measured process.

    This repository comes first on the path. ``GOMP_SPINCOUNT`` is what the command line sets too: threads that spin
    while they wait distort every timing.
    """
    path = [str(ROOT), str(SCRIPTS), str(PARITY), *filter(None, [os.environ.get("PYTHONPATH")])]
    numbers = {name: str(threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
    return {**os.environ, **numbers, "GOMP_SPINCOUNT": "0", "PYTHONPATH": os.pathsep.join(path)}


def call(function: str, threads: int, **arguments: Any) -> Any:
    """Call ``module:function`` in a fresh process; arguments and result are JSON.

    Raises:
        Missing, Disagreement: raised there.
        Failed: anything else went wrong there.
    """
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "answer.json"
        command = [sys.executable, "-m", "benchmarks.processes", function, json.dumps(arguments), str(answer)]
        done = subprocess.run(command, env=environment(threads), capture_output=True, text=True, check=False)
        if not answer.is_file():
            reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise Failed(f"{function} ended with status {done.returncode}: {reason}")
        found: Mapping[str, Any] = json.loads(answer.read_text())
    for name, kind in REASONS.items():
        if name in found:
            raise kind(found[name])
    if "failed" in found:
        raise Failed(found["failed"])
    return found["value"]


def peak_megabytes() -> float:
    """Return the peak of the resident memory of this process, in MB.

    On Linux from the kernel's own count: ``ru_maxrss`` begins there with the size of the process that started this one.
    """
    status = Path("/proc/self/status")
    if status.is_file():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024 / 1e6
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1e6 if sys.platform == "darwin" else 1e6 / 1024)


def main() -> None:
    """Serve one :func:`call`."""
    function, arguments, answer = sys.argv[1:]
    module, _, name = function.partition(":")
    try:
        found = {"value": getattr(import_module(module), name)(**json.loads(arguments))}
    except Missing as error:
        found = {"missing": str(error)}
    except Disagreement as error:
        found = {"disagreement": str(error)}
    except Exception as error:
        text = (str(error).strip() or repr(error)).splitlines()[0]
        found = {"failed": f"{type(error).__name__}: {text}"}
    Path(answer).write_text(json.dumps(found))


if __name__ == "__main__":
    main()
