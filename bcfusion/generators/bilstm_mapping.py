"""BiLSTM mapping of log magnitudes, the classical baseline.

After Zheng et al., "A Novel Throat Microphone Speech Enhancement Framework Based on Deep BLSTM Recurrent Neural
Networks", ICCC 2018, whose network and statistics are those of one speaker.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bcfusion.contracts import Batch
from bcfusion.nn.frequency_norm import FrequencyNorm
from bcfusion.nn.moments import Moments, require_statistics
from bcfusion.nn.recurrent import LSTM
from bcfusion.nn.spectral import Complex, SpectralNetwork, from_log, log_magnitude
from bcfusion.nn.stft import Stft, Window
from bcfusion.requirements import above, at_least, one_of, require

Phase = Literal["input", "griffin_lim"]

# Squared magnitude below which a bin has no phase. Far below any signal: an empty band needs a phase as well, even if
# it is that of rounding errors.
_NO_PHASE = 1e-20


class BiLSTMMapping(SpectralNetwork):
    r"""Log magnitudes to log magnitudes, ``(B, in_channels, T) -> (B, 1, T)``. Not causal: it sees the whole file.

    The sensors are divided by the largest sample s of all of them, which keeps their ratio; in training s is that of
    the crop, later that of the whole file, which is a little larger. Their log magnitudes :math:`\tfrac12 \ln(|X|^2 +
    \epsilon^2)` are normalised bin by bin, by mean and deviation over the training set; bidirectional LSTM layers and a
    linear layer follow. The output is denormalised by the mean and deviation of the AIR microphone, turned into a
    magnitude, given a phase, and multiplied by s.

    The statistics are buffers, so that checkpoints and bundles hold them. :meth:`fit` measures them on the training
    set, those of the air microphone on targets divided by the same s as their inputs. Until then they are 0 and 1.

    Global mode: statistics and network are those of all training speakers. Per-speaker mode: train with
    ``data.speakers=[NAME]``, and both are that speaker's; they suit no other speaker.

    Phase: ``input`` takes that of ``skip_channel``. ``griffin_lim`` starts there and makes phase and magnitude
    consistent (Griffin & Lim, "Signal estimation from modified short-time Fourier transform", 1984), in evaluation mode
    only: the loss is that of log magnitudes, which do not depend on the phase. Gradients flow through the magnitude,
    not through the iterations.

    With the defaults and one sensor 2,763,521 parameters.

    Args:
        sample_rate: of input and output, in Hz.
        in_channels: number of sensors.
        n_fft: of the STFT, see :class:`bcfusion.nn.stft.Stft`.
        hop_length: likewise.
        win_length: likewise.
        window: likewise.
        hidden_size: of each direction of each LSTM layer.
        num_layers: number of LSTM layers.
        floor: :math:`\epsilon`, a magnitude of the signal divided by s.
        least_deviation: smaller deviations (of bins that hold next to nothing) are raised to it; a natural logarithm.
        phase: ``input`` or ``griffin_lim``.
        iterations: of ``griffin_lim``.
        skip_channel: the sensor whose phase is used; -1 is the last (the air microphone, in fusion).
        frequency_norm: ``learnable``: the normalised log magnitudes are scaled and shifted bin by bin once more, and so
            is the output before it is denormalised: with the statistics, a mean and deviation that are trained. They
            start at 1 and 0, that is from the statistics, which remain the unit of the loss. None: neither. See
            :class:`bcfusion.nn.frequency_norm.FrequencyAffine`.

    Attributes:
        input_mean: ``(in_channels, F, 1)``.
        input_deviation: ``(in_channels, F, 1)``.
        output_mean: ``(F, 1)``.
        output_deviation: ``(F, 1)``.
        provides: ``log_magnitude (B, F, N)`` of the estimate divided by s, ``deviation (B, F, N)``, the unit of its
            errors, and s as ``scale (B, 1, 1)``, for :class:`bcfusion.losses.log_magnitude.LogMagnitudeMseLoss`.

    Raises:
        ConfigError: an argument is out of range, or see :class:`bcfusion.nn.spectral.SpectralNetwork`.
    """

    provides = ("log_magnitude", "deviation", "scale")

    input_mean: Tensor
    input_deviation: Tensor
    output_mean: Tensor
    output_deviation: Tensor

    def __init__(
        self,
        sample_rate: int = 16000,
        in_channels: int = 1,
        n_fft: int = 512,
        hop_length: int = 128,
        win_length: int = 512,
        window: Window = "hann",
        hidden_size: int = 256,
        num_layers: int = 2,
        floor: float = 1e-2,
        least_deviation: float = 0.1,
        phase: Phase = "input",
        iterations: int = 32,
        skip_channel: int = -1,
        frequency_norm: FrequencyNorm = None,
    ) -> None:
        require(
            self,
            above(0, floor=floor, least_deviation=least_deviation),
            one_of(get_args(Phase), phase=phase),
            at_least(1, iterations=iterations),
        )
        super().__init__(
            sample_rate, in_channels, n_fft, hop_length, win_length, window, False, None, skip_channel, frequency_norm
        )
        self.floor, self.least_deviation = floor, least_deviation
        self.phase, self.iterations = phase, iterations
        self.one_stft = Stft(n_fft, hop_length, win_length, window)  # of the target, and of an estimate
        bins = self.stft.bins
        self.recurrent = LSTM(in_channels * bins, hidden_size, num_layers, bidirectional=True, causal=False)
        self.linear = nn.Linear(self.recurrent.output_size, bins)
        self.frequency_in = self.frequency_affine(in_channels, bins, kind="identity")
        self.frequency_out = self.frequency_affine(1, bins, kind="identity")
        self.register_buffer("input_mean", torch.zeros(in_channels, bins, 1))
        self.register_buffer("input_deviation", torch.ones(in_channels, bins, 1))
        self.register_buffer("output_mean", torch.zeros(bins, 1))
        self.register_buffer("output_deviation", torch.ones(bins, 1))

    # ---------------------------------------------------------------- statistics

    @torch.no_grad()
    def fit(self, batches: Iterable[Batch]) -> None:
        """Measure mean and deviation of the log magnitudes of sensors and target, over all valid frames.

        Raises:
            DataError: no batches, or samples that are not finite.
        """
        sensors, air = Moments(self.input_mean), Moments(self.output_mean.unsqueeze(0))
        for batch in batches:
            scale = self._scale(batch["inputs"])
            levels = self._analysed(self.stft, batch["inputs"] / scale)
            frames = batch["lengths"] // self.hop + 1
            valid = torch.arange(levels.shape[-1], device=levels.device) < frames.unsqueeze(-1)
            sensors.add(levels, valid)
            air.add(self._analysed(self.one_stft, batch["target"] / scale), valid)
        require_statistics(self, sensors, air)
        self.input_mean.copy_(sensors.mean())
        self.input_deviation.copy_(sensors.deviation().clamp_min(self.least_deviation))
        self.output_mean.copy_(air.mean()[0])
        self.output_deviation.copy_(air.deviation()[0].clamp_min(self.least_deviation))

    def _analysed(self, stft: Stft, waveform: Tensor) -> Tensor:
        """Return log magnitudes ``(B, C, F, T // hop + 1)`` of the frames centred on ``waveform (B, C, T)``."""
        length = waveform.shape[-1]
        padded = F.pad(waveform, (0, self.lookahead + -(length + self.lookahead) % self.hop))
        real, imag = stft(padded)
        levels = log_magnitude(real, imag, self.floor)
        return levels[..., stft.centred : stft.centred + length // self.hop + 1]

    @staticmethod
    def _scale(inputs: Tensor) -> Tensor:
        """Return s ``(B, 1, 1)``, the largest sample of all sensors; at least 1e-4, so as not to amplify silence."""
        return inputs.abs().amax((1, 2), keepdim=True).clamp_min(1e-4)

    # ---------------------------------------------------------------- network

    def body(self, inputs: Tensor) -> dict[str, Tensor]:
        """Map ``(B, in_channels, T)``, T a multiple of the hop, to ``estimate (B, 1, T)`` and what is provided."""
        scale = self._scale(inputs)
        output = super().body(inputs / scale)
        assert isinstance(output, dict)
        return {**output, "estimate": output["estimate"] * scale, "scale": scale}

    def trim(self, name: str, value: Tensor, length: int) -> Tensor:
        """See :class:`~bcfusion.nn.spectral.SpectralNetwork`; the scale has no frames."""
        return value if name == "scale" else super().trim(name, value, length)

    def spectrum(self, real: Tensor, imag: Tensor) -> tuple[Complex, dict[str, Tensor]]:
        """Map ``(B, in_channels, F, N)`` to the estimate's parts ``(B, F, N)``, its log magnitude and deviation."""
        levels = (log_magnitude(real, imag, self.floor) - self.input_mean) / self.input_deviation
        levels = self.frequency_in(levels)
        hidden = self.recurrent(levels.flatten(1, 2).transpose(1, 2))  # (B, N, 2 hidden_size)
        normalised = self.frequency_out(self.linear(hidden).transpose(1, 2).unsqueeze(1)).squeeze(1)  # (B, F, N)
        level = self.output_mean + self.output_deviation * normalised
        magnitude = from_log(level, self.stft.win_length)
        phase = _unit(real[:, self.skip_channel], imag[:, self.skip_channel])
        if self.phase == "griffin_lim" and not self.training:
            phase = self._griffin_lim(magnitude, phase)
        provided = {"log_magnitude": level, "deviation": self.output_deviation.expand_as(level)}
        return (magnitude * phase[0], magnitude * phase[1]), provided

    @torch.no_grad()
    def _griffin_lim(self, magnitude: Tensor, phase: Complex) -> Complex:
        """Return cosine and sine ``(B, F, N)`` of a phase that suits ``magnitude (B, F, N)`` better than ``phase``."""
        late = self.lookahead // self.hop  # frames by which the waveform of the inverse transform is late
        for _ in range(self.iterations):
            spectrum = [F.pad(magnitude * part, (0, late)) for part in phase]
            real, imag = self.one_stft(self.istft(*spectrum))
            phase = _unit(real[:, 0, :, late:], imag[:, 0, :, late:])
        return phase


def _unit(real: Tensor, imag: Tensor) -> Complex:
    """Return cosine and sine of the phase, 0 if there is none, with a bounded gradient."""
    size = (real.square() + imag.square() + _NO_PHASE).sqrt()
    return real / size, imag / size
