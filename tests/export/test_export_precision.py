"""Smaller weights: parameters are rounded wherever the graph has put them, filters nowhere."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from bcfusion.export.onnx_export import export_step
from bcfusion.export.precision import Weights, in_float16, in_int8
from bcfusion.export.step import ready
from bcfusion.generators.band_gain import BandGain
from bcfusion.nn.stft import _steps

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")


@pytest.fixture(scope="module")
def network() -> nn.Module:
    """In the graph its bands are transposed, and the gates of its GRUs are in another order."""
    torch.manual_seed(0)
    bands = BandGain(hidden_size=64, n_feature_bands=40, n_bands=20, bidirectional=False, normalisation="running")
    return ready(bands)


@pytest.fixture(scope="module")
def model(network: nn.Module) -> Any:
    return export_step(network)


def constants(model: Any) -> dict[str, np.ndarray]:
    return {each.name: onnx.numpy_helper.to_array(each) for each in model.graph.initializer}


def matching(model: Any, tensor: torch.Tensor) -> list[np.ndarray]:
    """The constants of a graph that hold a tensor's values, in any order."""
    wanted = np.sort(tensor.detach().numpy().ravel())
    found = (np.sort(values.ravel()) for values in constants(model).values() if values.size == wanted.size)
    return [values for values in found if np.array_equal(values, wanted)]


@pytest.mark.slow
@pytest.mark.parametrize("change", [in_float16, in_int8])
def test_filters_stay_as_they_are_and_parameters_do_not(change: Any, network: nn.Module, model: Any) -> None:
    small = change(model, Weights(network))
    filters = dict(network.named_buffers())
    assert set(filters) == {"stft.kernel", "istft.kernel", "feature_bands.weights", "bands.weights"}
    for name, tensor in filters.items():
        if name.endswith("kernel"):  # of few frames in two steps, the second of which is transposed in the inverse
            steps = _steps(512)
            assert steps is not None
            tensor = torch.from_numpy(steps.first).float()
        assert matching(model, tensor), f"{name} is not in the graph at all"
        assert matching(small, tensor), f"{name} was rounded"
    for name, parameter in network.named_parameters():
        if parameter.dim() > 1:
            assert matching(model, parameter), name
            assert not matching(small, parameter), f"{name} was not rounded"
    assert small.ByteSize() < model.ByteSize()


def test_parameters_are_known_by_their_values() -> None:
    layer = nn.LSTM(3, 4)
    layer.register_buffer("table", torch.eye(4))
    inputs, hidden = (dict(layer.named_parameters())[name] for name in ("weight_ih_l0", "weight_hh_l0"))
    joined = torch.cat([inputs.flip(0), -hidden], dim=1).T.detach().numpy()
    assert Weights(layer).include(joined)
    assert not Weights(layer).include(joined * np.float32(1.0001))
    assert not Weights(layer).include(np.zeros((8, 8), np.float32))
    with torch.no_grad():
        dict(layer.named_parameters())["bias_ih_l0"].fill_(1)
    assert not Weights(layer).include(np.eye(8, dtype=np.float32)), "ones are in the table, too"
