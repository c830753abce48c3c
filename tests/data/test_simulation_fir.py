from __future__ import annotations

import numpy as np
import pytest
import torch

from bcfusion.data.simulation.fir import causal_filter, minimum_phase


def test_the_magnitude_of_a_minimum_phase_filter_gives_the_filter_back() -> None:
    # every zero lies inside the unit circle, so the filter is its own minimum-phase form
    zeros = np.array([0.9, -0.5, 0.7 * np.exp(0.8j), 0.7 * np.exp(-0.8j)])
    wanted = 0.3 * np.real(np.poly(zeros))
    magnitude = torch.from_numpy(np.abs(np.fft.rfft(wanted, 2048)))
    found = minimum_phase(magnitude, 8)
    np.testing.assert_allclose(found.numpy(), [*wanted, 0.0, 0.0, 0.0], atol=1e-9)


def test_of_all_filters_with_one_magnitude_it_is_the_earliest() -> None:
    other = np.random.default_rng(1).standard_normal(33)
    spectrum = np.abs(np.fft.rfft(other, 1 << 14))
    early = minimum_phase(torch.from_numpy(spectrum), 33).numpy()
    np.testing.assert_allclose(np.abs(np.fft.rfft(early, 1 << 14)), spectrum, rtol=1e-3)
    # at no time has the other filter emitted more of its energy
    through, through_other = np.cumsum(early**2), np.cumsum(other**2)
    assert (through >= through_other - 1e-3).all()
    assert through[8] > 1.5 * through_other[8]


def test_a_batch_of_curves_keeps_type_gain_and_items_apart() -> None:
    decibels = torch.stack([torch.linspace(0, -40, 257), torch.linspace(-80, -60, 257), torch.full((257,), -6.0)])
    magnitude = 10 ** (decibels / 20)
    taps = minimum_phase(magnitude, 64)
    assert taps.shape == (3, 64)
    assert taps.dtype == torch.float32
    found = 20 * torch.log10(torch.fft.rfft(taps, n=512).abs())
    torch.testing.assert_close(found, decibels, atol=0.2, rtol=0)
    torch.testing.assert_close(minimum_phase(magnitude[1], 64), taps[1])


def test_zeros_in_the_magnitude_give_no_infinity() -> None:
    assert not minimum_phase(torch.zeros(65), 16).any()
    brick = torch.ones(513)
    brick[200:] = 0.0
    taps = minimum_phase(brick, 256)
    assert bool(taps.isfinite().all())
    assert float(torch.fft.rfft(taps, n=1024).abs()[300:].max()) < 0.05


@pytest.mark.parametrize("taps", [0, 129])
def test_a_length_that_the_grid_does_not_determine_is_refused(taps: int) -> None:
    with pytest.raises(ValueError, match="1 to 128"):
        minimum_phase(torch.ones(65), taps)


@pytest.mark.parametrize(
    ("length", "taps"), [(1, 1), (1, 9), (7, 64), (1000, 64), (1024, 64), (1025, 1), (16001, 257), (9000, 2000)]
)
def test_it_is_convolution_from_the_first_sample_on(length: int, taps: int) -> None:
    rng = np.random.default_rng(0)
    signal, filters = rng.standard_normal((3, 1, length)), rng.standard_normal((3, taps))
    wanted = np.stack([np.convolve(x[0], h)[None, :length] for x, h in zip(signal, filters, strict=True)])
    found = causal_filter(torch.from_numpy(signal), torch.from_numpy(filters))
    np.testing.assert_allclose(found.numpy(), wanted, atol=1e-10)
    alone = causal_filter(torch.from_numpy(signal[1:2]), torch.from_numpy(filters[1:2]))
    torch.testing.assert_close(alone, found[1:2], atol=1e-12, rtol=0)


def test_one_filter_serves_a_batch_and_nothing_comes_early() -> None:
    impulse = torch.zeros(2, 1, 50)
    impulse[0, 0, 20], impulse[1, 0, 30] = 1.0, -2.0
    taps = torch.tensor([[0.5, 0.25, 0.125]])
    out = causal_filter(impulse, taps)
    torch.testing.assert_close(out[0, 0, 20:23], taps[0])
    torch.testing.assert_close(out[1, 0, 30:33], -2 * taps[0])
    assert float(out[0, 0, :20].abs().max()) < 1e-7
