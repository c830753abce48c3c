"""The option ``frequency_norm`` of each network on spectra: which have it, what it starts from, and that it streams."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from omegaconf import open_dict
from test_generators_contract import FILES, composed, estimate, speech_like, stream
from torch import Tensor, nn

from bcfusion.contracts import Batch, Fitted
from bcfusion.errors import ConfigError, DataError
from bcfusion.generators.ap_bwe import ApBwe
from bcfusion.generators.attention_fusion import AttentionFusion
from bcfusion.generators.conditioned import Conditioned
from bcfusion.generators.dccrn import DCCRN
from bcfusion.generators.dpcrn import DPCRN
from bcfusion.generators.late_fusion import LateFusion
from bcfusion.nn.frequency_norm import FrequencyAffine
from bcfusion.nn.network import WaveformNetwork
from bcfusion.nn.statistics import parts_to_start, start_from_statistics

WAVEFORM = "it computes on waveforms, or on an encoding of them that it learns: there are no frequencies"
VOCODER = "its output is a waveform, and its input has to be 0 in silence, which its convolutions pad with"
WITHOUT = {
    **dict.fromkeys(["audio_unet", "codec", "hifigan_plus", "seanet", "seanet_streaming", "tfilm"], WAVEFORM),
    **dict.fromkeys(["conv_tasnet", "conv_tasnet_causal", "se_conformer", "tasnet", "tasnet_causal"], WAVEFORM),
    "wave_unet": WAVEFORM,
    **dict.fromkeys(["eben", "eben_causal"], "it computes on the waveforms of four bands, weighted by its first layer"),
    **dict.fromkeys(["hifigan", "voicefixer_vocoder"], VOCODER),
    **dict.fromkeys(["identity", "transposition"], "it has nothing to train"),
    "baf_net": "it adds spectra with weights from a mask, a ratio; its branches have their own option",
    "late_fusion": "it joins waveforms; its branches have their own option",
}
WITH = [path for path in FILES if path.stem not in WITHOUT]
SMALL: dict[str, Any] = {"channels": [4, 4], "freq_kernels": [5, 3], "freq_strides": [2, 2], "blocks": 1}
SIZES: dict[str, Any] = {"n_fft": 80, "hop_length": 40, "win_length": 80}


def build(path: Path, sensors: int, option: str | None = "learnable") -> nn.Module:
    cfg = composed(path.stem, sensors).generator.copy()
    with open_dict(cfg):
        (cfg.mel if path.stem == "voicefixer" else cfg).frequency_norm = option
    torch.manual_seed(0)
    network: nn.Module = instantiate(cfg).eval()
    return network


def batch(sensors: int, samples: int = 8000, lengths: tuple[int, ...] = (8000, 8000, 8000)) -> Batch:
    """A target with a falling spectrum; the sensors lack most of its upper half."""
    noise = torch.randn(len(lengths), sensors + 1, samples + 2, generator=torch.Generator().manual_seed(7))
    target = 0.1 * torch.nn.functional.avg_pool1d(noise[:, :1], 3, 1)
    inputs = torch.nn.functional.avg_pool1d(target, 3, 1, 1) + 0.003 * noise[:, 1:, 2:]
    valid = torch.arange(samples) < torch.tensor(lengths).view(-1, 1, 1)
    return Batch(inputs=inputs * valid, target=target * valid, lengths=torch.tensor(lengths))


def started(network: nn.Module, *batches: Batch) -> nn.Module:
    if isinstance(network, Fitted):
        network.fit(batches)
    start_from_statistics(network, batches)
    return network


def affines(network: nn.Module, kind: str) -> list[FrequencyAffine]:
    return [part for part in network.modules() if isinstance(part, FrequencyAffine) and part.kind == kind]


# ---------------------------------------------------------------- which networks


def test_every_network_has_the_option_but_those_that_have_no_frequencies() -> None:
    assert set(WITHOUT) <= {path.stem for path in FILES}
    for path in FILES:
        default = re.findall(r"^ *frequency_norm: (\w+)", path.read_text(encoding="utf-8"), re.MULTILINE)
        assert default == ([] if path.stem in WITHOUT else ["null"]), path.stem


@pytest.mark.parametrize("path", WITH, ids=lambda p: p.stem)
def test_another_word_is_refused(path: Path) -> None:
    with pytest.raises(Exception, match="frequency_norm='whiten' must be one of null, learnable"):
        build(path, 1, "whiten")


@pytest.mark.parametrize("path", WITH, ids=lambda p: p.stem)
def test_without_the_option_there_is_nothing_of_it(path: Path) -> None:
    assert not any(isinstance(part, FrequencyAffine) for part in build(path, 1, None).modules())


def test_the_forms_of_imported_networks_have_no_option() -> None:
    with pytest.raises(ConfigError, match="inner_frames=True is for imported networks"):
        DCCRN(inner_frames=True, frequency_norm="learnable")
    with pytest.raises(ConfigError, match="published_spectra=True is for imported networks"):
        ApBwe(published_spectra=True, frequency_norm="learnable")
    with pytest.raises(ConfigError, match="frequency_norm scales the bands of the conditions: bands=0 has none"):
        Conditioned(lambda **_: nn.Identity(), bands=0, frequency_norm="learnable")


# ---------------------------------------------------------------- the start


@pytest.mark.parametrize("sensors", [1, 2])
@pytest.mark.parametrize("path", WITH, ids=lambda p: p.stem)
def test_the_input_of_a_started_trunk_has_mean_0_and_variance_1_in_every_bin(path: Path, sensors: int) -> None:
    network, given = build(path, sensors), batch(sensors)
    assert parts_to_start(network) or isinstance(network, Fitted)
    started(network, given)
    assert not parts_to_start(network)
    own = affines(network, "standardise") or [network.get_submodule("frequency_in")]
    seen: dict[nn.Module, Tensor] = {}
    hooks = [layer.register_forward_hook(lambda part, _, y: seen.__setitem__(part, y.detach())) for layer in own]
    with torch.no_grad():
        network(given["inputs"])
    for hook in hooks:
        hook.remove()
    transform = next(part for name, part in network.named_modules() if name.endswith("stft") and "network" not in name)
    hop, first = int(transform.hop_length), int(transform.centred)  # type: ignore[arg-type]
    for layer in own:
        assert isinstance(layer, FrequencyAffine)
        y = seen[layer][..., first : first + 8000 // hop + 1].double().unflatten(1, (layer.parts, -1))
        if layer.parts == 1:
            torch.testing.assert_close(y.mean((0, 1, 4)), torch.zeros_like(y.mean((0, 1, 4))), atol=1e-4, rtol=0)
        deviation = y.square().mean((0, 1, 4)).sqrt()
        largest = layer.deviation.amax(1) if layer.kind == "standardise" else None
        if largest is not None:  # bins whose deviation was not raised
            deviation = deviation[layer.deviation[..., 0] > 1.001 * layer.least * largest]
        torch.testing.assert_close(deviation, torch.ones_like(deviation), atol=1e-3, rtol=0)


def spectra(signal: Tensor, window: np.ndarray, n_fft: int, hop: int) -> np.ndarray:
    """Frames centred on multiples of the hop of a signal ``(T,)``, ``(F, T // hop + 1)``, by NumPy."""
    half = len(window) // 2
    padded = np.pad(signal.double().numpy(), (half, half + len(window)))
    frames = [padded[n * hop : n * hop + len(window)] * window for n in range(len(signal) // hop + 1)]
    return np.fft.rfft(frames, n_fft).T


def test_statistics_of_complex_spectra_are_those_of_numpy_over_the_items_without_their_padding() -> None:
    network = DPCRN(**SMALL, **SIZES, in_channels=2, frequency_norm="learnable")
    batches = [batch(2, 2000, (2000, 1230, 700)), batch(2, 1200, (1200, 40))]
    started(network.eval(), *batches)
    window = np.sin(np.pi * (np.arange(80) + 0.5) / 80)
    sensors: list[list[np.ndarray]] = [[], []]
    missing = []
    for given in batches:
        for item, length in enumerate(given["lengths"].tolist()):
            # the transform sees the zeros after an item, and counts no frame after the one centred on its end
            own = [spectra(x, window, 80, 40)[:, : length // 40 + 1] for x in given["inputs"][item]]
            target = spectra(given["target"][item, 0], window, 80, 40)[:, : length // 40 + 1]
            for frames, values in zip(sensors, own, strict=True):
                frames.append(values)
            missing.append(target - own[-1])
    for layer, values in (("frequency_in", sensors), ("frequency_out", [missing])):
        squares = [np.square(np.abs(np.concatenate(frames, -1))).mean(-1) / 2 for frames in values]
        measured = network.get_submodule(layer).deviation
        np.testing.assert_allclose(measured.numpy()[..., 0], np.sqrt(squares), rtol=1e-4)


def test_statistics_of_log_amplitudes_are_those_of_numpy() -> None:
    network = ApBwe(**{**SIZES, "n_fft": 128}, channels=4, blocks=1, frequency_norm="learnable")
    given = batch(1, 2000, (2000, 990))
    started(network.eval(), given)
    window = np.sin(np.pi * np.arange(80) / 80) ** 2
    levels, missing = [], []
    for item, length in enumerate(given["lengths"].tolist()):
        own, target = (
            0.5 * np.log(np.square(np.abs(spectra(x, window, 128, 40)[:, : length // 40 + 1])) + 1e-8)
            for x in (given["inputs"][item, 0], given["target"][item, 0])
        )
        levels.append(own)
        missing.append(target - own)
    for layer, values in (("frequency_in", levels), ("frequency_out", missing)):
        frames = np.concatenate(values, -1)
        part = network.get_submodule(layer)
        np.testing.assert_allclose(part.mean.numpy()[0, :, 0], frames.mean(-1), atol=1e-5, rtol=1e-5)
        deviation = frames.std(-1)
        deviation = deviation.clip(0.05 * deviation.max())
        np.testing.assert_allclose(part.deviation.numpy()[0, :, 0], deviation, atol=1e-5, rtol=1e-4)


def test_an_output_of_zero_is_the_average_of_what_is_missing() -> None:
    """The log amplitudes of an untrained AP-BWE are those of the sensor, equalised to the average of the target."""
    network, given = ApBwe(**SIZES, channels=4, blocks=1, frequency_norm="learnable").eval(), batch(1)
    started(network, given)
    for part in (network.to_amplitude.weight, network.to_amplitude.bias):
        torch.nn.init.zeros_(part)
    with torch.no_grad():
        output = network(given["inputs"])["spectrum"].square().sum(-1).clamp_min(1e-16).log() / 2
    window = np.sin(np.pi * np.arange(80) / 80) ** 2
    wanted = np.log(np.abs(spectra(given["target"][0, 0], window, 80, 40)))
    np.testing.assert_allclose(output[0].mean(-1).numpy(), wanted.mean(-1), atol=0.3)


def test_the_first_statistics_stay() -> None:
    network = started(DPCRN(**SMALL, **SIZES, frequency_norm="learnable").eval(), batch(1))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    start_from_statistics(network, [Batch(inputs=torch.ones(1, 1, 400), target=torch.ones(1, 1, 400))])
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_a_network_that_is_compiled_is_measured_as_it_is() -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("the pass for statistics was compiled")

    network = DPCRN(**SMALL, **SIZES, frequency_norm="learnable").eval()
    network.compile(backend=refuse)
    assert started(network, batch(1)) is network
    assert not parts_to_start(network)


def test_samples_that_are_not_finite_are_refused_with_the_name_of_the_network() -> None:
    broken = batch(1)
    broken["inputs"][0, 0, 100] = torch.nan
    for batches, problem in (([], "it holds no batches"), ([broken], "its samples are not finite")):
        with pytest.raises(DataError, match=f"DPCRN: the training set gives no statistics, {problem}"):
            start_from_statistics(DPCRN(**SMALL, **SIZES, frequency_norm="learnable").eval(), batches)


# ---------------------------------------------------------------- inside other networks


def inner(**arguments: Any) -> DPCRN:
    return DPCRN(**SMALL, **SIZES, frequency_norm="learnable", **arguments)


def test_a_branch_starts_from_the_sensor_that_it_restores() -> None:
    fusion, given = LateFusion(inner, channels=2).eval(), batch(2)
    started(fusion, given)
    for sensor in range(2):
        alone = inner().eval()
        start_from_statistics(alone, [Batch({**given, "inputs": given["inputs"][:, [sensor]]})])
        branch = fusion.get_submodule(f"branches.parts.{sensor}.network")
        for name, value in alone.state_dict().items():
            if name.startswith("frequency"):
                torch.testing.assert_close(branch.state_dict()[name], value, msg=name)


def test_a_network_after_the_fusion_is_compared_with_a_target_that_is_as_late_as_its_input() -> None:
    """The sensors are the target: nothing is missing, unless the target were shifted against them."""
    fusion = AttentionFusion(None, inner, **SIZES, channels=2, layers=2).eval()
    given = batch(2)
    given["inputs"] = given["target"].expand(-1, 2, -1)
    started(fusion, given)
    network = fusion.get_submodule("network.network")
    # untrained, the fusion adds up nearly all of both sensors
    assert float(network.frequency_out.deviation.max()) < 0.1 * float(network.frequency_in.deviation.max())


class Kept:
    """Batches that count the passes over them."""

    def __init__(self, *batches: Batch) -> None:
        self.batches, self.passes = batches, 0

    def __iter__(self) -> Iterator[Batch]:
        self.passes += 1
        return iter(self.batches)


def test_a_network_inside_another_starts_from_what_the_started_outer_one_gives_it() -> None:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"bands": 8, "pitch": False, "hop_length": 40, "win_length": 80, "n_fft": 80}
    outer = Conditioned(inner, channels=2, **sizes, level=1.0, frequency_norm="learnable").eval()
    batches = Kept(batch(1, 2000, (2000, 1230)), batch(1, 1200, (1200, 1200)))
    start_from_statistics(outer, batches)
    assert batches.passes == 2
    seen: list[Tensor] = []
    hook = outer.network.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0].detach()))
    alone = inner(in_channels=3, skip_channel=0).eval()
    with torch.no_grad():
        for given in batches.batches:
            outer(given["inputs"])
            alone.observe(given)
            alone.body(seen.pop())
    hook.remove()
    alone.start()
    network = outer.get_submodule("network.network")
    for name, value in alone.state_dict().items():
        if name.startswith("frequency"):
            torch.testing.assert_close(network.state_dict()[name], value, msg=name)


def test_networks_beside_each_other_start_in_one_pass() -> None:
    batches = Kept(batch(2, 2000, (2000,)))
    start_from_statistics(LateFusion(inner, channels=2).eval(), batches)
    assert batches.passes == 1


# ---------------------------------------------------------------- training and streams


@pytest.mark.parametrize("path", WITH, ids=lambda p: p.stem)
def test_every_scale_and_shift_is_trained(path: Path) -> None:
    network, given = started(build(path, 2), batch(2)).train(), batch(2)
    output = network(given["inputs"])
    outputs = output if isinstance(output, dict) else {"estimate": output}
    sum(value.square().mean() for value in outputs.values()).backward()
    own = [name for name, part in network.named_modules() if isinstance(part, FrequencyAffine)]
    assert own
    for name, parameter in network.named_parameters():
        if name.rpartition(".")[0] in own:
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name
            assert parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize("path", WITH, ids=lambda p: p.stem)
def test_a_causal_network_with_the_option_streams_to_the_same_output(path: Path) -> None:
    network = started(build(path, 1), batch(1))
    if not getattr(network, "causal", False):
        pytest.skip("not causal: for files, not for streams")
    assert isinstance(network, WaveformNetwork)
    with torch.no_grad():
        for part in affines(network, "standardise") + affines(network, "restore") + affines(network, "identity"):
            part.weight.mul_(1.1)
            if part.bias is not None:
                part.bias.add_(0.1)
        inputs = speech_like(network, 15 * network.hop, batch=2)
        whole = estimate(network, torch.cat([inputs, inputs.new_zeros(2, 1, network.lookahead)], dim=-1))
        streamed = stream(network, inputs, [1, 3, 2])[..., network.lookahead :]
    assert (streamed - whole[..., : streamed.shape[-1]]).abs().max() <= 1e-5 * whole.abs().max()
