"""What the comparisons with public code share: float64, signals, differences, and the table of what was found."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

Read = Callable[[nn.Parameter], Tensor]
#: the parameters of a network, or what ``Read`` makes of them, by names and in shapes that both networks share
View = Callable[[Read], dict[str, Tensor]]

#: of the quantity compared; all comparisons run in float64, where what remains are constants that one side rounds
TOLERANCE = 1e-4


@contextmanager
def double_precision() -> Iterator[None]:
    """Run everything in float64, so that rounding errors do not grow over the steps.

    Losses cast to float32, which protects them under mixed precision; these casts become casts to float64.
    """
    with_casts = Tensor.float
    torch.set_default_dtype(torch.float64)
    Tensor.float = Tensor.double  # type: ignore[method-assign,assignment]
    try:
        yield
    finally:
        Tensor.float = with_casts  # type: ignore[method-assign]
        torch.set_default_dtype(torch.float32)


def speech_like(items: int, samples: int, seed: int, sample_rate: int = 16000) -> Tensor:
    """Return ``(items, 1, samples)``: voiced syllables with a gliding pitch, some noise, at -23 dBFS."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(items, 1, generator=generator, dtype=torch.float64)

    t = torch.arange(samples, dtype=torch.float64) / sample_rate
    phase = 2 * math.pi * (uniform(90, 220) * t + 0.5 * uniform(-200, 200) * t.square())
    harmonics = torch.arange(1, 30, dtype=torch.float64).view(-1, 1, 1)
    voice = (torch.sin(harmonics * phase) / harmonics).sum(0)
    syllables = torch.sin(2 * math.pi * (uniform(3, 6) * t + uniform(0, 1))).abs()
    noise = torch.randn(items, samples, generator=generator, dtype=torch.float64)
    speech = syllables * voice + 0.1 * noise
    return (0.07 * speech / speech.square().mean(-1, keepdim=True).sqrt()).unsqueeze(1)


def muffled(speech: Tensor, width: int = 15) -> Tensor:
    """Return what a body sensor would record: the speech without its high band."""
    kernel = torch.hann_window(width, dtype=speech.dtype)
    return torch.nn.functional.conv1d(speech, (kernel / kernel.sum()).view(1, 1, -1), padding=width // 2)


def relative(ours: Tensor | float, public: Tensor | float) -> float:
    """Return the norm of the difference over the norm of the public value; the difference itself where that is 0.

    A norm below 1e-15 is a 0 that was rounded, such as the gradient of a bias that nothing depends on.
    """
    a, b = torch.as_tensor(ours, dtype=torch.float64).detach(), torch.as_tensor(public, dtype=torch.float64).detach()
    assert a.shape == b.shape, f"{tuple(a.shape)} here, {tuple(b.shape)} in public code"
    norm = float(b.norm())
    difference = float((a - b).norm())
    return difference / norm if norm > 1e-15 else difference


def largest(ours: Mapping[str, Tensor], public: Mapping[str, Tensor]) -> float:
    """Return the largest :func:`relative` difference of tensors of the same names."""
    assert set(ours) == set(public), f"only on one side: {sorted(set(ours) ^ set(public))}"
    return max(relative(ours[name], public[name]) for name in public)


def renamed(names: Iterable[str], changes: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Return old to new name, after all replacements of parts in their order."""
    result = {}
    for old in names:
        new = old
        for part, by in changes:
            new = new.replace(part, by)
        result[old] = new
    return result


def note(source: str, compared: str, difference: float) -> None:
    """Append a row to the file that ``PARITY_TABLE`` names, for ``scripts/parity_table.py``."""
    path = os.environ.get("PARITY_TABLE")
    if path and compared:  # a planted fault is no comparison
        with Path(path).open("a") as file:
            file.write(json.dumps([source, compared, difference]) + "\n")


def without_init(*names: str) -> None:
    """Let modules of these packages be imported without the packages' own start, which loads far more or downloads."""
    for name in names:
        if name in sys.modules:
            continue
        spec = find_spec(name)
        if spec is None or spec.submodule_search_locations is None:
            import pytest  # here, because scripts/bench.py uses the rest of this file without it

            pytest.skip(f"{name} is not installed; scripts/install_public_code.sh installs the public code")
        module = ModuleType(name)
        module.__path__ = list(spec.submodule_search_locations)
        sys.modules[name] = module


def one_step(
    source: str,
    compared: str,
    ours: tuple[nn.Module, View, Callable[[], Tensor]],
    public: tuple[nn.Module, View, Callable[[], Tensor]],
) -> float:
    """Copy the public weights, then take one step of Adam with either network.

    Args:
        source: package and version.
        compared: what the step is one of.
        ours: network, view of its parameters, and the loss of the step.
        public: likewise.

    Returns:
        The largest difference among the loss, the gradients and the changes of the parameters.
    """
    (our_network, our_view, our_loss), (public_network, public_view, public_loss) = ours, public
    with torch.no_grad():
        mine = our_view(_weight)
        only = sorted(mine.keys() ^ public_view(_weight).keys())
        assert not only, f"parameters of one side: {only}"
        for name, weight in public_view(_weight).items():
            mine[name].copy_(weight)
    found: list[dict[str, Tensor]] = []
    losses: list[Tensor] = []
    for network, view, loss in ((our_network, our_view, our_loss), (public_network, public_view, public_loss)):
        before = {name: weight.detach().clone() for name, weight in view(_weight).items()}
        optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
        value = loss()
        value.backward()
        gradients = {f"{name} gradient": g.clone() for name, g in view(_gradient).items()}
        optimizer.step()
        changes = {f"{name} change": weight.detach() - before[name] for name, weight in view(_weight).items()}
        found.append(gradients | changes)
        losses.append(value)
    difference = max(relative(*losses), largest(*found))
    note(source, compared, difference)
    return difference


def _weight(parameter: nn.Parameter) -> Tensor:
    return parameter.data


def _gradient(parameter: nn.Parameter) -> Tensor:
    assert parameter.grad is not None
    return parameter.grad


@contextmanager
def narrow(module: ModuleType, widest: int, *layers: str) -> Iterator[None]:
    """Limit the channels of the layers that public code builds, where it has no argument for them.

    Args:
        module: the public module, by whose names ``layers`` the layers are built.
        widest: most input and output channels; these are the first two arguments of a layer.
        layers: their names in the module.
    """

    def limited(build: Any) -> Any:
        def layer(*sizes: Any, **named_sizes: Any) -> Any:
            sizes = tuple(min(size, widest) if i < 2 else size for i, size in enumerate(sizes))
            for name in ("in_channels", "out_channels"):
                if name in named_sizes:
                    named_sizes[name] = min(named_sizes[name], widest)
            return build(*sizes, **named_sizes)

        return layer

    own = {name: getattr(module, name) for name in layers}
    for name, build in own.items():
        setattr(module, name, limited(build))
    try:
        yield
    finally:
        for name, build in own.items():
            setattr(module, name, build)


def change_slope(activation: nn.Module) -> None:
    """Plant a fault: make the slope of negative values 1 % steeper, whatever the activation's own parameter is."""
    activation.register_forward_hook(lambda _, given, output: torch.where(given[0] < 0, 1.01 * output, output))


def named(network: nn.Module, *changes: tuple[str, str], without: str | None = None) -> View:
    """Return a view of all parameters by their own names, changed as by :func:`renamed`.

    Args:
        network: whose parameters.
        changes: of the names.
        without: parameters whose name contains this are left out.
    """

    def view(read: Read) -> dict[str, Tensor]:
        own = {name: p for name, p in network.named_parameters() if without is None or without not in name}
        names = renamed(own, changes)
        return {names[name]: read(parameter) for name, parameter in own.items()}

    return view
