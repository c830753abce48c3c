"""A ResUNet that masks the magnitude spectrogram and keeps the phase of the input."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from bcfusion.nn.frequency_norm import FrequencyNorm
from bcfusion.nn.norm import BatchNorm1d
from bcfusion.nn.resunet import ResUNet, ResUNetGenerator
from bcfusion.nn.spectral import Complex, magnitude
from bcfusion.nn.stft import Window
from bcfusion.requirements import one_of, require

Activation = Literal["sigmoid", "relu"]

_ACTIVATIONS: dict[str, tuple[Callable[[Tensor], Tensor], float]] = {  # and the bias for an initial mask near 1
    "sigmoid": (torch.sigmoid, 2.0),
    "relu": (torch.relu, 1.0),
}


class ResUNetMask(ResUNetGenerator):
    """Magnitudes of all sensors to a mask for those of one, whose phase is kept: ``(B, in_channels, T) -> (B, 1, T)``.

    The spectrogram variant of VoiceFixer's analysis module (Liu et al. 2021; Kong et al. 2021 without the estimated
    phase). In addition to ``estimate`` it provides the ``mask (B, F, N)`` for the losses, with frames centred on
    multiples of the hop. A mask cannot fill a band in which the sensor has no signal: it is meant for fusion and for
    noisy sensors.

    Each bin of each sensor first goes through a batch normalisation of its own, as in Kong et al. The topmost bin is
    left out of the network, so that F - 1 can be halved, and takes the mask of the one below it. Not causal. With the
    sizes of the YAML 16.30 M parameters; with ``channels=[32, 64, 128, 256, 384, 384]`` 65.15 M.

    Args:
        sample_rate: of input and output, in Hz.
        in_channels: number of sensors.
        n_fft: of the STFT, see :class:`bcfusion.nn.stft.Stft`.
        hop_length: likewise.
        win_length: likewise.
        window: likewise.
        channels: of the :class:`bcfusion.nn.resunet.ResUNet`.
        blocks: likewise.
        init_output_scale: likewise.
        activation: of the mask: ``sigmoid`` only attenuates, ``relu`` can also amplify.
        skip_channel: the sensor that is masked; -1 is the last (the air microphone, in fusion).
        frequency_norm: ``learnable``: in place of the batch normalisation the magnitudes are scaled and shifted bin by
            bin, from the training set's statistics on, and so is the network's output before the activation, from 1
            and 0 on; see :class:`bcfusion.nn.frequency_norm.FrequencyAffine`. None: batch normalisation.

    Raises:
        ConfigError: another activation, or sizes that do not fit.
    """

    provides = ("mask",)
    only_masks = True  #: it cannot fill a band that its input lacks

    def __init__(
        self,
        sample_rate: int = 16000,
        in_channels: int = 1,
        n_fft: int = 512,
        hop_length: int = 128,
        win_length: int = 512,
        window: Window = "hann",
        channels: Sequence[int] = (16, 32, 64, 128, 192, 192),
        blocks: int = 4,
        init_output_scale: float = 0.1,
        activation: Activation = "relu",
        skip_channel: int = -1,
        frequency_norm: FrequencyNorm = None,
    ) -> None:
        require(self, one_of(_ACTIVATIONS, activation=activation))
        unet = ResUNet(in_channels, 1, channels, blocks, init_output_scale)
        sizes = (n_fft, hop_length, win_length)
        super().__init__(unet, sample_rate, in_channels, *sizes, window, skip_channel, frequency_norm)
        bins = self.stft.bins - 1
        self.norm = BatchNorm1d(in_channels * bins) if frequency_norm is None else nn.Identity()
        self.frequency_in = self.frequency_affine(in_channels, bins)
        self.frequency_out = self.frequency_affine(1, bins, kind="identity")
        self.activation, start = _ACTIVATIONS[activation]
        assert unet.last.bias is not None
        nn.init.constant_(unet.last.bias, start)

    def statistics_of(self, sensors: Complex, target: Complex) -> dict[str, Tensor]:
        return {"frequency_in": magnitude(*sensors)[:, :, :-1]}

    def spectrum(self, real: Tensor, imag: Tensor) -> tuple[Complex, dict[str, Tensor]]:
        levels = magnitude(real, imag)[:, :, :-1]  # (B, in_channels, F - 1, N)
        normal = self.norm(levels.flatten(1, 2)).unflatten(1, levels.shape[1:3])
        mask = self.activation(self.frequency_out(self.unet(self.frequency_in(normal))).squeeze(1))
        mask = torch.cat([mask, mask[:, -1:]], dim=1)  # (B, F, N)
        return (mask * real[:, self.skip_channel], mask * imag[:, self.skip_channel]), {"mask": mask}
