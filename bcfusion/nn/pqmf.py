"""Pseudo quadrature mirror filters: a waveform to M bands at 1/M of its rate, and back.

Cosine modulation of one low-pass prototype, a Kaiser window of a fixed shape; its one free parameter, the prototype's
cutoff, is searched for. Lin & Vaidyanathan, "A Kaiser window approach for the design of prototype filters of cosine
modulated filterbanks", IEEE Signal Processing Letters 5(6), 1998.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from bcfusion.errors import AudioError
from bcfusion.nn.precision import filter_tensor, full_precision
from bcfusion.nn.streaming import StreamingError, StreamingModule
from bcfusion.requirements import above, at_least, require

_GRID = 4001  # candidates for the cutoff: ten times as many change the reconstruction by less than 2 dB


class PQMF(StreamingModule):
    """Near-perfect reconstruction: ``synthesis(analysis(x))`` is x without delay, with an error about 50 dB below it.

    The synthesis filters are the analysis filters reversed in time, so that the bank as a whole has zero phase. White
    noise is reconstructed with a signal-to-noise ratio of 49.4 dB (4 bands, 32 taps), 63.8 dB (4, 64) and 50.6 dB (8,
    64). As a rule a bank needs ``taps = 8 * bands``; with half of that it reconstructs to no more than 20 dB.

    Filters pass their band with a gain of one: a tone of amplitude a is a tone of amplitude a in its band, whatever the
    number of bands. In every second band (1, 3, ...) the frequencies run from high to low.

    Within ``edge`` samples of either end the reconstruction needs frames that lie outside the file: it is incomplete
    there unless the caller pads the waveform by as many zeros and cuts them off afterwards.

    The causal bank has the same filters and streams: frame j of the analysis sees samples up to ``(j + 1) M - 1``, and
    the synthesis outputs the sum of the frames so far. ``synthesis(analysis(x))`` is then x late by ``lookahead``
    samples, as exact as without causality, and complete from the first sample on. Streams go through :meth:`analysis`
    and through :meth:`synthesis` once per chunk.

    The filters are buffers, not parameters, and not saved: they follow from the arguments, which a checkpoint's
    configuration holds, and no checkpoint of a network should depend on whether there is a filter bank inside.

    Args:
        bands: M, at least 2.
        taps: length of the prototype, thus of each band's filter; more than ``2 * bands``.
        beta: shape of the Kaiser window; 9 attenuates bands that are not neighbours by about 90 dB.
        cutoff: of the prototype (-6 dB) as a fraction of the Nyquist frequency; ``null`` searches for it, see
            :func:`search_cutoff`.
        causal: filters reach into the past only, and the bank is late; it can stream.
        channels: of the waveforms to analyse, each split separately (sensors).
        gain: of the analysis filters in their band, and of the synthesis filters; None: that of the modulated prototype
            times 2 (analysis) and ``2 * bands`` (synthesis), which is one but for the ripple, as in public code.

    Attributes:
        cutoff: given or found.
        edge: samples, a multiple of ``bands``; 0 for the causal bank.
        lookahead: samples by which the bank as a whole is late: ``taps - bands`` for the causal one, otherwise 0.
        analysis_filters: ``(bands, 1, taps)``. torch's convolution correlates, so that they hold the impulse responses
            of the synthesis, up to a factor of ``bands``.
        synthesis_filters: likewise.

    Raises:
        ConfigError: fewer than two bands, too few taps, a negative beta, a cutoff outside (0, 1), no channel,
            or a gain that is not above 0.
    """

    analysis_filters: Tensor
    synthesis_filters: Tensor

    def __init__(
        self,
        bands: int = 4,
        taps: int = 32,
        beta: float = 9.0,
        cutoff: float | None = None,
        causal: bool = False,
        channels: int = 1,
        gain: float | None = 1.0,
    ) -> None:
        require(
            self,
            at_least(2, bands=bands),
            at_least(2 * bands + 1, taps=taps),
            at_least(0, beta=beta),
            at_least(1, channels=channels),
            [] if gain is None else above(0, gain=gain),
            (cutoff is None or 0 < cutoff < 1, f"cutoff={cutoff} must lie between 0 and 1, the Nyquist frequency"),
        )
        super().__init__()
        self.bands, self.taps, self.beta = bands, taps, beta
        self.cutoff = search_cutoff(bands, taps, beta) if cutoff is None else cutoff
        self.causal, self.channels = causal, channels
        self.context = taps - bands  # samples of a filter that lie outside its frame
        self.right = 0 if causal else self.context // 2
        self.left = self.context - self.right
        self.head = 0 if causal else self.left  # samples that the synthesis drops at its head
        self.edge = bands * math.ceil(self.head / bands)
        self.lookahead = self.left - self.head
        filters = _filters(bands, taps, beta, self.cutoff, gain)
        self.register_buffer("analysis_filters", filter_tensor(filters[:, None]), persistent=False)
        self.register_buffer("synthesis_filters", filter_tensor(bands * filters[:, None]), persistent=False)

    def initial_state(self, batch_size: int, like: Tensor) -> dict[str, Tensor]:
        """Return the state of analysis and synthesis.

        Of the analysis ``past (B, channels, taps - M)``, the last samples; of the synthesis ``overlap (B, 1, taps -
        M)``, what the last frames add to samples that are not output yet.
        """
        return {
            "past": like.new_zeros(batch_size, self.channels, self.context),
            "overlap": like.new_zeros(batch_size, 1, self.context),
        }

    def analysis(self, waveform: Tensor, bands: slice = slice(None)) -> Tensor:
        """Split waveforms into bands.

        Args:
            waveform: ``(B, channels, T)`` of any T; when streaming, T is a multiple of M.
            bands: those to compute, lowest first: ``slice(2)`` the lowest two, ``slice(-3, None)`` the highest three.

        Returns:
            ``(B, channels * number of bands, ceil(T / M))``, the bands of the first channel first. Frame j is centred
            on samples j M to (j + 1) M - 1, or ends with them in the causal bank; zeros are assumed around the file.

        Raises:
            AudioError: another number of channels.
            StreamingError: a chunk that is not a multiple of M.
        """
        if waveform.ndim != 3 or waveform.shape[1] != self.channels:
            raise AudioError(f"PQMF analyses (batch, {self.channels}, time), not {tuple(waveform.shape)}")
        if self.is_streaming and waveform.shape[-1] % self.bands:
            raise StreamingError(f"a chunk of {waveform.shape[-1]} samples is not a multiple of the {self.bands} bands")
        filters = self.analysis_filters[bands]
        with full_precision(waveform):
            return self._analyse(waveform.to(filters.dtype), filters)

    def synthesis(self, bands: Tensor) -> Tensor:
        """Join all bands, ``(B, M, frames)``, to a waveform ``(B, 1, frames * M)``; when streaming, in chunks of any
        length.

        Raises:
            AudioError: another number of bands.
        """
        if bands.ndim != 3 or bands.shape[1] != self.bands:
            raise AudioError(f"PQMF joins (batch, {self.bands} bands, frames), not {tuple(bands.shape)}")
        self.require_frames(bands.shape[-1])
        with full_precision(bands):
            return self._synthesise(bands.to(self.synthesis_filters.dtype), self.synthesis_filters)

    def _analyse(self, waveform: Tensor, filters: Tensor) -> Tensor:
        if self.is_streaming:
            x, left, right = self.prepend_past(waveform, self.context), 0, 0
        else:
            x, left, right = waveform, self.left, self.right + -waveform.shape[-1] % self.bands
        x = x.flatten(0, 1).unsqueeze(1)  # a channel is an item: each is filtered separately
        if left == right:
            split = F.conv1d(x, filters, stride=self.bands, padding=left)  # pads without a copy
        else:
            split = F.conv1d(F.pad(x, (left, right)), filters, stride=self.bands)
        return split.unflatten(0, (-1, self.channels)).flatten(1, 2)

    def _synthesise(self, bands: Tensor, filters: Tensor) -> Tensor:
        if 2 * self.head == self.context:
            return F.conv_transpose1d(bands, filters, stride=self.bands, padding=self.head)  # cuts without a copy
        waveform = F.conv_transpose1d(bands, filters, stride=self.bands)
        return self.add_overlap(waveform[..., self.head :], self.bands * bands.shape[-1])

    def extra_repr(self) -> str:
        sizes = f"bands={self.bands}, taps={self.taps}, beta={self.beta}, cutoff={self.cutoff:.6f}"
        return f"{sizes}, causal={self.causal}, channels={self.channels}"


@lru_cache
def search_cutoff(bands: int, taps: int, beta: float) -> float:
    """Return the cutoff (-6 dB) whose prototype overlaps least with itself, as a fraction of the Nyquist frequency.

    The bank's overall response is flat if the prototype's autocorrelation is zero at the multiples of ``2 * bands``
    samples. Of 4001 cutoffs from ``1 / (2 bands)``, half a band's width above zero, to ``1 / bands``, the one is chosen
    whose largest such value is smallest (the objective of the paper): the same one on every machine.

    Args:
        bands: as in :class:`PQMF`.
        taps: likewise.
        beta: likewise.
    """
    cutoffs = np.linspace(1 / (2 * bands), 1 / bands, _GRID)
    prototypes = _prototype(taps, beta, cutoffs[:, None])  # (4001, taps)
    energy = (prototypes**2).sum(axis=1)
    overlap = np.zeros(_GRID)
    for lag in range(2 * bands, taps, 2 * bands):
        correlation = np.abs((prototypes[:, lag:] * prototypes[:, :-lag]).sum(axis=1))
        overlap = np.maximum(overlap, correlation / energy)
    return float(cutoffs[overlap.argmin()])


def _prototype(taps: int, beta: float, cutoff: float | np.ndarray) -> np.ndarray:
    """Return the ideal low-pass filter under a Kaiser window, ``(..., taps)``."""
    t = np.arange(taps) - (taps - 1) / 2
    return np.asarray(cutoff * np.sinc(cutoff * t) * np.kaiser(taps, beta))


def _filters(bands: int, taps: int, beta: float, cutoff: float, gain: float | None) -> np.ndarray:
    """Return the filters ``(bands, taps)`` of the analysis, which pass their band with this gain, None: nearly one."""
    k = np.arange(bands)[:, None]
    t = np.arange(taps) - (taps - 1) / 2
    phase = (-1.0) ** k * math.pi / 4  # cancels the aliasing of neighbouring bands
    filters = 2 * _prototype(taps, beta, cutoff) * np.cos((2 * k + 1) * math.pi / (2 * bands) * t - phase)
    if gain is None:
        return np.asarray(filters)
    # white noise keeps its level if the energies of analysis and synthesis filters multiply to bands^2; an analysis
    # filter has a gain of one in its band if the energy of all of them is one: hence 1 and bands^2
    return np.asarray(gain * filters / math.sqrt((filters**2).sum()))
