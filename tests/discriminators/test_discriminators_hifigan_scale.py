from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bcfusion.contracts import Judgement
from bcfusion.discriminators.hifigan_scale import HifiGanMultiScaleDiscriminator
from bcfusion.errors import ConfigError

PAPER = [  # in, out, kernel, stride, groups
    (1, 128, 15, 1, 1),
    (128, 128, 41, 2, 4),
    (128, 256, 41, 2, 16),
    (256, 512, 41, 4, 16),
    (512, 1024, 41, 4, 16),
    (1024, 1024, 41, 1, 16),
    (1024, 1024, 5, 1, 1),
    (1024, 1, 3, 1, 1),
]


def small(**arguments: Any) -> HifiGanMultiScaleDiscriminator:
    torch.manual_seed(0)
    sizes = {"channels": (8, 16, 16), "kernel_sizes": (15, 41, 5), "strides": (1, 4, 1), "groups": (1, 4, 1)}
    return HifiGanMultiScaleDiscriminator(**(sizes | arguments))


def values(judgements: list[Judgement]) -> list[Tensor]:
    return [tensor.detach() for judgement in judgements for tensor in (judgement.logits, *judgement.features)]


def test_the_published_discriminator_has_29618821_parameters() -> None:
    weights = sum(a // groups * b * kernel for a, b, kernel, _, groups in PAPER)
    outputs = sum(b for _, b, _, _, _ in PAPER)
    spectral = weights + outputs  # a bias for each output channel; the vectors of the power iteration are buffers
    weight_normalised = weights + 2 * outputs  # plus a gain
    with torch.device("meta"):
        model = HifiGanMultiScaleDiscriminator()
    assert sum(p.numel() for p in model.parameters()) == spectral + 2 * weight_normalised == 29_618_821


def test_each_scale_has_the_layers_of_the_paper() -> None:
    with torch.device("meta"):
        model = HifiGanMultiScaleDiscriminator()
    for scale in model.scales:
        convolutions = [module for module in scale.modules() if isinstance(module, nn.Conv2d)]
        found = [
            (c.in_channels, c.out_channels, c.kernel_size[0], c.stride[0], c.groups, c.kernel_size[1])
            for c in convolutions
        ]
        assert found == [(*sizes, 1) for sizes in PAPER]


def test_the_three_rates_and_the_frames_of_their_layers() -> None:
    with torch.device("meta"):
        judgements = HifiGanMultiScaleDiscriminator()(torch.empty(2, 1, 8192))
    frames = [
        [8192, 4096, 2048, 512, 128, 128, 128],
        [4097, 2049, 1025, 257, 65, 65, 65],
        [2049, 1025, 513, 129, 33, 33, 33],
    ]
    for judgement, expected in zip(judgements, frames, strict=True):
        widths = [128, 128, 256, 512, 1024, 1024, 1024]
        shapes = [tuple(feature.shape) for feature in judgement.features]
        assert shapes == [(2, width, n) for width, n in zip(widths, expected, strict=True)]
        assert judgement.logits.shape == (2, 1, expected[-1])


def test_the_first_scale_is_spectrally_normalised_and_the_others_have_gains() -> None:
    gains, vectors = ".weight.original0", ".weight.0._u"
    for index, scale in enumerate(small().scales):
        names = list(scale.state_dict())
        assert sum(name.endswith(vectors) for name in names) == (4 if index == 0 else 0)
        assert sum(name.endswith(gains) for name in names) == (0 if index == 0 else 4)


def test_spectral_norm_brings_the_largest_singular_value_of_every_layer_to_one() -> None:
    model = small()
    x = torch.randn(1, 1, 200)
    for _ in range(50):
        model(x)  # one power iteration each
    layers = [layer for layer in model.scales[0].modules() if isinstance(layer, nn.Conv2d)]
    assert len(layers) == 4
    for layer in layers:
        largest = torch.linalg.matrix_norm(layer.weight.flatten(1), ord=2)
        torch.testing.assert_close(largest, torch.tensor(1.0), atol=1e-3, rtol=0)


def test_two_passes_are_identical_in_evaluation_and_continue_the_iteration_in_training() -> None:
    model, x = small().eval(), torch.randn(2, 1, 500)
    vectors = {name: b.clone() for name, b in model.named_buffers()}
    assert vectors
    for first, second in zip(values(model(x)), values(model(x)), strict=True):
        assert torch.equal(first, second)
    assert all(torch.equal(vectors[name], b) for name, b in model.named_buffers())
    model.train()(x)
    assert not all(torch.equal(vectors[name], b) for name, b in model.named_buffers())


def test_a_checkpoint_restores_the_judgement_and_the_power_iteration() -> None:
    model, x = small(), torch.randn(2, 1, 500)
    model(x)
    restored = small()
    for parameter in restored.parameters():
        nn.init.normal_(parameter)
    restored.load_state_dict(copy.deepcopy(model.state_dict()))
    for training in (False, True):  # in training the next iteration starts from the same vectors
        model.train(training)
        restored.train(training)
        for expected, found in zip(values(model(x)), values(restored(x)), strict=True):
            assert torch.equal(expected, found)


def test_two_passes_in_training_can_share_one_backward_pass() -> None:
    """Target and estimate are judged one after the other; the second power iteration must not break the first graph."""
    model = small()
    (model(torch.randn(1, 1, 300))[0].logits - model(torch.randn(1, 1, 300))[0].logits).square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.scales[0].parameters())


def test_the_second_scale_judges_the_average_of_four_samples_counting_the_padding_as_silence() -> None:
    model, x = small().eval(), torch.randn(2, 1, 512)
    pooled = nn.functional.pad(x, (2, 2)).unfold(-1, 4, 2).mean(-1)
    assert pooled.shape[-1] == 257
    logits = model.scales[1](pooled.transpose(1, 2)).logits
    torch.testing.assert_close(model(x)[1].logits, logits.squeeze(-1))
    assert model.halve(torch.ones(1, 1, 8)).flatten().tolist() == [0.5, 1.0, 1.0, 1.0, 0.5]


@pytest.mark.parametrize("scales", [1, 3, 5])
def test_any_waveform_of_at_least_one_sample_is_judged(scales: int) -> None:
    model = small(scales=scales)
    for samples in (*range(1, 25), 255, 256, 257):
        judgements = model(torch.randn(2, 1, samples))
        assert len(judgements) == scales
        assert all(j.logits.shape[-1] >= 1 and j.logits.isfinite().all() for j in judgements)


def test_impossible_sizes_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"have \[3, 2, 3, 3\] entries"):
        small(kernel_sizes=(15, 41))
    with pytest.raises(ConfigError, match="scales=0"):
        small(scales=0)
    with pytest.raises(ConfigError, match="groups=3 must divide both 8 and 16 channels"):
        small(groups=(1, 3, 1))
    with pytest.raises(ConfigError, match="norm='batch'"):
        small(first_norm="batch")
