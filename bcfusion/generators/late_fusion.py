"""Late fusion: each sensor is restored by a network of its own, and a small one joins the results.

Yu et al., "Time-Domain Multi-Modal Bone/Air Conducted Speech Enhancement", IEEE Signal Processing Letters 27, 2020, who
compare it with early fusion (sensors as channels of one network).
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from bcfusion.generators.branches import Branches
from bcfusion.nn.conv import Conv1d
from bcfusion.nn.inner import Build
from bcfusion.nn.network import WaveformNetwork
from bcfusion.requirements import above, at_least, require


class LateFusion(WaveformNetwork):
    """The mean of the branches' outputs, plus a correction by convolutions over all of them.

    Causal if the branches are.

    Args:
        branch: builds the generator of one sensor (a ``_target_`` with ``_partial_: true``).
        air_branch: builds the generator of the last sensor, the air microphone; None: ``branch``.
        sample_rate: of input and output, in Hz.
        in_channels: number of sensors, each with a branch.
        channels: of the joining convolutions.
        layers: number of these, at least 2.
        kernel_size: in samples.
        speech_level: root mean square of speech that the initial weights of the joining convolutions are scaled for.
        lookahead_ms: additional look-ahead of the branches, in ms; 0: that of their own argument.

    Raises:
        ConfigError: sizes that do not fit, or a branch of another sample rate.
    """

    hears_all = False

    def __init__(
        self,
        branch: Build,
        air_branch: Build | None = None,
        sample_rate: int = 16000,
        in_channels: int = 2,
        channels: int = 16,
        layers: int = 3,
        kernel_size: int = 31,
        speech_level: float = 0.07,
        lookahead_ms: float = 0.0,
    ) -> None:
        require(self, at_least(2, layers=layers), above(0, speech_level=speech_level))
        branches = Branches(branch, air_branch, in_channels, sample_rate, lookahead_ms)
        causal = branches.causal
        delay = branches.delay
        if delay is not None and not causal:
            delay += layers * ((kernel_size - 1) // 2)
        super().__init__(sample_rate, in_channels, branches.hop, causal, branches.lookahead, delay)
        self.branches = branches
        self.least_frame = branches.least_frame
        self.speech_level = speech_level
        widths = [in_channels, *[channels] * (layers - 1), 1]
        joints = [Conv1d(inputs, outputs, kernel_size, causal=causal) for inputs, outputs in pairwise(widths)]
        self.joints = nn.ModuleList(joints)
        with torch.no_grad():  # the initial output is near the mean
            joints[-1].weight.mul_(0.1)

    def body(self, inputs: Tensor) -> Tensor:
        restored = self.branches(inputs)
        h = restored / self.speech_level
        for index, joint in enumerate(self.joints):
            h = joint(nn.functional.elu(h) if index else h)
        correction: Tensor = h * self.speech_level
        return restored.mean(1, keepdim=True) + correction
