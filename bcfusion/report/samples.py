"""Sound files and spectrograms of the first utterances of an evaluation."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from bcfusion import audio
from bcfusion.evaluation.sample_files import picture_name, sound_name
from bcfusion.report.spectrogram import save_figure, spectrogram_figure

__all__ = ["SampleWriter"]


class SampleWriter:
    """Writes the first utterances of an evaluation; see ``on_item`` of :func:`bcfusion.evaluation.evaluate.evaluate`.

    An utterance with NaN or infinity in a signal is left out: files hold none, and no metric scores it.

    Args:
        directory: where the files go.
        count: number of utterances to write.
        sample_rate: of the signals, in Hz.
    """

    def __init__(self, directory: Path, count: int, sample_rate: int) -> None:
        self.directory = directory
        self.count = count
        self.sample_rate = sample_rate
        self.pictures: list[Path] = []
        self.left_out: list[str] = []

    def __call__(self, index: int, item: str, signals: Mapping[str, np.ndarray]) -> None:
        """Write the signals ``(T,)`` of the utterance at ``index``, if it is one of the first."""
        if index >= self.count:
            return
        if not all(np.isfinite(signal).all() for signal in signals.values()):
            self.left_out.append(item)
            return
        # Loud noise may exceed full scale: all signals of an utterance are scaled down together instead of clipped.
        peak = max(1.0, *(float(np.abs(signal).max()) for signal in signals.values()))
        for system, signal in signals.items():
            audio.write(self.directory / sound_name(index, item, system), signal / peak, self.sample_rate)
        figure = spectrogram_figure(signals, self.sample_rate, title=item)
        self.pictures.append(save_figure(figure, self.directory / picture_name(index, item)))
