"""Measure the quality of a fusion network over the signal-to-noise ratio: table and figure.

    python scripts/snr_curve.py RUN --snr -10 -5 0 5 10 --figure snr.png
    python scripts/snr_curve.py RUN data=folder data.root=SPEECH data.noise_root=NOISE   # more overrides of evaluate

It calls `bcfusion evaluate RUN degradation.noisy.evaluation_snr=...` once per ratio and reads the scores that it
writes. All ratios use the same files and the same noises at the same positions.
"""

from __future__ import annotations

import argparse
import csv
import subprocess
import sys
import tempfile
from pathlib import Path

from bcfusion.evaluation.statistics import Summary, summary
from bcfusion.report.snr import snr_figure
from bcfusion.report.spectrogram import save_figure
from bcfusion.report.table import metric_name

NAMES = {"input (noisy)": "noisy air alone", "input (body)": "body alone", "enhanced": "fused"}


def read_scores(scores: Path, metrics: list[str]) -> dict[str, dict[str, dict[str, float]]]:
    """Return the scores of a scores.csv by system, metric and utterance, without skipped ones."""
    with scores.open(encoding="utf-8", newline="") as text:
        rows = list(csv.DictReader(text))
    systems = dict.fromkeys(row["system"] for row in rows)
    return {
        system: {
            metric: {row["id"]: float(row[metric]) for row in rows if row["system"] == system and row[metric]}
            for metric in metrics
        }
        for system in systems
    }


def summaries(scores: Path, metrics: list[str]) -> dict[str, dict[str, Summary]]:
    """Return the statistics over the files of a scores.csv by system and metric, without skipped scores."""
    return {
        system: {metric: summary(list(found.values())) for metric, found in values.items()}
        for system, values in read_scores(scores, metrics).items()
    }


def evaluate(run: str, snr: float, overrides: list[str], output: Path) -> Path:
    """Evaluate at one ratio and return the path of the scores; `bcfusion evaluate` prints its own errors."""
    command = [sys.executable, "-m", "bcfusion", "evaluate", run, f"degradation.noisy.evaluation_snr={snr:g}"]
    subprocess.run([*command, *overrides, f"output={output}"], check=True, stdout=subprocess.DEVNULL)
    return output / "scores.csv"


def table(ratios: list[float], curves: dict[str, dict[str, list[Summary]]]) -> str:
    """Return a Markdown table with one row per system and metric and one column per ratio."""
    lines = [
        "| | | " + " | ".join(f"{ratio:g} dB" for ratio in ratios) + " |",
        "| --- | --- |" + " ---: |" * len(ratios),
    ]
    for metric in next(iter(curves.values())):
        name = metric_name(metric)
        for system, values in curves.items():
            cells = " | ".join(f"{value.mean:.{name.decimals}f}" for value in values[metric])
            lines.append(f"| {name.text} | {NAMES.get(system, system)} | {cells} |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="run directory of recipe=fusion")
    parser.add_argument("overrides", nargs="*", help="more overrides of bcfusion evaluate")
    parser.add_argument("--snr", type=float, nargs="+", default=[-10, -5, 0, 5, 10], help="dB")
    parser.add_argument("--metrics", nargs="+", default=["stoi", "pesq_wb", "si_sdr"])
    parser.add_argument("--figure", type=Path, default=Path("snr.png"))
    parser.add_argument("--title", default="fusion of body sensor and air microphone")
    arguments = parser.parse_intermixed_args()
    ratios = sorted(arguments.snr)
    curves: dict[str, dict[str, list[Summary]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for ratio in ratios:
            scores = evaluate(arguments.run, ratio, arguments.overrides, Path(folder) / f"{ratio:g}")
            for system, values in summaries(scores, arguments.metrics).items():
                for metric, value in values.items():
                    curves.setdefault(system, {}).setdefault(metric, []).append(value)
    print(table(ratios, curves))
    print(save_figure(snr_figure(ratios, curves, arguments.title, NAMES), arguments.figure))
    return 0


if __name__ == "__main__":
    sys.exit(main())
