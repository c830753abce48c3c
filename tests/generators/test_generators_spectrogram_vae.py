"""The latent variables of the variational auto-encoder: drawn in training, their mean at inference."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from bcfusion.errors import ConfigError
from bcfusion.generators.spectrogram_vae import SpectrogramVAE
from bcfusion.losses.latent import KlLoss

SIZES: dict[str, Any] = {"n_fft": 64, "hop_length": 16, "win_length": 64, "channels": (4, 6), "latent_size": 5}


def build(**changes: Any) -> SpectrogramVAE:
    torch.manual_seed(0)
    return SpectrogramVAE(**{**SIZES, **changes}).eval()


def signals(seed: int, items: int = 2, sensors: int = 1, samples: int = 800) -> Tensor:
    return 0.07 * torch.randn(items, sensors, samples, generator=torch.Generator().manual_seed(seed))


def test_parameters_at_full_size() -> None:
    with torch.device("meta"):
        one, two = SpectrogramVAE(), SpectrogramVAE(in_channels=2)
    taps = 15 * (1 * 16 + 16 * 32 + 32 * 64 + 64 * 96 + 96 * 128)  # of the encoder, and of the decoder
    encoder = taps + 4 * (16 + 32 + 64 + 96 + 128)  # bias, gain, shift and slope of each channel
    decoder = taps + 4 * (16 + 32 + 64 + 96) + 1
    latent = (128 * 9 + 1) * 128 + (64 + 1) * 128 * 9
    assert sum(p.numel() for p in one.parameters()) == encoder + decoder + latent + 2 * 257 == 855_395
    assert sum(p.numel() for p in two.parameters()) == 855_395 + 15 * 16 + 2 * 257


@pytest.mark.parametrize("samples", [1, 15, 16, 17, 333, 800])
def test_mean_and_log_variance_belong_to_the_frames_of_a_file_of_any_length(samples: int) -> None:
    with torch.no_grad():
        output = build(in_channels=2)(signals(1, sensors=2, samples=samples))
    assert output["estimate"].shape == (2, 1, samples)
    assert output["mu"].shape == output["log_var"].shape == (2, 5, samples // 16 + 1)


def test_training_draws_the_latent_variables_and_evaluation_uses_their_mean() -> None:
    model = build()
    inputs = signals(1)
    with torch.no_grad():
        assert torch.equal(model(inputs)["estimate"], model(inputs)["estimate"])
        model.train()
        first, second = model(inputs), model(inputs)
        torch.manual_seed(7)
        seeded = model(inputs)
        torch.manual_seed(7)
        again = model(inputs)
    assert torch.equal(first["mu"], second["mu"])
    assert not torch.allclose(first["estimate"], second["estimate"])
    assert torch.equal(seeded["estimate"], again["estimate"])  # the state of a run's random numbers decides


def test_latent_variables_have_the_mean_and_the_variance_of_the_encoder() -> None:
    model = build().train()
    drawn: list[Tensor] = []
    model.from_latent.register_forward_pre_hook(lambda _, inputs: drawn.append(inputs[0].transpose(1, 2)))
    with torch.no_grad():
        model.to_latent.bias[:5] = 3.0
        model.to_latent.bias[5:] = -2.0
        output = model(signals(1, items=8, samples=8000))
    (latent,) = drawn
    frames = slice(model.stft.centred, model.stft.centred + 501)
    mu, deviation = output["mu"], (0.5 * output["log_var"]).exp()
    assert 2.5 < mu.mean() < 3.5
    assert 0.3 < deviation.mean() < 0.45  # exp(-1) = 0.37
    noise = (latent[..., frames] - mu) / deviation
    assert abs(noise.mean()) < 0.03
    assert abs(noise.std() - 1.0) < 0.03


def test_the_divergence_of_a_head_that_says_nothing_is_zero() -> None:
    model = build()
    torch.nn.init.zeros_(model.to_latent.weight)
    torch.nn.init.zeros_(model.to_latent.bias)
    output = model(signals(1))
    assert KlLoss()(output["mu"], output["log_var"]).item() == 0.0
    torch.nn.init.ones_(model.to_latent.bias)
    output = model(signals(1))
    assert KlLoss()(output["mu"], output["log_var"]).item() > 0.5


def test_the_divergence_reaches_all_of_the_encoder_and_none_of_the_decoder() -> None:
    model = build().train()
    output = model(signals(1))
    KlLoss()(output["mu"], output["log_var"]).backward()
    for part in (model.to_latent, model.encoder, model.norm):
        assert all(p.grad is not None and p.grad.isfinite().all() for p in part.parameters())
    assert all(p.grad.any() for p in model.to_latent.parameters() if p.grad is not None)
    assert all(p.grad is None for part in (model.from_latent, model.decoder) for p in part.parameters())


def test_the_estimate_reaches_the_variance_in_training_only() -> None:
    variance = slice(5, 10)  # rows of the head
    for train, reached in ((True, True), (False, False)):
        model = build().train(train)
        model(signals(1))["estimate"].square().mean().backward()
        gradient = model.to_latent.weight.grad
        assert gradient is not None
        assert bool(gradient[variance].any()) is reached


def test_the_log_variance_is_bounded() -> None:
    model = build(log_var_bound=2.0)
    torch.nn.init.constant_(model.to_latent.bias, 100.0)
    assert model(signals(1))["log_var"].max() <= 2.0


def test_a_decoder_of_zeros_returns_the_sensor_with_a_gain_and_the_floor() -> None:
    model = build(in_channels=2, skip_channel=0, floor=1e-6)
    torch.nn.init.zeros_(model.decoder[-1].weight)
    inputs = signals(1, sensors=2)
    with torch.no_grad():
        torch.testing.assert_close(model(inputs)["estimate"], inputs[:, :1], atol=1e-4, rtol=0)
    model.decoder[-1].bias.data.fill_(0.5)  # a natural logarithm
    with torch.no_grad():
        expected = torch.tensor(0.5).exp() * inputs[:, :1]
        torch.testing.assert_close(model(inputs)["estimate"], expected, atol=1e-4, rtol=0)


def test_all_of_a_mapped_magnitude_passes_through_the_latent_variables() -> None:
    model = build(head="mapping")
    torch.nn.init.zeros_(model.from_latent.weight)
    real = torch.randn(1, 1, 33, 20, generator=torch.Generator().manual_seed(1)).abs() + 0.1
    with torch.no_grad():
        first, second = (model.spectrum(level * real, 0.0 * real)[0][0] for level in (1.0, 7.0))
    torch.testing.assert_close(first, second, atol=1e-4, rtol=1e-4)


def test_a_gain_fills_an_empty_band() -> None:
    spectrum = torch.fft.rfft(signals(1, items=1, samples=1600))
    spectrum[..., 400:] = 0
    inputs = torch.fft.irfft(spectrum, 1600)
    inputs = inputs + 1e-6 * signals(2, items=1, samples=1600)  # a phase; nobody hears -140 dB
    model = build()
    torch.nn.init.zeros_(model.decoder[-1].weight)
    model.decoder[-1].bias.data.fill_(6.0)
    with torch.no_grad():
        filled = torch.fft.rfft(model(inputs)["estimate"]).abs()[..., 450:]
    assert filled.mean() > 1e3 * torch.fft.rfft(inputs).abs()[..., 450:].mean()


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"causal": True}, "causal=True is impossible"),
        ({"n_fft": 60, "win_length": 32}, "n_fft=60 must be a multiple of 8"),
        ({"channels": ()}, r"channels=\[\]"),
        ({"kernel_size": (4, 3)}, "two odd numbers"),
        ({"kernel_size": (3,)}, "two odd numbers"),
        ({"latent_size": 0}, "latent_size=0"),
        ({"log_var_bound": 0.0}, "log_var_bound=0.0"),
        ({"floor": 0.0}, "floor=0.0"),
        ({"init_output_scale": 0.0}, "init_output_scale=0.0"),
        ({"head": "mask"}, "head='mask'"),
    ],
)
def test_arguments_out_of_range_are_refused(changes: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        build(**changes)
