"""Tables of quality: one row per system, one column per metric, for the terminal and for Markdown."""

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
    "markdown_rows",
    "markdown_table",
    "metric_name",
    "number",
    "quality_table",
    "quality_tables",
    "size_text",
    "tables_in_width",
    "wrapped",
]

MISSING = "–"


class MetricName(NamedTuple):
    """How a metric is printed: its name, its unit ("" for none), and the number of meaningful decimals."""

    text: str
    unit: str = ""
    decimals: int = 3


def _metrics(unit: str, decimals: int, **texts: str) -> dict[str, MetricName]:
    return {key: MetricName(text, unit, decimals) for key, text in texts.items()}


METRICS: Mapping[str, MetricName] = {
    # LSD is in log10 of power, as it is defined, so it has no unit
    **_metrics("", 2, pesq_wb="PESQ-WB", pesq_nb="PESQ-NB", lsd="LSD", lsd_hf="LSD-HF", lsd_lf="LSD-LF"),
    **_metrics("", 2, csig="CSIG", cbak="CBAK", covl="COVL", csig_nb="CSIG-NB", cbak_nb="CBAK-NB", covl_nb="COVL-NB"),
    **_metrics("", 2, visqol="ViSQOL", visqol_audio="ViSQOL audio", squim_pesq="SQUIM PESQ", nisqa_mos="NISQA"),
    **_metrics("", 2, dnsmos_ovrl="DNSMOS OVRL", dnsmos_sig="DNSMOS SIG"),
    **_metrics("", 2, dnsmos_bak="DNSMOS BAK", dnsmos_p808="DNSMOS P.808"),
    **_metrics("", 2, distill_mos="Distill-MOS"),
    **_metrics("", 3, speaker_similarity="speaker sim."),
    **_metrics("", 2, nisqa_noisiness="NISQA noise", nisqa_discontinuity="NISQA discont."),
    **_metrics("", 2, nisqa_coloration="NISQA color.", nisqa_loudness="NISQA loud."),
    **_metrics("", 3, stoi="STOI", estoi="ESTOI", squim_stoi="SQUIM STOI"),
    **_metrics("dB", 2, si_sdr="SI-SDR", si_sdr_aligned="aligned SI-SDR", squim_si_sdr="SQUIM SI-SDR"),
    **_metrics("dB", 2, seg_snr="SegSNR", seg_snr_nb="SegSNR-NB"),
    **_metrics("ms", 2, si_sdr_lag_ms="lag"),
    **_metrics("dB", 1, hf_energy="HF energy"),
    **_metrics("%", 1, wer="WER"),
    **_metrics("", 1, wer_words="words"),
    **_metrics("", 2, n_mos="N-MOS"),  # of published tables only, as is the next
    **_metrics("%", 1, cer="CER"),
}


def metric_name(key: str) -> MetricName:
    """Return the printed name of a metric; its key if it is not listed in :data:`METRICS`."""
    return METRICS.get(key, MetricName(key))


class _Cell(NamedTuple):
    text: str
    best: bool = False


def quality_table(
    systems: Mapping[str, Mapping[str, float]],
    higher_is_better: Mapping[str, bool | None],
    changes: Mapping[str, Mapping[str, float]] | None = None,
) -> Table:
    """Return the table for the terminal: best values in bold, arrows for the direction, differences below.

    Args:
        systems: name of the system to its metrics, the system under test last; a metric may be missing or NaN.
        higher_is_better: direction of each metric; None: information only, without arrow or best value. It gives the
            order of the columns; metrics that no system has are left out.
        changes: name of another system to the difference of the last one to it in each metric, such as the mean over
            the utterances that both were scored on; None: the differences of the values.

    Returns:
        A table for ``rich.console.Console.print``.
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
    """Yield :func:`quality_table` in as many parts, one below the other, as fit ``width`` characters."""

    def part(keys: list[str]) -> Table:
        return quality_table(systems, {key: higher_is_better[key] for key in keys}, changes)

    return tables_in_width(
        part, [key for key in higher_is_better if any(key in row for row in systems.values())], width
    )


def tables_in_width(make: Callable[[list[str]], Table], columns: Iterable[str], width: int) -> Iterator[Table]:
    """Yield tables with as many columns each as fit the width, at least one.

    Args:
        make: makes the table for some of the columns.
        columns: all of them.
        width: in characters.
    """
    console = Console(width=10_000)  # every table gets the width that it asks for
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
    """Return :func:`quality_table` in GitHub's Markdown, without a newline at the end."""
    columns, rows = _cells(systems, higher_is_better, changes)
    lines = [["", *columns], ["---", *("---:" for _ in columns)]]
    lines += [[name, *(f"**{c.text}**" if c.best else c.text for c in cells)] for name, cells in rows]
    return markdown_rows(lines)


def markdown_rows(rows: Iterable[Iterable[str]]) -> str:
    """Return a table in GitHub's Markdown, without a newline at the end.

    Args:
        rows: the cells of each row; the first are the headings, the second the alignment.
    """
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in rows)


def _cells(
    systems: Mapping[str, Mapping[str, float]],
    higher_is_better: Mapping[str, bool | None],
    changes: Mapping[str, Mapping[str, float]] | None,
) -> tuple[list[str], list[tuple[str, list[_Cell]]]]:
    """Return headings, and rows with their names: systems, then differences."""
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
    """Return the systems with the best value as printed; none if all are equal in print."""
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
    """Return a value with the decimals of its metric, or others, and a real minus sign; :data:`MISSING` for NaN."""
    if math.isnan(value):
        return MISSING
    decimals = metric_name(key).decimals if decimals is None else decimals
    value = round(value, decimals) + 0.0  # no "-0.00"
    return f"{value:{sign}.{decimals}f}".replace("-", "−")


def heading(key: str, higher: bool | None) -> str:
    """Return name, unit and direction of a metric, for the head of its column."""
    name = metric_name(key)
    unit = f" ({name.unit})" if name.unit else ""
    return f"{name.text}{unit}" + {True: " ↑", False: " ↓", None: ""}[higher]


def wrapped(heading: str) -> str:
    """Return a heading in lines as narrow as the numbers below it."""
    return textwrap.fill(heading, width=6, break_long_words=False, break_on_hyphens=False)


def size_text(size: int) -> str:
    """Return a number of bytes in MB, or in kB if it is small."""
    return f"{size / 1e6:.2f} MB" if size >= 1e5 else f"{size / 1e3:.1f} kB"
