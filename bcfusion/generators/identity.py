"""The input itself: the reference row of every table."""

from __future__ import annotations

from torch import Tensor

from bcfusion.nn.network import WaveformNetwork


class Identity(WaveformNetwork):
    """One sensor unchanged, ``(B, in_channels, T) -> (B, 1, T)``. No parameters; causal, sample by sample, no delay.

    Args:
        sample_rate: of input and output, in Hz.
        in_channels: number of sensors.
        skip_channel: the sensor that is returned; -1 is the last (the air microphone, in fusion).

    Raises:
        ConfigError: a sample rate or number of sensors below one, or a ``skip_channel`` that is no sensor.
    """

    def __init__(self, sample_rate: int = 16000, in_channels: int = 1, skip_channel: int = -1) -> None:
        super().__init__(sample_rate, in_channels, hop=1, causal=True, skip_channel=skip_channel)

    def body(self, inputs: Tensor) -> Tensor:
        return inputs[:, self.skip_channel].unsqueeze(1)
