"""The floor that follows the target, pauses, and the loss in a generator's own domain."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from bcfusion.errors import ConfigError
from bcfusion.losses.log_bands import GeneratorLogBandsLoss, LogBandsLoss
from bcfusion.nn.bands import Bands, log_energy
from bcfusion.nn.stft import Stft

LENGTHS = torch.tensor([4000, 4000])


def noise(seed: int = 0, items: int = 2, samples: int = 4000, level: float = 0.1) -> Tensor:
    return level * torch.randn(items, 1, samples, generator=torch.Generator().manual_seed(seed))


def value(estimate: Tensor, target: Tensor, lengths: Tensor = LENGTHS, **changes: Any) -> float:
    return float(LogBandsLoss(16000, **changes)(estimate, target, lengths))


def test_a_gain_costs_its_logarithm_and_the_squared_distance_its_square() -> None:
    x = noise()
    assert value(2 * x, x, floor_db=120) == pytest.approx(math.log(2), abs=1e-3)
    assert value(2 * x, x, floor_db=120, power=2) == pytest.approx(math.log(2) ** 2, abs=1e-3)
    assert value(x, x) == pytest.approx(0, abs=1e-6)


def test_the_loss_does_not_depend_on_the_level_of_both_above_silence() -> None:
    x, y = noise(), noise(1)
    for factor in (10.0, 0.01):
        assert value(factor * y, factor * x) == pytest.approx(value(y, x), rel=1e-3)
    faint = 1e-5  # the target is below silence_db: its floor stays where it is
    assert value(faint * y, faint * x) < 0.2 * value(y, x)


def test_what_lies_below_the_floor_does_not_count() -> None:
    """The second half is 80 dB below the first: with a floor 50 dB below it, its error is inaudible."""
    x = noise(samples=8000)
    x[..., 4000:] *= 1e-4
    wrong = x.clone()
    wrong[..., 4600:] *= 3
    lengths = 2 * LENGTHS
    assert value(wrong, x, lengths) < 0.02
    assert value(wrong, x, lengths, floor_db=110) > 0.3
    assert value(torch.zeros_like(x), x, lengths, floor_db=50) > 1


def test_pauses_count_as_much_as_they_are_told_to() -> None:
    x = noise(samples=8000)
    x[..., 4000:] *= 1e-3
    wrong = x.clone()
    wrong[..., 4600:] *= 2
    results = [value(wrong, x, 2 * LENGTHS, floor_db=110, pause_weight=weight) for weight in (1.0, 0.5, 0.0)]
    assert results[0] > results[1] > results[2]
    assert results[2] < 0.1 * results[0]


@pytest.mark.parametrize("bands", ["mel", "erb"])
def test_levels_of_the_generators_own_spectrum_give_the_loss_of_the_waveform(bands: Any) -> None:
    """The grid of frames, the bands and the floor are those of a SpectralNetwork."""
    target, estimate = noise(), noise(1)
    lengths = torch.tensor([4000, 2600])
    padded = torch.nn.functional.pad(estimate.masked_fill(torch.arange(4000) >= lengths.view(-1, 1, 1), 0.0), (0, 352))
    real, imag = Stft(512, 256, 512)(padded)
    levels = log_energy(Bands(16000, 512, 512, "hann", 40, bands).energies(real[:, 0], imag[:, 0]))[..., :16]
    levels[1, :, 2600 // 256 + 1 :] = torch.nan
    levels.requires_grad_()
    own = GeneratorLogBandsLoss(16000, bands=bands)(levels, target, lengths)
    assert own.item() == pytest.approx(value(estimate, target, lengths, bands=bands), rel=1e-4)
    own.backward()
    assert levels.grad is not None
    assert levels.grad.isfinite().all()
    assert not levels.grad[1, :, 2600 // 256 + 1 :].any()


def test_frames_and_bands_of_other_settings_are_refused_with_both_shapes() -> None:
    with pytest.raises(ValueError, match=r"\(1, 24, 16\).*\(1, 40, 16\)"):
        GeneratorLogBandsLoss(16000)(torch.zeros(1, 24, 16), noise(items=1), LENGTHS[:1])


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"floor_db": 0}, "floor_db=0"),
        ({"power": 3}, "power=3"),
        ({"pause_weight": 1.5}, r"pause_weight=1\.5"),
        ({"bands": "bark"}, "bands='bark'"),
    ],
)
def test_arguments_out_of_range_are_refused(changes: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        LogBandsLoss(16000, **changes)
