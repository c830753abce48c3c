"""The process that runs the checks; :mod:`bcfusion.doctor.examination` starts it."""

from __future__ import annotations

import json
import os
import sys
import warnings
from dataclasses import asdict
from importlib import import_module

from bcfusion.doctor.finding import STORAGE, Check, Finding, note, why

__all__ = ["answer"]


#: where libraries write as soon as they are imported
_CACHES = ("MPLCONFIGDIR", "TORCHINDUCTOR_CACHE_DIR", "CUDA_CACHE_PATH")


def answer(table: str, scratch: str = "") -> None:
    """Read names of checks from the standard input, a JSON string a line, and write what each finds as a line of JSON.

    Whatever the libraries print goes to the standard error.

    Args:
        table: the checks, as ``MODULE:NAME``.
        scratch: folder for what libraries write as soon as they are imported; empty if there is none.
    """
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    warnings.simplefilter("ignore")
    module, _, name = table.partition(":")
    own = {name: os.environ[name] for name in _CACHES if name in os.environ}
    checks: dict[str, Check] = {check.name: check for check in getattr(import_module(module), name)}
    for line in sys.stdin:
        check = checks[json.loads(line)]
        if scratch:
            os.environ |= dict.fromkeys(_CACHES, scratch)
        if check.group == STORAGE:  # whose checks look at the places of the user
            for name in _CACHES:
                os.environ.pop(name, None)
            os.environ |= own
        found = found_by(check)
        answers.write(json.dumps([asdict(each) for each in found]) + "\n")
        answers.flush()


def found_by(check: Check) -> list[Finding]:
    """Return what a check finds; one that raises is a fault of the check, and so no more than a note."""
    found: list[Finding] = []
    try:
        found += check.look()
    except Exception as error:
        found.append(note(check.name, f"cannot be looked at: {why(error)}", "report it"))
    return found
