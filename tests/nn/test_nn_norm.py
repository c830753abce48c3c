from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from bcfusion.errors import ConfigError
from bcfusion.nn.norm import (
    BatchNorm1d,
    BatchNorm2d,
    CumulativeLayerNorm,
    FrameLayerNorm,
    GlobalLayerNorm,
    GroupNorm,
    InstanceNorm2d,
    InstantLayerNorm,
)
from bcfusion.nn.streaming import StreamingModule


def randomised(layer: nn.Module) -> nn.Module:
    for parameter in layer.parameters():
        nn.init.uniform_(parameter, 0.5, 1.5)
    return layer.double().eval()


def spectrogram(frames: int = 12) -> Tensor:
    return 3 + 2 * torch.randn(2, 4, 5, frames, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("shape", [(2, 4, 12), (2, 4, 5, 12)])
def test_cumulative_normalisation_is_over_all_frames_so_far(shape: tuple[int, ...]) -> None:
    layer, x = randomised(CumulativeLayerNorm(4)), torch.randn(shape, dtype=torch.float64)
    y = layer(x)
    for n in range(12):
        so_far = x[..., : n + 1].flatten(1)
        mean, variance = so_far.mean(1), so_far.var(1, unbiased=False)
        each = (-1, *[1] * (x.ndim - 2))
        normal = (x[..., n] - mean.view(each)) / (variance.view(each) + 1e-8).sqrt()
        gain, shift = (p.view(1, *each[:-1]) for p in layer.parameters())
        torch.testing.assert_close(y[..., n], normal * gain + shift, atol=1e-6, rtol=0)


@pytest.mark.parametrize(("mean", "tolerance"), [(0, 1e-6), (100, 2e-5), (1000, 2e-4), (-1000, 2e-4)])
@pytest.mark.parametrize("chunks", [[40], [1, 2, 7, 30]], ids=["file", "stream"])
def test_the_variance_of_values_far_from_zero_is_that_of_float64(
    mean: float, tolerance: float, chunks: list[int]
) -> None:
    x = mean + torch.randn(2, 4, 5, 40, generator=torch.Generator().manual_seed(0))
    x[..., :3] = 0  # as before the first sound: the first frames do not tell where the others lie
    layer = CumulativeLayerNorm(4)
    with torch.inference_mode():
        expected = CumulativeLayerNorm(4).double()(x.double())
        with layer.streaming(2):
            y = torch.cat([layer(part) for part in x.split(chunks, dim=-1)], dim=-1)
        y = layer(x) if len(chunks) == 1 else y
    assert (y - expected).abs().max() < tolerance
    late = x.double().flatten(1, 2)  # and float64 is right: the definition, at the last frame
    last = (x[..., -1].double() - late.mean((1, 2)).view(2, 1, 1)) / late.std((1, 2), correction=0).view(2, 1, 1)
    torch.testing.assert_close(expected[..., -1], last, atol=1e-7, rtol=0)


def test_a_batch_norm_is_evaluated_with_the_batches_alone() -> None:
    layer, x = BatchNorm2d(3, momentum=0.01), spectrogram().float()[:, :3]
    layer.eval()
    torch.testing.assert_close(layer(x), nn.BatchNorm2d(3).eval()(x))  # nothing but 0 and 1 yet
    batches = [5 + 2 * k + 3 * torch.randn(4, 3, 5, 6) for k in range(4)]
    for batch in batches:
        layer.train()(batch)
    weights = torch.tensor([0.99**3, 0.99**2, 0.99, 1.0])
    weights /= weights.sum()
    mean = sum(w * batch.mean((0, 2, 3)) for w, batch in zip(weights, batches, strict=True))
    variance = sum(w * batch.var((0, 2, 3)) for w, batch in zip(weights, batches, strict=True))
    assert isinstance(mean, Tensor)
    assert isinstance(variance, Tensor)
    expected = (x - mean.view(-1, 1, 1)) / (variance.view(-1, 1, 1) + layer.eps).sqrt()
    torch.testing.assert_close(layer.eval()(x), expected, atol=1e-4, rtol=1e-4)


def test_a_batch_norm_trains_and_stores_what_torchs_does() -> None:
    layers = BatchNorm1d(3, momentum=0.1), nn.BatchNorm1d(3, momentum=0.1)
    for seed in range(200):
        x = 2 + torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(seed))
        torch.testing.assert_close(*(layer.train()(x) for layer in layers), rtol=0, atol=0)
    torch.testing.assert_close(*(layer.state_dict() for layer in layers), rtol=0, atol=0)
    torch.testing.assert_close(*(layer.eval()(x) for layer in layers))


def test_after_an_hour_of_frames_float32_is_still_normalised() -> None:
    layer = CumulativeLayerNorm(2).eval()
    with torch.inference_mode(), layer.streaming(1):
        for _ in range(20):
            y = layer(5 + 0.1 * torch.randn(1, 2, 50_000))
    assert abs(float(y.mean())) < 0.02
    assert float(y.std()) == pytest.approx(1, rel=0.02)


@pytest.mark.parametrize(
    "build",
    [
        lambda: FrameLayerNorm(4),
        lambda: CumulativeLayerNorm(4),
        lambda: InstantLayerNorm(4, 5),
        lambda: InstanceNorm2d(4),
    ],
)
def test_causal_norms_stream_and_do_not_depend_on_the_future(build: Callable[[], StreamingModule]) -> None:
    layer, x = randomised(build()), spectrogram()
    assert isinstance(layer, StreamingModule)
    whole = layer(x)
    with layer.streaming(2):
        parts = torch.cat([layer(part) for part in x.split([1, 2, 3, 6], dim=-1)], dim=-1)
    torch.testing.assert_close(parts, whole, atol=1e-12, rtol=0)
    x[..., 7] = torch.nan
    assert layer(x)[..., :7].isfinite().all()


def test_each_frame_is_normalised_over_its_channels_and_bins() -> None:
    x = spectrogram()
    for layer in (FrameLayerNorm(4).double(), InstantLayerNorm(4, 5).double()):
        y = layer(x)
        torch.testing.assert_close(y.mean((1, 2)), torch.zeros(2, 12, dtype=torch.float64), atol=1e-9, rtol=0)
        torch.testing.assert_close(y.square().mean((1, 2)), torch.ones(2, 12, dtype=torch.float64), atol=1e-3, rtol=0)
    assert sum(p.numel() for p in InstantLayerNorm(2, 201).parameters()) == 2 * 2 * 201


def test_the_global_norm_is_torchs_group_norm_with_one_group() -> None:
    x = spectrogram()
    layer = randomised(GlobalLayerNorm(4))
    gain, shift = layer.parameters()
    torch.testing.assert_close(layer(x), nn.functional.group_norm(x, 1, gain, shift, 1e-8))
    torch.testing.assert_close(GroupNorm(2, 4).double()(x), nn.functional.group_norm(x, 2))


def test_instance_norm_with_running_statistics_measures_in_training_only() -> None:
    layer, x = InstanceNorm2d(4).double(), spectrogram()
    torch.testing.assert_close(layer(x), nn.functional.instance_norm(x))
    layer.eval()
    assert not torch.allclose(layer(x), nn.functional.instance_norm(x))


@pytest.mark.parametrize(
    ("build", "name"),
    [
        (lambda: GlobalLayerNorm(4, causal=True), "GlobalLayerNorm"),
        (lambda: GroupNorm(2, 4, causal=True), "GroupNorm"),
        (lambda: InstanceNorm2d(4, track_running_stats=False), "InstanceNorm2d"),
    ],
)
def test_norms_over_the_whole_file_refuse_to_be_causal(build: Callable[[], nn.Module], name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name}: causal=True is impossible, "):
        build()


def test_silence_is_normalised_to_the_shift_with_a_finite_gradient() -> None:
    layers: list[nn.Module] = [GlobalLayerNorm(4), FrameLayerNorm(4), CumulativeLayerNorm(4), InstantLayerNorm(4, 5)]
    for layer in layers:
        x = torch.zeros(1, 4, 5, 6, requires_grad=True)
        y = layer(x)
        y.square().sum().backward()
        assert torch.equal(y, torch.zeros_like(y))
        assert x.grad is not None
        assert x.grad.isfinite().all()


def test_mixed_precision_keeps_the_cumulative_statistics() -> None:
    layer, x = CumulativeLayerNorm(8), 10 + torch.randn(2, 8, 200, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = layer(x)
    torch.testing.assert_close(y, layer(x), atol=1e-5, rtol=0)
