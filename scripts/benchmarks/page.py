"""The results as a page in Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from benchmarks.harness import Row
from benchmarks.run import QUIET, was_busy

BUSY = "busy"
HEADER = (
    "| row | figure | ours | other side | ratio (quartiles) | wanted | | load |",
    "| --- | --- | ---: | ---: | ---: | ---: | --- | ---: |",
)
TITLE = "# Benchmarks"
INTRODUCTION = f"""\
<!-- made by scripts/bench.py --write docs/benchmarks.md: do not edit -->

    scripts/install_public_code.sh && pip install auraloss datasets     # the peers, which are optional
    python scripts/bench.py --list
    python scripts/bench.py --speech SPEECH --out results --write docs/benchmarks.md
    python scripts/bench.py seanet 'stream_*' --out results             # some rows

Every number is a ratio of two sides that take turns (A B A B ...) in one run on one machine: the median of the ratios
of at least seven turns after two turns of warm-up, with quartiles. Each row is a process of its own with a set number
of threads. Before anything is timed, both sides are compared
(outputs and gradients, scores, or samples); a row whose sides differ by more
than the stated tolerance fails, and is not timed. A row whose peer is not installed says so. `results/benchmarks.json`
has CPU seconds, versions and loads as well.

speechbrain 1.1.2 is no peer: its Conv-TasNet has neither skip connections nor biases, and it has neither DCCRN
nor SEANet.

A ratio is ours over the other side: of times and memory, less is better; of rates (segments/s, items/s), more is
better. Figures without another side are values. `{BUSY}` marks a row at whose begin or end the load average of a minute
was more than {QUIET:g} above the threads in use (at least two): other programs were running, and its numbers are worth
little.

Beside this, `scripts/bench_stream.py` measures single frames of live sound (99th percentile, memory, size of files:
[streaming](streaming.md)), and `scripts/gpu_check.py` a GPU ([on a GPU](gpu.md)). Where the time of a training step
goes: [profiles](profiles.md)."""


def page(rows: Iterable[Row], results: Mapping[str, Any]) -> str:
    """Return the page: the machine, the table, then what was compared and how, row by row."""
    listed = list(rows)
    found = results.get("rows", {})
    parts = [TITLE, INTRODUCTION]
    if found:
        parts += ["## Machine", "\n".join(machine_lines(results, found))]
    parts += ["## Results", "\n".join([*HEADER, *(line for row in listed for line in table_lines(row, found))])]
    parts += ["## Rows", "\n".join(line for row in listed for line in about(row, found.get(row.name)))]
    return "\n\n".join(parts) + "\n"


def machine_lines(results: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    on = results["machine"]
    commits = sorted({result["commit"] for result in found.values() if result["commit"]})
    versions = ", ".join(f"{name} {version}" for name, version in on["versions"].items())
    lines = [f"{on['cpu']}, {on['cores']} cores, {on['memory_bytes'] / 2**30:.0f} GiB, {on['system']}. {versions}."]
    lines.append(f"Commit {', '.join(commits) or 'unknown'}; measured on {measured_on(found)}.")
    if any(result["rehearsal"] for result in found.values()):
        lines.append("**A rehearsal with tiny sizes: the numbers mean nothing.**")
    busy = sum(was_busy(result) for result in found.values())
    if busy:
        lines.append(f"**Other programs were running during {busy} of {len(found)} rows.**")
    return lines


def measured_on(found: Mapping[str, Any]) -> str:
    days = sorted({result["begun"][:10] for result in found.values()})
    return days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"


def table_lines(row: Row, found: Mapping[str, Any]) -> list[str]:
    """Return the lines of a row: one for each figure."""
    result = found.get(row.name)
    if result is not None and result["status"] == "measured":
        load = f"{result['load_begin']:.1f} to {result['load_end']:.1f}{f' {BUSY}' if was_busy(result) else ''}"
        lines = [figure_line(f"`{row.name}`", figure, load) for figure in result["figures"]]
        measured = {figure["name"] for figure in result["figures"]}
        missing = {} if result["rehearsal"] else {name: w for name, w in row.wanted.items() if name not in measured}
        return lines + [line_without(row, name, str(w or ""), "see below") for name, w in missing.items()]
    status = "not measured" if result is None else result["status"]
    status = {"missing": "not installed"}.get(status, status)
    if result is not None and status == "not installed" and not result["reason"].startswith(status):
        status = "not measured"
    return [line_without(row, name, str(wanted or ""), status) for name, wanted in row.wanted.items()]


def line_without(row: Row, figure: str, wanted: str, status: str) -> str:
    return f"| `{row.name}` | {figure} | | | | {wanted} | {status} | |"


def figure_line(name: str, figure: Mapping[str, Any], load: str) -> str:
    def side(of: Mapping[str, Any] | None) -> str:
        return "" if of is None else f"{number(of['measure']['median'])} {figure['unit']}"

    ratio = figure["ratio"]
    shown = f"{number(ratio['median'])} ({number(ratio['low'])} to {number(ratio['high'])})"
    verdict = f"**{figure['verdict']}**" if figure["verdict"] == "missed" else figure["verdict"]
    cells = [
        name,
        figure["name"],
        side(figure["ours"]),
        side(figure["other"]),
        shown,
        figure["wanted"] or "",
        verdict,
        load,
    ]
    return "| " + " | ".join(cells) + " |"


def number(value: float) -> str:
    """Return three significant digits, without an exponent where that is readable."""
    if value == 0 or 1e-3 <= abs(value) < 1e3:
        return f"{value:.3g}"
    return f"{value:,.0f}" if abs(value) >= 1e3 else f"{value:.2e}"


def about(row: Row, result: Mapping[str, Any] | None) -> list[str]:
    """Return what a row measures, its command, and what was compared."""
    lines = [f"- `{row.name}`: {row.what}. Other side: {row.against}."]
    lines.append(f"  `{result['command'] if result else command_of(row)}`")
    if result is not None:
        facts = [*result["agreement"], *result["notes"], *filter(None, [result.get("reason")])]
        lines += [f"  {fact[0].upper()}{fact[1:]}." for fact in facts]
    return lines


def command_of(row: Row) -> str:
    return f"python scripts/bench.py {row.name}"
