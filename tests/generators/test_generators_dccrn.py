from __future__ import annotations

from typing import Any

import pytest
import torch
from published import assert_published, fill, signal
from torch import Tensor

from bcfusion.errors import ConfigError
from bcfusion.generators.dccrn import DCCRN, ComplexBottleneck
from bcfusion.losses.masking import TruncatedPhaseSensitiveLoss

SMALL: dict[str, Any] = {"channels": (4, 4, 8, 8, 8, 8), "lstm_units": 8}
WIDE = (32, 64, 128, 256, 256, 256)


def parameters(**arguments: Any) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in DCCRN(**arguments).parameters())


def small(**arguments: Any) -> DCCRN:
    torch.manual_seed(0)
    return DCCRN(**SMALL, **arguments).eval()


def waveform(output: Tensor | dict[str, Tensor]) -> Tensor:
    return output["estimate"] if isinstance(output, dict) else output


def tone(frequency: float, samples: int = 8000) -> Tensor:
    return 0.1 * torch.sin(2 * torch.pi * frequency / 16000 * torch.arange(samples)).view(1, 1, -1)


def level(signal: Tensor, low: float, high: float) -> float:
    """Root mean square of a band, in Hz, away from the ends of the file."""
    inner = signal[0, 0, 1000:-1000] * torch.hann_window(signal.shape[-1] - 2000)
    spectrum = torch.fft.rfft(inner).abs() / len(inner)
    hertz = torch.linspace(0, 8000, len(spectrum))
    return float(spectrum[(hertz >= low) & (hertz < high)].square().sum().sqrt())


def test_dccrn_e_has_3742349_parameters() -> None:
    assert parameters() == 3_742_349  # published: 3.742 M
    assert parameters(causal=True) == 3_742_349


def test_dccrn_cl_has_3671053_parameters() -> None:
    assert parameters(channels=WIDE, complex_lstm=True) == 3_671_053  # published: 3.671 M


# The authors' public code (complex LSTM with a projection) in float64, with the weights of `fill`.
PUBLISHED_CL = [
    4.97202345, 0.0749786353, 0.396363378, -0.367017044, -0.417771735, -0.575260437, -0.0834091702, -0.142333665,
    0.113969025, 0.00123070199, -0.599075629, -0.261281015, -0.24764655, 0.0825402335, 0.191915726, -0.345576806,
    0.125898785,
]  # fmt: skip


def test_the_bottleneck_of_dccrn_cl_computes_what_the_public_code_computes() -> None:
    bottleneck = ComplexBottleneck(features=12, units=8, layers=2).double()
    fill(bottleneck.parameters())
    with torch.inference_mode():
        assert_published(bottleneck(signal(2, 12, 9, level=1.0)), PUBLISHED_CL)


def test_dccrn_e_with_the_channels_of_dccrn_cl_would_have_a_million_more() -> None:
    assert parameters(channels=WIDE) == 4_719_629


def test_a_second_sensor_adds_one_complex_kernel_to_each_first_channel_and_nothing_else() -> None:
    assert parameters(in_channels=2) - parameters() == 16 * 5 * 2


@pytest.mark.parametrize(("causal", "delay"), [(False, 999), (True, 399)])
def test_the_decoder_looks_one_frame_ahead_at_each_level_unless_causal(causal: bool, delay: int) -> None:
    model, start = small(causal=causal, head="mapping"), 2000  # the first sample of a hop: the farthest from its end
    assert model.delay == delay
    clean = 0.07 * torch.randn(1, 1, 4000)
    for ahead, depends in ((delay, True), (delay + 1, False)):
        poisoned = clean.clone()
        poisoned[..., start + ahead] = torch.nan
        with torch.inference_mode():
            assert bool(waveform(model(poisoned))[0, 0, start].isnan()) is depends


@pytest.mark.parametrize("head", ["mask", "polar_mask"])
def test_a_mask_leaves_an_empty_band_empty_and_mapping_fills_it(head: Any) -> None:
    low = tone(300) + tone(700)
    with torch.inference_mode():  # in training mode, in which batch norm sets the level of an untrained network
        masked = waveform(small(head=head).train()(low))
        mapped = waveform(small(head="mapping").train()(low))
    assert level(low, 2000, 8000) < 1e-4 * level(low, 100, 1000)
    assert level(masked, 100, 1000) > 0.3 * level(low, 100, 1000)
    assert level(masked, 2000, 8000) < 1e-4 * level(masked, 100, 1000)
    assert level(mapped, 2000, 8000) > 0.05 * level(mapped, 100, 1000)


def with_output_of_biases(model: DCCRN) -> DCCRN:
    with torch.no_grad():
        model.decoder[-1].get_parameter("conv.layer.weight").zero_()
    return model


@pytest.mark.parametrize(("head", "value"), [("mask", 1.0), ("polar_mask", 0.7615942)])  # tanh 1
def test_a_mask_starts_around_one_and_removes_bin_0(head: Any, value: float) -> None:
    model = with_output_of_biases(small(head=head, in_channels=2, skip_channel=0))
    x = torch.cat([tone(1000), tone(3000)], dim=1)
    with torch.inference_mode():
        output = model(x)
        offset = waveform(model(torch.ones(1, 2, 8000)))
    assert isinstance(output, dict)
    # away from the ends, where a tone that starts or stops abruptly has power in bin 0
    torch.testing.assert_close(output["estimate"][..., 400:-400], value * x[:, :1, 400:-400], atol=1e-5, rtol=0)
    assert output["mask"].shape == (1, 257, 81)
    torch.testing.assert_close(output["mask"][:, 1:], torch.full((1, 256, 81), value))
    assert not output["mask"][:, 0].any()
    # a constant lies in bin 0 and, through the window, in a few bins above it: most of it is removed
    assert float(offset[..., 1000:-1000].abs().max()) < 0.8 * value


def test_additive_starts_from_the_chosen_sensor_including_bin_0() -> None:
    x = 0.1 * torch.randn(1, 2, 3000) + 0.1
    for skip in (0, -1):
        model = with_output_of_biases(small(head="additive", in_channels=2, skip_channel=skip))
        torch.testing.assert_close(waveform(model(x)), x[:, skip].unsqueeze(1), atol=1e-5, rtol=0)


def test_only_masks_are_provided_and_losses_take_them() -> None:
    assert small(head="mapping").provides == small(head="additive").provides == ()
    model = small(head="polar_mask")
    assert model.provides == DCCRN.provides == ("mask",)
    x = 0.07 * torch.randn(2, 1, 4321)
    output = model(x)
    assert isinstance(output, dict)
    loss = TruncatedPhaseSensitiveLoss(n_fft=512, hop_length=100, win_length=400)
    assert float(loss(output["mask"], x, x, torch.tensor([4321, 3000])).detach()) > 0
    assert 0 <= float(output["mask"].detach().min()) <= float(output["mask"].detach().max()) <= 1


def test_the_mask_is_the_ratio_of_output_to_input_magnitudes() -> None:
    model, spectra = small(head="polar_mask"), []
    model.istft.register_forward_pre_hook(lambda _layer, parts: spectra.append(torch.complex(*parts).abs()))
    x = 0.07 * torch.randn(1, 1, 4000)
    with torch.inference_mode():
        output = model(x)
        before = torch.stft(x[:, 0], 512, 100, 400, torch.hann_window(400), pad_mode="constant", return_complex=True)
    assert isinstance(output, dict)
    after = spectra[0][..., model.stft.centred :][..., :41]
    assert output["mask"].std() > 0.01, "a constant mask would fit any alignment"
    torch.testing.assert_close(output["mask"] * before.abs(), after, atol=1e-4, rtol=1e-3)


def test_the_untrained_output_is_below_the_spectrum_of_speech_and_not_far_below() -> None:
    torch.manual_seed(0)
    x = 0.07 * torch.randn(2, 1, 8000)  # -23 dBFS
    sizes: list[dict[str, Any]] = [{}, {"channels": WIDE, "complex_lstm": True}]
    for arguments in sizes:
        with torch.inference_mode():
            y = waveform(DCCRN(head="mapping", **arguments).train()(x))
        assert 0.05 * x.std() < y.std() < x.std()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"channels": (4, 5)}, "channels"),
        ({"channels": ()}, "channels"),
        ({"kernel_size": (1, 2)}, "kernel_size"),
        ({"n_fft": 480}, "n_fft=480 must be a multiple of 128"),
        ({"complex_lstm": True, "lstm_units": 3}, "lstm_units=3"),
        ({"lstm_layers": 0}, "lstm_layers=0"),
        ({"init_output_scale": 0.0}, "init_output_scale"),
        ({"head": "masks"}, "head='masks'"),
    ],
    ids=str,
)
def test_invalid_sizes_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        DCCRN(**arguments)
