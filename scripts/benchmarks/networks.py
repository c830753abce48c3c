"""Forward and backward passes of networks and of a loss, against public code with the same layers and weights."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.harness import Measured, Missing, Setting, agree, compared, in_turns

OUTPUTS, GRADIENTS = 1e-4, 1e-3  # tolerances, in float32
ITEMS = 4
ENCODEC, ASTEROID = "encodec 0.1.1", "asteroid 0.7.0"


@dataclass
class Pair:
    """Ours and the public network: the same input, the same parameters.

    Attributes:
        networks: ours, the public one.
        views: of their parameters, by common names; see ``tests/parity/parity.py``.
        outputs: compute what both have in common.
        inputs: what the outputs are computed from.
    """

    networks: tuple[nn.Module, nn.Module]
    views: tuple[Any, Any]
    outputs: tuple[Callable[[], Tensor], Callable[[], Tensor]]
    inputs: Tensor


def need(package: str, *modules: str) -> None:
    """Import modules of a peer.

    Raises:
        Missing: it is not installed.
    """
    try:
        for module in modules:
            importlib.import_module(module)
    except ImportError as error:
        name, _, version = package.partition(" ")
        command = f"pip install --no-deps {name}=={version}" if version else f"pip install --no-deps {name}"
        raise Missing(f"not installed: {command} ({error})") from None


def joined(tensors: Mapping[str, Tensor]) -> Tensor:
    """Return all values as one vector, in the order of the names."""
    return torch.cat([tensors[name].detach().flatten() for name in sorted(tensors)])


# ---------------------------------------------------------------- pairs


def seanet(rehearsal: bool) -> Pair:
    need(ENCODEC, "encodec.modules.seanet")
    from encodec_networks import PublicSEANet, seanet_views

    from bcfusion.generators.seanet import SEANet

    channels, bottleneck = (4, 8) if rehearsal else (32, 128)
    ours = SEANet(channels=channels, bottleneck_channels=bottleneck)
    public = PublicSEANet(channels, bottleneck, (2, 2, 8, 8), 3)
    inputs = speech(2048 if rehearsal else 16384)
    return Pair((ours, public), seanet_views(ours, public), (lambda: ours(inputs), lambda: public(inputs)), inputs)


def conv_tasnet(rehearsal: bool) -> Pair:
    need(ASTEROID, "asteroid.models")
    from asteroid_networks import conv_tasnet_output, conv_tasnet_views, public_conv_tasnet

    from bcfusion.generators.conv_tasnet import ConvTasNet
    from bcfusion.nn.network import estimate_of

    names = ("filters", "bottleneck_channels", "hidden_channels", "blocks", "repeats")
    sizes = (24, 6, 10, 3, 2) if rehearsal else (512, 128, 512, 8, 3)
    ours = ConvTasNet(**dict(zip(names, sizes, strict=True)))
    public = public_conv_tasnet(*sizes)
    inputs = speech(1600 if rehearsal else 16384)
    return Pair(
        (ours, public),
        conv_tasnet_views(ours, public),
        (lambda: estimate_of(ours(inputs)), lambda: conv_tasnet_output(public, inputs)),
        inputs,
    )


def dccrn(rehearsal: bool) -> Pair:
    need(ASTEROID, "asteroid.models")
    from asteroid_networks import PublicDCCRN, dccrn_output, dccrn_views, without_cancelled_biases

    from bcfusion.generators.dccrn import DCCRN

    channels = (8, 12) if rehearsal else (32, 64, 128, 256, 256, 256)
    units, bins, frames = (16, 16, 9) if rehearsal else (256, 256, 164)
    stft = (32, 8, 32) if rehearsal else (512, 100, 400)
    transform = dict(zip(("n_fft", "hop_length", "win_length"), stft, strict=True))
    ours = DCCRN(channels=channels, lstm_units=units, complex_lstm=True, **transform)  # type: ignore[arg-type]
    public = PublicDCCRN(channels, units, bins)
    without_cancelled_biases(ours)
    spectrum = torch.randn(ITEMS, bins, frames, dtype=torch.complex64)
    return Pair(
        (ours, public),
        dccrn_views(ours, public),
        (lambda: dccrn_output(ours, spectrum), lambda: public(spectrum)),
        spectrum,
    )


PAIRS: Mapping[str, Callable[[bool], Pair]] = {"seanet": seanet, "conv_tasnet": conv_tasnet, "dccrn": dccrn}


def speech(samples: int) -> Tensor:
    """Return ``(ITEMS, 1, samples)`` of made-up speech, in float32."""
    from parity import speech_like

    return speech_like(ITEMS, samples, seed=0).float()


# ---------------------------------------------------------------- rows


def network(setting: dict[str, Any], name: str, peer: str) -> Measured:
    """Compare and time forward and backward passes of a pair."""
    from parity import relative

    how = Setting(**setting)
    torch.manual_seed(0)
    pair = PAIRS[name](how.rehearsal)
    ours, public = (view(lambda parameter: parameter.data) for view in pair.views)
    if different := sorted(ours.keys() ^ public.keys()):
        raise ValueError(f"parameters of one side: {different[:4]}")
    for key, weight in public.items():
        ours[key].copy_(weight)
    target = torch.zeros_like(pair.outputs[0]())
    acts = [
        forward_and_backward(output, target, list(side.parameters()))
        for side, output in zip(pair.networks, pair.outputs, strict=True)
    ]
    for act in acts:
        act()
    gradients = [joined(view(lambda parameter: parameter.grad)) for view in pair.views]
    with torch.no_grad():
        computed = [output() for output in pair.outputs]
    outputs = [torch.view_as_real(each) if each.is_complex() else each for each in computed]
    counts = [sum(tensor.numel() for tensor in tensors.values()) for tensors in (ours, public)]
    if counts[0] != counts[1]:
        raise ValueError(f"{counts[0]} parameters here, {counts[1]} there")
    agreement = [
        f"{counts[0]:,} parameters on both sides, copied",
        agree("outputs", relative(*outputs), OUTPUTS),
        agree("gradients", relative(*gradients), GRADIENTS),
    ]
    taken = in_turns(dict(zip(("ours", peer), acts, strict=True)), how)
    shape = " x ".join(map(str, pair.inputs.shape))
    return Measured([compared("time", "s", "ours", peer, taken)], agreement, [f"training mode, input {shape}"])


def forward_and_backward(output: Callable[[], Tensor], target: Tensor, of: list[nn.Parameter]) -> Callable[[], None]:
    """Return a forward pass, the mean square of the error, and the backward pass into new gradients."""

    def act() -> None:
        for parameter in of:
            parameter.grad = None
        (output() - target).abs().square().mean().backward()

    return act


def mr_stft(setting: dict[str, Any], peer: str) -> Measured:
    """Compare and time the multi-resolution STFT loss, with its gradient at the estimate."""
    need(peer, "auraloss")
    import auraloss
    from parity import relative, speech_like

    from bcfusion.losses.spectral import MultiResolutionStftLoss

    how = Setting(**setting)
    samples = 4000 if how.rehearsal else 40000
    target = speech(samples)
    estimate = (target + 0.3 * speech_like(ITEMS, samples, seed=1).float()).requires_grad_()
    lengths = torch.full((ITEMS,), samples)
    public = auraloss.freq.MultiResolutionSTFTLoss(
        fft_sizes=[512, 1024, 2048], hop_sizes=[50, 120, 240], win_lengths=[240, 600, 1200]
    )
    ours = MultiResolutionStftLoss(
        flooring="clamped", silence_db=None, convergence_limit=None, convergence_over="batch", padding="reflect"
    )
    values: dict[str, Callable[[], Tensor]] = {
        "ours": lambda: ours(estimate, target, lengths),
        peer: lambda: public(estimate, target),
    }
    found = [value() for value in values.values()]
    gradients = [torch.autograd.grad(value, estimate)[0] for value in found]
    agreement = [
        agree("value", relative(*found), OUTPUTS),
        # 1 / magnitude of faint bins: how their FFT rounds depends on the CPU
        agree("gradient at the estimate", relative(*gradients), 3 * GRADIENTS),
    ]

    def act(value: Callable[[], Tensor]) -> Callable[[], None]:
        def forward_and_gradient() -> None:
            torch.autograd.grad(value(), estimate)

        return forward_and_gradient

    taken = in_turns({name: act(value) for name, value in values.items()}, how)
    return Measured([compared("time", "s", "ours", peer, taken)], agreement, [f"{ITEMS} x {samples} samples"])
