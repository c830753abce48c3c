from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from bcfusion.discriminators.multi_scale import MultiScaleDiscriminator, ScaleDiscriminator
from bcfusion.errors import ConfigError


def parameters(model: torch.nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def small(**arguments: Any) -> MultiScaleDiscriminator:
    torch.manual_seed(0)
    return MultiScaleDiscriminator(channels=4, max_channels=16, **arguments)


def test_the_discriminator_of_ebens_table_has_56598966_parameters() -> None:
    with torch.device("meta"):
        assert parameters(MultiScaleDiscriminator(groups=4)) == 56_598_966


def test_the_original_discriminator_has_16_92_million_parameters() -> None:
    model = MultiScaleDiscriminator(groups="original")
    assert round(parameters(model) / 1e6, 2) == 16.92


def test_the_layers_of_the_paper_with_their_widths_and_rates() -> None:
    with torch.device("meta"):
        model = MultiScaleDiscriminator()
        judgements = model(torch.empty(2, 1, 8192))
    shapes = [[tuple(f.shape[1:]) for f in judgement.features] for judgement in judgements]
    for scale, found in enumerate(shapes):
        samples = 8192 // 2**scale
        assert found == [
            (16, samples),
            (64, samples // 4),
            (256, samples // 16),
            (1024, samples // 64),
            (1024, samples // 256),
            (1024, samples // 256),
        ]
        assert judgements[scale].logits.shape == (2, 1, samples // 256)


def test_the_second_scale_judges_the_average_of_four_samples_without_the_padding() -> None:
    model = small()
    x = torch.randn(1, 1, 512)
    pooled = (F.pad(x, (1, 1)).unfold(-1, 4, 2)).sum(-1)
    counts = (F.pad(torch.ones_like(x), (1, 1)).unfold(-1, 4, 2)).sum(-1)
    alone = model.scales[1](pooled / counts)
    torch.testing.assert_close(model(x)[1].logits, alone.logits)


def test_a_constant_signal_is_the_same_constant_at_every_scale() -> None:
    assert torch.equal(small().halve(torch.ones(1, 1, 100)), torch.ones(1, 1, 50))


def test_features_are_all_activations_up_to_the_input_of_the_logits() -> None:
    model, x = small(), torch.randn(2, 1, 600)
    for scale, judgement in zip(model.scales, model(x), strict=True):
        assert isinstance(scale, ScaleDiscriminator)
        assert len(judgement.features) == 6
        torch.testing.assert_close(judgement.features[0], F.leaky_relu(scale.layers[0](x), 0.2))
        torch.testing.assert_close(judgement.logits, scale.logits(judgement.features[-1]))
        x = model.halve(x)


@pytest.mark.parametrize("scales", [1, 3, 5])
def test_any_waveform_of_at_least_one_sample_is_judged(scales: int) -> None:
    model = small(scales=scales)
    for samples in (*range(1, 20), 255, 256, 257):
        judgements = model(torch.randn(2, 1, samples))
        assert len(judgements) == scales
        assert all(j.logits.shape[-1] >= 1 and j.logits.isfinite().all() for j in judgements)


def test_groups_that_do_not_divide_the_channels_are_refused() -> None:
    with pytest.raises(ConfigError, match="groups=3 must divide both 16 and 64 channels"):
        MultiScaleDiscriminator(groups=3)
    with pytest.raises(ConfigError, match="groups='all'"):
        small(groups="all")
    with pytest.raises(ConfigError, match="scales=0"):
        MultiScaleDiscriminator(scales=0)


def test_padding_beforehand_at_a_slow_length_changes_nothing() -> None:
    torch.manual_seed(0)
    judge = ScaleDiscriminator(channels=256, max_channels=256)
    strided = judge.layers[1]
    h = torch.randn(1, 256, 1024)
    torch.testing.assert_close(strided(h), torch.nn.Conv1d.forward(strided, h), rtol=1e-5, atol=1e-5)
