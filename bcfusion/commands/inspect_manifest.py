"""``bcfusion inspect``: find what is wrong with the recordings of a manifest before training on them."""

from __future__ import annotations

import argparse
import csv
import io
import math
import shlex
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from bcfusion.commands import exit_status
from bcfusion.commands.shared.arguments import between, path, positive_int, verb_parser
from bcfusion.errors import DataError
from bcfusion.files import write_text

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from bcfusion.data.inspect.findings import Finding
    from bcfusion.data.inspect.inspection import Inspected, Inspection

HELP = """\
Read every recording of a manifest and report what is wrong, the worst first: unreadable, empty, silent, clipped or
noisy files, sensors that differ in length, files that hold less bandwidth than their sample rate promises, swapped
channels, body sensors that lag behind air or are inverted, speakers who are in two splits. Writes a page with
histograms and spectra next to the manifest.

Lag and polarity of body relative to air are measured without the delay of the sensor's own low-pass, and apply to a
session: the lines with the same value in a column `session`, or else those of a speaker.

examples:
  bcfusion inspect pairs.jsonl
  bcfusion inspect pairs.jsonl --fix                      # write lag, polarity, bandwidth into the manifest
  bcfusion inspect vctk.jsonl --limit 500 --csv vctk.csv  # a sample, and the numbers of each file
  bcfusion inspect rec.csv --max-lag 0.3 --html rec.html  # recorders that were started by hand

The exit status is 0, or 1 if there is an error among the findings, or 2 if nothing could be inspected.
"""
FOUND = 1
T = TypeVar("T")


def main(argv: list[str]) -> int:
    """Run the verb and return the exit status.

    Raises:
        BcfusionError: the manifest itself has problems, or the page or table cannot be written.
    """
    arguments = _parser().parse_args(argv)
    if arguments.manifest.is_dir():
        folder = str(arguments.manifest)
        raise DataError(
            f"{folder}: it is a folder; inspect reads a manifest, which prepare writes\n"
            f"write {shlex.join(['bcfusion', 'prepare', 'folder', '--root', folder, '--out', 'speech.jsonl'])}, "
            "then bcfusion inspect speech.jsonl"
        )
    from rich.console import Console

    from bcfusion.data.inspect.checks import Severity
    from bcfusion.data.inspect.findings import findings
    from bcfusion.data.inspect.fix import fix
    from bcfusion.data.inspect.inspection import inspect_manifest

    console = Console()
    page = arguments.html or arguments.manifest.with_suffix(".inspect.html")
    inspection = inspect_manifest(arguments.manifest, arguments.limit, arguments.workers, arguments.max_lag)
    if arguments.fix:
        fixed = fix(inspection)
        inspection = fixed.inspection
        console.print(f"{arguments.manifest}: wrote the bandwidth of {fixed.bandwidths} lines", soft_wrap=True)
        if fixed.aligned or fixed.uncertain:
            unsure = f"; {fixed.uncertain} are too uncertain" if fixed.uncertain else ""
            console.print(f"  and lag and polarity of {fixed.aligned}{unsure}", soft_wrap=True)
    found = findings(inspection)
    _show(console, inspection, found)
    if arguments.csv:
        _write(arguments.csv, _numbers(inspection))
        console.print(f"numbers: {arguments.csv}", soft_wrap=True, highlight=False)

    from bcfusion.report.inspect_page import inspect_page

    _write(page, inspect_page(inspection, found))
    console.print(f"page: {page}", soft_wrap=True, highlight=False)
    return FOUND if any(finding.severity == Severity.ERROR for finding in found) else 0


def _parser() -> argparse.ArgumentParser:
    from bcfusion.data.inspect.alignment import MAX_LAG

    parser = verb_parser("inspect", HELP)
    parser.add_argument("manifest", metavar="MANIFEST", type=path, help=".jsonl or .csv, of speech, noise or rooms")
    parser.add_argument("--html", metavar="PAGE", type=path, help="the page; default: MANIFEST.inspect.html")
    parser.add_argument("--csv", metavar="FILE", type=path, help="write the numbers of each line")
    parser.add_argument("--fix", action="store_true", help="write what was measured into the manifest")
    parser.add_argument("--limit", metavar="N", type=positive_int, help="measure N lines, evenly spread; default: all")
    parser.add_argument("--workers", metavar="N", type=positive_int, help="processes; default: one per core")
    parser.add_argument(
        "--max-lag",
        metavar="SECONDS",
        type=between(0.001, 10),
        default=MAX_LAG,
        help=f"largest lag to look for; default: {MAX_LAG:g}",
    )
    return parser


def _show(console: Console, inspection: Inspection, found: Sequence[Finding]) -> None:
    from rich.text import Text

    console.print(_problems(found) if found else Text("nothing is wrong", style="green"))
    console.print(_sensors(inspection))
    if summary := _alignment(inspection):
        console.print(summary, highlight=False)


def _problems(found: Sequence[Finding]) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    from bcfusion.data.inspect.checks import Severity

    table = Table(box=SIMPLE_HEAD, show_lines=False, pad_edge=False)
    table.add_column("", no_wrap=True)
    table.add_column("what", ratio=5, overflow="fold")
    table.add_column("lines", justify="right", no_wrap=True)
    table.add_column("what to do", ratio=5)
    for finding in found:
        error = finding.severity == Severity.ERROR
        kind = Text("error" if error else "warning", style="bold red" if error else "yellow")
        what = Text(finding.what + "\n").append(finding.examples[0], style="dim")
        table.add_row(kind, what, f"{finding.count} of {finding.of}", Text(finding.advice))
    return table


def _sensors(inspection: Inspection) -> Table:
    """Return a table with the medians of each sensor."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for head in ("median of", "files", "rate (kHz)", "level (dBFS)", "SNR (dB)", "bandwidth (kHz)"):
        table.add_column(head, justify="left" if head == "median of" else "right")
    by_sensor: dict[str, list[Inspected]] = {}
    for line in inspection.lines:
        for sensor in line.measured.sensors:
            by_sensor.setdefault(sensor, []).append(line)
    for sensor, lines in by_sensor.items():
        measured = [line.measured.sensors[sensor] for line in lines]
        rates = ", ".join(f"{rate / 1000:g}" for rate in sorted({each.sample_rate for each in measured}))
        table.add_row(
            sensor,
            str(len(lines)),
            rates,
            f"{statistics.median(each.levels.level for each in measured):.1f}",
            f"{statistics.median(each.levels.snr for each in measured):.1f}",
            f"{statistics.median(each.bandwidth for each in measured) / 1000:.1f}",
        )
    return table


def _alignment(inspection: Inspection) -> str:
    """Return lag and polarity of body in one line; empty if there are no pairs."""
    pairs = [line for line in inspection.lines if line.measured.alignment is not None]
    sure = [found for line in pairs if (found := line.resolved) is not None]
    if not sure:
        return f"lag and polarity of body: uncertain in all of {len(pairs)} lines" if pairs else ""
    lags = [1e3 * found.lag_seconds for found in sure]
    inverted = sum(found.polarity < 0 for found in sure)
    return (
        f"body: lag {statistics.median(lags):+.2f} ms ({min(lags):+.2f} to {max(lags):+.2f}), "
        f"inverted in {inverted} of {len(sure)} lines; certain in {len(sure)} of {len(pairs)}"
    )


def _numbers(inspection: Inspection) -> str:
    """Return a CSV table with a line for each line of the manifest that was measured."""
    sensors = list(dict.fromkeys(sensor for line in inspection.lines for sensor in line.entry.paths))
    columns: dict[str, Callable[[Inspected], object]] = {
        "id": lambda line: line.entry.id,
        "split": lambda line: line.entry.split,
        "speaker": lambda line: line.entry.speaker,
        "problem": lambda line: "; ".join(f"{kind}: {text}" for kind, text in line.measured.problems.items()),
    }
    if any(line.measured.alignment for line in inspection.lines):
        columns |= {
            "lag_ms": lambda line: _of(line.measured.alignment, lambda own: 1e3 * own.lag_seconds),
            "polarity": lambda line: _of(line.measured.alignment, lambda own: own.polarity),
            "confidence": lambda line: _of(line.measured.alignment, lambda own: own.confidence),
            "session_lag_ms": lambda line: _of(line.session, lambda session: 1e3 * session.lag_seconds),
            "session_polarity": lambda line: _of(line.session, lambda session: session.polarity),
            "session_confidence": lambda line: _of(line.session, lambda session: session.confidence),
            "level_ratio_db": lambda line: line.measured.level_ratio,
        }
    for sensor in sensors:
        columns |= _sensor_columns(sensor)
    text = io.StringIO(newline="")
    table = csv.writer(text, lineterminator="\n")
    table.writerow(columns)
    for line in inspection.lines:
        table.writerow([_cell(value(line)) for value in columns.values()])
    return text.getvalue()


def _sensor_columns(sensor: str) -> dict[str, Callable[[Inspected], object]]:
    from bcfusion.data.inspect.measure import SensorMeasure

    values: dict[str, Callable[[SensorMeasure], float]] = {
        "sample_rate": lambda found: found.sample_rate,
        "seconds": lambda found: found.duration,
        "level_dbfs": lambda found: found.levels.level,
        "peak_dbfs": lambda found: found.levels.peak,
        "snr_db": lambda found: found.levels.snr,
        "dc_db": lambda found: found.levels.dc,
        "silent_share": lambda found: found.levels.silent_share,
        "clipped_share": lambda found: found.clipped,
        "bandwidth_hz": lambda found: found.bandwidth,
        "top_activity_db": lambda found: found.top_activity,
        "tilt_db": lambda found: found.tilt,
    }

    def column(value: Callable[[SensorMeasure], float]) -> Callable[[Inspected], object]:
        return lambda line: _of(line.measured.sensors.get(sensor), value)

    return {f"{sensor}_{name}": column(value) for name, value in values.items()}


def _of(found: T | None, value: Callable[[T], float]) -> float | None:
    return None if found is None else value(found)


def _cell(value: object) -> object:
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.6g}"
    return "" if value is None else value


def _write(file: Path, text: str) -> None:
    try:
        write_text(file, text, newline="")
    except OSError as error:
        raise DataError(f"cannot write {file}: {error.strerror}") from error


if __name__ == "__main__":
    raise SystemExit(exit_status(main, sys.argv[1:]))
