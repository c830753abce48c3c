"""``bcfusion inspect``: find what is wrong with the recordings of a manifest before training on them."""

from __future__ import annotations

import argparse
import csv
import io
import math
import shlex
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, TypeVar

from bcfusion.commands import exit_status
from bcfusion.commands.shared.arguments import between, path, positive_int, verb_parser
from bcfusion.errors import BcfusionError, DataError, WriteError
from bcfusion.files import write_text

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

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

The exit status is 0, or 1 if there is an error among the findings, or 2 if nothing could be inspected or
what was asked for not be written. A page that cannot be written beside the manifest is left out with a line.
"""
FOUND = 1
T = TypeVar("T")


def main(argv: list[str]) -> int:
    """Run the verb and return the exit status.

    Raises:
        BcfusionError: the manifest itself has problems; or, after the report, something that was asked for cannot be
            written. Only a page that was not asked for is left out.
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
    unwritten: list[BcfusionError] = []  # measuring may have taken hours: the report comes first
    if arguments.fix:
        try:
            fixed = fix(inspection)
        except DataError as error:
            unwritten.append(error)
        else:
            inspection = fixed.inspection
            console.print(f"{arguments.manifest}: wrote the bandwidth of {fixed.bandwidths} lines", soft_wrap=True)
            if fixed.aligned or fixed.uncertain:
                unsure = f"; {fixed.uncertain} are too uncertain" if fixed.uncertain else ""
                console.print(f"  and lag and polarity of {fixed.aligned}{unsure}", soft_wrap=True)
    found = findings(inspection)
    _show(console, inspection, found)

    from bcfusion.report.inspect_page import inspect_page

    outputs = [("numbers", arguments.csv, lambda: _numbers(inspection))] if arguments.csv else []
    outputs.append(("page", page, lambda: inspect_page(inspection, found)))
    for name, file, content in outputs:
        try:
            write_text(file, content(), newline="")
            console.print(f"{name}: {file}", soft_wrap=True, highlight=False)
        except WriteError as error:
            if name == "page" and arguments.html is None:
                console.print(f"no page: {error}; --html FILE writes it elsewhere", soft_wrap=True, highlight=False)
            else:
                unwritten.append(error)
    if unwritten:
        raise BcfusionError("\n".join(map(str, unwritten)))
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

    for line in _problems(found) if found else [Text("nothing is wrong", style="green")]:
        console.print(line, soft_wrap=True)
    console.print(_sensors(inspection))
    if summary := _alignment(inspection):
        console.print(summary, highlight=False, soft_wrap=True)


def _problems(found: Sequence[Finding]) -> Iterator[Text]:
    """Yield two lines for each problem: what, how often and what to do; the first example.

    Both have the whole width: a name of a file that is folded in a column cannot be read or copied.
    """
    from rich.text import Text

    from bcfusion.data.inspect.checks import Severity

    for finding in found:
        error = finding.severity == Severity.ERROR
        kind = Text("error    " if error else "warning  ", style="bold red" if error else "yellow")
        line = f"{finding.what}: {finding.count} of {finding.of}; {finding.advice}"
        yield kind.append(line, style="default not bold")
        yield Text(f"         {finding.examples[0]}", style="dim")


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
    from bcfusion.data.inspect.certainty import summary

    return summary([line.resolved for line in inspection.lines if line.measured.alignment is not None])


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


if __name__ == "__main__":
    raise SystemExit(exit_status(main, sys.argv[1:]))
