"""Sweeps of jobs that take no time, as a user starts them."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
import textwrap
from pathlib import Path

from bcfusion.commands import exit_status

ROOT = Path(__file__).parents[1]


def write_app(folder: Path, body: str) -> Path:
    """Write a command on the shell that all Hydra verbs share, whose task has the given body, a function of ``cfg``."""
    app = folder / "app.py"
    app.write_text(
        "import os, sys\n"
        "from bcfusion.commands import exit_status\n"
        "from bcfusion.commands.shared.hydra_app import run\n"
        f"def task(cfg):\n{textwrap.indent(textwrap.dedent(body), '    ')}\n"
        "def main(argv):\n"
        "    run(task, argv, module_file=__file__, verb='train')\n"
        "if __name__ == '__main__':\n"
        "    sys.exit(exit_status(main, sys.argv[1:]))\n"
    )
    return app


def run_sweep(folder: Path, body: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run such a command with ``arguments`` in ``folder``; its sweep goes into ``folder/sweep``."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return subprocess.run(
        [sys.executable, str(write_app(folder, body)), "hydra.sweep.dir=sweep", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path, "COLUMNS": "120", **environment},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def call_sweep(folder: Path, body: str, *arguments: str) -> int:
    """Do the same in this process, whose working directory is ``folder``, for what ends before the first job.

    Returns:
        The exit status.
    """
    main = runpy.run_path(str(write_app(folder, body)))["main"]
    try:
        return exit_status(main, ["hydra.sweep.dir=sweep", *arguments])
    except SystemExit as stop:  # argparse
        return int(stop.code or 0)
