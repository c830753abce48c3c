"""Cost and receptive field of a generator, measured on the network itself rather than declared by it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, pairwise
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from bcfusion.contracts import Batch, Generator
from bcfusion.nn.network import estimate_of
from bcfusion.nn.streaming import StreamingModule

__all__ = [
    "count_parameters",
    "device_of",
    "evaluating",
    "macs_per_second",
    "measured_delay",
    "moved",
    "receptive_field",
]

FIRST_REACH_SECONDS = 0.2  # that the first window can show, on either side
EMPTY_SHARE = 0.4  # of the window on each side that must stay finite; otherwise the window grows
GROWTH = 3  # factor by which the window grows while the trace of the poison touches its edge
MAX_PROBES = 40  # frame phases tried at most
MANY_PHASES = 64  # of a frame; with fewer, closing in on the best ones is cheaper than a gradient
PROBES_AT_ONCE = 2  # more in one batch is slower on a CPU: the activations leave the cache


def count_parameters(module: nn.Module) -> int:
    """Return how many numbers all parameters hold; shared ones count once, and buffers do not count."""
    return sum(parameter.numel() for parameter in module.parameters())


def macs_per_second(generator: nn.Module) -> float:
    """Return the multiply-accumulate operations per second of audio.

    Counted are convolutions, matrix products and attention (half of what ``torch.utils.flop_counter`` finds), and
    recurrent layers (LSTM, GRU, RNN), from their sizes because that counter does not see their fused kernels. Not
    counted are biases, activations, additions, normalisation, FFTs and resampling by indexing.
    """
    spec = cast("Generator", generator)
    frames = -(-spec.sample_rate // spec.hop)
    samples = frames * spec.hop  # whole frames, so that inner padding does not count
    inputs = torch.zeros(1, spec.in_channels, samples, device=device_of(generator))
    counter = FlopCounterMode(display=False)
    recurrent = _RecurrentCounter(counter)
    layers = [module for module in generator.modules() if isinstance(module, nn.RNNBase)]
    hooks = [hook for layer in layers for hook in recurrent.watch(layer)]
    try:
        # The counter does not see fused attention: with gradients and the plain kernel it is computed in parts.
        with evaluating(generator), torch.enable_grad(), sdpa_kernel(SDPBackend.MATH), counter:
            generator(inputs)
    finally:
        for hook in hooks:
            hook.remove()
    macs = (counter.get_total_flops() - recurrent.double_counted) / 2 + recurrent.macs
    return macs * spec.sample_rate / samples


def receptive_field(generator: nn.Module, max_seconds: float = 3.0) -> tuple[int, int] | None:
    """Measure the receptive field: output n depends on inputs n - past to n + future, in samples.

    Measured by poisoning: one input sample is NaN, and the outputs that are not finite are those that depend on it.
    This is done in the middle of a window, at those phases of the frame (position modulo ``hop``) where the reach can
    be largest. With strides, the reach grows by one sample per sample of phase and then drops, so phases that cannot
    have a larger reach than the known ones are skipped. A field with a gap that is as wide as all before it, and at
    least 0.1 s, would be taken to end at the gap.

    Args:
        generator: fulfils :class:`bcfusion.contracts.Generator`; it is left unchanged, train or eval mode included.
        max_seconds: the reach on either side beyond which the search ends.

    Returns:
        ``(past, future)``, or None if either exceeds ``max_seconds`` (recurrent layers, global normalisation).
    """
    spec = cast("Generator", generator)
    endless = any(isinstance(layer, StreamingModule) and layer.endless for layer in generator.modules())
    if endless or spec.delay is None or spec.delay > max_seconds * spec.sample_rate:
        return None  # known from its layers; measuring it may take minutes
    reach = _reach(generator, max_seconds)
    return None if reach.past is None or reach.future is None else (reach.past, reach.future)


def measured_delay(generator: nn.Module, max_seconds: float = 3.0) -> int | None:
    """Measure the algorithmic latency in samples: output n depends on no input after n + delay.

    Args:
        generator: fulfils :class:`bcfusion.contracts.Generator`; it is left unchanged, train or eval mode included.
        max_seconds: the latency beyond which the search ends.

    Returns:
        The latency, or None if it exceeds ``max_seconds``.
    """
    return _reach(generator, max_seconds).future


@dataclass(frozen=True)
class _Reach:
    past: int | None
    future: int | None


@dataclass(frozen=True)
class _Trace:
    """Where one poisoned input sample shows in the output, in samples after (negative: before) that sample."""

    first: int
    last: int
    clear_left: bool  # the trace ends inside the window
    clear_right: bool


def _reach(generator: nn.Module, max_seconds: float) -> _Reach:
    spec = cast("Generator", generator)
    hop = spec.hop
    # in frames; the widest window has room for the longest trace that is accepted
    limit = math.ceil(max_seconds * spec.sample_rate / (1 - EMPTY_SHARE) / hop) + 3
    half = min(limit, math.ceil(FIRST_REACH_SECONDS * spec.sample_rate / (1 - EMPTY_SHARE) / hop) + 3)
    with evaluating(generator), torch.no_grad():
        while True:
            traces = _traces(generator, half, [0])
            left, right = traces[0].clear_left, traces[0].clear_right
            if (left and right) or half == limit:
                break
            half = min(limit, half * GROWTH)
        if left or right:
            if left and right:  # from here on, a window that just holds the trace suffices
                half = max(-traces[0].first, traces[0].last) // hop + 4
            if hop > 1:
                traces.update(_traces(generator, half, [hop - 1]))
            many = hop > MANY_PHASES and _promising(traces, left, right)
            guessed = _turning_phases(generator, half, traces, left, right) if many else []
            for start in range(0, len(guessed), PROBES_AT_ONCE):
                traces.update(_traces(generator, half, guessed[start : start + PROBES_AT_ONCE]))
            _refine(generator, half, traces, left, right)
    past = max(trace.last for trace in traces.values()) if right else None
    future = max(-trace.first for trace in traces.values()) if left else None
    furthest = int(max_seconds * spec.sample_rate)
    return _Reach(
        past=None if past is None or past > furthest else max(past, 0),
        future=None if future is None or future > furthest else max(future, 0),
    )


def _turning_phases(
    generator: nn.Module, half: int, traces: Mapping[int, _Trace], left: bool, right: bool
) -> list[int]:
    """Return guessed phases on either side of where the reach drops: :func:`_refine` need not close in on them then.

    With strides, the first poisoned output moves on once per frame: after the last input on which the first poisoned
    output of phase 0 depends. So does the last poisoned output, at the first input on which that of the last phase
    depends. A gradient that is NaN at such an output is NaN at the inputs on which it depends. Where a zero stops it,
    or there is no gradient, the guess is worse and more phases are tried.
    """
    end = cast("Generator", generator).hop - 1
    middle = half * (end + 1)
    inputs = _noise(generator, half).requires_grad_()
    turning: set[int] = set()
    try:
        with torch.enable_grad():
            output = estimate_of(generator(inputs))[0, 0]
        for wanted, seen, outermost, beside in (
            (left, traces[0].first, torch.max, 1),
            (right, end + traces[end].last, torch.min, -1),
        ):
            if wanted:
                poison = torch.zeros_like(output)
                poison[middle + seen] = torch.nan
                [gradient] = torch.autograd.grad(output, inputs, poison, retain_graph=True)
                depends = (~torch.isfinite(gradient[0])).any(0).nonzero()
                if len(depends):
                    phase = int(outermost(depends)) - middle
                    turning |= {phase, phase + beside}
    except RuntimeError:  # it has no gradient
        return []
    return sorted(phase for phase in turning if 0 < phase < end)


def _refine(generator: nn.Module, half: int, traces: dict[int, _Trace], left: bool, right: bool) -> None:
    """Try further phases, the most promising first, until none can reach further than those in ``traces``."""
    while len(traces) < MAX_PROBES and (promising := _promising(traces, left, right)):
        traces.update(_traces(generator, half, promising[:PROBES_AT_ONCE]))


def _promising(traces: Mapping[int, _Trace], left: bool, right: bool) -> list[int]:
    """Return phases that may reach further than those in ``traces``, the most promising first.

    The first and the last poisoned output never move back when the poison moves forward. Between two known phases
    a < b the future is therefore at most ``(b - 1) - (a + first(a))`` and the past at most ``(b + last(b)) - (a + 1)``.
    """
    future = max(-trace.first for trace in traces.values())
    past = max(trace.last for trace in traces.values())
    gains = []
    for a, b in pairwise(sorted(traces)):
        if b - a < 2:
            continue
        gain_left = (b - 1 - a) - traces[a].first - future if left else 0
        gain_right = (b - 1 - a) + traces[b].last - past if right else 0
        if max(gain_left, gain_right) > 0:
            gains.append((max(gain_left, gain_right), (a + b) // 2))
    return [phase for _, phase in sorted(gains, reverse=True)]


def _noise(generator: nn.Module, half: int) -> Tensor:
    """Return ``2 * half + 1`` frames of noise ``(1, S, T)``: a network may divide by the level of its input."""
    spec = cast("Generator", generator)
    samples = (2 * half + 1) * spec.hop
    noise = torch.randn(1, spec.in_channels, samples, generator=torch.Generator().manual_seed(0))
    return (0.1 * noise).to(device_of(generator))


def _traces(generator: nn.Module, half: int, phases: list[int]) -> dict[int, _Trace]:
    """Poison one sample at each of ``phases`` of the frame in the middle of ``2 * half + 1`` frames."""
    spec = cast("Generator", generator)
    noise = _noise(generator, half)
    samples = noise.shape[-1]
    inputs = noise.repeat(len(phases), 1, 1)
    positions = [half * spec.hop + phase for phase in phases]
    for item, position in enumerate(positions):
        inputs[item, :, position] = torch.nan
    poisoned = ~torch.isfinite(estimate_of(generator(inputs))[:, 0]).cpu()
    found = {}
    for phase, position, trace in zip(phases, positions, poisoned, strict=True):
        where = trace.nonzero().flatten()
        if len(where) == 0:  # no output depends on this input sample, as in a network that decimates
            found[phase] = _Trace(0, 0, True, True)
            continue
        first, last = int(where[0]), int(where[-1])
        # Near the edge, inner padding may have cut the trace; a dilated network's trace may continue after a gap.
        room = max(2 * spec.hop, int(EMPTY_SHARE * half * spec.hop))
        clear = first >= room, last < samples - room
        found[phase] = _Trace(first - position, last - position, *clear)
    return found


class _RecurrentCounter:
    """Count recurrent layers by their sizes, and what the flop counter saw inside them, which is to be subtracted."""

    def __init__(self, counter: FlopCounterMode) -> None:
        self.counter = counter
        self.macs = 0.0
        self.double_counted = 0.0
        self._before = 0

    def watch(self, layer: nn.RNNBase) -> list[torch.utils.hooks.RemovableHandle]:
        return [layer.register_forward_pre_hook(self._enter), layer.register_forward_hook(self._leave)]

    def _enter(self, layer: nn.Module, args: tuple[Any, ...]) -> None:
        self._before = self.counter.get_total_flops()

    def _leave(self, layer: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        self.double_counted += self.counter.get_total_flops() - self._before
        steps = args[0].data.numel() // args[0].data.shape[-1]  # batch times time
        # each matrix of the layer (input, hidden, projection) is used once per step
        weights = sum(weight.numel() for name, weight in layer.named_parameters() if name.startswith("weight"))
        self.macs += steps * weights


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Put a module in eval mode, and every submodule back in its own mode at the end of the block."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training


def device_of(module: nn.Module) -> torch.device:
    """Return the device of a module's first parameter or, if it has none, buffer; the CPU if it has neither."""
    tensor = next(chain(module.parameters(), module.buffers()), None)
    return torch.device("cpu") if tensor is None else tensor.device


def moved(batch: Batch, device: torch.device | str) -> Batch:
    """Return a batch with its tensors on a device; what is there already is not copied."""
    values = {name: value.to(device) if isinstance(value, Tensor) else value for name, value in batch.items()}
    return cast("Batch", values)
