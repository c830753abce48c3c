"""Losses between magnitude spectrograms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from bcfusion.losses.stft import ComplexSpectrogram, Padding, past_end
from bcfusion.losses.valid import valid_samples
from bcfusion.nn.precision import filter_tensor
from bcfusion.nn.stft import stft_sizes
from bcfusion.requirements import above, at_least, one_of, require, within

Flooring = Literal["added", "clamped", "magnitude"]
NormOver = Literal["item", "batch"]

#: poles of the A-weighting in Hz, annex E of IEC 61672-1: the lowest and the highest are double
A_WEIGHTING_POLES = (20.598997, 107.65265, 737.86223, 12194.217)
A_WEIGHTING_1_KHZ = 1.9997  # dB, by which the standard raises the curve, to 0 dB at 1 kHz
EMPTY = 1e-20  # least power under a root, whose gradient is infinite at 0


def a_weighting_gain(frequencies: Tensor) -> Tensor:
    r"""Return the gain of the A-weighting of IEC 61672-1 (annex E), in the shape of ``frequencies``, which are in Hz.

    :math:`R(f) = f_4^2 f^4 / ((f^2 + f_1^2) \sqrt{(f^2 + f_2^2)(f^2 + f_3^2)} (f^2 + f_4^2))` divided by its value at 1
    kHz, with the poles of the standard at 20.6, 107.7, 737.9 and 12194 Hz. A gain of amplitudes: 0 at 0 Hz, 1 at 1 kHz.
    """

    f1, f2, f3, f4 = A_WEIGHTING_POLES

    def response(squared: Tensor) -> Tensor:
        low, mid = squared + f1**2, (squared + f2**2) * (squared + f3**2)
        return squared.square() / (low * mid.sqrt() * (squared + f4**2))

    return response(frequencies.square()) / response(torch.full_like(frequencies, 1000.0).square())


def a_weighting_filter(taps: int, sample_rate: int) -> np.ndarray:
    """Return the ``(taps,)`` of a linear-phase filter that approximates the A-weighting: the filter of public code.

    The bilinear transform of the analogue filter gives a magnitude at 512 frequencies from 0 to half the sample rate,
    to which ``taps`` are fitted by least squares, in every other interval between them. The transform compresses the
    curve towards half the sample rate, where it falls to zero.
    """
    from scipy import signal  # takes long to import

    f1, f2, f3, f4 = (2 * np.pi * pole for pole in A_WEIGHTING_POLES)
    gain = f4**2 * 10 ** (A_WEIGHTING_1_KHZ / 20)
    digital = signal.bilinear_zpk([0.0] * 4, [-f1, -f1, -f2, -f3, -f4, -f4], gain, sample_rate)
    frequencies, response = signal.freqz_zpk(*digital, worN=512, fs=sample_rate)
    return np.asarray(signal.firls(taps, frequencies, np.abs(response), fs=sample_rate))


class _Form(NamedTuple):
    """What the resolutions of :class:`MultiResolutionStftLoss` share, as its arguments.

    ``weighted_rate`` is the sample rate in Hz for A-weighting of the bins; None: no weighting.
    """

    spectral_convergence_weight: float
    log_magnitude_weight: float
    floor: float
    flooring: Flooring
    silence_db: float | None
    convergence_limit: float | None
    convergence_over: NormOver
    padding: Padding
    weighted_rate: int | None


class _StftLoss(nn.Module):
    """One resolution of :class:`MultiResolutionStftLoss`. It has a first derivative only."""

    power_gain: Tensor | None

    def __init__(self, n_fft: int, hop_length: int, win_length: int, form: _Form) -> None:
        super().__init__()
        self.stft = ComplexSpectrogram(n_fft, hop_length, win_length, form.padding)
        self.form = form
        # Mean power in a bin of white noise at the silence level.
        silence = 0.0 if form.silence_db is None else 10.0 ** (form.silence_db / 10.0)
        self.silence_power = silence * float(self.stft.window.square().sum())
        power_gain = None
        if form.weighted_rate is not None:
            frequencies = torch.arange(n_fft // 2 + 1, dtype=torch.float64) * (form.weighted_rate / n_fft)
            power_gain = a_weighting_gain(frequencies).square().float()
            self.silence_power *= float(power_gain.mean())
        self.register_buffer("power_gain", power_gain, persistent=False)

    def forward(self, estimate: Tensor, target: Tensor, lengths: Tensor) -> Tensor:
        """Return the mean over items, from float32 ``estimate (B, T)`` and ``target (B, T)``, both zero past
        ``lengths (B,)``."""
        both = self.stft.padded(estimate), self.stft.padded(target.detach())
        value: Tensor = _Distance.apply(*both, self.stft.frames(lengths), self)
        return value

    def compare(self, estimate: Tensor, target: Tensor, frames: Tensor, derive: bool) -> tuple[Tensor, Tensor | None]:
        """Return the mean over items and, to ``derive`` it, its gradient at the estimate.

        Most of the time goes into reading and writing memory, so that one transform serves both signals, its tensors
        are overwritten, and nothing is kept for the backward pass but the gradient.

        Args:
            estimate: ``(B, T)`` with its padding.
            target: likewise.
            frames: ``(B,)`` frames of each item.
            derive: whether to compute the gradient.
        """
        form, items = self.form, len(estimate)
        spectra = self._spectra(torch.cat([estimate, target]))
        squares = torch.view_as_real(spectra).square()
        powers = squares[..., 0] + squares[..., 1]
        del squares
        if self.power_gain is not None:
            powers *= self.power_gain
        slope = self._set_floor(powers, items) if derive else self._set_floor(powers, 0)
        logs = powers.log() if form.log_magnitude_weight else None
        roots = powers.sqrt() if form.spectral_convergence_weight else None

        padding = past_end(frames, powers.shape[1])  # (B, N)
        bins = frames * powers.shape[2]
        per_item = torch.zeros_like(bins, dtype=powers.dtype)
        # of the gradient at the logarithm of the powers: half of it, since a spectrum without its negative
        # frequencies, as the inverse transform takes it, counts twice
        pull: Tensor | None = None
        if logs is not None:
            distance = logs[:items].sub_(logs[items:])
            per_frame = torch.linalg.vector_norm(distance, ord=1, dim=-1).masked_fill(padding, 0.0)
            # The logarithm of a magnitude is half that of its power.
            per_item = per_item + form.log_magnitude_weight * 0.5 * per_frame.sum(-1) / bins
            if derive:
                share = (form.log_magnitude_weight * 0.5 / items / bins)[:, None].expand_as(padding)
                pull = distance.sign_().mul_(share.masked_fill(padding, 0.0).unsqueeze(-1))
        if roots is not None:
            reference = self._reference(roots[:items], roots[items:], padding, bins)
            difference = roots[items:].neg_().add_(roots[:items])
            norm = self._frobenius(difference, padding)
            per_item = per_item + form.spectral_convergence_weight * norm / reference
            if derive:
                over = 1 if form.convergence_over == "batch" else items
                share = form.spectral_convergence_weight * 0.5 / over / (norm * reference)
                share = torch.where(norm > 0, share, 0.0)  # an exact estimate has no gradient
                share = share.view(-1, 1).expand_as(padding).masked_fill(padding, 0.0).unsqueeze(-1)
                along = difference.mul_(roots[:items])
                pull = along.mul_(share) if pull is None else pull.addcmul_(along, share)
        if pull is None:
            return per_item.mean(), None
        pull /= powers[:items]
        if slope is not None:
            pull *= slope
        if self.power_gain is not None:
            pull *= self.power_gain
        return per_item.mean(), self._back(spectra[:items].mul_(pull), estimate)

    def _spectra(self, padded: Tensor) -> Tensor:
        """Return the spectrogram of signals with their padding, transformed in place."""
        segments = self.stft.segments(padded)
        windowed = padded.new_zeros(*segments.shape[:2], self.stft.n_fft)
        torch.mul(segments, self.stft.window, out=windowed[..., : self.stft.win_length])
        return torch.fft.rfft(windowed)

    def _back(self, spectra: Tensor, padded: Tensor) -> Tensor:
        """Return the gradient of a signal with its padding, from half of that of its spectrogram, which is changed."""
        stft = self.stft
        spectra[:, :, 0] *= 2  # it has no negative counterpart, and neither has half the sample rate
        if stft.n_fft % 2 == 0:
            spectra[:, :, -1] *= 2
        segments = torch.fft.irfft(spectra, n=stft.n_fft, norm="forward")[..., : stft.win_length]
        segments = segments * stft.window
        gradient: Tensor = torch.ops.aten.unfold_backward(
            segments, list(padded.shape), padded.ndim - 1, stft.win_length, stft.hop_length
        )
        return gradient

    def _set_floor(self, powers: Tensor, items: int) -> Tensor | None:
        """Put the floor under powers, in place.

        Returns:
            The derivative of the new powers by the old ones, of the first ``items``; None: it is 1.
        """
        floor, slope = self.form.floor, None
        if self.form.flooring == "clamped":
            slope = powers[:items] >= floor
            powers.clamp_min_(floor)
        elif self.form.flooring == "magnitude":
            full = powers[:items] >= EMPTY
            powers.clamp_min_(EMPTY).sqrt_()
            slope = (1 + floor / powers[:items]) * full
            powers.add_(floor).square_()
        else:
            powers += floor
        return slope

    def _frobenius(self, magnitude: Tensor, padding: Tensor) -> Tensor:
        per_frame = torch.linalg.vector_norm(magnitude, dim=-1).masked_fill(padding, 0.0)
        return torch.linalg.vector_norm(per_frame, dim=-1 if self.form.convergence_over == "item" else None)

    def _reference(self, estimate: Tensor, target: Tensor, padding: Tensor, bins: Tensor) -> Tensor:
        """Return what the norm of the difference is divided by, a constant for the gradient."""
        reference = self._frobenius(target, padding)
        if self.form.convergence_limit is not None:
            reference = torch.maximum(reference, self._frobenius(estimate, padding) / self.form.convergence_limit)
        bins = bins if self.form.convergence_over == "item" else bins.sum()
        return torch.maximum(reference, (self.silence_power * bins).sqrt())


class _Distance(torch.autograd.Function):
    """:meth:`_StftLoss.compare`, whose gradient is computed with the value."""

    @staticmethod
    def forward(ctx: Any, estimate: Tensor, target: Tensor, frames: Tensor, loss: _StftLoss) -> Tensor:
        value, gradient = loss.compare(estimate, target, frames, derive=ctx.needs_input_grad[0])
        if gradient is not None:
            ctx.save_for_backward(gradient)
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradients[0] * gradient, None, None, None


class MultiResolutionStftLoss(nn.Module):
    r"""Spectral convergence and log-magnitude distance, per item, then averaged over several STFTs and items.

    Yamamoto et al. 2020, "Parallel WaveGAN", eq. 4-6. Spectral convergence is :math:`\|\,|S| - |E|\,\|_F / \|S\|_F`
    over the frames of one item (public versions take the norm over the batch, where the loudest item hides the others);
    the log-magnitude distance is the mean of :math:`|\ln |S| - \ln |E||`. Frames are centred on multiples of the hop up
    to the item's length; everything around the item counts as zero, so that its value is the same alone or padded in a
    batch, and any length is long enough.

    On silence the plain definition divides by zero. Here the denominator of spectral convergence is never less than the
    norm of white noise at ``silence_db``, nor than the estimate's norm over ``convergence_limit`` (a constant for the
    gradient): the term stays below ``1 + convergence_limit`` for any target, and is the plain definition for any target
    above the silence level whose estimate is not ``convergence_limit`` times as loud. ``floor`` is added to every
    power, which bounds the log-magnitude distance and its gradient. Public versions clamp instead; if it is added, bins
    that are still empty in the estimate, as at the start of bandwidth extension, keep a gradient.

    A-weighting multiplies every power by the squared gain of IEC 61672-1 before the floor is added. Spectral
    convergence then depends on how loud a bin is to the ear, and the silence level is that of A-weighted noise. The log
    distance of two bins with the same gain does not change, except for those that the gain takes below ``floor`` (-50
    dB at 20 Hz, nothing is left at 0 Hz). Public versions filter both signals before the STFT, with 101 taps fitted to
    a bilinear transform of the curve: at 16 kHz the same to 0.5 dB from 0.2 to 4 kHz, but 12 dB lower at 7 kHz and
    nothing at 8 kHz, where the curve is at -1.1 dB; what bandwidth extension adds would hardly count.

    The loss of auraloss 0.4.0, which the public code of EBEN uses with ``a_weighting_taps=101``, is
    ``flooring="clamped", silence_db=None, convergence_limit=None, convergence_over="batch", padding="reflect"``.

    Args:
        resolutions: ``(n_fft, hop_length, win_length)`` of each STFT, in samples, with a Hann window.
        spectral_convergence_weight: 0 leaves the term out.
        log_magnitude_weight: 0 leaves the term out.
        floor: power added to each bin, of a signal in [-1, 1] and a window that is not normalised; 1e-8 is about the
            quantisation noise of 16-bit audio.
        flooring: the floor is ``added``; or powers below it are ``clamped`` to it (public code), where they have no
            gradient; or it is added to each ``magnitude`` instead of the power (public code of HiFi-GAN+).
        silence_db: RMS level in dBFS of the white noise that a silent target is measured against; None: the plain
            definition, which divides by the norm of the floor on a silent target.
        convergence_limit: how many times louder than the target an estimate may be before the denominator follows it;
            None: no limit.
        convergence_over: the Frobenius norms are those of an ``item``, or of the whole ``batch`` (public code).
        padding: see :class:`bcfusion.losses.stft.ComplexSpectrogram`; ``reflect`` (public code) needs signals that are
            longer than half of the longest window.
        a_weighting: weight the bins by the ear's sensitivity.
        a_weighting_taps: in place of the exact gain of the bins, filter both signals with so many taps, an odd number
            (public code); None: exact.
        sample_rate: in Hz; only A-weighting needs it.

    Raises:
        ConfigError: there is no resolution, one of them is impossible, both weights are 0, another argument is
            out of range, or A-weighting has no sample rate.
    """

    prefilter: Tensor | None

    def __init__(
        self,
        resolutions: Sequence[Sequence[int]] = ((512, 50, 240), (1024, 120, 600), (2048, 240, 1200)),
        spectral_convergence_weight: float = 1.0,
        log_magnitude_weight: float = 1.0,
        floor: float = 1e-8,
        flooring: Flooring = "added",
        silence_db: float | None = -60.0,
        convergence_limit: float | None = 10.0,
        convergence_over: NormOver = "item",
        padding: Padding = "zeros",
        a_weighting: bool = False,
        a_weighting_taps: int | None = None,
        sample_rate: int | None = None,
    ) -> None:
        require(
            self,
            (bool(resolutions), "resolutions is empty: give at least one [n_fft, hop_length, win_length]"),
            *(
                [f"resolutions: {message}" for message in stft_sizes(*resolution)]
                if len(resolution) == 3
                else [f"resolutions: {list(resolution)} must be [n_fft, hop_length, win_length]"]
                for resolution in resolutions
            ),
            at_least(
                0,
                spectral_convergence_weight=spectral_convergence_weight,
                log_magnitude_weight=log_magnitude_weight,
            ),
            (
                spectral_convergence_weight or log_magnitude_weight,
                "spectral_convergence_weight and log_magnitude_weight must not both be 0: nothing would be compared",
            ),
            above(0, floor=floor),
            [] if convergence_limit is None else above(0, convergence_limit=convergence_limit),
            [] if silence_db is None else within(-300, 0, silence_db=silence_db),
            one_of(get_args(Flooring), flooring=flooring),
            one_of(get_args(NormOver), convergence_over=convergence_over),
            one_of(get_args(Padding), padding=padding),
            (
                a_weighting_taps is None or (a_weighting and a_weighting_taps > 0 and a_weighting_taps % 2 == 1),
                f"a_weighting_taps={a_weighting_taps} must be an odd number, with a_weighting=true; or null",
            ),
            (not a_weighting or (sample_rate or 0) > 0, f"a_weighting needs a sample_rate in Hz, got {sample_rate}"),
        )
        super().__init__()
        prefilter = None
        if a_weighting and a_weighting_taps is not None:
            assert sample_rate is not None
            prefilter = filter_tensor(a_weighting_filter(a_weighting_taps, sample_rate))
        self.register_buffer("prefilter", prefilter, persistent=False)
        form = _Form(
            spectral_convergence_weight,
            log_magnitude_weight,
            floor,
            flooring,
            silence_db,
            convergence_limit,
            convergence_over,
            padding,
            weighted_rate=sample_rate if a_weighting and prefilter is None else None,
        )
        self.resolutions = nn.ModuleList(
            _StftLoss(n_fft, hop_length, win_length, form) for n_fft, hop_length, win_length in resolutions
        )

    def forward(self, estimate: Tensor, target: Tensor, lengths: Tensor) -> Tensor:
        """Return a float32 scalar from ``estimate (B, 1, T)``, ``target (B, 1, T)`` and ``lengths (B,)``.

        Raises:
            ValueError: other shapes.
        """
        with torch.autocast(estimate.device.type, enabled=False):  # magnitudes near the floor need float32
            estimate, target, _ = valid_samples(estimate, target, lengths)
            if self.prefilter is not None:
                taps = self.prefilter.view(1, 1, -1)
                estimate, target = (
                    F.conv1d(signal.unsqueeze(1), taps, padding=taps.shape[-1] // 2).squeeze(1)
                    for signal in (estimate, target)
                )
                # the filter goes on after the end of an item, which is where its loss ends
                estimate, target, _ = valid_samples(estimate.unsqueeze(1), target.unsqueeze(1), lengths)
            per_resolution = [resolution(estimate, target, lengths) for resolution in self.resolutions]
            return torch.stack(per_resolution).mean()
