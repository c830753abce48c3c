"""Comparisons as files: tables in one file, or a folder with tables and figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from bcfusion.errors import CheckpointError
from bcfusion.files import write_text
from bcfusion.report.comparison.compare import Comparison, notes
from bcfusion.report.comparison.differences import differences_csv, differences_markdown
from bcfusion.report.comparison.reference import AgainstReference
from bcfusion.report.comparison.tables import csv_table, latex_runs, markdown_runs

__all__ = ["write_comparison"]


def write_comparison(
    output: Path, comparisons: Sequence[Comparison], against: Sequence[AgainstReference | None]
) -> list[Path]:
    """Write one file with the tables, or a folder with all tables and figures.

    Args:
        output: a name ending in .md, .tex or .csv for one file, anything else for a folder.
        comparisons: the runs of each recipe in their order.
        against: for each of them the differences of all runs to one, if there are any.

    Returns:
        The files that were written.

    Raises:
        CheckpointError: ``output`` cannot be written to.
    """
    pairs = list(zip(comparisons, against, strict=True))
    try:
        if output.suffix == ".csv":
            return [write_text(output, csv_table(*comparisons))]
        if output.suffix == ".tex":
            return [write_text(output, _latex(comparisons))]
        if output.suffix == ".md":
            return [write_text(output, _markdown(pairs, {}))]
        if output.is_file():
            raise CheckpointError(f"{output} is a file: give a folder, or a name ending in .md, .tex or .csv")
        figures = {comparison.recipe: _figures(output, comparison, len(comparisons) > 1) for comparison in comparisons}
        written = [
            write_text(output / "compare.md", _markdown(pairs, figures)),
            write_text(output / "compare.tex", _latex(comparisons)),
            write_text(output / "runs.csv", csv_table(*comparisons)),
        ]
        tables = {each.comparison.recipe: (each.reference, each.found) for each in against if each and each.found}
        if tables:
            written.append(write_text(output / "differences.csv", differences_csv(tables)))
        return [*written, *(figure for of_recipe in figures.values() for figure in of_recipe)]
    except OSError as error:
        raise CheckpointError(f"{output} cannot be written: {error.strerror or error}") from error


def _figures(folder: Path, comparison: Comparison, several: bool) -> list[Path]:
    # here, because matplotlib takes a second that a table alone does not need
    from bcfusion.report.comparison.curves import curves_figure, distributions_figure
    from bcfusion.report.spectrogram import save_figure

    of = f" of {comparison.recipe}" if several else ""
    end = f"-{comparison.recipe}.png" if several else ".png"
    curves = f"Learning curves{of}, validation files; a ring marks the best checkpoint"
    scores = f"Closing scores{of} over the utterances"
    figures = {
        f"curves{end}": curves_figure(comparison.by_name, comparison.metrics, curves),
        f"scores{end}": distributions_figure(comparison.by_name, comparison.metrics, scores),
    }
    return [save_figure(figure, folder / name) for name, figure in figures.items() if figure is not None]


def _latex(comparisons: Sequence[Comparison]) -> str:
    return "\n\n".join(map(latex_runs, comparisons)) + "\n"


def _markdown(
    pairs: Sequence[tuple[Comparison, AgainstReference | None]], figures: Mapping[str, Sequence[Path]]
) -> str:
    parts = [part for pair in pairs for part in _section(*pair, figures.get(pair[0].recipe, ()))]
    return "\n\n".join(parts) + "\n"


def _section(comparison: Comparison, against: AgainstReference | None, figures: Sequence[Path]) -> list[str]:
    parts = [f"# {comparison.caption}", markdown_runs(comparison)]
    if lines := notes(comparison):
        parts.append("\n".join(f"- {line}" for line in lines))
    if against is not None and against.found:
        parts += [
            "## Differences",
            f"To {against.reference}, in pairs of the utterances that both closing evaluations scored, with bootstrap "
            "95 % intervals; bold if the interval does not include 0.",
            differences_markdown(against.found, against.reference),
            *("\n".join(f"- {line}" for line in texts) for texts in against.sentences),
        ]
    if against is not None:
        parts += [f"{note[0].upper()}{note[1:]}." for note in against.apart_notes]
    return parts + [f"![{figure.stem}]({figure.name})" for figure in figures]
