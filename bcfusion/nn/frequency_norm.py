r"""A learned scale and shift per frequency at the input and output of a network on spectra, started from the training
set.

Stöter et al., "Open-Unmix - A Reference Implementation for Music Source Separation", Journal of Open Source Software 4
(41), 2019: each bin is standardised at the network's input by parameters that start from statistics of the training
set, and scaled and shifted at its output, there from 1 on. :class:`FrequencyNormalised` is the part of a network that
owns these layers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from bcfusion.contracts import Batch
from bcfusion.nn.moments import Moments, require_statistics
from bcfusion.nn.stft import Stft
from bcfusion.requirements import above, at_least, one_of, require

#: ``learnable``, or None: no such layers
FrequencyNorm = Literal["learnable"] | None
Kind = Literal["standardise", "restore", "identity"]

#: smallest deviation of a bin relative to the largest one: of amplitudes, 60 dB below, and of logarithms
LEAST_OF_AMPLITUDES, LEAST_OF_LOGARITHMS = 1e-3, 0.05


class FrequencyAffine(nn.Module):
    r"""Scale and shift each frequency of each channel: ``(B, parts C, F, N)`` to the same shape.

    A frequency has a mean :math:`\mu` and a deviation :math:`\sigma` over the training set, which are fixed, and a
    weight w and a bias b, which are trained:

    - ``standardise``: :math:`y = w (x - \mu) / \sigma + b`, for the input of a network;
    - ``restore``: :math:`y = \mu + \sigma (w x + b)`, for its output;
    - ``identity``: :math:`y = w x + b`, for an output without statistics: that of a mask before its activation, a gain.

    w and b start at 1 and 0, that is from the statistics: scale and shift are learned in units of these. An optimiser
    such as Adam moves every parameter by about the same amount, whatever it multiplies; a scale of :math:`1 / \sigma`
    itself would hardly move in faint bins at the input, and far too much at the output.

    Complex numbers (``parts=2``: the real parts of all channels, then the imaginary ones) are scaled only, both parts
    alike, so that phases stay and silence stays silent: their phase is arbitrary, a mean or bias would be a tone. Their
    :math:`\sigma` is the root mean square of both parts. An ``identity`` shifts them too, each part by itself, for a
    complex mask.

    Deviations below ``least`` times the largest one of the channel are raised to it: those of bins that are digitally
    silent, or nearly so. A channel that is silent as a whole has a deviation of 1.

    The statistics are those of what :meth:`add` is given, from :meth:`start` on; before, they are 0 and 1. What it
    computes depends on no other frame.

    Args:
        channels: C.
        bins: F.
        parts: 1, or 2 for the parts of complex numbers.
        kind: one of these.
        least: see above.

    Attributes:
        weight: ``(C, F, 1)``.
        bias: ``(parts, C, F, 1)``, or None.
        mean: ``(C, F, 1)``, a buffer like the next ones, so that checkpoints and bundles hold it; only of real numbers.
        deviation: ``(C, F, 1)``; an identity has neither.
        started: whether it waits for no statistics.

    Raises:
        ConfigError: an argument is out of range.
    """

    mean: Tensor
    deviation: Tensor
    started: Tensor

    def __init__(
        self, channels: int, bins: int, parts: int = 1, kind: Kind = "standardise", least: float = LEAST_OF_AMPLITUDES
    ) -> None:
        require(
            self,
            at_least(1, channels=channels, bins=bins),
            one_of((1, 2), parts=parts),
            one_of(get_args(Kind), kind=kind),
            above(0, least=least),
        )
        super().__init__()
        self.parts, self.kind, self.least = parts, kind, least
        shifts = parts == 1 or kind == "identity"
        self.weight = nn.Parameter(torch.ones(channels, bins, 1))
        self.bias = nn.Parameter(torch.zeros(parts, channels, bins, 1)) if shifts else None
        if kind != "identity":
            self.register_buffer("deviation", torch.ones(channels, bins, 1))
            if shifts:
                self.register_buffer("mean", torch.zeros(channels, bins, 1))
        self.register_buffer("started", torch.tensor(kind == "identity"))
        self._moments: Moments | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Scale and shift ``(B, parts C, F, N)``."""
        y = x.unflatten(1, (self.parts, -1))
        if self.kind == "standardise":
            y = (y if self.bias is None else y - self.mean) / self.deviation
        y = self.weight * y
        y = y if self.bias is None else y + self.bias
        if self.kind == "restore":
            y = self.deviation * y
            y = y if self.bias is None else y + self.mean
        return y.flatten(1, 2)

    def add(self, values: Tensor, valid: Tensor) -> None:
        """Measure the frames of ``values (B, parts C, F, N)`` that are ``valid (B, N)``."""
        if self._moments is None:
            self._moments = self._no_moments()
        self._moments.add(values.detach(), valid)

    def forget(self) -> None:
        """Forget what was measured and not used by :meth:`start`."""
        self._moments = None

    def _no_moments(self) -> Moments:
        return Moments(self.weight.detach().repeat(self.parts, 1, 1))

    @torch.no_grad()
    def start(self, owner: object | None = None) -> None:
        """Take the statistics of all that was measured, unless it waits for none.

        Args:
            owner: the network that it belongs to, for error messages.

        Raises:
            DataError: nothing was measured, or values that are not finite.
        """
        if self.started:
            return
        moments = self._moments or self._no_moments()
        require_statistics(owner or self, moments)
        squares = moments.variance()
        if self.parts == 2:
            squares = (squares + moments.mean().square()).unflatten(0, (2, -1)).mean(0)
        else:
            self.mean.copy_(moments.mean())
        deviation = squares.sqrt()
        lowest = self.least * deviation.amax(1, keepdim=True)
        self.deviation.copy_(torch.where(lowest > 0, deviation.maximum(lowest), 1.0))
        self.started.fill_(True)
        self._moments = None

    def extra_repr(self) -> str:
        channels, bins, _ = self.weight.shape
        return f"{channels}, bins={bins}, parts={self.parts}, {self.kind}"


class FrequencyNormalised(nn.Module):
    """A mixin for a network on spectra with the option ``frequency_norm``; it fulfils
    :class:`bcfusion.contracts.StartsFromStatistics`.

    The constructor of the network calls :meth:`set_frequency_norm` and makes its layers by :meth:`frequency_affine`: as
    a rule ``frequency_in``, which the trunk's input goes through, and ``frequency_out``, which its output does. Without
    the option they are identities without parameters. While it is observed, the network's forward pass calls
    :meth:`measure`.

    Attributes:
        frequency_norm: the option.
        late: samples by which its input is late: delayed for additional look-ahead, or inside another network.
        observed: the batch whose pass is to be measured, or None.
    """

    frequency_norm: FrequencyNorm = None
    late: int = 0
    observed: Batch | None = None

    def set_frequency_norm(self, option: FrequencyNorm) -> None:
        """Set the option.

        Raises:
            ConfigError: it is another word.
        """
        require(self, one_of((None, "learnable"), frequency_norm=option))
        self.frequency_norm = option

    def frequency_affine(
        self, channels: int, bins: int, parts: int = 1, kind: Kind = "standardise", least: float = LEAST_OF_AMPLITUDES
    ) -> nn.Module:
        """Return a :class:`FrequencyAffine` of these arguments, or an identity without the option."""
        if self.frequency_norm is None:
            return nn.Identity()
        return FrequencyAffine(channels, bins, parts, kind, least)

    # ---------------------------------------------------------------- statistics

    def _affines(self) -> list[FrequencyAffine]:
        return [layer for layer in self.children() if isinstance(layer, FrequencyAffine)]

    @property
    def started(self) -> bool:
        """Whether no layer of the network itself waits for statistics."""
        return all(bool(layer.started) for layer in self._affines())

    def observe(self, batch: Batch | None) -> None:
        """Measure the next pass, that of the inputs of ``batch``; None: no more, and forget what was measured."""
        self.observed = batch
        if batch is None:
            for layer in self._affines():
                layer.forget()

    def start(self) -> None:
        """Let all layers take their statistics."""
        for layer in self._affines():
            layer.start(self)

    def measure(self, values: Mapping[str, Tensor], stft: Stft) -> None:
        """Measure the frames of the observed batch that are centred on its items, up to the end of each.

        Args:
            values: by the names of their layers, ``(B, parts C, F, N)``. Layers that wait for no statistics are left
                out.
            stft: that made the frames.
        """
        assert self.observed is not None
        first = stft.centred + round(self.late / stft.hop_length)
        for name, value in values.items():
            layer = getattr(self, name)
            if isinstance(layer, FrequencyAffine) and not layer.started:
                frame = torch.arange(value.shape[-1], device=value.device) - first
                ends = self.observed["lengths"].to(value.device).unsqueeze(-1) // stft.hop_length
                layer.add(value, (frame >= 0) & (frame <= ends))
