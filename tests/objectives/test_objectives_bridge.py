"""The generator on a path: against closed forms, and the same for whole files, chunks and streams."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import pairwise, product
from pathlib import Path as File
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bcfusion.contracts import Generator, Taught
from bcfusion.errors import ConfigError
from bcfusion.export.onnx_export import export_step
from bcfusion.export.onnx_stepper import OnnxStepper
from bcfusion.generators.attention_fusion import AttentionFusion
from bcfusion.generators.band_gain import BandGain
from bcfusion.generators.bsrnn import BSRNN
from bcfusion.generators.conditioned import Conditioned
from bcfusion.generators.conv_tasnet import ConvTasNet
from bcfusion.generators.dccrn import DCCRN
from bcfusion.generators.dpcrn import DPCRN
from bcfusion.generators.eben import EBEN
from bcfusion.generators.hifigan import HifiGan
from bcfusion.generators.identity import Identity
from bcfusion.generators.laco_senet import LaCoSENet
from bcfusion.generators.late_fusion import LateFusion
from bcfusion.generators.resunet_mask import ResUNetMask
from bcfusion.generators.seanet import SEANet
from bcfusion.generators.spectrogram_transformer import SpectrogramTransformer
from bcfusion.generators.spectrogram_vae import SpectrogramVAE
from bcfusion.generators.two_branch import TwoBranch
from bcfusion.generators.unet_causal import UNetCausal
from bcfusion.generators.voicefixer import VoiceFixer
from bcfusion.inference.enhance import enhance_signal
from bcfusion.losses.prediction import PredictionMseLoss
from bcfusion.nn.network import WaveformNetwork, additional_lookahead, usual_frame
from bcfusion.nn.spectral import SpectralNetwork
from bcfusion.nn.time import TimeConditioned, TimeEmbedding
from bcfusion.objectives.bridge import Bridge
from bcfusion.objectives.noise import normal_at
from bcfusion.objectives.paths import Flow, Path, SchroedingerBridge
from bcfusion.run.bundle import load_generator, save_bundle

MEAN, DEVIATION = 0.3, 0.5  # of the data in closed forms
DPCRN_SMALL = partial(DPCRN, channels=(8, 8, 8, 8, 8), blocks=1)
SEANET: dict[str, Any] = {"channels": 2, "strides": (2, 4), "dilations": (1,), "bottleneck_channels": 4}


class Told(TimeConditioned):
    """A network of no memory that computes a function of (state, time)."""

    sample_rate, hop, causal, delay, provides = 16000, 1, True, 0, ()

    def __init__(self, function: Callable[[Tensor, Tensor], Tensor], in_channels: int) -> None:
        super().__init__()
        self.function, self.in_channels = function, in_channels

    def forward(self, inputs: Tensor) -> Tensor:
        state = inputs[:, -1:]
        return self.function(state, self.time(inputs).view(-1, 1, 1))


class ToldNetwork(Told):
    """Built by :class:`Bridge` as from a YAML: the function is given before."""

    def __init__(self, in_channels: int, function: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__(function, in_channels)


def told(function: Callable[[Tensor, Tensor], Tensor], path: Path, **settings: Any) -> Bridge:
    return Bridge(partial(ToldNetwork, function=function), path, domain="waveform", **settings).eval()


def optimal_velocity(path: Flow) -> Callable[[Tensor, Tensor], Tensor]:
    """E[v | x_t] of Gaussian data, x ~ N(MEAN, DEVIATION^2), and a flow from noise: v and x_t are jointly Gaussian."""

    def velocity(state: Tensor, time: Tensor) -> Tensor:
        variance = ((1 - time) * DEVIATION) ** 2 + (time * path.sigma) ** 2
        covariance = -(1 - time) * DEVIATION**2 + time * path.sigma**2
        return -MEAN + covariance / variance * (state - (1 - time) * MEAN)

    return velocity


def whole(bridge: Bridge, inputs: Tensor) -> Tensor:
    with torch.inference_mode():
        output = bridge(inputs)
    assert isinstance(output, Tensor)
    return output


# ---------------------------------------------------------------- closed forms


@pytest.mark.parametrize(("solver", "order"), [("euler", 1), ("heun", 2)])
def test_the_solver_converges_with_its_order_to_the_exact_map_of_gaussian_data(solver: Any, order: int) -> None:
    path = Flow("noise", 1.0)
    silence = torch.zeros(1, 1, 400, dtype=torch.float64)
    errors = []
    for steps in (16, 32, 64):
        bridge = told(optimal_velocity(path), path, predict="velocity", solver=solver, steps=steps, least_time=1e-6)
        start = bridge._noise(0, silence, torch.tensor(0))
        exact = MEAN + DEVIATION * start  # deviations of the state are mapped to those of the data
        errors.append(float((whole(bridge, silence) - exact).abs().max()))
    for coarse, fine in pairwise(errors):
        assert coarse / fine == pytest.approx(2**order, rel=0.2)
    assert errors[-1] < (0.1 if order == 1 else 2e-3)


def test_what_is_taught_is_the_optimal_velocity_of_gaussian_data(monkeypatch: pytest.MonkeyPatch) -> None:
    """Least squares on what a training step gives: the line through (x_t, v) is E[v | x_t], known in closed form."""
    path, time = Flow("noise", 1.0), 0.6
    seen: list[Tensor] = []

    def record(state: Tensor, at: Tensor) -> Tensor:
        seen.append(state)
        return state

    bridge = told(record, path, predict="velocity", least_time=time)
    generator = torch.Generator().manual_seed(0)
    target = MEAN + DEVIATION * torch.randn(100, 1, 100_000, dtype=torch.float64, generator=generator)
    torch.manual_seed(1)
    with monkeypatch.context() as patch:
        patch.setattr(torch, "rand", lambda *size, **_: torch.zeros(*size))  # the earliest time, for all items
        batch: Any = {"inputs": torch.zeros_like(target), "target": target, "lengths": torch.full((100,), 100_000)}
        outputs = bridge.teach(batch)
    state, velocity = seen[0].flatten(), outputs["prediction_target"].flatten()
    centred = state - state.mean()
    slope = (centred * velocity).mean() / (centred**2).mean()
    states = torch.tensor([-0.5, 0.0, 0.5], dtype=torch.float64)
    fitted = velocity.mean() + slope * (states - state.mean())
    exact = optimal_velocity(path)(states, torch.tensor(time, dtype=torch.float64))
    torch.testing.assert_close(fitted, exact, atol=1e-3, rtol=0)


def test_a_network_that_knows_the_target_gets_there_on_every_path_in_any_number_of_steps() -> None:
    for path, solver, steps in (
        *product((Flow(), Flow("noise", 1.0)), ("euler", "heun"), (1, 2, 5)),
        *product((SchroedingerBridge(),), ("euler", "sde"), (1, 2, 5)),
    ):
        bridge = told(lambda state, _: torch.full_like(state, 0.25), path, solver=solver, steps=steps)
        torch.testing.assert_close(whole(bridge, torch.randn(1, 1, 50)), torch.full((1, 1, 50), 0.25))


@pytest.mark.parametrize("solver", ["euler", "heun"])
def test_with_many_steps_the_network_is_told_no_time_that_was_not_trained(solver: Any) -> None:
    times: list[float] = []

    def record(state: Tensor, at: Tensor) -> Tensor:
        times.append(float(at.min()))
        return torch.zeros_like(state)

    bridge = told(record, Flow(), predict="velocity", solver=solver, steps=50)
    whole(bridge, torch.randn(1, 1, 50))
    assert times[0] == 1
    assert times[-1] == min(times) == pytest.approx(bridge.least_time)


def test_one_step_of_the_bridge_is_the_networks_prediction_at_the_sensor() -> None:
    """At t = 1 the state is the sensor: regression."""
    torch.manual_seed(0)
    bridge = Bridge(partial(SEANet, **SEANET), SchroedingerBridge(), domain="waveform", steps=1).eval()
    sensor = torch.randn(1, 1, 800)
    with torch.inference_mode():
        direct = bridge.domain.network(torch.cat([sensor, sensor, torch.full_like(sensor, 0.1)], dim=1))
    assert torch.equal(whole(bridge, sensor), direct)


def test_one_step_and_five_differ() -> None:
    torch.manual_seed(0)
    bridge = Bridge(DPCRN_SMALL, SchroedingerBridge(), steps=1).eval()
    sensor = 0.1 * torch.randn(1, 1, 4000)
    one = whole(bridge, sensor)
    bridge.set_steps(5)
    assert bridge.steps == 5
    assert (whole(bridge, sensor) - one).abs().max() > 1e-3


def test_guidance_multiplies_what_the_sensors_say() -> None:
    heard = 0.3

    class Difference(ToldNetwork):
        def forward(self, inputs: Tensor) -> Tensor:
            return inputs[:, :1] + 1.0  # the sensor, if it is heard, and 1

    for weight in (1.0, 0.0, 3.0):
        network = partial(Difference, function=torch.add)
        settings: dict[str, Any] = {"domain": "waveform", "steps": 2, "p_condition": 0.8, "guidance": weight}
        bridge = Bridge(network, SchroedingerBridge(), **settings).eval()
        output = whole(bridge, torch.full((1, 1, 20), heard))
        torch.testing.assert_close(output, torch.full((1, 1, 20), 1 + weight * heard))


# ---------------------------------------------------------------- training


@pytest.mark.parametrize("domain", ["spectrum", "waveform"])
@pytest.mark.parametrize("predict", ["data", "velocity"])
def test_a_training_step_gives_an_aligned_estimate_and_what_should_be_predicted(domain: Any, predict: Any) -> None:
    torch.manual_seed(0)
    bridge = Bridge(DPCRN_SMALL, Flow(), predict=predict, domain=domain)
    target = 0.1 * torch.randn(2, 1, 5000)
    batch: Any = {"inputs": target.roll(3), "target": target, "lengths": torch.tensor([5000, 3000])}
    outputs = bridge.teach(batch)
    assert isinstance(bridge, Taught)
    assert outputs["estimate"].shape == target.shape
    places = outputs["prediction"].shape[-1]
    assert outputs["prediction_mask"].shape == (2, places)
    share = outputs["prediction_mask"].float().mean(1) * places * bridge.domain.step
    assert abs(share - torch.tensor([5000.0, 3000.0])).max() <= bridge.hop
    loss = PredictionMseLoss()(**{name: outputs[name] for name in bridge.provides})
    assert loss > 0
    loss.backward()
    assert all(p.grad is not None for p in bridge.parameters())

    if predict == "data":
        late = bridge.domain.lookahead
        perfect = bridge.domain.synthesis(outputs["prediction_target"])[..., late : late + 5000]
        torch.testing.assert_close(perfect, target, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize(
    ("path", "predict"),
    [
        *((path, predict) for path in (Flow(), Flow("noise", 1.0)) for predict in ("data", "velocity")),
        (SchroedingerBridge(), "data"),
    ],
)
def test_what_a_network_should_predict_gives_a_loss_of_0_and_the_target(path: Path, predict: Any) -> None:
    def function(state: Tensor, time: Tensor) -> Tensor:
        # silence as the source: the velocity of a straight path follows from the state and the time alone
        return 0 * state + MEAN if predict == "data" else (state - MEAN) / time

    bridge = told(function, path, predict=predict).train()
    target = torch.full((50, 1, 40), MEAN)
    torch.manual_seed(0)
    outputs = bridge.teach({"inputs": 0 * target, "target": target, "lengths": torch.full((50,), 40)})
    torch.testing.assert_close(outputs["estimate"], target)
    assert PredictionMseLoss()(**{name: outputs[name] for name in bridge.provides}) < 1e-9
    if predict == "velocity":
        assert outputs["prediction"].std() > 0.1


def test_frames_keep_their_level_where_a_velocity_is_learned() -> None:
    """A velocity is as loud in pauses as in speech: a network that gives frames their loudness back cannot say it."""
    cases: Any = (("data", True, None), ("velocity", False, None), ("velocity", True, True))
    for predict, kept, given in cases:
        network = partial(UNetCausal, channels=(4, 4), normalize_frames=given)
        assert Bridge(network, Flow(), predict=predict).domain.network.normalize_frames is kept
    assert Bridge(partial(UNetCausal, channels=(4, 4)), Flow(), predict="velocity").domain.network.normalize_frames


def test_spectra_are_compressed_once() -> None:
    cases: Any = (("spectrum", None, 1.0), ("spectrum", 0.7, 0.7), ("waveform", None, 0.5))
    for domain, given, taken in cases:
        network = partial(UNetCausal, channels=(4, 4), compression=given)
        assert Bridge(network, Flow(), domain=domain).domain.network.compression == taken


def test_the_source_is_the_sensor_of_the_network() -> None:
    for own, source in ((-1, 0), (0, 0), (1, -1), (-1, -1)):
        network = partial(DPCRN_SMALL, skip_channel=own)
        bridge = Bridge(network, SchroedingerBridge(), in_channels=2, source_channel=source)
        assert bridge.domain.network.skip_channel == source % 2
    with pytest.raises(ConfigError, match="skip_channel=0 of the network is source_channel on a path: set that to 0"):
        Bridge(partial(DPCRN_SMALL, skip_channel=0), SchroedingerBridge(), in_channels=2)


def test_a_mask_on_a_path_is_still_a_mask() -> None:
    assert Bridge(partial(DPCRN_SMALL, head="mask"), SchroedingerBridge()).only_masks
    assert not Bridge(DPCRN_SMALL, SchroedingerBridge()).only_masks


def test_a_share_of_the_items_is_at_the_source() -> None:
    times: list[Tensor] = []

    def record(state: Tensor, time: Tensor) -> Tensor:
        times.append(time.flatten())
        return state

    batch: Any = {name: torch.zeros(4000, 1, 4) for name in ("inputs", "target")}
    for share in (0.0, 0.3, 1.0):
        bridge = told(record, SchroedingerBridge(), p_source=share)
        bridge.teach({**batch, "lengths": torch.full((4000,), 4)})
        at_source = times[-1] == 1
        assert float(at_source.float().mean()) == pytest.approx(share, abs=0.03)
        if share < 1:  # the others are uniform
            assert float(times[-1][~at_source].mean()) == pytest.approx((0.03 + 1) / 2, abs=0.03)


def test_sensors_are_left_out_for_a_share_of_the_items() -> None:
    heard: list[Tensor] = []

    class Listening(ToldNetwork):
        def forward(self, inputs: Tensor) -> Tensor:
            heard.append(inputs[:, 0].abs().amax(-1))
            return inputs[:, -1:]

    bridge = Bridge(partial(Listening, function=torch.add), Flow("noise", 1.0), domain="waveform", p_condition=0.7)
    ones = torch.ones(2000, 1, 4)
    torch.manual_seed(0)
    bridge.teach({"inputs": ones, "target": ones, "lengths": torch.full((2000,), 4)})
    assert float(heard[0].mean()) == pytest.approx(0.7, abs=0.05)


def test_the_loss_counts_places_of_the_item_only() -> None:
    prediction, target = torch.zeros(2, 1, 3, 4), torch.ones(2, 1, 3, 4)
    target[1, ..., 2:] = 100.0
    mask = torch.tensor([[True] * 4, [True, True, False, False]])
    assert PredictionMseLoss()(prediction, target, mask) == 1.0
    assert PredictionMseLoss()(prediction, target, torch.zeros_like(mask)) == 0.0
    with pytest.raises(ValueError, match="must be"):
        PredictionMseLoss()(prediction, target[..., :2], mask)


# ---------------------------------------------------------------- files, chunks and streams

FOLLOWED: list[tuple[Path, dict[str, Any]]] = [
    (Flow(), {"predict": "velocity"}),
    (Flow(), {"solver": "heun"}),
    (Flow("noise", 1.0), {"predict": "velocity", "guidance": 2.0, "p_condition": 0.9}),
    (SchroedingerBridge(), {}),
    (SchroedingerBridge(), {"solver": "sde"}),
]


@pytest.mark.parametrize("domain", ["spectrum", "waveform"])
@pytest.mark.parametrize(("path", "settings"), FOLLOWED, ids=str)
def test_a_stream_equals_the_whole_file_late_by_the_look_ahead(
    path: Path, settings: dict[str, Any], domain: Any
) -> None:
    torch.manual_seed(0)
    bridge = Bridge(DPCRN_SMALL, path, in_channels=2, domain=domain, steps=3, **settings).eval()
    assert isinstance(bridge, Generator)
    recording = 0.1 * torch.randn(1, 2, 40 * bridge.hop)
    late = bridge.lookahead
    for hops in (1, 7):
        with torch.inference_mode(), bridge.streaming(1):
            streamed = torch.cat([bridge(chunk) for chunk in recording.split(hops * bridge.hop, -1)], dim=-1)
        expected = whole(bridge, recording)
        scale = expected.abs().max()
        torch.testing.assert_close(streamed[..., late:] / scale, expected[..., : expected.shape[-1] - late] / scale)


@pytest.mark.parametrize("causal", [True, False])
def test_chunks_equal_the_whole_file(causal: bool) -> None:
    """The noise of a chunk is that of its place in the file."""
    torch.manual_seed(0)
    network = partial(SEANet, **SEANET, causal=causal)
    bridge = Bridge(network, Flow(), predict="velocity", domain="waveform", steps=2).eval()
    recording = 0.1 * torch.randn(1, 16000)
    chunked = enhance_signal(bridge, recording, chunk_seconds=0.21)
    torch.testing.assert_close(chunked, whole(bridge, recording[None])[0], atol=1e-5, rtol=1e-4)
    assert bridge.position == 0


AHEAD_SMALL = partial(DPCRN, channels=(8, 8, 8, 8, 8), blocks=1, lookahead_ms=40)
AHEAD = 4 * 200  # samples: 40 ms, rounded up to whole hops


@pytest.mark.parametrize("domain", ["spectrum", "waveform"])
@pytest.mark.parametrize(("path", "settings"), FOLLOWED, ids=str)
def test_with_additional_look_ahead_a_stream_equals_the_whole_file(
    path: Path, settings: dict[str, Any], domain: Any
) -> None:
    torch.manual_seed(0)
    arguments: dict[str, Any] = {"in_channels": 2, "domain": domain, "steps": 2, **settings}
    bridge, plain = (Bridge(network, path, **arguments).eval() for network in (AHEAD_SMALL, DPCRN_SMALL))
    assert bridge.lookahead - plain.lookahead == AHEAD, "the sensors are seen early once, however many passes there are"
    assert bridge.delay == bridge.lookahead + bridge.hop - 1
    recording = 0.1 * torch.randn(1, 2, 24 * bridge.hop)
    with torch.inference_mode(), bridge.streaming(1):
        streamed = torch.cat([bridge(chunk) for chunk in recording.split(3 * bridge.hop, -1)], dim=-1)
    expected, late = whole(bridge, recording), bridge.lookahead
    scale = expected.abs().max()
    torch.testing.assert_close(streamed[..., late:] / scale, expected[..., : expected.shape[-1] - late] / scale)


@pytest.mark.parametrize("domain", ["spectrum", "waveform"])
@pytest.mark.parametrize("steps", [1, 3])
def test_with_additional_look_ahead_the_declared_delay_is_exact(steps: int, domain: Any) -> None:
    torch.manual_seed(0)
    bridge = Bridge(AHEAD_SMALL, Flow(), steps=steps, domain=domain).eval()
    assert bridge.delay is not None
    sample = 5 * bridge.hop  # its frame begins with it: it waits longest
    assert bridge.lookahead % bridge.hop == 0
    recording = 0.1 * torch.randn(1, 1, sample + bridge.delay + 3 * bridge.hop)
    for offset in (0, 1):
        poisoned = recording.clone()
        poisoned[..., sample + bridge.delay + offset] = torch.nan
        finite = whole(bridge, poisoned)[0, 0, : sample + 1].isfinite()
        assert finite[:sample].all()
        assert bool(finite[sample]) == bool(offset)


CAUSAL_SMALL = {
    "unet_causal": partial(UNetCausal, channels=(8, 8, 8)),
    "dpcrn": DPCRN_SMALL,
    "bsrnn": partial(BSRNN, causal=True, channels=4, layers=1, rnn_channels=4, mlp_channels=4),
    "spectrogram_transformer": partial(
        SpectrogramTransformer, causal=True, attention_frames=10, dim=16, heads=2, depth=2
    ),
}


@pytest.mark.parametrize("name", CAUSAL_SMALL)
def test_a_frame_gets_back_the_loudness_of_its_own_time(name: str) -> None:
    """Not that of the future, which the sensors that arrive early have: a pause before an onset stays one."""
    bridge = Bridge(
        partial(CAUSAL_SMALL[name], lookahead_ms=100), SchroedingerBridge(), domain="waveform", in_channels=2, steps=1
    )
    [network] = [part for part in bridge.domain.network.modules() if isinstance(part, SpectralNetwork)]
    real, imag = torch.randn(2, 1, 2 * 2 + 2, 5, 3)  # early, late, signal and perhaps time: the networks do not care
    parts = network.parts_in_time(torch.cat([real, imag], dim=1))
    assert torch.equal(parts, torch.cat([real[:, 2:], imag[:, 2:]], dim=1))


def test_conditions_are_of_the_sensor_that_is_counted_from_the_last() -> None:
    network = partial(Conditioned, network=DPCRN_SMALL, condition_channel=-1)
    for lookahead in ({}, {"lookahead_ms": 25.0}):
        bridge = Bridge(partial(network, **lookahead), Flow(), in_channels=2, domain="waveform")
        conditioned = bridge.domain.network
        assert isinstance(conditioned, Conditioned)
        assert conditioned.condition_channel == 1
        assert {part.early for part in conditioned.modules() if isinstance(part, WaveformNetwork)} == {
            2 if lookahead else 0
        }


def test_the_path_starts_from_the_sensor_at_the_outputs_own_time() -> None:
    """At t = 1 the state is the sensor, and an output that is the state is the sensor, aligned."""

    class TheState(WaveformNetwork):
        def __init__(self, in_channels: int, skip_channel: int, lookahead_ms: float) -> None:
            super().__init__(16000, in_channels, 1, True, skip_channel=skip_channel, lookahead_ms=lookahead_ms)
            self.source = nn.Parameter(torch.zeros(()))

        def body(self, inputs: Tensor) -> Tensor:
            return inputs[:, [-2]] + self.source * inputs[:, [self.skip_channel]]  # the last channel is the time

    bridge = Bridge(
        partial(TheState, lookahead_ms=1),
        SchroedingerBridge(),
        in_channels=2,
        source_channel=0,
        domain="waveform",
        steps=1,
    )
    network = bridge.domain.network
    assert isinstance(network, TheState)
    assert (network.in_channels, network.skip_channel, network.future) == (2 * 2 + 2, 2, 0)
    assert bridge.lookahead == 16
    recording = torch.randn(1, 2, 100)
    assert torch.equal(whole(bridge.eval(), recording), recording[:, :1])


@pytest.mark.parametrize("domain", ["spectrum", "waveform"])
def test_with_additional_look_ahead_what_is_taught_is_aligned_with_the_file(domain: Any) -> None:
    torch.manual_seed(0)
    bridge, plain = (Bridge(network, Flow(), domain=domain) for network in (AHEAD_SMALL, DPCRN_SMALL))
    target = 0.1 * torch.randn(2, 1, 5000)
    batch: Any = {"inputs": target.roll(3), "target": target, "lengths": torch.tensor([5000, 3000])}
    outputs, expected = bridge.teach(batch), plain.teach(batch)
    assert outputs["estimate"].shape == target.shape
    wanted, without = outputs["prediction_target"], expected["prediction_target"]
    places = min(wanted.shape[-1], without.shape[-1])
    torch.testing.assert_close(wanted[..., :places], without[..., :places])
    mask = outputs["prediction_mask"]
    assert mask.shape == (2, wanted.shape[-1])
    counted = bridge.domain.places(torch.tensor([5000 - AHEAD, 3000]))  # the first goes on after its crop, unheard
    assert torch.equal(mask, torch.arange(mask.shape[-1]) < counted[:, None])
    assert torch.equal(mask[1, :places], expected["prediction_mask"][1, :places])
    loss = PredictionMseLoss()(**{name: outputs[name] for name in bridge.provides})
    loss.backward()
    assert all(p.grad is not None for p in bridge.parameters())
    perfect = bridge.domain.synthesis(wanted)
    late = bridge.domain.lookahead
    torch.testing.assert_close(perfect[..., late : late + 5000], target, atol=1e-4, rtol=1e-3)


def test_a_network_that_is_not_causal_has_no_additional_look_ahead_on_a_path_either() -> None:
    with pytest.raises(ConfigError, match="Bridge: lookahead_ms=40 is for causal networks; this one is not"):
        Bridge(partial(SEANet, **SEANET, lookahead_ms=40), Flow(), domain="waveform")


def test_results_repeat_whatever_else_is_in_the_batch_and_change_with_the_seed() -> None:
    torch.manual_seed(0)
    bridge = Bridge(DPCRN_SMALL, Flow(), predict="velocity", steps=2).eval()
    one, other = 0.1 * torch.randn(2, 1, 1, 4000)
    alone = whole(bridge, one)
    assert torch.equal(whole(bridge, one), alone)
    torch.testing.assert_close(whole(bridge, torch.cat([other, one]))[1:], alone, atol=1e-6, rtol=1e-4)
    bridge.seed = 1
    assert (whole(bridge, one) - alone).abs().max() > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize(
    ("network", "path", "settings"),
    [*((DPCRN_SMALL, *each) for each in FOLLOWED), *((AHEAD_SMALL, *each) for each in FOLLOWED[1::3])],
    ids=[*(str(each) for each in FOLLOWED), *(f"ahead-{each}" for each in FOLLOWED[1::3])],
)
def test_an_exported_step_with_its_noise_equals_the_whole_file(
    network: Any, path: Path, settings: dict[str, Any]
) -> None:
    torch.manual_seed(0)
    bridge = Bridge(network, path, steps=2, **settings).eval()
    stepper = OnnxStepper(export_step(bridge).SerializeToString())
    recording = 0.1 * torch.randn(1, 1, 12 * stepper.frame)
    steps = [torch.from_numpy(stepper.step(chunk[0].numpy())) for chunk in recording.split(stepper.frame, -1)]
    streamed, expected = torch.cat(steps, dim=-1).flatten(), whole(bridge, recording).flatten()
    scale, late = expected.abs().max(), bridge.lookahead
    torch.testing.assert_close(streamed[late:] / scale, expected[:-late] / scale, atol=1e-5, rtol=1e-4)


def test_a_stream_of_days_draws_the_noise_of_its_place() -> None:
    bridge = Bridge(DPCRN_SMALL, Flow(), predict="velocity", steps=1).eval()
    like, far = torch.zeros(1, 1, 2, 201, 4), 3 * 2**30 + 65_533
    with bridge.streaming(1):
        bridge.set_state({**bridge.get_state(), "place": torch.tensor([[float(far // 2**16), float(far % 2**16)]])})
        start = bridge._start(4)
        assert bridge.recall("place").tolist() == [[far // 2**16 + 1, 1]]
        noise = bridge._noise(0, like, start)
    values = normal_at(0, 0, torch.arange(far, far + 4), 402)
    assert torch.equal(noise, bridge.domain.noise(values.reshape(like.shape)))


def test_a_bundle_knows_its_sampler(tmp_path: File) -> None:
    torch.manual_seed(0)
    sizes = {"channels": [8, 8, 8, 8, 8], "blocks": 1}
    config = {
        "_target_": "bcfusion.objectives.bridge.Bridge",
        "network": {"_target_": "bcfusion.generators.dpcrn.DPCRN", "_partial_": True, **sizes},
        "path": {"_target_": "bcfusion.objectives.paths.Flow", "sigma": 0.3},
        "predict": "velocity",
        "steps": 4,
        "seed": 5,
    }
    bridge = Bridge(DPCRN_SMALL, Flow(sigma=0.3), predict="velocity", steps=4, seed=5).eval()
    sensor = 0.1 * torch.randn(1, 1, 3000)
    loaded = load_generator(save_bundle(tmp_path / "bundle", bridge, config, ["body"], {"step": 0}))
    assert isinstance(loaded, Bridge)
    assert (loaded.steps, loaded.seed) == (4, 5)
    torch.testing.assert_close(whole(loaded, sensor), whole(bridge, sensor))


# ---------------------------------------------------------------- time


def test_without_a_path_the_time_is_that_of_the_source() -> None:
    network = Told(lambda state, time: state + time, 1)
    assert network(torch.zeros(2, 1, 3)).unique().tolist() == [1.0]
    with network.at_time(torch.tensor([0.25, 0.5])):
        assert network(torch.zeros(2, 1, 3))[:, 0, 0].tolist() == [0.25, 0.5]
    assert network(torch.zeros(1, 1, 1)).item() == 1.0


def test_times_that_differ_have_embeddings_that_differ() -> None:
    torch.manual_seed(0)
    embedding = TimeEmbedding(8)
    vectors = embedding(torch.tensor([0.0, 0.5, 0.501, 1.0]))
    assert vectors.shape == (4, 8)
    assert torch.cdist(vectors, vectors).add(torch.eye(4)).min() > 1e-4


def test_the_frame_of_a_stream_is_that_of_the_network() -> None:
    bridge = Bridge(partial(DCCRN, causal=True, head="mapping", channels=(4, 4), lstm_units=4), Flow())
    assert usual_frame(bridge) == usual_frame(bridge.domain.network) == 3 * bridge.hop


@pytest.mark.parametrize("predict", ["data", "velocity"])
def test_the_noise_of_a_spectrum_is_complex_and_of_unit_power(predict: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """As published: sigma belongs to the complex number. What a real signal does not have is without noise."""
    bridge = Bridge(DPCRN_SMALL, Flow("noise", 0.7), predict=predict, steps=2).eval()
    bins = bridge.domain.shape[1]
    like = torch.zeros(1, 1, 2, bins, 4000)
    drawn = bridge._noise(0, like, torch.tensor(0))[0, 0]
    power = drawn.square().sum(0).mean(-1)
    torch.testing.assert_close(power[1:-1], torch.ones(bins - 2), atol=0.1, rtol=0)
    torch.testing.assert_close(drawn.square().mean(-1)[0], torch.full((bins,), 0.5), atol=0.1, rtol=0)
    assert torch.equal(drawn[1, [0, -1]], torch.zeros(2, 4000))

    seen: list[Tensor] = []
    monkeypatch.setattr(bridge, "_passed", lambda state, *_, **__: seen.append(state) or torch.zeros_like(state))
    monkeypatch.setattr(torch, "rand", lambda *size, **_: torch.ones(*size))  # the source itself
    batch: Any = {name: torch.zeros(4, 1, 16000) for name in ("inputs", "target")}
    bridge.teach({**batch, "lengths": torch.full((4,), 16000)})
    (state,) = seen
    assert float(state[..., 5:-5, :].square().sum(2).mean()) == pytest.approx(0.7**2, rel=0.05)
    assert state[:, :, 1, [0, -1]].abs().max() == 0


@pytest.mark.parametrize("network", [DPCRN_SMALL, partial(DCCRN, head="mapping", channels=(4, 4), lstm_units=4)])
def test_all_noise_of_a_spectrum_can_be_taken_away(
    network: Callable[..., nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the exact velocity in the bins that a network makes, the result does not depend on the noise."""
    results = []
    for seed in (0, 1):
        bridge = Bridge(network, Flow(), predict="velocity", steps=3, seed=seed).eval()
        made = torch.zeros(2, bridge.domain.shape[1], 1)
        made[:, getattr(bridge.domain.network, "lowest_bin", 0) :] = 1.0
        made[1, [0, -1]] = 0.0

        def exact(state: Tensor, sensors: Tensor, time: Tensor, aligned: bool, made: Tensor = made) -> Tensor:
            return made * state / time.view(-1, 1, 1, 1, 1)  # towards silence

        monkeypatch.setattr(bridge, "_passed", exact)
        results.append(whole(bridge, torch.zeros(1, 1, 3200)))
    assert max(float(result.abs().max()) for result in results) < 1e-5


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("network", "domain"),
    [
        (partial(DPCRN_SMALL, head="mask"), "spectrum"),
        (partial(ResUNetMask, channels=(2, 2)), "spectrum"),
        (partial(ConvTasNet, filters=8, bottleneck_channels=4, hidden_channels=4, repeats=1, blocks=1), "waveform"),
        (SpectrogramVAE, "spectrum"),
        (partial(Conditioned, network=partial(DPCRN_SMALL, head="mask")), "waveform"),
        (partial(EBEN, channels=2, latent_channels=4, input_bands=1), "waveform"),
        (partial(HifiGan, channels=16, sensor=None), "waveform"),
    ],
    ids=["dpcrn", "resunet_mask", "conv_tasnet", "spectrogram_vae", "conditioned", "eben", "hifigan"],
)
def test_a_network_that_cannot_take_the_noise_away_learns_no_velocity(
    network: Callable[..., nn.Module], domain: Any
) -> None:
    with pytest.raises(ConfigError, match="takes no noise of the path away"):
        Bridge(network, Flow(), domain=domain, predict="velocity")


def test_a_mask_is_a_velocity_where_there_is_no_noise() -> None:
    """(1 - mask) y leads from the sensor y to its product with the mask."""
    assert Bridge(partial(DPCRN_SMALL, head="mask"), Flow(sigma=0.0), predict="velocity").only_masks


def test_what_a_network_looks_ahead_by_itself_is_not_taught_where_a_crop_ends() -> None:
    laco: dict[str, Any] = {"channels": 4, "blocks": 1, "depth": 2, "time_kernels": (3, 5), "frequency_kernels": (3, 5)}
    shares = {"encoder_future": 0.5, "decoder_future": 0.5}
    bridge = Bridge(partial(LaCoSENet, **laco, **shares), Flow(), domain="waveform", predict="velocity")
    ahead = additional_lookahead(bridge)
    assert ahead == 100 * (3 + 3)
    batch: Any = {name: torch.randn(1, 1, 8000) for name in ("inputs", "target")}
    outputs = bridge.teach({**batch, "lengths": torch.tensor([8000])})
    assert outputs["prediction_mask"][0].nonzero().max() == 8000 - ahead - 1


def test_look_aheads_in_a_row_add_up_and_side_by_side_do_not() -> None:
    ahead = partial(DPCRN_SMALL, lookahead_ms=25.0)  # two hops of 12.5 ms
    sizes: dict[str, Any] = {"n_fft": 400, "hop_length": 100, "win_length": 400}
    assert additional_lookahead(AttentionFusion(ahead, ahead, **sizes)) == 800
    assert additional_lookahead(AttentionFusion(None, ahead, **sizes)) == 400
    assert additional_lookahead(LateFusion(ahead)) == 400


def test_a_network_of_another_sample_rate_is_refused() -> None:
    with pytest.raises(ConfigError, match="domain=spectrum: DPCRN works at 16000 Hz, the path at 48000 Hz"):
        Bridge(DPCRN_SMALL, Flow(), sample_rate=48000)


@pytest.mark.parametrize(
    "network",
    [
        partial(LateFusion, branch=partial(SEANet, **SEANET)),
        partial(AttentionFusion, branch=None, network=partial(SEANet, **SEANET)),
        partial(HifiGan, channels=32, rates=(8, 8), kernel_sizes=(16, 16), sensor=-1),
        BandGain,
        TwoBranch,
    ],
    ids=["late_fusion", "attention_fusion", "vocoder", "band_gain", "two_branch"],
)
def test_a_network_that_does_not_hear_signal_and_time_is_refused(network: Callable[..., nn.Module]) -> None:
    with pytest.raises(ConfigError, match="does not hear all channels of its input alike: it cannot lie on a path"):
        Bridge(network, Flow(), domain="waveform")


def test_a_network_without_channels_is_refused() -> None:
    with pytest.raises(ConfigError, match="VoiceFixer takes no in_channels"):
        Bridge(VoiceFixer, Flow(), domain="waveform")


@pytest.mark.parametrize(
    ("path", "settings", "message"),
    [
        (Flow(), {"solver": "sde"}, "solver='sde' must be one of euler, heun"),
        (SchroedingerBridge(), {"solver": "heun"}, "solver='heun' must be one of euler, sde"),
        (SchroedingerBridge(), {"predict": "velocity"}, "predict=velocity: SchroedingerBridge has none"),
        (Flow(), {"guidance": 2.0}, "guidance=2.0 needs p_condition below 1"),
        (Flow(), {"steps": 0}, "steps=0 must be at least 1"),
        (Flow(), {"least_time": 0.0}, "least_time=0.0 must be above 0"),
        (Flow(), {"p_source": 1.5}, "p_source=1.5 must be from 0 to 1"),
        (Flow(), {"p_condition": 0.0}, "p_condition=0.0 must be above 0"),
        (Flow(), {"source_channel": 1}, "source_channel=1 must be from -1 to 0"),
        (Flow(), {"domain": "mel"}, "domain='mel' must be one of spectrum, waveform"),
    ],
)
def test_what_does_not_fit_is_refused(path: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Bridge(DPCRN_SMALL, path, **settings)


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (partial(SEANet, **SEANET), "SEANet does not map one complex spectrum to another: take domain=waveform"),
        (Identity, "Identity does not map"),
        (partial(DPCRN, frequency_norm="learnable"), "domain=spectrum: DPCRN has frequency_norm"),
    ],
)
def test_the_spectrum_needs_a_network_on_spectra(network: Callable[..., nn.Module], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Bridge(network, Flow())


def test_scales_per_bin_are_refused_on_waveforms_too() -> None:
    with pytest.raises(ConfigError, match="domain=waveform: DPCRN has frequency_norm"):
        Bridge(partial(DPCRN, frequency_norm="learnable"), Flow(), domain="waveform")
