"""Evaluate a model on whole files: the procedure shared by training and the verbs evaluate and listen."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from bcfusion.contracts import Generator
from bcfusion.errors import CheckpointError
from bcfusion.evaluation.pool import Scorer
from bcfusion.evaluation.scores import Scores
from bcfusion.evaluation.systems import ENHANCED, TARGET, input_names
from bcfusion.evaluation.utterances import Utterances
from bcfusion.inference.chunks import measured_once
from bcfusion.inference.enhance import enhance_signal
from bcfusion.nn.network import estimate_of
from bcfusion.probe import device_of
from bcfusion.run.bundle import bundle_of, load_generator

__all__ = ["OnItem", "enhance_item", "evaluate", "input_signals", "load_model"]

WHOLE_SECONDS = 30.0  # longer files are enhanced in chunks, in bounded memory: see bcfusion.inference.chunks

OnItem = Callable[[int, str, Mapping[str, np.ndarray]], None]
"""Receives index, id and signals ``(T,)`` (inputs, ``enhanced``, ``target``) of each utterance."""


def evaluate(
    model: nn.Module | str | Path,
    utterances: Utterances,
    scorer: Scorer,
    on_item: OnItem | None = None,
    device: str = "cpu",
) -> Scores:
    """Score the output of a model, and its input, on whole files.

    The metrics of one utterance are computed while the model works on the next ones.

    Args:
        model: a generator in evaluation mode, on the device where it runs; or a run directory, bundle or checkpoint,
            which is loaded by :func:`load_model`.
        utterances: what to evaluate on.
        scorer: computes the metrics in its processes.
        on_item: receives the signals of each utterance.
        device: for a model that is loaded.

    Returns:
        One row for each utterance and system. Utterances whose files cannot be read come last, as skipped.

    Raises:
        CheckpointError: the model cannot be loaded, or needs other sensors or another sample rate.
        DataError: too many files cannot be read.
    """
    if isinstance(model, nn.Module):
        generator = model
    else:
        generator = load_model(model, utterances.sensors, utterances.sample_rate, device)
    index = 0
    with measured_once():
        for batch in utterances.batches:
            for position, item in enumerate(batch["ids"]):
                length = int(batch["lengths"][position])
                inputs = batch["inputs"][position, :, :length]
                target = batch["target"][position, 0, :length].cpu().numpy()
                estimate = enhance_item(generator, inputs)
                signals = {**input_signals(inputs, length, utterances.sensors), ENHANCED: estimate}
                scorer.submit(item, signals, target, utterances.about(batch, position))
                if on_item is not None:
                    on_item(index, item, {**signals, TARGET: target})
                index += 1
    return utterances.complete(scorer.collect())


def load_model(
    model: str | Path, sensors: Sequence[str], sample_rate: int, device: str = "cpu", *, trust_code: bool = False
) -> nn.Module:
    """Load a generator that has to fit a task.

    Args:
        model: run directory, bundle or checkpoint.
        sensors: names of the input channels of the task, in order.
        sample_rate: of the task, in Hz.
        device: where to put the generator.
        trust_code: see :func:`bcfusion.load_generator`.

    Raises:
        CheckpointError: it cannot be loaded, or was trained for other sensors or another sample rate.
    """
    generator = load_generator(model, device=device, trust_code=trust_code)
    bundle = bundle_of(generator)
    assert bundle is not None  # load_generator attaches it
    if bundle.sensors != list(sensors) or bundle.sample_rate != sample_rate:
        raise CheckpointError(
            f"{model} takes {', '.join(bundle.sensors)} at {bundle.sample_rate} Hz, but the task gives "
            f"{', '.join(sensors)} at {sample_rate} Hz: choose its recipe and sample_rate"
        )
    return generator


def input_signals(inputs: Tensor, length: int, sensors: Sequence[str]) -> dict[str, np.ndarray]:
    """Return the first ``length`` samples of each channel of ``inputs (S, T)``, by the name of its system."""
    return dict(zip(input_names(sensors), inputs[:, :length].float().cpu().numpy(), strict=True))


@torch.inference_mode()
def enhance_item(generator: nn.Module, inputs: Tensor) -> np.ndarray:
    """Enhance one item ``(S, T)`` of any length in bounded memory; return ``(T,)`` float32."""
    device = device_of(generator)
    if inputs.shape[-1] <= WHOLE_SECONDS * cast("Generator", generator).sample_rate:
        return estimate_of(generator(inputs.unsqueeze(0).to(device)))[0, 0].float().cpu().numpy()
    return enhance_signal(generator, inputs.to(device), chunk_seconds=WHOLE_SECONDS)[0].float().cpu().numpy()
