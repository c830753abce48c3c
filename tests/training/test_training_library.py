"""The module trains with a plain Lightning trainer and a plain loader: the example of docs/library.md."""

from __future__ import annotations

import math
import re
import runpy
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "library.md"


@pytest.mark.slow
def test_the_example_of_the_library_page_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    [code] = re.findall(r'^```python title="train\.py"\n(.*?)^```$', PAGE.read_text(), flags=re.DOTALL | re.MULTILINE)
    (tmp_path / "train.py").write_text(code)
    example = runpy.run_path(str(tmp_path / "train.py"))
    assert example["module"].step == 4
    assert example["module"].guard.skipped == {"generator": 0, "discriminator": 0}
    assert {"loss/l1", "loss/feature_matching", "loss/adversarial", "discriminator/loss"} < set(example["log"])
    assert all(math.isfinite(value) for value in example["log"].values())
