"""Initial weights: unit variance from layer to layer, set by a probe; first kernels that see all bands equally."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize
from torch.utils.hooks import RemovableHandle

from bcfusion.nn.conv import Conv1d

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, Conv1d)


def probe_signal(level: float, samples: int = 8192, batch: int = 2, seed: int = 0) -> Tensor:
    """Return noise ``(batch, 1, samples)`` whose power falls by 6 dB per octave, like that of speech.

    Args:
        level: root mean square; 1 is full scale.
        samples: T.
        batch: B.
        seed: of its own random numbers; torch's global generator is not touched.
    """
    white = torch.randn(batch, 1, samples, generator=torch.Generator().manual_seed(seed))
    frequencies = torch.arange(samples // 2 + 1).clamp_min(samples // 200)  # flat below a hundredth of the Nyquist
    noise = torch.fft.irfft(torch.fft.rfft(white) / frequencies, n=samples)
    return level * noise / noise.square().mean().sqrt()


@torch.no_grad()
def start_with_unit_variance(network: nn.Module, probe: Tensor) -> int:
    """Set biases to 0 and scale weights so that each convolution's output has unit variance on the probe, in place.

    torch's own initial weights shrink a signal by a factor of about 0.4 in every layer, while the biases keep their
    size: at the end of a deep network whose input is speech at -23 dBFS, hardly anything is left but biases. The layers
    are scaled in the order in which they run, each on the output of the scaled layers before it: layer-sequential unit
    variance (Mishkin & Matas 2016, "All you need is a good init"), which under weight norm is the data-dependent
    initialisation of Salimans & Kingma 2016. Layers under spectral norm cannot choose their scale; only their biases
    are set to 0.

    Args:
        network: called with the probe.
        probe: a signal like the inputs that the network will have.

    Returns:
        The number of layers that were scaled.
    """
    scaled = 0

    def scale(layer: nn.Module, _: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
        nonlocal scaled
        if layer.bias is not None:
            assert isinstance(layer.bias, Tensor)
            output = output - layer.bias.view(-1, *[1] * (output.ndim - 2))
            layer.bias.zero_()
        deviation = output.square().mean().sqrt()
        gain = _gain_of(layer)
        if gain is None or not deviation > 0:
            return output
        gain.div_(deviation)
        scaled += 1
        return output / deviation

    hooks: list[RemovableHandle] = [
        module.register_forward_hook(scale) for module in network.modules() if isinstance(module, _CONVOLUTIONS)
    ]
    try:
        network(probe)
    finally:
        for hook in hooks:
            hook.remove()
    return scaled


@torch.no_grad()
def whiten(first: Conv1d, correlation: float = 0.95) -> None:
    """Make the kernels of a network's first layer respond to all bands of speech equally, in place.

    Untrained kernels mostly add up what neighbouring samples have in common, the lowest band, so that all features of
    the network are nearly the same. Here the kernels are changed to those that act on whitened samples, uncorrelated
    and of unit power. Speech is modelled as a first-order autoregressive process of the given ``correlation``: the
    first sample of a kernel, then differences ``(x_n - correlation x_{n - 1}) / sqrt(1 - correlation^2)``.

    Args:
        first: a layer with weights for white input.
        correlation: of neighbouring samples, above -1 and below 1.
    """
    weight = first.weight
    weight[..., 1:] /= (1 - correlation**2) ** 0.5
    weight[..., :-1] -= correlation * weight[..., 1:].clone()


def _gain_of(layer: nn.Module) -> Tensor | None:
    """Return the tensor that the layer's weight is proportional to, or None if a norm fixes its scale."""
    if not parametrize.is_parametrized(layer, "weight"):
        assert isinstance(layer.weight, Tensor)
        return layer.weight
    parametrised = layer.parametrizations
    assert isinstance(parametrised, nn.ModuleDict)
    steps = parametrised["weight"]
    assert isinstance(steps, parametrize.ParametrizationList)
    if len(steps) == 1 and isinstance(steps[0], parametrizations._WeightNorm):
        gain = steps.original0
        assert isinstance(gain, Tensor)
        return gain
    return None
