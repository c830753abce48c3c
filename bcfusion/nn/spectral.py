"""Common part of networks that work on a spectrogram: the transform around them, and the meaning of their output."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bcfusion.contracts import Batch
from bcfusion.nn.frequency_norm import FrequencyNorm, FrequencyNormalised, Kind
from bcfusion.nn.network import WaveformNetwork
from bcfusion.nn.stft import InverseStft, Stft, Window
from bcfusion.requirements import one_of, require

Head = Literal["mask", "polar_mask", "mapping", "additive"]
Complex = tuple[Tensor, Tensor]
_FLOOR = 1e-10  # power of a bin below which compression is linear


def _mask(sensor: Complex, output: Complex) -> Complex:
    return sensor[0] * output[0] - sensor[1] * output[1], sensor[0] * output[1] + sensor[1] * output[0]


def _polar_mask(sensor: Complex, output: Complex) -> Complex:
    # the product with a mask shortened from |M| to tanh |M|: phases add, magnitudes multiply. No angle is computed,
    # whose gradient is unbounded at the origin
    size = (output[0].square() + output[1].square() + 1e-8).sqrt()
    shorter = torch.tanh(size) / size
    return _mask(sensor, (shorter * output[0], shorter * output[1]))


def _mapping(sensor: Complex, output: Complex) -> Complex:
    return output


def _additive(sensor: Complex, output: Complex) -> Complex:
    return sensor[0] + output[0], sensor[1] + output[1]


_HEADS: dict[str, Callable[[Complex, Complex], Complex]] = {
    "mask": _mask,
    "polar_mask": _polar_mask,
    "mapping": _mapping,
    "additive": _additive,
}


class SpectralHead(nn.Module):
    """The estimate's spectrum from the spectrum of one sensor and the network's output, all as two real parts.

    - ``mask``: their complex product. A mask cannot fill a band in which the sensor has no signal.
    - ``polar_mask``: the same with the mask's magnitude bounded, tanh(|M|): DCCRN-E (Hu et al. 2020, eq. 10).
    - ``mapping``: the network's output itself.
    - ``additive``: the sum of the sensor's spectrum and the network's output.

    Args:
        kind: one of these.

    Attributes:
        masks: whether the output is a mask.
        output_kind: of a :class:`bcfusion.nn.frequency_norm.FrequencyAffine` that the output goes through: ``restore``
            with the statistics of :meth:`wanted`, or for masks ``identity``.

    Raises:
        ConfigError: another ``kind``.
    """

    def __init__(self, kind: Head) -> None:
        require(self, one_of(_HEADS, head=kind))
        super().__init__()
        self.kind = kind
        self.masks = kind in ("mask", "polar_mask")
        self.combine = _HEADS[kind]
        self.output_kind: Kind = "identity" if self.masks else "restore"

    def forward(self, sensor: Complex, output: Complex) -> Complex:
        """Combine both spectra; all four tensors have the same shape, and so have the two returned."""
        return self.combine(sensor, output)

    def wanted(self, sensor: Complex, target: Complex) -> Complex:
        """Return the output for which the estimate is the target; that of a mask, which has no statistics, is the
        target."""
        if self.kind == "additive":
            return target[0] - sensor[0], target[1] - sensor[1]
        return target

    def statistics(self, sensors: Complex, target: Complex, skip_channel: int) -> dict[str, Tensor]:
        """Return what :meth:`SpectralNetwork.statistics_of` does, of a network on complex spectra with this head."""
        sensor = sensors[0][:, skip_channel], sensors[1][:, skip_channel]
        wanted = torch.stack(self.wanted(sensor, target), dim=1)
        return {"frequency_in": torch.cat(sensors, dim=1), "frequency_out": wanted}

    def provided(self, output: Complex) -> dict[str, Tensor]:
        """Return the magnitude of the ``mask``, if the network's output is one: what it provides in addition to the
        estimate."""
        if not self.masks:
            return {}
        size = magnitude(*output)
        return {"mask": torch.tanh(size) if self.kind == "polar_mask" else size}

    def extra_repr(self) -> str:
        return self.kind


def magnitude(real: Tensor, imag: Tensor, eps: float = 1e-8) -> Tensor:
    """Return sqrt(real^2 + imag^2 + eps), in the shape of both, whose gradient at silence is bounded."""
    return (real.square() + imag.square() + eps).sqrt()


def frame_loudness(x: Tensor, eps: float = 1e-8) -> Tensor:
    """Return the root mean square ``(B, 1, 1, N)`` of each frame of ``(B, C, F, N)``, all channels together."""
    return (x.square().mean((1, 2), keepdim=True) + eps).sqrt()


def compressed(real: Tensor, imag: Tensor, exponent: float, scale: float = 1.0) -> Complex:
    """Return spectra with ``scale |X|**exponent`` in place of the magnitudes; below 1e-5 the curve is straight."""
    if exponent == 1 and scale == 1:
        return real, imag
    gain = scale * (real.square() + imag.square() + _FLOOR).pow((exponent - 1) / 2)
    return gain * real, gain * imag


def expanded(real: Tensor, imag: Tensor, exponent: float, scale: float = 1.0) -> Complex:
    """Return the spectra that :func:`compressed` gives these for; those below 1e-5 become smaller, down to 0."""
    if exponent == 1 and scale == 1:
        return real, imag
    power = (real.square() + imag.square()) / scale**2 + _FLOOR
    gain = power.pow((1 / exponent - 1) / 2) / scale
    return gain * real, gain * imag


def log_magnitude(real: Tensor, imag: Tensor, floor: float) -> Tensor:
    """Return ln sqrt(real^2 + imag^2 + floor^2), in the shape of both."""
    return 0.5 * (real.square() + imag.square() + floor**2).log()


def from_log(log_magnitude: Tensor, win_length: int) -> Tensor:
    """Return the exponential of log magnitudes of an STFT, which are bounded 60 dB above a signal at full scale.

    An untrained network, or one whose batch normalisation has not settled, may give any number, and the exponential of
    89 overflows. The gradient of a value above the bound is zero.

    Args:
        log_magnitude: natural logarithms, of frames that are not normalised.
        win_length: samples of a frame, which is the largest magnitude of a signal in [-1, 1].
    """
    return log_magnitude.clamp_max(math.log(1000 * win_length)).exp()


class SpectralNetwork(FrequencyNormalised, WaveformNetwork):
    """A generator between an STFT and its inverse; see :class:`bcfusion.nn.network.WaveformNetwork`.

    A network inherits from it and implements :meth:`spectrum`. Its output is late by the overlap of the frames,
    ``win_length - hop_length``, even if all else is causal, and by ``late_frames`` more if its causal layers stand for
    layers that look ahead. Further frames that it provides (a mask) are given to the
    losses on the grid of :class:`bcfusion.losses.generator_stft.GeneratorStft`: centred on multiples of the hop, the
    first one on sample 0.

    With the option ``frequency_norm`` a network also implements :meth:`statistics_of`. While it is observed (see
    :class:`bcfusion.nn.frequency_norm.FrequencyNormalised`), it returns its sensor ``skip_channel`` without a pass
    through its layers.

    Args:
        sample_rate: as in WaveformNetwork, like the arguments not listed here.
        n_fft: of the STFT, see :class:`bcfusion.nn.stft.Stft`.
        hop_length: likewise.
        win_length: likewise.
        window: likewise.
        future_frames: look-ahead of a body that is not causal, for the declared delay; None: the whole file.
        frequency_norm: ``learnable``, a trained scale and shift per frequency at the trunk's input and output, see
            :class:`bcfusion.nn.frequency_norm.FrequencyAffine`; None: none.
        lookahead_ms: as in WaveformNetwork.
        late_frames: frames by which the output of :meth:`spectrum` is late, beside its input.
        lowest_bin: the first bin that it makes; those below are 0, or the sensor's.

    Raises:
        ConfigError: sizes that do not fit; ``win_length`` not a multiple of ``2 hop_length``; another
            ``frequency_norm``.
    """

    lowest_bin: int = 0

    def __init__(
        self,
        sample_rate: int,
        in_channels: int,
        n_fft: int,
        hop_length: int,
        win_length: int,
        window: Window,
        causal: bool,
        future_frames: int | None = 0,
        skip_channel: int = -1,
        frequency_norm: FrequencyNorm = None,
        lookahead_ms: float = 0.0,
        late_frames: int = 0,
    ) -> None:
        late = win_length - hop_length + late_frames * hop_length
        delay = None if future_frames is None else late + hop_length - 1 + future_frames * hop_length
        super().__init__(sample_rate, in_channels, hop_length, causal, late, delay, skip_channel, lookahead_ms)
        self.late_frames = late_frames
        whole = win_length % (2 * hop_length) == 0
        require(self, (whole, f"win_length={win_length} must be a multiple of {2 * hop_length}, twice hop_length"))
        self.set_frequency_norm(frequency_norm)
        self.late = self.future
        self.stft = Stft(n_fft, hop_length, win_length, window, self.signals)
        self.istft = InverseStft(n_fft, hop_length, win_length, window)

    @property
    def ahead(self) -> int:
        return super().ahead + self.late_frames * self.stft.hop_length

    @property
    def maps_spectra(self) -> bool:
        """Whether all that it does between its transforms is :meth:`spectrum`."""
        return type(self).body is SpectralNetwork.body

    def spectrum(self, real: Tensor, imag: Tensor) -> tuple[Complex, dict[str, Tensor]]:
        """Map the real and imaginary parts ``(B, signals, F, N)`` of the signals' spectra to those of the estimate.

        Returns:
            The estimate's parts, each ``(B, F, N)``, and all that is provided in addition, each ``(B, F, N, ...)``.
        """
        raise NotImplementedError(f"{type(self).__name__} has no spectrum")

    def statistics_of(self, sensors: Complex, target: Complex) -> dict[str, Tensor]:
        """Return the values from whose statistics layers start, by the layers' names; those of identities are ignored.

        Args:
            sensors: real and imaginary parts of the signals' spectra, ``(B, signals, F, N)``, where those that arrive
                early are replaced by those in time: statistics are those of the same frames.
            target: those of the target, ``(B, F, N)``.

        Returns:
            Values ``(B, parts C, F', N)``: for ``frequency_in`` what it is given, for ``frequency_out`` what it has to
            give.
        """
        raise NotImplementedError(f"{type(self).__name__} has no statistics")

    def _observe(self, batch: Batch, real: Tensor, imag: Tensor) -> Complex:
        """Measure the spectra of a batch, and return that of the sensor ``skip_channel``, as late as the output."""
        late, stft = self.late, self.stft
        samples = real.shape[-1] * stft.hop_length
        target = F.pad(batch["target"].to(real), (late, max(samples - late - batch["target"].shape[-1], 0)))
        spectra = stft(target[..., :samples].expand(-1, stft.channels, -1))
        times = self.signals // self.in_channels
        sensors = self.in_time(real).repeat(1, times, 1, 1), self.in_time(imag).repeat(1, times, 1, 1)
        self.measure(self.statistics_of(sensors, (spectra[0][:, 0], spectra[1][:, 0])), stft)
        sensor = torch.stack([real, imag])[:, :, self.skip_channel]
        waited = F.pad(sensor, (self.late_frames, 0))[..., : real.shape[-1]]
        return waited[0], waited[1]

    def restored(self, real: Tensor, imag: Tensor) -> tuple[Complex, dict[str, Tensor]]:
        """Return what :meth:`spectrum` does; while the network is observed, measure instead, and return its sensor."""
        if self.observed is None:
            return self.spectrum(real, imag)
        return self._observe(self.observed, real, imag), {}

    def body(self, inputs: Tensor) -> Tensor | dict[str, Tensor]:
        """Transform, apply the network, transform back."""
        (real, imag), provided = self.restored(*self.stft(inputs))
        estimate = self.istft(real, imag)
        return {"estimate": estimate, **provided} if provided else estimate

    def leave_transform_to(self, stft: Stft) -> None:
        """Let a network around this one transform: from now on :meth:`restored` is called, not the network.

        The network's own transforms are removed, so that a stream keeps no state for them.

        Args:
            stft: of the network around it, with the same sizes.
        """
        del self.stft, self.istft
        self.__dict__["stft"] = stft  # it stays a module of the other network alone

    def trim(self, name: str, value: Tensor, length: int) -> Tensor:
        """Return the ``length // hop_length + 1`` frames centred on the file, or the file's part of a waveform."""
        if name == "estimate":
            return super().trim(name, value, length)
        hop = self.stft.hop_length
        first = self.stft.centred + self.late_frames + self.future // hop
        return value[:, :, first : first + length // hop + 1]

    def parts_in_time(self, parts: Tensor) -> Tensor:
        """Return what :meth:`in_time` does of the real parts of all signals, then the imaginary ones, ``(B, 2 signals,
        F, N)``."""
        if not self.early:
            return parts
        return parts.unflatten(1, (2, -1))[:, :, self.early :].flatten(1, 2)
