"""Streams that share a network."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from serving_server import bundle, noise

from bcfusion.errors import ConfigError
from bcfusion.inference.stepping import Frames, Stepper
from bcfusion.live.steppers import open_stepper
from bcfusion.run.bundle import load_generator
from bcfusion.serving.models import load_models
from bcfusion.serving.networks import SharedNetwork, open_network

BACKENDS = ["torch", pytest.param("onnx", marks=pytest.mark.slow)]


def network(folder: Path, sensors: list[str], backend: str) -> SharedNetwork:
    if backend == "onnx":
        for package in ("onnx", "onnxscript", "onnxruntime"):
            pytest.importorskip(package)
    return open_network(load_generator(bundle(folder / "model", sensors)), "model", backend)


def stepped(stepper: Stepper, signal: Frames) -> Frames:
    frames = range(0, signal.shape[1], stepper.frame)
    return np.concatenate([stepper.step(np.ascontiguousarray(signal[:, at : at + stepper.frame])) for at in frames])


@pytest.mark.parametrize("backend", BACKENDS)
def test_streams_of_one_network_do_not_hear_each_other(tmp_path: Path, backend: str) -> None:
    shared = network(tmp_path, ["body", "noisy"], backend)
    assert shared.backend == backend
    signals = [noise(40 * shared.frame, 2, seed) for seed in range(8)]
    stepper = open_stepper(tmp_path / "model", backend)
    assert (stepper.frame, stepper.lookahead, stepper.sensors) == (shared.frame, shared.lookahead, shared.sensors)
    alone = []
    for signal in signals:
        stepper.reset()
        alone.append(stepped(stepper, signal))
    streams = [shared.open() for _ in signals]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(stepped, streams, signals))
    for mine, own in zip(together, alone, strict=True):
        np.testing.assert_array_equal(mine, own)
    streams[0].reset()
    np.testing.assert_array_equal(stepped(streams[0], signals[1]), alone[1])
    streams[0].close()
    np.testing.assert_array_equal(shared.open().step(signals[0][:, : shared.frame]), alone[0][: shared.frame])


@pytest.mark.parametrize("sensors", [["body"], ["body", "noisy"]])
def test_a_mixture_is_that_of_the_other_verbs(tmp_path: Path, sensors: list[str]) -> None:
    shared = network(tmp_path, sensors, "torch")
    signal = noise(20 * shared.frame, len(sensors))
    theirs = open_stepper(tmp_path / "model", "torch", strength=0.25)
    mixed = shared.open(0.75)
    expected = stepped(theirs, signal)
    np.testing.assert_allclose(stepped(mixed, signal), expected, atol=1e-6)
    mixed.reset()
    np.testing.assert_allclose(stepped(mixed, signal), expected, atol=1e-6)


def test_a_mixture_is_late_by_the_lookahead() -> None:
    from bcfusion.serving.networks import _Mixed

    class Late:
        sample_rate, sensors, frame, lookahead = 16000, ("body",), 4, 6

        def step(self, chunk: Frames) -> Frames:
            return np.zeros(4, dtype=np.float32)

        def reset(self) -> None: ...

        def close(self) -> None: ...

    mixed = _Mixed(Late(), 0.5, 0)
    signal = np.arange(1, 17, dtype=np.float32)[None]
    np.testing.assert_array_equal(stepped(mixed, signal), 0.5 * np.concatenate([np.zeros(6), np.arange(1, 11)]))


def test_two_models_of_one_name_are_told_apart(tmp_path: Path) -> None:
    paths = [str(bundle(tmp_path / place / "model", ["body"], causal=False)) for place in ("a", "b")]
    assert list(load_models(paths)) == ["model", "model-2"]


def test_an_exported_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="give the bundle that it was made of"):
        load_models([str(tmp_path / "model.onnx")])


def test_the_backend_that_is_asked_for_needs_its_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bcfusion.live.steppers.missing_packages", lambda: ["onnx"])
    generator = load_generator(bundle(tmp_path / "model", ["body"]))
    with pytest.raises(ConfigError, match=r"--backend onnx needs onnx: pip install 'bcfusion\[onnx\]'"):
        open_network(generator, "model", "onnx")
    assert open_network(generator, "model", "auto").backend == "torch"
