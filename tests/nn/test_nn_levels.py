"""Log energies that depend neither on level nor on colour nor on silence around the speech."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from bcfusion.errors import ConfigError
from bcfusion.nn.levels import LogLevels


def speech(frames: int = 300, bands: int = 5, seed: int = 0) -> Tensor:
    """Energies ``(1, 1, bands, frames)`` about -30 dB, each band and frame with its own."""
    random = torch.randn(1, 1, bands, frames, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return 10 ** (-3 + random)


def levels(normalisation: Any = "utterance", **changes: Any) -> LogLevels:
    return LogLevels(normalisation, 125.0, 5, **{"activity_db": 40.0, **changes})


@pytest.mark.parametrize("normalisation", ["utterance", "running"])
@pytest.mark.parametrize("deviation", [False, True])
def test_neither_level_nor_colour_change_the_features(normalisation: str, deviation: bool) -> None:
    model, x = levels(normalisation, deviation=deviation, floor_db=200.0), speech()
    features = model(x)[0]
    torch.testing.assert_close(model(100 * x)[0], features)
    colour = torch.tensor([0.5, 1.0, 2.0, 0.7, 1.5], dtype=x.dtype)[:, None]
    # a colour moves the energy of a frame, by which it counts, a little
    assert (model(colour * x)[0] - features).abs().max() < 0.2
    assert (levels("none")(100 * x)[0] - levels("none")(x)[0]).min() > 1


def test_the_mean_over_an_utterance_is_that_of_its_active_frames() -> None:
    x = speech()
    features = levels()(x)[0]
    assert features.mean(-1).abs().max() < 0.05
    pauses = torch.cat([1e-9 * speech(seed=1), x, 1e-9 * speech(seed=2), torch.zeros_like(x)], dim=-1)
    torch.testing.assert_close(levels()(pauses)[0][..., 300:600], features, atol=1e-4, rtol=0)
    zeros = torch.cat([x, torch.zeros_like(x)], dim=-1)
    torch.testing.assert_close(levels()(zeros)[0][..., :300], features)
    deviations = levels(deviation=True)(x)[0].std(-1)
    torch.testing.assert_close(deviations, torch.ones_like(deviations), atol=0.05, rtol=0)


def test_a_faint_beginning_is_forgotten_when_speech_sets_in() -> None:
    """After half a second of speech the running mean is that of speech, whatever preceded it."""
    x = speech()
    alone, late = levels("running")(x)[0], levels("running")(torch.cat([1e-6 * speech(seed=1), x], dim=-1))[0]
    assert (late[..., 360:] - alone[..., 60:]).abs().max() < 0.05
    silent = levels("running")(torch.cat([torch.zeros_like(x), x], dim=-1))[0]
    torch.testing.assert_close(silent[..., 300:], alone)
    assert not silent[..., :300].any()


def test_the_running_mean_follows_a_recursion() -> None:
    x, memory, rate = speech(200), 0.5, 125.0
    model = levels("running", memory=memory, floor_db=300.0)
    features, floor = model(x)
    decay = float(torch.tensor(-1 / (memory * rate), dtype=torch.float64).exp())
    peak, weight, total = 0.0, 0.0, torch.zeros(5, dtype=x.dtype)
    for frame in range(200):
        energies = x[0, 0, :, frame]
        energy = float(energies.sum())
        peak = max(decay * peak, energy)
        counts = peak**0.5 * energy / (energy + 1e-4 * peak)
        weight, total = decay * weight + counts, decay * total + counts * energies.log10()
        torch.testing.assert_close(features[0, 0, :, frame], energies.log10() - total / weight, atol=1e-8, rtol=0)
        assert float(floor[0, 0, 0, frame]) == pytest.approx(1e-30 * peak)


@pytest.mark.parametrize(("normalisation", "memory"), [("running", 10.0), ("running", 0.01), ("none", 10.0)])
def test_it_streams_to_the_same_features(normalisation: str, memory: float) -> None:
    model = levels(normalisation, deviation=True, memory=memory)
    x = torch.cat([speech(), speech(seed=1)])
    whole = model(x)[0]
    with model.streaming(2):
        parts = torch.cat([model(part)[0] for part in x.split([1, 2, 64, 65, 1, 167], dim=-1)], dim=-1)
    torch.testing.assert_close(parts, whole, atol=1e-8, rtol=0)


def test_arguments_out_of_range_are_refused() -> None:
    for changes, problem in (
        ({"floor_db": 0}, "floor_db=0"),
        ({"activity_db": -1}, "activity_db=-1"),
        ({"memory": 0}, "memory=0"),
    ):
        with pytest.raises(ConfigError, match=problem):
            levels(**changes)
    with pytest.raises(ConfigError, match="normalisation='file'"):
        levels("file")
