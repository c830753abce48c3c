"""A graph for sherpa-onnx in onnxruntime, between transforms like those of sherpa-onnx. Nothing here loads torch."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np

from bcfusion.errors import ExportError
from bcfusion.export.onnx_stepper import open_session
from bcfusion.nn.cpu import denormals_as_zero

if TYPE_CHECKING:
    from bcfusion.inference.stepping import Frames

__all__ = ["SherpaStepper"]


class SherpaStepper:
    """One frame after the other through a graph for sherpa-onnx; see :class:`~bcfusion.inference.stepping.Stepper`.

    The stock package works on the same frames. Its online denoiser leaves out the first one, and its offline denoiser
    mirrors the start of the file.

    Args:
        model: a file that ``bcfusion export --runtime sherpa-onnx`` has written, or its content.
        threads: that one operator may use.

    Attributes:
        metadata: what the file says of itself.

    Raises:
        ExportError: see :func:`bcfusion.export.onnx_stepper.open_session`; or the file is of another kind.
    """

    def __init__(self, model: str | os.PathLike[str] | bytes, threads: int = 1) -> None:
        session, self.metadata = open_session(model, threads)
        if self.metadata.kind != "sherpa-onnx":
            where = "the model" if isinstance(model, bytes) else os.fspath(model)
            raise ExportError(f"{where} is not for sherpa-onnx: export it with --runtime sherpa-onnx")
        self.sample_rate, self.sensors = self.metadata.sample_rate, self.metadata.sensors
        self.frame, self.lookahead = self.metadata.frame, self.metadata.lookahead
        stored = session.get_modelmeta().custom_metadata_map
        n_fft = int(stored["n_fft"])
        root = np.sin(np.pi * np.arange(n_fft) / n_fft)  # of a periodic Hann window
        self._window = root if stored["window_type"] == "hann_sqrt" else np.ones(n_fft)
        self._session: Any = session
        self._inputs = [each.name for each in session.get_inputs()]
        self._past = np.zeros(n_fft)
        self._overlap = np.zeros(n_fft - self.frame)
        self._caches = [np.zeros(state.shape, dtype=np.float32) for state in self.metadata.states]

    def step(self, chunk: Frames) -> Frames:
        self._past = np.concatenate([self._past[self.frame :], chunk[0]])
        transformed = np.fft.rfft(self._past * self._window)
        spectrum = np.stack([transformed.real, transformed.imag], axis=-1).astype(np.float32)[None, :, None]
        given = dict(zip(self._inputs, [spectrum, *self._caches], strict=True))
        with denormals_as_zero():
            estimate, *self._caches = self._session.run(None, given)
        waveform = np.fft.irfft(estimate[0, :, 0, 0] + 1j * estimate[0, :, 0, 1], n=len(self._window)) * self._window
        waveform[: len(self._overlap)] += self._overlap
        self._overlap = waveform[self.frame :]
        return np.asarray(waveform[: self.frame], dtype=np.float32)

    def reset(self) -> None:
        self._past = np.zeros_like(self._past)
        self._overlap = np.zeros_like(self._overlap)
        self._caches = [np.zeros_like(cache) for cache in self._caches]

    def close(self) -> None:
        self._session = None
