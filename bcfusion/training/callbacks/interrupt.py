"""SIGINT and SIGTERM end a run in a saved, resumable state."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn

from bcfusion.training.callbacks.checkpointing import Checkpointing

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class RunInterrupted(Exception):
    """A signal ended the run, after its state was saved if it came while the run was trained or validated."""

    def __init__(self, signum: int, step: int) -> None:
        self.signum = signum
        self.step = step
        super().__init__(f"stopped by {signal.Signals(signum).name} at step {step}")


class Interrupt(Callback):
    """Catches the first SIGINT or SIGTERM, lets the current batch end, saves ``last.ckpt`` and ends the run.

    A second signal is not caught, so that a run that hangs can still be ended. Handlers are installed when training
    starts, after Lightning's own, and removed however it ends.

    Args:
        checkpointing: saves the state.
    """

    def __init__(self, checkpointing: Checkpointing) -> None:
        self._checkpointing = checkpointing
        self._previous: dict[int, Any] = {}
        self._signum: int | None = None

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        self._signum = signum
        self._remove_handlers()

    def _remove_handlers(self) -> None:
        for signum, handler in self._previous.items():
            signal.signal(signum, handler)
        self._previous = {}

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        for signum in SIGNALS:
            # Lightning's own handler would exchange with other processes, wherever these are
            alone = trainer.world_size == 1 or signum != signal.SIGTERM
            self._previous[signum] = signal.getsignal(signum) if alone else signal.SIG_DFL
            signal.signal(signum, self._handle)

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, *_: Any) -> None:
        """End the run after a signal, at the end of an optimiser step."""
        self._end_if_signalled(trainer, module)

    def on_validation_batch_end(self, trainer: Trainer, module: LightningModule, *_: Any) -> None:
        """End a validation at once after a signal; a resumed run repeats it.

        Several processes complete their validation first: they may be at different items, and must not wait for each
        other.
        """
        if trainer.world_size == 1 and trainer.state.fn == TrainerFn.FITTING:
            self._end_if_signalled(trainer, module)

    def _end_if_signalled(self, trainer: Trainer, module: LightningModule) -> None:
        signalled = trainer.strategy.reduce_boolean_decision(self._signum is not None, all=False)
        if signalled and self._checkpointing.can_save():
            self._checkpointing.save_last()
            raise RunInterrupted(self._signum or signal.SIGTERM, self._checkpointing.module.step)

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        """Give the signals back before Lightning does: in ``teardown`` its own handler would be put back for good.

        A signal that came after the last batch of the last validation ends the run here.
        """
        self._remove_handlers()
        late = self._signum is not None or trainer.received_sigterm  # after the last batch, when all was saved
        if trainer.strategy.reduce_boolean_decision(late, all=False):
            raise RunInterrupted(self._signum or signal.SIGTERM, self._checkpointing.module.step)

    def on_exception(self, trainer: Trainer, module: LightningModule, exception: BaseException) -> None:
        """Give the signals back; one of several processes ends by itself, whatever its starter sends for that."""
        self._remove_handlers()
        if trainer.world_size > 1 and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, signal.SIG_IGN)  # until Lightning puts back what was there before
