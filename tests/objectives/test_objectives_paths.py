"""Paths against their formulas: ends, means, variances, and steps from one time to another."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from bcfusion.errors import ConfigError
from bcfusion.objectives.paths import Flow, Path, SchroedingerBridge

TIMES = torch.linspace(0, 1, 11, dtype=torch.float64)
PATHS = (Flow(), Flow("sensor", 0.0), Flow("noise", 1.0), SchroedingerBridge(), SchroedingerBridge(3.0, 1.5))


def three() -> tuple[Tensor, Tensor, Tensor]:
    target, source, noise = torch.randn(3, 5, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return target, source, noise


def at_time(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


@pytest.mark.parametrize("path", PATHS, ids=repr)
def test_at_time_0_is_the_target_exactly(path: Path) -> None:
    target, source, noise = three()
    assert torch.equal(path.at(target, source, noise, TIMES[0]), target)


def test_at_time_1_is_the_source_exactly() -> None:
    target, source, noise = three()
    for bridge in (SchroedingerBridge(), SchroedingerBridge(3.0, 1.5)):
        assert torch.equal(bridge.at(target, source, noise, TIMES[-1]), source)
        assert not bridge.noisy_source
    assert torch.equal(Flow("sensor", 0.487).at(target, source, noise, TIMES[-1]), source + 0.487 * noise)
    assert torch.equal(Flow("noise", 2.0).at(target, source, noise, TIMES[-1]), 2 * noise)


def test_mean_and_variance_of_the_bridge_are_those_of_the_paper() -> None:
    k, c = 2.6, 0.4
    of_target, of_source, deviation = SchroedingerBridge(k, c).weights(TIMES)
    time = TIMES.numpy()
    # Jukic et al. 2024: sigma_t^2 = c (k^2t - 1) / (2 ln k), its rest up to 1, and the Gaussian between both ends
    variance = c * (k ** (2 * time) - 1) / (2 * math.log(k))
    rest = variance[-1] - variance
    np.testing.assert_allclose(of_target, rest / variance[-1], atol=1e-12)
    np.testing.assert_allclose(of_source, variance / variance[-1], atol=1e-12)
    np.testing.assert_allclose(deviation**2, variance * rest / variance[-1], atol=1e-12)
    assert deviation[0] == deviation[-1] == 0
    assert (deviation[1:-1] > 0.1).all()


@pytest.mark.parametrize("path", [path for path in PATHS if path.has_velocity], ids=repr)
def test_the_velocity_is_the_derivative_by_time(path: Path) -> None:
    target, source, noise = three()
    for time in (0.2, 0.7):
        ahead, behind = (path.at(target, source, noise, at_time(time + step)) for step in (1e-4, -1e-4))
        measured = (ahead - behind) / 2e-4
        torch.testing.assert_close(path.velocity(target, source, noise, at_time(time)), measured, atol=1e-7, rtol=0)


@pytest.mark.parametrize("path", [path for path in PATHS if path.has_velocity], ids=repr)
def test_a_step_with_the_right_velocity_stays_on_a_straight_path(path: Path) -> None:
    target, source, noise = three()
    for time, to in ((1.0, 0.6), (0.6, 0.0)):
        start, end = at_time(time), at_time(to)
        state, velocity = path.at(target, source, noise, start), path.velocity(target, source, noise, start)
        reached, added = path.step(state, target, velocity, source, start, end, "euler")
        torch.testing.assert_close(reached, path.at(target, source, noise, end), atol=1e-12, rtol=0)
        assert added == 0


@pytest.mark.parametrize("path", PATHS[-2:], ids=repr)
@pytest.mark.parametrize(("time", "to"), [(1.0, 0.7), (0.7, 0.3), (0.3, 0.01), (0.5, 0.0)])
def test_a_stochastic_step_of_the_bridge_has_the_mean_and_variance_of_the_path(
    path: Path, time: float, to: float
) -> None:
    """With the true target, the step maps the Gaussian at one time to that at the other."""
    start, end = at_time(time), at_time(to)
    target, source, _ = three()
    zero = torch.zeros_like(target)
    mean_before, mean_after = path.at(target, source, zero, start), path.at(target, source, zero, end)
    deviation_before, deviation_after = path.weights(start)[2], path.weights(end)[2]
    reached, added = path.step(mean_before, target, zero, source, start, end, "sde")
    torch.testing.assert_close(reached, mean_after, atol=1e-12, rtol=0)
    scaled = path.step(mean_before + deviation_before, target, zero, source, start, end, "sde")[0] - reached
    torch.testing.assert_close(scaled**2 + added**2, (deviation_after**2).expand_as(scaled), atol=1e-12, rtol=0)


@pytest.mark.parametrize("path", PATHS[-2:], ids=repr)
def test_the_probability_flow_of_the_bridge_keeps_the_noise(path: Path) -> None:
    target, source, noise = three()
    zero = torch.zeros_like(target)
    for time, to in ((0.7, 0.3), (0.3, 0.0), (0.999, 0.5)):
        start, end = at_time(time), at_time(to)
        state = path.at(target, source, noise, start)
        reached, added = path.step(state, target, zero, source, start, end, "euler")
        torch.testing.assert_close(reached, path.at(target, source, noise, end), atol=1e-9, rtol=0)
        assert added == 0
    first, _ = path.step(source, target, zero, source, TIMES[-1], TIMES[5], "euler")
    torch.testing.assert_close(first, path.at(target, source, zero, TIMES[5]), atol=1e-12, rtol=0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Flow("air"), "source='air' must be one of sensor, noise"),
        (lambda: Flow(sigma=-1), "sigma=-1 must be at least 0"),
        (lambda: Flow("noise", 0), "sigma=0 leaves nothing at the source"),
        (lambda: SchroedingerBridge(k=1), "k=1 must be above 1"),
        (lambda: SchroedingerBridge(c=0), "c=0 must be above 0"),
    ],
)
def test_impossible_paths_are_refused(make: object, message: str) -> None:
    assert callable(make)
    with pytest.raises(ConfigError, match=message):
        make()
