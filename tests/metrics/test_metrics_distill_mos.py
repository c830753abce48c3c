"""Distill-MOS gives what the package's own call gives; without the package, segments of a stand-in are averaged."""

from __future__ import annotations

import math
import pickle
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor, nn

from bcfusion.contracts import Metric, Skip
from bcfusion.errors import ConfigError
from bcfusion.metrics.base import resample
from bcfusion.metrics.distill_mos import HOP, SEGMENT, DistillMos

RATE = 16_000


def speech_like(seconds: float, rate: int = RATE) -> np.ndarray:
    time = np.arange(round(seconds * rate)) / rate
    voice = sum(np.sin(2 * np.pi * 130 * k * time) / k for k in range(1, 25))
    return 0.1 * voice * np.maximum(np.sin(2 * np.pi * 4 * time), 0) ** 0.5


def reason(metric: Metric, estimate: np.ndarray, target: np.ndarray) -> str:
    with pytest.raises(Skip) as skip:
        metric.score(estimate, target, RATE)
    return str(skip.value)


class First(nn.Module):
    """A stand-in for the package's network: the rating is the first sample of what it is given."""

    def __init__(self, load_weights: bool = True, segmenting_in_forward: bool = True) -> None:
        super().__init__()
        print("weights loaded from: somewhere")
        assert load_weights
        assert not segmenting_in_forward
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        assert x.shape == (1, SEGMENT)
        self.seen.append(x)
        return x[:, 0]


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bcfusion.metrics.distill_mos.require_packages", lambda *_, **__: None)
    module = types.ModuleType("distillmos")
    module.__dict__["ConvTransformerSQAModel"] = First
    monkeypatch.setitem(sys.modules, "distillmos", module)


@pytest.mark.usefixtures("stand_in")
@pytest.mark.parametrize("samples", [4000, SEGMENT, SEGMENT + 1, SEGMENT + HOP, SEGMENT + 5 * HOP // 2])
def test_segments_cover_the_utterance_and_are_at_most_a_second_apart(
    samples: int, capsys: pytest.CaptureFixture[str]
) -> None:
    metric = DistillMos()
    positions = np.arange(samples) / 2**20  # exact in float32
    value = metric.score(positions, positions, RATE)["distill_mos"]
    seen: list[Tensor] = metric._network.seen
    starts = [float(segment[0, 0]) * 2**20 for segment in seen]
    assert len(starts) == 1 + math.ceil(max(0, samples - SEGMENT) / HOP)
    assert starts[0] == 0
    assert starts[-1] == max(0, samples - SEGMENT)
    assert all(0 < step <= HOP for step in np.diff(starts))
    assert value == pytest.approx(np.mean(starts) / 2**20)
    assert not seen[0][0, samples:].any()  # zeros continue a short one
    assert capsys.readouterr().out == ""


@pytest.mark.usefixtures("stand_in")
def test_what_cannot_be_scored_is_skipped_before_the_network_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    metric, estimate = DistillMos(), speech_like(0.3)
    assert reason(metric, 0 * estimate, estimate) == "estimate is silent"
    assert reason(metric, estimate[:3999], estimate[:3999]) == "shorter than 0.25 s"
    assert metric._network is None
    assert len(pickle.dumps(metric)) < 300
    monkeypatch.setitem(sys.modules, "distillmos", types.ModuleType("distillmos"))
    text = reason(metric, estimate, estimate)
    assert text.startswith("no network: AttributeError")
    assert "pip install --force-reinstall 'bcfusion[distillmos]'" in text


def test_a_missing_package_is_refused_with_its_own_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bcfusion.metrics.optional.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"distillmos, xls_r_sqa are not .*; pip install 'bcfusion\[distillmos\]'"):
        DistillMos()


# the package


@pytest.fixture(scope="module")
def package() -> Any:
    pytest.importorskip("xls_r_sqa")
    return pytest.importorskip("distillmos")


@pytest.mark.slow
def test_values_are_those_of_the_package(package: Any) -> None:
    network = package.ConvTransformerSQAModel().eval()
    metric = DistillMos()
    random = np.random.default_rng(0)
    for seconds, rate in ((0.25, RATE), (3.0, RATE), (SEGMENT / RATE, RATE), (9.5, RATE), (2.0, 48_000)):
        estimate = speech_like(seconds, rate)
        estimate += 0.01 * random.standard_normal(estimate.size)
        value = metric.score(estimate, 0 * estimate, rate)["distill_mos"]  # it needs no target
        with torch.inference_mode():
            expected = network(torch.from_numpy(resample(estimate, rate, RATE)).float()[None])
        assert value == pytest.approx(expected.item(), abs=1e-5)
        assert metric.score(estimate, estimate, rate)["distill_mos"] == value  # the same each time
        assert metric.score(0.1 * estimate, estimate, rate)["distill_mos"] == pytest.approx(value, abs=1e-4)
    assert len(pickle.dumps(metric)) < 300  # the network stays in this process


@pytest.mark.slow
@pytest.mark.corpora
@pytest.mark.usefixtures("package")
def test_more_noise_in_real_speech_is_rated_worse(corpora: Path) -> None:
    file = min((corpora / "librispeech_clips/valid").glob("*/*.flac"))
    target = soundfile.read(file, frames=4 * RATE, dtype="float64")[0]
    metric, noise = DistillMos(), np.random.default_rng(1).standard_normal(target.size)
    ratings = [metric.score(target + level * noise, target, RATE)["distill_mos"] for level in (0.0, 0.005, 0.02)]
    assert 5 >= ratings[0] > ratings[1] + 0.2 > ratings[2] + 0.4
    assert ratings[2] >= 1
