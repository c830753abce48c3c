"""scripts/long_files.py: its recordings and its table, and that memory does not grow with the length of a recording."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
from script_loading import load_script

script = load_script("long_files")


def test_a_recording_has_a_burst_in_each_minute_and_hardly_takes_space(tmp_path: Path) -> None:
    file = tmp_path / "rec" / "a.flac"
    assert script.recording(file, 2.5, lag=20) == 150 * script.RATE
    samples, rate = soundfile.read(file)
    assert (len(samples), rate) == (150 * script.RATE, script.RATE)
    assert [int(np.flatnonzero(minute)[0]) for minute in np.split(samples[: 120 * rate], 2)] == [rate + 20] * 2
    assert file.stat().st_size < 100_000


def test_a_table_has_a_row_for_each_length_and_two_columns_for_each_verb() -> None:
    measured = {verb: script.Measured(650.6, 2.25) for verb in script.VERBS}
    assert script.table({600.0: measured}).splitlines()[2] == "| 600 min | 651 | 2.2 | 651 | 2.2 | 651 | 2.2 |"


@pytest.mark.slow
def test_memory_does_not_grow_with_the_length_of_a_recording(tmp_path: Path) -> None:
    model = str(script.untrained("identity", tmp_path, script.RATE))
    short, long = (script.measure(minutes, model) for minutes in (10, 40))
    for verb in script.VERBS:  # 30 minutes are 58 MB as float32
        assert 50 < short[verb].megabytes < 2000
        assert abs(long[verb].megabytes - short[verb].megabytes) < 20, verb
