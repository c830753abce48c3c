"""Smaller files: weights as 16-bit floats or 8-bit integers. Inputs, outputs and states stay float32."""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor, nn

from bcfusion.errors import ExportError, first_line
from bcfusion.export.metadata import needs_onnx
from bcfusion.telemetry import without_telemetry

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

__all__ = ["Weights", "in_float16", "in_int8"]

LEAST_VALUES = 64  # smaller tensors are not worth a node
QUANTISED = ("Conv", "MatMul", "Gemm", "LSTM")  # operators that have an 8-bit form in onnxruntime
STORED = ("ConvTranspose", "GRU")  # operators that have none: their weights are stored in 8 bits, channels on axis 1
LEAST_STORED = 1024  # values; below, scales and nodes take more than is gained
# inputs that are multiplied with signals
WEIGHTS = {"Conv": (1,), "ConvTranspose": (1,), "MatMul": (0, 1), "Gemm": (0, 1), "LSTM": (1, 2), "GRU": (1, 2)}


class Weights:
    """Tells a network's parameters, which may be rounded, from its buffers, which are filters that have to be exact.

    The names of an exported graph do not: what has been transposed, joined or cut has a new name there. The values do.

    Args:
        generator: as it is exported, see :func:`bcfusion.export.step.ready`.
    """

    def __init__(self, generator: nn.Module) -> None:
        self._parameters = _magnitudes(list(generator.parameters()))
        self._buffers = _magnitudes([each for each in generator.buffers() if each.is_floating_point()])

    def include(self, values: np.ndarray) -> bool:
        """Return whether all values of a tensor are parameters or zero, in any order and of either sign."""
        magnitudes = np.abs(values[values != 0])
        return len(magnitudes) > 0 and _within(magnitudes, self._parameters) and not _within(magnitudes, self._buffers)


def _magnitudes(tensors: list[Tensor]) -> np.ndarray:
    values = [np.abs(each.detach().float().cpu().numpy()).ravel() for each in tensors]
    known: np.ndarray = np.unique(np.concatenate([*values, np.zeros(1, np.float32)]))
    return known


def _within(values: np.ndarray, known: np.ndarray) -> bool:
    """Return whether all values occur in a sorted array."""
    places = np.minimum(np.searchsorted(known, values), len(known) - 1)
    return bool(np.array_equal(known[places], values))


def in_float16(model: ModelProto, weights: Weights) -> ModelProto:
    """Return a model whose weights are stored as float16, in half of their bytes. It computes in float32.

    Energies of 1e-8 and their logarithms, which most networks on spectra use, do not exist in float16, and onnxruntime
    has no float16 kernels for most CPUs. Runtimes convert the weights once, when they load the file.

    Args:
        model: a float32 model; it is left unchanged.
        weights: see :class:`Weights`; all else stays float32.

    Raises:
        ExportError: a weight lies outside the range of float16.
    """
    from onnx import ModelProto, TensorProto, checker, helper, numpy_helper

    result = ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    casts = []
    for tensor in graph.initializer:
        if tensor.data_type != TensorProto.FLOAT:
            continue
        values = numpy_helper.to_array(tensor)
        if values.size < LEAST_VALUES or not weights.include(values):
            continue
        name = tensor.name
        with np.errstate(over="ignore"):
            rounded = values.astype(np.float16)
        if not np.isfinite(rounded).all():
            raise ExportError(f"{name} holds values above 65504, the largest in float16: give --precision fp32")
        tensor.CopyFrom(numpy_helper.from_array(rounded, f"{name}.float16"))
        casts.append(helper.make_node("Cast", [tensor.name], [name], to=TensorProto.FLOAT))
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    checker.check_model(result)
    return result


def in_int8(model: ModelProto, weights: Weights) -> ModelProto:
    """Return a model with weights of 8 bits.

    Convolutions, linear layers and LSTMs are computed in integers, whose scale follows the signal: onnxruntime's
    dynamic quantisation. Transposed convolutions and GRUs have no such form. Their weights are stored as integers, with
    a scale for each channel, and become float32 when a runtime loads the file.

    Args:
        model: a float32 model; it is left unchanged.
        weights: see :class:`Weights`; what is multiplied or convolved with anything else stays float32.

    Raises:
        ExportError: onnxruntime cannot quantise it, or a package is missing.
    """
    without_telemetry()
    try:
        import onnx
        from onnxruntime.quantization import QuantType, quantize_dynamic
    except ImportError as error:
        raise needs_onnx() from error
    own = onnx.ModelProto()
    own.CopyFrom(model)
    constants = {
        each.name: onnx.numpy_helper.to_array(each)
        for each in own.graph.initializer
        if each.data_type == onnx.TensorProto.FLOAT
    }
    rounded = {name for name, values in constants.items() if weights.include(values)}
    exact = []
    for number, node in enumerate(own.graph.node):  # nodes are excluded by their names
        node.name = f"node{number}"
        factors = _factors(node, constants)
        if not rounded.issuperset(factors) or (node.op_type == "Conv" and _are_few(factors, constants)):
            exact.append(node.name)
    _store_as_integers(own, constants, rounded)
    logger = logging.getLogger()
    level = logger.level
    try:
        logger.setLevel(logging.ERROR)  # it recommends a preprocessing that is done already
        with tempfile.TemporaryDirectory() as folder:
            source, target = Path(folder) / "source.onnx", Path(folder) / "target.onnx"
            onnx.save(own, source)
            quantize_dynamic(
                source,
                target,
                op_types_to_quantize=list(QUANTISED),
                weight_type=QuantType.QUInt8,  # onnxruntime's integer convolution takes no other on CPUs
                nodes_to_exclude=exact,
            )
            return onnx.load(target)
    except Exception as error:
        raise ExportError(f"onnxruntime cannot quantise this network: {first_line(error)}") from error
    finally:
        logger.setLevel(level)


def _factors(node: NodeProto, constants: dict[str, np.ndarray]) -> list[str]:
    """Return the names of the constants that a node multiplies signals with."""
    places = WEIGHTS.get(node.op_type, ())
    return [node.input[place] for place in places if place < len(node.input) and node.input[place] in constants]


def _are_few(factors: list[str], constants: dict[str, np.ndarray]) -> bool:
    """Return whether there are fewer weights than are worth the scales and conversions around them."""
    return sum(constants[name].size for name in factors) < LEAST_VALUES


def _store_as_integers(model: Any, constants: dict[str, np.ndarray], rounded: set[str]) -> None:
    """Replace the weights of operators without an 8-bit form by integers and a scale for each channel, in place.

    Cast and Mul give the floats back. Runtimes compute them once; they would not with DequantizeLinear.
    """
    from onnx import TensorProto, helper, numpy_helper

    stored = {name for node in model.graph.node if node.op_type in STORED for name in _factors(node, constants)}
    before = []
    for tensor in model.graph.initializer:
        if tensor.name not in stored & rounded or constants[tensor.name].size < LEAST_STORED:
            continue
        name, values = tensor.name, constants[tensor.name]
        others = tuple(axis for axis in range(values.ndim) if axis != 1)
        scale = np.maximum(np.abs(values).max(axis=others, keepdims=True), np.finfo(np.float32).tiny) / 127
        tensor.CopyFrom(numpy_helper.from_array(np.rint(values / scale).astype(np.int8), f"{name}.int8"))
        model.graph.initializer.append(numpy_helper.from_array(scale.astype(np.float32), f"{name}.scale"))
        before.append(helper.make_node("Cast", [f"{name}.int8"], [f"{name}.float"], to=TensorProto.FLOAT))
        before.append(helper.make_node("Mul", [f"{name}.float", f"{name}.scale"], [name]))
    nodes = [*before, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
