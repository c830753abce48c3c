"""What every picture must fulfil."""

from __future__ import annotations

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure


def assert_nothing_is_covered(figure: Figure) -> None:
    """Check that no legend lies over a panel, and that no text is cut by the border of the picture.

    Raises:
        AssertionError: with the text that does.
    """
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    renderer = canvas.get_renderer()
    panels = [axes.get_window_extent(renderer) for axes in figure.axes if axes.axison]
    legends = [*figure.legends, *(legend for axes in figure.axes if (legend := axes.get_legend()) is not None)]
    for legend in legends:
        box = legend.get_window_extent(renderer).padded(-1)
        names = [text.get_text() for text in legend.get_texts()]
        assert not any(box.overlaps(panel) for panel in panels), f"the legend {names} covers a panel"
        _assert_inside(figure, box, str(names))
    for axes in figure.axes:
        box = axes.get_tightbbox(renderer)
        if box is not None:
            _assert_inside(figure, box, axes.get_title(loc="left") or axes.get_xlabel())


def _assert_inside(figure: Figure, box: object, what: str) -> None:
    width, height = figure.get_size_inches() * figure.dpi
    assert box.x0 >= -1, f"{what} is cut at the left"  # type: ignore[attr-defined]
    assert box.y0 >= -1, f"{what} is cut at the bottom"  # type: ignore[attr-defined]
    assert box.x1 <= width + 1, f"{what} is cut at the right"  # type: ignore[attr-defined]
    assert box.y1 <= height + 1, f"{what} is cut at the top"  # type: ignore[attr-defined]
