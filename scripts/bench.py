"""Measure bcfusion against public code, and against what its own work cannot do without: docs/benchmarks.md.

python scripts/bench.py                                   every row; an hour or two
python scripts/bench.py --list                            the rows, what they measure, and the wanted ratios
python scripts/bench.py seanet mr_stft --turns 15         some rows; 'stream_*' is a pattern
python scripts/bench.py --speech SPEECH                   rows that read or score speech use these files
python scripts/bench.py --out DIR --write docs/benchmarks.md

Both sides of a row take turns in one process on one machine, which should be idle otherwise; ratios are medians over at
least seven turns after a warm-up. Before anything is timed, outputs and gradients of both are shown to agree. Peers are
optional (scripts/install_public_code.sh; pip install auraloss datasets): rows without theirs say so.

DIR keeps benchmarks.json, with every row that was measured on this machine with these versions, and benchmarks.md.
Measuring a row again replaces its result.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
from dataclasses import replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from benchmarks import machine
from benchmarks.harness import LEAST, Row, Setting
from benchmarks.page import number, page
from benchmarks.rows import ROWS
from benchmarks.run import measure, read, was_busy

from bcfusion.files import write_text


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("rows", nargs="*", metavar="ROW", help="names or patterns; default: all")
    made.add_argument("--list", action="store_true", help="list the rows and measure nothing")
    made.add_argument("--out", type=Path, default=Path("benchmarks"), help="folder of results; default: %(default)s")
    made.add_argument("--turns", type=int, default=9, help=f"timed turns, at least {LEAST}; default: %(default)s")
    made.add_argument("--seconds", type=float, help="of a row, after which no turn begins once there are seven")
    made.add_argument("--threads", type=int, help="of rows that use all cores; default: the cores")
    made.add_argument("--speech", type=Path, help="folder of speech files; default: made-up speech")
    made.add_argument("--calibration", type=Path, help="file of bcfusion calibrate, for rows with a measured sensor")
    made.add_argument("--write", type=Path, metavar="PAGE", help="write the page here too: docs/benchmarks.md")
    made.add_argument("--rehearse", action="store_true", help="tiny sizes and two turns; the numbers mean nothing")
    return made


def chosen(patterns: list[str]) -> list[Row]:
    """Return the rows of names and patterns, in the order of the table.

    Raises:
        SystemExit: a pattern names no row.
    """
    unknown = [pattern for pattern in patterns if not any(fnmatch(name, pattern) for name in ROWS)]
    if unknown:
        raise SystemExit(f"bench: no row {', '.join(unknown)}; python scripts/bench.py --list names them")
    return [row for name, row in ROWS.items() if not patterns or any(fnmatch(name, each) for each in patterns)]


def listing(rows: list[Row]) -> str:
    """Return the rows as text."""
    lines = []
    for row in rows:
        lines += [f"{row.name}: {row.what}", f"    against {row.against}"]
        lines += [f"    {figure}: {wanted}" for figure, wanted in row.wanted.items() if wanted is not None]
    return "\n".join(lines)


def command_of(row: Row, arguments: argparse.Namespace) -> str:
    """Return the command that measures a row again, without the places of this machine."""
    words = ["python", "scripts/bench.py", row.name]
    words += [f"--turns={arguments.turns}"] if arguments.turns != 9 and not arguments.rehearse else []
    words += [f"--seconds={arguments.seconds:g}"] if arguments.seconds is not None else []
    words += [f"--threads={arguments.threads}"] if arguments.threads is not None and row.threads is None else []
    words += ["--speech=SPEECH"] if arguments.speech is not None else []
    words += ["--calibration=FILE"] if arguments.calibration is not None else []
    words += ["--rehearse"] if arguments.rehearse else []
    return shlex.join(words)


def told(result: dict[str, Any]) -> str:
    """Return the lines that are printed after a row."""
    if result["status"] != "measured":
        return f"{result['name']}: {result['status']}: {result['reason']}"
    lines = []
    for figure in result["figures"]:
        wanted = f", wanted {figure['wanted']}: {figure['verdict']}" if figure["wanted"] else ""
        lines.append(f"{result['name']}, {figure['name']}: {number(figure['ratio']['median'])}{wanted}")
    if was_busy(result):
        lines.append(f"    other programs were running: load {result['load_begin']:.1f} to {result['load_end']:.1f}")
    return "\n".join(lines)


def main() -> int:
    arguments = parser().parse_args()
    rows = chosen(arguments.rows)
    if arguments.list:
        print(listing(rows))
        return 0
    if arguments.turns < LEAST and not arguments.rehearse:
        raise SystemExit(f"bench: --turns must be at least {LEAST}: the median of fewer means little")
    for given in (arguments.speech, arguments.calibration):
        if given is not None and not given.exists():
            raise SystemExit(f"bench: {given} does not exist")
    setting = Setting(
        turns=2 if arguments.rehearse else arguments.turns,
        seconds=arguments.seconds,
        rehearsal=arguments.rehearse,
        speech=None if arguments.speech is None else os.path.abspath(arguments.speech),
        calibration=None if arguments.calibration is None else os.path.abspath(arguments.calibration),
    )
    on = machine.describe()
    results = read(arguments.out / "benchmarks.json", on)
    failed = 0
    for row in rows:
        threads = row.threads or arguments.threads or machine.cores()
        result = measure(row, replace(setting, threads=threads), command_of(row, arguments))
        failed += result["status"] == "FAILED"
        results["rows"][row.name] = result
        arguments.out.mkdir(parents=True, exist_ok=True)
        write_text(arguments.out / "benchmarks.json", json.dumps(results, indent=2) + "\n")
        print(told(result), flush=True)
    text = page(ROWS.values(), results)
    write_text(arguments.out / "benchmarks.md", text)
    if arguments.write is not None:
        write_text(arguments.write, text)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
