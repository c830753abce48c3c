"""An exported step in onnxruntime, as a :class:`~bcfusion.inference.stepping.Stepper`. Nothing here loads torch."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bcfusion.errors import ExportError, first_line
from bcfusion.export.metadata import INPUT, OUTPUT, Metadata, needs_onnx, parse_metadata
from bcfusion.nn.cpu import denormals_as_zero
from bcfusion.telemetry import without_telemetry

if TYPE_CHECKING:
    from bcfusion.inference.stepping import Frames

__all__ = ["OnnxStepper", "open_session"]


def open_session(model: str | os.PathLike[str] | bytes, threads: int = 1) -> tuple[Any, Metadata]:
    """Return a session of onnxruntime on the CPU, and what the file says of itself.

    Args:
        model: an exported file, or its content.
        threads: that one operator may use.

    Raises:
        ExportError: there is no such file, it is not ONNX or not of bcfusion, or onnxruntime is missing.
    """
    without_telemetry()
    try:
        import onnxruntime
    except ImportError as error:
        raise needs_onnx() from error
    where = "the model" if isinstance(model, bytes) else os.fspath(model)
    if not isinstance(model, bytes) and not Path(model).is_file():
        raise ExportError(f"{where} is not a file: give one that bcfusion export has written")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors; warnings are about optimisations that it left out
    try:
        source = model if isinstance(model, bytes) else where
        with denormals_as_zero():  # its threads inherit it; the option of a session would set it for this one for good
            session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the classes that it raises derive from Exception directly
        raise ExportError(f"onnxruntime cannot load {where}: {first_line(error)}") from error
    return session, parse_metadata(session.get_modelmeta().custom_metadata_map, where)


class OnnxStepper:
    """One step after the other in onnxruntime; see :class:`~bcfusion.inference.stepping.Stepper`.

    The state lies in two sets of buffers, which are input and output in turn: a step copies the chunk and the output,
    and nothing else.

    Args:
        model: a file that ``bcfusion export`` has written (kind ``stream``), or its content; or what
            :func:`open_session` made of either, which any number of steppers may share, each in a thread of its own.
        threads: that one operator may use; those of a session that is shared have been given to it.

    Attributes:
        metadata: what the file says of itself.

    Raises:
        ExportError: see :func:`open_session`; or the file holds no step of a stream.
    """

    def __init__(self, model: str | os.PathLike[str] | bytes | tuple[Any, Metadata], threads: int = 1) -> None:
        session, self.metadata = model if isinstance(model, tuple) else open_session(model, threads)
        if self.metadata.kind != "stream":
            where = "the model" if isinstance(model, bytes | tuple) else os.fspath(model)
            held = "is for sherpa-onnx" if self.metadata.kind == "sherpa-onnx" else "holds a graph for whole files"
            option = "--runtime sherpa-onnx" if self.metadata.kind == "sherpa-onnx" else "--whole"
            raise ExportError(f"{where} {held}: export a causal network without {option}")
        self.sample_rate, self.sensors = self.metadata.sample_rate, self.metadata.sensors
        self.frame, self.lookahead = self.metadata.frame, self.metadata.lookahead
        self._session: Any = session
        self._input = np.zeros((1, len(self.sensors), self.frame), dtype=np.float32)
        self._output = np.zeros((1, 1, self.frame), dtype=np.float32)
        states = self.metadata.states
        self._states = [[np.zeros(state.shape, dtype=np.float32) for state in states] for _ in range(2)]
        self._bindings = [self._bind(*self._states), self._bind(*reversed(self._states))]
        self._turn = 0

    def step(self, chunk: Frames) -> Frames:
        np.copyto(self._input[0], chunk)
        with denormals_as_zero():
            self._session.run_with_iobinding(self._bindings[self._turn])
        self._turn ^= 1
        return self._output[0, 0].copy()

    def reset(self) -> None:
        for state in self._states[self._turn]:
            state.fill(0)

    def close(self) -> None:
        self._bindings, self._session = [], None

    def _bind(self, before: list[Frames], after: list[Frames]) -> Any:
        binding = self._session.io_binding()

        def place(array: Frames) -> tuple[Any, ...]:
            return "cpu", 0, np.float32, array.shape, array.ctypes.data

        binding.bind_input(INPUT, *place(self._input))
        binding.bind_output(OUTPUT, *place(self._output))
        for state, old, new in zip(self.metadata.states, before, after, strict=True):
            binding.bind_input(state.input, *place(old))
            binding.bind_output(state.output, *place(new))
        return binding
