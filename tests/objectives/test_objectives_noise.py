"""Noise that is a function of seed and place."""

from __future__ import annotations

import pytest
import torch

from bcfusion.objectives.noise import normal_at


@pytest.mark.parametrize("seed", [0, 1, 3, -1, 2**63])
def test_it_has_the_moments_of_a_standard_normal_distribution(seed: int) -> None:
    noise = normal_at(seed, 0, torch.arange(100_000), 10).double()
    assert abs(noise.mean()) < 0.004  # four deviations of the mean of 1e6 values
    assert abs(noise.var() - 1) < 0.006
    assert abs((noise**3).mean()) < 0.016
    assert abs((noise**4).mean() - 3) < 0.04
    assert noise.abs().max() < 6.5
    assert noise[0, 0].abs() < 4  # the first number of a file is like all others


def test_places_values_draws_and_seeds_are_independent() -> None:
    places = torch.arange(200_000)
    noise = normal_at(3, 0, places, 2).double()
    others = {
        "the next place": noise[0].roll(1),
        "the next value": noise[1],
        "the next draw": normal_at(3, 1, places, 2)[0],
        "the next seed": normal_at(4, 0, places, 2)[0],
        "a far place": normal_at(3, 0, places + 2**40, 2)[0],
    }
    for name, other in others.items():
        assert abs((noise[0] * other.double()).mean()) < 0.01, name
        assert abs((noise[0].square() * other.double().square()).mean() - 1) < 0.02, name


def test_it_is_the_same_however_a_file_is_cut() -> None:
    whole = normal_at(7, 2, torch.arange(100), 5)
    assert whole.shape == (5, 100)
    parts = [normal_at(7, 2, torch.arange(start, start + 10), 5) for start in range(0, 100, 10)]
    assert torch.equal(torch.cat(parts, dim=1), whole)
    several = normal_at(7, 2, torch.stack([torch.arange(10), torch.arange(20, 30)]), 5)
    assert torch.equal(several[0], whole[:, :10])
    assert torch.equal(several[1], whole[:, 20:30])


def test_the_numbers_do_not_change_between_versions() -> None:
    """A result that was made with a seed is made again with it: compute the first values in Python's integers."""
    mask = (1 << 64) - 1

    def mix(x: int) -> int:
        x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & mask
        x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & mask
        return x ^ (x >> 31)

    key = mix((mix((11 + 0x9E3779B97F4A7C15) & mask) + 1) & mask)
    expected = []
    for counter in range(6, 12):  # places 3 to 5 of two values
        bits = mix((counter * 0x9E3779B97F4A7C15 + key) & mask)
        first = torch.tensor(((bits >> 32) + 0.5) / 2**32, dtype=torch.float64)
        second = torch.tensor((bits & 0xFFFFFFFF) / 2**32, dtype=torch.float64)
        expected.append(float((-2 * first.log()).sqrt() * (2 * torch.pi * second).cos()))
    noise = normal_at(11, 1, torch.arange(3, 6), 2)
    torch.testing.assert_close(noise.T.flatten(), torch.tensor(expected), atol=1e-6, rtol=0)
