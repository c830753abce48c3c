from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from bcfusion.nn.conv import Conv1d, ConvTranspose1d
from bcfusion.nn.conv2d import Conv2d, ConvTranspose2d
from bcfusion.nn.delay import Delay
from bcfusion.nn.film import TFiLM
from bcfusion.nn.norm import CumulativeLayerNorm
from bcfusion.nn.pqmf import PQMF
from bcfusion.nn.recurrent import GRU, LSTM
from bcfusion.nn.resample import Resample
from bcfusion.nn.stft import InverseStft, Stft
from bcfusion.nn.streaming import StreamingError, StreamingModule


class Net(StreamingModule):
    """Down by two and up again, through a plain container."""

    def __init__(self, causal: bool = True) -> None:
        super().__init__()
        self.causal = causal
        self.body = nn.Sequential(
            Conv1d(1, 3, 4, 2, causal=causal), nn.ELU(), ConvTranspose1d(3, 1, 6, 2, causal=causal)
        )

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.body(x)
        return y


def test_the_state_is_flat_and_named_by_the_path_of_its_layer() -> None:
    model = Net()
    with model.streaming(5):
        state = model.get_state()
    assert {name: tuple(t.shape) for name, t in state.items()} == {
        "body.0.past": (5, 1, 2),
        "body.2.overlap": (5, 1, 4),
    }


def test_a_chunk_replaces_the_state_and_never_writes_into_it() -> None:
    model = Net()
    with torch.inference_mode(), model.streaming(1):
        model(torch.randn(1, 1, 8))
        before = model.get_state()
        copies = {name: tensor.clone() for name, tensor in before.items()}
        model(torch.randn(1, 1, 8))
        after = model.get_state()
    for name, tensor in before.items():
        assert torch.equal(tensor, copies[name])
        assert not torch.equal(tensor, after[name])


def test_a_restored_state_continues_where_it_was_saved() -> None:
    model, x = Net().double(), torch.randn(2, 1, 24, dtype=torch.float64)
    with torch.inference_mode():
        with model.streaming(2):
            model(x[..., :10])
            saved = model.get_state()
            straight = model(x[..., 10:])
        with model.streaming(2):
            model(torch.randn(2, 1, 6, dtype=torch.float64))  # another stream in between
            model.set_state(saved)
            resumed = model(x[..., 10:])
    assert torch.equal(straight, resumed)


def test_streaming_ends_with_its_block_even_if_a_chunk_fails() -> None:
    model, x = Net(), torch.randn(1, 1, 16)
    whole = model(x)
    with pytest.raises(StreamingError, match="multiple of the stride 2"), model.streaming(1):
        model(x[..., :3])
    assert not model.is_streaming
    assert torch.equal(model(x), whole)


def test_a_model_that_is_not_causal_refuses_to_stream_and_names_the_layer() -> None:
    with pytest.raises(StreamingError, match="Net is not causal"), Net(causal=False).streaming(1):
        pass
    hidden = Net()
    hidden.body[0] = Conv1d(1, 3, 4, 2)
    with pytest.raises(StreamingError, match=r"Conv1d at 'body\.0' is not causal"), hidden.streaming(1):
        pass
    assert not any(m.is_streaming for m in hidden.modules() if isinstance(m, StreamingModule))


def test_streaming_cannot_be_nested_and_the_outer_stream_survives_the_attempt() -> None:
    model = Net()
    with model.streaming(1):
        model(torch.randn(1, 1, 8))
        state = model.get_state()
        with pytest.raises(StreamingError, match="streaming already"), model.streaming(1):
            pass
        assert all(torch.equal(state[name], tensor) for name, tensor in model.get_state().items())


def test_a_state_of_another_batch_size_or_network_is_refused() -> None:
    model = Net()
    with model.streaming(2):
        wide = model.get_state()
    with model.streaming(1):
        with pytest.raises(StreamingError, match=r"'body\.0\.past' has shape \(2, 1, 2\), not \(1, 1, 2\)"):
            model.set_state(wide)
        with pytest.raises(StreamingError, match=r"missing 'body\.0\.past'"):
            model.set_state({})
        with pytest.raises(StreamingError, match="unknown 'x'"):
            model.set_state({**model.get_state(), "x": torch.zeros(1)})


def test_there_is_no_state_outside_of_streaming() -> None:
    model = Net()
    with pytest.raises(StreamingError, match="only inside"):
        model.get_state()
    with pytest.raises(StreamingError, match="only inside"):
        model.set_state({})


def test_the_state_has_the_precision_of_the_network() -> None:
    model = Net().double()
    with model.streaming(1):
        assert {tensor.dtype for tensor in model.get_state().values()} == {torch.float64}


def test_a_copy_made_while_streaming_has_a_state_of_its_own() -> None:
    model = Net()
    with torch.inference_mode(), model.streaming(1):
        model(torch.randn(1, 1, 8))
        twin = copy.deepcopy(model)
        state = model.get_state()
        twin(torch.randn(1, 1, 8))
        assert all(torch.equal(state[name], tensor) for name, tensor in model.get_state().items())


def test_a_step_exports_as_a_function_of_chunk_and_state() -> None:
    class Step(nn.Module):
        def __init__(self, model: Net, names: list[str]) -> None:
            super().__init__()
            self.model, self.names = model, names

        def forward(self, x: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
            with self.model.streaming(x.shape[0]):
                self.model.set_state(dict(zip(self.names, state, strict=True)))
                y = self.model(x)
                return (y, *self.model.get_state().values())

    model, chunks = Net().eval(), torch.randn(3, 1, 1, 8)
    with model.streaming(1):
        start = model.get_state()
        expected = [model(chunk) for chunk in chunks]
    step = torch.export.export(Step(model, list(start)), (chunks[0], *start.values())).module()
    state: tuple[Tensor, ...] = tuple(start.values())
    for chunk, wanted in zip(chunks, expected, strict=True):
        y, *rest = step(chunk, *state)
        state = tuple(rest)
        torch.testing.assert_close(y, wanted)


@pytest.mark.parametrize("layer", [nn.BatchNorm1d(3), nn.Dropout(0.5)])
def test_layers_that_measure_or_drop_in_training_mode_are_refused(layer: nn.Module) -> None:
    model, x = Net(), torch.randn(1, 1, 8)
    model.body.insert(1, layer)
    with (
        pytest.raises(StreamingError, match=r"at 'body\.1' is in training mode: call model.eval\(\) first"),
        model.streaming(1),
    ):
        pass
    model.eval()
    with torch.inference_mode(), model.streaming(1):
        assert model(x).shape == x.shape


NOTHING = torch.zeros(1, 2, 0)
WITH_MEMORY: dict[str, tuple[StreamingModule, tuple[Tensor, ...]]] = {
    "Conv1d": (Conv1d(2, 1, 3, causal=True), (NOTHING,)),
    "Conv1d without context": (Conv1d(2, 1, 1, causal=True), (NOTHING,)),
    "ConvTranspose1d": (ConvTranspose1d(2, 1, 4, 2, causal=True), (NOTHING,)),
    "Conv2d": (Conv2d(2, 1, (3, 2), 4, causal=True), (torch.zeros(1, 2, 4, 0),)),
    "ConvTranspose2d": (ConvTranspose2d(2, 1, (3, 2), 4, causal=True), (torch.zeros(1, 2, 4, 0),)),
    "Delay": (Delay(3), (NOTHING,)),
    "LSTM": (LSTM(2, 2), (torch.zeros(1, 0, 2),)),
    "GRU": (GRU(2, 2), (torch.zeros(1, 0, 2),)),
    "CumulativeLayerNorm": (CumulativeLayerNorm(2), (NOTHING,)),
    "TFiLM": (TFiLM(2, 3), (NOTHING,)),
    "PQMF": (PQMF(4, 32, causal=True), (NOTHING[:, :1],)),
    "Stft": (Stft(16, 4, 16), (NOTHING[:, :1],)),
    "InverseStft": (InverseStft(16, 4, 16), (torch.zeros(1, 9, 0), torch.zeros(1, 9, 0))),
    "Resample": (Resample(16000, 8000, causal=True), (NOTHING[:, :1],)),
}


@pytest.mark.parametrize("name", WITH_MEMORY)
def test_a_layer_refuses_a_chunk_of_no_frames(name: str) -> None:
    layer, chunk = WITH_MEMORY[name]
    forward = layer.analysis if isinstance(layer, PQMF) else layer
    kind = type(layer).__name__
    with layer.streaming(1), pytest.raises(StreamingError, match=f"{kind} takes chunks of at least one frame"):
        forward(*chunk)
