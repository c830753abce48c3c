"""Parameter counts of the shipped discriminators, as published."""

from __future__ import annotations

from pathlib import Path

import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf

CONF = Path(__file__).parents[2] / "conf" / "discriminators"


@pytest.mark.parametrize(
    ("name", "arguments", "count"),
    [
        ("melgan_msd", {}, 16_924_086),
        ("melgan_msd", {"groups": 4}, 56_598_966),
        ("hifigan_mpd", {}, 41_105_770),
        ("hifigan_msd", {}, 29_618_821),
        ("pqmf_bands", {"q": 4, "min_channels": 24}, 23_161_344),
        ("pqmf_bands", {"q": 3, "min_channels": 30}, 27_796_938),
    ],
)
def test_parameters(name: str, arguments: dict[str, int], count: int) -> None:
    root = OmegaConf.create({"sample_rate": 16000, "discriminators": OmegaConf.load(CONF / f"{name}.yaml")})
    network = instantiate(root.discriminators[name], **arguments)
    assert sum(parameter.numel() for parameter in network.parameters()) == count
