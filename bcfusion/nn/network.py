"""What all networks from waveform to waveform share: any length in, the same length out, one declared look-ahead."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bcfusion.contracts import Batch, Generator, Taught
from bcfusion.errors import AudioError
from bcfusion.nn.delay import Delay
from bcfusion.nn.streaming import StreamingError, StreamingModule
from bcfusion.requirements import at_least, is_number, require, within

MOST_LOOKAHEAD = 200.0  #: ms of additional look-ahead; with more a conversation suffers
LEAST_FRAME = 8e-3  #: seconds of a stream's frame that is not given: calls of shorter ones cost more than they compute


class WaveformNetwork(StreamingModule):
    """A generator ``(B, in_channels, T) -> (B, 1, T)`` for any T of at least one sample.

    A network inherits from it and implements :meth:`body`, which receives whole frames only and may deliver its output
    ``lookahead`` samples late: the samples that an STFT, a filter bank or a resampler needs before an output sample is
    complete. For whole files this class pads the end with zeros, by the look-ahead and to whole frames, and drops as
    many samples from the head of the output: output and input are aligned. A stream gets the output as the body
    delivers it. The two are equal sample by sample, the stream late by ``lookahead``::

        torch.cat(chunks_out, -1)[..., lookahead:] == whole[..., :-lookahead]

    A body whose layers are all causal sees nothing of the future but the rest of its frame: ``delay = lookahead + hop -
    1`` holds by construction. One that is not causal declares its own delay.

    A causal network takes additional look-ahead, ``lookahead_ms``, rounded up to whole hops. Its body gets every sensor
    twice, ``signals`` channels instead of ``in_channels``: first all sensors as they arrive, then all of them delayed
    by ``future`` samples. Its output belongs to the delayed ones. All layers of an encoder, and with them all skip
    connections, see the details of the output's own time beside what follows it, and the head masks, or adds to, the
    delayed sensor: ``skip_channel`` counts from the end and is right for sensors and signals alike. A network thus only
    builds its first layer for ``signals`` channels; without look-ahead nothing changes.

    Args:
        sample_rate: of input and output, in Hz.
        in_channels: number of sensors.
        hop: samples; ``body`` takes multiples of it, and so does a stream.
        causal: whether every layer of the body is causal; the network then streams.
        lookahead: samples by which the body's output is late.
        delay: of a network that is not causal: output n depends on no input after n + delay; None if it depends on the
            whole file. Not given for a causal one.
        skip_channel: the sensor that a network starts from or falls back on; -1 is the last (the air microphone, in
            fusion).
        lookahead_ms: additional look-ahead of a causal network in ms, 0 to 200.

    Attributes:
        delay: algorithmic latency in samples, or None.
        future: samples of additional look-ahead, whole hops; part of ``lookahead``.
        signals: channels of the body's input: ``in_channels``, or with additional look-ahead twice as many.
        provides: keys of the output other than ``estimate``.
        learns_from: those of them that a loss has to ask for, since nothing else teaches a part of what is trained.
        hears_all: whether every channel of the input is heard, and in the same way. It is false of one with a part for
            each sensor, or that hears each relative to its own level: it takes no signals and times on a path beside
            the sensors.
        keeps_noise: whether noise of the input stays in the output whatever is learned, because that is a product with
            the sensor, or because a part of the band, or the phase, is not heard: the output cannot be the velocity of
            a path with noise.
        early: the first so many channels of the body's input arrive earlier than the output belongs to, by additional
            look-ahead: its own or, on a path, that of the generator around it.
        least_frame: seconds that a stream's frame lasts at least if its length is not given, see :func:`usual_frame`.
        position: sample of the file, a multiple of ``hop``, with which the input of a whole pass starts; see
            :func:`from_position`.

    Raises:
        ConfigError: a sample rate, number of sensors or hop below one, a ``skip_channel`` that is no sensor, or
            additional look-ahead that is out of range or of a network that is not causal.
    """

    provides: tuple[str, ...] = ()
    learns_from: tuple[str, ...] = ()
    hears_all: bool = True
    keeps_noise: bool = False
    least_frame: float = LEAST_FRAME
    position: int = 0

    def __init__(
        self,
        sample_rate: int,
        in_channels: int,
        hop: int,
        causal: bool,
        lookahead: int = 0,
        delay: int | None = None,
        skip_channel: int = -1,
        lookahead_ms: float = 0.0,
    ) -> None:
        require(
            self,
            at_least(1, sample_rate=sample_rate, in_channels=in_channels, hop=hop),
            within(-in_channels, in_channels - 1, skip_channel=skip_channel),
        )
        require(self, _lookahead_rules(lookahead_ms, causal, 1000 * hop / sample_rate))
        super().__init__()
        self.sample_rate, self.in_channels, self.hop = sample_rate, in_channels, hop
        self.causal = causal
        self.future = hop * hops_ahead(lookahead_ms, sample_rate / hop)
        self.signals = signals_of(in_channels, lookahead_ms)
        self.early = self.signals - in_channels
        self.lookahead = lookahead + self.future
        self.delay: int | None = self.lookahead + hop - 1 if causal else delay
        self.skip_channel = skip_channel
        if self.future:
            self.skip_channel = skip_channel % in_channels - in_channels
            self.wait = Delay(self.future, (in_channels,))

    @property
    def ahead(self) -> int:
        """Samples that it looks ahead beside its frames, after those of networks inside it."""
        return self.future + max(map(additional_lookahead, self.children()), default=0)

    def body(self, inputs: Tensor) -> Tensor | dict[str, Tensor]:
        """Compute ``(B, signals, T) -> (B, 1, T)``, T a multiple of ``hop``, late by ``lookahead``.

        A dict holds ``estimate`` and the keys of ``provides``.
        """
        raise NotImplementedError(f"{type(self).__name__} has no body")

    def run(self, inputs: Tensor) -> Tensor | dict[str, Tensor]:
        """Pass whole hops ``(B, in_channels, T)`` through the body: its output, late by ``lookahead``."""
        return self.body(self.with_copies(inputs))

    def with_copies(self, inputs: Tensor) -> Tensor:
        """Return the body's input ``(B, signals, T)``: the sensors ``(B, in_channels, T)``, then their delayed copies
        if there is additional look-ahead."""
        return torch.cat([inputs, self.wait(inputs)], dim=1) if self.future else inputs

    def in_time(self, channels: Tensor) -> Tensor:
        """Return those of ``channels (B, signals, ...)`` that are as late as the output, without the ``early`` ones."""
        return channels[:, self.early :]

    def padded(self, waveform: Tensor) -> Tensor:
        """Append zeros to a file ``(B, channels, T)``, by the look-ahead and to whole frames."""
        return F.pad(waveform, (0, self.lookahead + -(waveform.shape[-1] + self.lookahead) % self.hop))

    def trim(self, name: str, value: Tensor, length: int) -> Tensor:
        """Return the part of the body's output ``value`` of that ``name`` that belongs to a file of ``length`` samples.

        Waveforms lose the head by which they are late; a network that provides frames overrides this for them.
        """
        return value[..., self.lookahead : self.lookahead + length] if name == "estimate" else value

    def forward(self, inputs: Tensor) -> Tensor | dict[str, Tensor]:
        """Restore speech.

        Args:
            inputs: ``(B, in_channels, T)`` with at least one sample; when streaming, T is a multiple of ``hop``, or 0.

        Returns:
            ``(B, 1, T)``, or a dict with it as ``estimate``; when streaming, late by ``lookahead`` samples. A chunk of
            no samples gives an output of none, and leaves the stream as it was.

        Raises:
            AudioError: another number of sensors, or a file of no samples.
            StreamingError: a chunk that is not a multiple of ``hop``.
        """
        name, length = type(self).__name__, inputs.shape[-1]
        if inputs.ndim != 3 or inputs.shape[1] != self.in_channels:
            raise AudioError(f"{name} takes (batch, {self.in_channels} sensors, time), not {tuple(inputs.shape)}")
        if self.is_streaming:
            if not length:
                return self._nothing(inputs)
            if length % self.hop:
                raise StreamingError(f"a chunk of {length} samples is not a multiple of the hop, {self.hop} samples")
            return self.run(inputs)
        if not length:
            raise AudioError(f"{name} takes at least one sample, not {tuple(inputs.shape)}")
        output = self.run(self.padded(inputs))
        if isinstance(output, Tensor):
            return self.trim("estimate", output, length)
        return {key: self.trim(key, value, length) for key, value in output.items()}

    def _nothing(self, inputs: Tensor) -> Tensor | dict[str, Tensor]:
        """Return the output of a stream for a chunk of no samples: what a silent hop gives, without its frames."""
        before = self.get_state()
        with torch.no_grad():
            output = self.run(inputs.new_zeros(*inputs.shape[:2], self.hop))
        self.set_state(before)
        if isinstance(output, Tensor):
            return output[..., :0]
        return {key: value[:, :, :0] for key, value in output.items()}  # frames, of masks too, are the third dimension


def _lookahead_rules(lookahead_ms: float, causal: bool, hop_ms: float) -> list[str]:
    if not is_number(lookahead_ms) or not 0 <= lookahead_ms <= MOST_LOOKAHEAD:
        rounded = f"which is rounded up to whole hops of {hop_ms:.4g} ms"
        return [f"lookahead_ms={lookahead_ms!r} must be from 0 to {MOST_LOOKAHEAD:g} ms, {rounded}"]
    if lookahead_ms and not causal:
        return [f"lookahead_ms={lookahead_ms:g} is for causal networks; this one is not: set it to 0"]
    return []


def hops_ahead(lookahead_ms: float, per_second: float) -> int:
    """Return the hops of a look-ahead, rounded up, but for errors of floating point; 0 only if there is none."""
    return max(math.ceil(lookahead_ms * per_second / 1000 - 1e-9), int(lookahead_ms > 0))


def signals_of(in_channels: int, lookahead_ms: float) -> int:
    """Return the ``signals`` of a :class:`WaveformNetwork` with so many sensors and so much additional look-ahead."""
    return 2 * in_channels if lookahead_ms else in_channels


@contextmanager
def from_position(generator: nn.Module, sample: int) -> Iterator[None]:
    """Tell a generator, and all in it, that its input is a part of a file that starts with this sample.

    What a network draws at random is a function of the place in the file: chunks are then equal to the whole.

    Args:
        generator: any.
        sample: a multiple of its ``hop``.
    """
    parts = [part for part in generator.modules() if isinstance(part, WaveformNetwork)]
    for part in parts:
        part.position = sample
    try:
        yield
    finally:
        for part in parts:
            part.position = 0


def future_reach(hop: int, *chain: nn.Module) -> int:
    """Return how many input samples after n output n depends on, at most, if layers run one after the other.

    A layer that moves or widens time declares it by a method ``last_input(frame)``: the last input frame that output
    ``frame`` depends on. A module without one stands for its submodules, which run in the order in which they were
    registered. Skip connections need not be declared: the path that they bypass reaches at least as far.

    Args:
        hop: output samples after which the dependence repeats.
        chain: the layers, first to last.
    """
    reached = {sample: sample for sample in range(hop)}  # frame of the present layer to the first output that needs it
    for last_input in reversed([step for module in chain for step in _steps_in_time(module)]):
        before: dict[int, int] = {}
        for frame, sample in reached.items():
            before.setdefault(last_input(frame), sample)
        reached = before
    return max(frame - sample for frame, sample in reached.items())


def _steps_in_time(module: nn.Module) -> Iterator[Callable[[int], int]]:
    last_input = getattr(module, "last_input", None)
    if last_input is not None:
        yield last_input
    else:
        for child in module.children():
            yield from _steps_in_time(child)


def lookahead_of(generator: Generator) -> int:
    """Return by how many samples the stream of a generator is late, beside its frame; 0 if it does not stream."""
    return 0 if generator.delay is None or not generator.causal else generator.delay - generator.hop + 1


def least_frame_of(generator: object) -> float:
    """Return the ``least_frame`` of a network in seconds, :data:`LEAST_FRAME` if it declares none."""
    return float(getattr(generator, "least_frame", LEAST_FRAME))


def usual_frame(generator: Generator) -> int:
    """Return the samples of a stream's frame whose length is not given: whole hops, of at least 8 ms.

    A network whose hops are cheaper together declares longer frames, by ``least_frame`` in seconds.
    """
    least = round(least_frame_of(generator) * generator.sample_rate)
    return max(1, -(-least // generator.hop)) * generator.hop


def estimate_of(output: Tensor | dict[str, Tensor]) -> Tensor:
    """Return the estimate ``(B, 1, T)`` from the output of a generator: the output itself, or a dict with more."""
    return output["estimate"] if isinstance(output, dict) else output


def additional_lookahead(generator: nn.Module) -> int:
    """Return how many samples a network looks ahead beside its frames, together with what it is made of."""
    if isinstance(generator, WaveformNetwork):
        return generator.ahead
    return max(map(additional_lookahead, generator.children()), default=0)


def heard(batch: Batch, ahead: int) -> Batch:
    """Return a training batch whose crops end ``ahead`` samples earlier, but for ``inputs``.

    A network that looks ahead cannot hear what follows the end of a crop: it would learn from zeros there. A crop that
    is not twice as long is left as it is, and so are items that end before their crop does, in silence.
    """
    total = batch["target"].shape[-1]
    if not ahead or total < 2 * ahead:
        return batch
    lengths = torch.where(batch["lengths"] == total, total - ahead, batch["lengths"])
    made: Batch = {**batch, "lengths": lengths, "target": without_padding(batch["target"], lengths)}
    if "noise" in batch:
        made["noise"] = without_padding(batch["noise"], lengths)
    return made


def without_padding(waveform: Tensor, lengths: Tensor) -> Tensor:
    """Set what comes after the length of each item ``(B, 1, T)`` to 0."""
    return waveform * (torch.arange(waveform.shape[-1], device=waveform.device) < lengths.view(-1, 1, 1))


def outputs_to_learn_from(generator: nn.Module, batch: Batch) -> dict[str, Tensor]:
    """Return what losses are computed from: ``estimate`` and the keys of ``provides``, of a training batch.

    Args:
        generator: of any kind; a :class:`bcfusion.contracts.Taught` one is taught.
        batch: with ``inputs``, ``target`` and ``lengths``, on its device.
    """
    outputs = generator.teach(batch) if isinstance(generator, Taught) else generator(batch["inputs"])
    return outputs if isinstance(outputs, dict) else {"estimate": outputs}
