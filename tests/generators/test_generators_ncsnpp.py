from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch

from bcfusion.errors import ConfigError
from bcfusion.generators.ncsnpp import Attention, NCSNpp, Resample, ResidualBlock
from bcfusion.nn.network import estimate_of
from bcfusion.objectives.bridge import Bridge
from bcfusion.objectives.paths import Flow

SMALL: dict[str, Any] = {"channels": 8, "multipliers": (1, 1, 2)}


def test_the_published_sizes_have_the_published_number_of_parameters() -> None:
    with torch.device("meta"):
        model = NCSNpp(in_channels=2, channels=128, multipliers=(1, 1, 2, 2, 2, 2, 2), blocks=2)
    assert round(sum(p.numel() for p in model.parameters()) / 1e6, 1) == 65.6


@pytest.mark.parametrize("frames", [1, 7, 16])
def test_any_number_of_frames_is_restored(frames: int) -> None:
    real = torch.randn(2, 1, 257, frames)
    (estimate, imag), _ = NCSNpp(**SMALL).spectrum(real, real)
    assert estimate.shape == imag.shape == (2, 257, frames)


def test_resampling_smooths_and_keeps_constants_and_is_half_a_bin_apart() -> None:
    flat = torch.ones(1, 2, 8, 8)
    torch.testing.assert_close(Resample(up=False)(flat)[..., 1:-1, 1:-1], torch.ones(1, 2, 2, 2))
    torch.testing.assert_close(Resample(up=True)(flat)[..., 1:-1, 1:-1], torch.ones(1, 2, 14, 14))
    impulse = torch.zeros(1, 1, 8, 8)
    impulse[0, 0, 3, 4] = 1.0
    halved = Resample(up=False)(impulse)[0, 0]  # taps 1 3 3 1 of 8 in either direction
    assert halved[1, 2] == pytest.approx(9 / 64)
    assert halved[1, 1] == pytest.approx(3 / 64)
    assert float(halved.sum()) == pytest.approx(1 / 4)


@pytest.mark.parametrize(("up", "size"), [(None, 8), (False, 4), (True, 16)])
def test_an_untrained_block_is_nearly_its_shortcut(up: bool | None, size: int) -> None:
    resample = None if up is None else Resample(up)
    block = ResidualBlock(8, 8, 4, resample).eval()
    x = torch.randn(1, 8, 8, 8)
    with torch.no_grad():
        shortcut = block.shortcut(x if resample is None else resample(x)) / 2**0.5
        y = block(x, torch.zeros(1, 4))
    assert y.shape[-2:] == (size, size)
    assert (y - shortcut).abs().max() < 0.05


def test_attention_reaches_every_bin_and_frame() -> None:
    torch.manual_seed(0)
    attention = Attention(4)
    torch.nn.init.normal_(attention.outward.weight)
    x = torch.randn(1, 4, 3, 5, requires_grad=True)
    attention(x, torch.zeros(1, 1))[0, 0, 0, 0].backward()
    assert x.grad is not None
    assert (x.grad != 0).all()


def test_it_depends_on_the_time() -> None:
    torch.manual_seed(0)
    model = NCSNpp(**SMALL).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("second.weight"):
                parameter.mul_(1000)  # as after training
    speech = 0.1 * torch.randn(2, 1, 2000)
    with torch.inference_mode():
        alone = estimate_of(model(speech))
        with model.at_time(torch.tensor([1.0, 0.3])):
            timed = estimate_of(model(speech))
    torch.testing.assert_close(timed[0], alone[0])
    assert (timed[1] - alone[1]).abs().max() > 1e-4


def test_frequencies_of_the_time_are_kept_with_the_weights() -> None:
    first, second = NCSNpp(**SMALL).eval(), NCSNpp(**SMALL).eval()
    second.load_state_dict(first.state_dict())
    speech = 0.1 * torch.randn(1, 1, 1000)
    with torch.inference_mode():
        assert torch.equal(estimate_of(first(speech)), estimate_of(second(speech)))


def test_on_a_path_it_is_no_stream() -> None:
    bridge = Bridge(partial(NCSNpp, **SMALL), Flow(), predict="velocity", steps=2).eval()
    assert (bridge.causal, bridge.delay) == (False, None)
    with torch.inference_mode():
        assert bridge(0.1 * torch.randn(2, 1, 1500)).shape == (2, 1, 1500)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_fft": 520}, "n_fft=520 must be a multiple of 32 with 5 levels"),
        ({"channels": 0}, "channels=0 must be at least 1"),
        ({"dropout": 1.0}, "dropout=1.0 must be from 0 to 0.9"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        NCSNpp(**settings)


def test_all_bins_reach_the_network_and_come_from_it(monkeypatch: pytest.MonkeyPatch) -> None:
    network = NCSNpp(channels=4, multipliers=(1, 1), n_fft=64, win_length=64, hop_length=32, head="mapping").eval()
    spectra = network.stft(torch.randn(2, 1, 640))
    monkeypatch.setattr(network, "_network", lambda x: 2 * x)  # a network that doubles what it sees
    output, _ = network.spectrum(*spectra)
    for found, seen in zip(output, spectra, strict=True):
        torch.testing.assert_close(found, 2 * seen[:, 0])
