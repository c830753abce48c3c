from __future__ import annotations

import importlib.util
import sys

import pytest
import torch
from pystoi import stoi
from surrogate_items import check_items_count_alone
from torch import Tensor

from bcfusion.errors import ConfigError
from bcfusion.losses.stoi_surrogate import StoiSurrogateLoss

needs_library = pytest.mark.skipif(
    importlib.util.find_spec("torch_stoi") is None, reason="torch_stoi is not installed: pip install 'bcfusion[stoi]'"
)
T = 16000


def speech_like(seed: int, items: int = 1, samples: int = T) -> Tensor:
    """Noise in syllables of changing loudness, with pauses of digital silence, at about -26 dBFS."""
    time = torch.arange(samples) / 10000
    envelope = (torch.sin(2 * torch.pi * 3 * time) > -0.5) * (
        0.2 + torch.sin(2 * torch.pi * 1.3 * time + seed).square()
    )
    return 0.1 * envelope * torch.randn(items, 1, samples, generator=torch.Generator().manual_seed(seed))


def white(seed: int, level: float, items: int = 1, samples: int = T) -> Tensor:
    return level * torch.randn(items, 1, samples, generator=torch.Generator().manual_seed(seed))


def full(signal: Tensor) -> Tensor:
    return torch.full((signal.shape[0],), signal.shape[-1])


@needs_library
@pytest.mark.parametrize("extended", [False, True])
@pytest.mark.parametrize("level", [0.001, 0.01, 0.05, 0.3])
@pytest.mark.parametrize(("rate", "tolerance"), [(10000, 1e-4), (16000, 5e-3)])  # the resampling filters differ
def test_is_the_negative_of_pystoi(rate: int, tolerance: float, level: float, extended: bool) -> None:
    target = speech_like(1)
    estimate = target + white(2, level)
    expected = stoi(target[0, 0].numpy(), estimate[0, 0].numpy(), rate, extended=extended)
    loss = StoiSurrogateLoss(rate, extended)(estimate, target, full(target))
    assert loss.item() == pytest.approx(-expected, abs=tolerance)


@needs_library
def test_a_quiet_target_is_as_intelligible_as_a_loud_one_and_so_is_a_quiet_estimate() -> None:
    target = speech_like(1)
    estimate = target + white(2, 0.05)
    loss = StoiSurrogateLoss(10000)
    expected = loss(estimate, target, full(target)).item()
    for gain in (0.03, 10.0):
        assert loss(gain * estimate, gain * target, full(target)).item() == pytest.approx(expected, abs=1e-4)
        assert loss(gain * estimate, target, full(target)).item() == pytest.approx(expected, abs=1e-2)


@needs_library
@pytest.mark.parametrize("samples", [0, 1, 255, 3000, 4095])
def test_items_of_less_than_31_frames_have_no_stoi(samples: int) -> None:
    target = speech_like(1).repeat(2, 1, 1)
    estimate = (target + white(2, 0.05)).requires_grad_()
    loss = StoiSurrogateLoss(10000)(estimate, target, torch.tensor([T, samples]))
    loss.backward()
    alone = StoiSurrogateLoss(10000)(estimate[:1], target[:1], torch.tensor([T]))
    torch.testing.assert_close(loss, alone / 2)
    assert estimate.grad is not None
    assert torch.count_nonzero(estimate.grad[1]) == 0
    assert torch.count_nonzero(estimate.grad[0]) > 0


@needs_library
def test_the_shortest_item_with_a_stoi_is_one_segment_of_30_frames() -> None:
    target = white(1, 0.1)
    loss = StoiSurrogateLoss(10000)
    assert loss(target + white(2, 0.01), target, torch.tensor([4096])).item() < -0.9
    assert loss(target + white(2, 0.01), target, torch.tensor([4095])).item() == 0.0


@needs_library
@pytest.mark.parametrize("extended", [False, True])
def test_a_target_with_too_little_speech_has_no_gradient(extended: bool) -> None:
    target = white(1, 0.1)
    target[..., 3000:] = 0.0
    estimate = (target + white(2, 0.01)).requires_grad_()
    loss = StoiSurrogateLoss(10000, extended)(estimate, target, full(target))
    loss.backward()
    assert loss.item() == 0.0
    assert estimate.grad is not None
    assert torch.count_nonzero(estimate.grad) == 0


@needs_library
@pytest.mark.parametrize("extended", [False, True])
@pytest.mark.parametrize("target_level", [0.0, 1e-7, 1e-4, 0.1])
@pytest.mark.parametrize("estimate_level", [0.0, 1e-7, 1e-4, 0.1])
def test_is_finite_on_silence(target_level: float, estimate_level: float, extended: bool) -> None:
    target, estimate = white(1, target_level), white(2, estimate_level).requires_grad_()
    loss = StoiSurrogateLoss(extended=extended)(estimate, target, full(target))
    loss.backward()
    assert -1.0 <= loss.item() <= 0.3
    assert estimate.grad is not None
    assert torch.isfinite(estimate.grad).all()
    if target_level < 1e-3:  # below -60 dBFS
        assert loss.item() == 0.0
        assert torch.count_nonzero(estimate.grad) == 0


@needs_library
def test_a_silent_target_next_to_an_audible_one_of_equal_length_counts_as_0() -> None:
    target = torch.cat([white(1, 0.1), white(2, 5e-4)])  # -66 dBFS
    estimate = (target + white(3, 1e-4, items=2)).requires_grad_()
    loss = StoiSurrogateLoss()
    value = loss(estimate, target, full(target))
    value.backward()
    torch.testing.assert_close(value, loss(estimate[:1], target[:1], full(target)[:1]) / 2)
    assert estimate.grad is not None
    assert torch.count_nonzero(estimate.grad[1]) == 0
    louder = StoiSurrogateLoss(silence_db=-70.0)(estimate, target, full(target))
    assert louder.item() == pytest.approx(2 * value.item(), rel=0.1)


@needs_library
@pytest.mark.parametrize("extended", [False, True])
def test_the_loss_of_an_item_is_the_same_alone_or_padded_whatever_the_padding_holds(extended: bool) -> None:
    lengths = torch.tensor([T, 12000, 9001, 12000])
    target = torch.cat([speech_like(seed) for seed in range(4)])
    estimate = target + white(7, 0.05, items=4)
    check_items_count_alone(StoiSurrogateLoss(extended=extended), estimate, target, lengths, digits=4)


@needs_library
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_is_float32_under_autocast(dtype: torch.dtype) -> None:
    target = speech_like(1)
    estimate = (target + white(2, 0.05)).to(dtype)
    loss = StoiSurrogateLoss()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = loss(estimate, target, full(target))
    assert result.dtype == torch.float32
    torch.testing.assert_close(result, loss(estimate.float(), target, full(target)))


@needs_library
@pytest.mark.parametrize("extended", [False, True])
def test_gradient_steps_make_the_estimate_more_intelligible_to_pystoi(extended: bool) -> None:
    target = speech_like(1)
    estimate = (target + white(2, 0.1)).requires_grad_()
    loss = StoiSurrogateLoss(extended=extended)
    before = stoi(target[0, 0].numpy(), estimate.detach()[0, 0].numpy(), 16000, extended=extended)
    optimizer = torch.optim.Adam([estimate], lr=3e-3)
    for _ in range(20):
        optimizer.zero_grad()
        loss(estimate, target, full(target)).backward()
        optimizer.step()
    after = stoi(target[0, 0].numpy(), estimate.detach()[0, 0].numpy(), 16000, extended=extended)
    assert after > before + 0.1


@needs_library
def test_holds_no_parameters_and_nothing_that_a_checkpoint_would_store() -> None:
    loss = StoiSurrogateLoss()
    assert list(loss.parameters()) == []
    assert loss.state_dict() == {}
    assert all(buffer.device.type == "meta" for buffer in loss.to("meta").buffers())  # they move with the loss
    assert len(list(loss.buffers())) == 2


def test_without_the_library_the_message_names_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch_stoi", None)
    with pytest.raises(ConfigError, match=r"pip install 'bcfusion\[stoi\]'"):
        StoiSurrogateLoss()
