"""A delay, for paths that have to wait for another one."""

from __future__ import annotations

from torch import Tensor

from bcfusion.nn.streaming import StreamingModule
from bcfusion.requirements import at_least, require


class Delay(StreamingModule):
    """Delay ``(B, *shape, T)`` by ``samples`` steps of the last dimension; zeros come first.

    Args:
        samples: steps of delay, 0 or more.
        shape: of the dimensions between batch and time; ``[C]`` for ``(B, C, T)``.

    Raises:
        ConfigError: a negative delay.
    """

    def __init__(self, samples: int, shape: list[int] | tuple[int, ...] = (1,)) -> None:
        require(self, at_least(0, samples=samples))
        super().__init__()
        self.samples, self.shape = samples, tuple(shape)

    def initial_state(self, batch_size: int, like: Tensor) -> dict[str, Tensor]:
        """Return ``past (B, *shape, samples)``, what has not been output yet."""
        return {"past": like.new_zeros(batch_size, *self.shape, self.samples)} if self.samples else {}

    def forward(self, x: Tensor) -> Tensor:
        return self.prepend_past(x, self.samples)[..., : x.shape[-1]]

    def extra_repr(self) -> str:
        return f"samples={self.samples}, shape={self.shape}"
