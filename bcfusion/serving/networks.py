"""A causal network that many streams share: it is prepared once, and a stream of its own costs only its state."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from bcfusion.contracts import Generator
from bcfusion.inference.stepping import Frames, Stepper, TorchStepper, sensors_of
from bcfusion.live.steppers import prepared
from bcfusion.nn.network import lookahead_of, usual_frame
from bcfusion.nn.streaming import StreamingModule

if TYPE_CHECKING:
    from torch import nn

__all__ = ["SharedNetwork", "mixed_sensor", "open_network"]


class SharedNetwork:
    """A causal network, and its streams.

    Args:
        generator: from :func:`bcfusion.run.bundle.load_generator`, causal; nobody else uses it.
        begin: returns a new stream of the network.

    Attributes:
        sample_rate: Hz.
        sensors: their names, in the order of the channels.
        frame: samples of a frame.
        lookahead: samples by which the output is late, beside the frame itself.
        backend: what computes: ``onnx`` or ``torch``.
    """

    def __init__(self, generator: nn.Module, begin: Callable[[], Stepper], backend: str) -> None:
        spec = cast("Generator", generator)
        self.sample_rate, self.sensors = spec.sample_rate, sensors_of(generator)
        self.frame, self.lookahead = usual_frame(spec), lookahead_of(spec)
        self.backend = backend
        self._skip_channel = mixed_sensor(generator)
        self._begin = begin

    def open(self, share: float = 0.0) -> Stepper:
        """Return a new stream; streams may be stepped in different threads at the same time.

        Args:
            share: of the sensor in the output; see :func:`bcfusion.inference.blend.input_share`.
        """
        stepper = self._begin()
        return _Mixed(stepper, share, self._skip_channel) if share else stepper


def mixed_sensor(generator: nn.Module) -> int:
    """Return the index of the sensor that the network starts from, as :class:`bcfusion.inference.blend.Blend` does."""
    return int(getattr(generator, "skip_channel", -1)) % cast("Generator", generator).in_channels


def open_network(
    generator: nn.Module, name: str, backend: str = "auto", say: Callable[[str], None] = lambda _: None
) -> SharedNetwork:
    """Prepare a causal network for streams.

    Args:
        generator: from :func:`bcfusion.run.bundle.load_generator`; nobody else may use it from now on.
        name: for messages.
        backend: see :func:`bcfusion.live.steppers.open_stepper`.
        say: is told what takes seconds.

    Raises:
        BcfusionError: it cannot be computed by that backend.
    """
    frame = usual_frame(cast("Generator", generator))

    def by_onnxruntime() -> SharedNetwork:
        from bcfusion.export.onnx_export import export_step
        from bcfusion.export.onnx_stepper import OnnxStepper, open_session

        say(f"{name}: the network is prepared for onnxruntime")
        opened = open_session(export_step(generator, frame).SerializeToString())
        return SharedNetwork(generator, lambda: OnnxStepper(opened), "onnx")

    def by_torch() -> SharedNetwork:
        stepper, lock = TorchStepper(generator, frame), threading.Lock()
        begin = lambda: _TorchStream(stepper, cast("StreamingModule", generator), lock)  # noqa: E731
        return SharedNetwork(generator, begin, "torch")

    return prepared(backend, by_onnxruntime, by_torch, name)


class _TorchStream:
    """One of many streams of a network in PyTorch: the states take turns in it."""

    def __init__(self, stepper: TorchStepper, generator: StreamingModule, lock: threading.Lock) -> None:
        self.sample_rate, self.sensors = stepper.sample_rate, stepper.sensors
        self.frame, self.lookahead = stepper.frame, stepper.lookahead
        self._stepper, self._generator, self._lock = stepper, generator, lock
        self._state: Any = None

    def step(self, chunk: Frames) -> Frames:
        with self._lock:
            if self._state is None:
                self._stepper.reset()
            else:
                self._generator.set_state(self._state)
            output = self._stepper.step(chunk)
            self._state = self._generator.get_state()
        return output

    def reset(self) -> None:
        self._state = None

    def close(self) -> None:
        self._state = None


class _Mixed:
    """A stream mixed with the sensor that the network starts from, as :class:`bcfusion.inference.blend.Blend` does."""

    def __init__(self, stepper: Stepper, share: float, channel: int) -> None:
        self.sample_rate, self.sensors = stepper.sample_rate, stepper.sensors
        self.frame, self.lookahead = stepper.frame, stepper.lookahead
        self._stepper, self._share, self._channel = stepper, np.float32(share), channel
        self._late = np.zeros(self.lookahead, dtype=np.float32)

    def step(self, chunk: Frames) -> Frames:
        sensor = np.concatenate([self._late, chunk[self._channel]])
        self._late = sensor[self.frame :]
        output: Frames = self._share * sensor[: self.frame] + (1 - self._share) * self._stepper.step(chunk)
        return output

    def reset(self) -> None:
        self._stepper.reset()
        self._late = np.zeros(self.lookahead, dtype=np.float32)

    def close(self) -> None:
        self._stepper.close()
