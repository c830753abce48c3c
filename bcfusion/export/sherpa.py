"""A network for the stock speech denoiser of sherpa-onnx, which runs it in C++, on phones and in browsers.

sherpa-onnx (Apache-2.0) transforms a mono signal frame by frame, hands each spectrum and three caches to the graph of a
``gtcrn`` model, and transforms the graph's spectrum back. Such a graph is made here in two ways:

- ``spectrum``: a network on a spectrogram whose frames are sherpa-onnx' own (roots of Hann windows, half overlapped)
  takes them as they are;
- ``waveform``: every other causal network takes frames of ``frame`` samples that do not overlap, under a rectangular
  window. The graph transforms a frame back, takes the network's step and transforms its output. The online denoiser
  leaves out the first frame of the output.

The network's state lies flat in the first cache. The two others hold one number each that nobody reads.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from bcfusion.contracts import Generator
from bcfusion.errors import ConfigError, ExportError
from bcfusion.export.describe import describe
from bcfusion.export.metadata import NEXT, StateTensor
from bcfusion.export.onnx_export import OPSET, convert, stamp, traced
from bcfusion.export.step import StreamingStep, ready
from bcfusion.inference.blend import Blend
from bcfusion.nn.network import LEAST_FRAME, estimate_of, least_frame_of
from bcfusion.nn.spectral import SpectralNetwork
from bcfusion.nn.streaming import StreamingModule
from bcfusion.run.card import Card

if TYPE_CHECKING:
    from onnx import ModelProto

__all__ = ["SherpaStep", "default_frame", "export_sherpa", "takes_spectra"]

SHORTEST_FRAME = 0.005  #: s; shorter frames by default would spend their time in transforms
INPUTS = ("spectrum", "conv_cache", "tra_cache", "inter_cache")  #: inputs of the graph; sherpa-onnx goes by their order


def takes_spectra(generator: nn.Module) -> bool:
    """Return whether the frames of a network's own STFT are those of sherpa-onnx: ``sqrt_hann``, half overlapped."""
    network = generator.generator if isinstance(generator, Blend) else generator
    if not isinstance(network, SpectralNetwork) or not network.maps_spectra or network.future:
        return False  # with additional look-ahead it takes every sensor twice, which only waveforms give it
    stft = network.stft
    return stft.window == "sqrt_hann" and stft.n_fft == stft.win_length == 2 * stft.hop_length


def default_frame(generator: nn.Module) -> int:
    """Return the shortest frame that is an even multiple of the network's hop, in samples.

    It lasts at least 5 ms, or what a network declares whose hops are cheaper together (``least_frame``).
    """
    spec = cast("Generator", generator)
    step = spec.hop * (1 + spec.hop % 2)
    declared = least_frame_of(generator)
    least = declared if declared > LEAST_FRAME else SHORTEST_FRAME
    return step * max(1, -(-int(least * spec.sample_rate) // step))


def _frame_that_fits(generator: nn.Module, frame: int | None) -> int:
    """Return the frame of a network on waveforms.

    Raises:
        ConfigError: there is none, or ``frame`` is not one; with the nearest that is.
    """
    spec = cast("Generator", generator)
    if frame is None:
        return default_frame(generator)
    step = spec.hop * (1 + spec.hop % 2)
    if frame < 1 or frame % step:
        nearest = step * max(1, round(frame / step))
        reason = f"an even multiple of the network's hop, {spec.hop} samples"
        raise ConfigError(
            [f"sherpa-onnx takes no frame of {frame} samples: it must be {reason}; the nearest is {nearest}"]
        )
    return frame


class _OnSpectra(StreamingModule):
    """The part of a network between its STFT and its inverse, for frames that somebody else has transformed.

    Args:
        generator: takes sherpa-onnx' spectra, see :func:`takes_spectra`.
    """

    def __init__(self, generator: nn.Module) -> None:
        super().__init__()
        self.share = generator.share if isinstance(generator, Blend) else 0.0
        self.network = cast("SpectralNetwork", generator.generator if isinstance(generator, Blend) else generator)

    def forward(self, spectrum: Tensor) -> Tensor:
        (real, imag), _ = self.network.spectrum(spectrum[..., 0][:, None], spectrum[..., 1][:, None])
        return self.share * spectrum + (1 - self.share) * torch.stack([real, imag], dim=-1)


class _Transformed(StreamingModule):
    """A network on waveforms between the inverse of a DFT and a DFT, of frames that do not overlap.

    Args:
        generator: a causal network.
        frame: samples, even.
    """

    analysis: Tensor
    synthesis: Tensor

    def __init__(self, generator: nn.Module, frame: int) -> None:
        super().__init__()
        self.generator = generator
        time, frequency = np.arange(frame), np.arange(frame // 2 + 1)
        angles = 2 * np.pi / frame * (np.outer(time, frequency) % frame)
        forward = np.concatenate([np.cos(angles), -np.sin(angles)], axis=1)  # (T, 2 F)
        twice = np.full(frame // 2 + 1, 2.0)  # a bin stands for its mirror image too, except the first and the last
        twice[[0, -1]] = 1.0
        backward = (forward * np.tile(twice, 2)).T / frame  # (2 F, T)
        self.register_buffer("analysis", torch.from_numpy(forward).float(), persistent=False)
        self.register_buffer("synthesis", torch.from_numpy(backward).float(), persistent=False)

    def forward(self, spectrum: Tensor) -> Tensor:
        frame = spectrum[:, :, 0].transpose(1, 2).reshape(1, 1, -1) @ self.synthesis
        estimate = estimate_of(self.generator(frame))
        return (estimate @ self.analysis).view(1, 2, -1, 1).permute(0, 2, 3, 1)


class SherpaStep(nn.Module):
    """One step of a causal mono network, from spectrum to spectrum, as sherpa-onnx' ``gtcrn`` model takes it.

    Args:
        generator: fulfils :class:`bcfusion.contracts.Generator`, see :func:`bcfusion.export.step.ready`.
        frame: samples, an even multiple of the hop; None for at least 5 ms. A network that takes sherpa-onnx' own
            spectra does so with frames of its hop, the default there; with other frames it goes on waveforms.

    Attributes:
        kind: ``spectrum`` or ``waveform``.
        n_fft: points of the transform, and samples of a frame's window.
        hop_length: samples from one frame to the next.
        window: by sherpa-onnx' name.

    Raises:
        ExportError: several sensors, or a network that is not causal.
        ConfigError: a frame that does not fit; with the nearest that does.
    """

    def __init__(self, generator: nn.Module, frame: int | None = None) -> None:
        super().__init__()
        spec = cast("Generator", generator)
        name = type(generator.generator if isinstance(generator, Blend) else generator).__name__
        if spec.in_channels != 1:
            raise ExportError(f"{name} takes {spec.in_channels} sensors; the denoiser of sherpa-onnx has one channel")
        if not spec.causal:
            raise ExportError(f"{name} is not causal; the denoiser of sherpa-onnx goes frame by frame")
        spectral = takes_spectra(generator) and frame in (None, spec.hop)
        self.kind = "spectrum" if spectral else "waveform"
        self.hop_length = spec.hop if spectral else _frame_that_fits(generator, frame)
        self.n_fft = 2 * self.hop_length if spectral else self.hop_length
        self.window = "hann_sqrt" if spectral else "rectangular"
        between = _OnSpectra(generator) if spectral else _Transformed(generator, self.hop_length)
        self.step = StreamingStep(between, packed=True)

    @property
    def states(self) -> int:
        """Numbers in the first cache: those of the network's state, or one that nobody reads."""
        return max(1, sum(self.step.sizes))

    def inputs(self) -> tuple[Tensor, ...]:
        """Return an input of zeros: the spectrum ``(1, F, 1, 2)``, and the three caches before the first frame."""
        return torch.zeros(1, self.n_fft // 2 + 1, 1, 2), torch.zeros(1, self.states), torch.zeros(1), torch.zeros(1)

    def properties(self) -> dict[str, str]:
        """Return what sherpa-onnx reads from the metadata of the file, beside the rate."""
        return {
            "model_type": "gtcrn",
            "n_fft": str(self.n_fft),
            "hop_length": str(self.hop_length),
            "window_length": str(self.n_fft),
            "window_type": self.window,
            "version": "1",
            "conv_cache_shape": f"1,{self.states}",
            "tra_cache_shape": "1",
            "inter_cache_shape": "1",
        }

    def forward(self, spectrum: Tensor, state: Tensor, second: Tensor, third: Tensor) -> tuple[Tensor, ...]:
        """Return the spectrum of the estimate and the three new caches, in the shapes of the inputs."""
        estimate, *after = self.step(spectrum, *([state] if self.step.packed else []))
        return estimate, after[0] if after else state + 0, second + 0, third + 0


def export_sherpa(
    generator: nn.Module,
    frame: int | None = None,
    *,
    opset: int = OPSET,
    card: Card | None = None,
    origin: Mapping[str, Any] | None = None,
) -> ModelProto:
    """Export a causal mono network for the speech denoiser of sherpa-onnx.

    Args:
        generator: it is left unchanged.
        frame: see :class:`SherpaStep`.
        opset: version of ONNX's standard operators.
        card: see :func:`bcfusion.export.describe.describe`.
        origin: likewise.

    Returns:
        The model, with the metadata that sherpa-onnx reads and ours.

    Raises:
        ExportError: see :class:`SherpaStep`; the network uses something that ONNX lacks, or a package is missing.
        ConfigError: see :class:`SherpaStep`.
    """
    own = ready(generator)
    step = SherpaStep(own, frame)
    names = list(INPUTS)
    model = convert(traced(step, step.inputs()), names, [name + NEXT for name in names], opset, own)
    states = [StateTensor(name, tuple(x.shape)) for name, x in zip(names[1:], step.inputs()[1:], strict=True)]
    metadata = replace(describe(own, step.hop_length, states, True, card, origin), kind="sherpa-onnx")
    stamp(model, metadata)
    for key, value in {**step.properties(), "sample_rate": str(metadata.sample_rate)}.items():
        entry = model.metadata_props.add()
        entry.key, entry.value = key, value
    return model
