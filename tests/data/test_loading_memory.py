"""Batches are made in memory that is used again, and never while something still refers to it."""

from __future__ import annotations

import multiprocessing
import pickle
from collections.abc import Iterator
from itertools import islice
from multiprocessing.reduction import ForkingPickler
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from bcfusion import audio
from bcfusion.contracts import Batch, Draw, Row
from bcfusion.data.loading import collate as collating
from bcfusion.data.loading import memory as module
from bcfusion.data.loading.collate import Item, collate, fill
from bcfusion.data.loading.loaders import StepLoader, UnreadableTally
from bcfusion.data.loading.memory import BLOCKS, BatchMemory
from bcfusion.data.loading.reader import SensorReader
from bcfusion.data.loading.schedule import BatchSchedule
from bcfusion.data.loading.segments import TrainSegments

RATE = 8000


def item(number: int, noise: bool = True, pending: bool = False) -> Item:
    made = Item(inputs=torch.rand(2, 50), target=torch.rand(1, 50), length=50 - number, id=str(number), unreadable=[])
    if noise:
        made["noise"] = torch.rand(1, 50)
    if pending:
        made["air"], made["pending"] = torch.rand(1, 50), [(0, 50, number, 2, None)]
    return made


def same(one: Batch, other: Batch) -> bool:
    assert one.keys() == other.keys()
    for name, value in one.items():
        there = other[name]  # type: ignore[literal-required]
        assert torch.equal(value, there) if isinstance(value, Tensor) else value == there
    return True


@pytest.mark.parametrize("noises", [(True, True, True), (True, False, True), (False, True, True)])
@pytest.mark.parametrize("pendings", [(True, True, True), (True, True, False), (False, False, False)])
@pytest.mark.parametrize("size", [10**6, 0])
def test_a_batch_that_is_filled_is_the_one_that_is_collated(
    noises: tuple[bool, ...], pendings: tuple[bool, ...], size: int
) -> None:
    items = [item(number, *kinds) for number, kinds in enumerate(zip(noises, pendings, strict=True))]
    items[1]["unreadable"] = ["a.wav"]
    memory = BatchMemory(size)
    filled = fill(iter(items), 3, memory)
    assert isinstance(filled, dict)
    assert same(filled, collate(items))
    shorter = fill(iter(items), 4, memory)
    assert isinstance(shorter, dict)
    assert same(shorter, collate(items))
    assert fill(iter([]), 4, memory) is None


def test_a_block_is_used_again_only_after_the_last_reference_to_its_batch() -> None:
    memory = BatchMemory(4096)
    blocks = [memory.take(4096) for _ in range(BLOCKS)]
    assert blocks == list(range(BLOCKS))
    assert memory.take(4) is None
    signals = memory.samples(2, 1000, lent=True)
    part = signals[10:20].numpy()
    del signals
    assert memory.take(4) is None
    del part
    assert memory.take(4) == 2
    memory.free(0)
    assert memory.take(4097) is None
    assert memory.take(4096) == 0


def test_a_reader_sends_a_number_and_no_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    class Worker:
        id = 1

    memory = BatchMemory(10**6, readers=2)
    items = [item(number, pending=True) for number in range(3)]
    with monkeypatch.context() as reading:
        for place in (module, collating):
            reading.setattr(place, "get_worker_info", Worker)
        filled = fill(iter(items), 3, memory)
        assert isinstance(filled, collating.Filled)
        assert memory.take(1) == BLOCKS + 1  # the next of this reader's own
        sent = bytes(ForkingPickler.dumps(filled))
    assert (
        len(sent) < 1000 < sum(signal.nbytes for one in items for signal in one.values() if isinstance(signal, Tensor))
    )
    received = pickle.loads(sent)
    assert same(received, collate(items))
    del received
    with monkeypatch.context() as reading:
        reading.setattr(module, "get_worker_info", Worker)
        assert memory.take(1) == BLOCKS


def test_an_item_that_fails_leaves_its_block_free() -> None:
    def failing() -> Iterator[Item]:
        yield item(0)
        raise ValueError("damaged")

    memory = BatchMemory(10**6)
    for _ in range(BLOCKS + 1):
        with pytest.raises(ValueError, match="damaged"):
            fill(failing(), 3, memory)
    assert memory.take(1) == 0


@pytest.mark.slow
def test_a_process_that_is_forked_later_frees_no_block() -> None:
    memory = BatchMemory(4096)
    block = memory.take(4)
    assert block is not None
    signals = [memory.samples(block, 1, lent=True)]
    child = multiprocessing.get_context("fork").Process(target=signals.clear)
    child.start()
    child.join()
    assert child.exitcode == 0
    assert memory.take(4) == 1
    signals.clear()
    assert memory.take(4) == 0


def test_a_process_that_was_not_forked_has_no_blocks_and_the_maker_has_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = BatchMemory(4096)
    packed = pickle.dumps(memory)
    assert pickle.loads(packed) is memory
    monkeypatch.setattr(module, "_present", {})
    elsewhere = pickle.loads(packed)
    assert elsewhere.take(4) is None
    made = fill(iter([item(0)]), 1, elsewhere)
    assert isinstance(made, dict)
    assert made["ids"] == ["0"]


def test_a_batch_that_no_memory_can_hold_is_left_to_new_memory() -> None:
    assert BatchMemory(1 << 62).take(1) is None


def doubled(air: Tensor, draw: Draw) -> dict[str, Tensor]:
    return {"signal": 2 * air}


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_a_stream_uses_no_more_memory_than_its_blocks(tmp_path: Path, workers: int) -> None:
    rows = []
    for number in range(4):
        audio.write(tmp_path / f"{number}.wav", np.random.default_rng(number).uniform(-0.5, 0.5, RATE), RATE)
        rows.append(Row(str(number), {"air": str(tmp_path / f"{number}.wav")}, "s", "train", RATE, 1.0))
    segments = TrainSegments(rows, SensorReader(["body"], {"body": doubled}, RATE), 0.5, seed=1)
    steps = StepLoader(segments, BatchSchedule(len(segments), 3, 1), 10**6, UnreadableTally(4, 0.5, "train"), workers)
    places: set[int] = set()
    for batch in islice(steps, 40):
        assert torch.equal(batch["inputs"], 2 * batch["target"])
        # input and target are in one piece: nothing else is made or sent
        assert batch["inputs"].untyped_storage().data_ptr() == batch["target"].untyped_storage().data_ptr()
        places.add(batch["target"].data_ptr())
    assert len(places) <= BLOCKS * max(1, workers)
    held = list(islice(steps, 3 * BLOCKS * max(1, workers)))  # more than there are blocks
    again = StepLoader(segments, BatchSchedule(len(segments), 3, 1), 10**6, UnreadableTally(4, 0.5, "train"))
    again.start_batch = 40
    assert all(same(one, other) for one, other in zip(held, again, strict=False))
    steps.close()
    assert all(same(one, other) for one, other in zip(held[:3], _from(again, 40), strict=False))


def _from(steps: StepLoader, start: int) -> StepLoader:
    steps.start_batch = start
    return steps
