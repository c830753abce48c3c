"""Metrics that need networks or further packages: lazy loading from the user's file, and reasons for failures."""

from __future__ import annotations

import importlib.machinery
import pickle
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest
import torch
from torchaudio.models import squim_objective_base

from bcfusion.contracts import Metric, Skip
from bcfusion.errors import ConfigError
from bcfusion.evaluation.pool import Scorer
from bcfusion.metrics.dnsmos import Dnsmos
from bcfusion.metrics.nisqa import Nisqa
from bcfusion.metrics.optional import NetworkMetric
from bcfusion.metrics.squim import Squim
from bcfusion.metrics.visqol import Visqol

RATE = 16_000


def speech_like(seconds: float = 1.0, rate: int = RATE) -> np.ndarray:
    time = np.arange(round(seconds * rate)) / rate
    voice = sum(np.sin(2 * np.pi * 130 * k * time) / k for k in range(1, 25))
    return 0.1 * voice * np.maximum(np.sin(2 * np.pi * 4 * time), 0) ** 0.5


def noisy(target: np.ndarray, snr_db: float) -> np.ndarray:
    noise = np.random.default_rng(1).standard_normal(target.size)
    return target + noise * np.sqrt(np.mean(target**2) / np.mean(noise**2)) * 10 ** (-snr_db / 20)


def reason(metric: Metric, estimate: np.ndarray, target: np.ndarray, rate: int = RATE) -> str:
    with pytest.raises(Skip) as skip:
        metric.score(estimate, target, rate)
    return str(skip.value)


# SQUIM


@pytest.fixture(scope="module")
def squim_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("squim") / "squim_objective_dns2020.pth"
    torch.save(squim_objective_base().state_dict(), path)
    return path


def test_squim_from_a_file_gives_what_the_network_gives_and_needs_no_target(squim_weights: Path) -> None:
    metric = Squim(str(squim_weights))
    estimate = noisy(speech_like(0.5), 10)
    assert reason(metric, 0 * estimate, estimate) == "estimate is silent"
    assert reason(metric, estimate[:3999], estimate[:3999]) == "shorter than 0.25 s"
    assert metric._network is None  # a skipped utterance loads nothing
    values = metric.score(estimate, 0 * estimate, RATE)
    network = squim_objective_base()
    network.load_state_dict(torch.load(squim_weights))
    with torch.inference_mode():
        stoi, pesq, si_sdr = network.eval()(torch.from_numpy(estimate).float()[None])
    expected = {"squim_pesq": float(pesq), "squim_stoi": float(stoi), "squim_si_sdr": float(si_sdr)}
    assert values == pytest.approx(expected)


def test_the_network_is_loaded_once_and_is_not_pickled(squim_weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    metric, loads = Squim(str(squim_weights)), []
    real = metric._load
    monkeypatch.setattr(Squim, "_load", lambda self: loads.append(1) or real())
    estimate = speech_like(0.3)
    with Scorer({"squim": metric}, RATE, workers=0) as scorer:
        for item in ("a", "b"):
            scorer.submit(item, {"input": estimate, "enhanced": 0.5 * estimate}, estimate)
        scores = scorer.collect()
    assert scores.count("squim_pesq", "enhanced") == 2
    assert len(loads) == 1
    assert len(pickle.dumps(metric)) < 2000
    assert not isinstance(metric, torch.nn.Module)


def test_squim_without_a_connection_skips_with_a_remedy_and_does_not_try_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    tries: list[str] = []

    def offline(url: str, *_: Any, **__: Any) -> None:
        tries.append(url)
        raise URLError("Temporary failure in name resolution")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(sys.modules["torchaudio.utils.download"], "download_url_to_file", offline)
    metric, target = Squim(), speech_like(0.3)
    first, second = (reason(metric, target, target) for _ in range(2))
    assert first == second
    assert "Temporary failure in name resolution" in first
    assert "metrics.squim.weights=FILE" in first
    assert len(tries) == 1


def test_a_damaged_file_is_a_reason_and_a_missing_one_is_refused_at_once(tmp_path: Path) -> None:
    damaged = tmp_path / "squim.pth"
    damaged.write_bytes(b"<html>404</html>")
    assert reason(Squim(str(damaged)), speech_like(), speech_like()).startswith("no network: UnpicklingError")
    with pytest.raises(ConfigError, match=r"Squim: weights='/nowhere/a.pth' does not exist"):
        Squim("/nowhere/a.pth")
    with pytest.raises(ConfigError, match="does not exist or is not a file"):
        Squim(str(tmp_path))


# DNSMOS


class FakeSession:
    """Stands for onnxruntime's session: rates everything 4, and P.808 3.5."""

    def __init__(self, path: str, options: Any = None, providers: Any = None) -> None:
        assert Path(path).is_file()  # the networks of the package
        self.threads = None if options is None else options.intra_op_num_threads
        self.received: list[np.ndarray] = []

    def run(self, _: None, feed: dict[str, np.ndarray]) -> list[np.ndarray]:
        self.received.append(feed["input_1"])
        return [np.array([[4.0, 4.0, 4.0]]) if feed["input_1"].ndim == 2 else np.array([[3.5]])]


@pytest.fixture
def fake_onnxruntime(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    speechmos = pytest.importorskip("speechmos")

    def forget() -> None:  # modules imported from the stand-ins or the real packages
        sys.modules.pop("speechmos.dnsmos", None)
        vars(speechmos).pop("dnsmos", None)

    def module(name: str, **content: Any) -> None:
        made = types.ModuleType(name)
        made.__spec__ = importlib.machinery.ModuleSpec(name, None)
        made.__dict__.update(content)
        monkeypatch.setitem(sys.modules, name, made)

    def melspectrogram(y: np.ndarray, hop_length: int, n_mels: int, **_: Any) -> np.ndarray:
        return np.ones((n_mels, y.size // hop_length + 1))

    features = types.SimpleNamespace(melspectrogram=melspectrogram)
    module("onnxruntime", InferenceSession=FakeSession, SessionOptions=types.SimpleNamespace)
    module("librosa", feature=features, power_to_db=lambda power, ref: power)
    forget()
    yield
    forget()


@pytest.mark.usefixtures("fake_onnxruntime")
def test_dnsmos_is_given_16_khz_within_full_scale_and_maps_the_ratings_of_its_networks() -> None:
    metric = Dnsmos()
    estimate = 100 * speech_like(1.0, 8_000)
    values = metric.score(estimate, 0 * estimate, 8_000)
    # the published polynomials of P.835 at a raw rating of 4
    assert values["dnsmos_ovrl"] == pytest.approx(-0.06766283 * 16 + 1.11546468 * 4 + 0.04602535)
    assert values["dnsmos_sig"] == pytest.approx(-0.08397278 * 16 + 1.22083953 * 4 + 0.0052439)
    assert values["dnsmos_bak"] == pytest.approx(-0.13166888 * 16 + 1.60915514 * 4 - 0.39604546)
    assert values["dnsmos_p808"] == pytest.approx(3.5)
    session = metric._network.onnx_sess
    assert session.threads == metric._network.p808_onnx_sess.threads == 1
    assert session.received[0].shape == (1, 144_160)  # 9.01 s, by repetition
    assert session.received[0].dtype == np.float32
    assert np.abs(session.received[0]).max() == 1.0
    assert reason(metric, 0 * estimate, estimate, 8_000) == "estimate is silent"


@pytest.mark.slow
def test_dnsmos_prefers_clean_speech() -> None:
    for package in ("speechmos", "onnxruntime", "librosa"):
        pytest.importorskip(package)
    target = speech_like(3.0)
    clean, bad = (Dnsmos().score(x, target, RATE) for x in (target, noisy(target, 0)))
    assert clean["dnsmos_bak"] > bad["dnsmos_bak"] + 0.5
    assert all(1 <= value <= 5 for value in clean.values())


# NISQA


@pytest.fixture
def nisqa_module(monkeypatch: pytest.MonkeyPatch) -> Any:
    from torchmetrics.functional.audio import nisqa

    monkeypatch.setattr("bcfusion.metrics.nisqa.require_packages", lambda *_: None)
    return nisqa


def test_nisqa_takes_the_file_of_the_user_and_names_its_dimensions(
    nisqa_module: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    weights, received = tmp_path / "nisqa.tar", []
    weights.touch()
    default = nisqa_module.NISQA_DIR

    def rate(signal: torch.Tensor, sample_rate: int) -> torch.Tensor:
        received.append((signal.dtype, sample_rate, nisqa_module.NISQA_DIR))
        if signal.numel() > 100_000:
            raise RuntimeError("Maximum number of mel spectrogram windows exceeded. Use shorter audio.")
        return torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0])

    monkeypatch.setattr(nisqa_module, "non_intrusive_speech_quality_assessment", rate)
    metric, estimate = Nisqa(str(weights)), speech_like(1.0, 48_000)
    # the order of torchmetrics: overall, noisiness, discontinuity, coloration, loudness
    ratings = [f"nisqa_{name}" for name in ("mos", "noisiness", "discontinuity", "coloration", "loudness")]
    assert metric.score(estimate, estimate, 48_000) == dict(zip(ratings, range(1, 6), strict=True))
    assert received[0][2] == str(tmp_path)
    assert received[1] == (torch.float32, 48_000, default)  # the library is unchanged
    assert reason(metric, np.tile(estimate, 3), np.tile(estimate, 3), 48_000).startswith("NISQA: Maximum number")


def test_nisqa_without_a_connection_or_with_a_file_of_another_name(
    nisqa_module: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def offline(*_: Any) -> None:
        raise ConnectionError("no route to host")

    monkeypatch.setattr(nisqa_module, "NISQA_DIR", str(tmp_path))
    monkeypatch.setattr(nisqa_module, "non_intrusive_speech_quality_assessment", offline)
    text = reason(Nisqa(), speech_like(), speech_like())
    assert text.startswith("no network: ConnectionError: no route to host; name a copy of nisqa.tar")
    other = tmp_path / "weights.tar"
    other.touch()
    with pytest.raises(ConfigError, match=r"must be a file called nisqa.tar"):
        Nisqa(str(other))


# packages


@pytest.mark.parametrize(
    ("metric", "package"),
    [(Dnsmos, "onnxruntime"), (Nisqa, "librosa"), (Visqol, "visqol"), (lambda: Visqol("audio"), "visqol")],
)
def test_a_missing_package_is_refused_when_the_metric_is_made(
    metric: Any, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bcfusion.metrics.optional.find_spec", lambda name: None if name == package else object())
    with pytest.raises(ConfigError, match=rf"{package} is not installed; pip install 'bcfusion\[metrics\]'"):
        metric()


def test_no_network_is_loaded_to_make_a_metric() -> None:
    class Never(NetworkMetric):
        names = ("never",)

        def _load(self) -> Any:
            raise AssertionError

        def _remedy(self) -> str:
            return "nothing"

        def _predict(self, network: Any, estimate: np.ndarray, sample_rate: int) -> dict[str, float]:
            raise AssertionError

    assert reason(Never(), np.zeros(RATE), speech_like()) == "estimate is silent"


# ViSQOL


@pytest.mark.slow
def test_visqol_rates_the_target_best_and_noise_lower() -> None:
    pytest.importorskip("visqol")
    metric, target = Visqol(), speech_like(1.0)
    assert metric.names == ("visqol",)
    top = metric.score(target, target, RATE)["visqol"]
    assert top == pytest.approx(5.0)
    assert 1.0 <= metric.score(noisy(target, 5), target, RATE)["visqol"] < 4.0
    assert len(pickle.dumps(metric)) < 1000
    assert reason(metric, 0 * target, target) == "estimate is silent"
    assert reason(metric, target, 0 * target) == "target is silent"
    for samples in (1000, 4800):
        assert reason(metric, target[:samples], target[:samples]) == "too short for ViSQOL"


def test_visqol_refuses_what_it_does_not_know() -> None:
    with pytest.raises(ConfigError) as error:
        Visqol("music", "linear")  # type: ignore[arg-type]
    assert error.value.problems == [
        "Visqol: mode='music' must be one of speech, audio",
        "Visqol: mapping='linear' must be one of polynomial, lattice",
    ]
