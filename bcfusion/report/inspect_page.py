"""An HTML page about the recordings of a manifest: findings, histograms, mean spectra. It needs no network."""

from __future__ import annotations

import base64
import html
import io
import re
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
_FEWEST_BINS, _MOST_BARS = 12, 40
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
.finding p { margin: .2rem 0; } .finding ul { margin: .2rem 0; padding-left: 1.2rem; font-size: .9rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .7rem .25rem 0; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; } td:first-child { white-space: normal; min-width: 8rem; }
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
    yield "lag of body, where certain by itself", "ms, positive if body is later than air", signs, None
    confidences = [line.measured.alignment.confidence for line in pairs if line.measured.alignment is not None]
    yield "confidence of lag and polarity", f"0 to 1, certain from {ENOUGH:g}", {"": confidences}, (0.0, 1.0)
    ratios = [line.measured.level_ratio for line in inspection.lines]
    yield "level of body over air", "dB", {"": [ratio for ratio in ratios if ratio is not None]}, None


def _histogram(
    title: str, unit: str, values: Mapping[str, Sequence[float]], bounds: tuple[float, float] | None
) -> Figure:
    """Draw the counts of all series side by side, so that none covers another."""
    figure, axes = _axes(title)
    shown = {label: np.asarray(series, dtype=float) for label, series in values.items() if len(series)}
    everything = np.concatenate(list(shown.values()))
    low, high = bounds or (float(everything.min()), float(everything.max()))
    if (lacking := max(_NARROWEST.get(unit.partition(",")[0], 0.0), 1e-3) - (high - low)) > 0:
        low, high = low - lacking / 2, high + lacking / 2
    most = max(len(series) for series in shown.values())
    edges = np.linspace(low, high, int(np.clip(most, _FEWEST_BINS, max(_FEWEST_BINS, _MOST_BARS // len(shown)))) + 1)
    axes.hist(
        [np.clip(series, low, high) for series in shown.values()],
        bins=list(edges),
        color=[colour for colour, _ in zip(cycle(PALETTE), shown, strict=False)],
        label=[f"{label}, n = {len(series)}" if label else f"n = {len(series)}" for label, series in shown.items()],
        rwidth=0.9,
    )
    axes.set_xlabel(unit)
    axes.set_ylabel("recordings")
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    _legend(figure)
    return figure


def _spectra(inspection: Inspection) -> Figure:
    figure, axes = _axes(_SPECTRUM_TITLE)
    rates = {rate for _, rate in inspection.spectra}
    for colour, ((sensor, rate), spectrum) in zip(cycle(PALETTE), sorted(inspection.spectra.items()), strict=False):
        kilohertz = (np.arange(len(spectrum.mean)) + 0.5) * BAND_HZ / 1000
        label = f"{sensor if len(rates) == 1 else f'{sensor}, {rate / 1000:g} kHz'}, n = {spectrum.count}"
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
    """Put the legend below the axes, where it covers nothing."""
    figure.legend(loc="outside lower center", frameon=False, ncols=3, handlelength=1.2)


def _png(figure: Figure) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def _finding(finding: Finding) -> str:
    kind = "error" if finding.severity == Severity.ERROR else "warning"
    examples = "".join(f"<li>{_breakable(example)}</li>" for example in finding.examples)
    first = f"<p>the first {len(finding.examples)}:</p>" if len(finding.examples) < finding.count else ""
    return (
        f'<div class="finding {kind}"><p>{kind}: <b>{html.escape(finding.what)}</b>, '
        f"{finding.count} of {finding.of}</p>"
        f"<p>{html.escape(finding.advice)}</p>{first}<ul>{examples}</ul></div>"
    )


def _breakable(text: str) -> str:
    """Return the HTML of a text in which long names of files are broken after a separator, not anywhere."""
    return re.sub(r"([/\\_]+)", r"\1<wbr>", html.escape(text, quote=False))


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
            _breakable(session),
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
