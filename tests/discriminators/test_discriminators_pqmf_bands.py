from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from bcfusion.discriminators.multi_scale import ScaleDiscriminator
from bcfusion.discriminators.pqmf_bands import BandsDiscriminator, PQMFBandsDiscriminator
from bcfusion.errors import AudioError, ConfigError


def parameters(model: torch.nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def small(q: int = 4, **arguments: Any) -> PQMFBandsDiscriminator:
    torch.manual_seed(0)
    return PQMFBandsDiscriminator(q=q, min_channels=q, full_band=False, **arguments)


@pytest.mark.parametrize(("q", "min_channels", "published"), [(4, 24, 23_161_344), (3, 30, 27_796_938)])
def test_the_published_numbers_of_parameters(q: int, min_channels: int, published: int) -> None:
    with torch.device("meta"):
        assert parameters(PQMFBandsDiscriminator(q, min_channels)) == published


def test_three_networks_judge_the_bands_and_one_the_waveform() -> None:
    with torch.device("meta"):
        judgements = PQMFBandsDiscriminator()(torch.empty(2, 1, 8192))
    assert len(judgements) == 4
    for judgement in judgements[:3]:
        assert [tuple(f.shape) for f in judgement.features] == [
            (2, 24, 2048),
            (2, 48, 1024),
            (2, 96, 512),
            (2, 192, 256),
            (2, 384, 128),
            (2, 768, 64),
            (2, 768, 64),
        ]
        assert judgement.logits.shape == (2, 1, 64)
    assert [f.shape[1] for f in judgements[3].features] == [16, 64, 256, 1024, 1024, 1024]
    assert judgements[3].logits.shape == (2, 1, 32)


def test_the_full_band_is_judged_by_the_network_of_melgan() -> None:
    with torch.device("meta"):
        model = PQMFBandsDiscriminator(full_band_groups="original")
        assert isinstance(model.full_band, ScaleDiscriminator)
        assert parameters(model.full_band) == parameters(ScaleDiscriminator())
    assert len(small()(torch.randn(1, 1, 256))) == 3


def test_features_are_the_hidden_activations_without_the_waveform_and_its_bands() -> None:
    model, x = small(q=3), 0.1 * torch.randn(2, 1, 700)
    bands = model.pqmf.analysis(x)[:, 1:]
    for stack, judgement in zip(model.stacks, model(x), strict=True):
        assert isinstance(stack, BandsDiscriminator)
        assert len(judgement.features) == 7
        torch.testing.assert_close(judgement.features[0], F.leaky_relu(stack.layers[0](bands), 0.2))
        torch.testing.assert_close(judgement.logits, stack.logits(judgement.features[-1]))


def test_a_tone_below_the_judged_bands_has_no_effect() -> None:
    model = small(q=2)  # 4 to 8 kHz
    t = torch.arange(8000) / 16000
    judged = {}
    for frequency in (500, 6000):
        tone = torch.sin(2 * math.pi * frequency * t).view(1, 1, -1)
        judgements, silence = model(tone), model(torch.zeros_like(tone))
        judged[frequency] = max(  # the onset of the tone contains all frequencies
            (a.features[0] - b.features[0])[..., 50:-50].abs().max() for a, b in zip(judgements, silence, strict=True)
        )
    assert judged[500] < 1e-3 * judged[6000]


def test_bands_are_combined_in_the_logits_only() -> None:
    torch.manual_seed(0)
    stack = BandsDiscriminator(q=3, min_channels=6, dilation=2)
    bands = torch.randn(1, 3, 256)
    other = bands.clone()
    other[:, 1] = torch.randn(256)
    before, after = stack(bands), stack(other)
    for a, b in zip(before.features, after.features, strict=True):
        changed = (a != b).any(dim=2)[0].unflatten(0, (3, -1))
        assert changed[1].all()
        assert not changed[[0, 2]].any()
    assert not torch.allclose(before.logits, after.logits)


@pytest.mark.parametrize("dilation", [1, 2, 3])
def test_every_logit_is_aligned_with_the_middle_of_the_frames_it_judges(dilation: int) -> None:
    torch.manual_seed(0)
    stack = BandsDiscriminator(q=1, min_channels=1, dilation=dilation).to(torch.float64)
    frames = 64 * 32
    bands = torch.randn(1, 1, frames, dtype=torch.float64, requires_grad=True)
    judgement = stack(bands)
    assert judgement.logits.shape[-1] == 64
    for logit in (31, 32):
        (gradient,) = torch.autograd.grad(judgement.logits[0, 0, logit], bands, retain_graph=True)
        seen = gradient[0, 0].nonzero()[:, 0]
        reach = 32 + dilation * (1 + 3 * (1 + 2 + 4 + 8 + 16) + 2 * 32)  # of k3, five k7, k5 and the logits' k3
        assert (int(seen.min()), int(seen.max())) == (32 * logit - reach, 32 * logit + reach)


def test_there_is_one_network_on_the_bands_per_dilation() -> None:
    model, x = small(dilations=(1, 5)), torch.randn(2, 1, 900)
    assert [judgement.logits.shape[-1] for judgement in model(x)] == [math.ceil(225 / 32)] * 2


def test_the_gradient_passes_the_filter_bank_which_is_not_trained() -> None:
    model, x = small(), torch.randn(1, 1, 400, requires_grad=True)
    assert not [name for name, _ in model.named_parameters() if name.startswith("pqmf")]
    model.requires_grad_(False)
    torch.stack([judgement.logits.mean() for judgement in model(x)]).sum().backward()
    assert x.grad is not None
    assert bool(x.grad.any())


@pytest.mark.parametrize(("q", "bands", "taps"), [(4, 4, 32), (2, 3, 25), (5, 5, 40)])
def test_any_waveform_of_at_least_one_sample_is_judged(q: int, bands: int, taps: int) -> None:
    model = small(q=q, bands=bands, taps=taps)
    for samples in (*range(1, 20), 127, 128, 129):
        for judgement in model(torch.randn(2, 1, samples)):
            assert judgement.logits.shape == (2, 1, math.ceil(math.ceil(samples / bands) / 32))
            assert judgement.logits.isfinite().all()


def test_invalid_sizes_are_refused() -> None:
    with pytest.raises(ConfigError, match="min_channels=24 must be a multiple of q=5"):
        PQMFBandsDiscriminator(q=5, bands=5, taps=40)
    for q in (0, 5):
        with pytest.raises(ConfigError, match=f"q={q} must be from 1 to 4"):
            small(q=q)
    with pytest.raises(ConfigError, match="dilations"):
        small(dilations=())
    with pytest.raises(ConfigError, match="dilation=0"):
        small(dilations=(0,))
    with pytest.raises(ConfigError, match="groups=3"):
        PQMFBandsDiscriminator(full_band_groups=3)


def test_two_channels_are_refused() -> None:
    with pytest.raises(AudioError, match=r"\(1, 2, 256\)"):
        small()(torch.zeros(1, 2, 256))


def test_the_published_padding_ignores_the_dilation_and_pads_the_first_layer_twice() -> None:
    model, bands = BandsDiscriminator(q=2, min_channels=4, dilation=3, padding="published"), torch.randn(1, 2, 700)
    first, second = model(bands).features[:2]
    mirrored = F.pad(bands, (1, 1), mode="reflect")
    weights = model.layers[0]
    expected = F.conv1d(F.pad(mirrored, (1, 1)), weights.weight, weights.bias, dilation=3, groups=2)
    torch.testing.assert_close(first, F.leaky_relu(expected, 0.2))
    assert first.shape[-1] == 700 + 4 - 6
    assert second.shape[-1] == (698 + 2 * 3 - 18 - 1) // 2 + 1
    aligned = BandsDiscriminator(q=2, min_channels=4, dilation=3)
    aligned.load_state_dict(model.state_dict())  # the same layers
    assert aligned(bands).features[0].shape[-1] == 700


@pytest.mark.parametrize("dilation", [2, 3])
def test_with_the_published_padding_a_short_input_gets_zeros_until_a_frame_is_left(dilation: int) -> None:
    model = BandsDiscriminator(q=2, min_channels=4, dilation=dilation, padding="published")
    least = torch.randn(1, 2, model.least)
    assert model(least).logits.shape[-1] == 1
    with pytest.raises(RuntimeError, match="can't be greater than actual input size"):
        model.layers[-1](judged_without_zeros(model, least[..., :-1]))
    short = F.pad(least[..., :-7], (0, 7))
    torch.testing.assert_close(model(least[..., :-7]).logits, model(short).logits)
    assert model(least[..., :1]).logits.isfinite().all()


def judged_without_zeros(model: BandsDiscriminator, bands: Tensor) -> Tensor:
    """The input of the last hidden layer, without zeros at the end."""
    hidden = F.pad(bands, (1, 1), mode="reflect")
    for layer in model.layers[:-1]:
        hidden = layer(hidden)
    return hidden


def test_bands_of_the_generator_are_judged_in_place_of_those_of_the_waveform() -> None:
    model, x = small(q=3, bands_from="generator"), 0.1 * torch.randn(1, 1, 1024)
    assert model.takes == ("bands",)
    assert small().takes == ()
    bands = model.pqmf.analysis(x)
    for with_bands, alone, other in zip(model(x, bands), model(x), model(x, 0.5 * bands), strict=True):
        torch.testing.assert_close(with_bands.logits, alone.logits)
        assert not torch.allclose(with_bands.logits, other.logits)


def test_unknown_forms_are_refused() -> None:
    with pytest.raises(ConfigError, match="padding"):
        small(padding="same")
    with pytest.raises(ConfigError, match="bands_from"):
        small(bands_from="target")
