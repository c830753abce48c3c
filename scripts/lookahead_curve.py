"""Train one causal network with several look-aheads and measure its quality over its latency: table and figure.

    python scripts/lookahead_curve.py experiment=gtcrn machine=cpu data=folder data.root=SPEECH --minutes 30
    python scripts/lookahead_curve.py experiment=unet_causal data=folder data.root=SPEECH --steps 20000 --output curve

For each look-ahead it calls `bcfusion train ... generator.lookahead_ms=...`, for the same time or number of steps, and
`bcfusion evaluate` on the test split (without one, the validation split), whose speakers are not those of training. All
that is not an option is an override of `bcfusion train`. Each look-ahead has a folder below --output; what is there is
not computed again, and a training that was interrupted is continued. A folder is for trainings of the same length and
overrides: others are refused.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from colours import reduce_colours
from level_curve import has_scores, read_scores

from bcfusion import load_generator
from bcfusion.contracts import Generator
from bcfusion.evaluation.statistics import PairedDifference, Summary, paired_difference, summary
from bcfusion.evaluation.systems import is_input
from bcfusion.files import read_object, write_text
from bcfusion.report.level_curves import level_figure
from bcfusion.report.spectrogram import save_figure
from bcfusion.report.table import metric_name

NAMES = {"enhanced": "restored"}
Scores = dict[str, dict[str, dict[str, float]]]  # system, metric, utterance


@dataclass(frozen=True)
class Point:
    """One network: its additional look-ahead as asked for and its whole latency, in ms, and its scores."""

    lookahead: float
    latency: float
    scores: Scores


def bcfusion(*arguments: str) -> None:
    """Run a verb, whose own output goes to the standard error: the standard output holds the table."""
    if status := subprocess.run([sys.executable, "-m", "bcfusion", *arguments], stdout=sys.stderr).returncode:
        raise SystemExit(status)  # it has printed why


def point(lookahead: float, length: list[str], overrides: list[str], metrics: list[str], folder: Path) -> Point:
    """Train and evaluate with one look-ahead, unless its folder holds the scores already."""
    scores = folder / "evaluation" / "scores.csv"
    if not has_scores(scores, metrics):
        if not any(folder.rglob("bundle/config.yaml")):  # which a training writes last
            own = [f"generator.lookahead_ms={lookahead:g}", f"output_root={folder}", "resume=auto"]
            bcfusion("train", *length, *overrides, *own)
        bcfusion("evaluate", str(_run(folder)), f"metrics=[{','.join(metrics)}]", f"output={scores.parent}")
    network = cast("Generator", load_generator(_run(folder) / "bundle"))
    assert network.delay is not None
    return Point(lookahead, 1000 * (network.delay + 1) / network.sample_rate, read_scores(scores, metrics))


def _run(folder: Path) -> Path:
    """Return the run directory below a folder that has finished last."""
    return max(folder.rglob("bundle/config.yaml"), key=lambda path: path.stat().st_mtime).parents[1]


def table(points: list[Point], metrics: list[str]) -> str:
    """Return a Markdown table: means with their intervals, and differences to the first look-ahead, paired by file."""
    lines = [
        "| look-ahead | latency | " + " | ".join(metric_name(metric).text for metric in metrics) + " |",
        "| ---: | ---: |" + " ---: |" * len(metrics),
    ]
    first = points[0].scores
    for system in filter(is_input, first):  # one for each sensor
        lines.append(f"| {system} | | " + " | ".join(_mean(first[system][metric], metric) for metric in metrics) + " |")
    for each in points:
        cells = []
        for metric in metrics:
            own, before = each.scores["enhanced"][metric], first["enhanced"][metric]
            change = "" if each is points[0] else f"; {_change(paired_difference(before, own), metric)}"
            cells.append(_mean(own, metric) + change)
        lines.append(f"| {each.lookahead:g} ms | {each.latency:.4g} ms | " + " | ".join(cells) + " |")
    counted = len(next(iter(first["enhanced"].values())))
    what = f"Means over {counted} files with 95 % bootstrap intervals"
    return "\n".join([*lines, "", f"{what}; differences to {points[0].lookahead:g} ms, paired by file."])


def _mean(values: dict[str, float], metric: str) -> str:
    found, places = summary(list(values.values())), metric_name(metric).decimals
    return f"{found.mean:.{places}f} [{found.low:.{places}f}, {found.high:.{places}f}]"


def _change(difference: PairedDifference, metric: str) -> str:
    places = metric_name(metric).decimals
    return f"{difference.mean:+.{places}f} [{difference.low:+.{places}f}, {difference.high:+.{places}f}]"


def curves(points: list[Point], metrics: list[str]) -> dict[str, dict[str, list[Summary]]]:
    """Return the statistics of each system and metric at each point."""
    return {
        system: {metric: [summary(list(each.scores[system][metric].values())) for each in points] for metric in metrics}
        for system in points[0].scores
    }


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="+", help="overrides of bcfusion train: the experiment and the data")
    parser.add_argument("--lookahead", type=float, nargs="+", default=[0, 20, 40, 80, 160, 200], help="ms")
    length = parser.add_mutually_exclusive_group(required=True)
    length.add_argument("--minutes", type=float, help="of each training, by the clock")
    length.add_argument("--steps", type=int, help="of each training: comparable on a machine that does other work, too")
    parser.add_argument("--metrics", nargs="+", default=["stoi", "estoi", "pesq_wb"])
    parser.add_argument(
        "--output", type=Path, default=Path("lookahead"), help="folder of runs, scores, table and figure"
    )
    parser.add_argument("--title", default="quality over latency, by additional look-ahead")
    arguments = parser.parse_intermixed_args(argv)
    steps, metrics, output = arguments.steps, arguments.metrics, arguments.output.absolute()
    clock = "null" if arguments.minutes is None else f"{arguments.minutes:g}"  # machine=cpu has minutes of its own
    lasting = [f"budget.minutes={clock}", *([] if steps is None else [f"trainer.max_steps={steps}"])]
    recorded, asked = output / "arguments.json", {"length": lasting, "overrides": arguments.overrides}
    if (before := read_object(recorded)) not in ({}, asked) and any(output.glob("*ms")):  # else nothing was trained
        words = " ".join([*before["length"], *before["overrides"]])
        parser.error(f"{output} holds another curve ({words}): choose another --output")
    write_text(recorded, json.dumps(asked, indent=2) + "\n")
    points = [
        point(each, lasting, arguments.overrides, metrics, output / f"{each:g}ms")
        for each in sorted(set(arguments.lookahead))
    ]
    text = table(points, metrics)
    print(text)
    print(write_text(output / "lookahead.md", text + "\n"))
    latencies = [each.latency for each in points]
    drawn = level_figure(latencies, curves(points, metrics), arguments.title, NAMES, "algorithmic latency (ms)")
    picture = save_figure(drawn, output / "lookahead.png")
    reduce_colours(picture)
    print(picture)
    return 0


if __name__ == "__main__":
    sys.exit(main())
