"""Where the gradients of the losses are measured, and the single backward pass through the generator."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from bcfusion.errors import ConfigError
from bcfusion.training.ranks import mean_over_ranks

#: the ``anchor`` of a balancer that measures at the generator's output
OUTPUT = "output"


class OutputAnchor:
    """Cuts the generator's graph at its output: losses are computed on a leaf, and their gradients end there.

    Every output of the generator that has a gradient is part of ONE leaf ``(B, n)``, so that a loss on the mask or on
    the latent variables is measured like one on the estimate. If the estimate is the only one, it is the leaf itself.

    Fulfils :class:`bcfusion.contracts.Anchor`.

    Args:
        outputs: the generator's outputs, including ``estimate (B, 1, T)``.
        parameter: a parameter of the generator at which norms are measured; None: at the output.

    Attributes:
        leaf: ``(B, n)`` float32, or float64 if the generator is; in the estimate's shape if it is the only output with
            a gradient.
        outputs: the generator's outputs by name; those with a gradient are parts of the leaf.
        learnable: the names of these.

    Raises:
        ValueError: no output has a gradient.
    """

    def __init__(self, outputs: Mapping[str, Tensor], parameter: nn.Parameter | None = None) -> None:
        self.parameter = parameter
        self._attached = {
            name: value for name, value in outputs.items() if isinstance(value, Tensor) and value.requires_grad
        }
        if not self._attached:
            raise ValueError("no output of the generator has a gradient")
        self.learnable = frozenset(self._attached)
        shapes = [_real(value).shape for value in self._attached.values()]
        if len(self._attached) == 1:
            (value,) = self._attached.values()
            self.leaf = _precise(value.detach()).requires_grad_()
            parts = [self.leaf]
        else:
            flat = [_precise(_real(value.detach())).reshape(value.shape[0], -1) for value in self._attached.values()]
            self.leaf = torch.cat(flat, dim=1).requires_grad_()
            parts = [
                torch.view_as_complex(part.contiguous()) if value.is_complex() else part
                for part, value in zip(self._unpack(self.leaf, shapes), self._attached.values(), strict=True)
            ]
        self._shapes = shapes
        self.outputs: dict[str, Tensor] = {**outputs, **dict(zip(self._attached, parts, strict=True))}

    @staticmethod
    def _unpack(packed: Tensor, shapes: Sequence[torch.Size]) -> list[Tensor]:
        sizes = [shape[1:].numel() for shape in shapes]
        pieces = packed.split(sizes, dim=1)
        return [piece.reshape(shape) for piece, shape in zip(pieces, shapes, strict=True)]

    def gradient(self, loss: Tensor) -> Tensor:
        """Return the gradient of a scalar at the leaf; see :meth:`bcfusion.contracts.Anchor.gradient`."""
        if not loss.requires_grad:
            return torch.zeros_like(self.leaf)
        (gradient,) = torch.autograd.grad(loss, [self.leaf], retain_graph=True, allow_unused=True)
        return torch.zeros_like(self.leaf) if gradient is None else gradient

    def norms(self, gradients: Sequence[Tensor]) -> Tensor:
        """Return the norms ``(n,)`` of n gradients; see :meth:`bcfusion.contracts.Anchor.norms`."""
        if self.parameter is None:
            per_item = [torch.linalg.vector_norm(gradient.flatten(1), dim=1) for gradient in gradients]
            # A loss is a mean over items, so its gradient at an item is the gradient of the item's own loss over the
            # number of items. The sum is then the mean norm of the items' own gradients, whatever the batch size.
            norms = mean_over_ranks(torch.stack([norm.sum() for norm in per_item]))
        else:
            # the parameter follows the mean gradient of all ranks, whose norm is not the mean of their norms
            found = torch.stack([self._at_parameter(gradient) for gradient in gradients])
            norms = torch.linalg.vector_norm(mean_over_ranks(found), dim=1)
        # all losses were exchanged at once; a NaN of one rank has reached all
        return torch.where(norms.isfinite(), norms, torch.nan)

    def _at_parameter(self, gradient: Tensor) -> Tensor:
        """Return the gradient of this rank at the parameter, as one dimension."""
        assert self.parameter is not None
        outputs = [_real(value) for value in self._attached.values()]
        (found,) = torch.autograd.grad(
            outputs, [self.parameter], self._like_outputs(gradient), retain_graph=True, allow_unused=True
        )
        if found is None:
            raise ConfigError(
                ["balancer.anchor: the generator's output does not depend on this parameter; choose another, or output"]
            )
        # a NaN at the output counts even if a dead unit keeps it from the parameter
        return torch.where(gradient.isfinite().all(), _precise(_real(found)).flatten(), torch.nan)

    def _like_outputs(self, gradient: Tensor) -> list[Tensor]:
        shapes = self._shapes
        parts = [gradient] if len(shapes) == 1 else self._unpack(gradient, shapes)
        return [part.to(_real(value).dtype) for part, value in zip(parts, self._attached.values(), strict=True)]

    def backward(self, gradient: Tensor, run: Callable[..., None]) -> None:
        """Run the generator's backward pass.

        Args:
            gradient: at the leaf.
            run: the trainer's backward call, ``run(tensor, gradient=...)``.
        """
        parts = self._like_outputs(gradient)
        if len(parts) == 1:
            (output,) = self._attached.values()
            run(output, gradient=parts[0])
        else:  # the trainer takes one tensor: a scalar with these gradients
            run(sum((_real(value) * part).sum() for value, part in zip(self._attached.values(), parts, strict=True)))


def _real(value: Tensor) -> Tensor:
    """View a complex tensor as pairs of real numbers; return any other unchanged."""
    return torch.view_as_real(value) if value.is_complex() else value


def _precise(value: Tensor) -> Tensor:
    """Return a real tensor in float32, or as it is if it is more precise."""
    return value.to(torch.promote_types(value.dtype, torch.float32))


def anchor_parameter(generator: nn.Module, name: str) -> nn.Parameter | None:
    """Return the parameter that a balancer's ``anchor`` names; None for ``output``.

    Under weight norm a layer has a gain and a direction in place of its parameter ``weight``; ``LAYER.weight`` then
    means the direction, ``LAYER.parametrizations.weight.original1``.

    Raises:
        ConfigError: the generator has no such parameter.
    """
    if name == OUTPUT:
        return None
    parameters = dict(generator.named_parameters())
    layer, _, leaf = name.rpartition(".")
    for candidate in (name, f"{layer}.parametrizations.{leaf}.original1"):
        if candidate in parameters:
            return parameters[candidate]
    last = list(parameters)[-4:]
    raise ConfigError(
        [f"balancer.anchor: {type(generator).__name__} has no parameter '{name}'; its last are {', '.join(last)}"]
    )
