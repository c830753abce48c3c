"""Statistics of the training set that a generator takes before its first step."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import cast

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor

from bcfusion.contracts import Batch, Fitted, Generator
from bcfusion.data.loading.datamodule import SpeechDataModule
from bcfusion.probe import evaluating
from bcfusion.training.module import SpeechModule


class Fitting(Callback):
    """Calls ``fit`` of a generator that has this method, once, with one pass over the training set.

    It is for runs that start from scratch: resumed runs and those that start from other weights (``init_from``) load
    the statistics in the generator's buffers. The pass takes place after the processes of the run are started and
    before optimisers are made, on the device of the training, in float32, in evaluation mode and without gradients. Its
    time counts towards the budget.

    Every rank sees all batches in the same order, not a share of them, so that the statistics are equal on all ranks
    and ``fit`` need not know about ranks.

    Args:
        datamodule: the run's data; the generator sees its training crops.
    """

    def __init__(self, datamodule: SpeechDataModule) -> None:
        self._datamodule = datamodule
        self._done = False

    def setup(self, trainer: Trainer, module: LightningModule, stage: str) -> None:
        """Fit the generator, and give its averaged copy the same buffers."""
        assert isinstance(module, SpeechModule)
        generator = module.generator
        if self._done or not isinstance(generator, Fitted):
            return
        self._done = True
        began = time.monotonic()
        counted = _Counted(self._datamodule, trainer.strategy.root_device)
        generator.to(trainer.strategy.root_device)  # Lightning moves the rest of the module after this hook
        with evaluating(generator), torch.no_grad():
            generator.fit(counted)
            if module.ema is not None:
                for averaged, fitted in zip(module.ema.network.buffers(), generator.buffers(), strict=True):
                    averaged.copy_(fitted)
        if trainer.is_global_zero:
            minutes = counted.samples / cast("Generator", generator).sample_rate / 60
            print(
                f"Fitted {type(generator).__name__} to the training set in one pass: {counted.batches} batches, "
                f"{minutes:.1f} min of speech, in {time.monotonic() - began:.1f} s"
            )


class _Counted:
    """The batches of one pass, moved to a device and counted."""

    def __init__(self, datamodule: SpeechDataModule, device: torch.device) -> None:
        self._datamodule = datamodule
        self._device = device
        self.batches = 0
        self.samples = 0

    def __iter__(self) -> Iterator[Batch]:
        loader = self._datamodule.pass_dataloader()
        self.batches, self.samples = 0, 0
        try:
            for batch in loader:
                self.batches += 1
                self.samples += int(batch["lengths"].sum())
                moved = {
                    name: value.to(self._device) if isinstance(value, Tensor) else value
                    for name, value in batch.items()
                }
                yield cast("Batch", moved)
        finally:
            loader.close()
