"""Hours of sound through a causal network, and silence after speech through all of them."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Iterator, Sequence
from typing import Any, cast

import bench_stream
import numpy as np
import torch
from torch import nn

from bcfusion.inference.stepping import Stepper, TorchStepper
from bcfusion.nn.streaming import StreamingModule
from soaking.judge import Bounds, Verdict, growth, relative_growth
from soaking.sampling import Sample, sample

FASTEST = "band_gain_causal"
PERIOD = 10.0  # seconds; the first ones are warm-up, until the state has forgotten that there was a beginning
WARM_UP = 3  # periods
ROUNDING = 1e-5  # of the largest sample
SLOWER = 1.2
LEVELS = {"speech": 0.07, "silence": 0.0, "sound that has faded out": 1e-39}
SECONDS = {"speech": 0.5, "silence": 3.0, "sound that has faded out": 1.0}
TURNS, LAST = 4, 16  # turns, and the frames of each sound in a turn whose time counts
TINY = torch.finfo(torch.float32).tiny


def streaming(hours: float, bounds: Bounds, name: str = FASTEST) -> tuple[list[Verdict], dict[str, float]]:
    """Stream a sound that repeats itself: so does the output, and neither time nor memory grow.

    Args:
        hours: of sound.
        bounds: what may grow.
        name: entry of ``conf/generator``, or a model.
    """
    torch.set_num_threads(1)
    stepper = TorchStepper(network := bench_stream.network(name))
    frames = round(PERIOD * stepper.sample_rate / stepper.frame)
    sound = speechlike(frames * stepper.frame, len(stepper.sensors), stepper.sample_rate)
    chunks = np.split(sound, frames, axis=-1)
    periods = max(WARM_UP + 8, round(3600 * hours / PERIOD))
    reference: np.ndarray | None = None
    drift, seconds = 0.0, []
    samples: list[Sample] = []
    for number in range(periods):
        begun = time.thread_time()
        output = np.concatenate([stepper.step(chunk) for chunk in chunks])
        seconds.append(time.thread_time() - begun)
        if number == WARM_UP:
            reference = output
        if reference is not None:
            drift = max(drift, float(np.abs(output - reference).max() / np.abs(reference).max()))
            found = sample(os.getpid(), "stream", number)
            assert found is not None
            samples.append(found)
    infinite = not_finite(state_of(network))
    stepper.close()
    verdicts = [
        Verdict(f"{name}: largest difference to the first period, of its largest sample", drift, ROUNDING),
        Verdict(f"{name}: growth of memory", relative_growth([each.megabytes for each in samples]), bounds.memory, "%"),
        Verdict(f"{name}: growth of threads", growth([each.threads for each in samples]), bounds.threads),
        Verdict(f"{name}: growth of handles", growth([each.handles for each in samples]), bounds.handles),
        Verdict(f"{name}: CPU time of a period, last quarter to first", slower(seconds[WARM_UP:]), SLOWER),
        Verdict(f"{name}: values of the state that are not finite", infinite, 0),
    ]
    return verdicts, {"hours": periods * PERIOD / 3600, "real-time factor": statistics.median(seconds) / PERIOD}


def slower(seconds: Sequence[float]) -> float:
    """Return the least time of the last quarter over that of the first: other work on the machine only adds to it."""
    quarter = max(1, len(seconds) // 4)
    return min(seconds[-quarter:]) / min(seconds[:quarter])


def silence(names: Sequence[str]) -> tuple[list[Verdict], dict[str, float]]:
    """Let speech, silence and sound that has faded out take turns: their frames must not take longer.

    Numbers too small for the usual format, to which a state or a fading sound decays, take some operations of a CPU a
    hundred times as long.

    Args:
        names: entries of ``conf/generator``, or models.
    """
    torch.set_num_threads(1)
    verdicts, figures = [], {}
    for name in names:
        stepper = TorchStepper(network := bench_stream.network(name))
        taken: dict[str, list[float]] = {sound: [] for sound in LEVELS}
        small = infinite = 0
        for _ in range(TURNS):
            for sound, level in LEVELS.items():
                taken[sound].append(frame_seconds(stepper, SECONDS[sound], level))
                state = state_of(network)
                small = max(small, sum(int(((each != 0) & (each.abs() < TINY)).sum()) for each in state))
                infinite += not_finite(state)
        stepper.close()
        loud, *quiet = (min(times) for times in taken.values())
        for sound, time_of_frame in zip(list(LEVELS)[1:], quiet, strict=True):
            what = f"{name}: CPU time of a frame of {sound} to one of speech"
            verdicts.append(Verdict(what, time_of_frame / loud, SLOWER))
        verdicts.append(Verdict(f"{name}: values of the state that are not finite", infinite, 0))
        figures[f"{name}: most denormal numbers in the state"] = float(small)
    return verdicts, figures


def frame_seconds(stepper: Stepper, seconds: float, level: float) -> float:
    """Return the least CPU time of the last frames of noise: other work on the machine only adds to it."""
    rng = np.random.default_rng(0)
    times = []
    for _ in range(max(LAST, round(seconds * stepper.sample_rate / stepper.frame))):
        chunk = (level * rng.standard_normal((len(stepper.sensors), stepper.frame))).astype(np.float32)
        begun = time.thread_time()
        stepper.step(chunk)
        times.append(time.thread_time() - begun)
    return min(times[-LAST:])


def speechlike(samples: int, channels: int, rate: int) -> np.ndarray:
    """Return noise ``(S, T)`` whose level goes up and down as that of syllables does, with a pause."""
    rng = np.random.default_rng(0)
    seconds = np.arange(samples) / rate
    level = 0.05 * (1 + np.sin(2 * np.pi * 4 * seconds)) * (seconds % 5 < 4)
    return (level * rng.standard_normal((channels, samples))).astype(np.float32)


def causal_networks() -> list[str]:
    """Return the causal entries of ``conf/generator`` that compute something."""
    from benchmarks.rows import CAUSAL

    return [name for name in CAUSAL if name != "identity"]


def state_of(network: nn.Module) -> list[torch.Tensor]:
    """Return the numbers that a streaming network keeps."""
    return list(tensors(cast("StreamingModule", network).get_state()))


def not_finite(state: Sequence[torch.Tensor]) -> int:
    """Return how many numbers of a state are not finite."""
    return sum(int(torch.isfinite(each).logical_not().sum()) for each in state)


def tensors(state: Any) -> Iterator[torch.Tensor]:
    """Yield the tensors of floating-point numbers in nested containers."""
    if isinstance(state, torch.Tensor):
        if state.is_floating_point():
            yield state
    elif isinstance(state, dict):
        for each in state.values():
            yield from tensors(each)
    elif isinstance(state, list | tuple):
        for each in state:
            yield from tensors(each)
