"""MP-SENet: magnitude and phase of the spectrum restored in parallel, by conformers along time and along frequency.

Lu, Ai & Ling, "MP-SENet: A Speech Enhancement Model with Parallel Denoising of Magnitude and Phase Spectra",
Interspeech 2023.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from bcfusion.nn.conformer import ConformerBlock
from bcfusion.nn.dense import DenseDilatedBlock, DenseEncoder, LearnableSigmoid
from bcfusion.nn.frequency_norm import FrequencyNorm, Kind
from bcfusion.nn.norm import InstanceNorm2d
from bcfusion.nn.spectral import Complex, SpectralNetwork
from bcfusion.nn.stft import Window, window_samples
from bcfusion.requirements import above, at_least, one_of, require, within

MagnitudeHead = Literal["mask", "mapping", "additive"]

# Power of a bin, of a file of unit power, below which it is empty and has no phase: 120 dB below the average bin.
EMPTY = 1e-9
# Power below which two numbers have no direction; 1 / its root bounds the gradient of the phase.
NO_DIRECTION = 1e-8
_LEAST_POWER = 1e-12  # of the samples of a file; a quieter one is not made louder


def _norm(channels: int) -> InstanceNorm2d:
    return InstanceNorm2d(channels, track_running_stats=False, causal=False)


def _dense(channels: int, bins: int, depth: int) -> DenseDilatedBlock:
    """Return a block of ``depth`` convolutions over 3 bins and 3 frames."""
    return DenseDilatedBlock(channels, bins, depth, causal=False, separable=False, make_norm=_norm)


class TwoStageBlock(nn.Module):
    """``(B, F, N, channels)`` to the same shape: a conformer along the frames of each bin, then one along the bins of
    each frame; both are added to their input."""

    def __init__(self, conformer: Callable[[], ConformerBlock]) -> None:
        super().__init__()
        self.time, self.frequency = conformer(), conformer()

    def forward(self, x: Tensor) -> Tensor:
        for layer in (self.time, self.frequency):
            sequences = x.flatten(0, 1)
            x = (sequences + layer(sequences)).view(x.shape).transpose(1, 2)
        return x


class Decoder(nn.Module):
    """``(B, channels, F', N) -> (B, outputs, F, N)``: a dense block, twice the bins, and an output layer.

    Args:
        block: for F' bins.
        outputs: values per bin; each has a convolution of its own, side by side.
        narrow: the first output is normalised instead of the features: as published, that of the mask.
        scale: of the initial weights of the output.
    """

    def __init__(self, block: DenseDilatedBlock, outputs: int, narrow: bool, scale: float) -> None:
        super().__init__()
        self.block, channels = block, block.channels
        self.upsample = nn.ConvTranspose2d(channels, channels, (3, 1), (2, 1))
        before = [nn.Conv2d(channels, outputs, 1)] if narrow else []
        width = outputs if narrow else channels
        self.features = nn.Sequential(*before, _norm(width), nn.PReLU(width))
        self.output = nn.Conv2d(width, outputs, 1)
        assert self.output.bias is not None
        with torch.no_grad():
            self.output.weight.mul_(scale)
            self.output.bias.zero_()

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.output(self.features(self.upsample(self.block(x))))
        return output


class MPSENet(SpectralNetwork):
    """Generator ``(B, in_channels, T) -> (B, 1, T)`` for any T. Not causal: it normalises, and attends to, the whole
    file.

    Magnitudes, to the power ``compression``, and phases of all sensors are the maps that a dense encoder reads: a
    convolution, a dilated dense block, a convolution that halves the bins. Blocks of two conformers follow, and two
    decoders that double the bins: one for the magnitude, and one for two numbers per bin whose angle is the phase. Each
    file is computed at unit power of all sensors, and its level is restored: a louder file gives a louder output, and
    nothing else.

    The published network is ``head="mask", phase_skip=False``, 2,048,849 parameters (2.05 M): a mask between 0 and
    ``beta`` on the compressed magnitudes, and phases that start at random. Attention is along the frames, or bins, of
    an item, as in the paper; the authors' code attends to all sequences of a batch at one place instead, since it gives
    batches first to an attention that takes them second.

    A mask cannot fill a band in which the sensor has no signal. The other heads, of which ``additive`` is the default,
    give magnitudes there: the paper's extension to bandwidth extension (Lu et al., "Explicit estimation of magnitude
    and phase spectra in parallel for high-quality speech enhancement", 2023) maps too. Their decoder of the magnitude
    normalises its features, as that of the phase does, instead of its only output, whose level over the file would be
    fixed: 2,048,835 parameters.

    Args:
        sample_rate: of input and output, in Hz.
        in_channels: number of sensors.
        channels: of all layers.
        blocks: of two conformers.
        heads: of the attention; they share the channels.
        kernel_size: of the convolutions of the conformers in frames, or bins, odd.
        depth: layers of the dense blocks, dilated by 1, 2, 4, ... frames.
        dropout: within the conformers.
        head: ``mask``, ``mapping`` (the magnitude itself), or ``additive`` (its difference from that of one sensor), of
            compressed magnitudes. The sign of a magnitude is ignored.
        beta: largest value of the mask.
        compression: exponent of the magnitudes.
        phase_skip: add the cosine and sine of one sensor's phase (0 where the sensor has no signal) to the two numbers
            whose angle is the output's phase; False: as in the paper, phases start at random.
        n_fft: of the STFT, in samples; a multiple of 4.
        hop_length: likewise.
        win_length: likewise.
        window: of the STFT, see :class:`bcfusion.nn.stft.Stft`.
        skip_channel: the sensor that is masked or added to, and whose phase is the starting point; -1 is the last (the
            air microphone, in fusion).
        init_output_scale: factor on the initial weights of the layers that give the output.
        frequency_norm: ``learnable``: the compressed magnitudes of the sensors, and what the magnitude decoder gives,
            are scaled and shifted bin by bin; both start from the training set, see
            :class:`bcfusion.nn.frequency_norm.FrequencyAffine`, that of a mask, before its sigmoid, at 1 and 0. Phases
            stay as they are. None: neither.

    Attributes:
        delay: None.
        provides: ``mask``, the gain ``(B, F, N)`` of the magnitudes, if the head is one.

    Raises:
        ConfigError: sizes that do not fit; another ``head``.
    """

    provides: tuple[str, ...] = ("mask",)

    def __init__(
        self,
        sample_rate: int = 16000,
        in_channels: int = 1,
        channels: int = 64,
        blocks: int = 4,
        heads: int = 4,
        kernel_size: int = 31,
        depth: int = 4,
        dropout: float = 0.2,
        head: MagnitudeHead = "additive",
        beta: float = 2.0,
        compression: float = 0.3,
        phase_skip: bool = True,
        n_fft: int = 400,
        hop_length: int = 100,
        win_length: int = 400,
        window: Window = "hann",
        skip_channel: int = -1,
        init_output_scale: float = 0.3,
        frequency_norm: FrequencyNorm = None,
    ) -> None:
        require(
            self,
            at_least(1, channels=channels, blocks=blocks, depth=depth),
            one_of(("mask", "mapping", "additive"), head=head),
            above(0, beta=beta, compression=compression, init_output_scale=init_output_scale),
            within(0, 1, compression=compression),
            (n_fft % 4 == 0, f"n_fft={n_fft} must be a multiple of 4: its bins are halved and doubled"),
        )
        super().__init__(
            sample_rate, in_channels, n_fft, hop_length, win_length, window, False, None, skip_channel, frequency_norm
        )
        self.head, self.compression, self.phase_skip = head, compression, phase_skip
        self.only_masks = masks = head == "mask"
        self.provides = ("mask",) if masks else ()
        self.window_power = float((window_samples(window, win_length) ** 2).sum())
        bins = self.stft.bins

        def conformer() -> ConformerBlock:
            return ConformerBlock(channels, heads, kernel_size, 4 * channels, 2 * channels, dropout)

        self.encoder = DenseEncoder(2 * in_channels, _dense(channels, bins, depth))
        half = self.encoder.out_bins
        self.blocks = nn.Sequential(*(TwoStageBlock(conformer) for _ in range(blocks)))
        self.magnitude_decoder = Decoder(_dense(channels, half, depth), 1, masks, init_output_scale)
        self.phase_decoder = Decoder(_dense(channels, half, depth), 2, False, init_output_scale)
        self.sigmoid = LearnableSigmoid(bins, beta) if masks else nn.Identity()
        if head == "mapping" and frequency_norm is None:
            # about the average magnitude: near 0 the uncompressed one, a high power, hardly has a gradient
            assert self.magnitude_decoder.output.bias is not None
            nn.init.ones_(self.magnitude_decoder.output.bias)
        self.frequency_in = self.frequency_affine(in_channels, bins)
        kind: Kind = "identity" if masks else "restore"
        self.frequency_out = self.frequency_affine(1, bins, kind=kind)

    def statistics_of(self, sensors: Complex, target: Complex) -> dict[str, Tensor]:
        level = self._level(*sensors)
        (_, _, magnitudes), (_, _, wanted) = (
            self._at_unit_power(*parts, level) for parts in (sensors, (target[0].unsqueeze(1), target[1].unsqueeze(1)))
        )
        if self.head == "additive":
            wanted = wanted - magnitudes[:, self.skip_channel].unsqueeze(1)
        return {"frequency_in": magnitudes, "frequency_out": wanted}

    def spectrum(self, real: Tensor, imag: Tensor) -> tuple[Complex, dict[str, Tensor]]:
        level = self._level(real, imag)
        real, imag, magnitudes = self._at_unit_power(real, imag, level)
        empty = real.square() + imag.square() <= EMPTY
        # no angle is computed in an empty bin: its gradient is unbounded at the origin
        phases = torch.atan2(imag.masked_fill(empty, 0.0), real.masked_fill(empty, 1.0))
        of_magnitude, of_phase = self.outputs(magnitudes, phases)

        sensor = self.skip_channel
        provided = {}
        if self.head == "mask":
            mask = of_magnitude
            magnitude = magnitudes[:, sensor] * mask
            provided["mask"] = mask.pow(1 / self.compression)
        else:
            magnitude = (magnitudes[:, sensor] + of_magnitude if self.head == "additive" else of_magnitude).abs()
        magnitude = magnitude.pow(1 / self.compression) * level.squeeze(1)
        cosine, sine = of_phase
        if self.phase_skip:
            length = (real[:, sensor].square() + imag[:, sensor].square() + EMPTY).sqrt()
            cosine, sine = cosine + real[:, sensor] / length, sine + imag[:, sensor] / length
        # cosine and sine of atan2(sine, cosine), without the angle
        per_length = (cosine.square() + sine.square() + NO_DIRECTION).rsqrt()
        return (magnitude * cosine * per_length, magnitude * sine * per_length), provided

    def outputs(self, magnitudes: Tensor, phases: Tensor) -> tuple[Tensor, Complex]:
        """Return what the decoders give, ``(B, F, N)`` each.

        Args:
            magnitudes: of the sensors, compressed, ``(B, in_channels, F, N)``.
            phases: likewise, in radians.

        Returns:
            The mask, or the output of the magnitude decoder for another head; and the two numbers whose angle is the
            phase.
        """
        h = self.encoder(torch.cat([self.frequency_in(magnitudes), phases], dim=1))
        h = self.blocks(h.permute(0, 2, 3, 1).contiguous()).permute(0, 3, 1, 2).contiguous()
        of_magnitude = self.sigmoid(self.frequency_out(self.magnitude_decoder(h)))
        of_phase = self.phase_decoder(h)
        # under autocast layers give half precision, in which a high power overflows
        cosine, sine = of_phase.to(magnitudes.dtype).unbind(1)
        return of_magnitude[:, 0].to(magnitudes.dtype), (cosine, sine)

    def _level(self, real: Tensor, imag: Tensor) -> Tensor:
        """Return the root mean square ``(B, 1, 1, 1)`` of the samples of all sensors, from their spectra."""
        power = real.square() + imag.square()
        # the bins above half the sample rate mirror those below; n_fft is even
        whole = 2 * power.sum(2, keepdim=True) - power[:, :, :1] - power[:, :, -1:]
        per_sample = whole.mean((1, 3), keepdim=True) / (self.stft.n_fft * self.window_power)
        return (per_sample + _LEAST_POWER).sqrt()

    def _at_unit_power(self, real: Tensor, imag: Tensor, level: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return both parts, divided by the level, and the compressed magnitudes."""
        real, imag = real / level, imag / level
        return real, imag, (real.square() + imag.square() + EMPTY).pow(self.compression / 2)
