"""ViSQOL: similarity of auditory spectrograms, mapped to a rating."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from bcfusion.contracts import Skip
from bcfusion.metrics.base import MetricBase, resample, skip_silence
from bcfusion.metrics.optional import require_packages
from bcfusion.requirements import one_of, require

RATES = {"speech": 16_000, "audio": 48_000}
MAPPINGS = ("polynomial", "lattice")


class Visqol(MetricBase):
    """Predicted listening quality from 1 to 5, higher is better; named ``visqol``, or ``visqol_audio`` in audio mode.

    A. Hines et al., "ViSQOL: an objective speech quality model", 2015, and M. Chinen et al., "ViSQOL v3", 2020, in the
    pure Python of the package visqol-python (Apache 2.0), which includes the models. Signals are resampled to 16 kHz in
    speech mode and 48 kHz in audio mode. The measure includes alignment, also within the file.

    Speech mode maps similarity to quality in one of two ways that differ by a point or two: compare values of the same
    mapping only. ``polynomial`` (the C++ program with ``--use_lattice_model=false``) gives 5.0 for the target itself;
    ``lattice``, the default of that program, needs ai-edge-litert. An utterance takes a quarter of its duration on one
    core.

    An utterance is skipped if target or estimate is silent, or if it is too short (about a second) to contain a patch
    of active speech.

    Args:
        mode: ``speech`` or ``audio``.
        mapping: in speech mode, ``polynomial`` or ``lattice``.

    Raises:
        ConfigError: there is no such mode or mapping, or a package is not installed.
    """

    def __init__(
        self, mode: Literal["speech", "audio"] = "speech", mapping: Literal["polynomial", "lattice"] = "polynomial"
    ) -> None:
        require(self, one_of(RATES, mode=mode), one_of(MAPPINGS, mapping=mapping))
        self.mode, self.mapping = mode, mapping
        require_packages(self, "visqol", *(["ai_edge_litert"] if mode == "speech" and mapping == "lattice" else []))
        self.names = ("visqol" if mode == "speech" else "visqol_audio",)
        self.higher_is_better = {self.names[0]: True}
        self._model: Any = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_model": None}

    def _measure(self, estimate: np.ndarray, target: np.ndarray, sample_rate: int) -> dict[str, float]:
        skip_silence(target=target, estimate=estimate)
        rate = RATES[self.mode]
        estimate, target = resample(estimate, sample_rate, rate), resample(target, sample_rate, rate)
        if self._model is None:
            from visqol import VisqolApi

            model = VisqolApi()
            model.create(mode=self.mode, use_lattice_model=self.mapping == "lattice")
            self._model = model
        try:
            value = self._model.measure_from_arrays(target, estimate, rate).moslqo
        except (ValueError, IndexError):  # no spectrogram, or not a single patch
            raise Skip("too short for ViSQOL") from None
        return {self.names[0]: float(value)}
