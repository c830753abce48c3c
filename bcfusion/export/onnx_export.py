"""A network as an ONNX graph: a step of a stream, or whole files of any length."""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from bcfusion.errors import ExportError, first_line
from bcfusion.export.describe import describe
from bcfusion.export.metadata import INPUT, OPSET, OUTPUT, PREFIX, Metadata, needs_onnx
from bcfusion.export.recurrent import with_onnx_recurrence
from bcfusion.export.step import StreamingStep, WholeFile, WholeFrames, frame_of, ready
from bcfusion.run.card import Card

if TYPE_CHECKING:
    from onnx import ModelProto

__all__ = ["OPSET", "export_step", "export_whole", "newest_opset", "stamp"]

#: what reports missing packages, and what an error says, too, with its traceback
LOGGERS = ("torch.onnx._internal.exporter._registration", "onnxscript.version_converter")


LARGEST_FOLDED = 1 << 20  # values of a constant that is computed at export
LEAST_SPLIT = 1024  # values from which ELU is made of vectorised operators
MOVES = ("Concat", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze")  # operators that only rearrange values
#: operators that combine tensors value by value, with broadcasting
ELEMENTWISE = frozenset(
    ("Add", "Div", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Max", "Min", "Mul", "PRelu", "Pow")
) | {"Sub", "Where"}
EXAMPLE_FRAMES = 150  # of the file that a graph for whole files is traced on; several blocks of 64 where there are any


def export_step(
    generator: nn.Module,
    frame: int | None = None,
    *,
    packed: bool = False,
    opset: int = OPSET,
    card: Card | None = None,
    origin: Mapping[str, Any] | None = None,
) -> ModelProto:
    """Export one step of a causal network, ``(x, *state) -> (y, *next state)``.

    The inputs are ``x (1, S, frame)`` and one for each tensor of the stream's state; the outputs are ``y (1, 1,
    frame)`` and the new states, in the same order. All are float32, a stream starts from zeros.

    Args:
        generator: a causal network; it is left unchanged.
        frame: samples of a step, a multiple of the network's ``hop``; None: see
            :func:`bcfusion.nn.network.usual_frame`.
        packed: whether the state is one input ``state (1, N)`` and one output ``state.next``. A network without a state
            has neither.
        opset: version of ONNX's standard operators.
        card: see :func:`bcfusion.export.describe.describe`.
        origin: likewise.

    Returns:
        The model, with its metadata.

    Raises:
        ExportError: the network is not causal, uses something that ONNX or this opset lacks, or a package is missing.
        ConfigError: ``frame`` is no multiple of the hop.
        StreamingError: a layer is not causal; it is named.
    """
    size = frame_of(generator, frame)
    own = with_onnx_recurrence(ready(generator))
    step = StreamingStep(own, packed)
    inputs = torch.zeros(1, len(describe(own, size).sensors), size)
    program = traced(step, (inputs, *step.zeros()))
    names = [state.input for state in step.states]
    model = convert(program, [INPUT, *names], [OUTPUT, *[state.output for state in step.states]], opset, own)
    stamp(model, describe(own, size, step.states, step.packed, card, origin))
    return model


def export_whole(
    generator: nn.Module,
    *,
    opset: int = OPSET,
    card: Card | None = None,
    origin: Mapping[str, Any] | None = None,
) -> ModelProto:
    """Export a network for whole files, ``x (1, S, T)`` to ``y (1, 1, T)`` for any T of at least one sample.

    Padding to whole frames and trimming are part of the graph.

    Args:
        generator: any network; it is left unchanged.
        opset: as in :func:`export_step`, like the others.
        card: likewise.
        origin: likewise.

    Raises:
        ExportError: the network decides by values or by the length, or uses something that ONNX or this opset lacks.
    """
    own = ready(generator)
    metadata = describe(own, None, card=card, origin=origin)
    sensors = len(metadata.sensors)
    with_onnx_recurrence(own)
    if not WholeFrames.suits(own):  # somebody's own class, of which nothing is known but its forward
        example = torch.zeros(1, sensors, max(2000, 6 * metadata.hop + 3))
        program = traced(WholeFile(own), (example,), {"x": {2: torch.export.Dim.DYNAMIC}})
        model = convert(program, [INPUT], [OUTPUT], opset, own)
    else:
        body = WholeFrames(own)
        frames = torch.zeros(1, sensors, EXAMPLE_FRAMES, body.hop)
        program = traced(body, (frames,), {"frames": {2: torch.export.Dim.DYNAMIC}})
        model = convert(program, ["frames"], ["late"], opset, own)
        _frame_and_trim(model, sensors, body.hop, body.lookahead)
    stamp(model, metadata)
    return model


def _frame_and_trim(model: ModelProto, sensors: int, hop: int, lookahead: int) -> None:
    """Let a graph of whole frames take files: pad and split them in front of it, trim its output behind it."""
    from onnx import TensorProto, checker, helper, numpy_helper

    graph = model.graph

    def constant(name: str, *values: int) -> str:
        graph.initializer.append(numpy_helper.from_array(np.array(values, dtype=np.int64), f"whole.{name}"))
        return f"whole.{name}"

    before: list[Any] = []
    after: list[Any] = []

    def node(where: list[Any], kind: str, inputs: list[str], output: str, **attributes: Any) -> str:
        where.append(helper.make_node(kind, inputs, [output], **attributes))
        return output

    length = node(before, "Shape", [INPUT], "whole.shape")
    length = node(before, "Gather", [length, constant("axis", 2)], "whole.length", axis=0)
    more = node(before, "Add", [length, constant("rounding", lookahead + hop - 1)], "whole.more")
    count = node(before, "Div", [more, constant("hop", hop)], "whole.frames")
    total = node(before, "Mul", [count, "whole.hop"], "whole.total")
    missing = node(before, "Sub", [total, length], "whole.missing")
    pads = node(before, "Concat", [constant("nothing", 0, 0, 0, 0, 0), missing], "whole.pads", axis=0)
    padded = node(before, "Pad", [INPUT, pads], "whole.padded")
    size = node(before, "Concat", [constant("channels", 1, sensors), count, "whole.hop"], "whole.size", axis=0)
    node(before, "Reshape", [padded, size], "frames")
    end = node(after, "Add", [length, constant("late", lookahead)], "whole.end")
    node(after, "Slice", ["late", "whole.late", end, "whole.axis"], OUTPUT)
    nodes = [*before, *graph.node, *after]
    del graph.node[:], graph.input[:], graph.output[:]
    graph.node.extend(nodes)
    graph.input.append(helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, [1, sensors, "T"]))
    graph.output.append(helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, [1, 1, "T"]))
    checker.check_model(model)


def traced(
    module: nn.Module, arguments: tuple[Tensor, ...], dynamic: dict[str, Any] | None = None
) -> torch.export.ExportedProgram:
    """Return a module as a graph of torch's operators.

    Args:
        module: in eval mode.
        arguments: examples.
        dynamic: see ``dynamic_shapes`` of :func:`torch.export.export`.

    Raises:
        ExportError: it does what a graph cannot hold, such as deciding by values.
    """
    try:
        with torch.no_grad(), quiet():
            # what cannot be proved of a size is checked when the graph runs; it must not narrow which sizes there are
            return torch.export.export(
                module, arguments, dynamic_shapes=dynamic, prefer_deferred_runtime_asserts_over_guards=True
            )
    except Exception as error:  # of whatever kind: the network may be anybody's
        raise ExportError(f"{_named(module)} cannot be made a graph: {_reason(error)}") from error


def convert(
    program: torch.export.ExportedProgram, inputs: Sequence[str], outputs: Sequence[str], opset: int, network: nn.Module
) -> ModelProto:
    """Return the ONNX model of a traced network, checked for the names of its inputs and outputs.

    Raises:
        ExportError: an operator is missing in ONNX or in this opset, or a package is missing.
    """
    try:
        import onnx
        from onnx_ir.passes.common import (
            DeduplicateInitializersPass,
            IdentityEliminationPass,
            LiftConstantsToInitializersPass,
        )
        from onnxscript import optimizer  # torch needs it, too
    except ImportError as error:
        raise needs_onnx() from error
    try:
        with torch.no_grad(), quiet():
            exported = torch.onnx.export(
                program,
                (),
                dynamo=True,
                input_names=list(inputs),
                output_names=list(outputs),
                opset_version=opset,
                verbose=False,
                external_data=False,
                custom_translation_table={
                    torch.ops.aten.atan2.default: _atan2,
                    torch.ops.aten.pow.Tensor_Scalar: _power,
                    torch.ops.aten.elu.default: _elu,
                },
                # its rules take an addition of 1e-8 for one of zero and drop it: log(0) where the network is safe
                optimize=False,
            )
            assert exported is not None
            optimizer.inline(exported.model)
            optimizer.fold_constants(exported.model, output_size_limit=LARGEST_FOLDED, should_fold=_only_moves)
            for exact in (
                LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
                IdentityEliminationPass(),
                DeduplicateInitializersPass(),
            ):
                exact(exported.model)
            optimizer.remove_unused_nodes(exported.model)
        model = exported.model_proto
    except Exception as error:
        raise ExportError(f"{_named(network)} cannot be written as ONNX, opset {opset}: {_reason(error)}") from error
    got = [each.name for each in model.graph.input], [each.name for each in model.graph.output]
    if got != (list(inputs), list(outputs)):
        raise ExportError(f"{_named(network)}: the graph takes {got[0]} and gives {got[1]}, not what it should")
    versions = [each.version for each in model.opset_import if not each.domain]
    if versions != [opset]:
        raise ExportError(f"{_named(network)} needs opset {versions[0]}, not {opset}: give --opset {versions[0]}")
    _clean(model)
    _give_full_rank(model)
    onnx.checker.check_model(model)
    return model


def _give_full_rank(model: ModelProto) -> None:
    """Give constants of element-wise operators as many dimensions as the tensor that they are combined with has.

    onnxruntime takes a constant of fewer dimensions value by value if the tensor's last dimension is one, which the
    frames of a step often are: 14 us instead of 0.3 us for 2000 values.
    """
    from onnx import numpy_helper, shape_inference

    graph = model.graph
    inferred = shape_inference.infer_shapes(model).graph
    described = [*inferred.value_info, *inferred.input, *inferred.output]
    ranks = {
        each.name: len(each.type.tensor_type.shape.dim) for each in described if each.type.tensor_type.HasField("shape")
    }
    constants = {each.name: each for each in graph.initializer}
    for node in graph.node:
        if node.domain or node.op_type not in ELEMENTWISE:
            continue
        rank = max((ranks.get(name, 0) for name in node.input if name not in constants), default=0)
        for place, name in enumerate(node.input):
            constant = constants.get(name)
            if constant is None or len(constant.dims) >= rank:
                continue
            full = f"{name}.rank{rank}"
            if full not in constants:
                values = numpy_helper.to_array(constant)
                values = values.reshape([1] * (rank - values.ndim) + list(values.shape))
                constants[full] = numpy_helper.from_array(values, full)
                graph.initializer.append(constants[full])
            node.input[place] = full
    used = {name for node in graph.node for name in node.input}
    kept = [each for each in graph.initializer if each.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)


def _only_moves(node: Any) -> bool | None:
    """Return True for what rearranges weights, however large, None otherwise, for the optimiser's own rules.

    torch reorders the gates of recurrent layers in the graph. A weight that is not a constant cannot be quantised.
    """
    return True if not node.domain and node.op_type in MOVES else None


def _atan2(y: Any, x: Any) -> Any:
    """Return the nodes of the angle of ``(x, y)``; torch's own give -pi for ``y = 0``, ``x < 0``, which is pi.

    The first and the middle bin of every real spectrum are there, for one sign of two.
    """
    from onnxscript import opset18

    op: Any = opset18

    zero, pi = (op.CastLike(op.Constant(value_float=value), x) for value in (0.0, math.pi))
    upper = op.GreaterOrEqual(y, zero)
    left = op.Less(x, zero)
    origin = op.And(op.Equal(x, zero), op.Equal(y, zero))
    angle = op.Atan(op.Div(y, op.Where(origin, op.CastLike(op.Constant(value_float=1.0), x), x)))
    return op.Where(left, op.Where(upper, op.Add(angle, pi), op.Sub(angle, pi)), angle)


def _power(base: Any, exponent: Any) -> Any:
    """Return the nodes of a power; a square is a product, because runtimes take the general power of each value."""
    from onnxscript import opset18

    op: Any = opset18

    if exponent == 2:
        return op.Mul(base, base)
    return op.Pow(base, op.CastLike(op.Constant(value_float=float(exponent)), base))


def _elu(x: Any, alpha: float = 1.0, scale: float = 1.0, input_scale: float = 1.0) -> Any:
    """Return the nodes of ELU; torch's own multiply by factors of one.

    Of many values as four operators: onnxruntime vectorises each of them, but not its ELU, which takes more than twice
    their time from 2048 values on.
    """
    from onnxscript import opset18

    op: Any = opset18

    if (alpha, scale, input_scale) != (1.0, 1.0, 1.0) or _values(x) < LEAST_SPLIT:
        y = x if input_scale == 1.0 else op.Mul(x, op.CastLike(op.Constant(value_float=float(input_scale)), x))
        y = op.Elu(y, alpha=float(alpha))
        return y if scale == 1.0 else op.Mul(y, op.CastLike(op.Constant(value_float=float(scale)), y))
    zero, one = (op.CastLike(op.Constant(value_float=value), x) for value in (0.0, 1.0))
    return op.Max(x, op.Sub(op.Exp(op.Min(x, zero)), one))  # e^x - 1 >= x, with equality at 0


def _values(x: Any) -> float:
    """Return how many values a tensor of a graph has; infinity if that is not known before the graph runs."""
    if x.shape is None or not all(isinstance(size, int) for size in x.shape):
        return math.inf
    return float(math.prod(int(size) for size in x.shape))


def newest_opset() -> int:
    """Return the latest opset that is known here.

    Raises:
        ExportError: a package is missing.
    """
    try:
        import onnx
    except ImportError as error:
        raise needs_onnx() from error
    return int(onnx.defs.onnx_opset_version())


def stamp(model: ModelProto, metadata: Metadata) -> None:
    """Write the metadata into a model, in place of what it has of ours."""
    others = [(entry.key, entry.value) for entry in model.metadata_props if not entry.key.startswith(PREFIX)]
    del model.metadata_props[:]
    for key, value in [*metadata.strings().items(), *others]:
        entry = model.metadata_props.add()
        entry.key, entry.value = key, value
    model.producer_name, model.producer_version = "bcfusion", metadata.version


def _clean(model: ModelProto) -> None:
    """Drop what torch notes about each node: the lines of source that it comes from, with the paths of this machine.

    The shapes of inner values go, too. Some are wrong (around recurrent layers), and runtimes infer them.
    """
    graphs = [model.graph]
    while graphs:
        graph = graphs.pop()
        del graph.value_info[:]
        graph.doc_string = ""
        for each in (graph, *graph.node, *graph.input, *graph.output, *graph.initializer):
            if hasattr(each, "metadata_props"):
                del each.metadata_props[:]
            each.doc_string = ""
        for node in graph.node:
            graphs += [attribute.g for attribute in node.attribute if attribute.HasField("g")]
    for function in model.functions:
        del function.value_info[:]
        del function.metadata_props[:]
        function.doc_string = ""
        for node in function.node:
            del node.metadata_props[:]
            node.doc_string = ""
    model.doc_string = ""
    model.graph.name = "bcfusion"


def _named(module: nn.Module) -> str:
    inner = module.generator if isinstance(module, StreamingStep | WholeFile | WholeFrames) else module
    return type(inner).__name__


def _reason(error: BaseException) -> str:
    """Return the innermost reason of an error of torch's exporter in a few lines; its own text is a page of advice."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return "\n".join([first_line(error), *lines[1:3]])


@contextmanager
def quiet() -> Iterator[None]:
    """Keep torch from reporting what no user can act on: packages that it does not need, its own deprecations."""
    loggers = [logging.getLogger(name) for name in LOGGERS]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            for category in (DeprecationWarning, FutureWarning, UserWarning):
                warnings.filterwarnings("ignore", category=category, module=r"torch\.|copyreg|contextlib|onnxscript")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
