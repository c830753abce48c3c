from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
from scipy import signal

from bcfusion.data.inspect.alignment import ENOUGH, Alignment, alignment, session_alignment
from bcfusion.data.inspect.certainty import all_believed, settled, with_common_polarity

RATE = 16000
# Responses of sensors, all of minimum phase: sections of second order.
SENSORS: dict[str, np.ndarray] = {
    "second order, 500 Hz": signal.butter(2, 500, fs=RATE, output="sos"),
    "fourth order, 800 Hz": signal.butter(4, 800, fs=RATE, output="sos"),
    "sixth order, 1500 Hz": signal.butter(6, 1500, fs=RATE, output="sos"),
    "ripple": signal.cheby1(3, 1, 1000, fs=RATE, output="sos"),
    "AC-coupled, with a resonance": np.concatenate(
        [
            signal.butter(1, 50, "high", fs=RATE, output="sos"),
            signal.butter(2, 900, fs=RATE, output="sos"),
            [[0.1, 0, 0, 1, -2 * 0.97 * np.cos(2 * np.pi * 400 / RATE), 0.97**2]],
        ]
    ),
}


def shifted(samples: np.ndarray, seconds: float) -> np.ndarray:
    """Delay a signal by any fraction of a sample, through its spectrum."""
    padded = np.concatenate([samples, np.zeros(4096)])
    turn = np.exp(-2j * np.pi * np.fft.rfftfreq(len(padded), 1 / RATE) * seconds)
    return np.fft.irfft(np.fft.rfft(padded) * turn, len(padded))[: len(samples)]


def worn(air: np.ndarray, sensor: np.ndarray, lag: float, polarity: int, snr: float, seed: int = 0) -> np.ndarray:
    """What a body sensor records: filtered, late, inverted, and with noise of its own, ``snr`` dB below the speech."""
    body = polarity * shifted(signal.sosfilt(sensor, air), lag)
    noise = np.random.default_rng(seed).standard_normal(len(air))
    return body + noise * np.std(body) * 10 ** (-snr / 20)


@pytest.fixture(scope="module")
def voices(speech: Path) -> list[np.ndarray]:
    return [soundfile.read(path)[0] for path in sorted(speech.rglob("*.flac"))]


@pytest.mark.parametrize("name", SENSORS)
@pytest.mark.parametrize(("lag", "polarity", "snr"), [(0.00513, -1, 30), (-0.001397, 1, 20), (0.0000217, -1, 20)])
def test_lag_and_polarity_are_found_despite_the_sensors_own_delay(
    voices: list[np.ndarray], name: str, lag: float, polarity: int, snr: float
) -> None:
    air = voices[len(name) % len(voices)]
    found = alignment(worn(air, SENSORS[name], lag, polarity, snr), air, RATE)
    assert found.lag_seconds == pytest.approx(lag, abs=0.2e-3)
    assert found.polarity == polarity
    assert found.confidence >= ENOUGH


@pytest.mark.slow
@pytest.mark.parametrize("cutoff", [600, 800, 1100, 1500])
@pytest.mark.parametrize("polarity", [1, -1])
def test_known_shifts_are_found_to_a_fifth_of_a_millisecond(
    voices: list[np.ndarray], cutoff: int, polarity: int
) -> None:
    for order in (2, 4):
        sensor = signal.butter(order, cutoff, fs=RATE, output="sos")
        for place, lag in enumerate((0.0, 0.1e-3, 0.33e-3, 1.7e-3, -2.4e-3, 25e-3)):
            air = voices[place % len(voices)]
            found = alignment(worn(air, sensor, lag, polarity, 20, seed=place), air, RATE)
            assert found.lag_seconds == pytest.approx(lag, abs=0.2e-3)
            assert found.polarity == polarity
            assert found.confidence >= ENOUGH


def test_a_long_lag_is_found_in_the_shortest_snippet_that_the_search_allows(voices: list[np.ndarray]) -> None:
    # Half a frame must hold the whole search, or the lag is found at its alias.
    loud = int(np.argmax(np.convolve(np.square(voices[0]), np.ones(RATE // 2), mode="valid")))
    air = voices[0][loud : loud + round(0.36 * RATE)]
    for lag in (-0.031, 0.036):
        body = shifted(voices[0], lag)[loud : loud + len(air)]
        assert alignment(body, air, RATE, max_lag=0.05).lag_seconds == pytest.approx(lag, abs=0.1e-3)


def test_a_plain_correlation_takes_the_filters_delay_for_a_lag(voices: list[np.ndarray]) -> None:
    air, sensor = voices[0], SENSORS["fourth order, 800 Hz"]
    body = worn(air, sensor, 0.0, 1, 40)
    correlation = signal.correlate(body, air)
    plain = (int(np.abs(correlation).argmax()) - len(air) + 1) / RATE
    assert plain == pytest.approx(8.5 / RATE, abs=1.5 / RATE)  # half a millisecond
    assert abs(alignment(body, air, RATE).lag_seconds) < 0.1e-3


def test_without_a_filter_a_fraction_of_a_sample_is_reported(voices: list[np.ndarray]) -> None:
    for part in (0.0, 0.3, 0.5, -0.8):
        body = shifted(voices[1], (20 + part) / RATE)
        assert alignment(body, voices[1], RATE).lag_seconds * RATE == pytest.approx(20 + part, abs=0.01)


@pytest.mark.parametrize("rate", [8000, 44100, 48000])
def test_other_sample_rates(voices: list[np.ndarray], rate: int) -> None:
    air = signal.resample(voices[0], round(len(voices[0]) * rate / RATE))
    body = -np.roll(signal.sosfilt(signal.butter(3, 700, fs=rate, output="sos"), air), round(0.003 * rate))
    found = alignment(body, air, rate)
    assert found.lag_seconds == pytest.approx(round(0.003 * rate) / rate, abs=0.2e-3)
    assert found.polarity == -1


def test_level_and_offset_do_not_matter(voices: list[np.ndarray]) -> None:
    body = worn(voices[2], SENSORS["fourth order, 800 Hz"], 0.002, -1, 20)
    plain = alignment(body, voices[2], RATE)
    changed = alignment(1e-3 * body + 0.2, 5 * voices[2], RATE)
    assert changed.lag_seconds == pytest.approx(plain.lag_seconds, abs=1e-6)
    assert changed.polarity == plain.polarity


def test_other_speech_has_no_lag(voices: list[np.ndarray]) -> None:
    others = voices[1:] + voices[:1]
    confidences = [alignment(a[: len(b)], b[: len(a)], RATE).confidence for a, b in zip(voices, others, strict=True)]
    assert max(confidences) < ENOUGH


def test_silence_and_snippets_are_uncertain_without_an_error() -> None:
    noise = np.random.default_rng(0).standard_normal(RATE)
    for body, air in (
        (np.zeros(RATE), noise),
        (noise, np.zeros(RATE)),
        (noise[:3000], noise[:3000]),
        (noise[:0], noise),
    ):
        assert alignment(body, air, RATE) == Alignment(0.0, 1, 0.0)


def test_a_lag_beyond_the_search_is_not_made_up(voices: list[np.ndarray]) -> None:
    body = shifted(voices[0], 0.15)
    assert alignment(body, voices[0], RATE).confidence < ENOUGH
    found = alignment(body, voices[0], RATE, max_lag=0.3)
    assert found.lag_seconds == pytest.approx(0.15, abs=1e-5)
    assert found.confidence >= ENOUGH


def test_the_polarity_of_nearly_all_is_known_where_a_take_is_not_sure() -> None:
    def take(lag: float, polarity: int, confidence: float, other: float = 0.6) -> Alignment:
        known = (Alignment(lag, polarity, 0.7), Alignment(lag - 0.0006, -polarity, other))
        return Alignment(lag, polarity, confidence, known)

    sure = [take(0.0002 * k, -1, 0.9) for k in range(4)]
    wrong, hidden, convinced = take(0.0005, 1, 0.6), take(0.0002, -1, 0.4), take(0.0005, 1, 0.8)
    found = with_common_polarity([*sure, wrong, None, hidden])
    assert found[:4] == sure
    assert found[4:] == [Alignment(0.0005 - 0.0006, -1, 0.6), None, Alignment(0.0002, -1, 0.7)]
    assert with_common_polarity([*sure, convinced])[-1] == convinced  # its wires may really be crossed
    assert with_common_polarity([*sure[:3], hidden])[-1] == hidden  # too few to know
    assert with_common_polarity([*sure, convinced, convinced, wrong])[-1] == wrong  # no polarity is that of nearly all


@pytest.mark.corpora
def test_every_recording_of_a_real_sensor_has_the_polarity_of_the_sensor(corpora: Path) -> None:
    for name, polarity, low, high in (
        ("throat_pairs", -1, -0.7, -0.1),
        ("throat_pairs_2", -1, -0.7, 0.5),
        ("taps_pairs", 1, -0.7, 1.0),
    ):
        files = sorted((corpora / name / "air").glob("*.flac"))
        pairs = [(soundfile.read(corpora / name / "throat" / file.name)[0], soundfile.read(file)[0]) for file in files]
        found = with_common_polarity([alignment(body, air, RATE) for body, air in pairs])
        assert {each.polarity for each in found if each is not None} == {polarity}
        assert all(each is not None and each.confidence >= ENOUGH for each in found)
        assert all(low < 1e3 * each.lag_seconds < high for each in found if each is not None)


def test_a_session_outvotes_uncertain_takes() -> None:
    sure = [Alignment(0.0021 + 1e-5 * k, -1, 0.9) for k in range(5)]
    found = session_alignment([*sure, Alignment(-0.006, 1, 0.2), Alignment(0.013, -1, 0.1)])
    assert found.lag_seconds == pytest.approx(0.00212, abs=1e-4)
    assert found.polarity == -1
    assert found.confidence > 0.9


def test_short_takes_that_agree_are_believed_together_but_not_alone() -> None:
    take = Alignment(0.002, 1, 1 / 3)
    assert session_alignment([take]).confidence < ENOUGH < session_alignment([take] * 3).confidence


def test_a_session_whose_takes_disagree_is_not_believed() -> None:
    assert session_alignment([Alignment(0.004 * k, 1, 0.4) for k in range(6)]).confidence < ENOUGH
    assert session_alignment([Alignment(0.0, 1, 0.0)]).confidence == 0


@pytest.mark.corpora
@pytest.mark.parametrize("name", SENSORS)
def test_on_real_speech(corpora: Path, name: str) -> None:
    files = sorted((corpora / "librispeech_clips" / "valid").rglob("*.flac"))[::8]
    errors = []
    for place, file in enumerate(files):
        air = soundfile.read(file, frames=5 * RATE)[0]
        lag, polarity = 0.0013 * place - 0.0014, 1 - 2 * (place % 2)
        found = alignment(worn(air, SENSORS[name], lag, polarity, 20, seed=place), air, RATE)
        assert found.polarity == polarity
        errors.append(abs(found.lag_seconds - lag))
    assert max(errors) < 0.2e-3


@pytest.mark.corpora
def test_throat_microphones_are_inverted_and_get_the_voice_half_a_millisecond_before_the_lips(corpora: Path) -> None:
    found = []
    for file in sorted((corpora / "throat_pairs" / "throat").glob("*.flac")):
        body, air = soundfile.read(file)[0], soundfile.read(corpora / "throat_pairs" / "air" / file.name)[0]
        whole = alignment(body, air, RATE)
        third = len(air) // 3
        parts = [alignment(body[k * third :][:third], air[k * third :][:third], RATE) for k in range(3)]
        assert whole.confidence >= ENOUGH
        # The truth is not known: each third, a second and a half long, agrees with the whole or is uncertain.
        parts = [part for part in parts if part.confidence > 0.1]
        assert len(parts) >= 2
        assert {part.polarity for part in parts} == {whole.polarity}
        assert max(abs(part.lag_seconds - whole.lag_seconds) for part in parts) < 0.2e-3
        found.append(whole)
    assert [each.polarity for each in found] == [-1] * 8
    assert np.median([each.lag_seconds for each in found]) == pytest.approx(-0.5e-3, abs=0.1e-3)


def test_parts_are_measured_separately(voices: list[np.ndarray]) -> None:
    # A recorder that loses samples in the middle: half the parts contradict the other half.
    air = np.concatenate([voices[0], voices[1]])
    body = np.concatenate([voices[0], shifted(voices[1], 0.004)])
    steady, broken = alignment(air.copy(), air, RATE), alignment(body, air, RATE)
    assert steady.confidence == 1.0
    assert broken.confidence <= 0.6


def test_the_sensors_of_a_corpus_have_their_own_polarity() -> None:
    """Four are wired the other way round: they say nothing about the fifth."""

    def take(number: int, sensor: str, polarity: int, confidence: float) -> tuple[SimpleNamespace, Alignment]:
        known = (Alignment(0.0, polarity, confidence), Alignment(0.0, -polarity, confidence - 0.1))
        about = SimpleNamespace(id=str(number), speaker=f"s{number}", extra={"sensor": sensor})
        return about, Alignment(0.0, polarity, confidence, known)

    inverted = [take(number, "throat", -1, 0.9) for number in range(20)]
    upright = [take(number, "temple", 1, 0.6) for number in range(20, 25)]
    takes, found = zip(*inverted, *upright, strict=True)
    assert settled(takes, found) == list(found)
    assert [each.polarity for each in all_believed(takes, found) if each is not None] == [-1] * 20 + [1] * 5
