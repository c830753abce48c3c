"""Temporal feature-wise linear modulation: a recurrent network scales the channels of a convolutional one."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from bcfusion.nn.recurrent import LSTM
from bcfusion.nn.streaming import StreamingError, StreamingModule
from bcfusion.requirements import at_least, require


class TFiLM(StreamingModule):
    r"""Temporal FiLM ``(B, channels, N) -> (B, channels, N)``, for any N of at least one frame.

    Birnbaum et al., "Temporal FiLM: Capturing Long-Range Sequence Dependencies with Feature-Wise Modulations", NeurIPS
    2019. Time is cut into blocks of ``block_size`` frames. The maximum of every channel over a block is the input of an
    LSTM that runs from block to block; its output scales, and optionally shifts, the channels of that same block:
    :math:`y = (1 + \gamma_b) x + \beta_b`. A block thus sees all blocks before it, at the price of one recurrent step.

    The 1 is FiLM's (Perez et al. 2018, section 7.2). The paper scales by the LSTM's output itself, which starts at
    about 0.05: a few such layers in a row would silence an untrained network.

    A last block that is not full is filled with copies of its last frame, which do not change its maximum.

    Args:
        channels: C.
        block_size: frames.
        shift: also add a value to each channel of a block (:math:`\beta`); the LSTM is then twice as wide.
        causal: the LSTM runs forward only, as in the paper. A block's scale then depends on all blocks up to and
            including its own, and the layer streams in whole blocks. Otherwise half of the LSTM's units run backward,
            from the end of the file.

    Raises:
        ConfigError: sizes below one; an odd number of LSTM units to split between two directions.
    """

    def __init__(self, channels: int, block_size: int, shift: bool = False, causal: bool = True) -> None:
        super().__init__()
        units = 2 * channels if shift else channels
        require(
            self,
            at_least(1, channels=channels, block_size=block_size),
            (causal or units % 2 == 0, f"channels={channels} must be even with causal=False, half for each direction"),
        )
        self.channels, self.block_size = channels, block_size
        self.shift, self.causal = shift, causal
        per_direction = units if causal else units // 2
        self.recurrent = LSTM(channels, per_direction, bidirectional=not causal, causal=causal)

    def forward(self, x: Tensor) -> Tensor:
        """Modulate whole files of any number of frames, or chunks of whole blocks.

        Raises:
            StreamingError: a chunk is not a multiple of ``block_size``.
        """
        frames, size = x.shape[-1], self.block_size
        self.require_frames(frames)
        missing = -frames % size
        if self.is_streaming and missing:
            raise StreamingError(f"a chunk of {frames} frames is not a multiple of TFiLM's block, {size} frames")
        if missing:
            x = F.pad(x, (0, missing), mode="replicate")  # repeating a frame changes no maximum
        blocks = x.transpose(1, 2).unflatten(1, (-1, size))  # (B, blocks, block_size, C)
        modulation = self.recurrent(blocks.amax(2)).unsqueeze(2)  # (B, blocks, 1, C or 2 C)
        y = blocks * (1 + modulation[..., : self.channels])
        if self.shift:
            y = y + modulation[..., self.channels :]
        return y.flatten(1, 2)[:, :frames].transpose(1, 2)

    def last_input(self, frame: int) -> int:
        """Return the last input frame that output ``frame`` of a causal layer depends on: the end of its block."""
        return (frame // self.block_size + 1) * self.block_size - 1

    def extra_repr(self) -> str:
        return f"{self.channels}, block_size={self.block_size}, shift={self.shift}, causal={self.causal}"
