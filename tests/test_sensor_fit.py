"""scripts/sensor_fit.py: what it measures on signals whose answers are known."""

from __future__ import annotations

import numpy as np
import pytest
from script_loading import load_script

RATE = 16000


def test_measures_of_a_copy_and_of_an_unrelated_signal() -> None:
    script = load_script("sensor_fit")
    rng = np.random.default_rng(0)
    time = np.arange(3 * RATE) / RATE
    syllables = np.maximum(np.sin(2 * np.pi * 2.0 * time), 0.0) * (time % 1.5 < 1.0)
    air, other = ((0.1 * syllables * rng.standard_normal(len(time))).astype(np.float32) + 1e-5 for _ in range(2))
    same, unrelated = script.measures(0.5 * air, air), script.measures(other, air)
    assert min(same["coherence"]) > 0.999
    assert max(unrelated["coherence"]) < 0.2
    assert min(same["correlation with air"]) > 0.999
    assert max(same["ratio deviation, dB"]) < 1e-3
    np.testing.assert_allclose(
        same["speech re air, dB"], np.add(script.measures(air, air)["speech re air, dB"], -6.02), atol=0.01
    )
    assert same["STOI"][0] == pytest.approx(1.0, abs=1e-3)
    assert unrelated["STOI"][0] < 0.7
    assert same["pauses re speech, dB"][3] < -20.0
