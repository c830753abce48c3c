"""What ``bcfusion evaluate`` reads from its command line, prints and writes, for models and folders alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from bcfusion.configuration.literal import literal
from bcfusion.errors import ConfigError
from bcfusion.run.layout import RunDir

if TYPE_CHECKING:
    from bcfusion.evaluation.scores import Scores


class Settings(NamedTuple):
    """Settings of the verb itself, given as ``NAME=VALUE``; None if absent."""

    output: Path | None
    group_by: list[str]
    split: str | None
    steps: int | None


def parse_groups(text: str) -> list[str]:
    """Parse the value of ``group_by=``: one of speaker, corpus and snr, or several as ``speaker,snr``.

    Raises:
        ConfigError: it is something else.
    """
    from bcfusion.evaluation.summary import GROUPS

    groups = [name.strip() for name in text.strip("[] ").split(",") if name.strip()]
    unknown = [name for name in groups if name not in GROUPS]
    if unknown or not groups:
        raise ConfigError([f"group_by: must be one or more of {', '.join(GROUPS)}, not {', '.join(unknown) or 'none'}"])
    return list(dict.fromkeys(groups))


def parse_settings(argv: Sequence[str]) -> tuple[Settings, list[str]]:
    """Separate the verb's own settings from the overrides of the configuration.

    Raises:
        ConfigError: see :func:`parse_groups`; or ``steps`` is no whole number above zero.
    """
    own: dict[str, str] = {}
    overrides = []
    for argument in argv:
        key, equals, value = argument.partition("=")
        if equals and key in Settings._fields:
            own[key] = value
        else:
            overrides.append(argument)
    output = Path(own["output"]) if "output" in own else None
    group_by = parse_groups(own["group_by"]) if "group_by" in own else []
    steps = own.get("steps")
    if steps is not None and not (steps.isdecimal() and int(steps)):
        raise ConfigError([f"steps: must be a whole number above zero, not {steps}"])
    return Settings(output, group_by, own.get("split"), None if steps is None else int(steps)), overrides


def timed_folder(run: Path) -> Path:
    """Return a folder for one evaluation, named by the time, in a run directory or the folder of all runs."""
    return RunDir(run).evaluations / datetime.now().strftime("%Y-%m-%d_%H-%M-%S-%f")


def hydra_directory(output: Path) -> str:
    """Return the override that makes Hydra work in ``output``."""
    return "hydra.run.dir='{}'".format(literal(str(output)).replace("'", "\\'"))


def write_results(scores: Scores, group_by: Sequence[str], output: Path, title: str) -> None:
    """Print the tables, and write tables, scores, statistics and pictures.

    Args:
        scores: of every utterance and system.
        group_by: what to group by.
        output: folder for ``scores.csv``, ``scores.parquet``, ``scores.md``, ``scores.tex``, ``summary.csv``,
            ``spread.png`` and, if grouped by ``snr``, ``snr.png``.
        title: what was evaluated on what, without a full stop.
    """
    from rich.console import Console

    from bcfusion.evaluation.score_files import write_parquet, write_summary
    from bcfusion.evaluation.summary import UNKNOWN, summarise
    from bcfusion.files import write_text
    from bcfusion.report.score_figures import score_figures
    from bcfusion.report.score_latex import latex_tables
    from bcfusion.report.score_tables import markdown_report, print_tables, terminal_tables
    from bcfusion.report.spectrogram import save_figure

    summary = summarise(scores, group_by)
    known = {by: groups for by, groups in summary.groups.items() if set(groups) != {UNKNOWN}}
    summary = replace(summary, groups=known)
    scores.write_csv(output / "scores.csv")
    write_summary(summary, output / "summary.csv")
    write_text(output / "scores.md", markdown_report(summary, title))
    write_text(output / "scores.tex", latex_tables(summary, title))
    print(f"{title}:")
    tables = terminal_tables(summary, Console().width)
    print_tables(tables, summary.skipped, summary.higher_is_better, summary.utterances)
    for by in group_by:
        if by not in known:
            print(f"group_by={by}: not known for any of these utterances")
    try:
        write_parquet(scores, output / "scores.parquet")
    except ImportError:
        print("scores.parquet is not written, because pyarrow is not installed: pip install pyarrow")
    figures = score_figures(scores, summary, title)
    for name, figure in figures.items():
        save_figure(figure, output / f"{name}.png")
    print(f"per utterance: {output / 'scores.csv'}")
    print(f"tables:        {output / 'scores.md'}, scores.tex (LaTeX), summary.csv")
    if figures:
        print(f"pictures:      {', '.join(str(output / f'{name}.png') for name in figures)}")
