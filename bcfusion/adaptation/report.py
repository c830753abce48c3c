"""The files of an adaptation: the bundle with its record, report.json, and report.md to read."""

from __future__ import annotations

import itertools
import json
import math
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from bcfusion import __version__
from bcfusion.adaptation.adapt import Adaptation
from bcfusion.adaptation.folds import FOR_INTERVAL, seconds_of
from bcfusion.errors import DataError
from bcfusion.evaluation.statistics import PairedDifference, finite_mean
from bcfusion.files import appearing_folder, read_object, write_text
from bcfusion.report.table import markdown_rows, metric_name, number
from bcfusion.run.bundle import save_bundle

__all__ = ["REPORT", "check_output", "record_of", "report_text", "unused", "write_adaptation"]

REPORT, READABLE = "report.json", "report.md"
FORMAT = "bcfusion adaptation"
_DECIMALS = 4
_WORSE = 0.01  # of STOI: more than a score that is unchanged but for rounding


class _Tried(Exception):
    """The folder could be written to."""


def check_output(output: Path, overwrite: bool) -> None:
    """Refuse a folder that would be replaced, or that cannot be written: before minutes are spent on what goes there.

    Only an adaptation is replaced, and only with ``overwrite``. The trial leaves no file.

    Raises:
        DataError: it is something else, an adaptation without ``overwrite``, or the working directory.
        WriteError: it cannot be written.
    """
    if Path.cwd().is_relative_to(os.path.abspath(output)):  # which would be replaced under the user's feet
        raise DataError(f"--output {output}: the working directory lies in it: choose another folder")
    if output.exists() and not (output.is_dir() and not any(output.iterdir())):
        if not output.is_dir() or read_object(output / REPORT).get("format") != FORMAT:
            raise DataError(f"--output {output}: exists and is no adaptation: choose another folder")
        if not overwrite:
            raise DataError(f"--output {output}: holds an adaptation: choose another folder, or add --overwrite")
    made = [folder for folder in output.absolute().parents if not folder.exists()]  # the innermost first
    try:
        with appearing_folder(output):
            raise _Tried
    except _Tried:
        with suppress(OSError):
            for folder in made:
                folder.rmdir()


def unused(output: Path) -> Path:
    """Return the first of ``output-2``, ``output-3``, ... that does not exist."""
    names = (output.with_name(f"{output.name}-{number}") for number in itertools.count(2))
    return next(path for path in names if not path.exists())


def write_adaptation(adaptation: Adaptation, output: Path) -> None:
    """Write bundle, report.json and report.md; the folder appears whole, in place of an earlier one.

    Raises:
        WriteError: it cannot be written.
    """
    record = record_of(adaptation)
    start = adaptation.bundle.training
    training = {
        **start,
        "step": adaptation.steps if adaptation.adapted else start.get("step"),
        "adaptation": {name: value for name, value in record.items() if name not in ("format", "curve")},
    }
    if adaptation.adapted:
        files = {os.path.realpath(path) for row in adaptation.rows for path in row.paths.values()}
        before = () if adaptation.settings.fresh else start.get("adapted_to") or ()
        training["adapted_to"] = sorted(files.union(before))
    with appearing_folder(output) as part:
        inner = save_bundle(  # in a folder of the final name, which its header names
            part / output.absolute().name,
            adaptation.generator,
            adaptation.bundle.generator,
            adaptation.bundle.sensors,
            training,
        )
        for file in list(inner.iterdir()):
            os.replace(file, part / file.name)
        inner.rmdir()
        write_text(part / REPORT, json.dumps(record, indent=1, ensure_ascii=False) + "\n")
        write_text(part / READABLE, f"# {output.absolute().name}\n\n{report_text(adaptation, markdown=True)}")


def record_of(adaptation: Adaptation) -> dict[str, Any]:
    """Return an adaptation as plain values: what was given, what was chosen and why, and every score."""
    choice, curve = adaptation.choice, adaptation.curve
    settings = adaptation.settings
    return {
        "format": FORMAT,
        "bcfusion": __version__,
        "start": {
            "model": os.path.abspath(adaptation.model),
            "step": adaptation.bundle.training.get("step"),
            "adapted_to_recordings": adaptation.seen,
        },
        "adapted": adaptation.adapted,
        "why": choice.why,
        "steps": {"chosen": choice.steps, "best": choice.best, "tried": adaptation.tried, "final": adaptation.steps},
        "settings": {
            "minutes": settings.minutes,
            "steps": settings.steps,
            "fresh": settings.fresh,
            "share": settings.share if adaptation.speech else 0.0,
            "lr": settings.lr,
            "batch_size": settings.batch_size,
            "segment_seconds": settings.segment_seconds,
            "seed": settings.seed,
            "losses": adaptation.losses,
            "speech": adaptation.speech,
        },
        "recordings": [
            {
                "id": row.id,
                "files": {sensor: os.path.abspath(path) for sensor, path in row.paths.items()},
                "seconds": round(row.duration, 2),
                "lag_ms": round(1e3 * row.lag, 3),
                "polarity": row.polarity,
                "fold": curve.fold.get(row.id),
                "input": _rounded(curve.input.get(row.id, {})),
                "start": _rounded(curve.steps[0].get(row.id, {})),
                "out_of_fold": _rounded(choice.out_of_fold.get(row.id, {})),
            }
            for row in adaptation.rows
        ],
        "refused": [{"id": each.id, "why": each.why} for each in adaptation.refused],
        "gain_over_start": {name: _difference(each) for name, each in choice.gains.items()},
        "gain_over_input": {name: _difference(each) for name, each in choice.over_input.items()},
        "curve": {
            str(step): {name: _rounded(values) for name, values in sorted(of.items())}
            for step, of in sorted(curve.steps.items())
        },
        "seconds": round(adaptation.seconds, 1),
    }


def report_text(adaptation: Adaptation, markdown: bool = False) -> str:
    """Return the report to read: a line per recording, the gains, the learning curve.

    Args:
        adaptation: to report on.
        markdown: tables in Markdown; else in columns, for a terminal.
    """
    choice, curve = adaptation.choice, adaptation.curve
    names = list(next(iter(curve.steps[0].values())))
    table = _markdown if markdown else _columns
    systems = (("input", curve.input), ("start", curve.steps[0]), ("adapted", choice.out_of_fold))
    scored = [row.id for row in adaptation.rows if row.id in curve.fold]
    head = ["recording", "fold", *(f"{metric_name(name).text} {system}" for name in names for system, _ in systems)]
    rows = [
        [
            item,
            str(curve.fold[item] + 1),
            *(number(name, of.get(item, {}).get(name, math.nan)) for name in names for _, of in systems),
        ]
        for item in scored
    ]
    common = [item for item in scored if item in choice.out_of_fold] or scored  # the same recordings in all means
    means = [
        number(name, finite_mean(of[item][name] for item in common if item in of))
        for name in names
        for _, of in systems
    ]
    parts = [_verdict(adaptation), table(head, [*rows, ["mean", "", *means]])]
    parts.append("\n".join(_gain_lines(adaptation, names)))
    curve_rows = [
        [
            "start" if step == 0 else str(step),
            *(number(n, finite_mean([v[n] for v in of.values()]), decimals=3) for n in names),
        ]
        for step, of in sorted(curve.steps.items())
        if step <= adaptation.tried
    ]
    parts.append(table(["steps", *(metric_name(name).text for name in names)], curve_rows))
    if adaptation.refused:
        parts.append("\n".join(f"- refused: {each}" for each in adaptation.refused))
    return "\n\n".join(parts) + "\n"


def _verdict(adaptation: Adaptation) -> str:
    """Return in a few sentences what was done, and what the scores are scores of."""
    settings, folds = adaptation.settings, adaptation.folds
    seconds = sum(row.duration for row in adaptation.rows)
    count = len(adaptation.rows)
    done = (
        f"Adapted by {adaptation.steps} steps on {f'all {count} recordings' if count > 1 else 'the whole recording'}"
        if adaptation.adapted
        else f"The start is kept, unchanged, after trials on {count} recording{'s' * (count != 1)}"
    )
    scale = (
        f"Scores are out of fold: each recording is scored by a network that was trained on the others, in "
        f"{len(folds)} folds, after as many steps as the other folds choose."
        if len(folds) > 1
        else f"One recording: its last {seconds_of(folds[0].held):.0f} s are scored by a network trained on the part "
        "before. The same part chose the number of steps, so the gain is too good."
    )
    source = f"{adaptation.speech} recordings of speech, share {settings.share:g}" if adaptation.speech else "no speech"
    way = (
        f"{'random weights' if settings.fresh else 'the weights'} of {adaptation.model}, {source}, seed {settings.seed}"
    )
    return f"{done} ({seconds:.0f} s): {adaptation.choice.why}. From {way}.\n{scale}"


def _gain_lines(adaptation: Adaptation, names: list[str]) -> list[str]:
    choice = adaptation.choice
    lines = []
    for title, gains in (("over the start", choice.gains), ("over the input", choice.over_input)):
        words = [f"{metric_name(name).text} {_gain(name, gains[name])}" for name in names if name in gains]
        lines.append(f"gain {title}: {', '.join(words)}")
    worse = [
        f"{item} ({number('stoi', values['stoi'] - adaptation.curve.input[item]['stoi'], '+')})"
        for item, values in sorted(choice.out_of_fold.items())
        if values["stoi"] < adaptation.curve.input[item]["stoi"] - _WORSE
    ]
    if worse:
        lines.append(f"STOI below the input's by more than {_WORSE:g}: {', '.join(worse)}")
    if adaptation.seen:
        rest = (
            "its own scores are too good, and the gain over it too small"
            if adaptation.settings.fresh
            else "these are not scores on unseen recordings; start from the model that it was adapted from"
        )
        seen, count = adaptation.seen, len(adaptation.rows)
        lines.append(f"warning: the start was adapted to {seen} of these {count} recordings before: {rest}")
    if not choice.certain:
        lines.append(f"fewer than {FOR_INTERVAL} recordings: no interval; record more to know whether it helps")
    if choice.over_input["score"].mean < 0:
        lines.append("warning: on the mean the input itself scores higher; do not expect a better sound")
    return lines


def _gain(name: str, difference: PairedDifference) -> str:
    text = number(name, difference.mean, "+", decimals=3)
    if difference.count < FOR_INTERVAL:
        return text
    low, high = (number(name, end, "+", decimals=3) for end in (difference.low, difference.high))
    return f"{text} [{low}, {high}]"


def _difference(difference: PairedDifference) -> dict[str, Any]:
    values = {"mean": difference.mean, "recordings": difference.count}
    if difference.count >= FOR_INTERVAL:
        values |= {"low": difference.low, "high": difference.high}
    return _rounded(values)


def _rounded(values: Mapping[str, float]) -> dict[str, Any]:
    """Return numbers that JSON can hold: rounded, and None for NaN."""
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else round(value, _DECIMALS)
        for name, value in values.items()
    }


def _markdown(head: list[str], rows: list[list[str]]) -> str:
    return markdown_rows([head, ["---", *["---:"] * (len(head) - 1)], *rows])


def _columns(head: list[str], rows: list[list[str]]) -> str:
    """Return a table for a terminal: headings of two lines, numbers to the right."""
    cells = [head, *rows]
    split = [title.rsplit(" ", 1) if " " in title else ["", title] for title in head]
    widths = [
        max(*(len(line) for line in split[place]), *(len(row[place]) for row in cells[1:]))
        for place in range(len(head))
    ]
    lines = [[parts[0] for parts in split], [parts[1] for parts in split], *rows]
    if not any(lines[0]):
        del lines[0]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if place == 0 else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )
