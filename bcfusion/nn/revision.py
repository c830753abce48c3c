"""The revision of what a module computes with its weights, kept in the state dict beside them.

A change of a network's topology that leaves its tensors as they are (another activation, another padding) would let
weights load that were trained for something else. Such a module is :class:`Revised`, its ``revision`` is raised with
each such change, and :func:`bcfusion.run.checkpoint.load_weights`, through which all weights come, refuses those of
another revision.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.modules.module import _EXTRA_STATE_KEY_SUFFIX


class Revised(nn.Module):
    """A mixin for modules that have computed something else with the same tensors.

    Attributes:
        revision: of this class; weights that were stored without one have revision 1.
    """

    revision: int = 1

    def get_extra_state(self) -> Tensor:
        """Return the revision, which :meth:`torch.nn.Module.state_dict` stores."""
        return torch.tensor(self.revision)

    def set_extra_state(self, state: Tensor) -> None:
        """Do nothing: the revision belongs to the class."""


def revision_problems(module: nn.Module, state: Mapping[str, Tensor]) -> list[str]:
    """Return a message for each kind of module of ``module`` whose revision is not that of its weights in ``state``.

    Args:
        module: a network.
        state: its state dict, or that of an earlier version of it.
    """
    problems: dict[str, None] = {}  # a set that keeps its order
    for path, part in module.named_modules():
        if isinstance(part, Revised):
            stored = state.get(f"{path}.{_EXTRA_STATE_KEY_SUFFIX}" if path else _EXTRA_STATE_KEY_SUFFIX)
            found = 1 if stored is None else int(stored)
            if found != part.revision:
                kind = "an earlier" if found < part.revision else "a later"
                name = type(part).__name__
                problems[f"they are those of {kind} {name} (revision {found}; here {part.revision})"] = None
    return list(problems)
