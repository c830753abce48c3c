"""Whether an exported file does what the network does: frame by frame, on an utterance, and how fast."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from torch import nn

from bcfusion import audio
from bcfusion.contracts import Generator, Metric, Skip
from bcfusion.data.corpora.demo_speech import draw_voice, utterance
from bcfusion.errors import AudioError, ExportError
from bcfusion.inference.stepping import Frames, Stepper, TorchStepper, stream_signal
from bcfusion.metrics.pesq import Pesq
from bcfusion.metrics.stoi import Stoi
from bcfusion.nn.network import estimate_of

__all__ = [
    "TOLERANCE",
    "Verified",
    "check_reference",
    "check_signal",
    "real_time_factor",
    "speech_of",
    "verify_step",
    "verify_whole",
]

TOLERANCE = 1e-4  #: largest difference between samples of a float32 file and of the network, full scale being 1
FRAMES = 100
SECONDS = 4.0  # of the synthetic utterance
LEVEL = 0.07  # root mean square of the noise, -23 dB full scale, as loud as speech


@dataclass(frozen=True)
class Verified:
    """What the check measured.

    Attributes:
        difference: the largest, between samples of the exported file's output and of the network's.
        peak: the largest magnitude of the network's output.
        real_time_factor: seconds of computing for a second of audio, on one thread.
        reference: what the scores compare with: ``clean`` speech, or ``network``, its own output.
        scores: metric to its value for the exported file's output.
        own_scores: metric to its value for the network's output.
        unscored: metric to the reason why it has no value.
    """

    difference: float
    peak: float
    real_time_factor: float
    reference: Literal["clean", "network"] = "network"
    scores: dict[str, float] = field(default_factory=dict)
    own_scores: dict[str, float] = field(default_factory=dict)
    unscored: dict[str, str] = field(default_factory=dict)

    def require(self, tolerance: float) -> None:
        """Refuse a difference that is not finite, or above the tolerance; louder outputs may differ by more.

        Raises:
            ExportError: see above.
        """
        allowed = tolerance * max(1.0, self.peak)
        if not np.isfinite(self.difference):
            raise ExportError("the exported network gives samples that are not finite: nothing is written")
        if self.difference > allowed:
            far = f"differs from the network by {self.difference:.1e}, more than {allowed:.0e}"
            raise ExportError(f"the output of the exported file {far}: nothing is written")


def speech_of(generator: nn.Module) -> tuple[Frames, Frames]:
    """Return synthetic speech at a network's rate: with a little noise at each sensor, ``(S, T)``, and clean, ``(T,)``.

    Below 8 kHz, which is too low for the synthesis, it is noise.
    """
    spec = cast("Generator", generator)
    rng = np.random.default_rng(0)
    if spec.sample_rate < 8000:
        speech: np.ndarray = LEVEL * rng.standard_normal(round(SECONDS * spec.sample_rate))
    else:
        speech, _ = utterance(draw_voice(0.4, rng), SECONDS, spec.sample_rate, rng)
    noise = 1e-3 * rng.standard_normal((spec.in_channels, len(speech)))
    return (speech + noise).astype(np.float32), speech.astype(np.float32)


def check_signal(file: Path, generator: nn.Module) -> Frames:
    """Return a recording ``(S, T)`` at a network's rate.

    Raises:
        AudioError: it cannot be read, or has another number of channels.
    """
    spec = cast("Generator", generator)
    signal, rate = audio.read(file)
    if signal.shape[0] != spec.in_channels:
        raise AudioError(f"{file} has {signal.shape[0]} channels, the model takes {spec.in_channels}: one for a sensor")
    return audio.resample(torch.from_numpy(signal), rate, spec.sample_rate).numpy()


def check_reference(file: Path, generator: nn.Module, length: int) -> Frames:
    """Return the clean speech ``(T,)`` of a recording, at a network's rate.

    Args:
        file: mono.
        generator: the network.
        length: of the recording at the network's rate, in samples.

    Raises:
        AudioError: it cannot be read, has several channels or another length.
    """
    rate = cast("Generator", generator).sample_rate
    signal, own_rate = audio.read(file)
    if signal.shape[0] != 1:
        raise AudioError(f"{file} has {signal.shape[0]} channels: a reference is mono")
    clean: Frames = audio.resample(torch.from_numpy(signal), own_rate, rate)[0].numpy()
    if abs(len(clean) - length) > 1:  # of other rates the last sample may be rounded away
        seconds = f"{len(clean) / rate:.3f} s, the recording {length / rate:.3f} s"
        raise AudioError(f"{file} has {seconds}: a reference is as long as the recording and aligned with it")
    return np.pad(clean, (0, 1))[:length]


def verify_step(generator: nn.Module, stepper: Stepper, signal: Frames, clean: Frames | None = None) -> Verified:
    """Compare a stepper with the network: 100 frames of noise as streams, an utterance as a whole file.

    Args:
        generator: a causal network in eval mode, on the CPU.
        stepper: of the exported file.
        signal: ``(S, T)``, the utterance.
        clean: ``(T,)``, what it should become; None for the network's output.
    """
    noise = _noise(generator, FRAMES * stepper.frame)
    chunks = [np.ascontiguousarray(chunk) for chunk in np.split(noise, FRAMES, axis=1)]
    ours = TorchStepper(generator, stepper.frame)
    try:
        expected = np.concatenate([ours.step(chunk) for chunk in chunks])
    finally:
        ours.close()
    stepper.reset()
    got = np.concatenate([stepper.step(chunk) for chunk in chunks])
    return _compared(generator, lambda x: stream_signal(stepper, x), signal, clean, [(expected, got)])


def verify_whole(
    generator: nn.Module, restore: Callable[[Frames], Frames], signal: Frames, clean: Frames | None = None
) -> Verified:
    """Compare a graph for whole files with the network: files of a sample, about a frame and more, and an utterance.

    Args:
        generator: a network in eval mode, on the CPU.
        restore: ``(S, T)`` to ``(T,)`` by the exported file.
        signal: ``(S, T)``, the utterance.
        clean: ``(T,)``, what it should become; None for the network's output.
    """
    hop = cast("Generator", generator).hop
    lengths = sorted({1, 2, hop - 1, hop, hop + 1, 5 * hop + 3, 2777} - {0})
    noises = [_noise(generator, length) for length in lengths]
    pairs = [(_whole(generator, noise), restore(noise)) for noise in noises]
    return _compared(generator, restore, signal, clean, pairs)


def real_time_factor(restore: Callable[[Frames], Any], signal: Frames, sample_rate: int) -> float:
    """Return the seconds of computing for a second of audio.

    Args:
        restore: computes.
        signal: ``(S, T)``.
        sample_rate: Hz.
    """
    begun = time.perf_counter()
    restore(signal)
    return (time.perf_counter() - begun) / (signal.shape[-1] / sample_rate)


def _compared(
    generator: nn.Module,
    restore: Callable[[Frames], Frames],
    signal: Frames,
    clean: Frames | None,
    pairs: list[tuple[Frames, Frames]],
) -> Verified:
    rate = cast("Generator", generator).sample_rate
    expected, outputs = _whole(generator, signal), cast("list[Frames]", [])
    factor = real_time_factor(lambda x: outputs.append(restore(x)), signal, rate)
    [got] = outputs
    pairs = [*pairs, (expected, got)]
    if wrong := [(own.shape, other.shape) for own, other in pairs if own.shape != other.shape]:
        raise ExportError(f"the exported file gives {wrong[0][1]} samples instead of {wrong[0][0]}: nothing is written")
    result = Verified(
        max(_difference(own, other) for own, other in pairs),
        max(float(np.abs(own[np.isfinite(own)]).max(initial=0)) for own, _ in pairs),
        factor,
        "network" if clean is None else "clean",
    )
    target = expected if clean is None else clean
    metrics: list[Metric] = [Pesq("wb" if rate >= 16000 else "nb"), Stoi()]
    for metric in metrics:
        name = metric.names[0]
        try:
            own, other = (metric.score(each, target, rate)[name] for each in (expected, got))
            result.own_scores[name], result.scores[name] = own, other
        except Skip as skip:
            result.unscored[name] = str(skip)
    return result


def _difference(own: Frames, other: Frames) -> float:
    """Return the largest difference; where the network itself gives NaN or infinity, the file has to give the same."""
    differ = ~((own == other) | (np.isnan(own) & np.isnan(other)))
    if not (np.isfinite(own[differ]).all() and np.isfinite(other[differ]).all()):
        return np.inf
    return float(np.abs(own[differ] - other[differ]).max(initial=0))


def _whole(generator: nn.Module, signal: Frames) -> Frames:
    with torch.inference_mode():
        return cast("Frames", estimate_of(generator(torch.from_numpy(signal)[None]))[0, 0].numpy())


def _noise(generator: nn.Module, length: int) -> Frames:
    channels = cast("Generator", generator).in_channels
    return (LEVEL * np.random.default_rng(1).standard_normal((channels, length))).astype(np.float32)
