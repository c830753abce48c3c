"""Normalisation of ``(B, C, ..., N)``, frames last: over each frame, over the frames so far, or over the whole file."""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bcfusion.nn.precision import full_precision
from bcfusion.nn.streaming import StreamingModule
from bcfusion.requirements import above, at_least, require

_FEW = 256  # frames of a chunk; the float32 of a stream's state holds the sums of as many


class _Affine(StreamingModule):
    """Gain and shift per channel, after a normalisation."""

    def __init__(self, channels: int, eps: float) -> None:
        require(self, at_least(1, channels=channels), above(0, eps=eps))
        super().__init__()
        self.channels, self.eps = channels, eps
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def scaled(self, x: Tensor) -> Tensor:
        shape = (-1, *[1] * (x.ndim - 2))
        return x * self.weight.view(shape) + self.bias.view(shape)

    def extra_repr(self) -> str:
        return f"{self.channels}, eps={self.eps}, causal={self.causal}"


class GlobalLayerNorm(_Affine):
    """gLN: over all channels and frames of an item (Luo & Mesgarani 2019, eq. 11). Not causal.

    Args:
        channels: C.
        eps: added to the variance.
        causal: must be false.

    Raises:
        ConfigError: ``causal=True``.
    """

    def __init__(self, channels: int, eps: float = 1e-8, causal: bool = False) -> None:
        require(self, (not causal, "causal=True is impossible, it measures the whole file: use CumulativeLayerNorm"))
        super().__init__(channels, eps)
        self.causal = False

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type == "cpu" and not torch.compiler.is_exporting() and not torch.is_autocast_enabled("cpu"):
            return torch.group_norm(x, 1, self.weight, self.bias, self.eps)  # the same, in a fifth of the time
        over = tuple(range(1, x.ndim))
        centred = x - x.mean(over, keepdim=True)
        return self.scaled(centred * (centred.square().mean(over, keepdim=True) + self.eps).rsqrt())


class FrameLayerNorm(_Affine):
    """Over the channels (and bands) of each frame separately; gain and shift per channel. Causal, without memory.

    For ``(B, C, N)`` this is the channel-wise layer normalisation that many Conv-TasNets use instead of cLN; for ``(B,
    C, K, N)`` the normalisation of a causal BSRNN.

    Args:
        channels: C.
        eps: added to the variance.
    """

    def __init__(self, channels: int, eps: float = 1e-8) -> None:
        super().__init__(channels, eps)

    def forward(self, x: Tensor) -> Tensor:
        if self.is_streaming and x.shape[-1] == 1:  # one operation
            if torch.compiler.is_exporting():  # gain and shift too: a graph computes their full shape once
                shape = (-1, *[1] * (x.ndim - 2))
                gain, shift = (each.view(shape).expand(x.shape[1:]) for each in (self.weight, self.bias))
                return F.layer_norm(x, x.shape[1:], gain, shift, self.eps)
            return self.scaled(F.layer_norm(x, x.shape[1:], eps=self.eps))
        over = tuple(range(1, x.ndim - 1))
        centred = x - x.mean(over, keepdim=True)
        return self.scaled(centred * (centred.square().mean(over, keepdim=True) + self.eps).rsqrt())


class ChannelLayerNorm(_Affine):
    """Over the channels of each bin of each frame; gain and shift per channel. Causal, without memory.

    Args:
        channels: C.
        eps: added to the variance.
    """

    def __init__(self, channels: int, eps: float = 1e-6) -> None:
        super().__init__(channels, eps)

    def forward(self, x: Tensor) -> Tensor:
        centred = x - x.mean(1, keepdim=True)
        return self.scaled(centred * (centred.square().mean(1, keepdim=True) + self.eps).rsqrt())


class CumulativeLayerNorm(_Affine):
    """cLN: over all channels of this frame and of all frames before it (Luo & Mesgarani 2019, eq. 12). Causal, with
    memory.

    A stream keeps mean, variance and number of the frames so far, in float32. Sums are computed in float64 about that
    mean, or from frame to frame if a chunk has few, and squares within a frame about the frame's own: otherwise values
    that lie far from 0 would lose their variance.

    Args:
        channels: C.
        eps: added to the variance.
    """

    endless = True

    def __init__(self, channels: int, eps: float = 1e-8) -> None:
        super().__init__(channels, eps)

    def initial_state(self, batch_size: int, like: Tensor) -> dict[str, Tensor]:
        """Return ``mean``, ``variance`` and ``count (B, 1)`` of the values so far; the last counts frames."""
        # three tensors, not the same one three times, which an exported step would merge
        dtype = torch.promote_types(like.dtype, torch.float32)
        return {
            name: torch.zeros(batch_size, 1, dtype=dtype, device=like.device) for name in ("mean", "variance", "count")
        }

    def forward(self, x: Tensor) -> Tensor:
        self.require_frames(x.shape[-1])
        over = tuple(range(1, x.ndim - 1))
        with full_precision(x):
            x = x if x.dtype == torch.float64 else x.float()
            of_frame = self._mean(x, over)
            deviation = x - of_frame
            within = self._mean(deviation * deviation, over).flatten(1)  # (B, N)
            of_frame = of_frame.view_as(within)
        few = self.is_streaming and x.shape[-1] <= _FEW
        mean, variance = self._of_few(of_frame, within) if few else self._of_many(of_frame, within)
        shape = (x.shape[0], *[1] * (x.ndim - 2), x.shape[-1])
        scale = (variance + self.eps).rsqrt()
        return self.scaled((x - mean.view(shape).to(x.dtype)) * scale.view(shape).to(x.dtype))

    def _mean(self, x: Tensor, over: tuple[int, ...]) -> Tensor:
        """Return the mean of each frame, ``(B, 1, ..., N)``; in an exported step as a product, which is much faster."""
        if torch.compiler.is_exporting() and self.is_streaming and x.ndim == 3:
            return torch.matmul(x.new_full((1, self.channels), 1 / self.channels), x)
        return x.mean(over, keepdim=True)

    def _of_many(self, of_frame: Tensor, within: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and variance ``(B, N)`` of the values up to each frame, in float64, of those of each frame."""
        of_frame, within = of_frame.double(), within.double()
        count = torch.arange(1, within.shape[-1] + 1, dtype=torch.float64, device=within.device).expand_as(within)
        before = squares_before = torch.zeros_like(within[:, :1])
        if self.is_streaming:
            frames = self.recall("count").double()
            before, squares_before = self.recall("mean").double(), frames * self.recall("variance").double()
            count = count + frames
        distance = of_frame - before
        shift = distance.cumsum(-1) / count
        mean = before + shift
        squares = squares_before + (within + distance.square()).cumsum(-1)
        variance = (squares / count - shift.square()).clamp_min(0)
        if self.is_streaming:
            kept = {"mean": mean, "variance": variance, "count": count}
            self.replace(**{name: value[:, -1:].to(self.recall(name).dtype) for name, value in kept.items()})
        return mean, variance

    def _of_few(self, of_frame: Tensor, within: Tensor) -> tuple[Tensor, Tensor]:
        """Return the same for a short chunk of a stream, in the precision of its state and in half of the operations.

        The distance of a frame's mean from the mean so far is taken before it is squared (Welford 1962), so that there
        is no difference of large squares.
        """
        frames, before = self.recall("count"), self.recall("mean")
        count = frames + torch.arange(1, within.shape[-1] + 1, dtype=within.dtype, device=within.device)
        distance = of_frame - before
        shift = distance.cumsum(-1) / count
        mean = before + shift
        rest = distance - shift  # of the frame's mean from the mean up to and with it
        squares = (within + rest * rest * (count / (count - 1).clamp_min(1))).cumsum(-1)
        variance = (squares + frames * self.recall("variance")) / count
        self.replace(mean=mean[:, -1:], variance=variance[:, -1:], count=count[:, -1:])
        return mean, variance


class _WithoutInitialStatistics(nn.modules.batchnorm._BatchNorm):
    """Batch normalisation that leaves the initial statistics out, see :class:`BatchNorm2d`."""

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            return super().forward(x)
        mean, variance, batches = self.running_mean, self.running_var, self.num_batches_tracked
        assert mean is not None
        assert variance is not None
        assert batches is not None
        assert self.momentum is not None
        initial = torch.pow(1 - self.momentum, batches.to(mean.dtype))  # weight of the initial statistics
        initial = torch.where(batches > 0, initial, 0.0)  # before the first batch there is nothing else
        mean, variance = mean / (1 - initial), ((variance - initial) / (1 - initial)).clamp_min(0)
        return F.batch_norm(x, mean, variance, self.weight, self.bias, eps=self.eps)


class BatchNorm1d(_WithoutInitialStatistics, nn.BatchNorm1d):
    """Batch normalisation of ``(B, C, N)`` by :class:`torch.nn.BatchNorm1d`, with the difference of
    :class:`BatchNorm2d`."""


class BatchNorm2d(_WithoutInitialStatistics, nn.BatchNorm2d):
    """Batch normalisation of ``(B, C, F, N)`` by :class:`torch.nn.BatchNorm2d`, evaluated without initial statistics.

    torch's running mean and variance start at 0 and 1, which after n batches still have the weight ``(1 -
    momentum)^n``: with a momentum of 0.01 more than a third after 100 steps, and in a deep network the errors of all
    layers multiply. In evaluation mode that part is taken out again, as from the moments in Adam (Kingma & Ba 2015):
    the statistics are weighted means of the batches, from the first one on. Training and what is stored are torch's;
    so is evaluation before the first batch, and after many.

    The arguments are torch's.
    """


class InstantLayerNorm(StreamingModule):
    """iLN: over the bins and channels of each frame separately; gain and shift per bin and channel (DPCRN).

    Le et al., "DPCRN: Dual-Path Convolution Recurrent Network for Single Channel Speech Enhancement", Interspeech 2021.
    Causal, without memory.

    Args:
        channels: C.
        freq_bins: F.
        eps: added to the variance.
    """

    def __init__(self, channels: int, freq_bins: int, eps: float = 1e-3) -> None:
        require(self, at_least(1, channels=channels, freq_bins=freq_bins), above(0, eps=eps))
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(channels, freq_bins, 1))
        self.bias = nn.Parameter(torch.zeros(channels, freq_bins, 1))

    def forward(self, x: Tensor) -> Tensor:
        if self.is_streaming and x.shape[-1] == 1:  # one operation
            return F.layer_norm(x, self.weight.shape, self.weight, self.bias, self.eps)
        centred = x - x.mean((1, 2), keepdim=True)
        normal = centred * (centred.square().mean((1, 2), keepdim=True) + self.eps).rsqrt()
        return normal * self.weight + self.bias


class InstanceNorm2d(StreamingModule):
    """Instance normalisation of ``(B, C, F, N)`` over bins and frames, by :class:`torch.nn.InstanceNorm2d`.

    With ``track_running_stats`` it measures each item in training and uses running averages of these measurements at
    inference: causal at inference only. Without, it always measures the whole file and refuses ``causal=True``.

    Args:
        channels: C.
        eps: added to the variance.
        track_running_stats: see above.
        causal: whether the layer has to be causal.

    Raises:
        ConfigError: ``causal=True`` without ``track_running_stats``.
    """

    def __init__(self, channels: int, eps: float = 1e-5, track_running_stats: bool = True, causal: bool = True) -> None:
        possible = track_running_stats or not causal
        require(self, (possible, "causal=True is impossible, it measures the whole file: set track_running_stats=True"))
        super().__init__()
        self.causal = track_running_stats
        self.norm = nn.InstanceNorm2d(channels, eps, affine=True, track_running_stats=track_running_stats)

    def forward(self, x: Tensor) -> Tensor:
        return cast("Tensor", self.norm(x))


class GroupNorm(StreamingModule):
    """Group normalisation (Wu & He 2018) over the channels of a group and all frames, by :class:`torch.nn.GroupNorm`.

    Args:
        groups: as in :class:`torch.nn.GroupNorm`.
        channels: likewise.
        eps: likewise.
        causal: must be false.

    Raises:
        ConfigError: ``causal=True``.
    """

    causal = False

    def __init__(self, groups: int, channels: int, eps: float = 1e-5, causal: bool = False) -> None:
        require(self, (not causal, "causal=True is impossible, it measures the whole file: use FrameLayerNorm"))
        super().__init__()
        self.norm = nn.GroupNorm(groups, channels, eps)

    def forward(self, x: Tensor) -> Tensor:
        return cast("Tensor", self.norm(x))
