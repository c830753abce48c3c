"""Log energies of bands that do not depend on how loud a recording is, nor on the colour of its sensor."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, get_args

import torch
from torch import Tensor

from bcfusion.nn.streaming import StreamingModule
from bcfusion.requirements import above, one_of, require

Normalisation = Literal["utterance", "running", "none"]

#: energy relative to full scale, -200 dB, which keeps logarithms and quotients of digital silence finite
_SILENCE = 1e-20
#: frames of a recursion that are computed at once, and the most that it decays within them, as a natural logarithm
_BLOCK, _MOST_DECAY = 64, 10.0
#: smaller deviations, in factors of ten of the energy, are raised to it
_LEAST_DEVIATION = 0.1


def running_maximum(x: Tensor) -> Tensor:
    """Return the largest of the elements up to each one, along the last dimension of ``x (..., N)``.

    ONNX has no operator for it: in an exported graph it is made of log2 N maxima, each of windows twice as long.
    """
    if not torch.compiler.is_exporting():
        return x.cummax(-1).values
    reach = 1
    while reach < x.shape[-1]:
        x = torch.cat([x[..., :reach], torch.maximum(x[..., reach:], x[..., :-reach])], dim=-1)
        reach *= 2
    return x


class LogLevels(StreamingModule):
    r"""Energies of bands ``(B, S, K, N)`` to features of the same shape: factors of ten of the energy about its mean.

    A feature is :math:`\log_{10}(E + \theta P) - m` with the energy E of a band, the loudest frame P, which sets a
    floor ``floor_db`` below it, and the mean m of the band over frames. Every sensor has its own P and m.

    - ``utterance``: P and m are those of the whole file. Frames count by their energy e: e / (e + c P) with c
      ``activity_db`` below P, so that pauses count little and digital silence does not count.
    - ``running``: P and m are those of the frames up to the present one, and older ones count less, with ``memory`` as
      the time constant. A frame also counts in proportion to the root of P at its time: a faint beginning is forgotten
      when speech sets in. Causal.
    - ``none``: P is 1, full scale, and m is 0. Depends on the level.

    Args:
        normalisation: one of these.
        frame_rate: frames per second.
        n_bands: K.
        channels: S.
        floor_db: dB between the loudest frame and the floor of each band.
        activity_db: dB below the loudest frame where a frame counts half.
        memory: of ``running``, in seconds.
        deviation: also divide by the deviation about m, which is at least 1 dB.

    Raises:
        ConfigError: another normalisation, or a number that is not above 0.
    """

    endless = True

    def __init__(
        self,
        normalisation: Normalisation,
        frame_rate: float,
        n_bands: int,
        channels: int = 1,
        floor_db: float = 70.0,
        activity_db: float = 60.0,
        memory: float = 10.0,
        deviation: bool = False,
    ) -> None:
        require(
            self,
            one_of(get_args(Normalisation), normalisation=normalisation),
            above(0, floor_db=floor_db, activity_db=activity_db, memory=memory),
        )
        super().__init__()
        self.n_bands, self.channels = n_bands, channels
        self.normalisation, self.deviation = normalisation, deviation
        self.causal = normalisation != "utterance"
        self.floor, self.quiet = 10 ** (-floor_db / 10), 10 ** (-activity_db / 10)
        self.log_decay = -1.0 / (memory * frame_rate)
        self.block = max(1, min(_BLOCK, int(_MOST_DECAY / -self.log_decay)))

    def initial_state(self, batch_size: int, like: Tensor) -> dict[str, Tensor]:
        """Return ``peak (B, S)``, ``weight (B, S, 1)``, ``sums (B, S, K)`` and, with a deviation, ``squares``."""
        if self.normalisation != "running":
            return {}
        shapes = {"peak": (), "weight": (1,), "sums": (self.n_bands,)}
        if self.deviation:
            shapes["squares"] = (self.n_bands,)
        return {name: like.new_zeros(batch_size, self.channels, *shape) for name, shape in shapes.items()}

    def forward(self, energies: Tensor) -> tuple[Tensor, Tensor]:
        """Return the features ``(B, S, K, N)`` and the floor ``(B, S, 1, N)``, an energy, of ``energies (B, S, K, N)``.

        No gradient flows through the floor and through what a frame counts.
        """
        self.require_frames(energies.shape[-1])
        frame = energies.detach().sum(2)  # (B, S, N)
        if self.normalisation == "none":
            floor = torch.full_like(frame, self.floor).unsqueeze(2)
            return (energies + floor + _SILENCE).log10(), floor
        running = self.normalisation == "running"
        peak = self._peak(frame) if running else frame.amax(-1, keepdim=True).expand_as(frame)
        floor = (self.floor * peak).unsqueeze(2)
        levels = (energies + floor + _SILENCE).log10()
        share = frame / (frame + self.quiet * peak + _SILENCE)
        share = (peak.sqrt() * share if running else share).unsqueeze(2)  # (B, S, 1, N)
        weight = self._total("weight", share)
        silent = weight == 0  # so far
        weight = torch.where(silent, 1.0, weight)
        mean = self._total("sums", share * levels) / weight
        features = torch.where(silent, 0.0, levels - mean)
        if self.deviation:
            variance = self._total("squares", share * levels.square()) / weight - mean.square()
            features = features / variance.clamp_min(_LEAST_DEVIATION**2).sqrt()
        return features, floor

    def _total(self, name: str, values: Tensor) -> Tensor:
        """Return the sum over frames of ``values (B, S, K, N)``: of all, or up to each one with decay."""
        if self.normalisation == "utterance":
            return values.sum(-1, keepdim=True)
        return self._recursion(name, values, lambda x: x.cumsum(-1), torch.add)

    def _peak(self, frame: Tensor) -> Tensor:
        """Return the largest energy up to each frame of ``(B, S, N)``, with decay."""
        return self._recursion("peak", frame, running_maximum, torch.maximum)

    def _recursion(
        self, name: str, values: Tensor, accumulate: Callable[[Tensor], Tensor], join: Callable[..., Tensor]
    ) -> Tensor:
        """Return :math:`y_j = join(d y_{j - 1}, v_j)` with the decay d, from the state ``name`` on, of values ``(...,
        N)``; block by block, so that :math:`d^{-j}` stays small."""
        if not isinstance(values.shape[-1], int):
            return self._recursion_of_any_length(values, accumulate, join)
        before = self.recall(name) if self.is_streaming else torch.zeros_like(values[..., 0])
        outputs = []
        for block in values.split(self.block, dim=-1):
            frames = torch.arange(block.shape[-1], device=block.device, dtype=block.dtype)
            decay = (self.log_decay * frames).exp()
            own = block if block.shape[-1] == 1 else decay * accumulate(block / decay)
            outputs.append(join(math.exp(self.log_decay) * decay * before.unsqueeze(-1), own))
            before = outputs[-1][..., -1]
        if self.is_streaming:
            self.replace(**{name: before})
        return torch.cat(outputs, dim=-1)

    def _recursion_of_any_length(
        self, values: Tensor, accumulate: Callable[[Tensor], Tensor], join: Callable[..., Tensor]
    ) -> Tensor:
        """Return the same for a whole file in an exported graph, which has no loop over a number of blocks that it does
        not know: the ends of all blocks are computed at once, each from those before it; values are not negative."""
        length, size = values.shape[-1], self.block
        blocks = (length + size - 1) // size
        padded = torch.nn.functional.pad(values, (0, blocks * size - length))
        decay = (self.log_decay * torch.arange(size, device=values.device, dtype=values.dtype)).exp()
        own = decay * accumulate(padded.reshape(*values.shape[:-1], blocks, size) / decay)
        number = torch.arange(blocks, device=values.device, dtype=values.dtype)
        age = number - number[:, None]  # of row's end at column's, in blocks
        reach = torch.where(age >= 0, (self.log_decay * size * age.clamp_min(0)).exp(), 0.0)
        ends = own[..., -1]  # (..., blocks)
        ends = ends @ reach if join is torch.add else (ends.unsqueeze(-1) * reach).amax(-2)
        before = torch.nn.functional.pad(ends, (1, 0))[..., :-1]
        whole = join(math.exp(self.log_decay) * decay * before.unsqueeze(-1), own)
        return whole.flatten(-2)[..., :length]

    def extra_repr(self) -> str:
        return f"normalisation={self.normalisation}, floor={self.floor:g}"
