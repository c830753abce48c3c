"""Runs the checks in a process of its own, so that one that crashes or hangs costs its own answer and no other.

A library that was built for another machine or another release can end the interpreter by a signal, and a driver that
is stuck never answers. The process is asked for one check after another; where it ends, a new one is asked for the
rest.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from typing import IO

from bcfusion.doctor.finding import FAIL, NOTE, PURPOSES, Check, Finding, fail, note, worst
from bcfusion.doctor.remedies import MEMORY, reinstall
from bcfusion.system import kill_group

__all__ = ["PATIENCE", "Examined", "examine"]

PATIENCE = 120.0  # seconds for one check; the longest takes a few on a machine that has other work too
AGAIN = "run it again: from a disk of the network, libraries take long to load for the first time"
REPORT = "report it, with what bcfusion doctor --json prints"
LAST_WAIT = 5.0  # seconds for a process to end that has been killed
_START = (
    "import sys, json; sys.path[:] = json.loads(sys.argv[1]); "
    "from bcfusion.doctor.answering import answer; answer(*sys.argv[2:])"
)


@dataclass(frozen=True)
class Examined:
    """What became of a check.

    Attributes:
        check: the check.
        findings: what it found.
    """

    check: Check
    findings: tuple[Finding, ...]


def examine(
    checks: Sequence[Check],
    table: str = "bcfusion.doctor.checks:CHECKS",
    purposes: Sequence[str] = PURPOSES,
    patience: float = PATIENCE,
) -> Generator[Examined]:
    """Yield what becomes of each check, in their order, as soon as it is known.

    Args:
        checks: those to run.
        table: where the other process finds them, as ``MODULE:NAME``.
        purposes: what has to work; what fails for others only is a note.
        patience: seconds after which a check that has not answered is given up.
    """
    failed: dict[str, str] = {}
    other = _Process(table)
    try:
        for check in checks:
            lacking = next((failed[name] for name in check.needs if name in failed), None)
            if lacking is not None:
                failed[check.name] = lacking
                found: tuple[Finding, ...] = (note(check.name, f"skipped, because {lacking} failed"),)
            else:
                found = other.ask(check, patience)
                if worst(found) == FAIL:
                    failed[check.name] = check.name
            yield Examined(check, tuple(_weighed(each, check, purposes) for each in found))
    finally:
        other.end()


def _weighed(finding: Finding, check: Check, purposes: Sequence[str]) -> Finding:
    """Return a finding; what fails for other purposes only is a note."""
    concerns = check.purposes if finding.purposes is None else finding.purposes
    if finding.status == FAIL and not set(purposes) & set(concerns):
        return replace(finding, status=NOTE)
    return finding


class _Process:
    """The other process; it is started when it is first asked, and again after it has ended."""

    def __init__(self, table: str) -> None:
        self._table = table
        self._process: subprocess.Popen[bytes] | None = None
        self._printed: IO[bytes] | None = None
        self._places = ExitStack()

    def ask(self, check: Check, patience: float) -> tuple[Finding, ...]:
        """Return what a check finds, or that it crashes or hangs."""
        if self._process is None:
            self._start()
        process = self._process
        assert process is not None
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(json.dumps(check.name).encode() + b"\n")
            process.stdin.flush()
            line = _line(process.stdout, patience)
        except BrokenPipeError:
            line = b""
        if line is None:
            self.end()
            return (fail(check.name, f"does not answer within {patience:g} s", check.repair or AGAIN),)
        if line:
            return tuple(Finding(**each) for each in json.loads(line))
        with suppress(subprocess.TimeoutExpired):  # it has closed its answers and goes on
            process.wait(LAST_WAIT)
        code = process.poll()
        last = self._last_line()
        repair = reinstall(*check.packages) if check.packages else check.repair or REPORT
        if code == -getattr(signal, "SIGKILL", 9):  # the kernel ends what takes more memory than there is
            repair = MEMORY
        self.end()
        return (fail(check.name, f"{_how(code)}{f': {last}' if last else ''}", repair),)

    def end(self) -> None:
        """End the process, if it runs, and those that it has started."""
        process, self._process = self._process, None
        if process is None:
            return
        for stream in (process.stdin, process.stdout):
            assert stream is not None
            with suppress(BrokenPipeError):
                stream.close()
        if process.poll() is None:
            kill_group(process)
            with suppress(subprocess.TimeoutExpired):  # it waits for a driver or a disk, which no signal ends
                process.wait(LAST_WAIT)
        self._places.close()

    def _start(self) -> None:
        # `python -c` puts the working directory in front of the path, from which the console script does not import
        safe = ["-P"] if sys.version_info >= (3, 11) else []
        self._printed, scratch = None, ""
        with suppress(OSError):  # without a place for temporary files nothing is kept of what it prints
            file = tempfile.TemporaryFile()  # noqa: SIM115
            self._printed = self._places.enter_context(file)
            folder = tempfile.TemporaryDirectory(prefix="bcfusion-doctor-", ignore_cleanup_errors=True)
            scratch = self._places.enter_context(folder)
        command = [sys.executable, *safe, "-c", _START, json.dumps(sys.path), self._table, scratch]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._printed or subprocess.DEVNULL,
            start_new_session=True,
        )

    def _last_line(self) -> str:
        """Return what the process has printed last, which may say why it ended."""
        if self._printed is None:
            return ""
        self._printed.seek(0)
        lines = self._printed.read().decode(errors="replace").split("\n")
        return next((line.strip()[:160] for line in reversed(lines) if line.strip()), "")


def _line(stream: IO[bytes], patience: float) -> bytes | None:
    """Return the next line of an unbuffered pipe; empty at its end, None if there is none in time."""
    until = time.monotonic() + patience
    found = b""
    while not found.endswith(b"\n"):
        ready, _, _ = select.select([stream], [], [], max(0.0, until - time.monotonic()))
        if not ready:
            return None
        part = os.read(stream.fileno(), 1 << 16)
        if not part:
            return b""
        found += part
    return found


def _how(code: int | None) -> str:
    if code is None:
        return "closes its answers"
    if code >= 0:
        return f"ends Python with status {code}"
    try:
        return f"crashes Python ({signal.Signals(-code).name})"
    except ValueError:
        return f"crashes Python (signal {-code})"
