"""Losses refuse arguments with which they would be undefined, or measure nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from bcfusion.errors import ConfigError
from bcfusion.losses.embedding import DeepClusteringLoss
from bcfusion.losses.feature_matching import FeatureMatchingLoss
from bcfusion.losses.masking import ComponentLoss, MagnitudeSpectrumApproximationLoss
from bcfusion.losses.spectral import MultiResolutionStftLoss
from bcfusion.losses.waveform import L1Loss, SiSnrLoss


@pytest.mark.parametrize(
    ("loss", "arguments", "says"),
    [
        (L1Loss, {"pre_emphasis": 1.5}, "pre_emphasis=1.5 must be at least 0 and below 1"),
        (SiSnrLoss, {"eps": 0.0}, "eps=0.0 must be above 0"),
        (SiSnrLoss, {"silence_db": 60.0}, "silence_db=60.0 must be from -300 to 0"),
        (MultiResolutionStftLoss, {"floor": 0.0}, "floor=0.0 must be above 0"),
        (MultiResolutionStftLoss, {"log_magnitude_weight": -1.0}, "log_magnitude_weight=-1.0 must be at least 0"),
        (MultiResolutionStftLoss, {"convergence_limit": 0.0}, "convergence_limit=0.0 must be above 0"),
        (MultiResolutionStftLoss, {"silence_db": 60.0}, "silence_db=60.0 must be from -300 to 0"),
        (
            MultiResolutionStftLoss,
            {"log_magnitude_weight": 0.0, "spectral_convergence_weight": 0.0},
            "spectral_convergence_weight and log_magnitude_weight must not both be 0: nothing would be compared",
        ),
        (FeatureMatchingLoss, {"eps": 0.0}, "eps=0.0 must be above 0"),
        (DeepClusteringLoss, {"active_db": -40.0}, "active_db=-40.0 must be above 0"),
        (ComponentLoss, {"silence_db": 100.0}, "silence_db=100.0 must be from -300 to 0"),
        (MagnitudeSpectrumApproximationLoss, {"channel": 0.5}, "channel=0.5 must be a whole number"),
    ],
)
def test_an_argument_out_of_range_is_refused(loss: Callable[..., Any], arguments: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError) as refused:
        loss(**arguments)
    assert refused.value.problems == [f"{loss.__name__}: {says}"]  # type: ignore[attr-defined]
