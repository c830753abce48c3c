"""Self-attention over the frames of a file, or of a stream, with biases that grow with the distance."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bcfusion.nn.streaming import StreamingModule
from bcfusion.requirements import at_least, require

_SCORES = 2**24  # of one item that are computed at once, if a file has more
_ROWS = 128  # queries at once that see a bounded past, at least


class Alibi(StreamingModule):
    r"""Attention with linear biases (Press et al. 2022, "Train short, test long: attention with linear biases enables
    input length extrapolation", section 3).

    The score of a query at frame i and a key at frame j gets the bias :math:`-m_h |i - j|`, with slopes of the heads
    that start from :math:`m_h = 2^{-8 h / H}`, h = 1 to H, and are trained. No other position is given to the network,
    so files may be longer than those it was trained with.

    A query sees the ``reach`` frames on either side of its own, or, if causal, before it; or all of the file. Of long
    files the scores are computed for a part of the queries at a time, so that memory grows with their length and not
    with its square.

    Args:
        heads: H.
        reach: see above; None: all of the file.
        causal: no query sees a later frame; this needs a ``reach``.

    Raises:
        ConfigError: sizes below one, or a causal layer that sees all of the file.
    """

    def __init__(self, heads: int, reach: int | None, causal: bool) -> None:
        require(self, at_least(1, heads=heads), _reach_rules(reach, causal))
        super().__init__()
        self.reach, self.causal = reach, causal
        self.slopes = nn.Parameter(2.0 ** (-8 / heads * torch.arange(1, heads + 1)))

    def initial_state(self, batch_size: int, like: Tensor) -> dict[str, Tensor]:
        """Return ``seen (B, reach)``: 1 where the file had that frame, 0 before its start."""
        assert self.reach is not None
        return {"seen": like.new_zeros(batch_size, self.reach)}

    def forward(self, x: Tensor) -> Biases:
        """Return the biases of a pass of ``x (B, N, C)``, for all layers of :class:`SelfAttention` in it."""
        frames = x.shape[1]
        self.require_frames(frames)
        if not self.is_streaming:
            return Biases(self, frames, 0, None)
        assert self.reach is not None
        seen = torch.cat([self.recall("seen"), x.new_ones(x.shape[0], frames)], dim=1)
        self.replace(seen=seen[:, frames:])
        return Biases(self, frames, self.reach, seen)

    def extra_repr(self) -> str:
        return f"heads={len(self.slopes)}, reach={self.reach}, causal={self.causal}"


class Biases:
    """The biases of one pass, for a part of the queries after the other: iterate.

    Args:
        alibi: whose they are.
        frames: N, queries.
        past: keys before the first query, those that a stream has kept.
        seen: which of all keys there are, ``(B, past + N)``, 1 or 0; None: all.
    """

    def __init__(self, alibi: Alibi, frames: int, past: int, seen: Tensor | None) -> None:
        self.alibi, self.frames, self.past, self.seen = alibi, frames, past, seen
        keys = past + frames
        if torch.compiler.is_exporting():  # a graph has no loop whose length depends on the file
            self.rows = frames
        elif alibi.reach is None:
            self.rows = max(1, _SCORES // (len(alibi.slopes) * keys))
        else:
            self.rows = max(alibi.reach, _ROWS)
        whole = torch.compiler.is_exporting() or self.rows >= frames
        self.only = self._of(0, frames) if whole else None  # computed once for all layers

    def __iter__(self) -> Iterator[tuple[slice, slice, Tensor]]:
        """Yield queries, the keys that they see, and the biases ``(B or 1, heads, queries, keys)``."""
        if self.only is not None:
            yield self.only
            return
        for first in range(0, self.frames, self.rows):
            yield self._of(first, min(first + self.rows, self.frames))

    def _of(self, first: int, last: int) -> tuple[slice, slice, Tensor]:
        alibi, reach = self.alibi, self.alibi.reach
        begin, end = 0, self.past + self.frames
        if reach is not None and not torch.compiler.is_exporting():
            begin = max(0, self.past + first - reach)
            end = min(end, self.past + last + (0 if alibi.causal else reach))
        device = alibi.slopes.device
        query = torch.arange(self.past + first, self.past + last, device=device)
        distance = query[:, None] - torch.arange(begin, end, device=device)
        bias = -alibi.slopes[:, None, None] * distance.abs().to(alibi.slopes)
        if reach is not None:
            sees = (distance <= reach) & (distance >= (0 if alibi.causal else -reach))
            if self.seen is not None:
                sees = sees & (self.seen[:, None, None, begin:end] > 0)
            bias = torch.where(sees, bias, -torch.inf)
        bias = bias if bias.ndim == 4 else bias[None]
        return slice(first, last), slice(begin, end), bias


class SelfAttention(StreamingModule):
    """Self-attention of several heads ``(B, N, channels) -> (B, N, channels)`` (Vaswani et al. 2017, section 3.2).

    Args:
        channels: C.
        heads: between which the channels are divided.
        reach: as in :class:`Alibi`.
        causal: likewise.

    Raises:
        ConfigError: as there, or channels that the heads do not divide.
    """

    def __init__(self, channels: int, heads: int, reach: int | None, causal: bool) -> None:
        require(
            self,
            at_least(1, channels=channels, heads=heads),
            _reach_rules(reach, causal),
            (heads < 1 or channels % heads == 0, f"channels={channels} must be a multiple of heads={heads}"),
        )
        super().__init__()
        self.channels, self.heads = channels, heads
        self.reach, self.causal = reach, causal
        self.inward = nn.Linear(channels, 3 * channels)
        self.outward = nn.Linear(channels, channels)

    def initial_state(self, batch_size: int, like: Tensor) -> dict[str, Tensor]:
        """Return ``past (B, reach, 2 channels)``, keys and values of the last frames."""
        assert self.reach is not None
        return {"past": like.new_zeros(batch_size, self.reach, 2 * self.channels)}

    def forward(self, x: Tensor, biases: Biases) -> Tensor:
        """Attend to all frames, or to those within reach; ``biases`` are those of this pass."""
        query, seen = self.inward(x).split([self.channels, 2 * self.channels], dim=-1)
        if self.is_streaming:
            assert self.reach is not None
            seen = torch.cat([self.recall("past"), seen], dim=1)
            self.replace(past=seen[:, seen.shape[1] - self.reach :])
        spoiled = None
        sees_all = self.reach is None or (self.is_streaming and x.shape[1] == 1)  # what there is
        if self.reach is not None and not sees_all and not torch.compiler.is_exporting():
            seen, spoiled = self._spoiled(seen, x.shape[1], self.reach)
        key, value = self._split(seen[..., : self.channels]), self._split(seen[..., self.channels :])
        query = self._split(query)
        parts = [
            F.scaled_dot_product_attention(
                query[:, :, rows], key[:, :, keys], value[:, :, keys], attn_mask=bias.to(query.dtype)
            )
            for rows, keys, bias in biases
        ]
        attended = parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)
        y: Tensor = self.outward(attended.transpose(1, 2).flatten(2))
        return y if spoiled is None else y + spoiled

    def _split(self, x: Tensor) -> Tensor:
        """Return ``(B, heads, N, channels / heads)``."""
        return x.unflatten(2, (self.heads, -1)).transpose(1, 2)

    def _spoiled(self, seen: Tensor, frames: int, reach: int) -> tuple[Tensor, Tensor]:
        """Let what is not finite spoil the frames that see it, and no others.

        A bias of minus infinity does not keep it out: it times a weight of 0 is not a number.

        Returns:
            Keys and values with zeros instead, and ``(B, frames, 1)``, 0 or not a number, to be added to the output.
        """
        broken = 0 * seen.detach().sum(-1)  # (B, keys)
        clean = torch.where(broken.isnan()[..., None], torch.zeros_like(seen), seen)
        before, after = reach + frames - broken.shape[1], 0 if self.causal else reach
        spoiled = F.max_pool1d(F.pad(broken, (before, after))[:, None], reach + 1 + after, 1)
        return clean, spoiled.transpose(1, 2)

    def extra_repr(self) -> str:
        return f"heads={self.heads}, reach={self.reach}, causal={self.causal}"


def _reach_rules(reach: int | None, causal: bool) -> list[str]:
    if reach is None:
        return ["causal=True needs a reach, which is what a stream keeps"] if causal else []
    return at_least(1, reach=reach)
