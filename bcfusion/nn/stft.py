"""Short-time Fourier transform and its inverse as real-valued convolutions, which stream and export.

Frame j holds the last ``win_length`` samples at the time when hop j is complete, with zeros before the file: samples
``(j + 1) hop_length - win_length`` to ``(j + 1) hop_length - 1``. A sample is complete with the last frame that holds
it: analysis and synthesis together are late by ``win_length - hop_length`` samples, and by no more.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from bcfusion.errors import AudioError
from bcfusion.nn.cpu import matmul_is_faster
from bcfusion.nn.precision import filter_tensor, full_precision
from bcfusion.nn.streaming import StreamingError, StreamingModule
from bcfusion.requirements import one_of, require

Window = Literal["hann", "sqrt_hann", "sine"]

_FEW = 8  # frames of a step that is exported


def window_samples(window: Window, win_length: int) -> np.ndarray:
    """Return the samples ``(win_length,)`` of a window, in float64.

    ``hann`` (periodic), ``sqrt_hann`` (its root), or ``sine``: sin(pi (n + 0.5) / win_length).

    Raises:
        ConfigError: another window.
    """
    require("STFT", one_of(get_args(Window), window=window))
    position = (np.arange(win_length) + (0.5 if window == "sine" else 0.0)) / win_length  # within the window, 0 to 1
    root = np.sin(np.pi * position)
    return np.asarray(root**2 if window == "hann" else root)


def stft_sizes(n_fft: int, hop_length: int, win_length: int) -> list[str]:
    """Return a message, for ``require``, if the sizes of an STFT do not fit."""
    fits = 0 < hop_length <= win_length <= n_fft
    sizes = f"n_fft={n_fft}, hop_length={hop_length}, win_length={win_length}"
    return [] if fits else [f"{sizes} must be 0 < hop_length <= win_length <= n_fft"]


def _basis(n_fft: int, win_length: int) -> tuple[np.ndarray, np.ndarray]:
    """Return cos and -sin ``(F, win_length)`` of the transform; angles are reduced first, so that they are exact."""
    steps = np.outer(np.arange(n_fft // 2 + 1), np.arange(win_length)) % n_fft
    angles = 2 * np.pi / n_fft * steps
    return np.cos(angles), -np.sin(angles)


class _Steps(NamedTuple):
    """A real transform of ``n_fft = rows x columns`` samples in two steps (Cooley & Tukey 1965), as three tensors.

    A step of a stream that is exported transforms a frame or two: the matrix of the whole transform, megabytes, is then
    read for one product. These are a fifteenth of it for 512 samples.

    Attributes:
        first: ``(2 residues, rows)``, cosines and negative sines of the transforms of the columns.
        second: ``(residues, 2 columns, 2 columns)``, twiddle factors and the transforms of the rows.
        places: ``(2 bins,)``, where each bin's real and imaginary part lie in ``residues x 2 columns`` results.
    """

    first: np.ndarray
    second: np.ndarray
    places: np.ndarray


def _steps(n_fft: int) -> _Steps | None:
    """Return the two steps of a transform with the fewest products, or None of a size that is odd or has no factor."""
    sizes = [rows for rows in range(4, n_fft // 2 + 1, 2) if n_fft % rows == 0]
    if not sizes:
        return None
    rows = min(sizes, key=lambda rows: (rows // 2 + 1) * n_fft // rows * (2 * rows + 4 * n_fft // rows))
    columns, residues = n_fft // rows, rows // 2 + 1
    angles = 2 * np.pi / rows * (np.outer(np.arange(residues), np.arange(rows)) % rows)
    first = np.stack([np.cos(angles), -np.sin(angles)], axis=1).reshape(2 * residues, rows)
    bins = np.arange(residues)[:, None] + rows * np.arange(columns)  # (residues, columns)
    angles = 2 * np.pi / n_fft * (np.arange(columns)[:, None] * bins[:, None] % n_fft)  # (residues, column, bin)
    mirrored = np.where(bins > n_fft // 2, -1.0, 1.0)[:, None]  # stands for the bin that it is the conjugate of
    cosine, sine = np.cos(angles), np.sin(angles)
    second = np.concatenate(
        [
            np.concatenate([cosine, -sine * mirrored], axis=2),
            np.concatenate([sine, cosine * mirrored], axis=2),
        ],
        axis=1,
    )
    places = np.empty((2, n_fft // 2 + 1), dtype=np.int64)
    for (residue, column), number in np.ndenumerate(bins):
        place = residue * 2 * columns + column
        places[:, min(number, n_fft - number)] = place, place + columns
    return _Steps(first, second, places.ravel())


def _constant(values: np.ndarray) -> Tensor:
    """Return values as a constant of an exported step, which computes in float32 on the CPU."""
    return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))


class Stft(StreamingModule):
    """Analysis: a waveform to the real and imaginary parts of its spectrum.

    The values are those of ``torch.fft.rfft`` of each windowed frame, padded with zeros at its end to ``n_fft``.

    Args:
        n_fft: points of the transform, F = n_fft // 2 + 1 bins.
        hop_length: samples from one frame to the next; a streaming chunk is a multiple of it.
        win_length: samples under the window.
        window: see :func:`window_samples`.
        channels: of the waveform; each is transformed separately.

    Attributes:
        bins: F.
        centred: index of the frame that is centred on sample 0, if ``win_length`` is a multiple of ``2 hop_length``.

    Raises:
        ConfigError: another window, or not 0 < hop_length <= win_length <= n_fft.
    """

    kernel: Tensor

    def __init__(
        self, n_fft: int, hop_length: int, win_length: int, window: Window = "hann", channels: int = 1
    ) -> None:
        require(self, stft_sizes(n_fft, hop_length, win_length))
        super().__init__()
        self.n_fft, self.hop_length, self.win_length = n_fft, hop_length, win_length
        self.window, self.channels = window, channels
        self.bins = n_fft // 2 + 1
        self.centred = win_length // (2 * hop_length) - 1
        self.context = win_length - hop_length
        kernel = np.concatenate(_basis(n_fft, win_length)) * window_samples(window, win_length)
        self.register_buffer("kernel", filter_tensor(kernel[:, None]), persistent=False)

    def initial_state(self, batch_size: int, like: Tensor) -> dict[str, Tensor]:
        """Return ``past (B, channels, win_length - hop_length)``, the last samples."""
        return {"past": like.new_zeros(batch_size, self.channels, self.context)} if self.context else {}

    def last_input(self, frame: int) -> int:
        """Return the last sample that ``frame`` depends on."""
        return (frame + 1) * self.hop_length - 1

    def forward(self, waveform: Tensor) -> tuple[Tensor, Tensor]:
        """Return real and imaginary parts, each ``(B, channels, F, N)``, of ``(B, channels, T)``; N = T / hop_length.

        Raises:
            AudioError: another number of channels.
            StreamingError: T is not a multiple of ``hop_length``.
        """
        if waveform.ndim != 3 or waveform.shape[1] != self.channels:
            raise AudioError(f"Stft takes (batch, {self.channels}, time), not {tuple(waveform.shape)}")
        if waveform.shape[-1] % self.hop_length:
            raise StreamingError(f"{waveform.shape[-1]} samples are not whole hops of {self.hop_length}")
        x = self.prepend_past(waveform, self.context)
        with full_precision(x):
            x = x.flatten(0, 1).to(self.kernel.dtype)
            count = 1 + (x.shape[-1] - self.win_length) // self.hop_length if self.is_streaming else 0
            # in onnxruntime a product of a few frames and a matrix takes a quarter of the convolution's time
            if 0 < count <= _FEW and torch.compiler.is_exporting():
                starts = range(0, count * self.hop_length, self.hop_length)
                frames = torch.stack([x[:, start : start + self.win_length] for start in starts], dim=1)
                steps = _steps(self.n_fft)
                spectrum = F.linear(frames, self.kernel[:, 0]) if steps is None else self._transformed(frames, steps)
                spectrum = spectrum.transpose(1, 2)
            elif self.is_streaming and matmul_is_faster(x, self.kernel):
                frames = x.unfold(-1, self.win_length, self.hop_length)
                spectrum = F.linear(frames, self.kernel[:, 0]).transpose(1, 2)
            else:
                spectrum = F.conv1d(x.unsqueeze(1), self.kernel, stride=self.hop_length)
        spectrum = spectrum.unflatten(0, (-1, self.channels))
        return spectrum[:, :, : self.bins], spectrum[:, :, self.bins :]

    def _transformed(self, frames: Tensor, steps: _Steps) -> Tensor:
        """Return the spectra ``(B, N, 2 F)`` of frames ``(B, N, win_length)``, by the steps of the transform."""
        items, count, _ = frames.shape
        columns = self.n_fft // steps.first.shape[1]
        rows = -(-self.win_length // columns)
        windowed = frames * _constant(window_samples(self.window, self.win_length))
        if rows * columns > self.win_length:
            windowed = F.pad(windowed, (0, rows * columns - self.win_length))
        x = _constant(steps.first[:, :rows]) @ windowed.reshape(items * count, rows, columns)  # (B N, 2 residues, ...)
        x = x.reshape(items * count, len(steps.second), -1).transpose(0, 1) @ _constant(steps.second)
        return x.transpose(0, 1).flatten(1).index_select(1, torch.from_numpy(steps.places)).reshape(items, count, -1)

    def extra_repr(self) -> str:
        return f"n_fft={self.n_fft}, hop_length={self.hop_length}, win_length={self.win_length}, window={self.window}"


class InverseStft(StreamingModule):
    """Synthesis by overlap-add: the inverse of :class:`Stft` with the same sizes, late by ``win_length - hop_length``.

    A frame is transformed back, windowed again, and divided by the sum of the squared windows that overlap there, which
    is the least-squares inverse (Griffin & Lim 1984, eq. 6) of any spectrum, wherever all frames are present.

    Args:
        n_fft: as in :class:`Stft`.
        hop_length: likewise.
        win_length: likewise.
        window: likewise.

    Attributes:
        lookahead: samples by which the waveform is late.

    Raises:
        ConfigError: as in :class:`Stft`, or windows that leave samples uncovered.
    """

    kernel: Tensor

    def __init__(self, n_fft: int, hop_length: int, win_length: int, window: Window = "hann") -> None:
        require(self, stft_sizes(n_fft, hop_length, win_length))
        super().__init__()
        self.n_fft, self.hop_length, self.win_length, self.window = n_fft, hop_length, win_length, window
        self.bins = n_fft // 2 + 1
        self.lookahead = win_length - hop_length
        weight = self._weight()
        # a bin stands for its mirror image too, except the first and the middle one
        twice = np.full((self.bins, 1), 2.0)
        twice[0] = 1.0
        if n_fft % 2 == 0:
            twice[-1] = 1.0
        kernel = np.concatenate([part * twice for part in _basis(n_fft, win_length)]) * weight
        self.register_buffer("kernel", filter_tensor(kernel[:, None]), persistent=False)

    def initial_state(self, batch_size: int, like: Tensor) -> dict[str, Tensor]:
        """Return ``overlap (B, 1, win_length - hop_length)``, what the last frames add to samples that are not output
        yet."""
        return {"overlap": like.new_zeros(batch_size, 1, self.lookahead)} if self.lookahead else {}

    def forward(self, real: Tensor, imag: Tensor) -> Tensor:
        """Return the waveform ``(B, 1, N hop_length)`` of real and imaginary parts ``(B, F, N)``.

        Raises:
            AudioError: another number of bins.
        """
        if real.ndim != 3 or real.shape[1] != self.bins or imag.shape != real.shape:
            raise AudioError(f"InverseStft takes two (batch, {self.bins} bins, frames), not {tuple(real.shape)}")
        self.require_frames(real.shape[-1])
        with full_precision(real):
            spectrum = torch.cat([real, imag], dim=1).to(self.kernel.dtype)
            few = self.is_streaming and torch.compiler.is_exporting() and spectrum.shape[-1] <= _FEW
            steps = _steps(self.n_fft) if few else None
            if steps is not None:
                waveform = self._transformed(spectrum.transpose(1, 2), steps).unsqueeze(1)
            elif self.is_streaming and spectrum.shape[-1] == 1:
                waveform = F.linear(spectrum.transpose(1, 2), self.kernel[:, 0].T)
            elif self.is_streaming and matmul_is_faster(spectrum, self.kernel):
                frames = F.linear(spectrum.transpose(1, 2), self.kernel[:, 0].T).transpose(1, 2)  # (B, win_length, N)
                length = (frames.shape[-1] - 1) * self.hop_length + self.win_length
                waveform = F.fold(frames, (1, length), (1, self.win_length), stride=(1, self.hop_length))[:, :, 0]
            else:
                waveform = F.conv_transpose1d(spectrum, self.kernel, stride=self.hop_length)
        return self.add_overlap(waveform, self.hop_length * real.shape[-1])

    def _transformed(self, spectra: Tensor, steps: _Steps) -> Tensor:
        """Return the frames of spectra ``(B, N, 2 F)``, windowed, added up: ``(B, (N - 1) hop_length + win_length)``.

        The steps of the analysis are transposed and taken backwards; of a bin that they compute twice one is left out.
        """
        items, count, values = spectra.shape
        first, second, places = steps
        columns = self.n_fft // first.shape[1]
        rows = -(-self.win_length // columns)
        twice = np.full(values, 2.0)
        twice[[0, self.bins]] = 1.0
        if self.n_fft % 2 == 0:
            twice[[self.bins - 1, -1]] = 1.0
        sources, scale = np.zeros(second.shape[0] * second.shape[2], dtype=np.int64), np.zeros(second[:, 0].size)
        sources[places], scale[places] = np.arange(values), twice
        back = second.transpose(0, 2, 1) * scale.reshape(len(second), -1, 1)
        x = spectra.flatten(0, 1).index_select(1, torch.from_numpy(sources))
        x = x.reshape(items * count, len(second), -1).transpose(0, 1) @ _constant(back)
        x = _constant(first[:, :rows].T) @ x.transpose(0, 1).reshape(items * count, 2 * len(second), columns)
        frames = x.reshape(items, count, -1)[..., : self.win_length] * _constant(self._weight())
        if count == 1:
            return frames[:, 0]
        shifted = [
            F.pad(frames[:, number], (number * self.hop_length, (count - 1 - number) * self.hop_length))
            for number in range(count)
        ]
        return sum(shifted[1:], start=shifted[0])

    def _weight(self) -> np.ndarray:
        """Return what the samples of a frame are multiplied by: the window over the sum of the squared windows."""
        samples = window_samples(self.window, self.win_length)
        coverage = np.zeros(self.hop_length)
        for start in range(0, self.win_length, self.hop_length):
            part = samples[start : start + self.hop_length] ** 2
            coverage[: len(part)] += part
        whole = coverage.min() >= 1e-8
        require(
            self, (whole, f"a {self.window} window of {self.win_length} leaves gaps at hop_length={self.hop_length}")
        )
        return np.asarray(samples / np.resize(coverage, self.win_length) / self.n_fft)

    def extra_repr(self) -> str:
        return f"n_fft={self.n_fft}, hop_length={self.hop_length}, win_length={self.win_length}, window={self.window}"
