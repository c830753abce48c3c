from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from bcfusion.discriminators.multi_period import MultiPeriodDiscriminator, PeriodDiscriminator
from bcfusion.errors import ConfigError

CONF = Path(__file__).parents[2] / "conf" / "discriminators"


def small(period: int, **arguments: Any) -> PeriodDiscriminator:
    torch.manual_seed(0)
    judge = MultiPeriodDiscriminator([period], channels=(4, 8, 8), **arguments).periods[0]
    assert isinstance(judge, PeriodDiscriminator)
    return judge


def test_the_published_discriminator_has_41105770_parameters() -> None:
    widths = [1, 32, 128, 512, 1024, 1024]
    # weights, then a gain and a bias for each output channel
    one = sum(5 * a * b + 2 * b for a, b in pairwise(widths)) + 3 * 1024 + 2
    assert one == 8_221_154
    with torch.device("meta"):
        model = MultiPeriodDiscriminator()
    assert sum(p.numel() for p in model.parameters()) == 5 * one == 41_105_770


def test_the_layers_of_the_paper_divide_the_rows_by_three_four_times() -> None:
    with torch.device("meta"):
        judgements = MultiPeriodDiscriminator()(torch.empty(2, 1, 8192))
    rows = {
        2: [1366, 456, 152, 51, 51],
        3: [911, 304, 102, 34, 34],
        5: [547, 183, 61, 21, 21],
        7: [391, 131, 44, 15, 15],
        11: [249, 83, 28, 10, 10],
    }
    for (period, frames), judgement in zip(rows.items(), judgements, strict=True):
        shapes = [tuple(feature.shape) for feature in judgement.features]
        widths = [32, 128, 512, 1024, 1024]
        assert shapes == [(2, width, n, period) for width, n in zip(widths, frames, strict=True)]
        assert judgement.logits.shape == (2, 1, frames[-1], period)


def test_whole_rows_are_unchanged() -> None:
    x = torch.randn(2, 1, 21)
    rows = small(7).fold(x)
    assert rows.shape == (2, 3, 7)
    assert torch.equal(rows.flatten(1), x[:, 0])


@pytest.mark.parametrize(
    ("samples", "row"),
    [(9, [7, 8, 9, 8, 7, 6]), (3, [1, 2, 3, 2, 1, 0]), (2, [1, 2, 1, 0, 0, 0]), (1, [1, 0, 0, 0, 0, 0])],
)
def test_an_incomplete_last_row_is_mirrored_as_far_as_possible_then_zero(samples: int, row: list[int]) -> None:
    x = torch.arange(1.0, samples + 1).view(1, 1, -1)
    assert small(6).fold(x)[0, -1].tolist() == row


def test_each_column_depends_only_on_every_pth_sample() -> None:
    model, x = small(5), torch.randn(1, 1, 400).requires_grad_()
    logits, features = model(x)
    for tensor in (*features, logits):
        for column in range(5):
            (gradient,) = torch.autograd.grad(tensor[..., column].square().sum(), x, retain_graph=True)
            used = gradient.view(80, 5).abs().sum(0) > 0
            assert used.tolist() == [j == column for j in range(5)]


def test_a_signal_of_the_period_is_constant_in_each_column() -> None:
    """Away from the ends, where the kernels see the padding. At another period the same signal is not constant."""
    x = torch.randn(7).repeat(120).view(1, 1, -1)

    def spread(period: int) -> float:
        logits = small(period, stride=1).double()(x.double()).logits
        middle = logits[:, :, 10:-10]
        return float((middle.amax(2) - middle.amin(2)).max().detach())

    assert spread(7) < 1e-12
    assert spread(5) > 1e-3


def test_features_are_all_activations_up_to_the_input_of_the_logits() -> None:
    model = small(3)
    judgement = model(torch.randn(2, 1, 300))
    assert [feature.shape[1] for feature in judgement.features] == [4, 8, 8]
    last = judgement.features[-1].permute(1, 2, 0, 3).flatten(2).unsqueeze(0)  # columns side by side
    logits = model.columns.logits(last).unflatten(-1, (2, 3))[0].permute(2, 0, 1, 3)
    torch.testing.assert_close(judgement.logits, logits)


@pytest.mark.parametrize("periods", [(1,), (2, 3, 5, 7, 11)])
def test_any_waveform_of_at_least_one_sample_is_judged(periods: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    model = MultiPeriodDiscriminator(periods, channels=(4, 4))
    for samples in (*range(1, 25), 109, 110, 111):
        judgements = model(torch.randn(2, 1, samples))
        assert len(judgements) == len(periods)
        assert all(j.logits.numel() and j.logits.isfinite().all() for j in judgements)


def test_impossible_sizes_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"periods=\[\]"):
        MultiPeriodDiscriminator(periods=())
    with pytest.raises(ConfigError, match=r"periods=\[2, 0\]"):
        MultiPeriodDiscriminator(periods=(2, 0))
    with pytest.raises(ConfigError, match="kernel_size=4 must be odd"):
        MultiPeriodDiscriminator(kernel_size=4)
    with pytest.raises(ConfigError, match="there is no layer"):
        MultiPeriodDiscriminator(channels=())


def test_the_two_discriminators_of_hifigan_combine_to_eight_networks_and_70_7_million_parameters() -> None:
    """``discriminators=[hifigan_mpd,hifigan_msd]``: list-group files merge, and their judgements are concatenated."""
    group = OmegaConf.merge(*(OmegaConf.load(CONF / f"{name}.yaml") for name in ("hifigan_mpd", "hifigan_msd")))
    with torch.device("meta"):
        networks = {str(name): instantiate(node) for name, node in group.items()}
        judgements = [judgement for network in networks.values() for judgement in network(torch.empty(2, 1, 4096))]
    assert list(networks) == ["hifigan_mpd", "hifigan_msd"]
    assert [judgement.logits.ndim for judgement in judgements] == [4] * 5 + [3] * 3
    assert sum(p.numel() for network in networks.values() for p in network.parameters()) == 41_105_770 + 29_618_821
