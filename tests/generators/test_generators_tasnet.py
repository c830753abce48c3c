from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bcfusion.errors import ConfigError
from bcfusion.generators.tasnet import SegmentNorm, TasNet
from bcfusion.nn.streaming import StreamingError

SMALL: dict[str, Any] = {"filters": 40, "filter_length": 16, "hidden_size": 8, "num_layers": 3}


def lstm(inputs: int, cells: int) -> int:
    return 4 * cells * (inputs + cells + 2)  # four gates, two biases as torch and cuDNN have them


@pytest.mark.parametrize(("causal", "cells", "directions"), [(False, 500, 2), (True, 1000, 1)])
def test_the_number_of_parameters_is_that_of_the_papers_layers(causal: bool, cells: int, directions: int) -> None:
    with torch.device("meta"):
        model = TasNet(filter_length=40, causal=causal, hidden_size=cells)
    separator = directions * (lstm(500, cells) + 3 * lstm(1000, cells))
    masks = 1000 * 2 * 500 + 2 * 500  # speech and the rest, instead of the paper's two speakers
    filters, norm = 3 * 500 * 40, 2 * 500  # U, V, decoder; gain and shift
    total = sum(p.numel() for p in model.parameters())
    assert total == separator + masks + filters + norm == (31_094_000 if causal else 23_094_000)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("overlap", [True, False])
@pytest.mark.parametrize("head", ["mask", "mapping", "additive"])
def test_the_output_scales_with_the_input(causal: bool, overlap: bool, head: Any) -> None:
    torch.manual_seed(0)
    model = TasNet(in_channels=2, causal=causal, overlap=overlap, head=head, **SMALL).double().eval()
    x = 0.07 * torch.randn(1, 2, 500, dtype=torch.float64)
    with torch.inference_mode():
        y = model(x)
        assert y.abs().max() > 1e-3
        for gain in (0.1, 10.0):
            torch.testing.assert_close(model(gain * x), gain * y, rtol=1e-4, atol=1e-6 * gain)


@pytest.mark.parametrize("overlap", [True, False])
def test_the_norm_of_a_segment_is_over_its_samples_of_all_sensors(overlap: bool) -> None:
    torch.manual_seed(0)
    hop, x = 5, torch.randn(2, 3, 40)
    norm = SegmentNorm(hop, overlap)(x)
    assert norm.shape == (2, 1, 8)
    for k in range(8):
        segment = x[..., max(0, (k - overlap) * hop) : (k + 1) * hop]
        torch.testing.assert_close(norm[:, 0, k], segment.flatten(1).norm(dim=1))


@pytest.mark.parametrize("overlap", [True, False])
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("length", [1, 333])
def test_encoder_and_decoder_are_initially_aligned_inverses(overlap: bool, causal: bool, length: int) -> None:
    model = TasNet(in_channels=2, causal=causal, overlap=overlap, skip_channel=0, **SMALL)
    nn.init.zeros_(model.gate.weight)  # half open
    nn.init.zeros_(model.output.weight)  # masks of one half
    nn.init.zeros_(model.output.bias)
    x = torch.randn(2, 2, length)
    torch.testing.assert_close(model(x), x[:, :1], atol=1e-5, rtol=0)


def test_the_untrained_network_changes_its_input_little() -> None:
    torch.manual_seed(0)
    x = 0.07 * torch.randn(1, 1, 4000)
    with torch.inference_mode():
        error = TasNet(hidden_size=50).eval()(x) - x
    assert error.std() < 0.1 * x.std()


@pytest.mark.parametrize("overlap", [True, False])
def test_the_delay_is_exactly_how_far_a_nan_reaches(overlap: bool) -> None:
    model = TasNet(causal=True, overlap=overlap, **SMALL).eval()
    assert model.hop == (8 if overlap else 16)
    assert model.lookahead == (8 if overlap else 0)
    start = 5 * model.hop
    x = 0.07 * torch.randn(model.hop, 1, 9 * model.hop)
    for phase in range(model.hop):  # all frame phases at once, one per item
        x[phase, 0, start + phase :] = torch.nan
    with torch.inference_mode():
        bad = model(x).isnan()[:, 0].int().argmax(dim=1)
    assert int((start + torch.arange(model.hop) - bad).max()) == model.delay == 15


def test_the_bidirectional_network_depends_on_the_whole_file_and_does_not_stream() -> None:
    torch.manual_seed(0)
    model = TasNet(**SMALL).eval()
    assert model.delay is None
    x = 0.07 * torch.randn(1, 1, 320)
    later = torch.cat([x[..., :-16], -x[..., -16:]], dim=-1)
    with torch.inference_mode():
        assert not torch.equal(model(x)[..., :16], model(later)[..., :16])
    with pytest.raises(StreamingError, match="TasNet is not causal"), model.streaming(1):
        pass


def test_every_layer_after_the_first_has_an_identity_skip() -> None:
    torch.manual_seed(0)
    model = TasNet(causal=True, **SMALL)
    for layer in model.lstms[1:]:
        for parameter in layer.parameters():
            nn.init.zeros_(parameter)  # an LSTM of zeros outputs zeros
    encoding = torch.rand(1, 40, 9)
    first: Tensor = model.lstms[0](model.norm(encoding).transpose(1, 2))
    torch.testing.assert_close(model.separate(encoding), model.output(first).transpose(1, 2))


@pytest.mark.parametrize(
    "arguments",
    [
        {"filter_length": 0},
        {"filter_length": 15, "overlap": True},
        {"filters": 0},
        {"num_layers": 0},
        {"hidden_size": 0},
    ],
    ids=str,
)
def test_invalid_arguments_are_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        TasNet(**{**SMALL, **arguments})
