from __future__ import annotations

import numpy as np
import pytest

from bcfusion.data.inspect.levels import clipped_samples, full_scale_samples, levels

RATE = 16000


def test_level_is_that_of_the_speech_not_of_the_pauses() -> None:
    rng = np.random.default_rng(0)
    speech = 0.1 * rng.standard_normal(RATE)
    pause = 0.001 * rng.standard_normal(3 * RATE)
    found = levels(np.concatenate([speech, pause]), RATE)
    assert found.level == pytest.approx(-20, abs=0.2)
    assert found.snr == pytest.approx(40, abs=1)
    assert found.silent_share == pytest.approx(0.75, abs=0.01)


def test_dc_is_separated_from_the_speech() -> None:
    speech = 0.1 * np.random.default_rng(0).standard_normal(RATE)
    found = levels(speech - speech.mean() + 0.01, RATE)
    assert found.dc == pytest.approx(-20, abs=0.2)
    assert found.level == pytest.approx(-20, abs=0.2)


def test_silence_has_no_level_and_no_error() -> None:
    for samples in (np.zeros(RATE), np.full(RATE, 0.25), np.zeros(1)):
        found = levels(samples, RATE)
        assert (found.level, found.snr, found.silent_share) == (-120.0, 0.0, 1.0)


def test_clipping_is_found_at_any_level_and_only_where_tops_are_flat() -> None:
    speech = 0.3 * np.random.default_rng(0).standard_normal(RATE).cumsum() / 100
    speech = speech - speech.mean()
    top = np.quantile(np.abs(speech), 0.9)
    clipped = speech.clip(-top, top)
    assert clipped_samples(speech) == 0
    assert clipped_samples(clipped) == pytest.approx(0.1 * RATE, rel=0.05)
    assert clipped_samples(0.5 / top * clipped) == clipped_samples(clipped)
    assert clipped_samples(-clipped) == clipped_samples(clipped)


def test_equal_samples_of_a_quiet_recording_are_rounding() -> None:
    quiet = np.round(3 * np.sin(2 * np.pi * 50 * np.arange(RATE) / RATE)) / 2**15
    assert clipped_samples(quiet) == 0


def test_a_block_of_a_stream_is_clipped_where_it_reaches_full_scale() -> None:
    moments = np.arange(160) / 16000
    wave = np.sin(2 * np.pi * 100 * moments)  # one period: a flat top on either side
    assert full_scale_samples(np.stack([0.9 * wave, np.clip(2 * wave, -1, 1)])) > 80
    assert full_scale_samples(0.99 * wave) == 0
    assert clipped_samples(np.clip(2 * wave, -1, 1)) == 0, "what one block does not tell"
