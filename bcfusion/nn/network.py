"""What every network from waveform to waveform shares: any length in, the same length out, one declared look-ahead."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from bcfusion.errors import AudioError, ConfigError
from bcfusion.nn.streaming import StreamingError, StreamingModule


def refuse_causal(layer: str, causal: bool, because: str) -> None:
    """For the constructor of a layer that cannot be causal.

    Args:
        layer: its name. causal: what was asked for. because: what it needs of the future.

    Raises:
        ConfigError: ``causal`` is true.
    """
    if causal:
        raise ConfigError([f"{layer}: causal=True is impossible, {because}"])


class WaveformNetwork(StreamingModule):
    """A generator ``(B, in_channels, T) -> (B, 1, T)`` for any T of at least one sample.

    A network inherits from it and writes :meth:`body`, which takes whole frames only and may give its output late, by
    ``lookahead`` samples: what an STFT, a filter bank or a resampler needs to have heard before a sample is complete.
    For whole files this class pads the end with zeros by the look-ahead and to whole frames, and drops as many samples
    from the output's head: output and input are aligned. A stream gets the output as the body gives it. So the two are
    equal sample by sample, the stream late by ``lookahead``::

        torch.cat(chunks_out, -1)[..., lookahead:] == whole[..., :-lookahead]

    A body whose layers are all causal sees of the future nothing but the rest of its frame: ``delay = lookahead + hop -
    1`` holds by construction. One that is not causal declares its own.

    Args:
        sample_rate: of input and output, in Hz.
        in_channels: number of sensors.
        hop: samples; ``body`` takes multiples of it, and so a streaming chunk is one.
        causal: whether every layer of the body is causal; the network then streams.
        lookahead: samples by which the body's output is late.
        delay: of a network that is not causal: output n depends on no input after n + delay; None where it hears the
            whole file. A causal one does not give it.
        skip_channel: the sensor that a network starts from or falls back on; -1 is the last (the air microphone, in
            fusion).

    Attributes:
        delay: algorithmic latency in samples, or None. provides: keys of the output besides ``estimate``.

    Raises:
        ConfigError: a sample rate, number of sensors or hop below one, or a ``skip_channel`` that is no sensor.
    """

    provides: tuple[str, ...] = ()

    def __init__(
        self,
        sample_rate: int,
        in_channels: int,
        hop: int,
        causal: bool,
        lookahead: int = 0,
        delay: int | None = None,
        skip_channel: int = -1,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        problems = []
        if min(sample_rate, in_channels, hop) < 1:
            problems.append(
                f"{name}: sample_rate={sample_rate}, in_channels={in_channels} and hop={hop} must be above 0"
            )
        elif not -in_channels <= skip_channel < in_channels:
            problems.append(f"{name}: skip_channel={skip_channel} is none of the {in_channels} sensors")
        if problems:
            raise ConfigError(problems)
        self.sample_rate, self.in_channels, self.hop = sample_rate, in_channels, hop
        self.causal = causal
        self.lookahead = lookahead
        self.delay: int | None = lookahead + hop - 1 if causal else delay
        self.skip_channel = skip_channel

    def body(self, inputs: Tensor) -> Tensor | dict[str, Tensor]:
        """The network itself: ``(B, in_channels, T) -> (B, 1, T)``, T a multiple of ``hop``, late by ``lookahead``.

        A dict holds ``estimate`` and the keys of ``provides``.
        """
        raise NotImplementedError(f"{type(self).__name__} has no body")

    def trim(self, name: str, value: Tensor, length: int) -> Tensor:
        """What belongs to the ``length`` samples of the file in the body's output ``value`` of that ``name``.

        Waveforms lose the head by which they are late; a network that provides frames overrides this for them.
        """
        return value[..., self.lookahead : self.lookahead + length] if name == "estimate" else value

    def forward(self, inputs: Tensor) -> Tensor | dict[str, Tensor]:
        """Restores speech.

        Args:
            inputs: ``(B, in_channels, T)``; when streaming, T is a multiple of ``hop``.

        Returns:
            ``(B, 1, T)``, or a dict with it as ``estimate``; when streaming, late by ``lookahead`` samples.

        Raises:
            AudioError: another number of sensors.
            StreamingError: a chunk that is not a multiple of ``hop``.
        """
        name, length = type(self).__name__, inputs.shape[-1]
        if inputs.ndim != 3 or inputs.shape[1] != self.in_channels:
            raise AudioError(f"{name} takes (batch, {self.in_channels} sensors, time), not {tuple(inputs.shape)}")
        if self.is_streaming:
            if length % self.hop:
                raise StreamingError(f"a chunk of {length} samples is not a multiple of the hop, {self.hop} samples")
            return self.body(inputs)
        output = self.body(F.pad(inputs, (0, self.lookahead + -(length + self.lookahead) % self.hop)))
        if isinstance(output, Tensor):
            return self.trim("estimate", output, length)
        return {key: self.trim(key, value, length) for key, value in output.items()}


def estimate_of(output: Tensor | dict[str, Tensor]) -> Tensor:
    """The estimate ``(B, 1, T)`` of what a generator gave: that alone, or a dict with more."""
    return output["estimate"] if isinstance(output, dict) else output


def field_of_spans(spans: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """Receptive field (past, future) in samples, from the input span of each output 0, 1, ... of one frame."""
    return max(n - start for n, (start, _) in enumerate(spans)), max(end - n for n, (_, end) in enumerate(spans))
