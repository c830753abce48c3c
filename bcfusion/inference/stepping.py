"""One frame after the other, in NumPy: a causal network as a step with a state, in PyTorch or in onnxruntime.

Whoever hands frames to a network (a sound card, a file at real-time pace, a benchmark, the check of an exported file)
sees a :class:`Stepper`, and need not know what computes it.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import Protocol, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from bcfusion.contracts import Generator
from bcfusion.errors import ConfigError
from bcfusion.nn.cpu import denormals_as_zero
from bcfusion.nn.network import estimate_of, lookahead_of, usual_frame
from bcfusion.nn.streaming import StreamingError, StreamingModule
from bcfusion.run.bundle import bundle_of

__all__ = ["Frames", "Stepper", "TorchStepper", "sensors_of", "stream_signal"]

Frames = NDArray[np.float32]


def sensors_of(generator: nn.Module) -> tuple[str, ...]:
    """Return the names of a network's sensors; ``sensor1`` and so on if it does not know them."""
    bundle = bundle_of(generator)
    count = cast("Generator", generator).in_channels
    return tuple(bundle.sensors) if bundle else tuple(f"sensor{n + 1}" for n in range(count))


class Stepper(Protocol):
    """A causal network that takes one frame at a time.

    Attributes:
        sample_rate: Hz.
        sensors: their names, in the order of the channels.
        frame: samples of a frame.
        lookahead: samples by which the output is late, beside the frame itself.
    """

    sample_rate: int
    sensors: tuple[str, ...]
    frame: int
    lookahead: int

    def step(self, chunk: Frames) -> Frames:
        """Take the next frame ``(S, frame)`` and return ``(frame,)``, late by ``lookahead`` samples."""
        ...

    def reset(self) -> None:
        """Forget everything: the next frame is the first."""
        ...

    def close(self) -> None:
        """Give up what the stepper holds; it takes no frames afterwards."""
        ...


class TorchStepper:
    """A causal network in PyTorch; see :class:`Stepper`. Until it is closed, the network streams and does nothing else.

    Args:
        generator: from :func:`bcfusion.run.bundle.load_generator`, or another that fulfils
            :class:`bcfusion.contracts.Generator`, in eval mode.
        frame: samples of a frame, a multiple of the network's ``hop``; None: see
            :func:`bcfusion.nn.network.usual_frame`.

    Raises:
        ConfigError: ``frame`` is no multiple of the hop.
        StreamingError: a layer is not causal; it is named. Or the network keeps no state.
    """

    def __init__(self, generator: nn.Module, frame: int | None = None) -> None:
        spec = cast("Generator", generator)
        self.sample_rate, self.frame = spec.sample_rate, usual_frame(spec) if frame is None else frame
        if self.frame < 1 or self.frame % spec.hop:
            hop = f"the network's hop, {spec.hop} samples"
            raise ConfigError([f"a frame of {self.frame} samples is not a multiple of {hop}"])
        if not isinstance(generator, StreamingModule):
            raise StreamingError(
                f"{type(generator).__name__} keeps no state from frame to frame: it is no StreamingModule, as "
                "docs/extending.md describes"
            )
        self.sensors = sensors_of(generator)
        self._generator = generator
        self._device = next((parameter.device for parameter in generator.parameters()), torch.device("cpu"))
        self._open = ExitStack()
        self._open.enter_context(self._generator.streaming(1))
        self._start = self._generator.get_state()
        self.lookahead = lookahead_of(spec)

    def step(self, chunk: Frames) -> Frames:
        with torch.inference_mode(), denormals_as_zero():
            estimate = estimate_of(self._generator(torch.from_numpy(chunk)[None].to(self._device)))
        return cast("Frames", estimate[0, 0].cpu().numpy())

    def reset(self) -> None:
        self._generator.set_state(self._start)

    def close(self) -> None:
        self._open.close()


def stream_signal(stepper: Stepper, inputs: Frames) -> Frames:
    """Step through a whole signal; the output is aligned with it and as long.

    Args:
        stepper: its stream begins at the first sample.
        inputs: ``(S, T)`` of any T.

    Returns:
        ``(T,)``, what the network gives for the whole signal at once.
    """
    length = inputs.shape[-1]
    padding = stepper.lookahead + -(length + stepper.lookahead) % stepper.frame
    padded = np.pad(inputs.astype(np.float32, copy=False), ((0, 0), (0, padding)))
    stepper.reset()
    starts = range(0, padded.shape[-1], stepper.frame)
    outputs = [stepper.step(np.ascontiguousarray(padded[:, start : start + stepper.frame])) for start in starts]
    return np.concatenate(outputs)[stepper.lookahead : stepper.lookahead + length]
