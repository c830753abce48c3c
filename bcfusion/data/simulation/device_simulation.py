"""Simulation of sensors on the training device, a batch at a time, instead of in the processes of the loader.

A reader that defers a sensor (:attr:`bcfusion.data.loading.reader.SensorReader.deferred`) puts into a batch the clean
speech ``air``, a gain in place of the sensor, and the seeds of its generators, ``pending``. From these
:func:`simulated` makes what the loader would have made: the same generators draw the same numbers on the CPU, and
filters run on the device of the batch.

A sensor is deferred if its simulator takes batches (:class:`bcfusion.contracts.BatchSimulator`), adds no room noise and
does not declare ``reads_files``: reading files is the work of the loader, and a simulator that adds noise may change
the target, whose level the augmentation measures.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from bcfusion.contracts import Batch, BatchSimulator, Draw, Simulator
from bcfusion.data.seeding import seeded
from bcfusion.data.simulation import simulate_batch
from bcfusion.errors import DataError


def deferrable(simulators: Mapping[str, Simulator]) -> frozenset[str]:
    """Return the sensors that can be simulated on the device."""
    return frozenset(
        sensor
        for sensor, simulator in simulators.items()
        if isinstance(simulator, BatchSimulator)
        and not getattr(simulator, "provides_noise", False)
        and not getattr(simulator, "reads_files", False)
    )


def simulated(
    batch: Batch,
    sensors: Sequence[str],
    simulators: Mapping[str, Simulator],
    sample_rate: int,
    changes: Callable[[Tensor, Sequence[int], int], Tensor] | None = None,
) -> Batch:
    """Complete a batch on its device; a batch with nothing pending is returned unchanged.

    Items of equal length are simulated together; others are not, since borders and levels depend on where a signal
    ends.

    Args:
        batch: from the loader; its tensor ``inputs`` is modified in place.
        sensors: names of the channels of ``inputs``.
        simulators: by sensor.
        sample_rate: in Hz.
        changes: what the augmentation does to a sensor in addition to scaling it, called with signals ``(B, 1, T)``,
            their seeds and the sample rate; needed if there are such seeds.

    Returns:
        The batch without ``air`` and ``pending``.

    Raises:
        DataError: a simulator returns another shape, or a noise or target that it did not announce.
    """
    if "pending" not in batch:
        return batch
    inputs, air = batch["inputs"], batch["air"]
    groups: dict[tuple[int, int], list[tuple[int, Draw, int | None]]] = defaultdict(list)
    for item, pending in enumerate(batch["pending"]):
        for place, length, seed, body, change in pending:
            groups[place, length].append((item, Draw(sample_rate, seeded(seed), seeded(body), training=True), change))
    with torch.no_grad():
        for (place, length), members in groups.items():
            items: slice | list[int] = [item for item, _, _ in members]
            if len(members) == len(inputs):
                items = slice(None)  # the usual case; copying a list of indices to the device would block
            draws = [draw for _, draw, _ in members]
            made = simulate_batch(simulators[sensors[place]], air[items, :, :length], draws)
            signal = made["signal"]
            if made.keys() != {"signal"} or signal.shape != (len(members), 1, length):
                raise DataError(
                    f"the simulator of {sensors[place]!r} returned {', '.join(made)} for a batch, its signal of shape "
                    f"{tuple(signal.shape)} for air of shape {(len(members), 1, length)}: a simulator that adds noise "
                    "or changes the target must declare provides_noise = True"
                )
            # of one sensor, all items are changed or none
            if changes is not None and (seeds := [change for _, _, change in members if change is not None]):
                signal = changes(signal, seeds, sample_rate)
            inputs[items, place, :length] *= signal[:, 0].to(inputs)
    complete = batch.copy()
    del complete["air"], complete["pending"]
    return complete
