"""scripts/screenshots.py: pictures of pages for the docs."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from PIL import Image
from script_loading import load_script

pytestmark = pytest.mark.slow

pytest.importorskip("playwright", reason="playwright is not installed: pip install 'bcfusion[dev]'")


@pytest.mark.skipif(shutil.which("chromium") is None, reason="there is no chromium")
def test_a_page_is_shot_in_the_size_of_its_window_after_the_script_has_run(tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text("<body style='margin:0'><div style='height:99px;background:#00f'></div>")
    size = ["--width", "360", "--height", "200", "--scale", "2"]
    red = ["--script", "document.body.style.background = '#f00'"]
    load_script("screenshots").main(["page", str(tmp_path / "page.html"), str(tmp_path / "page.png"), *size, *red])
    with Image.open(tmp_path / "page.png") as picture:
        assert picture.size == (720, 400)
        colours = picture.convert("RGB")
        assert colours.getpixel((10, 10)) == (0, 0, 255)
        assert colours.getpixel((10, 390)) == (255, 0, 0)
