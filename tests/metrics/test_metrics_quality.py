from __future__ import annotations

import math
import pickle
import subprocess
import sys
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pystoi
import pytest
import scipy.signal
import torch
from pesq import pesq

import bcfusion.metrics
from bcfusion.contracts import Metric, Skip
from bcfusion.errors import ConfigError
from bcfusion.evaluation.pool import Scorer
from bcfusion.metrics.band_energy import HighBandEnergy
from bcfusion.metrics.base import MetricBase
from bcfusion.metrics.composite import Composite
from bcfusion.metrics.lsd import PRESETS, Lsd
from bcfusion.metrics.pesq import Pesq, most_utterances
from bcfusion.metrics.si_sdr import SiSdr
from bcfusion.metrics.spectrum import power_spectra
from bcfusion.metrics.stoi import Stoi

RATE = 16_000
ALL: list[Callable[[], MetricBase]] = [
    Pesq,
    lambda: Pesq("nb"),
    Stoi,
    lambda: Stoi(extended=True),
    SiSdr,
    Lsd,
    lambda: Lsd(low_frequency=4000, name="lsd_hf"),
    lambda: Lsd(high_frequency=4000, name="lsd_lf"),
    lambda: Lsd("urgent"),
    Composite,
    lambda: Composite("nb"),
    lambda: HighBandEnergy(4000.0),
]
METRIC_IDS = ["pesq_wb", "pesq_nb", "stoi", "estoi", "si_sdr", "lsd", "lsd_hf", "lsd_lf", "lsd_urgent"]
METRIC_IDS += ["composite_wb", "composite_nb", "hf_energy"]
all_metrics = pytest.mark.parametrize("make", ALL, ids=METRIC_IDS)


def speech_like(seconds: float = 3.0, rate: int = RATE, seed: int = 0) -> np.ndarray:
    """Return four voiced syllables per second: harmonics of a gliding pitch and breath, over a faint noise floor."""
    generator = np.random.default_rng(seed)
    time = np.arange(round(seconds * rate)) / rate
    phase = 2 * np.pi * np.cumsum(120 + 20 * np.sin(2 * np.pi * 0.7 * time)) / rate
    harmonics = sum(np.sin(k * phase) / k for k in range(1, 30))
    syllables = np.maximum(np.sin(2 * np.pi * 4 * time), 0) ** 0.5
    breath = 0.3 * generator.standard_normal(time.size)
    return 0.1 * syllables * (harmonics + breath) + 1e-4 * generator.standard_normal(time.size)


def noisy(target: np.ndarray, snr_db: float, seed: int = 1) -> np.ndarray:
    noise = np.random.default_rng(seed).standard_normal(target.size)
    return target + noise * np.sqrt(np.mean(target**2) / np.mean(noise**2)) * 10 ** (-snr_db / 20)


def reason(metric: Metric, estimate: np.ndarray, target: np.ndarray, rate: int = RATE) -> str:
    with pytest.raises(Skip) as skip:
        metric.score(estimate, target, rate)
    return str(skip.value)


@all_metrics
def test_every_metric_fulfils_the_contract_and_ranks_more_noise_as_worse(make: Callable[[], MetricBase]) -> None:
    metric, target = make(), speech_like()
    assert isinstance(metric, Metric)
    assert set(metric.higher_is_better) == set(metric.names)
    good, bad = (metric.score(noisy(target, snr), target, RATE) for snr in (25, 5))
    assert set(good) == set(metric.names)
    for name, higher in metric.higher_is_better.items():
        if higher is not None:
            assert (good[name] > bad[name]) is higher, name
    assert pickle.loads(pickle.dumps(metric)).score(noisy(target, 5), target, RATE) == bad


@all_metrics
def test_bad_audio_is_skipped_with_a_stable_reason(make: Callable[[], MetricBase]) -> None:
    metric, target = make(), speech_like(1.0)
    broken = target.copy()
    broken[100] = np.nan
    assert reason(metric, broken, target) == "non-finite estimate"
    assert reason(metric, target, np.where(np.isnan(broken), np.inf, target)) == "non-finite target"
    assert reason(metric, target[:-1], target) == "estimate and target differ in length"
    assert reason(metric, target[:0], target[:0]) == "empty"
    assert reason(metric, target, 0 * target) in (
        "target is silent",
        "target has no utterance",
        "target is silent above 4000 Hz",
    )


@all_metrics
def test_a_diverged_estimate_is_scored_or_skipped_but_never_raises(make: Callable[[], MetricBase]) -> None:
    metric, target = make(), speech_like(1.0)
    for scale in (1e30, 1e200, 1e-7, 1e-30):
        try:
            values = metric.score(noisy(target, 0) * scale, target, RATE)
        except Skip:
            continue
        assert all(math.isfinite(value) for value in values.values())


@all_metrics
def test_an_array_with_a_channel_axis_is_an_error_of_the_caller(make: Callable[[], MetricBase]) -> None:
    with pytest.raises(ValueError, match="1, 16000"):
        make().score(np.zeros((1, RATE)), np.zeros((1, RATE)), RATE)


@pytest.mark.parametrize(
    "metric",
    [Pesq(), Pesq("nb"), Stoi(), Stoi(extended=True), SiSdr(), Composite(), Lsd("urgent")],
    ids=lambda m: m.names[0],
)
@pytest.mark.parametrize("silence", [0.0, 0.3, 1e-12], ids=["zeros", "offset", "inaudible"])
def test_a_silent_estimate_is_skipped(metric: MetricBase, silence: float) -> None:
    target = speech_like()
    assert reason(metric, np.full(target.size, silence), target) == "estimate is silent"


# PESQ


def test_pesq_of_the_target_itself_is_the_top_of_each_scale() -> None:
    target = speech_like()
    assert Pesq("wb").score(target, target, RATE)["pesq_wb"] == pytest.approx(4.644, abs=1e-3)
    assert Pesq("nb").score(target, target, RATE)["pesq_nb"] == pytest.approx(4.549, abs=1e-3)


def test_pesq_needs_a_quarter_of_a_second() -> None:
    target = np.random.default_rng(0).standard_normal(4000)  # without pauses
    assert reason(Pesq(), noisy(target, 10)[:3999], target[:3999]) == "shorter than 0.25 s"
    assert Pesq().score(noisy(target, 10), target, RATE)["pesq_wb"] > 1
    assert reason(Pesq(), noisy(target, 10), target, 48_000) == "shorter than 0.25 s"


@pytest.mark.parametrize(("mode", "rate"), [("wb", 48_000), ("nb", 8_000), ("nb", 44_100)])
def test_pesq_takes_any_sample_rate_that_holds_its_band(mode: str, rate: int) -> None:
    target = speech_like(2.0, rate)
    metric = Pesq(mode)  # type: ignore[arg-type]
    clean, worse = (metric.score(noisy(target, snr), target, rate)[f"pesq_{mode}"] for snr in (60, 0))
    assert 1.0 <= worse < clean - 1 < 3.7


@pytest.mark.parametrize("metric", [Pesq("wb"), Composite("wb"), Pesq("nb")], ids=lambda m: m.names[0])
def test_pesq_is_refused_where_the_upper_part_of_its_band_is_empty(metric: Pesq | Composite) -> None:
    lowest = 8_000 if metric.mode == "nb" else 16_000
    rate = lowest - 1000
    says = f"mode={metric.mode} needs a sample rate of at least {lowest} Hz, not {rate}"
    metric.check_rate(lowest)
    with pytest.raises(ConfigError, match=f"^Pesq: {says}"):
        metric.check_rate(rate)
    with pytest.raises(ConfigError, match=f"^metrics.quality: Pesq: {says}"):
        Scorer({"quality": metric}, rate, workers=0)
    target = speech_like(1.0, rate)
    assert reason(metric, target, target, rate).startswith(f"Pesq: {says}")


def test_narrow_band_pesq_of_8_khz_is_that_of_the_unresampled_signal() -> None:
    target = speech_like(2.0, 8_000)
    estimate = noisy(target, 10)
    assert Pesq("nb").score(estimate, target, 8_000)["pesq_nb"] == pytest.approx(pesq(8_000, target, estimate, "nb"))


def test_pesq_knows_two_modes() -> None:
    with pytest.raises(ConfigError, match=r"mode=.* must be one of wb, nb"):
        Pesq("swb")  # type: ignore[arg-type]


def test_pesq_is_not_run_on_more_utterances_than_fit_its_tables() -> None:
    # the reference implementation has a segmentation fault on this
    one = np.concatenate([speech_like(0.6), np.zeros(RATE // 2)])
    assert most_utterances(np.tile(one, 12), RATE) == 12
    assert reason(Pesq(), np.tile(one, 60), np.tile(one, 60)) == "50 utterances or more"
    fits = np.tile(one, 30)
    assert Pesq().score(fits, fits, RATE)["pesq_wb"] > 4.6


# STOI


@pytest.mark.parametrize("extended", [False, True])
@pytest.mark.parametrize("seconds", [0.01, 0.3])
def test_stoi_of_a_short_clip_is_skipped_and_leaks_no_warning(extended: bool, seconds: float) -> None:
    target = speech_like()[2000 : 2000 + round(seconds * RATE)]
    with warnings.catch_warnings(record=True) as leaked:
        warnings.simplefilter("always")
        assert reason(Stoi(extended), noisy(target, 10), target) == "fewer than 30 active frames"
    assert leaked == []


@pytest.mark.parametrize("extended", [False, True])
@pytest.mark.parametrize("rate", [8_000, 10_000, 16_000, 22_050, 48_000])
def test_stoi_is_that_of_pystoi(rate: int, extended: bool) -> None:
    for seed, (seconds, snr) in enumerate([(1.0, -10), (2.37, 5), (3.0, 40)]):
        target = speech_like(seconds, rate, seed)
        estimate = 0.1 * noisy(target, snr)
        (value,) = Stoi(extended).score(estimate, target, rate).values()
        assert value == pytest.approx(pystoi.stoi(target, estimate, rate, extended=extended), abs=1e-12)


@pytest.mark.parametrize("extended", [False, True])
def test_stoi_does_not_depend_on_what_was_scored_before(extended: bool) -> None:
    target = speech_like()
    estimates = [noisy(target, snr) for snr in (0, 10, 20, 30)]
    values = [Stoi(extended).score(estimate, target, RATE) for estimate in estimates]
    assert len({*map(str, values)}) == 4
    for estimate, value in reversed(list(zip(estimates, values, strict=True))):
        Stoi(not extended).score(estimate, target, 48_000)
        assert Stoi(extended).score(estimate, target, RATE) == value
    estimate = estimates[0]
    estimate[:] = target  # in place: the same array, other sound
    assert next(iter(Stoi(extended).score(estimate, target, RATE).values())) == pytest.approx(1)


def test_a_band_without_sound_counts_as_uncorrelated() -> None:
    target = speech_like()
    spectrum = np.where(np.arange(target.size // 2 + 1) * RATE / target.size < 3000, np.fft.rfft(target), 0)
    for level in (1.0, 1e-3):
        (value,) = Stoi(extended=True).score(level * np.fft.irfft(spectrum, target.size), target, RATE).values()
        assert 0.3 < value < 0.95
    steps = np.repeat(np.random.default_rng(0).standard_normal(40), 1000)  # nothing varies in time but the level
    assert np.isfinite(Stoi(extended=True).score(steps, speech_like(2.5), RATE)["estoi"])


# SI-SDR


def test_one_sample_of_delay_collapses_si_sdr_and_alignment_recovers_it() -> None:
    target = np.random.default_rng(0).standard_normal(RATE)
    estimate = noisy(target, 30)
    in_time = SiSdr().score(estimate, target, RATE)
    late = SiSdr().score(np.r_[0.0, estimate[:-1]], target, RATE)
    assert in_time["si_sdr"] == pytest.approx(30, abs=0.1)
    assert in_time["si_sdr_aligned"] == in_time["si_sdr"]
    assert in_time["si_sdr_lag_ms"] == 0
    assert late["si_sdr"] < -20
    assert late["si_sdr_aligned"] == pytest.approx(30, abs=0.1)
    assert late["si_sdr_lag_ms"] == pytest.approx(1000 / RATE)


@pytest.mark.parametrize("shift", [-40, -3, 5, 320])
@pytest.mark.parametrize("gain", [0.1, -2.0])
def test_the_lag_is_positive_for_late_speech_and_independent_of_gain_and_polarity(shift: int, gain: float) -> None:
    target = speech_like()
    values = SiSdr(max_lag_ms=20).score(gain * np.roll(noisy(target, 20), shift), target, RATE)
    assert values["si_sdr_lag_ms"] == pytest.approx(1000 * shift / RATE)
    assert values["si_sdr_aligned"] == pytest.approx(20, abs=0.3)
    assert values["si_sdr"] < values["si_sdr_aligned"] - 1


@pytest.mark.parametrize("length", [2, 3, 50, 800])
def test_alignment_never_costs_si_sdr_not_even_of_noise_or_of_clips_shorter_than_the_lag(length: int) -> None:
    generator = np.random.default_rng(length)
    for _ in range(20):
        target, estimate = generator.standard_normal((2, length)) * np.linspace(0.1, 1, length) ** 4
        values = SiSdr(zero_mean=False).score(estimate, target, RATE)
        assert values["si_sdr_aligned"] >= values["si_sdr"] - 1e-9


def test_a_lag_beyond_the_limit_is_not_compensated() -> None:
    target = np.random.default_rng(0).standard_normal(RATE)
    values = SiSdr(max_lag_ms=5).score(np.roll(target, 81), target, RATE)
    assert values["si_sdr_aligned"] < 0
    assert abs(values["si_sdr_lag_ms"]) <= 5


def test_si_sdr_of_a_periodic_tone_takes_the_smallest_lag() -> None:
    # every half period of 8 samples aligns as well, up to rounding
    tone = np.sin(2 * np.pi * 1000 * np.arange(RATE) / RATE)
    lags = {shift: SiSdr().score(np.roll(tone, shift), tone, RATE)["si_sdr_lag_ms"] for shift in range(-3, 4)}
    assert lags == pytest.approx({shift: 1000 * shift / RATE for shift in lags})


def test_si_sdr_has_its_closed_form() -> None:
    # orthogonal over whole periods: a distortion of a tenth of the amplitude is -20 dB, at any gain and offset
    time = np.arange(RATE) / RATE
    target, distortion = np.sin(2 * np.pi * 50 * time), np.sin(2 * np.pi * 70 * time)
    estimate = 0.5 * (target + 0.1 * distortion)
    assert SiSdr(0.0).score(estimate + 0.2, target, RATE)["si_sdr"] == pytest.approx(20.0, abs=1e-6)
    # an offset of 0.2 has the power 0.04, against 0.125 of the tone and 0.00125 of the distortion
    kept = SiSdr(0.0, zero_mean=False).score(estimate + 0.2, target, RATE)["si_sdr"]
    assert kept == pytest.approx(10 * math.log10(0.125 / 0.04125), abs=1e-6)


def test_si_sdr_is_limited_to_100_db_in_both_directions() -> None:
    time = np.arange(RATE) / RATE
    target = np.sin(2 * np.pi * 50 * time)
    assert SiSdr().score(3 * target, target, RATE)["si_sdr"] == pytest.approx(100.0)
    assert SiSdr(0.0).score(np.sin(2 * np.pi * 70 * time), target, RATE)["si_sdr"] == pytest.approx(-100.0)


# LSD


def test_a_gain_of_10_db_is_an_lsd_of_exactly_one() -> None:
    target = np.random.default_rng(0).standard_normal(RATE)
    assert Lsd().score(target, target, RATE)["lsd"] == 0
    assert Lsd().score(math.sqrt(10) * target, target, RATE)["lsd"] == pytest.approx(1.0, abs=1e-9)
    assert Lsd().score(target / 1000, target, RATE)["lsd"] == pytest.approx(6.0, abs=1e-2)  # floor under a few bins


def test_lsd_of_silence_is_the_distance_to_the_floor() -> None:
    # an impulse of 1e-2 in the middle of a Hann frame: 1e-4 of power at every frequency, four decades above 1e-8
    impulse = np.zeros(2048)
    impulse[1024] = 1e-2
    metric = Lsd(n_fft=2048, hop_length=2049)  # frame 0 is centred on sample 0: the window is 0 at the impulse's image
    assert metric.score(np.zeros(2048), impulse, RATE)["lsd"] == pytest.approx(0.0, abs=1e-6)
    metric = Lsd(n_fft=2048, hop_length=1024)  # frames at 0, 1024 and 2048: one of three sees the impulse
    assert metric.score(np.zeros(2048), impulse, RATE)["lsd"] == pytest.approx(4.0 / 3, abs=1e-9)
    lower = Lsd(n_fft=2048, hop_length=1024, floor=1e-10)
    assert lower.score(np.zeros(2048), impulse, RATE)["lsd"] == pytest.approx(6.0 / 3, abs=1e-9)


def test_lsd_hf_depends_only_on_the_band_above_the_cutoff() -> None:
    target = np.random.default_rng(0).standard_normal(RATE)
    spectrum = np.fft.rfft(target)
    frequencies = np.fft.rfftfreq(RATE, 1 / RATE)
    louder_low = np.fft.irfft(np.where(frequencies < 3000, 10, 1) * spectrum)
    louder_high = np.fft.irfft(np.where(frequencies > 5000, 10, 1) * spectrum)
    metric = Lsd(low_frequency=4000, name="lsd_hf")
    assert metric.names == ("lsd_hf",)
    assert metric.score(louder_low, target, RATE)["lsd_hf"] < 0.1
    # 2 decades of power in 3 of the 4 kHz
    assert metric.score(louder_high, target, RATE)["lsd_hf"] == pytest.approx(2 * math.sqrt(0.75), abs=0.03)
    assert reason(Lsd(low_frequency=8001), target, target) == "no frequency at or above 8001 Hz"


def test_lsd_lf_depends_only_on_the_band_below_the_cutoff_and_both_bands_add_up() -> None:
    target = speech_like()
    estimate = noisy(target, 15)
    low, high, whole = (
        Lsd(n_fft=512, hop_length=4 * RATE, low_frequency=f, high_frequency=g).score(estimate, target, RATE)["lsd"]
        for f, g in ((None, 2000), (2000, None), (None, None))
    )  # one frame, in which mean squares add up: 64 bins below 2 kHz, 193 from it on
    assert 257 * whole**2 == pytest.approx(64 * low**2 + 193 * high**2)
    assert reason(Lsd(high_frequency=1e-3, low_frequency=1e-4), target, target).startswith("no frequency from")


def published_lsd(estimate: np.ndarray, target: np.ndarray, preset: str) -> float:
    """Return the distance of a preset from its formula, with PyTorch's spectrum and what lies beyond the ends."""
    size, hop, floor, ends = (512, 256, 1e-16, "constant") if preset == "urgent" else (2048, 512, 1e-8, "reflect")
    if preset == "urgent":
        estimate = estimate * (estimate @ target) / (estimate @ estimate)
    window = torch.hann_window(size, dtype=torch.float64)
    log_powers = [
        torch.stft(torch.from_numpy(x), size, hop, window=window, center=True, pad_mode=ends, return_complex=True)
        .abs()
        .square()
        .clamp(min=floor)
        .log10()
        for x in (estimate, target)
    ]
    return float((log_powers[0] - log_powers[1]).square().mean(dim=0).sqrt().mean())


@pytest.mark.parametrize("preset", list(PRESETS))
def test_lsd_presets_are_the_published_measures_of_clips_that_are_cut_in_speech(preset: str) -> None:
    target = speech_like()[4000:20_000]  # full level at both ends
    estimate = scipy.signal.lfilter([0.1], [1.0, -0.9], target)
    value = Lsd(preset).score(estimate, target, RATE)["lsd"]
    scale = {"default": 1.0, "decibel": 10.0, "urgent": math.log(10)}[preset]
    assert value == pytest.approx(scale * published_lsd(estimate, target, preset), rel=1e-9)
    other = power_spectra(target, 2048, 512, slice(None), mirrored=not PRESETS[preset].mirrored)
    own = power_spectra(target, 2048, 512, slice(None), mirrored=PRESETS[preset].mirrored)
    assert not np.allclose(next(other)[0], next(own)[0], rtol=0.1)  # the ends matter here


def test_lsd_presets_are_one_distance_in_three_scales() -> None:
    # a gain of 10 dB: one in log10 of power, ten in dB, and zero if the level is matched
    target = speech_like()
    values = {preset: Lsd(preset).score(math.sqrt(10) * target, target, RATE)["lsd"] for preset in PRESETS}
    assert values == pytest.approx({"default": 1.0, "decibel": 10.0, "urgent": 0.0}, rel=1e-4, abs=1e-9)
    with pytest.raises(ConfigError, match="preset='nvsr' must be one of default, decibel, urgent"):
        Lsd("nvsr")


def test_high_band_energy_is_the_gain_of_the_band_above_the_cutoff() -> None:
    target = np.random.default_rng(0).standard_normal(RATE)
    spectrum = np.fft.rfft(target)
    frequencies = np.fft.rfftfreq(RATE, 1 / RATE)
    metric = HighBandEnergy(4000.0)
    for gain_db in (-20.0, 6.0):
        estimate = np.fft.irfft(np.where(frequencies >= 4000, 10 ** (gain_db / 20), 1) * spectrum)
        assert metric.score(estimate, target, RATE)["hf_energy"] == pytest.approx(gain_db, abs=0.05)
    assert metric.score(target, target, RATE)["hf_energy"] == pytest.approx(0, abs=1e-9)
    assert metric.score(0 * target, target, RATE)["hf_energy"] == pytest.approx(-100)
    low = 0.1 * np.sin(2 * np.pi * 200 * np.arange(RATE) / RATE) * np.hanning(RATE)
    assert metric.score(low, target, RATE)["hf_energy"] < -50  # speech below does not leak above
    assert reason(HighBandEnergy(8001.0), target, target) == "no frequency at or above 8001 Hz"
    with pytest.raises(ConfigError, match="cutoff_frequency"):
        HighBandEnergy(0.0)


def test_lsd_of_a_clip_shorter_than_a_frame_is_scored() -> None:
    target = np.random.default_rng(0).standard_normal(100)
    assert Lsd().score(10 * target, target, RATE)["lsd"] == pytest.approx(2.0, abs=1e-6)


def test_lsd_in_blocks_equals_lsd_at_once() -> None:
    # 300 frames are two blocks; a frame's distance does not depend on its block
    target = np.random.default_rng(0).standard_normal(300 * 64)
    gains = np.repeat([1.0, 10.0], target.size // 2)
    half = Lsd(n_fft=64, hop_length=64).score(gains * target, target, RATE)["lsd"]
    assert half == pytest.approx(1.0, abs=0.02)


@pytest.mark.parametrize(
    "arguments", [{"n_fft": 1}, {"hop_length": 0}, {"floor": 0.0}, {"low_frequency": -1.0}, {"high_frequency": 0.0}]
)
def test_lsd_refuses_settings_out_of_range(arguments: Mapping[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(arguments))):
        Lsd(**arguments)  # type: ignore[arg-type]


def test_a_range_of_lags_is_not_negative() -> None:
    with pytest.raises(ConfigError, match=r"SiSdr: max_lag_ms=-1 must be at least 0"):
        SiSdr(max_lag_ms=-1)


@pytest.mark.slow
def test_metrics_without_a_network_never_load_torch() -> None:
    files = Path(bcfusion.metrics.__path__[0]).glob("*.py")
    modules = ", ".join(f"bcfusion.metrics.{file.stem}" for file in files if file.stem != "__init__")
    code = f"import sys, {modules}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
