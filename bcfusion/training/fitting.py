"""Statistics of the training set that a generator takes before its first step."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from itertools import islice
from typing import cast

import torch
from lightning import Callback, LightningModule, Trainer

from bcfusion.contracts import Batch, Fitted, Generator
from bcfusion.data.loading.datamodule import SpeechDataModule
from bcfusion.nn.statistics import parts_to_start, start_from_statistics
from bcfusion.probe import evaluating, moved
from bcfusion.run.checkpoint import random_states, restore_random_states
from bcfusion.training.module import SpeechModule


class Fitting(Callback):
    """Calls ``fit`` of a generator that has this method, once, with one pass over the training set, and starts those
    parts of a generator that start from statistics of some batches.

    It is for runs that start from scratch: resumed runs and those that start from other weights (``init_from``) load
    the statistics in the generator's buffers and parameters. The pass takes place after the processes of the run are
    started and before optimisers are made, on the device of the training, in float32, in evaluation mode and without
    gradients. Its time counts towards the budget.

    Every rank sees all batches in the same order, not a share of them, so that the statistics are equal on all ranks
    and neither ``fit`` nor a part need know about ranks.

    Args:
        datamodule: the run's data; the generator sees its training crops.
        batches: of those from which parts start (:class:`bcfusion.contracts.StartsFromStatistics`); the first ones of
            the pass, in random order, or all if these are fewer.
    """

    def __init__(self, datamodule: SpeechDataModule, batches: int) -> None:
        self._datamodule = datamodule
        self._batches = batches
        self._done = False

    def setup(self, trainer: Trainer, module: LightningModule, stage: str) -> None:
        """Fit and start the generator, and give its averaged copy the same buffers and parameters."""
        assert isinstance(module, SpeechModule)
        if self._done:
            return
        self._done = True
        # Lightning moves the rest of the module after this hook
        device = trainer.strategy.root_device
        if isinstance(module.generator, Fitted):
            _fit(module, _Counted(self._datamodule, device), trainer.is_global_zero)
        if parts_to_start(module.generator):
            _start(module, _Counted(self._datamodule, device, self._batches), trainer.is_global_zero)


def _fit(module: SpeechModule, batches: _Counted, announces: bool) -> None:
    generator = cast("Fitted", module.generator)
    module.generator.to(batches.device)
    with evaluating(module.generator), torch.no_grad():
        generator.fit(batches)
    _copy_to_average(module)
    if announces:
        print(f"Fitted {type(generator).__name__} to the training set in one pass: {batches.amount(module)}")


def _start(module: SpeechModule, batches: _Counted, announces: bool) -> None:
    before = random_states()  # a pass may draw numbers; those of the training are the same without it
    module.generator.to(batches.device)
    with evaluating(module.generator):
        start_from_statistics(module.generator, batches)
    restore_random_states(before)
    _copy_to_average(module)
    if announces:
        name = type(module.generator).__name__
        print(f"Started {name} from statistics of the training set: {batches.amount(module)}")


@torch.no_grad()
def _copy_to_average(module: SpeechModule) -> None:
    """Give the averaged generator, which has not been updated yet, the state of the generator."""
    if module.ema is not None:
        averaged, trained = module.ema.network, module.generator
        for mine, theirs in zip(
            (*averaged.parameters(), *averaged.buffers()), (*trained.parameters(), *trained.buffers()), strict=True
        ):
            mine.copy_(theirs)


class _Counted:
    """The batches of one pass, or the first ones, moved to a device and counted."""

    def __init__(self, datamodule: SpeechDataModule, device: torch.device, most: int | None = None) -> None:
        self._datamodule = datamodule
        self.device = device
        self._most = most
        self._began = time.monotonic()
        self.batches = 0
        self.samples = 0

    def amount(self, module: SpeechModule) -> str:
        """Return in words how much was seen since this object was made."""
        minutes = self.samples / cast("Generator", module.generator).sample_rate / 60
        seconds = time.monotonic() - self._began
        return f"{self.batches} batches, {minutes:.1f} min of speech, in {seconds:.1f} s"

    def __iter__(self) -> Iterator[Batch]:
        self.batches, self.samples = 0, 0
        with closing(self._datamodule.pass_dataloader()) as loader:
            for batch in islice(loader, self._most):
                self.batches += 1
                self.samples += int(batch["lengths"].sum())
                yield moved(batch, self.device)
