"""scripts/screenshots.py: pictures of the page of ``bcfusion serve``."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from PIL import Image
from script_loading import load_script
from served_page import identities, running, write_microphone

pytestmark = pytest.mark.slow

pytest.importorskip("playwright", reason="playwright is not installed: pip install 'bcfusion[dev]'")


@pytest.mark.skipif(shutil.which("chromium") is None, reason="there is no chromium")
def test_a_result_and_live_sound_are_shot_as_high_as_the_page_is(tmp_path: Path) -> None:
    sound = write_microphone(tmp_path / "sound.wav")
    with running(identities(tmp_path)) as server:
        for name, options in (
            ("result", ["--model", "two", "--sound"]),
            ("live", ["--model", "one", "--seconds", "1", "--microphone"]),
        ):
            size = ["--width", "360", "--height", "740"]
            picture = tmp_path / f"{name}.png"
            load_script("screenshots").main(["serve", server.address, str(picture), *size, *options, str(sound)])
            with Image.open(picture) as shot:
                assert shot.width == 360
                assert shot.height > 800
                colours = {colour for _, colour in shot.convert("RGB").getcolors(1 << 24)}
            purple = [colour for colour in colours if colour[0] > 60 and colour[1] < 40 and colour[2] > 90]
            assert bool(purple) == (name == "result")  # of the spectrograms
