"""Scale and shift per frequency: their statistics, what counts for these, and what complex numbers keep."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from bcfusion.errors import ConfigError, DataError
from bcfusion.nn.frequency_norm import FrequencyAffine

BINS, FRAMES = 5, 40


def values(channels: int, seed: int = 0) -> Tensor:
    """Frequencies of different means and deviations ``(3, channels, BINS, FRAMES)``."""
    generator = torch.Generator().manual_seed(seed)
    spread = 0.5 + torch.arange(float(BINS)).view(-1, 1)
    return spread * (torch.randn(3, channels, BINS, FRAMES, generator=generator) + 2.0)


def started(layer: FrequencyAffine, *batches: Tensor) -> FrequencyAffine:
    for batch in batches:
        layer.add(batch, torch.ones(batch.shape[0], batch.shape[-1], dtype=torch.bool))
    layer.start()
    return layer


def frames_of(x: Tensor) -> np.ndarray:
    """All frames ``(channels, BINS, frames)`` in float64."""
    return x.detach().double().permute(1, 2, 0, 3).flatten(2).numpy()


def test_statistics_are_those_of_all_valid_frames_of_all_batches() -> None:
    layer = FrequencyAffine(2, BINS)
    frames = []
    for seed in range(2):
        batch = values(2, seed)
        batch[1, ..., 30:] = 1e6  # past the end
        valid = torch.arange(FRAMES) < torch.tensor([[FRAMES], [30], [FRAMES]])
        layer.add(batch, valid)
        frames += [batch[0].numpy(), batch[1, ..., :30].numpy(), batch[2].numpy()]
    layer.start()
    seen = np.concatenate(frames, axis=-1).astype(np.float64)
    np.testing.assert_allclose(layer.mean.numpy()[..., 0], seen.mean(-1), rtol=1e-5)
    np.testing.assert_allclose(layer.deviation.numpy()[..., 0], seen.std(-1), rtol=1e-5)


def test_an_input_is_standardised_and_an_output_restored() -> None:
    x = values(2)
    inputs, output = started(FrequencyAffine(2, BINS), x), started(FrequencyAffine(2, BINS, kind="restore"), x)
    standard = frames_of(inputs(x))
    np.testing.assert_allclose(standard.mean(-1), 0, atol=1e-5)
    np.testing.assert_allclose(standard.var(-1), 1, atol=1e-5)
    torch.testing.assert_close(output(inputs(x)), x)
    noise = torch.randn_like(x)
    standard_noise = started(FrequencyAffine(2, BINS), noise)(noise)
    restored = frames_of(output(standard_noise))
    np.testing.assert_allclose(restored.mean(-1), frames_of(x).mean(-1), atol=1e-4)
    np.testing.assert_allclose(restored.std(-1), frames_of(x).std(-1), atol=1e-4)


@pytest.mark.parametrize("kind", ["standardise", "restore"])
def test_complex_numbers_keep_phase_and_silence_and_get_a_mean_square_of_one(kind: str) -> None:
    x = values(4)  # real parts of two sensors, then imaginary ones
    layer = started(FrequencyAffine(2, BINS, parts=2, kind=kind), x)
    y = layer(x)
    assert torch.equal(layer(torch.zeros_like(x)), torch.zeros_like(x))
    before, after = (torch.complex(*z.chunk(2, dim=1)) for z in (x, y))
    torch.testing.assert_close(after.angle(), before.angle())
    if kind == "standardise":
        squares = frames_of(y).reshape(2, 2, BINS, -1)
        np.testing.assert_allclose(np.square(squares).mean((0, 3)), 1, atol=1e-5)


def test_frequencies_that_hold_next_to_nothing_are_not_amplified_without_bound() -> None:
    x = values(2)
    x[:, 0, 0] = 0.0  # a bin that is always silent
    x[:, 1] = 0.0  # a dead sensor
    layer = started(FrequencyAffine(2, BINS, least=0.01), x)
    largest = frames_of(x).std(-1)[0].max()
    np.testing.assert_allclose(float(layer.deviation[0, 0]), 0.01 * largest, rtol=1e-5)
    assert torch.equal(layer.deviation[1], torch.ones(BINS, 1))
    assert layer(x).isfinite().all()


def test_an_identity_waits_for_no_statistics_and_shifts_a_complex_mask() -> None:
    layer = FrequencyAffine(1, BINS, parts=2, kind="identity")
    x = values(2)
    assert layer.started
    assert torch.equal(layer(x), x)
    with torch.no_grad():
        assert layer.bias is not None
        layer.bias[0].fill_(1.0)
    torch.testing.assert_close(layer(x) - x, torch.cat([torch.ones_like(x[:, :1]), torch.zeros_like(x[:, :1])], dim=1))


def test_statistics_are_part_of_the_weights() -> None:
    first = started(FrequencyAffine(2, BINS), values(2))
    second = FrequencyAffine(2, BINS)
    assert not second.started
    second.load_state_dict(first.state_dict())
    assert second.started
    second.start()  # nothing is left to take
    assert torch.equal(second(values(2, 1)), first(values(2, 1)))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_mixed_precision_keeps_the_statistics_exact(dtype: torch.dtype) -> None:
    x = values(2)
    layer = started(FrequencyAffine(2, BINS), x)
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        y = layer(x.to(dtype))
    torch.testing.assert_close(y.float(), layer(x), atol=0.1 if dtype == torch.bfloat16 else 0.0, rtol=0)
    assert layer.mean.dtype == torch.float32


def test_a_training_set_without_statistics_is_refused() -> None:
    with pytest.raises(DataError, match="FrequencyAffine: the training set gives no statistics, it holds no batches"):
        FrequencyAffine(2, BINS).start()
    broken = values(2)
    broken[0, 0, 0, 0] = torch.nan
    with pytest.raises(DataError, match="not finite"):
        started(FrequencyAffine(2, BINS), broken)


def test_impossible_sizes_are_refused() -> None:
    with pytest.raises(ConfigError) as caught:
        FrequencyAffine(0, 0, parts=3, kind="whiten", least=0.0)  # type: ignore[arg-type]
    assert [line.split("=")[0].removeprefix("FrequencyAffine: ") for line in caught.value.problems] == [
        "channels",
        "bins",
        "parts",
        "kind",
        "least",
    ]
