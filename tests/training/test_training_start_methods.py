"""Processes that read are not forked on macOS and Windows: what a training reads is the same however they start."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from omegaconf import DictConfig
from torch.utils.data import DataLoader

from bcfusion.contracts import Batch
from bcfusion.data.loading import loaders
from bcfusion.training.assemble import build_datamodule

TYPED = ("experiment=seanet", "data.batch_size=2", "data.segment_seconds=0.25")


def batches(cfg: DictConfig) -> tuple[list[Batch], list[Batch]]:
    """Return the first batches of training and of validation."""
    data = build_datamodule(cfg)
    data.setup("fit")
    training, validation = data.train_dataloader(), data.val_dataloader()
    first = iter(training)
    try:
        read = [{key: _copied(value) for key, value in next(first).items()} for _ in range(2)]
        return read, [next(iter(validation))]
    finally:
        training.close()


def _copied(value: object) -> object:
    return value.clone() if isinstance(value, torch.Tensor) else value


@pytest.mark.slow
@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_batches_are_the_same_however_the_readers_start(
    composed: Callable[..., DictConfig], monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    expected = batches(composed(*TYPED, "data.workers=0"))
    monkeypatch.setattr(loaders, "DataLoader", partial(DataLoader, multiprocessing_context=method))
    found = batches(composed(*TYPED, "data.workers=1"))
    for ours, theirs in zip(found, expected, strict=True):
        for one, other in zip(ours, theirs, strict=True):
            assert one.keys() == other.keys()
            for key, value in one.items():
                if isinstance(value, torch.Tensor):
                    torch.testing.assert_close(value, other[key], rtol=0, atol=0)
