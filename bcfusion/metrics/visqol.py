"""ViSQOL: similarity of auditory spectrograms, mapped to a rating."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from bcfusion.contracts import Skip
from bcfusion.errors import ConfigError
from bcfusion.metrics.base import MetricBase, is_silent, resample
from bcfusion.metrics.optional import require_packages

RATES = {"speech": 16_000, "audio": 48_000}
MAPPINGS = ("polynomial", "lattice")


class Visqol(MetricBase):
    """Predicted listening quality from 1 to 5, higher is better; named ``visqol``, or ``visqol_audio`` in audio mode.

    A. Hines et al., "ViSQOL: an objective speech quality model", 2015, and M. Chinen et al., "ViSQOL v3", 2020, in the
    pure Python of the package visqol-python (Apache 2.0), whose models are inside. Signals are resampled to 16 kHz in
    speech mode and 48 kHz in audio mode. Alignment, also within the file, is part of the measure.

    Speech mode maps similarity to quality in one of two ways that differ by a point or two: compare within one.
    ``polynomial`` (the C++ program with ``--use_lattice_model=false``) gives 5.0 for the target itself; ``lattice``,
    the default of that program, needs ai-edge-litert. A quarter of the utterance's own duration on one core.

    Skipped: a silent target or estimate, and what is too short (about a second) to hold a patch of active speech.

    Args:
        mode: ``speech`` or ``audio``. mapping: of speech mode, ``polynomial`` or ``lattice``.

    Raises:
        ConfigError: another mode or mapping, or a package is not installed.
    """

    def __init__(
        self, mode: Literal["speech", "audio"] = "speech", mapping: Literal["polynomial", "lattice"] = "polynomial"
    ) -> None:
        super().__init__()
        problems = [] if mode in RATES else [f"Visqol: mode={mode!r} is none of {', '.join(RATES)}"]
        problems += [] if mapping in MAPPINGS else [f"Visqol: mapping={mapping!r} is none of {', '.join(MAPPINGS)}"]
        if problems:
            raise ConfigError(problems)
        self.mode, self.mapping = mode, mapping
        require_packages("Visqol", "visqol", *(["ai_edge_litert"] if mode == "speech" and mapping == "lattice" else []))
        self.names = ("visqol" if mode == "speech" else "visqol_audio",)
        self.higher_is_better = {self.names[0]: True}
        self._model: Any = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_model": None}

    def _measure(self, estimate: np.ndarray, target: np.ndarray, sample_rate: int) -> dict[str, float]:
        if is_silent(target):
            raise Skip("target is silent")
        if is_silent(estimate):
            raise Skip("estimate is silent")
        rate = RATES[self.mode]
        estimate, target = resample(estimate, sample_rate, rate), resample(target, sample_rate, rate)
        if self._model is None:
            from visqol import VisqolApi

            model = VisqolApi()
            model.create(mode=self.mode, use_lattice_model=self.mapping == "lattice")
            self._model = model
        try:
            value = self._model.measure_from_arrays(target, estimate, rate).moslqo
        except (ValueError, IndexError):  # no spectrogram, or not one patch
            raise Skip("too short for ViSQOL") from None
        return {self.names[0]: float(value)}
