"""Bands that share every bin among them, at any number and scale."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bcfusion.errors import ConfigError
from bcfusion.nn.bands import SCALES, Bands, Scale, band_weights
from bcfusion.nn.stft import Stft


@pytest.mark.parametrize("scale", ["mel", "erb"])
@pytest.mark.parametrize(
    ("rate", "n_fft", "n_bands"), [(16000, 512, 40), (16000, 128, 80), (48000, 1536, 40), (8000, 64, 1)]
)
def test_weights_sum_to_one_at_every_bin_and_no_band_is_empty(
    scale: Scale, rate: int, n_fft: int, n_bands: int
) -> None:
    weights = band_weights(rate, n_fft, n_bands, scale)
    assert weights.shape == (n_fft // 2 + 1, n_bands)
    assert weights.min() >= 0
    np.testing.assert_allclose(weights.sum(1), 1.0)
    assert weights.sum(0).min() > 1e-3
    centres = (weights * np.arange(n_fft // 2 + 1)[:, None]).sum(0) / weights.sum(0)
    assert (np.diff(centres) > 0).all()


def test_scales_have_the_values_of_their_papers() -> None:
    np.testing.assert_allclose(SCALES["mel"](np.array([200.0, 1000.0, 6400.0])), [3.0, 15.0, 42.0])
    # Glasberg & Moore 1990, table: 1 kHz has 15.6 ERBs below it
    np.testing.assert_allclose(SCALES["erb"](np.array([0.0, 1000.0])), [0.0, 15.62], atol=0.01)


def test_a_wide_band_has_the_triangle_of_its_scale() -> None:
    """Away from the first bands the mean under a bin is the value at the bin."""
    weights, frequency = band_weights(16000, 2048, 20, "mel"), np.arange(1025) * 16000 / 2048
    place = SCALES["mel"](frequency) / SCALES["mel"](np.array(8000.0)) * 21 - 1
    expected = np.clip(1 - np.abs(np.clip(place, 0, 19)[:, None] - np.arange(20)), 0, None)
    assert np.abs(weights - expected)[100:].max() < 0.01


def test_energies_add_up_to_those_of_the_bins_and_full_scale_is_the_unit() -> None:
    bands = Bands(16000, 512, 512, "hann", 40)
    sine = torch.cos(2 * torch.pi * 1000 / 16000 * torch.arange(16 * 128)).view(1, 1, -1)
    real, imag = (part[0, :, :, 4:] for part in Stft(512, 128, 512)(sine))
    power = (real.square() + imag.square()) / bands.full_scale**2
    torch.testing.assert_close(power.amax(1), torch.ones_like(power[:, 0]), atol=1e-4, rtol=0)
    energies = bands.energies(real, imag)
    torch.testing.assert_close(energies.sum(1), power.sum(1))
    torch.testing.assert_close(bands.densities(energies).sum(1), power.sum(1))


def test_equal_values_of_all_bands_are_those_of_all_bins() -> None:
    bands = Bands(16000, 512, 512, "hann", 40, "erb")
    torch.testing.assert_close(bands.to_bins(torch.full((2, 40, 3), -7.5)), torch.full((2, 257, 3), -7.5))
    with pytest.raises(ConfigError, match="bands='bark'"):
        Bands(16000, 512, 512, "hann", 40, "bark")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="n_bands=0"):
        Bands(16000, 512, 512, "hann", 0)
