"""The statistics of the BiLSTM mapping, its scale, its phase, and the loss in its own domain."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from bcfusion.contracts import Batch
from bcfusion.errors import ConfigError, DataError
from bcfusion.generators.bilstm_mapping import BiLSTMMapping
from bcfusion.losses.log_magnitude import LogMagnitudeMseLoss

SIZES: dict[str, Any] = {"n_fft": 128, "hop_length": 32, "win_length": 128}


def build(**changes: Any) -> BiLSTMMapping:
    torch.manual_seed(0)
    return BiLSTMMapping(**{**SIZES, "hidden_size": 8, **changes}).eval()


def signals(seed: int, items: int = 3, sensors: int = 1, samples: int = 2000) -> Tensor:
    noise = torch.randn(items, sensors, samples + 4, generator=torch.Generator().manual_seed(seed))
    return 0.05 * torch.nn.functional.avg_pool1d(noise, 5, 1)


def batch(seed: int, sensors: int = 1) -> Batch:
    lengths = torch.tensor([2000, 1500, 700])
    valid = torch.arange(2000) < lengths.view(-1, 1, 1)
    return Batch(inputs=signals(seed, sensors=sensors) * valid, target=signals(seed + 50) * valid, lengths=lengths)


def log_magnitude(signal: Tensor, floor: float = 1e-2) -> Tensor:
    """Log magnitudes ``(F, N)`` of one signal ``(T,)``, by torch's own STFT."""
    spectrum = torch.stft(
        signal, 128, 32, window=torch.hann_window(128), pad_mode="constant", return_complex=True, center=True
    )
    return 0.5 * (spectrum.abs().square() + floor**2).log()


def test_parameters_at_full_size() -> None:
    with torch.device("meta"):
        one, two = BiLSTMMapping(), BiLSTMMapping(in_channels=2)
    # two layers of two directions with four gates, two biases each, then the linear layer
    layers = 2 * 4 * 256 * (257 + 256 + 2) + 2 * 4 * 256 * (512 + 256 + 2)
    assert sum(p.numel() for p in one.parameters()) == layers + 257 * 513 == 2_763_521
    assert sum(p.numel() for p in two.parameters()) == 2_763_521 + 2 * 4 * 256 * 257


def test_fit_measures_mean_and_deviation_over_the_valid_frames_of_sensors_and_air() -> None:
    model = build(in_channels=2)
    batches = [batch(1, sensors=2), batch(2, sensors=2)]
    model.fit(batches)
    levels: list[list[Tensor]] = [[], [], []]
    for given in batches:
        for i, length in enumerate(given["lengths"].tolist()):
            largest = given["inputs"][i].abs().max()
            # the frames of the padded item, as the network sees it, up to its last sample
            for frames, signal in zip(levels, [*given["inputs"][i], given["target"][i, 0]], strict=True):
                frames.append(log_magnitude(signal / largest)[:, : length // 32 + 1])
    body, noisy, air = (torch.cat(values, dim=1).double() for values in levels)
    for values, mean, deviation in (
        (body, model.input_mean[0], model.input_deviation[0]),
        (noisy, model.input_mean[1], model.input_deviation[1]),
        (air, model.output_mean, model.output_deviation),
    ):
        torch.testing.assert_close(mean, values.mean(1, keepdim=True).float(), atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(deviation, values.std(1, keepdim=True, correction=0).float(), atol=1e-4, rtol=1e-3)


def test_a_constant_bin_keeps_a_least_deviation() -> None:
    model = build(least_deviation=0.3)
    silent = batch(1)
    silent["target"] = torch.zeros_like(silent["target"])
    model.fit([silent])
    assert torch.equal(model.output_deviation, torch.full_like(model.output_deviation, 0.3))


def test_a_training_set_without_statistics_is_refused() -> None:
    broken = batch(1)
    broken["target"][0, 0, 5] = torch.nan
    for batches, problem in (([], "holds no batches"), ([broken], "not finite")):
        with pytest.raises(DataError, match=problem):
            build().fit(batches)


def test_the_estimate_scales_with_the_sensor() -> None:
    model = build()
    model.fit([batch(1)])
    inputs = signals(9)
    with torch.no_grad():
        torch.testing.assert_close(
            model(0.01 * inputs)["estimate"], 0.01 * model(inputs)["estimate"], atol=1e-7, rtol=1e-3
        )


def test_a_network_with_zero_output_returns_the_average_of_the_air_microphone() -> None:
    """Denormalised by the statistics of air, zero is the mean air spectrum, whatever that of the sensor is."""
    model = build()
    model.fit([batch(1)])
    torch.nn.init.zeros_(model.linear.weight)
    torch.nn.init.zeros_(model.linear.bias)
    with torch.no_grad():
        levels = model(signals(9))["log_magnitude"]
    torch.testing.assert_close(levels, model.output_mean.expand_as(levels))


@pytest.mark.parametrize("phase", ["input", "griffin_lim"])
def test_the_correct_log_magnitude_and_phase_give_the_signal(phase: str) -> None:
    """With an identity instead of the network, phase, scale and overlap-add change nothing."""
    model = build(phase=phase, floor=1e-6, iterations=3)
    model.recurrent = torch.nn.Identity()  # type: ignore[assignment]
    model.linear = torch.nn.Identity()  # type: ignore[assignment]
    inputs = signals(4)
    with torch.no_grad():
        torch.testing.assert_close(model(inputs)["estimate"], inputs, atol=1e-5, rtol=0)


def inconsistency(model: BiLSTMMapping, inputs: Tensor) -> float:
    """Relative distance of the estimate's own magnitudes from the desired ones, away from the ends of the file."""
    with torch.no_grad():
        output = model(inputs)
    wanted = output["log_magnitude"].exp()
    own = torch.stack(
        [
            log_magnitude(x / s, 1e-6).exp()
            for x, s in zip(output["estimate"][:, 0], output["scale"][:, 0, 0], strict=True)
        ]
    )
    inside = slice(6, -6)
    return float((own - wanted)[..., inside].norm() / wanted[..., inside].norm())


def test_griffin_lim_makes_phase_and_magnitude_agree_in_evaluation_only() -> None:
    inputs = signals(4)
    plain, iterated = build(), build(phase="griffin_lim", iterations=30)
    for model in (plain, iterated):
        model.fit([batch(1)])
        model.linear.weight.data.mul_(10.0)  # a spectrum that the sensor's phase does not suit
    assert inconsistency(iterated, inputs) < 0.8 * inconsistency(plain, inputs)
    iterated.train()
    plain.train()
    with torch.no_grad():
        assert torch.equal(iterated(inputs)["estimate"], plain(inputs)["estimate"])


def test_the_loss_is_the_squared_error_of_normalised_log_magnitudes() -> None:
    model = build()
    model.fit([batch(1), batch(2)])
    given = batch(3)
    loss = LogMagnitudeMseLoss(**SIZES, floor=model.floor)
    output = model(given["inputs"])
    value = loss(output["log_magnitude"], output["deviation"], output["scale"], given["target"], given["lengths"])
    expected = []
    for i, length in enumerate(given["lengths"].tolist()):
        frames = length // 32 + 1
        target = log_magnitude(given["target"][i, 0] / output["scale"][i, 0, 0])[:, :frames]
        normalised = [
            (x - model.output_mean) / model.output_deviation for x in (target, output["log_magnitude"][i, :, :frames])
        ]
        expected.append((normalised[0] - normalised[1]).square().mean())
    torch.testing.assert_close(value, torch.stack(expected).mean(), atol=1e-5, rtol=1e-4)
    value.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.any() for p in model.parameters())


def test_the_loss_is_zero_for_the_targets_log_magnitude_whatever_the_padding_holds() -> None:
    model = build()
    given = batch(3)
    loss = LogMagnitudeMseLoss(**SIZES, floor=model.floor)
    scale = given["inputs"].abs().amax((1, 2), keepdim=True)
    own = torch.stack([log_magnitude(x / s) for x, s in zip(given["target"][:, 0], scale[:, 0, 0], strict=True)])
    own[2, :, 700 // 32 + 1 :] = torch.nan
    own.requires_grad_()
    value = loss(own, torch.ones_like(own), scale, given["target"], given["lengths"])
    assert float(value.detach()) == pytest.approx(0.0, abs=1e-8)
    value.backward()
    assert own.grad is not None
    assert own.grad.isfinite().all()


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"phase": "zero"}, "phase='zero'"),
        ({"floor": 0.0}, "floor=0.0"),
        ({"least_deviation": 0.0}, "least_deviation=0.0"),
        ({"iterations": 0}, "iterations=0"),
    ],
)
def test_arguments_out_of_range_are_refused(changes: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        build(**changes)
    with pytest.raises(ConfigError, match="floor=0"):
        LogMagnitudeMseLoss(floor=0.0)
