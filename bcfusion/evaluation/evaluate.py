"""Scores a generator on whole files, the input beside it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from bcfusion.contracts import Batch, Generator
from bcfusion.evaluation.pool import Scorer
from bcfusion.evaluation.scores import Scores
from bcfusion.inference.enhance import enhance_signal
from bcfusion.nn.network import estimate_of
from bcfusion.probe import device_of

ENHANCED = "enhanced"  #: name of the system under test in scores and tables
INPUT = "input"  #: name of its input; with several sensors ``input (<sensor>)``
WHOLE_SECONDS = 30.0  # longer files are enhanced in chunks, with the same result and in bounded memory


def input_signals(inputs: Tensor, length: int, sensors: Sequence[str]) -> dict[str, np.ndarray]:
    """The sensors' signals of one item ``(S, T)``, cut to ``length``, by the name of their row in tables."""
    signals = inputs[:, :length].float().cpu().numpy()
    if len(sensors) == 1:
        return {INPUT: signals[0]}
    return {f"{INPUT} ({sensor})": signals[channel] for channel, sensor in enumerate(sensors)}


@torch.inference_mode()
def enhance_item(generator: nn.Module, inputs: Tensor) -> np.ndarray:
    """Enhances one item ``(S, T)`` of any length in bounded memory; returns ``(T,)`` float32."""
    device = device_of(generator)
    if inputs.shape[-1] <= WHOLE_SECONDS * cast("Generator", generator).sample_rate:
        output = generator(inputs.unsqueeze(0).to(device))
        estimate = estimate_of(output)
        return estimate[0, 0].float().cpu().numpy()
    return enhance_signal(generator, inputs.to(device), chunk_seconds=WHOLE_SECONDS)[0].float().cpu().numpy()


def evaluate_generator(
    generator: nn.Module,
    batches: Iterable[Batch],
    scorer: Scorer,
    sensors: Sequence[str],
    on_item: Callable[[int, str, Mapping[str, np.ndarray]], None] | None = None,
    describe: Callable[[Batch, int], Mapping[str, str]] | None = None,
) -> Scores:
    """Metrics of the enhanced signals and of the input, for each item of the batches.

    Args:
        generator: in evaluation mode, on the device where it shall run.
        batches: whole files, see :class:`bcfusion.contracts.Batch`.
        scorer: computes the metrics in its processes while the generator works on.
        sensors: names of the input channels.
        on_item: called with index, id and signals (inputs, ``enhanced``, ``target``) of each item.
        describe: gives further columns of the scores for an item, from its batch and its position there; as
            :class:`bcfusion.evaluation.utterances.Utterances`.
    """
    index = 0
    for batch in batches:
        for position, item in enumerate(batch["ids"]):
            length = int(batch["lengths"][position])
            inputs = batch["inputs"][position, :, :length]
            target = batch["target"][position, 0, :length].cpu().numpy()
            signals = {**input_signals(inputs, length, sensors), ENHANCED: enhance_item(generator, inputs)}
            scorer.submit(item, signals, target, None if describe is None else describe(batch, position))
            if on_item is not None:
                on_item(index, item, {**signals, "target": target})
            index += 1
    return scorer.collect()
