"""A comparison as files: one table, or a folder with tables and figures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bcfusion.errors import CheckpointError
from bcfusion.files import write_text
from bcfusion.report.comparison.compare import Comparison, notes
from bcfusion.report.comparison.differences import differences_csv, differences_markdown
from bcfusion.report.comparison.reference import AgainstReference
from bcfusion.report.comparison.tables import csv_table, markdown_runs

__all__ = ["write_comparison"]


def write_comparison(output: Path, comparison: Comparison, against: AgainstReference | None) -> list[Path]:
    """Write one table, or a folder with all tables and figures.

    Args:
        output: a name ending in .md or .csv for one table, anything else for a folder.
        comparison: the runs in their order.
        against: differences of all runs to one of them, if there are any.

    Returns:
        The files that were written.

    Raises:
        CheckpointError: ``output`` cannot be written to.
    """
    try:
        if output.suffix == ".csv":
            return [write_text(output, csv_table(comparison))]
        if output.suffix == ".md":
            return [write_text(output, _markdown(comparison, against, []))]
        if output.is_file():
            raise CheckpointError(f"{output} is a file: give a folder, or a name ending in .md or .csv")
        figures = _figures(output, comparison)
        written = [
            write_text(output / "compare.md", _markdown(comparison, against, figures)),
            write_text(output / "runs.csv", csv_table(comparison)),
        ]
        if against is not None and against.found:
            table = differences_csv(against.found, against.reference)
            written.append(write_text(output / "differences.csv", table))
        return [*written, *figures]
    except OSError as error:
        raise CheckpointError(f"{output} cannot be written: {error.strerror or error}") from error


def _figures(folder: Path, comparison: Comparison) -> list[Path]:
    # here, because matplotlib takes a second that a table alone does not need
    from bcfusion.report.comparison.curves import curves_figure, distributions_figure
    from bcfusion.report.spectrogram import save_figure

    curves = "Learning curves, validation files; a ring marks the best checkpoint"
    figures = {
        "curves.png": curves_figure(comparison.by_name, comparison.metrics, curves),
        "scores.png": distributions_figure(comparison.by_name, comparison.metrics, "Closing scores of the utterances"),
    }
    return [save_figure(figure, folder / name) for name, figure in figures.items() if figure is not None]


def _markdown(comparison: Comparison, against: AgainstReference | None, figures: Sequence[Path]) -> str:
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
    if against is not None and (apart := against.apart_note):
        parts.append(f"{apart[0].upper()}{apart[1:]}.")
    parts += [f"![{figure.stem}]({figure.name})" for figure in figures]
    return "\n\n".join(parts) + "\n"
