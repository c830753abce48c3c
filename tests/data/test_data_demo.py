from __future__ import annotations

import logging
import subprocess
import sys
import warnings
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import soundfile
from pesq import pesq
from pystoi import stoi
from scipy.linalg import solve_toeplitz
from scipy.signal import butter, sosfiltfilt

from bcfusion.contracts import SPLITS, Corpus, Row
from bcfusion.data.corpora.demo import DemoCorpus
from bcfusion.data.corpora.demo_noise import KINDS, DemoNoise
from bcfusion.data.corpora.demo_speech import draw_script, draw_voice, utterance
from bcfusion.data.corpora.phones import PHONES
from bcfusion.data.corpora.synthesis import Array, Segment, Voice, synthesise
from bcfusion.errors import ConfigError, DataError

ONE = {"train": 1, "valid": 1, "test": 1}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> DemoCorpus:
    return DemoCorpus(cache_dir=str(tmp_path_factory.mktemp("demo")))


@pytest.fixture(scope="module")
def rows(corpus: DemoCorpus) -> dict[str, list[Row]]:
    return {split: corpus.rows(split) for split in SPLITS}


def small(folder: Path, **changes: int) -> DemoCorpus:
    return DemoCorpus(cache_dir=str(folder), speakers=ONE, utterances_per_speaker=ONE, seconds=(2.5, 2.6), **changes)


def read(row: Row) -> Array:
    samples, sample_rate = soundfile.read(row.paths["air"])
    assert sample_rate == row.sample_rate
    return samples


def contents(root: str) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(Path(root).rglob("*")) if path.is_file()}


def power_spectrum(samples: Array, n_fft: int = 512) -> Array:
    frames = np.lib.stride_tricks.sliding_window_view(samples, n_fft)[:: n_fft // 2] * np.hanning(n_fft)
    return np.square(np.abs(np.fft.rfft(frames)))


@pytest.mark.slow
def test_the_corpus_is_minutes_long_and_its_speakers_are_disjoint(
    corpus: DemoCorpus, rows: dict[str, list[Row]]
) -> None:
    assert isinstance(corpus, Corpus)
    every = [row for split in SPLITS for row in rows[split]]
    assert len({row.id for row in every}) == len(every) == 98
    assert 4 * 60 < sum(row.duration for row in every) < 6 * 60
    speakers = [{row.speaker for row in rows[split]} for split in SPLITS]
    assert [len(s) for s in speakers] == [10, 3, 3]
    assert len(set.union(*speakers)) == 16
    assert rows["train"][29].id == "demo/train/s03/s03_005"
    assert rows["train"][29].paths == {"air": f"{corpus.root}/train/s03/s03_005.flac"}


@pytest.mark.slow
def test_every_clip_has_the_announced_length_and_the_level_of_speech(rows: dict[str, list[Row]]) -> None:
    for row in (row for split in SPLITS for row in rows[split]):
        info = soundfile.info(row.paths["air"])
        assert (info.subtype, info.channels) == ("PCM_16", 1)
        samples = read(row)
        assert len(samples) == round(row.duration * row.sample_rate)
        assert row.duration >= 2.99
        assert np.max(np.abs(samples)) < 0.9
        frames = np.sqrt(np.mean(np.square(samples[: len(samples) // 320 * 320].reshape(-1, 320)), axis=1))
        speaking = frames > 10 ** (-55 / 20)
        assert 20 * np.log10(np.sqrt(np.mean(np.square(frames[speaking])))) == pytest.approx(-23, abs=1.5)
        # a pause is a quiet room, 65 dB below speech, and not digital silence
        assert -92 < 20 * np.log10(frames.min()) < -84


@pytest.mark.slow
def test_pesq_and_stoi_accept_every_clip(rows: dict[str, list[Row]]) -> None:
    low_pass = butter(4, 600, fs=16000, output="sos")
    chosen = rows["valid"] + rows["test"] + rows["train"][::10]
    pesqs, stois = [], []
    for n, row in enumerate(chosen):
        clean = read(row)
        degraded = sosfiltfilt(low_pass, clean)
        degraded += 0.005 * degraded.std() * np.random.default_rng(n).standard_normal(len(clean))
        pesqs.append(pesq(16000, clean, degraded, "wb"))
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # STOI warns, and returns 1e-5, where it finds fewer than 30 active frames
            stois.append(stoi(clean, degraded, 16000))
    assert np.isfinite(pesqs).all()
    # as hard as real speech through the same sensor: there is room for improvement
    assert 1.5 < np.mean(pesqs) < 3.0
    assert min(stois) > 0.6
    assert max(stois) < 0.95


@pytest.mark.slow
def test_the_long_term_spectrum_falls_like_that_of_speech(rows: dict[str, list[Row]]) -> None:
    spectrum = sum(power_spectrum(read(row)).sum(axis=0) for row in rows["train"])
    frequency = np.fft.rfftfreq(512, 1 / 16000)

    def level(hertz: float) -> float:
        return float(10 * np.log10(np.mean(spectrum[(frequency > hertz / 1.2) & (frequency < hertz * 1.2)])))

    assert 6 < (level(500) - level(4000)) / 3 < 10  # dB per octave
    assert level(500) - level(7000) < 32  # and fricatives keep the top of the band alive


@pytest.mark.slow
def test_the_wide_band_follows_from_the_low_band_for_unknown_speakers(rows: dict[str, list[Row]]) -> None:
    """A shallow regression, fed with 0.2 s of what lies below 1 kHz, explains most of the energy above 3 kHz."""

    def examples(split: str) -> Iterator[tuple[Array, Array]]:
        for row in rows[split]:
            power = np.log(power_spectrum(read(row)) + 1e-5)
            low = np.pad(power[:, 1:32:2], ((6, 6), (0, 0)), mode="edge")
            context = np.lib.stride_tricks.sliding_window_view(low, 13, axis=0)
            yield context.reshape(len(power), -1), power[:, 96:].mean(axis=1)

    (x, y), (x_new, y_new) = (tuple(map(np.concatenate, zip(*examples(s), strict=True))) for s in ("train", "valid"))
    mean, deviation = x.mean(axis=0), x.std(axis=0)
    projection = np.random.default_rng(0).standard_normal((x.shape[1], 400)) / np.sqrt(x.shape[1])

    def hidden(features: Array) -> Array:
        scaled = (features - mean) / deviation
        return np.column_stack([np.maximum(scaled @ projection, 0.0), scaled, np.ones(len(scaled))])

    train = hidden(x)
    weights = np.linalg.solve(train.T @ train + 10.0 * np.eye(train.shape[1]), train.T @ y)
    explained = 1 - np.mean(np.square(y_new - hidden(x_new) @ weights)) / np.var(y_new)

    assert explained > 0.6


@pytest.mark.parametrize("position", [0.0, 0.5, 1.0])
def test_a_voice_has_the_fundamental_it_was_given(position: float) -> None:
    rng = np.random.default_rng(3)
    voice = draw_voice(position, rng)
    samples, _ = utterance(voice, 3.0, 16000, rng)
    frames = np.lib.stride_tricks.sliding_window_view(samples, 1024)[::160]
    frames = (frames - frames.mean(axis=1, keepdims=True)) * np.hanning(1024)
    correlation = np.fft.irfft(np.square(np.abs(np.fft.rfft(frames, 2048))))[:, :512]
    correlation /= correlation[:, :1]
    lags = np.arange(16000 // 400, 16000 // 60)
    periodic = correlation[:, lags].max(axis=1) > 0.6
    assert periodic.sum() > 100
    f0 = 16000 / lags[correlation[periodic][:, lags].argmax(axis=1)]
    assert np.median(f0) == pytest.approx(voice.f0, rel=0.06)
    assert np.percentile(f0, 95) / np.percentile(f0, 5) > 1.1  # it is not monotonous


@pytest.mark.parametrize("vowel", [phone for phone in PHONES if PHONES[phone].is_vowel])
def test_a_vowel_has_its_formants(vowel: str) -> None:
    voice = Voice(f0=80.0, tract=1.0, melody=0.0, jitter=0.0, shimmer=0.0, breath=-60.0)
    sound = synthesise([Segment(vowel, 1.0)], voice, 16000, np.random.default_rng(0))
    middle = np.convolve(sound[4000:12000], [1.0, -0.95], mode="valid")
    spectrum = np.square(np.abs(np.fft.rfft(middle * np.hanning(len(middle)), 16384)))
    autocorrelation = np.fft.irfft(spectrum)[:20]
    predictor = solve_toeplitz(autocorrelation[:19], autocorrelation[1:20])  # linear prediction of order 19
    poles = np.roots(np.concatenate([[1.0], -predictor]))
    found = np.angle(poles[(np.abs(poles) > 0.9) & (poles.imag > 0)]) * 16000 / (2 * np.pi)
    for formant in PHONES[vowel].formants[:3]:
        assert np.min(np.abs(found - formant)) < 0.08 * formant + 15


@pytest.mark.slow
def test_fricatives_last_and_fill_the_band_above_four_kilohertz() -> None:
    rng = np.random.default_rng(5)
    voice = draw_voice(0.5, rng)
    high: dict[str, list[float]] = {phone: [] for phone in PHONES}
    for _ in range(10):
        script, _ = draw_script(voice, 4.0, rng)
        speech = synthesise(script, voice, 16000, rng)
        edges = np.rint(np.cumsum([0.0] + [segment.seconds for segment in script]) * 16000).astype(int)
        for segment, (start, stop) in zip(script, pairwise(edges), strict=True):
            middle = speech[(3 * start + stop) // 4 : (start + 3 * stop) // 4]
            power = np.square(np.abs(np.fft.rfft(middle * np.hanning(len(middle)))))
            if segment.phone != "_":
                high[segment.phone].append(float(power[len(power) // 2 :].sum() / power.sum()))
            if segment.phone in ("s", "sh", "f", "th"):
                assert segment.seconds >= 0.08
    assert np.mean(high["s"]) > 0.8
    assert np.mean(high["sh"]) > 0.2
    assert np.mean(high["f"]) > 0.4
    for vowel in (phone for phone in PHONES if PHONES[phone].is_vowel):
        assert np.mean(high[vowel]) < 0.05


def test_a_gliding_tract_does_not_click() -> None:
    """Where formants jump from /iy/ to /aa/, the band above 6 kHz stays as quiet as within the vowels."""
    voice = Voice(f0=110.0, tract=1.0, melody=0.0, jitter=0.0, shimmer=0.0, breath=-60.0)
    sound = synthesise([Segment("iy", 0.4), Segment("aa", 0.4)], voice, 16000, np.random.default_rng(0))
    high = np.abs(sosfiltfilt(butter(6, 6000, "high", fs=16000, output="sos"), sound))
    assert high[5600:7200].max() < 1.5 * max(high[3000:5600].max(), high[7200:10000].max())


@pytest.mark.parametrize("sample_rate", [8000, 22050, 48000])
def test_other_sample_rates_sound_the_same(sample_rate: int) -> None:
    def bands(rate: int) -> Array:
        rng = np.random.default_rng(8)
        samples, words = utterance(draw_voice(0.3, rng), 3.0, rate, rng)
        assert len(samples) == 3 * rate
        assert len(words) >= 3
        assert np.max(np.abs(samples)) < 0.9
        power = np.square(np.abs(np.fft.rfft(samples))) / rate**2
        frequency = np.fft.rfftfreq(len(samples), 1 / rate)
        edges = [80, 300, 600, 1000, 1700, 2500, 3400]
        return 10 * np.log10([power[(frequency >= a) & (frequency < b)].sum() for a, b in pairwise(edges)])

    np.testing.assert_allclose(bands(sample_rate), bands(16000), atol=4.0)


def test_made_twice_it_has_the_same_bytes(tmp_path: Path) -> None:
    first, second = small(tmp_path / "a"), small(tmp_path / "b")
    first.rows("train")
    second.rows("test")
    assert len(contents(first.root)) == 4
    assert contents(first.root) == contents(second.root)
    assert Path(first.root).name == Path(second.root).name


def test_other_arguments_are_another_folder_with_other_sound(tmp_path: Path) -> None:
    corpora = [small(tmp_path), small(tmp_path, seed=1), small(tmp_path, sample_rate=8000)]
    assert len({corpus.root for corpus in corpora}) == 3
    ids = {corpus.rows("valid")[0].id for corpus in corpora}
    assert len(ids) == 1
    assert len({Path(corpus.rows("valid")[0].paths["air"]).read_bytes() for corpus in corpora}) == 3


@pytest.mark.slow
def test_speakers_differ(rows: dict[str, list[Row]]) -> None:
    fundamentals = [row.extra["f0"] for split in SPLITS for row in rows[split]]
    assert len(set(fundamentals)) == 16
    assert min(fundamentals) < 110
    assert max(fundamentals) > 220
    assert len({Path(row.paths["air"]).read_bytes() for split in SPLITS for row in rows[split]}) == 98


def test_it_is_made_once_and_logs_one_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="bcfusion"):
        corpus = small(tmp_path)
        corpus.rows("train")
        corpus.rows("valid")
        small(tmp_path).rows("test")
    assert [record.levelname for record in caplog.records] == ["INFO"]
    assert corpus.root in caplog.text
    assert [path.name for path in tmp_path.iterdir()] == [Path(corpus.root).name]  # no temporary folder is left


@pytest.mark.parametrize("victim", ["index.json", "valid/s01/s01_000.flac"])
def test_a_damaged_folder_is_made_again(tmp_path: Path, victim: str) -> None:
    corpus = small(tmp_path)
    corpus.rows("train")
    whole = contents(corpus.root)
    (Path(corpus.root) / victim).unlink()
    corpus.rows("train")
    assert contents(corpus.root) == whole
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.slow
def test_two_processes_that_make_it_at_once_both_succeed(tmp_path: Path) -> None:
    program = (
        "import sys\n"
        "from bcfusion.data.corpora import demo\n"
        "corpus = demo.DemoCorpus(cache_dir=sys.argv[1], seconds=(2.5, 2.6),"
        " speakers=dict.fromkeys(demo.SPLITS, 1), utterances_per_speaker=dict.fromkeys(demo.SPLITS, 1))\n"
        "make = corpus._make\n"
        "def meet(folder):\n"
        "    index = make(folder)\n"
        "    print('made', flush=True)\n"
        "    sys.stdin.readline()\n"
        "    return index\n"
        "corpus._make = meet\n"
        "print(corpus.rows('train')[0].paths['air'])\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    both = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    for process in both:  # neither may publish before the other has made its copy
        assert process.stdout is not None
        assert process.stdout.readline() == "made\n"
    ends = [process.communicate("\n", timeout=60)[0].strip() for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert ends[0] == ends[1]
    assert soundfile.info(ends[0]).frames >= 40000
    assert len(list(tmp_path.iterdir())) == 1


def test_the_cache_directory_is_found_in_this_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("BCFUSION_CACHE", raising=False)
    assert Path(DemoCorpus().root).parent == tmp_path / "home/.cache/bcfusion"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert Path(DemoCorpus().root).parent == tmp_path / "xdg/bcfusion"
    monkeypatch.setenv("BCFUSION_CACHE", str(tmp_path / "own"))
    assert Path(DemoNoise().root).parent == tmp_path / "own"
    assert Path(DemoCorpus(cache_dir=str(tmp_path / "given")).root).parent == tmp_path / "given"
    assert not list(tmp_path.iterdir())  # nothing is written before rows are asked for


def test_wrong_arguments_are_all_named_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        DemoCorpus(sample_rate=4000, speakers={"train": 1}, utterances_per_speaker=ONE | {"test": 0}, seconds=(1, 3))
    assert [word in str(caught.value) for word in ("4000", "speakers", "test=0", "seconds")] == [True] * 4
    assert len(caught.value.problems) == 4
    with pytest.raises(ConfigError, match="seconds"):
        DemoNoise(seconds=0.5)
    with pytest.raises(DataError, match="no split 'dev'"):
        small(tmp_path).rows("dev")


def test_a_cache_that_cannot_be_written_is_a_user_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(DataError, match="BCFUSION_CACHE"):
        small(tmp_path / "file").rows("train")


@pytest.mark.slow
def test_noises_differ_between_splits_and_have_their_colours(tmp_path: Path) -> None:
    noise = DemoNoise(cache_dir=str(tmp_path / "a"), seconds=4.0)
    files = {split: noise.files(split) for split in SPLITS}
    assert [len(files[split]) for split in SPLITS] == [2 * len(KINDS), len(KINDS), len(KINDS)]
    every = [Path(file) for split in SPLITS for file in files[split]]
    assert len({file.read_bytes() for file in every}) == len(every)
    high: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for file in every:
        assert file.parent.parent == Path(noise.root)
        samples, sample_rate = soundfile.read(file)
        assert (len(samples), sample_rate) == (64000, 16000)
        assert np.max(np.abs(samples)) < 0.9
        assert -32 < 20 * np.log10(samples.std()) < -25.9
        power = np.square(np.abs(np.fft.rfft(samples)))
        high[file.stem.rsplit("_", 1)[0]].append(float(power[4000:].sum() / power.sum()))  # above 1 kHz
    assert max(high["car"]) < 0.05
    assert max(high["wind"]) < 0.15
    assert min(high["pink"]) > 0.2
    assert min(high["machine"]) > 0.5
    assert min(high["babble"]) > 0.1
    again = DemoNoise(cache_dir=str(tmp_path / "b"), seconds=4.0)
    again.files("train")
    assert contents(again.root) == contents(noise.root)
