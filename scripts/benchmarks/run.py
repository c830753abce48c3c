"""Measure one row in a process of its own, and keep results in a file."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks import machine
from benchmarks.harness import Disagreement, Missing, Row, Setting, verdict
from benchmarks.processes import Failed, call

#: a load above the threads of the row and this much says that other programs were running
QUIET = 0.5


def measure(row: Row, setting: Setting, command: str) -> dict[str, Any]:
    """Return the result of a row as JSON: its figures with verdicts, or why there are none."""
    result: dict[str, Any] = {
        "name": row.name,
        "command": command,
        "threads": setting.threads,
        "turns": setting.turns,
        "rehearsal": setting.rehearsal,
        "commit": machine.commit(),
        "begun": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "load_begin": machine.load(),
        "figures": [],
        "agreement": [],
        "notes": [],
    }
    try:
        measured = call("benchmarks.run:serve", setting.threads, name=row.name, setting=asdict(setting))
    except Missing as error:
        result |= {"status": "missing", "reason": str(error)}
    except Disagreement as error:
        result |= {"status": "FAILED", "reason": f"not timed: {error}"}
    except Failed as error:
        result |= {"status": "FAILED", "reason": str(error)}
    else:
        result |= {"status": "measured", **measured}
        foreign = [figure["name"] for figure in result["figures"] if figure["name"] not in row.wanted]
        if foreign and not setting.rehearsal:  # in a rehearsal sizes, and names with them, are others
            reason = f"{row.function} has figures that the row does not list: {', '.join(foreign)}"
            result |= {"status": "FAILED", "reason": reason, "figures": []}
        for figure in result["figures"]:
            wanted = None if setting.rehearsal else row.wanted[figure["name"]]
            figure["wanted"] = None if wanted is None else str(wanted)
            figure["verdict"] = verdict(wanted, figure["ratio"]["median"], setting.rehearsal)
    result["load_end"] = machine.load()
    return result


def serve(name: str, setting: dict[str, Any]) -> dict[str, Any]:
    """Call the function of a row: the work of the fresh process."""
    from importlib import import_module

    import torch

    from benchmarks.rows import ROWS

    torch.set_num_threads(setting["threads"])
    row = ROWS[name]
    module, _, function = row.function.partition(":")
    measured = getattr(import_module(module), function)(setting, **row.arguments)
    return asdict(measured)


def was_busy(result: Mapping[str, Any]) -> bool:
    """Return whether the load average says that other programs ran at the begin or the end of a row."""
    used = max(result["threads"], 2)  # rows with one thread have two processes
    return max(result["load_begin"], result["load_end"]) > used + QUIET


def read(path: Path, on: Mapping[str, Any]) -> dict[str, Any]:
    """Return the results of a file, if they are of this machine and these versions; otherwise none."""
    kept: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    return kept if kept.get("machine") == on else {"machine": dict(on), "rows": {}}
