from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import soundfile
from scipy import signal

from bcfusion.data.inspect.bandwidth import band_powers, effective_bandwidth, top_activity

RATE = 16000


def syllables(seconds: float = 4.0, rate: int = RATE, seed: int = 0) -> np.ndarray:
    """Noise that falls by 6 dB per octave and comes in bursts, over a floor 60 dB below: as broad as speech can be."""
    rng = np.random.default_rng(seed)
    time = np.arange(round(seconds * rate)) / rate
    bursts = np.clip(np.sin(2 * np.pi * 2.5 * time), 0, None)
    coloured = signal.lfilter([1], [1, -0.8], rng.standard_normal(len(time)))
    return 0.05 * (bursts * coloured + 1e-3 * rng.standard_normal(len(time)))


def stored(samples: np.ndarray) -> np.ndarray:
    """Rounded to 16 bits."""
    return np.round(samples * 2**15) / 2**15


@pytest.mark.parametrize(("rate", "origin"), [(16000, 8000), (16000, 11025), (48000, 16000), (44100, 22050)])
def test_an_upsampled_file_is_detected(rate: int, origin: int) -> None:
    samples = syllables(rate=rate)
    low = signal.resample(samples, round(len(samples) * origin / rate))
    upsampled = stored(signal.resample(low, len(samples)))
    assert effective_bandwidth(stored(samples), rate) > 0.95 * rate / 2
    assert effective_bandwidth(upsampled, rate) == pytest.approx(origin / 2, abs=250)


def test_what_a_short_resampler_lets_through_does_not_count() -> None:
    # Its images move with the speech, up to half the sample rate, but 40 dB and more below.
    upsampled = signal.resample_poly(syllables()[::2], 2, 1)
    assert effective_bandwidth(stored(upsampled), RATE) == pytest.approx(4000, abs=600)


def test_a_steady_hiss_is_not_bandwidth() -> None:
    low = signal.sosfilt(signal.butter(12, 3400, fs=RATE, output="sos"), syllables())
    hiss = 3e-4 * np.random.default_rng(1).standard_normal(len(low))
    assert effective_bandwidth(low + hiss, RATE) == pytest.approx(4000, abs=600)


def test_of_a_steady_noise_it_is_where_the_noise_ends() -> None:
    noise = 0.1 * np.random.default_rng(0).standard_normal(3 * RATE)
    assert effective_bandwidth(noise, RATE) == RATE / 2
    low = signal.sosfilt(signal.ellip(8, 0.1, 80, 5000, fs=RATE, output="sos"), noise)
    assert effective_bandwidth(low, RATE) == pytest.approx(5000, abs=300)


def test_silence_rounding_and_snippets_have_none() -> None:
    rounding = np.random.default_rng(0).integers(-1, 2, RATE) / 2**15
    for samples in (np.zeros(RATE), rounding, syllables()[:1000], np.zeros(0)):
        assert effective_bandwidth(samples, RATE) == 0


def test_band_powers_add_up_to_the_power_of_the_samples() -> None:
    samples = syllables()
    assert band_powers(samples, RATE).sum(axis=1).mean() == pytest.approx(np.mean(samples**2), rel=0.03)
    tone = np.sin(2 * np.pi * 1060 * np.arange(RATE) / RATE)
    powers = band_powers(tone, RATE).mean(axis=0)
    assert powers.argmax() == 8  # 1000 to 1125 Hz
    assert powers[7:10].sum() == pytest.approx(0.5, rel=0.01)


def test_top_activity_ignores_an_offset() -> None:
    samples = syllables()
    clean = top_activity(band_powers(samples, RATE))
    assert clean > 25
    assert top_activity(band_powers(samples + 0.25, RATE)) == pytest.approx(clean, abs=1)
    low = signal.sosfilt(signal.butter(12, 6000, fs=RATE, output="sos"), samples)
    hiss = 5e-5 * np.random.default_rng(1).standard_normal(len(low))
    assert top_activity(band_powers(low + hiss, RATE)) < 10


@pytest.mark.corpora
def test_real_speech_fills_its_band_but_for_the_mp3_in_it(corpora: Path) -> None:
    with (corpora / "manifest.csv").open(newline="") as text:
        clips = [row for row in csv.DictReader(text) if row["corpus"] == "librispeech_clips"]
    assert len(clips) == 251
    ends = {}
    for row in [*clips[::25], next(row for row in clips if "2910-131096" in row["path"])]:
        samples, rate = soundfile.read(corpora / row["path"])
        ends[Path(row["path"]).stem] = effective_bandwidth(samples, rate)
    assert ends.pop("2910-131096-0000") == 7000
    assert min(ends.values()) >= 7600
    samples, rate = soundfile.read(next((corpora / "mrt_48k").rglob("*.flac")))
    assert effective_bandwidth(samples, rate) > 20000
