from __future__ import annotations

import base64
import io
import json
import re
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
import soundfile
from matplotlib.figure import Figure
from pictures import assert_nothing_is_covered

from bcfusion.data.inspect.checks import Severity
from bcfusion.data.inspect.findings import Finding
from bcfusion.data.inspect.inspection import Inspection, inspect_manifest
from bcfusion.report.inspect_page import figures, inspect_page

RATE = 16000


@pytest.fixture(scope="module")
def inspection(tmp_path_factory: pytest.TempPathFactory, speech: Path) -> Inspection:
    folder = tmp_path_factory.mktemp("page")
    lines = []
    for place, file in enumerate(sorted(speech.rglob("*.flac"))[:3]):
        samples = soundfile.read(file)[0]
        soundfile.write(folder / f"{place}.wav", samples, RATE)
        soundfile.write(folder / f"b{place}.wav", -0.5 * samples, RATE)
        names = {"air": f"{place}.wav", "body": f"b{place}.wav"}
        lines.append({"id": f"<u{place}>", "split": "train", "speaker": "s & t", **names})
    soundfile.write(folder / "silent.wav", np.zeros(RATE), RATE)
    lines.append({"air": "silent.wav", "split": "valid"})
    (folder / "m.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return inspect_manifest(folder / "m.jsonl", workers=1, progress=False)


@pytest.fixture(scope="module")
def drawn(inspection: Inspection) -> dict[str, Figure]:
    return figures(inspection)


@pytest.fixture(scope="module")
def page(inspection: Inspection) -> str:
    return inspect_page(inspection, [Finding(Severity.ERROR, "clipped", 1, 4, "record anew", ("<u0>: 3 %",))])


class Tags(HTMLParser):
    """Fails where a tag is closed that is not the open one."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.mark.slow
def test_page_is_whole_escaped_and_fits_a_phone(page: str) -> None:
    tags = Tags()
    tags.feed(page)
    assert tags.open == []
    assert 'name="viewport" content="width=device-width' in page
    assert "&lt;u0&gt;: 3 %" in page
    assert "s &amp; t" in page
    assert "<u0>" not in page
    assert re.search(r"clipped</b>, 1 of 4", page)


@pytest.mark.slow
def test_pictures_are_inside_and_not_blank(page: str, drawn: dict[str, Figure]) -> None:
    pictures = re.findall(r'src="data:image/png;base64,([^"]+)"', page)
    assert len(pictures) == len(drawn) == 9
    for picture in pictures:
        image = matplotlib.image.imread(io.BytesIO(base64.b64decode(picture)), format="png")
        assert image.shape[1] >= 800  # sharp on a phone
        assert len(np.unique(image[::3, ::3, 0])) > 10


def test_histograms_count_every_recording(drawn: dict[str, Figure]) -> None:
    figure = drawn["level of the speech"]
    axes = figure.axes[0]
    heights = sum(patch.get_height() for patch in axes.patches)  # type: ignore[attr-defined]
    assert heights == 7
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["air, n = 4", "body, n = 3"]


def test_no_bar_covers_another_and_no_legend_a_panel(drawn: dict[str, Figure]) -> None:
    for figure in drawn.values():
        assert_nothing_is_covered(figure)
    bars = sorted(
        (patch.get_x(), patch.get_x() + patch.get_width())  # type: ignore[attr-defined]
        for patch in drawn["level of the speech"].axes[0].patches
    )
    assert all(end <= begin + 1e-9 for (_, end), (begin, _) in pairwise(bars))


def test_differences_of_microseconds_do_not_fill_the_picture(drawn: dict[str, Figure]) -> None:
    low, high = drawn["lag of body, where certain by itself"].axes[0].get_xlim()
    assert high - low >= 1.0


def test_spectra_leave_out_silence(inspection: Inspection, drawn: dict[str, Figure]) -> None:
    assert inspection.spectra[("air", RATE)].count == 3
    curve = np.asarray(drawn["mean spectrum while somebody speaks"].axes[0].lines[0].get_ydata(), dtype=float)
    assert np.isfinite(curve).all()
    assert curve.max() > -12


@pytest.mark.slow
def test_a_manifest_without_pairs_has_no_pictures_of_them(tmp_path: Path, speech: Path) -> None:
    path = tmp_path / "m.jsonl"
    file = sorted(speech.rglob("*.flac"))[0]
    path.write_text(json.dumps({"id": "a", "air": str(file), "split": "train"}))
    shown = inspect_manifest(path, workers=1, progress=False)
    assert not any("lag" in title or "body over" in title for title in figures(shown))
    bare = inspect_page(shown, [])
    assert "Sessions" not in bare
    assert "Nothing was found." in bare
