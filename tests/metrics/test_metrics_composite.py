"""Composite measures, compared with published values and with plain computations."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.linalg import solve_toeplitz

from bcfusion.contracts import Skip
from bcfusion.errors import ConfigError
from bcfusion.metrics.composite import Composite, composite_ratings, raw_pesq
from bcfusion.metrics.frame_distances import (
    BAND_CENTRES,
    critical_bands,
    log_likelihood_ratio,
    nearest_mean,
    segmental_snr,
    weighted_spectral_slope,
    windowed_frames,
)
from bcfusion.metrics.pesq import Pesq

RATE = 16_000


def speech_like(seconds: float = 2.0, rate: int = RATE) -> np.ndarray:
    generator = np.random.default_rng(0)
    time = np.arange(round(seconds * rate)) / rate
    phase = 2 * np.pi * np.cumsum(120 + 20 * np.sin(2 * np.pi * 0.7 * time)) / rate
    harmonics = sum(np.sin(k * phase) / k for k in range(1, 30))
    syllables = np.maximum(np.sin(2 * np.pi * 4 * time), 0) ** 0.5
    breath, floor = generator.standard_normal((2, time.size))
    return 0.1 * syllables * (harmonics + 0.3 * breath) + 1e-3 * floor


def noisy(target: np.ndarray, snr_db: float) -> np.ndarray:
    noise = np.random.default_rng(1).standard_normal(target.size)
    return target + noise * np.sqrt(np.mean(target**2) / np.mean(noise**2)) * 10 ** (-snr_db / 20)


@pytest.mark.parametrize(
    ("pesq", "csig", "cbak", "covl", "seg_snr"),
    [
        # what the authors print for their example, sp09.wav enhanced by log-MMSE
        (2.2557, 3.3050, 2.6160, 2.7133, 3.9917),
        # the noisy test set of VoiceBank-DEMAND, table 1 of S. Pascual et al., "SEGAN", 2017
        (1.97, 3.35, 2.44, 2.63, 1.68),
    ],
)
def test_published_ratings_belong_together(pesq: float, csig: float, cbak: float, covl: float, seg_snr: float) -> None:
    # LLR and WSS are not published; two of the three ratings determine them, and the third must follow
    zero = composite_ratings(0.5, 0.0, 0.0, 0.0)
    per_llr = [a - b for a, b in zip(composite_ratings(0.5, 0.1, 0.0, 0.0), zero, strict=True)]
    assert per_llr == pytest.approx([-0.1029, 0.0, -0.0512])
    matrix = np.array([[1.029, 0.009], [0.512, 0.007]])
    llr, wss = np.linalg.solve(matrix, [3.093 + 0.603 * pesq - csig, 1.594 + 0.805 * pesq - covl])
    assert 0.3 < llr < 1.0
    assert 20 < wss < 60
    assert composite_ratings(pesq, llr, wss, seg_snr) == pytest.approx((csig, cbak, covl), abs=2e-3)


def test_the_raw_score_of_p862_is_undone_from_the_mapped_one() -> None:
    assert raw_pesq(1.862743616104126) == pytest.approx(2.2557, abs=1e-4)  # from the same published example
    assert raw_pesq(4.5486) == pytest.approx(4.5, abs=1e-3)  # the top of both scales


@pytest.mark.parametrize(("mode", "rates"), [("wb", (16_000, 48_000)), ("nb", (8_000, 16_000, 48_000))])
def test_the_target_itself_has_the_best_ratings_at_any_rate_that_holds_the_band(mode: str, rates: list[int]) -> None:
    for rate in rates:
        target = speech_like(1.0, rate)
        values = Composite(mode).score(target, target, rate)  # type: ignore[arg-type]
        assert list(values.values()) == pytest.approx([5.0, 5.0, 5.0, 35.0])
    ending = "_nb" if mode == "nb" else ""
    assert list(values) == [name + ending for name in ("csig", "cbak", "covl", "seg_snr")]


def test_ratings_stay_on_their_scale_and_fall_with_the_noise() -> None:
    target = speech_like()
    rows = [Composite().score(noisy(target, snr), target, RATE) for snr in (45, 15, -30)]
    for name in ("csig", "cbak", "covl"):
        assert 5 >= rows[0][name] > rows[1][name] > rows[2][name] >= 1
    assert rows[0]["csig"] == 5.0
    assert composite_ratings(1.0, 4.0, 100.0, -10.0) == (1.0, 1.0, 1.0)


def test_a_delay_of_one_sample_costs_the_segmental_snr() -> None:
    target = np.random.default_rng(0).standard_normal(RATE)
    late = Composite().score(np.r_[0.0, target[:-1]], target, RATE)
    assert late["seg_snr"] == pytest.approx(-3, abs=0.2)  # two uncorrelated signals: the noise has twice the power


def test_frames_are_as_in_the_published_program_which_leaves_the_last_one_out() -> None:
    frames = windowed_frames(np.ones(RATE), RATE)
    assert frames.shape == (RATE // 120 - 4, 480)  # in samples, length / hop - window / hop
    assert windowed_frames(np.ones(599), RATE).shape == (0, 480)
    assert windowed_frames(np.ones(600), RATE).shape == (1, 480)


def test_segmental_snr_of_a_gain_is_the_same_in_every_frame_and_limited() -> None:
    frames = windowed_frames(speech_like(), RATE)
    assert segmental_snr(frames, 1.1 * frames) == pytest.approx(np.full(len(frames), 20.0))
    assert segmental_snr(frames, frames) == pytest.approx(np.full(len(frames), 35.0))
    assert segmental_snr(frames, 9 * frames) == pytest.approx(np.full(len(frames), -10.0))


def plain_ratios(target: np.ndarray, estimate: np.ndarray) -> np.ndarray:
    """Return the log-likelihood ratio of each pair of frames from its definition, by solving Toeplitz systems."""
    ratios = []
    for x, y in zip(target, estimate, strict=True):
        of_x, of_y = (np.array([np.sum(z[k:] * z[: z.size - k]) for k in range(17)]) for z in (x, y))
        a_x, a_y = (np.r_[1.0, solve_toeplitz(r[:-1], -r[1:])] for r in (of_x, of_y))
        matrix = of_x[np.abs(np.subtract.outer(np.arange(17), np.arange(17)))]
        ratios.append(math.log((a_y @ matrix @ a_y) / (a_x @ matrix @ a_x)))
    return np.array(ratios)


def test_log_likelihood_ratio_equals_its_definition() -> None:
    target, estimate = (windowed_frames(x, RATE)[:5] for x in (speech_like(), noisy(speech_like(), 5)))
    expected = plain_ratios(target, estimate)
    assert log_likelihood_ratio(target, estimate, 16) == pytest.approx(expected, rel=1e-3)
    assert min(expected) > 0
    assert log_likelihood_ratio(target, -0.01 * target, 16) == pytest.approx(
        np.zeros(5), abs=1e-6
    )  # gain is no envelope


def test_log_likelihood_ratio_is_finite_for_silent_and_band_limited_estimates() -> None:
    target = windowed_frames(speech_like(), RATE)
    spectrum = np.fft.rfft(target, axis=1)
    spectrum[:, 30:] = 0
    for estimate in (0 * target, np.fft.irfft(spectrum, target.shape[1], axis=1)):
        values = log_likelihood_ratio(target, estimate, 16)
        assert np.isfinite(values).all()
        assert values.min() >= 0


def test_a_band_that_is_digitally_empty_is_rated_as_in_a_16_bit_file() -> None:
    target = 0.05 * speech_like()
    spectrum = np.fft.rfft(target)
    spectrum[7 * spectrum.size // 8 :] = 0  # nothing above 7 kHz but the rounding of float64
    estimate = np.fft.irfft(spectrum, target.size)
    stored_estimate, stored_target = (np.round(x * 32768) / 32768 for x in (estimate, target))
    values = Composite().score(estimate, target, RATE)
    assert values == Composite().score(stored_estimate, stored_target, RATE)
    # the ratings follow from the distances of the stored files; the linear prediction of the others is another one
    frames = [windowed_frames(x, RATE) for x in (stored_target, stored_estimate)]
    ratio = nearest_mean(plain_ratios(*frames))
    exact = nearest_mean(log_likelihood_ratio(*(windowed_frames(x, RATE) for x in (target, estimate)), 16))
    assert 0.2 < ratio < exact - 0.2
    quality = Pesq().score(stored_estimate, stored_target, RATE)["pesq_wb"]
    slope = nearest_mean(weighted_spectral_slope(*frames, RATE))
    expected = composite_ratings(quality, ratio, slope, values["seg_snr"])
    assert [values[name] for name in ("csig", "cbak", "covl")] == pytest.approx(expected, abs=0.01)
    assert expected[0] > 1  # not at the end of the scale


def plain_slope_distance(target: np.ndarray, estimate: np.ndarray) -> float:
    """Return Klatt's distance of two frames, in plain loops, with the uphill peak of the published measure."""
    weights, slopes = [], []
    for frame in (target, estimate):
        power = np.abs(np.fft.rfft(frame, 1024)[:-1]) ** 2
        level = [10 * math.log10(max(float(f @ power), 1e-10)) for f in critical_bands(1024, RATE)]
        slope = [level[i + 1] - level[i] for i in range(24)]
        weight = []
        for i in range(24):
            n = i
            if slope[i] > 0:
                while n < 24 and slope[n] > 0:
                    n += 1
                peak = level[n - 1]
            else:
                while n >= 0 and slope[n] <= 0:
                    n -= 1
                peak = level[n + 1]
            weight.append(20 / (20 + max(level) - level[i]) * 1 / (1 + peak - level[i]))
        weights.append(weight)
        slopes.append(slope)
    both = [(a + b) / 2 for a, b in zip(*weights, strict=True)]
    return sum(w * (a - b) ** 2 for w, a, b in zip(both, *slopes, strict=True)) / sum(both)


def test_weighted_spectral_slope_equals_plain_loops_and_ignores_gain() -> None:
    target, estimate = (windowed_frames(x, RATE)[40:46] for x in (speech_like(), noisy(speech_like(), 5)))
    expected = [plain_slope_distance(x, y) for x, y in zip(target, estimate, strict=True)]
    assert weighted_spectral_slope(target, estimate, RATE) == pytest.approx(expected)
    assert weighted_spectral_slope(target, 3 * target, RATE) == pytest.approx(np.zeros(6), abs=1e-9)


def test_critical_bands_respond_at_their_centres() -> None:
    filters = critical_bands(1024, RATE)
    assert filters.shape == (25, 512)
    peaks = filters.argmax(axis=1) * RATE / 1024
    assert np.all((np.array(BAND_CENTRES) - peaks >= 0) & (np.array(BAND_CENTRES) - peaks < RATE / 1024))
    assert filters[0].max() == pytest.approx(1.0)
    assert filters[24].max() == pytest.approx(70 / 346.136)  # wider, and lower by as much


def test_five_in_a_hundred_frames_have_no_effect() -> None:
    assert nearest_mean(np.r_[np.ones(95), np.full(5, 1e6)]) == 1.0
    assert nearest_mean(np.array([3.0])) == 3.0


def test_digital_silence_in_the_target_is_left_out() -> None:
    target = speech_like()
    pause = np.zeros(RATE)
    with_pause = Composite().score(np.r_[noisy(target, 10), pause], np.r_[target, pause], RATE)
    without = Composite().score(noisy(target, 10), target, RATE)
    assert with_pause["seg_snr"] == pytest.approx(without["seg_snr"], abs=0.3)  # as 0 dB it would cost 0.5


@pytest.mark.parametrize("rate", [16_000, 48_000])
def test_what_pesq_skips_is_skipped(rate: int) -> None:
    target = np.random.default_rng(0).standard_normal(3999)
    with pytest.raises(Skip, match=r"shorter than 0.25 s"):
        Composite().score(target, target, rate)
    with pytest.raises(ConfigError, match=r"Composite: mode=.* must be one of wb, nb"):
        Composite("swb")  # type: ignore[arg-type]
