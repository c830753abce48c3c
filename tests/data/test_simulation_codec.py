from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
import torch
from draws import draw, seeded
from scipy import signal as scipy_signal

from bcfusion.contracts import Draw, Simulator
from bcfusion.data.simulation.accelerometer import Accelerometer
from bcfusion.data.simulation.codec import CODECS, Codec, delay, round_trip
from bcfusion.data.simulation.narrowband import Narrowband
from bcfusion.errors import ConfigError

RATE = 16000
AT_8000 = [name for name in CODECS if delay(name, 8000) is not None]


def speechlike(length: int = 2 * RATE, seed: int = 1, rate: int = RATE) -> torch.Tensor:
    """Noise that falls by 6 dB per octave from 200 Hz on, at -20 dB, and swells ten times a second."""
    white = torch.randn(length, generator=seeded(seed)).numpy()
    coloured = scipy_signal.lfilter(*scipy_signal.butter(1, 200, fs=rate), white)
    coloured = coloured * (1.05 + np.sin(2 * np.pi * 10 * np.arange(length) / rate))
    return torch.from_numpy(0.1 * coloured / max(coloured.std(), 1e-3)).to(torch.float32)[None]


def lag(signal: torch.Tensor, reference: torch.Tensor, finer: int = 8) -> float:
    """Delay in samples, where the cross-correlation is largest, to an eighth of a sample."""
    spectrum = torch.fft.rfft(signal[0].double()) * torch.fft.rfft(reference[0].double()).conj()
    correlation = torch.fft.irfft(spectrum, n=finer * signal.shape[-1])
    place = int(correlation.argmax())
    return (place if place < len(correlation) // 2 else place - len(correlation)) / finer


def snr(signal: torch.Tensor, reference: torch.Tensor) -> float:
    return float(10 * torch.log10(reference.square().sum() / (signal - reference).square().sum()))


def test_this_libsndfile_has_the_codecs_of_the_default_list() -> None:
    assert set(Codec().codecs) <= set(AT_8000)
    assert delay("opus", 11025) is None
    assert delay("mp3", 4000) is None


@pytest.mark.parametrize("name", AT_8000)
@pytest.mark.parametrize("rate", [8000, None])
def test_every_codec_is_aligned_with_what_it_codes(name: str, rate: int | None) -> None:
    air = speechlike()
    through = Narrowband(rate)(air, draw(0, False))["signal"] if rate else air
    for quality in (0.1, 0.9) if CODECS[name].graded else (0.5,):
        simulator = Codec(rate=rate, codecs=[name], quality=(quality, quality), probability=1.0)
        out = simulator(through, draw())["signal"]
        assert abs(lag(out, through)) <= 0.25


@pytest.mark.parametrize(
    ("name", "decibels"),
    [("mu_law", 37), ("a_law", 37), ("g723_40", 28), ("g721", 25), ("g723_24", 20), ("ms_adpcm", 19), ("gsm", 11)],
)
def test_codecs_cost_what_their_bits_cost(name: str, decibels: float) -> None:
    narrow = speechlike(16000, rate=8000)
    decoded = torch.from_numpy(round_trip(narrow[0].numpy(), 8000, name))[None]
    assert snr(decoded, narrow) == pytest.approx(decibels, abs=2)


@pytest.mark.parametrize("name", [name for name in AT_8000 if CODECS[name].graded])
def test_more_bits_are_nearer_to_the_speech(name: str) -> None:
    narrow = speechlike(16000, rate=8000)
    poor, fair, good = (
        snr(torch.from_numpy(round_trip(narrow[0].numpy(), 8000, name, quality))[None], narrow)
        for quality in (0.0, 0.5, 1.0)
    )
    assert poor < fair - 3
    assert fair <= good + 0.5


def test_a_delay_that_a_library_leaves_is_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    from bcfusion.data.simulation import codec

    kept = codec._transcode

    def late(samples: np.ndarray, rate: int, name: str, quality: float) -> np.ndarray:
        return np.pad(kept(samples, rate, name, quality), (312, 0))

    air = speechlike(8000)
    codec.delay.cache_clear()
    monkeypatch.setattr(codec, "_transcode", late)
    try:
        assert delay("mu_law", RATE) == 312
        out = Codec(codecs=["mu_law"], probability=1.0)(air, draw())["signal"]
    finally:
        codec.delay.cache_clear()
    assert snr(out, air) > 30


def test_the_signal_of_the_inner_simulator_is_coded_and_its_band_kept() -> None:
    air = speechlike()
    narrow = Narrowband(8000)(air, draw(0, False))["signal"]
    out = Codec(Narrowband(8000), 8000, ["mu_law"], probability=1.0, evaluation="mu_law")(air, draw(0, False))
    assert snr(out["signal"], narrow) > 25
    density = scipy_signal.welch(out["signal"][0].numpy(), RATE, nperseg=512)[1]
    assert 10 * np.log10(density[140:].max() / density[8:100].max()) < -60


def test_evaluation_has_one_codec_or_none_and_draws_nothing() -> None:
    air = speechlike(4000)
    generator = seeded(3)
    before = generator.get_state()
    assert torch.equal(Codec()(air, Draw(RATE, generator, generator, False))["signal"], air)
    fixed = Codec(evaluation="gsm", quality=(0.2, 0.4))
    first = fixed(air, Draw(RATE, generator, generator, False))["signal"]
    assert torch.equal(generator.get_state(), before)
    assert torch.equal(first, fixed(air, draw(4, False))["signal"])
    assert not torch.allclose(first, air, atol=1e-3)


def test_training_codes_a_share_of_the_segments_each_with_a_codec_of_the_list() -> None:
    air = speechlike(2000)
    simulator = Codec(codecs=["mu_law", "ima_adpcm"], probability=0.4)
    drawn = [simulator(air, draw(seed))["signal"] for seed in range(100)]
    fates = [tuple(signal[0, :50].tolist()) for signal in drawn]
    untouched = fates.count(tuple(air[0, :50].tolist()))
    assert 45 < untouched < 75
    assert len(set(fates)) == 3
    assert torch.equal(simulator(air, draw(5))["signal"], drawn[5])


def test_codecs_that_do_not_support_the_rate_are_skipped() -> None:
    air = speechlike(2000)
    out = Codec(rate=4000, codecs=["opus", "mp3", "mu_law"], probability=1.0)(air, draw())["signal"]
    lone = Codec(rate=4000, codecs=["mu_law"], probability=1.0)(air, draw())["signal"]
    assert torch.equal(out, lone)
    with pytest.raises(ConfigError, match=r"none of opus codes 4000 Hz .* there are .*mu_law"):
        Codec(rate=4000, codecs=["mu_law"], evaluation="opus")(air, draw(0, False))
    with pytest.raises(ConfigError, match="above the sample rate, 16000"):
        Codec(rate=48000)(air, draw())


def test_the_wearer_is_passed_to_the_inner_simulator() -> None:
    air = speechlike(2000)
    worn = Codec(Accelerometer(noise_level=None), codecs=["mu_law"], evaluation="mu_law")
    first = worn(air, draw(1, False, 7))["signal"]
    assert torch.equal(first, worn(air, draw(2, False, 7))["signal"])
    assert not torch.allclose(first, worn(air, draw(1, False, 8))["signal"], atol=1e-3)
    assert isinstance(Codec(), Simulator)


@pytest.mark.parametrize("name", AT_8000)
@pytest.mark.parametrize("length", [1, 3, 161, 5001])
def test_any_length_and_silence_and_peaks(name: str, length: int) -> None:
    simulator = Codec(rate=8000, codecs=[name], probability=1.0)
    for air in (torch.zeros(1, length), 20 * speechlike(length)):
        before = air.clone()
        out = simulator(air, draw())["signal"]
        assert out.shape == (1, length)
        assert out.dtype == torch.float32
        assert bool(out.isfinite().all())
        assert torch.equal(air, before)
        assert float(out.abs().max()) < 4.0


def test_a_signal_that_is_not_finite_is_returned_and_ends_no_process() -> None:
    for name in AT_8000:
        broken = np.full(2000, np.nan, dtype=np.float32)
        assert np.isnan(round_trip(broken, 8000, name)).all()


def test_it_travels_to_worker_processes() -> None:
    air = speechlike(500)
    simulator = Codec(Narrowband(), 8000, probability=1.0)
    restored = pickle.loads(pickle.dumps(simulator))
    assert torch.equal(restored(air, draw())["signal"], simulator(air, draw())["signal"])


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"codecs": ["amr"]}, r"codecs=\['amr'\] must be one or more of opus, vorbis"),
        ({"codecs": []}, "one or more"),
        ({"evaluation": "amr"}, "evaluation='amr' must be one of null, opus"),
        ({"rate": -8000}, "rate=-8000"),
        ({"quality": (0.2, 1.2)}, "quality"),
        ({"probability": 1.2}, "probability=1.2"),
    ],
)
def test_wrong_settings_are_refused(settings: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        Codec(**settings)
