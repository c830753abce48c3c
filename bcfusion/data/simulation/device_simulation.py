"""Simulation of sensors on the training device, a batch at a time, in place of the loader's processes.

A reader that defers a sensor (:attr:`bcfusion.data.loading.segments.SensorReader.deferred`) leaves in a batch the clean
speech ``air``, a gain in the place of the sensor, and the seeds of its generators, ``pending``. From these
:func:`simulated` makes what the loader would have made: the same generators draw the same numbers on the CPU, and
filters run where the batch is.

Deferred are sensors whose simulator takes batches (:class:`bcfusion.contracts.BatchSimulator`), adds no noise of a room
and does not say that it ``reads_files``: reading is the loader's work, and one that adds noise may change the target,
whose level the augmentation looks at.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

import torch

from bcfusion.contracts import Batch, BatchSimulator, Simulator
from bcfusion.data.loading.seeding import seeded
from bcfusion.errors import DataError


def deferrable(simulators: Mapping[str, Simulator]) -> frozenset[str]:
    """The sensors that can be simulated on the device."""
    return frozenset(
        sensor
        for sensor, simulator in simulators.items()
        if isinstance(simulator, BatchSimulator)
        and not getattr(simulator, "provides_noise", False)
        and not getattr(simulator, "reads_files", False)
    )


def simulated(batch: Batch, sensors: Sequence[str], simulators: Mapping[str, Simulator], sample_rate: int) -> Batch:
    """Completes a batch on the device it is on; one with nothing pending is returned as it is.

    Items are simulated together if they have the same length, since borders and levels depend on where a signal ends.

    Args:
        batch: from the loader; its tensor ``inputs`` is written to.
        sensors: names of the channels of ``inputs``.
        simulators: by sensor.
        sample_rate: in Hz.

    Returns:
        The batch without ``air`` and ``pending``.

    Raises:
        DataError: a simulator returns another shape, or a noise or target that it had not announced.
    """
    if "pending" not in batch:
        return batch
    inputs, air = batch["inputs"], batch["air"]
    groups: dict[tuple[int, int], list[tuple[int, int, int | None]]] = defaultdict(list)
    for item, pending in enumerate(batch["pending"]):
        for place, length, seed, body in pending:
            groups[place, length].append((item, seed, body))
    with torch.no_grad():
        for (place, length), members in groups.items():
            simulator = simulators[sensors[place]]
            assert isinstance(simulator, BatchSimulator)  # deferrable() chose it
            items: slice | list[int] = [item for item, _, _ in members]
            if len(members) == len(inputs):
                items = slice(None)  # the usual case; a list would be sent to the device, which waits for it
            made = simulator.batch(
                air[items, :, :length],
                sample_rate,
                [seeded(seed) for _, seed, _ in members],
                True,
                None if members[0][2] is None else [seeded(body) for _, _, body in members if body is not None],
            )
            signal = made["signal"]
            if made.keys() != {"signal"} or signal.shape != (len(members), 1, length):
                raise DataError(
                    f"the simulator of {sensors[place]!r} returned {', '.join(made)} for a batch, its signal of shape "
                    f"{tuple(signal.shape)} for air of shape {(len(members), 1, length)}: one that adds noise or "
                    "changes the target says so by provides_noise = True"
                )
            inputs[items, place, :length] *= signal[:, 0].to(inputs)
    complete = batch.copy()
    del complete["air"], complete["pending"]
    return complete
