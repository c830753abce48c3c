"""Tables of quality: one row for each system, one column for each metric, for the terminal and for Markdown."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Literal, NamedTuple

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

__all__ = [
    "METRICS",
    "MISSING",
    "MetricName",
    "best_systems",
    "heading",
    "markdown_table",
    "metric_name",
    "number",
    "quality_table",
    "quality_tables",
    "tables_in_width",
    "wrapped",
]

MISSING = "–"


class MetricName(NamedTuple):
    """How a metric is called in print: its name, its unit ("" for none), and the decimals that mean something."""

    text: str
    unit: str = ""
    decimals: int = 3


METRICS: Mapping[str, MetricName] = {
    "pesq_wb": MetricName("PESQ-WB", decimals=2),
    "pesq_nb": MetricName("PESQ-NB", decimals=2),
    "stoi": MetricName("STOI"),
    "estoi": MetricName("ESTOI"),
    "si_sdr": MetricName("SI-SDR", "dB", 2),
    "si_sdr_aligned": MetricName("aligned SI-SDR", "dB", 2),
    "si_sdr_lag_ms": MetricName("lag", "ms", 2),
    # In log10 of power, as the metric is defined: no unit.
    "lsd": MetricName("LSD", decimals=2),
    "lsd_hf": MetricName("LSD-HF", decimals=2),
    "lsd_lf": MetricName("LSD-LF", decimals=2),
    "hf_energy": MetricName("HF energy", "dB", 1),
    "csig": MetricName("CSIG", decimals=2),
    "cbak": MetricName("CBAK", decimals=2),
    "covl": MetricName("COVL", decimals=2),
    "seg_snr": MetricName("SegSNR", "dB", 2),
    "csig_nb": MetricName("CSIG-NB", decimals=2),
    "cbak_nb": MetricName("CBAK-NB", decimals=2),
    "covl_nb": MetricName("COVL-NB", decimals=2),
    "seg_snr_nb": MetricName("SegSNR-NB", "dB", 2),
    "visqol": MetricName("ViSQOL", decimals=2),
    "visqol_audio": MetricName("ViSQOL audio", decimals=2),
    "dnsmos_ovrl": MetricName("DNSMOS OVRL", decimals=2),
    "dnsmos_sig": MetricName("DNSMOS SIG", decimals=2),
    "dnsmos_bak": MetricName("DNSMOS BAK", decimals=2),
    "dnsmos_p808": MetricName("DNSMOS P.808", decimals=2),
    "nisqa_mos": MetricName("NISQA", decimals=2),
    "nisqa_noisiness": MetricName("NISQA noise", decimals=2),
    "nisqa_discontinuity": MetricName("NISQA discont.", decimals=2),
    "nisqa_coloration": MetricName("NISQA color.", decimals=2),
    "nisqa_loudness": MetricName("NISQA loud.", decimals=2),
    "squim_pesq": MetricName("SQUIM PESQ", decimals=2),
    "squim_stoi": MetricName("SQUIM STOI"),
    "squim_si_sdr": MetricName("SQUIM SI-SDR", "dB", 2),
    "wer": MetricName("WER", "%", 1),
    "wer_words": MetricName("words", decimals=1),
}


def metric_name(key: str) -> MetricName:
    """The printed name of a metric; one that is not listed in :data:`METRICS` is called by its key."""
    return METRICS.get(key, MetricName(key))


class _Cell(NamedTuple):
    text: str
    best: bool = False


def quality_table(
    systems: Mapping[str, Mapping[str, float]],
    higher_is_better: Mapping[str, bool | None],
    changes: Mapping[str, Mapping[str, float]] | None = None,
) -> Table:
    """Table for the terminal: best values bold, arrows for the direction, and what the last system changes.

    Args:
        systems: name of the system to its metrics, the system under test last; a metric may be missing or NaN.
        higher_is_better: direction of each metric; None: information only, without arrow or best value. Columns stand
            in its order, and metrics that no system has are left out.
        changes: name of another system to what the last one changes in each metric, as where it is measured on the
            utterances that both were scored on; None: the differences of the values.

    Returns:
        For ``rich.console.Console.print``.
    """
    columns, rows = _cells(systems, higher_is_better, changes)
    table = Table(box=SIMPLE_HEAD, padding=0)  # eight columns and two inputs fit 80
    table.add_column("", no_wrap=True)
    for column in columns:
        table.add_column(wrapped(column), justify="right", no_wrap=True)
    for position, (name, cells) in enumerate(rows):
        texts = [Text(cell.text, style="bold" if cell.best else "") for cell in cells]
        table.add_row(Text(name), *texts, end_section=position == len(systems) - 1)
    return table


def quality_tables(
    systems: Mapping[str, Mapping[str, float]],
    higher_is_better: Mapping[str, bool | None],
    changes: Mapping[str, Mapping[str, float]] | None,
    width: int,
) -> Iterator[Table]:
    """:func:`quality_table` in as many parts, one below the other, as ``width`` characters ask for."""

    def part(keys: list[str]) -> Table:
        return quality_table(systems, {key: higher_is_better[key] for key in keys}, changes)

    return tables_in_width(
        part, [key for key in higher_is_better if any(key in row for row in systems.values())], width
    )


def tables_in_width(make: Callable[[list[str]], Table], columns: Iterable[str], width: int) -> Iterator[Table]:
    """Tables of as many columns each as fit beside each other, at least one.

    Args:
        make: gives the table of some of the columns. columns: of all of them. width: in characters.
    """
    console = Console(width=10_000)  # in which every table is as wide as it wants to be
    part: list[str] = []
    for column in columns:
        if part and console.measure(make([*part, column])).maximum > width:
            yield make(part)
            part = []
        part.append(column)
    if part:
        yield make(part)


def markdown_table(
    systems: Mapping[str, Mapping[str, float]],
    higher_is_better: Mapping[str, bool | None],
    changes: Mapping[str, Mapping[str, float]] | None = None,
) -> str:
    """The table of :func:`quality_table` in GitHub's Markdown, without a newline at its end."""
    columns, rows = _cells(systems, higher_is_better, changes)
    lines = [["", *columns], ["---", *("---:" for _ in columns)]]
    lines += [
        [name.replace("|", r"\|"), *(f"**{c.text}**" if c.best else c.text for c in cells)] for name, cells in rows
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cells(
    systems: Mapping[str, Mapping[str, float]],
    higher_is_better: Mapping[str, bool | None],
    changes: Mapping[str, Mapping[str, float]] | None,
) -> tuple[list[str], list[tuple[str, list[_Cell]]]]:
    """Headings, and rows with their names: systems, then differences."""
    keys = [key for key in higher_is_better if any(key in values for values in systems.values())]
    best = {key: best_systems(key, systems, higher_is_better[key]) for key in keys}
    rows = [
        (name, [_Cell(number(key, values.get(key, math.nan)), name in best[key]) for key in keys])
        for name, values in systems.items()
    ]
    if len(systems) > 1:
        *others, tested = systems
        for other in others:
            if changes is None:
                change = {key: systems[tested].get(key, math.nan) - systems[other].get(key, math.nan) for key in keys}
            else:
                change = {key: changes[other].get(key, math.nan) for key in keys}
            rows.append((f"vs {other}", [_Cell(number(key, change[key], "+")) for key in keys]))
    return [heading(key, higher_is_better[key]) for key in keys], rows


def best_systems(key: str, systems: Mapping[str, Mapping[str, float]], higher: bool | None) -> set[str]:
    """Systems with the best value, as printed: equal in print is equal. None of them where all are."""
    values = {
        name: round(row[key], metric_name(key).decimals)
        for name, row in systems.items()
        if key in row and math.isfinite(row[key])
    }
    if higher is None or len(set(values.values())) < 2:
        return set()
    best = max(values.values()) if higher else min(values.values())
    return {name for name, value in values.items() if value == best}


def number(key: str, value: float, sign: Literal["", "+"] = "", decimals: int | None = None) -> str:
    """A value of a metric in its decimals or others, with a real minus sign; :data:`MISSING` for NaN."""
    if math.isnan(value):
        return MISSING
    decimals = metric_name(key).decimals if decimals is None else decimals
    value = round(value, decimals) + 0.0  # no "-0.00"
    return f"{value:{sign}.{decimals}f}".replace("-", "−")


def heading(key: str, higher: bool | None) -> str:
    """Name, unit and direction of a metric, as above its column."""
    name = metric_name(key)
    unit = f" ({name.unit})" if name.unit else ""
    return f"{name.text}{unit}" + {True: " ↑", False: " ↓", None: ""}[higher]


def wrapped(heading: str) -> str:
    """A heading in lines as narrow as the numbers below it."""
    return textwrap.fill(heading, width=6, break_long_words=False, break_on_hyphens=False)
