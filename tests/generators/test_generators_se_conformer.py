"""SE-Conformer: its size, its resampling, the levels around the conformers, and the level of its input."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bcfusion.errors import ConfigError
from bcfusion.generators.se_conformer import SEConformer, SincInterpolation

SMALL: dict[str, Any] = {"channels": 4, "depth": 3, "conformers": 1, "heads": 2, "conformer_kernel_size": 5}


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_it_has_the_parameters_of_the_baseline_of_taps() -> None:
    with torch.device("meta"):
        network = SEConformer()
    assert sum(p.numel() for p in network.parameters()) == 12_092_033  # counted in its public code
    assert network.hop == 64


def test_a_tone_keeps_its_frequency_and_phase_at_twice_the_rate() -> None:
    resample = SincInterpolation().double()
    t = torch.arange(600, dtype=torch.float64)
    tone = torch.sin(2 * math.pi * 0.31 * t + 0.4).view(1, 1, -1)
    expected = torch.sin(2 * math.pi * 0.31 * torch.arange(1200) / 2 + 0.4).double()
    doubled = resample.doubled(tone)
    torch.testing.assert_close(doubled[0, 0, 150:-150], expected[150:-150], atol=1e-3, rtol=0)
    torch.testing.assert_close(resample.halved(doubled)[0, 0, 150:-150], tone[0, 0, 150:-150], atol=1e-3, rtol=0)
    torch.testing.assert_close(doubled[..., ::2], tone)


def test_what_lies_above_half_of_the_lower_rate_is_removed() -> None:
    t = torch.arange(1200, dtype=torch.float64)
    high = torch.sin(2 * math.pi * 0.3 * t).view(1, 1, -1)  # 0.6 of the lower rate
    halved = SincInterpolation().double().halved(high)
    assert halved[0, 0, 100:-100].abs().max() < 1e-3


@pytest.mark.parametrize(
    "settings", [{}, {"resample": 1}, {"resample": 2, "kernel_size": 5}, {"stride": 2, "depth": 2}]
)
def test_every_sample_of_the_file_is_within_a_frame(settings: dict[str, Any]) -> None:
    """The lowest level has as many frames as the file has hops, and the output is not cut anywhere."""
    network = SEConformer(**{**SMALL, **settings}).eval()
    frames: list[int] = []
    network.conformers.register_forward_hook(lambda _, given, output: frames.append(given[0].shape[1]))
    for samples in (1, network.hop, 5 * network.hop + 1):
        with torch.inference_mode():
            assert network(noise(1, 1, samples)).shape == (1, 1, samples)
        assert frames.pop() == -(-samples // network.hop)


@pytest.mark.parametrize("input_skip", [True, False])
def test_a_louder_file_gives_a_louder_output(input_skip: bool) -> None:
    torch.manual_seed(0)
    network = SEConformer(**SMALL, input_skip=input_skip).eval()
    x = 0.2 * noise(1, 1, 2000)
    with torch.inference_mode():
        soft, loud = network(x), network(50 * x)
    assert soft.std() > 1e-4
    torch.testing.assert_close(loud, 50 * soft, atol=0.02 * float(loud.abs().max()), rtol=0)  # but for the floor


def test_untrained_it_returns_the_sensor_or_hardly_anything() -> None:
    torch.manual_seed(0)
    x = 0.07 * noise(1, 2, 4000)
    with torch.inference_mode():
        kept = SEConformer(**SMALL, in_channels=2, skip_channel=0).eval()(x)
        assert (kept - x[:, :1]).std() < 0.1 * x.std()
        assert SEConformer(**SMALL, in_channels=2, input_skip=False).eval()(x).std() < 0.1 * x.std()


def test_initial_weights_come_closer_to_the_given_deviation() -> None:
    torch.manual_seed(0)
    for reference in (0.1, 0.02):
        network = SEConformer(channels=16, rescale=reference, conformers=1)
        own = float(nn.Conv1d(16, 32, 1).weight.detach().std())  # torch's
        weight = network.encoder[0][2].weight.detach()  # type: ignore[index]
        assert float(weight.std()) == pytest.approx(math.sqrt(own * reference), rel=0.1)


def test_each_level_is_added_to_its_counterpart() -> None:
    torch.manual_seed(0)
    network = SEConformer(**SMALL).eval()
    x = noise(1, 1, network.hop * 4 + network.rest)
    seen: dict[str, Tensor] = {}

    def keep(name: str, value: Tensor) -> None:
        seen[name] = value

    for level in range(3):
        network.encoder[level].register_forward_hook(lambda _, __, y, n=level: keep(f"encoder{n}", y))
        network.decoder[level].register_forward_hook(lambda _, given, y, n=level: keep(f"given{n}", given[0]))
        network.decoder[level].register_forward_hook(lambda _, __, y, n=level: keep(f"decoder{n}", y))
    network.conformers.register_forward_hook(lambda _, __, y: keep("conformers", y.transpose(1, 2)))
    with torch.no_grad():
        network.restored(x)
    below = [seen["conformers"], seen["decoder0"], seen["decoder1"]]
    for level in range(3):
        torch.testing.assert_close(seen[f"given{level}"], below[level] + seen[f"encoder{2 - level}"])
    assert min(seen["decoder0"].min(), seen["decoder1"].min()) >= 0  # ReLU, but not at the end
    assert seen["decoder2"].min() < 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"heads": 3}, "channels=16 must be a multiple of heads=3"),
        ({"conformer_kernel_size": 4}, "kernel_size=4 must be odd"),
        ({"kernel_size": 3}, "a kernel of 3 samples leaves gaps at stride=4"),
        ({"resample": 3}, "resample=3 must be one of 1, 2, 4"),
        ({"stride": 3, "resample": 2}, "stride=3 to the power of depth=3 must be a multiple of resample=2"),
        ({"rescale": 0}, "rescale=0 must be above 0"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SEConformer(**{**SMALL, **settings})
