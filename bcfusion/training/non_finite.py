"""Finds what became non-finite first in a step: outputs of modules, gradients there, gradients of parameters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

__all__ = ["Fault", "Watcher", "tensors_of"]


@dataclass(frozen=True)
class Fault:
    """One tensor that is not finite.

    Attributes:
        where: the module or parameter, by its name, with the module's class.
        what: what is not finite there.
    """

    where: str
    what: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}"


class Watcher:
    """Watches modules during a step; it changes no value and draws no random number.

    Gradients are watched by hooks of tensors, not of modules, which would change the graph.

    Args:
        modules: by the names that faults are to have.

    Attributes:
        forward: the first output of a module that was not finite; None so far.
        backward: the first gradient at an input or output of a module that was not finite; None so far.
        parameter: the first gradient of a parameter that was not finite; None so far.
        largest: name and largest absolute value of the parameter with the largest gradient.
    """

    def __init__(self, modules: Mapping[str, nn.Module]) -> None:
        self.forward: Fault | None = None
        self.backward: Fault | None = None
        self.parameter: Fault | None = None
        self.largest: tuple[str, float] = ("", 0.0)
        self._modules = dict(modules)
        self._at: int | None = None  # the tensor whose gradient is the first fault
        self._named = False  # whether that fault has the name of a module that took the tensor
        self._held: list[Tensor] = []  # so that no other tensor gets the id of one of these

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watch all modules within the block."""
        handles: list[RemovableHandle] = []
        for root, network in self._modules.items():
            for name, module in network.named_modules():
                if isinstance(module, nn.ModuleList | nn.ModuleDict):
                    continue
                label = f"{root}.{name}" if name else root
                handles.append(module.register_forward_hook(partial(self._called, label)))
            for name, parameter in network.named_parameters():
                if parameter.requires_grad:
                    hook = partial(self._accumulated, f"{root}.{name}")
                    handles.append(parameter.register_post_accumulate_grad_hook(hook))
        try:
            yield
        finally:
            self._held.clear()
            for handle in handles:
                handle.remove()

    def _called(self, name: str, module: nn.Module, inputs: Any, output: Any) -> None:
        where = f"{name} ({type(module).__name__})"
        given, made = tensors_of(inputs), tensors_of(output)
        if self.forward is None:
            for tensor in made:
                if not _finite(tensor):
                    fine = all(map(_finite, given))
                    of_inputs = f"are finite, up to {_peak(given):.3g}" if fine else "have some too"
                    self.forward = Fault(where, f"its output has {_described(tensor)}; its inputs {of_inputs}")
                    break
        if torch.is_grad_enabled():
            self._held += [*made, *given]
            for tensor in made:
                if tensor.requires_grad:
                    tensor.register_hook(partial(self._gradient, f"what follows {where}", id(tensor), False))
            for tensor in given:
                if tensor.requires_grad:
                    tensor.register_hook(partial(self._gradient, where, id(tensor), True))

    def _gradient(self, where: str, tensor: int, of_input: bool, gradient: Tensor) -> None:
        """Take note of a gradient: the first module whose own gradients were finite and whose input's is not.

        The hooks of one tensor run one after the other: that of the module that made it, then those of the modules that
        took it, inner ones before the modules around them.
        """
        if self.backward is not None and (self._at != tensor or not of_input or self._named):
            return
        if _finite(gradient):
            return
        self._at, self._named = tensor, of_input
        self.backward = Fault(where, f"the gradient that it passes back has {_described(gradient)}")

    def _accumulated(self, name: str, parameter: Tensor) -> None:
        gradient = parameter.grad
        if gradient is None:
            return
        if not _finite(gradient):
            if self.parameter is None:
                self.parameter = Fault(name, f"its gradient has {_described(gradient)}")
        elif (size := float(gradient.abs().max())) > self.largest[1]:
            self.largest = name, size


def tensors_of(value: Any) -> list[Tensor]:
    """Return the floating-point and complex tensors of nested containers, in their order."""
    if isinstance(value, Tensor):
        return [value] if value.is_floating_point() or value.is_complex() else []
    if isinstance(value, Mapping):
        value = list(value.values())
    return [tensor for each in value for tensor in tensors_of(each)] if isinstance(value, list | tuple) else []


def _finite(tensor: Tensor) -> bool:
    return bool(tensor.detach().isfinite().all())


def _peak(tensors: list[Tensor]) -> float:
    return max((float(tensor.detach().abs().max()) for tensor in tensors if tensor.numel()), default=0.0)


def _described(tensor: Tensor) -> str:
    """Return how many values of a tensor are not finite, and of which kind."""
    tensor = tensor.detach()
    nan = int(tensor.isnan().sum())
    infinite = int((~tensor.isfinite()).sum()) - nan
    kinds = [f"{count} {kind}" for count, kind in ((nan, "NaN"), (infinite, "Inf")) if count]
    return f"{' and '.join(kinds)} of {tensor.numel()} values"
