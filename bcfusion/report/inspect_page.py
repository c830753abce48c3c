"""An HTML page about the recordings of a manifest: findings, histograms, mean spectra. It needs no network."""

from __future__ import annotations

import base64
import html
import io
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import cycle

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from bcfusion.contracts import SPLITS
from bcfusion.data.corpora.speakers import known_speakers
from bcfusion.data.inspect.alignment import ENOUGH, Alignment
from bcfusion.data.inspect.bandwidth import BAND_HZ
from bcfusion.data.inspect.certainty import session_of
from bcfusion.data.inspect.checks import Severity
from bcfusion.data.inspect.findings import Finding
from bcfusion.data.inspect.inspection import Inspected, Inspection
from bcfusion.report.colours import PALETTE

__all__ = ["figures", "inspect_page"]

_SESSIONS_SHOWN = 200
_FEWEST_BINS, _MOST_BINS = 12, 40
_NARROWEST = {"ms": 1.0, "dB": 5.0, "dBFS": 5.0}  # smallest ranges shown: finer differences mean nothing
_SPECTRUM_TITLE = "mean spectrum while somebody speaks"

_STYLE = """
:root { color-scheme: light dark; --line: #8886; --error: #b3261e; --warning: #96690a; }
@media (prefers-color-scheme: dark) { :root { --error: #ff8a80; --warning: #ffca5c; } }
body { font: 16px/1.45 system-ui, sans-serif; margin: 0 auto; padding: 1rem; max-width: 76rem;
  overflow-wrap: anywhere; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.15rem; margin-top: 2rem; }
.finding { border-left: .35rem solid; padding: .1rem .8rem; margin: .8rem 0; }
.error { border-color: var(--error); } .warning { border-color: var(--warning); }
.error b { color: var(--error); } .warning b { color: var(--warning); }
.finding p { margin: .2rem 0; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .7rem .25rem 0; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
.pictures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr)); gap: 1rem; }
figure { margin: 0; } img { width: 100%; height: auto; background: #fff; border-radius: .3rem; }
"""


def inspect_page(inspection: Inspection, found: Sequence[Finding]) -> str:
    """Return the page.

    Args:
        inspection: of the manifest.
        found: what is wrong with it, in the order of the page.

    Returns:
        A complete HTML document with embedded figures.
    """
    name = html.escape(inspection.manifest.name)
    measured = len(inspection.lines)
    of = (
        f"{measured} of {len(inspection.entries)} lines measured"
        if measured < len(inspection.entries)
        else f"{measured} lines"
    )
    pictures = "\n".join(
        f'<figure><img alt="{html.escape(title)}" src="data:image/png;base64,{_png(figure)}"></figure>'
        for title, figure in figures(inspection).items()
    )
    parts = [
        "<!DOCTYPE html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{name}: inspection</title><style>{_STYLE}</style></head><body>",
        f"<h1>{name}</h1><p>{of}, {_hours(inspection):.2f} hours.</p>",
        _splits(inspection),
        "<h2>What is wrong</h2>",
        *(_finding(each) for each in found),
        "" if found else "<p>Nothing was found.</p>",
        "<h2>Levels, bandwidth, alignment</h2>",
        f'<div class="pictures">{pictures}</div>',
        _sessions(inspection),
        "</body></html>",
    ]
    return "\n".join(part for part in parts if part)


def figures(inspection: Inspection) -> dict[str, Figure]:
    """Return the figures by title: mean spectra, and a histogram of each measured quantity."""
    drawn = {_SPECTRUM_TITLE: _spectra(inspection)} if inspection.spectra else {}
    for title, unit, values, bounds in _histograms(inspection):
        if any(len(series) for series in values.values()):
            drawn[title] = _histogram(title, unit, values, bounds)
    return drawn


def _histograms(
    inspection: Inspection,
) -> Iterator[tuple[str, str, dict[str, list[float]], tuple[float, float] | None]]:
    """Yield title, unit, values by sensor, and the range shown (None: that of the values)."""
    by_sensor: dict[str, list[Inspected]] = defaultdict(list)
    for line in inspection.lines:
        for sensor in line.measured.sensors:
            by_sensor[sensor].append(line)

    def of(value: Callable[[Inspected, str], float]) -> dict[str, list[float]]:
        return {sensor: [value(line, sensor) for line in lines] for sensor, lines in by_sensor.items()}

    yield "length", "s", {"": [_duration(line) for line in inspection.lines if line.measured.sensors]}, None
    yield "level of the speech", "dBFS", of(lambda line, sensor: line.measured.sensors[sensor].levels.level), None
    yield "peak", "dBFS", of(lambda line, sensor: line.measured.sensors[sensor].levels.peak), None
    yield "speech over pauses (SNR)", "dB", of(lambda line, sensor: line.measured.sensors[sensor].levels.snr), None
    top = max((rate for _, rate in inspection.spectra), default=2000) / 2000
    bandwidths = of(lambda line, sensor: line.measured.sensors[sensor].bandwidth / 1000)
    yield "effective bandwidth", "kHz", bandwidths, (0.0, top)
    pairs = [line for line in inspection.lines if line.measured.alignment is not None]
    signs: dict[str, list[float]] = {}
    for label, polarity in (("same polarity", 1), ("inverted", -1)):
        signs[label] = [
            1e3 * found.lag_seconds
            for line in pairs
            if (found := line.measured.alignment) is not None
            and found.confidence >= ENOUGH
            and found.polarity == polarity
        ]
    yield "lag of body relative to air, if reliable", "ms", signs, None
    confidences = [line.measured.alignment.confidence for line in pairs if line.measured.alignment is not None]
    yield "confidence of lag and polarity", f"reliable from {ENOUGH:g}", {"": confidences}, (0.0, 1.0)
    ratios = [line.measured.level_ratio for line in inspection.lines]
    yield "level of body over air", "dB", {"": [ratio for ratio in ratios if ratio is not None]}, None


def _histogram(
    title: str, unit: str, values: Mapping[str, Sequence[float]], bounds: tuple[float, float] | None
) -> Figure:
    figure, axes = _axes(title)
    everything = np.concatenate([np.asarray(series, dtype=float) for series in values.values()])
    low, high = bounds or (float(everything.min()), float(everything.max()))
    if (lacking := max(_NARROWEST.get(unit, 0.0), 1e-3) - (high - low)) > 0:
        low, high = low - lacking / 2, high + lacking / 2
    edges = np.linspace(low, high, int(np.clip(len(everything), _FEWEST_BINS, _MOST_BINS)) + 1)
    shown = {label: series for label, series in values.items() if len(series)}
    for colour, (label, series) in zip(cycle(PALETTE), shown.items(), strict=False):
        clipped = np.clip(series, low, high)
        axes.hist(clipped, bins=list(edges), color=colour, alpha=0.6 if len(shown) > 1 else 0.9, label=label or None)
    axes.set_xlabel(unit)
    axes.set_ylabel("recordings")
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    if any(shown):
        _legend(figure)
    return figure


def _spectra(inspection: Inspection) -> Figure:
    figure, axes = _axes(_SPECTRUM_TITLE)
    rates = {rate for _, rate in inspection.spectra}
    for colour, ((sensor, rate), spectrum) in zip(cycle(PALETTE), sorted(inspection.spectra.items()), strict=False):
        kilohertz = (np.arange(len(spectrum.mean)) + 0.5) * BAND_HZ / 1000
        label = sensor if len(rates) == 1 else f"{sensor}, {rate / 1000:g} kHz"
        axes.plot(kilohertz, spectrum.mean, color=colour, label=label)
        spread = spectrum.deviation
        axes.fill_between(kilohertz, spectrum.mean - spread, spectrum.mean + spread, color=colour, alpha=0.2, lw=0)
    axes.set_xlim(0, max(rates) / 2000)
    axes.set_xlabel("kHz; shaded: standard deviation between recordings")
    axes.set_ylabel("dB re the whole spectrum")
    axes.grid(alpha=0.3)
    _legend(figure)
    return figure


def _axes(title: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(5.6, 3.4), dpi=150, layout="constrained")
    axes = figure.subplots()
    axes.set_title(title, loc="left", fontsize=12, fontweight="bold")
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _legend(figure: Figure) -> None:
    """Put the legend beside the title, where it covers nothing."""
    figure.legend(loc="outside upper right", frameon=False, ncols=4, handlelength=1.2)


def _png(figure: Figure) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def _finding(finding: Finding) -> str:
    kind = "error" if finding.severity == Severity.ERROR else "warning"
    examples = "".join(f"<li>{html.escape(example)}</li>" for example in finding.examples)
    return (
        f'<div class="finding {kind}"><p><b>{html.escape(finding.what)}</b>: {finding.count} of {finding.of}</p>'
        f"<p>{html.escape(finding.advice)}</p>"
        f"<details><summary>{kind}, the first {len(finding.examples)}</summary><ul>{examples}</ul></details></div>"
    )


def _splits(inspection: Inspection) -> str:
    lines: list[Sequence[object]] = []
    for split in SPLITS:
        entries = [entry for entry in inspection.entries if entry.split == split]
        if entries:
            lines.append((split, len(entries), len(known_speakers(entries)) or "unknown"))
    return _table(("split", "lines", "speakers"), lines)


def _sessions(inspection: Inspection) -> str:
    members: Counter[str] = Counter()
    sessions: dict[str, Alignment] = {}
    for line in inspection.lines:
        if line.measured.alignment is not None and line.session is not None:
            members[session_of(line.entry)] += 1
            sessions[session_of(line.entry)] = line.session
    if not sessions:
        return ""
    worst = sorted(sessions, key=lambda session: sessions[session].confidence)
    rows = [
        (
            html.escape(session),
            members[session],
            f"{1e3 * sessions[session].lag_seconds:+.2f}",
            f"{sessions[session].polarity:+d}",
            f"{sessions[session].confidence:.2f}",
        )
        for session in worst[:_SESSIONS_SHOWN]
    ]
    more = (
        f"<p>The {_SESSIONS_SHOWN} least certain of {len(worst)} sessions.</p>" if len(worst) > _SESSIONS_SHOWN else ""
    )
    return f"<h2>Sessions</h2>{more}" + _table(("session", "lines", "lag (ms)", "polarity", "confidence"), rows)


def _table(heads: Sequence[str], lines: Sequence[Sequence[object]]) -> str:
    top = "".join(f"<th>{head}</th>" for head in heads)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in line) + "</tr>" for line in lines)
    return f'<div class="scroll"><table><tr>{top}</tr>{body}</table></div>'


def _duration(line: Inspected) -> float:
    if line.entry.duration is not None:
        return line.entry.duration
    return min((found.duration for found in line.measured.sensors.values()), default=0.0) - line.entry.offset


def _hours(inspection: Inspection) -> float:
    return sum(_duration(line) for line in inspection.lines if line.measured.sensors) / 3600
