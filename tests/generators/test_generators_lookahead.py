"""Additional look-ahead: which networks take it, that the declared delay is exact, and that nothing changes without."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import test_generators_contract as contract
import torch
from hydra.utils import get_class, instantiate
from omegaconf import OmegaConf, open_dict
from test_generators_contract import FILES, SAMPLE_RATE, composed, estimate, speech_like
from torch import Tensor, nn

from bcfusion.contracts import Batch
from bcfusion.errors import ConfigError
from bcfusion.export.onnx_export import export_step, export_whole
from bcfusion.export.onnx_stepper import OnnxStepper, open_session
from bcfusion.generators.attention_fusion import AttentionFusion
from bcfusion.generators.conditioned import Conditioned
from bcfusion.generators.conv_tasnet import ConvTasNet
from bcfusion.generators.dpcrn import DPCRN
from bcfusion.generators.eben import EBEN
from bcfusion.generators.late_fusion import LateFusion
from bcfusion.generators.wave_unet import WaveUNet
from bcfusion.inference.blend import Blend
from bcfusion.inference.enhance import enhance_signal
from bcfusion.inference.stepping import TorchStepper, stream_signal
from bcfusion.live.engine import Engine
from bcfusion.nn.delay import Delay
from bcfusion.nn.frequency_norm import FrequencyAffine
from bcfusion.nn.network import WaveformNetwork, lookahead_of
from bcfusion.nn.spectral import Complex, SpectralNetwork, magnitude
from bcfusion.nn.statistics import start_from_statistics
from bcfusion.probe import measured_delay
from bcfusion.run.bundle import load_generator, save_bundle

#: causal networks without it, and why
WITHOUT = {
    "identity": "its output depends on no other sample: there is nothing to look for",
    **dict.fromkeys(("laco_senet", "laco_senet_mask"), "its kernels reach into the future by arguments of its own"),
    "baf_net": "that of its branches",
    "codec": "that of the codec",
}
#: forms that are not causal of networks that can be
REFUSING = {
    *("band_gain", "band_gain_folding", "bsrnn", "conv_tasnet", "dccrn", "dccrn_cl", "eben", "seanet"),
    *("spectrogram_transformer", "tasnet"),
}
OFFERED = [path for path in FILES if "\nlookahead_ms:" in path.read_text(encoding="utf-8")]


def build(path: Path, sensors: int, lookahead_ms: float | None = 0.0) -> WaveformNetwork:
    """The small network; None: of a configuration without the argument, as it was before there was one."""
    cfg = composed(path.stem, sensors).generator.copy()
    with open_dict(cfg):
        if lookahead_ms is None:
            del cfg["lookahead_ms"]
        else:
            cfg.lookahead_ms = lookahead_ms
    torch.manual_seed(0)
    network = instantiate(cfg).eval()
    assert isinstance(network, WaveformNetwork)
    return network


CAUSAL = [path for path in OFFERED if path.stem not in REFUSING]


# ---------------------------------------------------------------- which networks


@pytest.mark.slow
def test_every_causal_network_has_it_but_those_that_have_no_use_for_it() -> None:
    causal = {path.stem for path in FILES if getattr(contract.build(path, ["body"]), "causal", False)}
    assert {path.stem for path in CAUSAL} == causal - set(WITHOUT)
    assert set(WITHOUT) <= causal


@pytest.mark.parametrize("path", [path for path in OFFERED if path not in CAUSAL], ids=lambda p: p.stem)
def test_a_network_that_is_not_causal_refuses_it_by_name(path: Path) -> None:
    name = str(composed(path.stem, 1).generator["_target_"]).rpartition(".")[2]
    with pytest.raises(Exception, match=f"{name}: lookahead_ms=80 is for causal networks; this one is not: set it to"):
        build(path, 1, 80)


def test_all_other_networks_have_no_such_argument() -> None:
    for path in set(FILES) - set(OFFERED):
        [target] = re.findall(r"^_target_: (\S+)", path.read_text(encoding="utf-8"), re.MULTILINE)
        assert "lookahead_ms" not in inspect.signature(get_class(target)).parameters, path.stem


@pytest.mark.parametrize("wrong", [-1, 201, float("nan"), True])
def test_what_is_out_of_range_is_refused_with_what_is_allowed(wrong: Any) -> None:
    allowed = rf"DPCRN: lookahead_ms={wrong} must be from 0 to 200 ms, which is rounded up to whole hops of 12.5 ms"
    with pytest.raises(ConfigError, match=allowed):
        DPCRN(lookahead_ms=wrong)


def test_networks_around_others_refuse_it_for_those_inside_by_name() -> None:
    small: dict[str, Any] = {"channels": 2, "levels": 2}
    for wrapper in (
        partial(LateFusion, partial(WaveUNet, **small)),
        partial(AttentionFusion, None, partial(WaveUNet, **small)),
        partial(AttentionFusion, partial(WaveUNet, **small), None),
        partial(Conditioned, partial(WaveUNet, **small)),
    ):
        with pytest.raises(ConfigError, match="WaveUNet: lookahead_ms=40 is for causal networks; this one takes none"):
            wrapper(lookahead_ms=40)


@pytest.mark.parametrize(
    ("asked", "rate", "hop", "samples"),
    [(0, 16000, 8, 0), (0.1, 16000, 8, 8), (80, 16000, 8, 1280), (80.4, 16000, 8, 1288), (200, 48000, 8, 9600)],
)
def test_it_is_rounded_up_to_whole_hops(asked: float, rate: int, hop: int, samples: int) -> None:
    sizes: dict[str, Any] = {"filters": 8, "bottleneck_channels": 4, "hidden_channels": 4, "blocks": 1, "repeats": 1}
    network = ConvTasNet(rate, filter_length=2 * hop, causal=True, norm="cLN", lookahead_ms=asked, **sizes)
    assert network.future == samples
    assert network.delay == 2 * hop - 1 + samples
    assert lookahead_of(network) == network.lookahead == hop + samples


# ---------------------------------------------------------------- the contract of generators holds with it

CHECKS: list[Callable[..., None]] = [
    contract.test_the_output_has_the_length_of_the_input,
    contract.test_it_returns_exactly_what_it_provides,
    contract.test_silence_gives_finite_output_and_gradients,
    contract.test_every_parameter_is_used,
    contract.test_an_item_does_not_depend_on_its_neighbours_in_the_batch,
    contract.test_no_output_depends_on_an_input_later_than_the_delay,  # nor does it end before, if it is causal
    contract.test_a_chunk_of_no_samples_returns_none_and_leaves_the_stream_as_it_was,
]


@pytest.mark.slow
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__.removeprefix("test_"))
@pytest.mark.parametrize("path", CAUSAL, ids=lambda p: p.stem)
def test_with_look_ahead(path: Path, check: Callable[..., None]) -> None:
    check(build(path, 2, 37))


@pytest.mark.parametrize("path", CAUSAL, ids=lambda p: p.stem)
def test_output_n_depends_on_input_n_plus_delay_and_not_on_the_next(path: Path) -> None:
    network = build(path, 1, 40)
    hop, added = network_hop(network), 40 * SAMPLE_RATE // 1000
    delay, without = network.delay, build(path, 1).delay
    assert delay is not None
    assert without is not None
    assert delay - without == added + -added % hop
    sample = 4 * network.hop - network.lookahead % network.hop  # the first of a frame, which waits longest
    recording = speech_like(network, sample + delay + 3 * network.hop)
    with torch.inference_mode():
        for offset in (0, 1):
            poisoned = recording.clone()
            poisoned[..., sample + delay + offset] = torch.nan
            finite = estimate(network, poisoned)[0, 0, : sample + 1].isfinite()
            assert finite[:sample].all()
            assert bool(finite[sample]) == bool(offset), offset


def network_hop(network: nn.Module) -> int:
    """The hops in which the look-ahead is counted: of the network inside, if there is one."""
    return next(part.hop for part in network.modules() if isinstance(part, WaveformNetwork) and part.future)


@pytest.mark.parametrize("path", CAUSAL, ids=lambda p: p.stem)
def test_a_stream_equals_the_whole_file_late_by_the_look_ahead(path: Path) -> None:
    network = build(path, 2, 25)
    late, hop = network.lookahead, network.hop
    recording = speech_like(network, (-(-late // hop) + 6) * hop, batch=2)
    with torch.inference_mode():
        whole = estimate(network, recording)
        streamed = contract.stream(network, recording, [1, 3, 2])[..., late:]
    assert (streamed - whole[..., : streamed.shape[-1]]).abs().max() <= 1e-5 * whole.abs().max()


@pytest.mark.slow
@pytest.mark.parametrize("path", CAUSAL, ids=lambda p: p.stem)
def test_the_latency_that_is_measured_is_the_declared_one(path: Path) -> None:
    network = build(path, 1, 20)
    assert measured_delay(network) == network.delay


# ---------------------------------------------------------------- nothing changes without it


@pytest.mark.parametrize("sensors", [1, 2])
@pytest.mark.parametrize("path", CAUSAL, ids=lambda p: p.stem)
def test_zero_is_the_network_of_before(path: Path, sensors: int) -> None:
    old, new = build(path, sensors, None), build(path, sensors, 0)
    parts = [part for part in new.modules() if isinstance(part, WaveformNetwork)]
    assert not any(part.future or hasattr(part, "wait") for part in parts)
    for name, value in old.state_dict().items():
        assert torch.equal(new.state_dict()[name], value), name
    recording = speech_like(new, 3000)
    with torch.inference_mode():
        assert torch.equal(estimate(new, recording), estimate(old, recording))


@pytest.mark.parametrize("path", CAUSAL, ids=lambda p: p.stem)
def test_only_layers_at_the_input_grow(path: Path) -> None:
    """The same names; the layers of other sizes are those that see the sensors."""
    plain, ahead = build(path, 2, 0), build(path, 2, 80)
    sizes, grown = ({k: v.shape for k, v in part.state_dict().items()} for part in (plain, ahead))
    assert list(sizes) == list(grown)
    more = {name: grown[name].numel() / shape.numel() for name, shape in sizes.items() if grown[name] != shape}
    assert more, "the layers do not see the delayed sensors"
    assert max(more.values()) <= 2
    inputs = ("first", "encoder", "basis", "gate", "norm", "lstms.0", "split", "bottleneck", "recurrent")
    assert all(any(part in name for part in inputs) for name in more), sorted(more)
    with plain.streaming(1), ahead.streaming(1):
        new = set(ahead.get_state()) - set(plain.get_state())
    assert new
    assert all(name.endswith("wait.past") for name in new), sorted(new)


def test_a_bundle_from_before_the_argument_loads(tmp_path: Path) -> None:
    path = next(path for path in CAUSAL if path.stem == "gtcrn")
    old, new = build(path, 1, None), build(path, 1, 80)
    config = OmegaConf.to_container(composed(path.stem, 1).generator, resolve=True)
    assert isinstance(config, dict)
    without = {key: value for key, value in config.items() if key != "lookahead_ms"}
    recording = speech_like(new, 5000)
    for network, values in ((old, without), (new, {**without, "lookahead_ms": 80})):
        folder = tmp_path / str(values.get("lookahead_ms"))
        loaded = load_generator(save_bundle(folder, network, values, ["body"], {"step": 0}))  # type: ignore[arg-type]
        assert loaded.delay == network.delay
        with torch.inference_mode():
            torch.testing.assert_close(estimate(loaded, recording), estimate(network, recording))


# ---------------------------------------------------------------- what the output belongs to


class Echo(SpectralNetwork):
    """The sensor itself, and its levels."""

    provides = ("levels",)

    def __init__(self, in_channels: int, skip_channel: int, lookahead_ms: float) -> None:
        super().__init__(16000, in_channels, 80, 40, 80, "sine", True, 0, skip_channel, None, lookahead_ms=lookahead_ms)

    def spectrum(self, real: Tensor, imag: Tensor) -> tuple[Complex, dict[str, Tensor]]:
        sensor = real[:, self.skip_channel], imag[:, self.skip_channel]
        return sensor, {"levels": magnitude(*sensor)}


@pytest.mark.parametrize("skip_channel", [0, 1, -1, -2])
def test_the_estimate_and_all_that_is_provided_are_aligned_with_the_file(skip_channel: int) -> None:
    plain, ahead = (Echo(2, skip_channel, lookahead_ms) for lookahead_ms in (0, 20))
    recording = torch.randn(1, 2, 1234)
    expected, outputs = plain(recording), ahead(recording)
    torch.testing.assert_close(outputs["estimate"], recording[:, [skip_channel]], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(outputs["levels"], expected["levels"])


@pytest.mark.parametrize("lookahead_ms", [0, 40])
def test_the_bands_of_eben_are_those_of_the_files_own_time(lookahead_ms: float) -> None:
    sizes: dict[str, Any] = {"channels": 2, "latent_channels": 2, "strides": (2, 2), "dilations": (1,), "causal": True}
    eben = EBEN(provide_bands=True, input_bands=2, lookahead_ms=lookahead_ms, **sizes).eval()
    nn.init.zeros_(eben.last.weight)  # the kept bands of the sensor
    recording = 0.1 * torch.randn(1, 1, 3000)
    with torch.inference_mode():
        bands, inside = eben(recording)["bands"], eben.inside(recording)["bands"]
    assert bands.shape == inside.shape
    torch.testing.assert_close(bands[:, :2], inside[:, :2].tanh())


NORMALISED = [path for path in CAUSAL if "\nfrequency_norm:" in path.read_text(encoding="utf-8")]


@pytest.mark.parametrize("path", NORMALISED, ids=lambda p: p.stem)
def test_statistics_are_those_of_the_same_frames_as_without(path: Path) -> None:
    given = 0.1 * torch.randn(3, 2, 8000, generator=torch.Generator().manual_seed(0))
    lengths = torch.tensor([7000, 6000, 4000])
    given = given * (torch.arange(8000) < lengths.view(-1, 1, 1))
    batch = Batch(inputs=given[:, :1], target=given[:, 1:], lengths=lengths)
    found: list[list[FrequencyAffine]] = []
    for lookahead_ms in (0, 50):
        cfg = composed(path.stem, 1).generator.copy()
        with open_dict(cfg):
            cfg.frequency_norm, cfg.lookahead_ms = "learnable", lookahead_ms
        torch.manual_seed(0)
        network = instantiate(cfg).eval()
        start_from_statistics(network, [batch])
        found.append([part for part in network.modules() if isinstance(part, FrequencyAffine)])
    assert len(found[0]) == len(found[1]) > 0
    for plain, ahead in zip(*found, strict=True):
        assert ahead.started
        for name in ("mean", "deviation"):
            if hasattr(plain, name):
                own, others = getattr(plain, name), getattr(ahead, name)
                for copy in others.split(len(own)):
                    torch.testing.assert_close(copy, own, atol=1e-5, rtol=1e-3)


def test_networks_inside_others_look_ahead_for_them() -> None:
    small = partial(DPCRN, channels=(4, 4), freq_kernels=(5, 3), freq_strides=(2, 2), blocks=1)
    hop = 200
    outer: dict[str, WaveformNetwork] = {
        "late": LateFusion(small, channels=2, lookahead_ms=40),
        "after": AttentionFusion(small, small, channels=2, layers=2, lookahead_ms=40),
        "before": AttentionFusion(small, None, channels=2, layers=2, lookahead_ms=40),
        "conditioned": Conditioned(small, channels=2, lookahead_ms=40),
        "own": Conditioned(partial(small, lookahead_ms=40), channels=2),
    }
    ahead = {
        name: [part.future for part in network.modules() if isinstance(part, DPCRN)] for name, network in outer.items()
    }
    assert ahead == {
        "late": [4 * hop] * 2,
        "after": [0, 0, 4 * hop],
        "before": [4 * hop] * 2,
        "conditioned": [4 * hop],
        "own": [4 * hop],
    }
    assert all(network.future == 0 for network in outer.values())
    assert {name: network.lookahead for name, network in outer.items()} == {
        "late": hop + 4 * hop,
        "after": 384 + hop + hop + 4 * hop,
        "before": 384 + hop + 4 * hop,
        "conditioned": hop + 4 * hop,
        "own": hop + 4 * hop,
    }


def test_it_learns_what_only_the_future_tells() -> None:
    """The target is the sensor 80 ms later: it is learned with 80 ms of look-ahead, and not without."""
    sizes: dict[str, Any] = {"filters": 32, "filter_length": 32, "bottleneck_channels": 32, "hidden_channels": 32}
    errors = {}
    for lookahead_ms in (0.0, 80.0):
        torch.manual_seed(0)
        network = ConvTasNet(
            **sizes, blocks=1, repeats=1, norm="channel_LN", head="mapping", causal=True, lookahead_ms=lookahead_ms
        )
        optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
        generator = torch.Generator().manual_seed(0)
        for _ in range(60):
            sensor = 0.1 * torch.randn(2, 1, 3280, generator=generator)
            output = network(sensor)
            loss = (output[..., :-1280] - sensor[..., 1280:]).square().mean() / 0.01
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        errors[lookahead_ms] = loss.item()
    assert errors[0.0] > 0.95, errors
    assert errors[80.0] < 0.7, errors


# ---------------------------------------------------------------- streams


def test_a_stream_states_the_whole_latency_and_mixes_the_sensor_of_the_same_time() -> None:
    network = build(next(path for path in CAUSAL if path.stem == "gtcrn"), 2, 80)
    assert network.hop == 256
    recording = speech_like(network, 3777)
    for generator in (network, Blend(network, 0.25)):
        stepper = TorchStepper(generator)
        latency = Engine(stepper).latency()
        assert latency.algorithmic == pytest.approx(0.032 + 0.080)
        streamed = stream_signal(stepper, recording[0].numpy())
        stepper.close()
        with torch.inference_mode():
            whole = estimate(generator, recording)[0, 0]
        torch.testing.assert_close(torch.from_numpy(streamed), whole, atol=1e-6, rtol=1e-4)


def test_chunks_of_a_long_file_equal_the_whole_file() -> None:
    for name in ("unet_causal", "seanet_streaming"):
        network = build(next(path for path in CAUSAL if path.stem == name), 1, 60)
        recording = speech_like(network, 16000)[0]
        with torch.inference_mode():
            whole = estimate(network, recording[None])[0]
        chunked = enhance_signal(network, recording, chunk_seconds=0.3)
        torch.testing.assert_close(chunked, whole, atol=1e-6, rtol=1e-4)


# ---------------------------------------------------------------- export


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gtcrn", "eben_causal", "conditioned"])
def test_a_step_and_a_whole_file_run_in_onnxruntime(name: str) -> None:
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    network = build(next(path for path in CAUSAL if path.stem == name), 2, 30)
    recording = speech_like(network, 12 * 256)
    stepper = OnnxStepper(export_step(network).SerializeToString())
    assert stepper.lookahead == network.lookahead
    assert stepper.metadata.delay == network.delay
    with torch.inference_mode():
        whole = estimate(network, recording)[0, 0]
    steps = [stepper.step(chunk[0].numpy()) for chunk in recording.split(stepper.frame, dim=-1)]
    streamed = torch.from_numpy(np.concatenate(steps))[network.lookahead :]
    torch.testing.assert_close(streamed, whole[: len(streamed)], atol=1e-4, rtol=1e-3)
    session, _ = open_session(export_whole(network).SerializeToString())
    odd = recording[..., :2777]
    [output] = session.run(["y"], {"x": odd.numpy()})
    with torch.inference_mode():
        torch.testing.assert_close(torch.from_numpy(output), estimate(network, odd), atol=1e-5, rtol=1e-3)


def test_delays_have_no_parameters() -> None:
    assert not list(Delay(3).parameters())
    assert not Delay(3).state_dict()
