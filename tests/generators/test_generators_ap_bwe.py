"""AP-BWE: its size and reach, its two streams, and amplitude and phase initially and in an empty band."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bcfusion.errors import ConfigError
from bcfusion.generators.ap_bwe import ApBwe

SMALL: dict[str, Any] = {"n_fft": 320, "channels": 16, "blocks": 2}
BINS = 161


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def silence_the_heads(model: ApBwe) -> None:
    for layer in (model.to_amplitude, model.to_cosine, model.to_sine):
        nn.init.zeros_(layer.weight)


def test_it_has_the_published_number_of_parameters() -> None:
    with torch.device("meta"):
        model = ApBwe()
    assert sum(p.numel() for p in model.parameters()) == 29_760_515  # 29.76 M


def test_it_looks_27_frames_ahead() -> None:
    with torch.device("meta"):
        model = ApBwe()
    assert model.delay == (320 - 1) + 27 * 80 == 2479


def test_it_matches_the_two_streams_of_the_paper() -> None:
    torch.manual_seed(0)
    model = ApBwe(**SMALL, phase_skip=False, init_output_scale=1.0).double()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)  # biases and gains count too
    real, imag = noise(2, 1, BINS, 12).double(), noise(2, 1, BINS, 12, seed=1).double()
    p = dict(model.named_parameters())

    def conv(x: Tensor, name: str, groups: int = 1) -> Tensor:
        weight = p[f"{name}.weight"]
        return F.conv1d(x, weight, p[f"{name}.bias"], padding=weight.shape[-1] // 2, groups=groups)

    def norm(x: Tensor, name: str) -> Tensor:
        return F.layer_norm(x.mT, [16], p[f"{name}.weight"], p[f"{name}.bias"], 1e-6).mT

    spectrum = torch.complex(real, imag)[:, 0]
    log_amplitude = 0.5 * (spectrum.abs().square() + 1e-8).log()
    streams = {"amplitude": log_amplitude, "phase": spectrum.angle()}
    h = {name: norm(conv(x, f"{name}.start.0"), f"{name}.start.1") for name, x in streams.items()}
    for n in range(2):
        h["amplitude"] = h["amplitude"] + h["phase"]
        h["phase"] = h["phase"] + h["amplitude"]
        for name in streams:
            block = f"{name}.blocks.{n}"
            y = norm(conv(h[name], f"{block}.depthwise", groups=16), f"{block}.norm")
            h[name] = h[name] + p[f"{block}.scale"] * conv(F.gelu(conv(y, f"{block}.widen")), f"{block}.narrow")
    h = {name: norm(x, f"{name}.end") for name, x in h.items()}
    amplitude = (log_amplitude + conv(h["amplitude"], "to_amplitude")).exp()
    phase = torch.atan2(conv(h["phase"], "to_sine"), conv(h["phase"], "to_cosine"))

    (ours_real, ours_imag), provided = model.spectrum(real, imag)
    clear = conv(h["phase"], "to_cosine").square() + conv(h["phase"], "to_sine").square() > 0.05
    assert clear.float().mean() > 0.3, "only bins whose two numbers are far from 0, where there is no angle"
    torch.testing.assert_close(ours_real[clear], (amplitude * phase.cos())[clear], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(ours_imag[clear], (amplitude * phase.sin())[clear], rtol=1e-3, atol=1e-4)
    assert torch.equal(torch.view_as_complex(provided["spectrum"]), torch.complex(ours_real, ours_imag))


def test_the_untrained_network_returns_nearly_its_input() -> None:
    torch.manual_seed(0)
    x = 0.07 * noise(1, 1, 4000)
    with torch.inference_mode():
        assert (ApBwe(**SMALL)(x)["estimate"] - x).std() < 0.2 * x.std()
        random = ApBwe(**SMALL, phase_skip=False)(x)["estimate"]
        assert (random - x).std() > 0.7 * x.std(), "the paper's phases start at random"


def test_without_output_of_the_streams_amplitude_and_phase_are_those_of_one_sensor() -> None:
    model, x = ApBwe(in_channels=2, skip_channel=0, **SMALL), 0.07 * noise(1, 2, 4000)
    silence_the_heads(model)
    with torch.inference_mode():
        torch.testing.assert_close(model(x)["estimate"], x[:, :1], atol=1e-4, rtol=1e-3)


def test_an_empty_band_is_filled_from_the_floor_up() -> None:
    model = ApBwe(**SMALL, floor=1e-4)
    silence_the_heads(model)
    assert model.to_amplitude.bias is not None
    assert model.to_sine.bias is not None
    nn.init.constant_(model.to_amplitude.bias, math.log(1e3))
    nn.init.constant_(model.to_sine.bias, 1.0)
    empty = torch.zeros(1, 1, BINS, 5)
    with torch.no_grad():
        (real, imag), _ = model.spectrum(empty, empty)
    torch.testing.assert_close(real, torch.zeros_like(real))
    torch.testing.assert_close(imag, torch.full_like(imag, 0.1), atol=1e-6, rtol=1e-4)


def test_each_stream_depends_on_the_other() -> None:
    torch.manual_seed(0)
    model, sensor = ApBwe(**SMALL), torch.complex(noise(1, 1, BINS, 6), noise(1, 1, BINS, 6, seed=1))

    def estimate(spectrum: Tensor) -> Tensor:
        with torch.no_grad():
            (real, imag), _ = model.spectrum(spectrum.real, spectrum.imag)
        return torch.complex(real, imag)

    louder = estimate(3 * sensor) / estimate(sensor)  # changes amplitudes, not phases
    assert louder.angle().abs().mean() > 1e-3
    inverted = estimate(-sensor) / estimate(sensor)  # changes phases, not amplitudes
    assert inverted.abs().log().abs().mean() > 1e-3


def test_the_exchange_does_not_make_the_streams_equal() -> None:
    model = ApBwe(**SMALL).double()
    for stream in (model.amplitude, model.phase):
        for block in stream.blocks:
            nn.init.zeros_(block.get_parameter("scale"))  # blocks that add nothing leave only the exchange
    ends: list[Tensor] = []
    for stream in (model.amplitude, model.phase):
        stream.end.register_forward_pre_hook(lambda _module, inputs: ends.append(inputs[0].detach()))
    model(0.07 * noise(1, 1, 800).double())
    assert (ends[0] - ends[1]).abs().max() > 0.01


def test_silence_has_a_finite_gradient_at_the_input_too() -> None:
    x = torch.zeros(1, 1, 1600, requires_grad=True)
    ApBwe(**SMALL)(x)["estimate"].square().sum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()


def test_sizes_that_do_not_fit_are_refused_all_at_once() -> None:
    with pytest.raises(ConfigError, match=r"(?s)blocks=0.*kernel_size=6.*floor=0"):
        ApBwe(blocks=0, kernel_size=6, floor=0.0)
    with pytest.raises(ConfigError, match="multiple of 160"):
        ApBwe(win_length=240)
