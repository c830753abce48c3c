"""Correlation of short-time band envelopes, the quantity of which STOI is a mean."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bcfusion.losses.stft import ComplexSpectrogram, past_end, power
from bcfusion.losses.valid import valid_samples
from bcfusion.requirements import above, at_least, require

# Power added to a band's, as a share of the target's mean there: an estimate that is empty in a band has a correlation
# of 0 and a bounded gradient. The second is for silence, of a signal in [-1, 1] and a window that is not normalised.
FLOOR = 1e-4
SILENCE = 1e-8


class EnvelopeCorrelationLoss(nn.Module):
    r"""One minus the correlation of band envelopes within segments, per item, then over items: 0 to 2.

    The envelope of a band is the root of its power in each frame. Within a segment of ``segment_frames`` frames the
    correlation coefficient of the envelopes of target and estimate is computed in each band, and averaged over bands
    and over all segments of which at least half is speech: the intermediate measure of STOI (Taal et al., "An Algorithm
    for Intelligibility Prediction of Time-Frequency Weighted Noisy Speech", 2011, eq. 5) without its clipping, which
    has no gradient, at the sample rate of the signals and with segments that overlap less. A third of an octave per
    band from 150 Hz, frames of 25.6 ms and segments of 384 ms are STOI's; its highest band ends at 4.3 kHz.

    Each band and segment counts for its shape alone, so the loss says nothing about level and spectral tilt: it needs a
    companion that does, such as ``log_bands`` or ``mr_stft``. An estimate below the target counts as long as it is at
    most 40 dB below the target's mean in the band.

    Args:
        sample_rate: in Hz.
        n_fft: points of the STFT.
        hop_length: samples between frames.
        win_length: samples of the Hann window.
        segment_frames: frames of a segment.
        segment_hop: frames from one segment to the next.
        f_min: centre of the lowest band, in Hz.
        bands_per_octave: whole number or fraction.
        f_max: upper edge of the highest band at the most, in Hz; None: half the sample rate.
        speech_range: dB below the target's loudest frame down to which a frame is speech; STOI's is 40.

    Raises:
        ConfigError: an impossible STFT, a band that holds no bin, or fewer than two frames.
    """

    bands: Tensor

    def __init__(
        self,
        sample_rate: int,
        n_fft: int = 1024,
        hop_length: int = 205,
        win_length: int = 410,
        segment_frames: int = 30,
        segment_hop: int = 5,
        f_min: float = 150.0,
        bands_per_octave: float = 3.0,
        f_max: float | None = None,
        speech_range: float = 40.0,
    ) -> None:
        require(
            self,
            at_least(2, segment_frames=segment_frames),
            at_least(1, segment_hop=segment_hop),
            above(0, f_min=f_min, bands_per_octave=bands_per_octave, speech_range=speech_range),
        )
        super().__init__()
        self.stft = ComplexSpectrogram(n_fft, hop_length, win_length)
        self.segment_frames, self.segment_hop, self.speech_range = segment_frames, segment_hop, speech_range
        highest = sample_rate / 2 if f_max is None else min(f_max, sample_rate / 2)
        half = 2.0 ** (0.5 / bands_per_octave)
        centres: list[float] = []
        while (centre := f_min * 2.0 ** (len(centres) / bands_per_octave)) * half <= highest:
            centres.append(centre)
        at = torch.linspace(0.0, sample_rate / 2, n_fft // 2 + 1)
        bands = torch.stack([(at >= centre / half) & (at < centre * half) for centre in centres], 1) if centres else at
        fits = bool(centres) and bool(bands.any(0).all())
        require(
            self,
            (
                fits,
                f"f_min={f_min}, bands_per_octave={bands_per_octave}, f_max={highest:g}: no band, or one without a bin "
                f"of n_fft={n_fft}: lower bands_per_octave, or raise n_fft or f_min",
            ),
        )
        self.register_buffer("bands", bands.float(), persistent=False)  # (F, K)

    def forward(self, estimate: Tensor, target: Tensor, lengths: Tensor) -> Tensor:
        """Return a float32 scalar from ``estimate (B, 1, T)``, ``target (B, 1, T)`` and ``lengths (B,)``.

        An item without a segment of speech, such as silence or a clip shorter than a segment, has loss 0.

        Raises:
            ValueError: other shapes.
        """
        with torch.autocast(estimate.device.type, enabled=False):
            estimate, target, _ = valid_samples(estimate, target, lengths)
            ours, wanted = self._powers(estimate), self._powers(target)  # (B, N, K)
            past = past_end(self.stft.frames(lengths), wanted.shape[1])
            energy = wanted.sum(-1).masked_fill(past, 0.0)
            top = energy.amax(1, keepdim=True)
            loudness = 10.0 ** (-self.speech_range / 10.0)
            pause = (energy <= loudness * top) | (top <= 1e3 * SILENCE * wanted.shape[2])  # NaN is no pause
            speech = (~pause).float()[..., None]
            if speech.shape[1] < self.segment_frames:
                return (ours.sum() + wanted.sum()) * 0.0
            spoken, beyond = (self._segments(frames)[:, :, 0] for frames in (speech, past[..., None]))
            counted = ((spoken.mean(-1) >= 0.5) & ~beyond.any(-1)).float()  # (B, segments)
            mean = (wanted * speech).sum(1, keepdim=True) / speech.sum(1, keepdim=True).clamp_min(1.0)
            floor = FLOOR * mean + SILENCE  # (B, 1, K)
            one, other = (self._normalised(self._segments((signal + floor).sqrt()), floor) for signal in (ours, wanted))
            correlation = (one * other).sum(-1).mean(-1)
            return ((1.0 - correlation) * counted).sum(1).div(counted.sum(1).clamp_min(1.0)).mean()

    def _powers(self, signal: Tensor) -> Tensor:
        """Return the power of each band ``(B, N, K)`` of ``(B, T)``."""
        return power(self.stft(signal)) @ self.bands

    def _segments(self, frames: Tensor) -> Tensor:
        """Return ``(B, segments, K, segment_frames)`` of ``(B, N, K)``."""
        return frames.unfold(1, self.segment_frames, self.segment_hop)

    @staticmethod
    def _normalised(segments: Tensor, floor: Tensor) -> Tensor:
        """Subtract the mean over the frames of each segment ``(B, segments, K, frames)`` and divide by the norm."""
        centred = segments - segments.mean(-1, keepdim=True)
        return centred / (centred.square().sum(-1, keepdim=True) + floor[..., None]).sqrt()
