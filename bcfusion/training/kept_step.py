"""The step that ends a run because it is not finite, kept so that :mod:`bcfusion.training.replay` can repeat it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from bcfusion.contracts import Batch
from bcfusion.run import checkpoint

if TYPE_CHECKING:
    from bcfusion.training.module import SpeechModule

__all__ = ["KeptStep"]


class KeptStep:
    """An optimiser step: the state before it, its batches, and the values that it logged.

    It is made for a step only if the run ends should that step be bad, so that a run without bad steps pays nothing
    (with ``trainer.max_bad_steps=1`` that is every step, which then costs one copy of all networks and optimisers).

    Args:
        module: before the step; everything that the step may change is copied, on its device.
    """

    def __init__(self, module: SpeechModule) -> None:
        self._before = {
            "step": module.step,
            "generator": module.generator.state_dict(),
            "generator_ema": None,  # no step depends on it
            "discriminators": None if module.adversary is None else module.adversary.discriminators.state_dict(),
            "critics": {name: critic.network.state_dict() for name, critic in module.critics.items()},
            "optimizers": [optimizer.state_dict() for optimizer in module.trainer.optimizers],
            "state": module.training_state(),
            "critic_states": [module.critic_states()],
        }
        self._before = _copied(self._before)
        self._batches: list[Batch] = []
        self._random: list[dict[str, Any]] = []
        self._values: list[dict[str, Tensor]] = []

    def begin_batch(self, batch: Batch) -> None:
        """Take note of a batch, complete and on its device, and of the random states before it."""
        self._batches.append(batch)
        self._random.append(checkpoint.random_states())
        self._values.append({})

    def note(self, tag: str, value: Tensor) -> None:
        """Take note of a logged value of the present batch."""
        self._values[-1][tag] = value

    def values(self) -> list[dict[str, float]]:
        """Return what each batch has logged so far, by tag."""
        return [{tag: float(value) for tag, value in batch.items()} for batch in self._values]

    def write(self, path: Path, description: Mapping[str, Any], rank: int) -> None:
        """Write everything to a file that :func:`bcfusion.run.checkpoint.read` reads.

        Its size is that of ``last.ckpt`` and of ``trainer.accumulate`` batches; on ranks above 0, which share the
        networks of rank 0, that of the batches alone.

        Args:
            path: the file.
            description: plain containers that go into it: ``config`` and ``training``.
            rank: of this process.

        Raises:
            WriteError: it cannot be written.
        """
        before = self._before if rank == 0 else {"critic_states": self._before["critic_states"]}
        content = {
            **description,
            **before,
            "random": [self._random[0]],
            "batches": [dict(batch) for batch in self._batches],
            "batch_random": self._random,
            "values": self.values(),
            "threads": torch.get_num_threads(),
        }
        checkpoint.write(path, content)


def _copied(value: Any) -> Any:
    """Return plain containers of which all tensors are copies."""
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, Mapping):
        return {key: _copied(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(_copied, value))
    return value
