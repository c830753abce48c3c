"""scripts/memory_enhance.py: its files, its table, and one measurement."""

from __future__ import annotations

from pathlib import Path

import pytest
import soundfile
from script_loading import load_script

script = load_script("memory_enhance")


def test_a_file_of_noise_has_the_length_and_the_channels_that_are_wanted(tmp_path: Path) -> None:
    script.noise_file(tmp_path / "a.rf64", 10.5, 8000, 2)
    samples, rate = soundfile.read(tmp_path / "a.rf64")
    assert (samples.shape, rate) == ((84_000, 2), 8000)
    assert samples.std() == pytest.approx(0.03, rel=0.01)


def test_a_table_has_a_row_for_each_model_and_two_columns_for_each_length() -> None:
    measured = [script.Measured(627.6, 0.0125, "whole"), script.Measured(655.2, 0.013, "streamed")]
    assert script.table([0.5, 10], {"a": measured}).splitlines() == [
        "| model | joined | 0.5 min: peak RSS, MB | real-time factor | 10 min: peak RSS, MB | real-time factor |",
        "| --- | --- | ---: | ---: | ---: | ---: |",
        "| `a` | streamed | 628 | 0.013 | 655 | 0.013 |",
    ]


@pytest.mark.slow
def test_memory_is_that_of_the_child_and_does_not_grow_with_the_file(tmp_path: Path) -> None:
    model = str(script.untrained("band_gain_causal", tmp_path))
    short, long = (script.measure(model, seconds, ["--chunk", "1"]) for seconds in (20, 120))
    assert long.joined == "streamed"
    assert 100 < short.megabytes < 2000
    assert abs(long.megabytes - short.megabytes) < 40
