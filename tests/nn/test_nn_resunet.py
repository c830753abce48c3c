from __future__ import annotations

from typing import Any

import pytest
import torch
from published import assert_published, fill, signal

from bcfusion.errors import ConfigError
from bcfusion.nn.network import future_reach
from bcfusion.nn.resunet import ResUNet


def test_with_the_papers_sizes_it_has_voicefixers_published_number_of_parameters() -> None:
    """65.15 M: four residual blocks in each of six levels down and six up, one at the bottom and one at the end."""
    with torch.device("meta"):
        assert sum(p.numel() for p in ResUNet().parameters()) == 65_152_867


# The public code (voicefixer 0.1.3) in float64 at small widths, with the weights and statistics of `fill`, one added to
# the variances, for the log mel `signal(1, 1, 128, 128, level=1.0)`, time before frequency; without the topmost band.
PUBLISHED = [
    163.629915, -1.66471867, -2.07258029, -1.86674495, -1.05364026, -0.159411954, -0.424771584, -2.12967558,
    -1.87735902, -1.21436802, -0.711696654, -2.32243893, -1.36431678, -1.36087686, -2.31707948, -2.16788309,
    -1.47545263,
]  # fmt: skip


def test_it_computes_what_the_public_code_computes() -> None:
    network = ResUNet(channels=(2, 3, 4, 5, 6, 6)).double().eval()
    buffers = dict(network.named_buffers())
    statistics = [buffer for buffer in buffers.values() if buffer.is_floating_point()]
    fill([*network.parameters(), *statistics])
    with torch.no_grad():
        for name, buffer in buffers.items():
            if name.endswith("running_var"):
                buffer += 1
        for weight in network.parameters():
            if weight.ndim == 4:
                weight.copy_(weight.mT.clone())  # kernels of (time, frequency)
    with torch.inference_mode():
        output = network(signal(1, 1, 128, 128, level=1.0).mT[:, :, :127])
    assert_published(output.mT, PUBLISHED)


def test_the_momenta_of_the_running_statistics_are_the_published_ones() -> None:
    network = ResUNet(channels=(2, 3), blocks=1)
    momenta = {n: m.momentum for n, m in network.named_modules() if isinstance(m, torch.nn.BatchNorm2d)}
    assert {name for name, momentum in momenta.items() if momentum == 0.1} == {"decoder.0.norm", "decoder.1.norm"}
    assert {momentum for name, momentum in momenta.items() if "norms" in name} == {0.01}


@pytest.mark.parametrize("bins", [1, 8, 13, 20])
def test_any_number_of_bins_is_kept(bins: int) -> None:
    network = ResUNet(2, 3, (2, 3, 4), blocks=1).eval()
    with torch.inference_mode():
        assert network(torch.randn(1, 2, bins, 16)).shape == (1, 3, bins, 16)


@pytest.mark.parametrize(("channels", "blocks"), [((2,), 1), ((2, 3), 2), ((2, 3, 4), 1)])
def test_the_declared_look_ahead_is_the_measured_one(channels: tuple[int, ...], blocks: int) -> None:
    torch.manual_seed(0)
    network = ResUNet(1, 1, channels, blocks).eval()
    future = future_reach(network.period, network)
    middle = -(-2 * future // network.period) * network.period
    x = torch.randn(1, 1, 4, 2 * middle + network.period)
    measured = 0
    for phase in range(network.period):
        poisoned = x.clone()
        poisoned[..., middle + phase] = torch.nan
        with torch.inference_mode():
            reached = (~network(poisoned).isfinite()).any(2).flatten().nonzero().flatten() - (middle + phase)
        measured = max(measured, -int(reached[0]))
    assert measured == future


def test_a_shift_by_a_period_is_a_shift_of_the_output() -> None:
    torch.manual_seed(0)
    network = ResUNet(1, 1, (2, 3), blocks=1).eval()
    x = torch.randn(1, 1, 8, 64)
    with torch.inference_mode():
        there, here = network(torch.roll(x, network.period, -1)), network(x)
    reach = 2 * future_reach(network.period, network)
    inner = slice(reach + network.period, -reach)
    torch.testing.assert_close(there[..., inner], torch.roll(here, network.period, -1)[..., inner])


def test_variance_is_kept_from_top_to_bottom_and_back() -> None:
    """With torch's own initial weights the output of the full depth is all 0."""
    torch.manual_seed(0)
    network = ResUNet(channels=(8, 8, 8, 8, 8, 8), blocks=2, init_output_scale=1.0)
    with torch.no_grad():
        assert 0.3 < network(torch.randn(2, 1, 64, 64)).std() < 6


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"channels": ()}, "channels="),
        ({"blocks": 0}, "blocks=0"),
        ({"init_output_scale": 0.0}, "init_output_scale"),
    ],
)
def test_wrong_sizes_are_refused(settings: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        ResUNet(**settings)
