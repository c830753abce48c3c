from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bcfusion.errors import ConfigError
from bcfusion.losses.masking import ComponentLoss, MagnitudeSpectrumApproximationLoss, TruncatedPhaseSensitiveLoss

T = 2000
STFT: dict[str, Any] = {"n_fft": 128, "hop_length": 40, "win_length": 100}
BINS, FRAMES = 65, T // 40 + 1
LOSSES: dict[str, Callable[[], nn.Module]] = {
    "component": lambda: ComponentLoss(**STFT),
    "component_2": lambda: ComponentLoss(beta=None, **STFT),
    "msa": lambda: MagnitudeSpectrumApproximationLoss(**STFT),
    "msa_1": lambda: MagnitudeSpectrumApproximationLoss(power=1, **STFT),
    "tpsa": lambda: TruncatedPhaseSensitiveLoss(**STFT),
    "tpsa_1": lambda: TruncatedPhaseSensitiveLoss(power=1, **STFT),
}


@pytest.fixture(params=LOSSES)
def loss(request: pytest.FixtureRequest) -> nn.Module:
    return LOSSES[request.param]()


def white(seed: int, level: float = 0.1, items: int = 1, channels: int = 1) -> Tensor:
    return level * torch.randn(items, channels, T, generator=torch.Generator().manual_seed(seed))


def random_mask(seed: int, items: int = 1) -> Tensor:
    return torch.rand(items, BINS, FRAMES, generator=torch.Generator().manual_seed(seed))


def full(signal: Tensor) -> Tensor:
    return torch.full((signal.shape[0],), signal.shape[-1])


def spectrum(signal: Tensor, window: Tensor | None = None) -> Tensor:
    """``(B, F, N)``, by torch's own transform."""
    window = torch.hann_window(100) if window is None else window
    return torch.stft(signal[:, 0], 128, 40, 100, window, pad_mode="constant", return_complex=True)


def value(loss: nn.Module, mask: Tensor, speech: Tensor, noise: Tensor, lengths: Tensor | None = None) -> Tensor:
    everything = {
        "mask": mask,
        "target": speech,
        "noise": noise,
        "inputs": torch.cat([torch.full_like(speech, 9.0), speech + noise], dim=1),
        "lengths": full(speech) if lengths is None else lengths,
    }
    return loss(**{name: everything[name] for name in inspect.signature(loss.forward).parameters})


# Values


def test_component_loss_is_the_papers_definition() -> None:
    mask, speech, noise = random_mask(0), white(1), white(2, 0.03)
    s, n = spectrum(speech).abs(), spectrum(noise).abs()
    filtered = mask * n
    naturalness = filtered / filtered.norm(dim=1, keepdim=True) - n / n.norm(dim=1, keepdim=True)
    expected = 0.3 * (mask * s - s).square().mean() + 0.1 * filtered.square().mean() + 0.6 * naturalness.square().mean()
    torch.testing.assert_close(ComponentLoss(0.1, 0.6, **STFT)(mask, speech, noise, full(speech)), expected)


def test_without_beta_the_component_loss_has_two_terms() -> None:
    mask, speech, noise = random_mask(0), white(1), white(2)
    s, n = spectrum(speech).abs(), spectrum(noise).abs()
    expected = 0.8 * (mask * s - s).square().mean() + 0.2 * (mask * n).square().mean()
    torch.testing.assert_close(ComponentLoss(0.2, None, **STFT)(mask, speech, noise, full(speech)), expected)


@pytest.mark.parametrize("gain", [0.0, 0.25, 1.0])
def test_a_mask_that_is_the_same_everywhere_keeps_the_colour_of_the_noise(gain: float) -> None:
    speech, noise = white(1), white(2)
    s, n = spectrum(speech).abs().square().mean(), spectrum(noise).abs().square().mean()
    colour = 0.8 / BINS if gain == 0 else 0.0  # negligible compared with a vector of unit norm in each frame
    expected = 0.1 * (1 - gain) ** 2 * s + 0.1 * gain**2 * n + colour
    loss = ComponentLoss(0.1, 0.8, **STFT)(torch.full((1, BINS, FRAMES), gain), speech, noise, full(speech))
    torch.testing.assert_close(loss, expected)


def test_the_third_component_does_not_depend_on_the_level_of_the_noise() -> None:
    mask, silence = random_mask(0), torch.zeros(1, 1, T)
    loss = ComponentLoss(0.0, 0.9, **STFT)
    values = [loss(mask, silence, white(2, level), full(silence)).item() for level in (0.3, 0.003)]
    assert values[0] == pytest.approx(values[1], rel=1e-4)
    assert values[0] > 1e-3


def test_frames_without_noise_fade_out_of_the_third_component_without_a_jump() -> None:
    mask, silence = random_mask(0), torch.zeros(1, 1, T)
    loss = ComponentLoss(0.0, 0.9, silence_db=-60.0, **STFT)
    levels = [1e-1, 1.1e-3, 1e-3, 0.9e-3, 1e-4, 1e-5]
    values = [loss(mask, silence, white(2, level), full(silence)).item() for level in levels]
    assert values[1] == pytest.approx(values[3], rel=0.2)
    assert values[3] > values[4] > values[5]
    assert values[5] == pytest.approx(0.01 * values[4], rel=1e-3)  # with the power of the noise


@pytest.mark.parametrize(
    ("alpha", "beta"), [(0.2, 0.8), (0.7, 0.3), (0.5, 0.6), (1.0, None), (0.0, 1.0), (0.1, 0.9), (1.5, None)]
)
def test_weights_that_leave_nothing_for_the_speech_are_refused(alpha: float, beta: float | None) -> None:
    with pytest.raises(ConfigError, match=r"1 - alpha - beta <= 0"):
        ComponentLoss(alpha, beta, **STFT)


@pytest.mark.parametrize(("alpha", "beta"), [(-0.1, 0.5), (0.1, -0.5)])
def test_negative_weights_are_refused(alpha: float, beta: float) -> None:
    with pytest.raises(ConfigError, match="must be at least 0"):
        ComponentLoss(alpha, beta, **STFT)


@pytest.mark.parametrize("power", [1, 2])
def test_msa_is_the_error_of_the_masked_magnitude(power: int) -> None:
    mask, speech, noise = random_mask(0), white(1), white(2)
    expected = (spectrum(speech).abs() - mask * spectrum(speech + noise).abs()).abs().pow(power).mean()
    torch.testing.assert_close(value(MagnitudeSpectrumApproximationLoss(power, **STFT), mask, speech, noise), expected)


def test_msa_is_zero_for_the_ideal_amplitude_mask() -> None:
    speech, noise = white(1), white(2)
    mask = spectrum(speech).abs() / spectrum(speech + noise).abs()
    assert value(MagnitudeSpectrumApproximationLoss(**STFT), mask, speech, noise).item() == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize("power", [1, 2])
def test_tpsa_is_the_error_to_the_truncated_part_in_phase(power: int) -> None:
    mask, speech, noise = random_mask(0), white(1), white(2)
    s, x = spectrum(speech), spectrum(speech + noise)
    wanted = (s.abs() * torch.cos(s.angle() - x.angle())).clamp_min(0.0).minimum(x.abs())
    assert (wanted == 0).any()
    assert (wanted == x.abs()).any()
    expected = (wanted - mask * x.abs()).abs().pow(power).mean()
    torch.testing.assert_close(value(TruncatedPhaseSensitiveLoss(power, **STFT), mask, speech, noise), expected)


@pytest.mark.parametrize(
    ("gain", "best"),
    [(2.0, 0.5), (1.0, 1.0), (0.5, 1.0), (-1.0, 0.0), (-0.1, 0.0)],  # louder: turned down; inverted: nothing to keep
)
def test_tpsa_never_asks_for_more_than_the_input_nor_for_an_inverted_phase(gain: float, best: float) -> None:
    speech = white(1)
    loss = TruncatedPhaseSensitiveLoss(**STFT)
    mask = torch.full((1, BINS, FRAMES), best)
    assert loss(mask, speech, gain * speech, full(speech)).item() == pytest.approx(0.0, abs=1e-9)
    assert loss(mask + 0.1, speech, gain * speech, full(speech)).item() > 1e-5


@pytest.mark.parametrize("kind", [MagnitudeSpectrumApproximationLoss, TruncatedPhaseSensitiveLoss])
def test_channel_selects_the_sensor_that_the_mask_is_for(kind: type[nn.Module]) -> None:
    mask, speech, inputs = random_mask(0), white(1), white(2, channels=3)
    for channel, index in ((-1, 2), (0, 0), (1, 1)):
        alone = kind(**STFT)(mask, speech, inputs[:, [index]], full(speech))
        torch.testing.assert_close(kind(channel=channel, **STFT)(mask, speech, inputs, full(speech)), alone)
    with pytest.raises(ValueError, match="no channel 3"):
        kind(channel=3, **STFT)(mask, speech, inputs, full(speech))


@pytest.mark.parametrize("power", [0, 3, 1.5])
def test_other_powers_are_refused(power: int) -> None:
    with pytest.raises(ConfigError, match="power"):
        MagnitudeSpectrumApproximationLoss(power, **STFT)


@pytest.mark.parametrize(
    ("name", "window"),
    [
        ("hann", torch.hann_window(100)),
        ("sqrt_hann", torch.hann_window(100).sqrt()),
        ("sine", torch.sin(torch.pi * (torch.arange(100) + 0.5) / 100)),
    ],
)
def test_windows_match_those_of_the_generators(name: str, window: Tensor) -> None:
    speech = white(1)
    settings: dict[str, Any] = {**STFT, "window": name}
    loss = MagnitudeSpectrumApproximationLoss(**settings)
    expected = spectrum(speech, window).abs().square().mean()
    torch.testing.assert_close(loss(torch.zeros(1, BINS, FRAMES), speech, speech, full(speech)), expected)
    assert loss.state_dict() == {}


def test_an_unknown_window_is_refused_with_the_choices() -> None:
    wrong: dict[str, Any] = {**STFT, "window": "hamming"}
    with pytest.raises(ConfigError, match=r"'hamming'.*hann, sqrt_hann, sine"):
        ComponentLoss(**wrong)


# What all of them guarantee


def test_a_mask_of_another_stft_is_refused_with_both_shapes(loss: nn.Module) -> None:
    for shape in ((2, BINS, FRAMES), (1, BINS - 1, FRAMES), (1, BINS, FRAMES + 1)):
        both = rf"\({', '.join(map(str, shape))}\).*\(1, {BINS}, {FRAMES}\)"
        with pytest.raises(ValueError, match=rf"{both}.*n_fft.*hop_length"):
            value(loss, torch.ones(*shape), white(1), white(2))


def test_signals_of_other_shapes_are_refused(loss: nn.Module) -> None:
    with pytest.raises(ValueError, match=r"\(B, [1S], T\)"):
        value(loss, random_mask(0), white(1)[0], white(2)[0])
    with pytest.raises(ValueError, match="lengths"):
        value(loss, random_mask(0, 2), white(1, items=2), white(2, items=2), torch.tensor([T]))


@pytest.mark.parametrize("speech_level", [0.0, 1e-7, 0.1])
@pytest.mark.parametrize("noise_level", [0.0, 1e-7, 0.1])
@pytest.mark.parametrize("gain", [0.0, 1e-6, 1.0])
def test_is_finite_on_silence_and_for_masks_of_zero(
    loss: nn.Module, speech_level: float, noise_level: float, gain: float
) -> None:
    mask = (gain * random_mask(0)).requires_grad_()
    result = value(loss, mask, white(1, speech_level), white(2, noise_level))
    result.backward()
    assert torch.isfinite(result)
    assert mask.grad is not None
    assert torch.isfinite(mask.grad).all()
    assert mask.grad.abs().max() < 100


def test_silence_costs_nothing(loss: nn.Module) -> None:
    assert value(loss, random_mask(0), torch.zeros(1, 1, T), torch.zeros(1, 1, T)).item() == 0.0


def test_the_loss_of_an_item_does_not_depend_on_the_rest_of_its_batch(loss: nn.Module) -> None:
    levels = torch.tensor([0.5, 0.01, 0.0])[:, None, None]
    mask, speech, noise = random_mask(0, 3), levels * white(1, items=3), levels * white(2, items=3)
    alone = [value(loss, mask[i : i + 1], speech[i : i + 1], noise[i : i + 1]) for i in range(3)]
    torch.testing.assert_close(value(loss, mask, speech, noise), torch.stack(alone).mean())


def test_the_loss_of_an_item_is_the_same_alone_or_padded_whatever_the_padding_holds(loss: nn.Module) -> None:
    lengths = torch.tensor([T, 1237, 1, 0])
    mask, speech, noise = random_mask(0, 4), white(1, items=4), white(2, items=4)
    alone = []
    for i, length in enumerate(lengths.tolist()):
        if length:
            item = slice(i, i + 1)
            inner = speech[item, :, :length], noise[item, :, :length]
            alone.append(value(loss, mask[item, :, : length // 40 + 1], *inner))
        speech[i, :, length:] = float("nan")
        noise[i, :, length:] = float("nan")
        mask[i, :, length // 40 + 1 :] = float("nan")
    mask.requires_grad_()
    batch = value(loss, mask, speech, noise, lengths)
    torch.testing.assert_close(batch, torch.stack(alone).sum() / 4)  # the empty item adds nothing

    batch.backward()
    assert mask.grad is not None
    assert torch.isfinite(mask.grad).all()
    for i, length in enumerate(lengths.tolist()):
        assert torch.count_nonzero(mask.grad[i, :, length // 40 + 1 :]) == 0
    assert torch.count_nonzero(mask.grad[1]) > 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_is_float32_under_autocast_and_gives_the_mask_a_gradient(loss: nn.Module, dtype: torch.dtype) -> None:
    mask = random_mask(0, 2).to(dtype).requires_grad_()
    speech, noise = white(1, items=2), white(2, items=2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = value(loss, mask, speech, noise)
    assert result.dtype == torch.float32
    torch.testing.assert_close(result, value(loss, mask.float(), speech, noise))
    result.backward()
    assert mask.grad is not None
    assert mask.grad.abs().max() > 0


def test_gradient_steps_find_a_mask_that_separates_speech_from_noise(loss: nn.Module) -> None:
    time = torch.arange(T, dtype=torch.float64)
    speech, noise = (0.1 * torch.sin(2 * torch.pi * f * time)[None, None].float() for f in (0.1, 0.35))
    logits = torch.zeros(1, BINS, FRAMES, requires_grad=True)
    optimizer = torch.optim.Adam([logits], lr=0.3)
    for _ in range(60):
        optimizer.zero_grad()
        value(loss, torch.sigmoid(logits), speech, noise).backward()
        optimizer.step()
    mask = torch.sigmoid(logits.detach())[0, :, 5:-5].mean(-1)
    at_speech, at_noise = mask[round(0.1 * 128)].item(), mask[round(0.35 * 128)].item()
    assert at_speech > 0.8
    # Beyond a point the noise of this one bin cannot be attenuated without changing its colour.
    assert at_noise < (0.8 if isinstance(loss, ComponentLoss) and loss.beta else 0.2)
