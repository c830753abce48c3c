from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bcfusion.generators.seanet import SEANet
from bcfusion.nn.network import WaveformNetwork
from bcfusion.nn.norm import CumulativeLayerNorm
from bcfusion.probe import count_parameters, macs_per_second, measured_delay, receptive_field


class Wrapped(nn.Module):
    """A generator made of any modules that keep the length."""

    provides: tuple[str, ...] = ()

    def __init__(self, *parts: nn.Module, hop: int = 1) -> None:
        super().__init__()
        self.sample_rate, self.in_channels, self.hop, self.causal, self.delay = 1000, 1, hop, False, 0
        self.parts = nn.Sequential(*parts)

    def forward(self, inputs: Tensor) -> dict[str, Tensor]:
        return {"estimate": self.parts(inputs)}


class Past(nn.Module):
    """Kernel of five samples, the last of which is the present one."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(1, 1, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (4, 0)))


class Recurrent(nn.Module):
    def __init__(self, layer: nn.RNNBase) -> None:
        super().__init__()
        self.layer = layer
        self.out = nn.Linear(layer.hidden_size * (2 if layer.bidirectional else 1), 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.layer(x.transpose(1, 2))[0]).transpose(1, 2)


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(1, 8)
        self.attend = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        h = self.embed(x.transpose(1, 2))
        return self.attend(h, h, h, need_weights=False)[0].mean(-1)[:, None]


class PeakNorm(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x / x.abs().amax(dim=-1, keepdim=True)


def dilated(dilation: int) -> nn.Conv1d:
    return nn.Conv1d(1, 1, 3, dilation=dilation, padding=dilation)


def test_stacked_dilations_add_up() -> None:
    assert receptive_field(Wrapped(dilated(1), nn.ReLU(), dilated(3), nn.ReLU(), dilated(9))) == (13, 13)


def test_causal_convolution_sees_its_kernel_and_no_future() -> None:
    network = Wrapped(Past())
    assert receptive_field(network) == (4, 0)
    assert measured_delay(network) == 0


def test_a_frame_reaches_as_far_as_its_worst_phase() -> None:
    # averages of 16 samples, held for 16: the first sample of a frame depends on its last, 15 later, and vice versa.
    network = Wrapped(nn.AvgPool1d(16), nn.Upsample(scale_factor=16), hop=16)
    assert receptive_field(network) == (15, 15)


@pytest.mark.parametrize(
    ("strides", "causal", "past"),
    [
        ((2, 2, 8, 8), False, 3105),
        ((3, 5), False, 236),
        ((4,), False, 63),
        ((2, 2, 8, 8), True, 5955),
        ((3, 5), True, 450),
        ((4,), True, 123),
    ],
)
def test_measured_field_of_seanet(strides: tuple[int, ...], causal: bool, past: int) -> None:
    network = SEANet(channels=1, strides=strides, bottleneck_channels=2, causal=causal)
    assert receptive_field(network) == (past, network.delay)
    assert measured_delay(network) == network.delay


def test_measuring_seanet_costs_four_seconds_of_audio_at_most() -> None:
    network = SEANet(channels=1, bottleneck_channels=2)
    seen = []
    network.register_forward_hook(lambda _, inputs, output: seen.append(inputs[0].shape[0] * inputs[0].shape[2]))
    receptive_field(network)
    assert sum(seen) <= 4 * network.sample_rate


def test_without_a_gradient_the_field_is_the_same() -> None:
    class Frozen(SEANet):
        def forward(self, inputs: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
            with torch.no_grad():
                return super().forward(inputs)  # type: ignore[return-value]

    network = Frozen(channels=1, bottleneck_channels=2)
    assert receptive_field(network) == (3105, 3105)


def test_recurrence_has_no_bounded_past_but_may_have_no_delay() -> None:
    assert receptive_field(Wrapped(Recurrent(nn.LSTM(1, 2, batch_first=True))), max_seconds=1.0) is None
    assert measured_delay(Wrapped(Recurrent(nn.GRU(1, 2, batch_first=True))), max_seconds=1.0) == 0
    both_ways = Wrapped(Recurrent(nn.GRU(1, 2, batch_first=True, bidirectional=True)))
    assert measured_delay(both_ways, max_seconds=1.0) is None


def test_normalisation_by_the_whole_file_is_unbounded() -> None:
    assert receptive_field(Wrapped(PeakNorm(), dilated(1)), max_seconds=1.0) is None


def test_field_beyond_the_limit_is_none() -> None:
    network = Wrapped(dilated(100), dilated(200))
    assert receptive_field(network, max_seconds=0.31) == (300, 300)
    assert receptive_field(network, max_seconds=0.29) is None


def test_probing_leaves_no_trace() -> None:
    network = Wrapped(dilated(1), nn.BatchNorm1d(1), nn.Dropout(0.5))
    network.parts[1].eval()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    receptive_field(network)
    macs_per_second(network)
    assert [part.training for part in network.parts] == [True, False, True]
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())
    assert not network.parts[0]._forward_hooks


def test_macs_of_a_convolution_are_its_weights_per_sample() -> None:
    network = Wrapped(nn.Conv1d(1, 4, 5, padding=2), nn.Conv1d(4, 1, 3, padding=1))
    assert macs_per_second(network) == 1000 * (4 * 5 + 4 * 3)


def test_padding_does_not_count() -> None:
    network = Wrapped(nn.Conv1d(1, 2, 64, stride=64), nn.ConvTranspose1d(2, 1, 64, stride=64), hop=64)
    assert macs_per_second(network) == pytest.approx(1000 * (2 + 2))


@pytest.mark.slow
@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_macs_of_recurrent_layers_are_their_matrices_per_step(kind: type[nn.RNNBase]) -> None:
    layer = kind(1, 6, num_layers=2, bidirectional=True, batch_first=True)
    gates = {nn.LSTM: 4, nn.GRU: 3}[kind]
    matrices = 2 * gates * 6 * ((1 + 6) + (12 + 6))
    assert macs_per_second(Wrapped(Recurrent(layer))) == 1000 * (matrices + 12)


def test_macs_of_attention_are_counted_in_eval_mode() -> None:
    projections, products = 1000 * (8 + 4 * 8 * 8), 2 * 1000 * 1000 * 8
    assert macs_per_second(Wrapped(Attention()).eval()) == projections + products


def test_parameters_are_counted_once() -> None:
    shared = nn.Conv1d(1, 1, 3)
    assert count_parameters(nn.Sequential(shared, shared, nn.BatchNorm1d(1))) == 4 + 2


def test_an_unbounded_memory_is_known_without_a_measurement() -> None:
    class Remembering(WaveformNetwork):
        def __init__(self) -> None:
            super().__init__(1000, 1, hop=1, causal=True)
            self.memory = CumulativeLayerNorm(1)

        def body(self, inputs: Tensor) -> Tensor:
            raise AssertionError("nothing is to be computed")

    assert receptive_field(Remembering()) is None
