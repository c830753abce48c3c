"""The multi-scale STFT discriminator of EnCodec: 2-D convolutions over complex spectrograms of several resolutions.

Défossez, Copet, Synnaeve & Adi, "High Fidelity Neural Audio Compression", 2022, section 3.4 and figure 2.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bcfusion.contracts import Judgement
from bcfusion.discriminators.stack import judge
from bcfusion.nn.conv import Norm, apply_norm
from bcfusion.nn.revision import Revised
from bcfusion.requirements import at_least, require


class StftDiscriminator(Revised):
    """Judge one complex spectrogram: ``(B, 1, T)`` to logits ``(B, 1, frames, bins)``, frames = T // hop_length + 1.

    Convolutions over (time, frequency): ``kernel_size`` to ``channels``; one per dilation, dilated in time and strided
    in frequency; ``final_kernel_size``; ``final_kernel_size`` to the logits. Leaky ReLU after all but the last.
    Features ``(B, channels, frames, bins)``: the number of frames stays, each stride divides the bins, rounding up.

    The arguments are those of :class:`MultiStftDiscriminator`, for one ``n_fft`` and ``hop_length``.
    """

    window: Tensor
    revision = 2  # 1 had the norm on the first layer too

    def __init__(
        self,
        n_fft: int,
        hop_length: int,
        channels: int,
        dilations: Sequence[int],
        kernel_size: Sequence[int],
        frequency_stride: int,
        final_kernel_size: Sequence[int],
        negative_slope: float,
        norm: Norm | None,
    ) -> None:
        super().__init__()
        self.n_fft, self.hop_length = n_fft, hop_length
        self.negative_slope = negative_slope
        window = torch.hann_window(n_fft)
        self.register_buffer("window", window / torch.linalg.vector_norm(window), persistent=False)
        layers = [_conv(2, channels, kernel_size, None)]  # real and imaginary part
        layers += [_conv(channels, channels, kernel_size, norm, dilation, frequency_stride) for dilation in dilations]
        layers += [_conv(channels, channels, final_kernel_size, norm)]
        self.layers = nn.ModuleList(layers)
        self.logits = _conv(channels, 1, final_kernel_size, norm)

    def forward(self, waveform: Tensor) -> Judgement:
        """Return logits and the activations of the hidden layers, first to last, of ``(B, 1, T)`` for any T."""
        return judge(self.spectrogram(waveform), self.layers, self.logits, self.negative_slope)

    def spectrogram(self, waveform: Tensor) -> Tensor:
        """Return real and imaginary part ``(B, 2, T // hop_length + 1, n_fft // 2 + 1)`` of ``(B, 1, T)``, in float32.

        Divided by the window's norm, the root of the sum of its squares: white noise keeps its variance in each bin but
        the first and last, whatever the resolution.
        """
        with torch.autocast(waveform.device.type, enabled=False):  # a half-precision FFT loses the quiet bins
            half = self.n_fft // 2
            padded = F.pad(waveform.float().squeeze(1), (half, self.n_fft - half))
            spectrum = torch.fft.rfft(padded.unfold(-1, self.n_fft, self.hop_length) * self.window)
            return torch.stack([spectrum.real, spectrum.imag], dim=1)


class MultiStftDiscriminator(nn.Module):
    """Independent :class:`StftDiscriminator` networks, one per resolution. 472,330 parameters with the defaults.

    Frames are centred on multiples of the hop, the first on the first sample, so that the ends are judged as often as
    the middle; EnCodec's begin with the first whole window, and need one. Around the signal are zeros: they suit any
    length, and an item is judged alone as in a padded batch, whereas a mirrored end would be a spectrum that no speech
    has.

    The paper's text gives kernels of 3 x 8; those of the networks published with it, 3 x 9, have a middle.

    Args:
        n_ffts: samples of each Hann window and transform.
        hop_lengths: samples between frames, one per entry of ``n_ffts``.
        channels: of all hidden layers.
        dilations: in time, one layer each.
        kernel_size: frames and bins, odd, of the first and the dilated layers.
        frequency_stride: bins, of the dilated layers.
        final_kernel_size: frames and bins, odd, of the last two layers.
        negative_slope: of the leaky ReLU.
        norm: of all layers but the first, see :func:`bcfusion.nn.conv.apply_norm`.

    Raises:
        ConfigError: no resolution, not as many hops as windows, a hop longer than its window, sizes below one, or even
            kernels.
    """

    def __init__(
        self,
        n_ffts: Sequence[int] = (2048, 1024, 512, 256, 128),
        hop_lengths: Sequence[int] = (512, 256, 128, 64, 32),
        channels: int = 32,
        dilations: Sequence[int] = (1, 2, 4),
        kernel_size: Sequence[int] = (3, 9),
        frequency_stride: int = 2,
        final_kernel_size: Sequence[int] = (3, 3),
        negative_slope: float = 0.2,
        norm: Norm | None = "weight_norm",
    ) -> None:
        pairs = list(zip(n_ffts, hop_lengths, strict=False))
        kernels = {"kernel_size": kernel_size, "final_kernel_size": final_kernel_size}
        require(
            self,
            at_least(2, n_ffts=n_ffts),
            (
                len(n_ffts) == len(hop_lengths),
                f"{len(n_ffts)} n_ffts and {len(hop_lengths)} hop_lengths: give a hop per window",
            ),
            *((1 <= hop <= n_fft, f"hop_lengths: {hop} must be from 1 to n_fft={n_fft}") for n_fft, hop in pairs),
            *(
                (
                    len(size) == 2 and all(length > 0 and length % 2 == 1 for length in size),
                    f"{name}={list(size)} must be two odd numbers, of frames and of bins",
                )
                for name, size in kernels.items()
            ),
            at_least(1, channels=channels, frequency_stride=frequency_stride, dilations=dilations),
        )
        super().__init__()
        shared = (channels, dilations, kernel_size, frequency_stride, final_kernel_size, negative_slope, norm)
        self.resolutions = nn.ModuleList(StftDiscriminator(n_fft, hop, *shared) for n_fft, hop in pairs)

    def forward(self, waveform: Tensor) -> list[Judgement]:
        """Judge ``(B, 1, T)`` for any T; return one judgement per resolution, in the order of ``n_ffts``."""
        return [part(waveform) for part in self.resolutions]


def _conv(
    in_channels: int,
    out_channels: int,
    kernel_size: Sequence[int],
    norm: Norm | None,
    dilation: int = 1,
    frequency_stride: int = 1,
) -> nn.Conv2d:
    """Return a convolution over (time, frequency) that keeps the number of frames; ``dilation`` is in time."""
    frames, bins = kernel_size
    conv = nn.Conv2d(
        in_channels,
        out_channels,
        kernel_size=(frames, bins),
        stride=(1, frequency_stride),
        padding=(frames // 2 * dilation, bins // 2),
        dilation=(dilation, 1),
    )
    apply_norm(conv, norm)
    return conv
