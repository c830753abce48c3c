"""The client of docs/serve.md works, and its tables are those of the server."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from serving_server import bundle, running

from bcfusion.live.steppers import open_stepper
from bcfusion.serving.live import CLOSING, COMPUTED, UNANSWERED
from bcfusion.serving.models import load_models

PAGE = Path(__file__).parents[2] / "docs" / "serve.md"


def test_the_client_of_the_page_streams(tmp_path: Path) -> None:
    [text] = re.findall(r'^```python title="live.py"\n(.*?)^```$', PAGE.read_text(), flags=re.DOTALL | re.MULTILINE)
    models = load_models([str(bundle(tmp_path / "throat_causal", ["body"]))], "torch")
    names: dict[str, object] = {}
    with running(models) as client:
        place = f"{client.place[0]}:{client.place[1]}"
        assert "127.0.0.1:8000" in text
        exec(compile(text.replace("127.0.0.1:8000", place), "live.py", "exec"), names)
    recording = np.asarray(names["recording"], dtype=np.float32)
    stepper = open_stepper(models["throat_causal"].path, "torch")
    frames = recording.T.reshape(20, 1, stepper.frame)
    np.testing.assert_array_equal(names["restored"], np.concatenate([stepper.step(frame) for frame in frames]))


def test_the_codes_and_numbers_of_the_page_are_those_of_the_server() -> None:
    text = PAGE.read_text()
    codes = {int(code) for code in re.findall(r"^\| (\d{4}) \|", text, flags=re.MULTILINE)}
    assert codes == {code for code, _ in CLOSING.values()} | {1009}
    assert f"{COMPUTED} frames of a client wait for computing and {UNANSWERED} for being answered" in text
