from __future__ import annotations

import pytest
import torch
from torch import nn

from bcfusion.errors import ConfigError
from bcfusion.nn import recurrent
from bcfusion.nn.recurrent import GRU, LSTM, Bidirectional, Cell, along_bands, along_time


@pytest.mark.parametrize("cell", [LSTM, GRU])
@pytest.mark.parametrize("layers", [1, 2])
def test_a_recurrent_layer_continues_where_the_last_chunk_ended(cell: type[LSTM | GRU], layers: int) -> None:
    torch.manual_seed(0)
    model = cell(3, 5, layers).double()
    x = torch.randn(2, 14, 3, dtype=torch.float64)
    whole = model(x)
    with model.streaming(2):
        parts = torch.cat([model(part) for part in x.split([1, 2, 3, 7, 1], dim=1)], dim=1)
    torch.testing.assert_close(parts, whole, atol=1e-12, rtol=0)


@pytest.mark.parametrize("layers", [1, 2])
def test_a_large_lstm_computes_short_chunks_as_torch_does(monkeypatch: pytest.MonkeyPatch, layers: int) -> None:
    torch.manual_seed(0)
    model, x = LSTM(7, 5, layers).eval(), torch.randn(1, 40, 7)
    called = []
    own = LSTM._step_by_step
    monkeypatch.setattr(LSTM, "_step_by_step", lambda *given: called.append(1) or own(*given))
    with torch.inference_mode():
        expected = model(x)
        for many, calls in ((2**20, 0), (1, 3)):  # no chunk of small weights; of large ones those up to 32 frames
            monkeypatch.setattr(recurrent, "_MANY", many)
            with model.streaming(1):
                found = torch.cat([model(part) for part in x.split([1, 2, 4, 33], dim=1)], dim=1)
                after = model.get_state()
            torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)
            assert {name: tuple(state.shape) for name, state in after.items()} == {
                "hidden": (1, layers, 1, 5),
                "memory": (1, layers, 1, 5),
            }
            assert len(called) == calls


@pytest.mark.parametrize("cell", [LSTM, GRU])
def test_each_band_of_each_item_has_its_own_state(cell: type[LSTM | GRU]) -> None:
    torch.manual_seed(0)
    model = cell(3, 5, streams=4).double()
    x = torch.randn(2, 3, 4, 9, dtype=torch.float64)  # items, channels, bands, frames
    whole = along_time(model, x)
    assert whole.shape == (2, 5, 4, 9)
    alone = model(x[1, :, 2].T[None])
    torch.testing.assert_close(whole[1, :, 2].T, alone[0])
    with model.streaming(2):
        parts = torch.cat([along_time(model, part) for part in x.split([2, 3, 4], dim=-1)], dim=-1)
        assert all(tensor.shape[0] == 2 for tensor in model.get_state().values()), "the batch comes first"
    torch.testing.assert_close(parts, whole, atol=1e-12, rtol=0)


def test_a_layer_along_the_bands_sees_one_frame() -> None:
    layer, x = nn.LSTM(3, 5, batch_first=True, bidirectional=True), torch.randn(2, 3, 4, 9)
    whole = along_bands(layer, x)
    assert whole.shape == (2, 10, 4, 9)
    torch.testing.assert_close(whole[..., 5:6], along_bands(layer, x[..., 5:6]))


def test_a_bidirectional_layer_cannot_be_causal_and_does_not_stream() -> None:
    with pytest.raises(ConfigError, match="LSTM: causal=True is impossible"):
        LSTM(3, 5, bidirectional=True)
    both = GRU(3, 5, bidirectional=True, causal=False)
    assert both.output_size == 10
    assert not both.causal
    assert both(torch.randn(2, 7, 3)).shape == (2, 7, 10)


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_both_directions_of_an_item_ignore_what_lies_behind_it(cell: Cell) -> None:
    torch.manual_seed(0)
    model, x = Bidirectional(cell, 3, 5, num_layers=2), torch.randn(2, 9, 3)
    lengths = torch.tensor([9, 6])
    whole = model(x, lengths)
    assert whole.shape == (2, 9, model.output_size) == (2, 9, 10)
    torch.testing.assert_close(whole[1:, :6], model(x[1:, :6], lengths[1:]))
    # and equal torch's own layer for an item that fills the batch
    reference = (nn.GRU if cell == "gru" else nn.LSTM)(3, 5, 2, batch_first=True, bidirectional=True)
    for number, (ahead, back) in enumerate(zip(model.forwards, model.backwards, strict=True)):
        for name, weight in ahead.named_parameters():
            getattr(reference, name.replace("_l0", f"_l{number}")).data.copy_(weight)
        for name, weight in back.named_parameters():
            getattr(reference, name.replace("_l0", f"_l{number}_reverse")).data.copy_(weight)
    torch.testing.assert_close(whole[:1], reference(x[:1])[0])
