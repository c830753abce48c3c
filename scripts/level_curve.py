"""Measure the quality of a fusion network over a level: the signal-to-noise ratio, or the gain of the body sensor.

    python scripts/level_curve.py RUN --snr -10 -5 0 5 10 --figure snr.png
    python scripts/level_curve.py fusion --gain -20 -10 0 10 20 --figure gain.png --output gains
    python scripts/level_curve.py RUN data=folder data.root=SPEECH data.noise_root=NOISE --snr -5 5

Overrides come before the options. It calls `bcfusion evaluate RUN` once per level, with
`degradation.noisy.evaluation_snr=...` or `data.evaluation_body_gain=...`, prints a table of the scores that it writes
and draws a figure. All levels use the same files and the same noises at the same positions. --output DIR keeps the
evaluation of each level, with its own tables and intervals, in a folder of its own.
"""

from __future__ import annotations

import argparse
import csv
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from bcfusion.evaluation.statistics import Summary, summary
from bcfusion.report.level_curves import GAIN_AXIS, SNR_AXIS, level_figure
from bcfusion.report.spectrogram import save_figure
from bcfusion.report.table import metric_name

NAMES = {"input (noisy)": "noisy air alone", "input (body)": "body alone", "enhanced": "fused"}


class Axis(NamedTuple):
    """What is varied: the key that sets it in an evaluation, and its name below the figure."""

    key: str
    label: str


AXES = {
    "snr": Axis("degradation.noisy.evaluation_snr", SNR_AXIS),
    "gain": Axis("data.evaluation_body_gain", GAIN_AXIS),
}


def has_scores(scores: Path, metrics: list[str]) -> bool:
    """Return whether a scores.csv is there and has a column for each of these metrics."""
    if not scores.exists():
        return False
    with scores.open(encoding="utf-8", newline="") as text:
        return set(metrics) <= set(next(csv.reader(text), ()))


def read_scores(scores: Path, metrics: list[str]) -> dict[str, dict[str, dict[str, float]]]:
    """Return the scores of a scores.csv by system, metric and utterance, without skipped ones."""
    with scores.open(encoding="utf-8", newline="") as text:
        rows = list(csv.DictReader(text))
    if missing := [metric for metric in metrics if metric not in rows[0]]:
        raise SystemExit(
            f"--metrics: not scored: {', '.join(missing)}; choose what is computed by 'metrics=[NAME,...]', and which "
            f"of these columns are shown by --metrics: {', '.join(rows[0])}"
        )
    systems = dict.fromkeys(row["system"] for row in rows)
    return {
        system: {
            metric: {row["id"]: float(row[metric]) for row in rows if row["system"] == system and row[metric]}
            for metric in metrics
        }
        for system in systems
    }


def summaries(scores: Path, metrics: list[str]) -> dict[str, dict[str, Summary]]:
    """Return the statistics over the files of a scores.csv by system and metric."""
    return {
        system: {metric: summary(list(found.values())) for metric, found in values.items()}
        for system, values in read_scores(scores, metrics).items()
    }


def evaluate(run: str, override: str, overrides: list[str], output: Path) -> Path:
    """Evaluate at one level and return the path of the scores; `bcfusion evaluate` prints its own errors."""
    command = [sys.executable, "-m", "bcfusion", "evaluate", run, *overrides, override, f"output={output}"]
    if status := subprocess.run(command, stdout=subprocess.DEVNULL).returncode:
        raise SystemExit(status)
    return output / "scores.csv"


def table(levels: list[float], curves: dict[str, dict[str, list[Summary]]]) -> str:
    """Return a Markdown table with one row per system and metric and one column per level."""
    lines = [
        "| | | " + " | ".join(f"{level:g} dB" for level in levels) + " |",
        "| --- | --- |" + " ---: |" * len(levels),
    ]
    for metric in next(iter(curves.values())):
        name = metric_name(metric)
        for system, values in curves.items():
            cells = " | ".join(f"{value.mean:.{name.decimals}f}" for value in values[metric])
            lines.append(f"| {name.text} | {NAMES.get(system, system)} | {cells} |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="run directory of recipe=fusion, bundle, or name of a model")
    parser.add_argument("overrides", nargs="*", help="more overrides of bcfusion evaluate")
    axes = parser.add_mutually_exclusive_group(required=True)
    axes.add_argument("--snr", type=float, nargs="+", metavar="DB", help="signal-to-noise ratio of the air microphone")
    axes.add_argument("--gain", type=float, nargs="+", metavar="DB", help="of the body sensor, relative to the others")
    parser.add_argument("--metrics", nargs="+", default=["stoi", "pesq_wb", "si_sdr"])
    parser.add_argument("--figure", type=Path, help="default: snr.png or gain.png")
    parser.add_argument("--title", default="fusion of body sensor and air microphone")
    parser.add_argument("--output", type=Path, metavar="DIR", help="where the evaluation of each level is kept")
    arguments = parser.parse_intermixed_args()
    name = "snr" if arguments.gain is None else "gain"
    axis, levels = AXES[name], sorted(set(getattr(arguments, name)))
    curves: dict[str, dict[str, list[Summary]]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) if arguments.output is None else arguments.output.absolute()
        for level in levels:
            override = f"{axis.key}={level:g}"
            scores = evaluate(arguments.run, override, arguments.overrides, folder / f"{name}{level:+g}")
            for system, values in summaries(scores, arguments.metrics).items():
                for metric, value in values.items():
                    curves.setdefault(system, {}).setdefault(metric, []).append(value)
    print(table(levels, curves))
    figure = level_figure(levels, curves, arguments.title, NAMES, axis.label)
    print(save_figure(figure, arguments.figure or Path(f"{name}.png")))
    return 0


if __name__ == "__main__":
    sys.exit(main())
