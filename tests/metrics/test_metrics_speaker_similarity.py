"""Speaker similarity by a small network of random weights in the layout that WeSpeaker exports."""

from __future__ import annotations

import pickle
import warnings
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from fake_hub import FakeHub
from odd_signals import BROKEN, FINITE, batch

from bcfusion.contracts import Metric, Skip
from bcfusion.errors import ConfigError
from bcfusion.evaluation.pool import Scorer
from bcfusion.metrics.base import resample
from bcfusion.metrics.speaker_similarity import FILE_NAME, REPOSITORY, SpeakerSimilarity, embedding

RATE = 16_000
onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

WEIGHTS = 0.1 * np.random.default_rng(0).standard_normal((80, 16)).astype(np.float32)
HEAD = np.random.default_rng(1).standard_normal((32, 8)).astype(np.float32)


def voice(pitch: float, seconds: float = 1.0, rate: int = RATE) -> np.ndarray:
    time = np.arange(round(seconds * rate)) / rate
    tone = sum(np.sin(2 * np.pi * pitch * k * time) / k for k in range(1, int(3500 / pitch)))
    return 0.1 * tone * (1.1 + np.sin(2 * np.pi * 4 * time))


def network(bands: int = 80) -> bytes:
    """A network ``(B, T, 80) -> (B, 8)``: a layer, mean and deviation over time, a layer."""
    from onnx import TensorProto, helper, numpy_helper

    nodes = [
        helper.make_node("MatMul", ["feats", "weights"], ["linear"]),
        helper.make_node("Relu", ["linear"], ["hidden"]),
        helper.make_node("ReduceMean", ["hidden"], ["mean"], axes=[1], keepdims=1),
        helper.make_node("Sub", ["hidden", "mean"], ["rest"]),
        helper.make_node("ReduceL2", ["rest"], ["deviation"], axes=[1], keepdims=1),
        helper.make_node("Concat", ["mean", "deviation"], ["pooled"], axis=2),
        helper.make_node("MatMul", ["pooled", "head"], ["embedding"]),
        helper.make_node("Squeeze", ["embedding", "axis"], ["embs"]),
    ]
    constants = {"weights": WEIGHTS[:bands], "head": HEAD, "axis": np.array([1])}
    graph = helper.make_graph(
        nodes,
        "speaker",
        [helper.make_tensor_value_info("feats", TensorProto.FLOAT, ["B", "T", bands])],
        [helper.make_tensor_value_info("embs", TensorProto.FLOAT, ["B", 8])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    opset = [helper.make_opsetid("", 13)]
    return helper.make_model(graph, opset_imports=opset, ir_version=8).SerializeToString()


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("speaker") / FILE_NAME
    path.write_bytes(network())
    return str(path)


def log_mel(signal: np.ndarray) -> np.ndarray:
    """Kaldi's log mel energies (T, 80) from their definition: whole frames, no mean, pre-emphasis 0.97, Hamming."""
    count = 1 + (signal.size - 400) // 160
    frames = np.stack([signal[160 * n : 160 * n + 400] for n in range(count)]) * 32768.0
    frames = frames - frames.mean(axis=1, keepdims=True)
    frames = frames - 0.97 * np.concatenate([frames[:, :1], frames[:, :-1]], axis=1)
    frames = frames * (0.54 - 0.46 * np.cos(2 * np.pi * np.arange(400) / 399))
    power = np.abs(np.fft.rfft(frames, 512)) ** 2

    def mel(frequency: np.ndarray) -> np.ndarray:
        return 1127.0 * np.log(1.0 + frequency / 700.0)

    low, high = mel(np.array([20.0, 8000.0]))
    step = (high - low) / 81
    bins = mel(np.arange(257) * RATE / 512)
    centres = low + step * np.arange(1, 81)
    triangles = np.maximum(0.0, 1.0 - np.abs(bins - centres[:, None]) / step)
    return np.log(np.maximum(power @ triangles.T, np.finfo(np.float32).eps))


def expected(signal: np.ndarray) -> np.ndarray:
    features = log_mel(signal)
    hidden = np.maximum((features - features.mean(axis=0)) @ WEIGHTS, 0.0)
    mean = hidden.mean(axis=0)
    return np.concatenate([mean, np.sqrt(((hidden - mean) ** 2).sum(axis=0))]) @ HEAD


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def reason(metric: Metric, estimate: np.ndarray, target: np.ndarray) -> str:
    with pytest.raises(Skip) as skip:
        metric.score(estimate, target, RATE)
    return str(skip.value)


def test_it_is_the_cosine_of_the_vectors_that_the_network_gives_for_log_mel_energies(weights: str) -> None:
    metric = SpeakerSimilarity(weights)
    random = np.random.default_rng(2)
    target, other = (voice(pitch) + 0.003 * random.standard_normal(RATE) for pitch in (110.0, 190.0))
    value = metric.score(other, target, RATE)["speaker_similarity"]
    assert value == pytest.approx(cosine(expected(other), expected(target)), abs=1e-5)
    assert value < 0.999  # of a network that was not trained
    assert metric.score(target, target, RATE)["speaker_similarity"] == pytest.approx(1.0)
    assert metric.score(0.05 * target, target, RATE)["speaker_similarity"] == pytest.approx(1.0, abs=1e-4)
    assert metric.score(other, target, RATE)["speaker_similarity"] == value
    np.testing.assert_allclose(embedding(metric._network, target), expected(target), rtol=1e-3, atol=1e-3)


def test_other_rates_are_resampled_and_samples_beyond_full_scale_clipped(weights: str) -> None:
    metric = SpeakerSimilarity(weights)
    target, other = (
        voice(pitch, rate=48_000) + 1e-3 * np.sin(np.arange(48_000) ** 2 / 7e5) for pitch in (110.0, 190.0)
    )
    value = metric.score(other, target, 48_000)["speaker_similarity"]
    low = [resample(signal, 48_000, RATE) for signal in (other, target)]
    assert value == pytest.approx(metric.score(*low, RATE)["speaker_similarity"], abs=1e-6)
    loud = 20 * low[0]
    clipped = metric.score(np.clip(loud, -1, 1), low[1], RATE)
    assert metric.score(loud, low[1], RATE) == clipped


def test_what_cannot_be_scored_is_skipped_before_the_network_is_loaded(weights: str) -> None:
    metric, signal = SpeakerSimilarity(weights), voice(110.0, 0.5)
    assert reason(metric, 0 * signal, signal) == "estimate is silent"
    assert reason(metric, signal, 0 * signal) == "target is silent"
    assert reason(metric, signal[:3999], signal[:3999]) == "shorter than 0.25 s"
    assert metric._network is None
    assert metric.score(signal[:4000], signal[:4000], RATE)["speaker_similarity"] == pytest.approx(1.0)
    assert len(pickle.dumps(metric)) < 1000  # the network stays in this process
    assert pickle.loads(pickle.dumps(metric)).score(signal, signal, RATE) == metric.score(signal, signal, RATE)


def test_odd_signals_give_a_finite_number_or_a_reason(weights: str) -> None:
    metric, signals = SpeakerSimilarity(weights), {**FINITE, **BROKEN}
    for estimate_name, target_name in product(signals, signals):
        estimate, target = (batch([name], 6000)[0, 0].numpy() for name in (estimate_name, target_name))
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", RuntimeWarning)
                value = metric.score(estimate, target, RATE)["speaker_similarity"]
        except Skip:
            value = None
        wrong = {estimate_name, target_name} & {"silence", "denormals", "faint", "dc", *BROKEN}
        assert (value is None) == bool(wrong), (estimate_name, target_name, value)
        assert value is None or -1.0001 <= value <= 1.0001


def test_the_scores_of_a_table_have_a_direction_and_count_what_is_skipped(weights: str) -> None:
    signal = voice(110.0, 0.5)
    with Scorer({"speaker_similarity": SpeakerSimilarity(weights)}, RATE, workers=0) as scorer:
        scorer.submit("a", {"input": voice(190.0, 0.5), "enhanced": signal}, signal)
        scorer.submit("b", {"input": signal, "enhanced": 0 * signal}, signal)
        scores = scorer.collect()
    assert scores.higher_is_better == {"speaker_similarity": True}
    assert scores.count("speaker_similarity", "enhanced") == 1
    assert dict(scores.skipped("enhanced")["speaker_similarity"]) == {"estimate is silent": 1}


@pytest.mark.slow
def test_a_process_that_scores_uses_one_thread(weights: str) -> None:
    import subprocess
    import sys

    code = (
        "import sys, numpy as np\n"
        "from bcfusion.metrics.speaker_similarity import SpeakerSimilarity\n"
        "metric = SpeakerSimilarity(sys.argv[1])\n"
        "options = metric._loaded().get_session_options()\n"
        "print(options.intra_op_num_threads, options.inter_op_num_threads, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, weights], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1", "1", "False"]


# where the weights come from


def test_a_file_of_another_kind_is_a_reason_and_a_missing_one_is_refused_at_once(tmp_path: Path) -> None:
    signal = voice(110.0, 0.5)
    damaged = tmp_path / "damaged.onnx"
    damaged.write_bytes(b"<html>404</html>")
    text = reason(SpeakerSimilarity(str(damaged)), signal, signal)
    assert text.startswith("no network: InvalidProtobuf")
    assert f"name a copy of {FILE_NAME} with metrics.speaker_similarity.weights=FILE" in text
    other = tmp_path / "other.onnx"
    other.write_bytes(network(bands=40))
    assert "its inputs are [['B', 'T', 40]], not one of (batch, frames, 80)" in reason(
        SpeakerSimilarity(str(other)), signal, signal
    )
    with pytest.raises(ConfigError, match=r"SpeakerSimilarity: weights='/nowhere/a.onnx' does not exist"):
        SpeakerSimilarity("/nowhere/a.onnx")


def test_weights_are_fetched_from_the_hub_once(hub: FakeHub) -> None:
    hub.add(REPOSITORY, {FILE_NAME: network(), "avg_model": b"not needed", "README.md": b"card"})
    metric, signal = SpeakerSimilarity(), voice(110.0, 0.5)
    assert metric.score(signal, signal, RATE)["speaker_similarity"] == pytest.approx(1.0)
    assert not any("avg_model" in request for request in hub.requests)
    asked = len(hub.requests)
    metric.score(signal, signal, RATE)
    assert len(hub.requests) == asked
    hub.broken = 503  # out of order: the earlier download serves
    assert SpeakerSimilarity().score(signal, signal, RATE)["speaker_similarity"] == pytest.approx(1.0)


def test_without_the_hub_each_utterance_is_skipped_with_the_reason(hub: FakeHub) -> None:
    hub.broken = 503
    metric, signal = SpeakerSimilarity(), voice(110.0, 0.5)
    first = reason(metric, signal, signal)
    assert "the hub answers with an error (503), and an earlier download is not in the cache" in first
    assert first.endswith("metrics.speaker_similarity.weights=FILE, or run once with a connection")
    asked = len(hub.requests)
    assert reason(metric, signal, signal) == first
    assert len(hub.requests) == asked  # it is not tried again


def test_the_client_of_the_hub_is_needed_only_to_fetch(weights: str, monkeypatch: pytest.MonkeyPatch) -> None:
    missing = "huggingface_hub"
    monkeypatch.setattr("bcfusion.metrics.optional.find_spec", lambda name: None if name == missing else object())
    SpeakerSimilarity(weights)
    with pytest.raises(ConfigError, match=r"huggingface_hub is not installed; pip install 'bcfusion\[metrics\]'"):
        SpeakerSimilarity()
