"""Networks with the edges, frames and spectra of published checkpoints: they differ from ours where they should.

That they compute what the public programs compute is in tests/importing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from bcfusion.errors import ConfigError
from bcfusion.generators.ap_bwe import ApBwe
from bcfusion.generators.conv_tasnet import ConvTasNet
from bcfusion.generators.dccrn import DCCRN
from bcfusion.generators.eben import EBEN
from bcfusion.generators.hifigan import HifiGan
from bcfusion.generators.hifigan_plus import HifiGanPlus
from bcfusion.losses.generator_stft import GeneratorStft
from bcfusion.nn.network import WaveformNetwork, estimate_of
from bcfusion.nn.pqmf import PQMF

Build = Callable[..., WaveformNetwork]


def conv_tasnet(**arguments: Any) -> ConvTasNet:
    sizes = {"filters": 16, "bottleneck_channels": 6, "hidden_channels": 8, "blocks": 3, "repeats": 2}
    return ConvTasNet(**{**sizes, "norm": "channel_LN", "edge_segments": False, **arguments})


def dccrn(**arguments: Any) -> DCCRN:
    sizes: dict[str, Any] = {"channels": (4, 4, 8), "lstm_units": 8, "complex_lstm": True, "complex_dense": True}
    sizes |= {"window": "sqrt_hann", "activation_per_part": True, "inner_frames": True}
    return DCCRN(**{**sizes, **arguments})


def ap_bwe(**arguments: Any) -> ApBwe:
    sizes = {"n_fft": 128, "hop_length": 16, "win_length": 64, "channels": 8, "blocks": 2, "phase_skip": False}
    return ApBwe(**{**sizes, "published_spectra": True, **arguments})


def hifigan(**arguments: Any) -> HifiGan:
    sizes: dict[str, Any] = {"channels": 16, "residual_kernel_sizes": [3], "dilations": [[1, 2]], "n_mels": 20}
    sizes |= {"rates": [8, 4], "kernel_sizes": [16, 8], "win_length": 256, "n_fft": 512}
    return HifiGan(**{**sizes, "published_mel": True, **arguments})


def hifigan_plus(**arguments: Any) -> HifiGanPlus:
    return HifiGanPlus(**{"channels": 8, "layers": 3, "pad_file": True, "input_skip": False, **arguments})


VARIANTS: dict[str, Build] = {each.__name__: each for each in (conv_tasnet, dccrn, ap_bwe, hifigan, hifigan_plus)}


@pytest.fixture(params=VARIANTS.values(), ids=list(VARIANTS))
def build(request: pytest.FixtureRequest) -> Build:
    torch.manual_seed(0)
    made: Build = request.param
    return made


def noise(*shape: int) -> Tensor:
    return 0.07 * torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def test_any_length_and_number_of_sensors_is_taken(build: Build) -> None:
    for sensors in (1, 2):
        model = build(in_channels=sensors).eval()
        for samples in (1, 2, 17, model.hop, 3 * model.hop + 1, 1234):
            with torch.inference_mode():
                estimate = estimate_of(model(noise(2, sensors, samples)))
            assert estimate.shape == (2, 1, samples)
            assert estimate.isfinite().all()


def test_silence_gives_finite_output_and_gradients(build: Build) -> None:
    model = build()
    inputs = torch.zeros(1, 1, 2000, requires_grad=True)
    estimate = estimate_of(model(inputs))
    estimate.square().mean().backward()
    assert estimate.isfinite().all()
    assert inputs.grad is not None
    assert inputs.grad.isfinite().all()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_no_output_depends_on_an_input_later_than_the_delay(build: Build) -> None:
    model = build().eval()
    assert model.delay is not None
    assert not model.causal
    start = 4000
    x = noise(2, 1, 8000)
    x[1, :, :start] = x[0, :, :start]  # no NaN: the transforms multiply what lies beside the window by zero
    with torch.inference_mode():
        estimate = estimate_of(model(x))
    changed = estimate[0, 0] != estimate[1, 0]
    assert changed[start:].all()
    assert start - int(changed.int().argmax()) <= model.delay


def test_an_item_does_not_depend_on_its_neighbours(build: Build) -> None:
    model, x = build().eval(), noise(3, 1, 2000)
    with torch.inference_mode():
        torch.testing.assert_close(estimate_of(model(x))[1:2], estimate_of(model(x[1:2])), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("build", "off", "reach"),
    [
        (conv_tasnet, {"edge_segments": True}, 8 * 2 * (1 + 2 + 4) + 16),
        (hifigan_plus, {"pad_file": False}, 2 * (1 + 3 + 9)),
    ],
    ids=["conv_tasnet", "hifigan_plus"],
)
def test_far_from_the_ends_of_the_file_nothing_changes(build: Build, off: dict[str, Any], reach: int) -> None:
    """And near them something does."""
    published = build().eval()
    own = build(**off).eval()
    with torch.no_grad():
        for parameter in published.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    own.load_state_dict(published.state_dict())
    x = noise(1, 1, 4000)
    with torch.inference_mode():
        error = (published(x) - own(x)).abs()[0, 0]
    assert error[reach:-reach].max() < 1e-6
    assert error[:reach].max() > 1e-5
    assert error[-reach:].max() > 1e-5


def test_a_transform_of_inner_frames_and_its_transpose_return_the_signal() -> None:
    """An additive head with a network of zeros returns its input, but for the highest bin and the incomplete ends."""
    model = dccrn(head="additive").eval()
    with torch.no_grad():
        last = model.decoder[-1].conv.layer
        last.weight.zero_()
        last.bias.zero_()
    x = torch.sin(0.2 * torch.arange(3000.0)).view(1, 1, -1)
    with torch.inference_mode():
        error = (model(x) - x)[..., 300:-300]
    assert error.abs().max() < 1e-4


def test_the_mask_of_inner_frames_is_on_the_grid_of_the_losses() -> None:
    """Frames that are centred on multiples of the hop, the first on sample 0; those outside the file are empty."""
    model, samples = dccrn(head="polar_mask").eval(), 4000
    with torch.inference_mode():
        output = model(noise(1, 1, samples))
    assert isinstance(output, dict)
    mask = output["mask"]
    assert mask.shape == (1, 257, samples // 100 + 1)
    empty = (mask == 0).all(1)[0]
    assert empty[:2].all()
    assert empty[-2:].all()
    assert not empty[2:-2].any()
    assert (mask[:, -1] == 0).all(), "the highest bin"


def test_the_spectrum_that_ap_bwe_provides_is_that_of_its_output_for_the_losses() -> None:
    """A network that returns its input provides the spectrum of its input, in the frames of the losses."""
    model = ap_bwe().eval()
    model.spectrum = lambda real, imag: ((real[:, 0], imag[:, 0]), {})  # type: ignore[method-assign]
    x = noise(1, 1, 1600)
    with torch.inference_mode():
        output = model(x)
    torch.testing.assert_close(output["estimate"], x, rtol=0, atol=1e-6)
    transform = GeneratorStft(128, 16, 64, "hann")
    frames = transform.frames_first(output["spectrum"], "spectrum", x)
    inner = slice(2, -2)  # at the ends the file is mirrored here, and continued by zeros there
    torch.testing.assert_close(torch.view_as_complex(frames)[:, inner], transform(x[:, 0])[:, inner], rtol=0, atol=1e-5)


def test_complex_layers_of_dccrn_need_a_complex_lstm_and_inner_frames_a_whole_file() -> None:
    with pytest.raises(ConfigError, match="complex_dense=True needs complex_lstm=True"):
        dccrn(complex_lstm=False)
    with pytest.raises(ConfigError, match="inner_frames=True is impossible with causal=True"):
        dccrn(causal=True)
    with pytest.raises(ConfigError, match="edge_segments=False is impossible with causal=True"):
        conv_tasnet(causal=True)


def test_a_relu_after_the_encoder_leaves_no_negative_coefficient() -> None:
    model = conv_tasnet(encoder_activation="relu").eval()
    seen: list[Tensor] = []
    model.bottleneck.register_forward_hook(lambda _module, inputs, _output: seen.append(inputs[0]))
    with torch.inference_mode():
        model(noise(1, 1, 400))
    assert seen[0].min() == 0
    with pytest.raises(ConfigError):
        conv_tasnet(encoder_activation="tanh")


def test_the_published_mel_has_a_floor_instead_of_a_sum_with_it() -> None:
    own, published = hifigan(published_mel=False), hifigan()
    seen: dict[str, Tensor] = {}
    for name, model in (("own", own), ("published", published)):
        model.vocoder.register_forward_hook(lambda _m, inputs, _o, name=name: seen.update({name: inputs[0]}))
        with torch.inference_mode():
            model(torch.zeros(1, 1, 320))
    assert seen["own"].abs().max() < 0.2, "silence is 0"
    torch.testing.assert_close(seen["published"], torch.full_like(seen["published"], -11.512925), rtol=0, atol=1e-4)


def test_filters_of_another_gain_change_the_level_in_their_bands_and_once_more_at_the_output() -> None:
    x = noise(1, 1, 1024)
    one, half = PQMF(4, 32), PQMF(4, 32, gain=0.5)
    torch.testing.assert_close(half.analysis(x), 0.5 * one.analysis(x))
    torch.testing.assert_close(half.synthesis(half.analysis(x)), 0.25 * one.synthesis(one.analysis(x)))
    assert EBEN(channels=2, latent_channels=2, filter_gain=0.5).pqmf.analysis_filters.abs().max() == pytest.approx(
        0.5 * float(one.analysis_filters.abs().max())
    )
    with pytest.raises(ConfigError, match="gain=0"):
        PQMF(4, 32, gain=0)
