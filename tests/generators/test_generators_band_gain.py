"""What band gains do before and after training: level, silence, streams, fusion, excitation, other sample rates."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from bcfusion.errors import ConfigError
from bcfusion.generators.band_gain import BandGain
from bcfusion.losses.log_bands import GeneratorLogBandsLoss, LogBandsLoss

SMALL: dict[str, Any] = {"hidden_size": 12, "n_feature_bands": 20, "n_bands": 10}
CAUSAL: dict[str, Any] = {"bidirectional": False, "normalisation": "running"}
#: every option of the network at least once
VARIANTS: list[dict[str, Any]] = [
    {},
    {"conv_channels": [6, 5], "cell": "lstm", "bands": "erb", "normalise_deviation": True},
    {"residual_frequency": 900.0, "num_layers": 1, "bidirectional": False},
    {"excitation": "noise", "in_channels": 2},
    {"excitation": "folding", "cutoff_frequency": 2000, "sensor_gains": False},
    {**CAUSAL, "excitation": "noise", "conv_channels": [6, 5], "residual_frequency": 900.0, "in_channels": 3},
    {**CAUSAL, "excitation": "folding", "cutoff_frequency": 4000, "cell": "lstm", "normalise_deviation": True},
]


def build(trained: bool = False, **changes: Any) -> BandGain:
    """A small network, or one whose gains vary by several dB as those of a trained one."""
    torch.manual_seed(0)
    model = BandGain(**{**SMALL, **changes}).eval()
    if trained:
        model.head.weight.data.mul_(600.0)
    return model


def signals(sensors: int = 1, samples: int = 9000, items: int = 2, seed: int = 0) -> Tensor:
    """Noise that falls towards high frequencies and comes and goes."""
    white = torch.randn(items, sensors, samples + 8, generator=torch.Generator().manual_seed(seed))
    swing = 1.1 + torch.sin(torch.arange(samples) / 700)
    return 0.05 * swing * torch.nn.functional.avg_pool1d(white, 9, 1)


def estimate(model: BandGain, x: Tensor) -> Tensor:
    with torch.inference_mode():
        output = model(x)
    assert isinstance(output, dict)
    return output["estimate"]


def relative(x: Tensor, y: Tensor) -> float:
    return float((x - y).norm() / y.norm())


def variants(trained: bool = False) -> list[tuple[BandGain, Tensor]]:
    models = [build(trained, **changes) for changes in VARIANTS]
    return [(model, signals(model.in_channels)) for model in models]


def test_parameters_at_full_size() -> None:
    def size(layers: list[int], directions: int, outputs: int) -> int:
        cells = sum(directions * 3 * 128 * (width + 128 + 2) for width in layers)
        return cells + outputs * (128 * directions + 1)

    with torch.device("meta"):
        counts = [
            sum(p.numel() for p in BandGain(**changes).parameters())
            for changes in ({}, CAUSAL, {"in_channels": 2}, {"excitation": "noise"})
        ]
    assert counts == [
        size([80, 256], 2, 40),
        size([80, 128], 1, 40),
        size([160, 256], 2, 120),
        size([80, 256], 2, 80),
    ]
    assert counts[0] == 468_008


def test_the_untrained_network_returns_its_input() -> None:
    for model, x in variants():
        allowed = 0.06 if model.in_channels > 1 or model.excitation == "folding" else 0.005
        assert relative(estimate(model, x), x[:, -1:]) < allowed, model.outputs


def test_the_output_is_as_much_louder_as_the_input() -> None:
    for model, x in variants(trained=True):
        y = estimate(model, x)
        assert relative(y, x[:, -1:]) > 0.1, "the gains vary"
        for factor in (10.0, 0.01):
            assert relative(estimate(model, factor * x), factor * y) < 1e-3, model.outputs


def test_zeros_behind_a_recording_change_nothing() -> None:
    for model, x in variants(trained=True):
        y = estimate(model, x)
        padded = estimate(model, torch.nn.functional.pad(x, (0, 5003)))
        assert relative(padded[..., : y.shape[-1]], y) < 1e-4, model.outputs
    batch = torch.cat([x, torch.nn.functional.pad(x[..., :4000], (0, x.shape[-1] - 4000))])
    model = build(trained=True, in_channels=x.shape[1])
    assert relative(estimate(model, batch)[2:, :, :4000], estimate(model, x[..., :4000])) < 1e-4


@pytest.mark.parametrize("changes", [changes for changes in VARIANTS if "normalisation" in changes])
def test_every_excitation_streams_to_the_same_samples(changes: dict[str, Any]) -> None:
    model = build(trained=True, **changes)
    x = signals(model.in_channels, 70 * model.hop)
    if model.excitation == "noise":
        model.head.bias.data += 4.0  # an audible share of noise
    whole = estimate(model, torch.nn.functional.pad(x, (0, model.lookahead)))
    with torch.inference_mode(), model.streaming(2):
        chunks = [model(chunk)["estimate"] for chunk in x.split([1 * model.hop, 3 * model.hop, 66 * model.hop], dim=-1)]
    streamed = torch.cat(chunks, dim=-1)[..., model.lookahead :]
    assert relative(streamed, whole[..., : streamed.shape[-1]]) < 1e-5


def test_without_a_future_it_is_causal_whatever_else_it_has() -> None:
    for model, _ in variants():
        assert model.causal == (model.delay is not None)
    assert build(**CAUSAL).delay == 511
    assert build(bidirectional=False, normalisation="none").causal
    assert not build(normalisation="running").causal
    assert not build(bidirectional=False).causal


def test_gains_are_bounded() -> None:
    model, x = build(max_gain=20.0), signals()
    for sign in (1, -1):
        model.head.bias.data.fill_(sign * 1e6)
        assert relative(estimate(model, x), 10.0**sign * x) < 1e-4


def test_sensors_are_added_band_by_band_with_weights_that_sum_to_one() -> None:
    model, x = build(in_channels=3), signals(3)
    assert relative(estimate(model, x), x[:, 2:]) < 0.05
    assert relative(estimate(build(in_channels=3, skip_channel=0), x), x[:, :1]) < 0.05
    weights = model._split(model.head.bias.data, 0)["sensors"].view(3, 10)
    weights.fill_(0.0)
    assert relative(estimate(model, x), x.mean(1, keepdim=True)) < 0.01
    weights[0, :5] = weights[1, 5:] = 50.0  # the first sensor in the low bands, the second in the high ones
    low, high = signals(3), signals(3)
    low[:, 0], high[:, 1] = 0.0, 0.0
    window = torch.hann_window(x.shape[-1])
    spectra = [torch.fft.rfft(window * estimate(model, signal)[:, 0]).abs().mean(0) for signal in (x, low, high)]
    below, above = slice(100, 500), slice(3500, 4400)  # of 4501 bins
    assert spectra[1][below].sum() < 0.01 * spectra[0][below].sum()
    assert spectra[2][above].sum() < 0.01 * spectra[0][above].sum()
    assert spectra[2][below].sum() == pytest.approx(float(spectra[0][below].sum()), rel=0.05)


def band_limited() -> Tensor:
    """Noise with nothing above 4 kHz."""
    spectrum = torch.fft.rfft(signals(samples=16000))
    spectrum[..., 4000:] = 0.0
    return torch.fft.irfft(spectrum)


def upper_energy(model: BandGain, x: Tensor) -> float:
    y = torch.fft.rfft(estimate(model, x)[..., 2000:14000] * torch.hann_window(12000)).abs().square()
    return float(y[..., 3300:].sum() / y[..., :3000].sum())


def test_noise_fills_what_gains_cannot() -> None:
    x = band_limited()
    plain, noisy = build(), build(excitation="noise")
    assert plain.only_masks
    assert not noisy.only_masks
    for model in (plain, noisy):
        assert upper_energy(model, x) < 1e-6
        model._split(model.head.bias.data, 0)["gain"].fill_(5.0)
    noisy._split(noisy.head.bias.data, 0)["noise"].fill_(5.0)
    assert upper_energy(plain, x) < 1e-6
    assert upper_energy(noisy, x) > 1e-5


def test_noise_has_the_gained_energy_of_the_sensor() -> None:
    x, model = signals(samples=32000), build(excitation="noise")
    model._split(model.head.bias.data, 0)["noise"].fill_(50.0)
    with torch.inference_mode():
        levels = model(x)["band_levels"]
        model._split(model.head.bias.data, 0)["noise"].fill_(-50.0)
        wanted = model(x)["band_levels"]
    distance = (levels - wanted).mean(-1) * 10 / torch.log(torch.tensor(10.0))
    assert distance.abs().max() < 3.0, "dB, in each band"
    assert relative(estimate(model, x), x) < 0.01


def test_folding_keeps_the_sensor_and_starts_quietly() -> None:
    x = band_limited()
    model = build(excitation="folding", cutoff_frequency=4000, sensor_gains=False)
    assert not model.only_masks
    start = upper_energy(model, x)
    assert 1e-6 < start < 0.01
    model.head.bias.data += 1.0
    assert upper_energy(model, x) > 4 * start
    lower = [torch.fft.rfft(signal)[..., :3700] for signal in (estimate(model, x), x)]
    assert float((lower[0] - lower[1]).abs().square().sum() / lower[1].abs().square().sum()) < 1e-3


def test_a_residual_changes_the_low_bands_only() -> None:
    x, model = signals(samples=16000), build(residual_frequency=900.0)
    model._split(model.head.bias.data, 0)["residual"].fill_(1.0)
    change = torch.fft.rfft(estimate(model, x) - x).abs().mean((0, 1))
    assert change[100:850].mean() > 100 * change[1100:].mean()


def test_levels_are_those_of_the_waveform() -> None:
    """Before synthesis and after it: smooth gains leave a spectrum nearly consistent."""
    model, x, lengths = build(trained=True), signals(samples=16000), torch.tensor([16000, 16000])
    with torch.inference_mode():
        output = model(x)
    sizes = {"sample_rate": 16000, "n_bands": 10}
    target = signals(samples=16000, seed=5)
    own = GeneratorLogBandsLoss(**sizes)(output["band_levels"], target, lengths)
    assert float(own) == pytest.approx(float(LogBandsLoss(**sizes)(output["estimate"], target, lengths)), rel=0.1)
    assert float(own) > 0.1
    silent = model(torch.zeros(1, 1, 3000))
    assert not silent["estimate"].any()
    assert silent["band_levels"].isfinite().all()


def test_other_sample_rates_by_sizes() -> None:
    sizes = {"sample_rate": 48000, "n_fft": 1536, "hop_length": 768, "win_length": 1536}
    x = signals(samples=20000)
    for changes in ({}, {**CAUSAL, "excitation": "folding", "cutoff_frequency": 4000}):
        model = build(**sizes, **changes)
        assert estimate(model, x).shape == x.shape
        assert relative(estimate(model, x), x) < 0.1
    assert model.delay == 1535


@pytest.mark.slow
def test_a_pair_is_learned_in_seconds() -> None:
    """The target is the sensor through a filter that depends on its level: 40 steps halve the distance."""
    torch.manual_seed(0)
    x = signals(samples=24000, items=1)
    target = torch.nn.functional.conv1d(torch.nn.functional.pad(x, (1, 1)), torch.tensor([[[-0.9, 1.0, -0.5]]]))
    target = target * (0.2 + (x.abs() > 0.03).float())
    for changes in (VARIANTS[0], VARIANTS[5]):
        model = build(**changes).train()
        inputs = x.repeat(1, model.in_channels, 1)
        optimizer = torch.optim.Adam(model.parameters(), 1e-2)
        loss, errors = GeneratorLogBandsLoss(16000, n_bands=10), []
        for _ in range(40):
            errors.append(loss(model(inputs)["band_levels"], target, torch.tensor([24000])))
            optimizer.zero_grad()
            errors[-1].backward()
            optimizer.step()
        assert errors[-1] < 0.5 * errors[0], (changes, errors[0], errors[-1])


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"max_gain": 0}, "max_gain=0"),
        ({"dropout": 1.0}, r"dropout=1\.0"),
        ({"cell": "rnn"}, "cell='rnn'"),
        ({"excitation": "pulse"}, "excitation='pulse'"),
        ({"conv_channels": [0]}, r"conv_channels=\[0\]"),
        ({"residual_frequency": 9000}, "residual_frequency=9000"),
        ({"sensor_gains": False}, "sensor_gains=False leaves nothing to learn"),
        ({"excitation": "folding", "cutoff_frequency": 3400}, "FoldedSpectrum: cutoff_frequency=3400"),
        ({"n_bands": 0}, "n_bands=0"),
    ],
)
def test_arguments_out_of_range_are_refused(changes: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        build(**changes)
