"""How the ratio of a sensor to air changes from frame to frame: what follows from air's spectrum, and what is left."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

#: the arrays of a file, with the number of decimals that it keeps
_DECIMALS = {"centres": 2, "weights": 4, "deviation_db": 2, "decay": 4, "correlation": 3, "memory": 3}


@dataclass(frozen=True)
class ShortTime:
    """A linear model of the short-time ratio of body to air in dB, the same for all wearers.

    In each frame of speech the ratio in a band differs from its mean by ``weights @ level``, where ``level`` is the
    level of air in every band relative to its mean over speech (:func:`bcfusion.data.simulation.bands.band_levels`),
    plus a residual: a Gaussian, correlated over bands and over time, whose deviation falls as the frame gets louder
    (:func:`bcfusion.data.simulation.bands.frame_levels`): a loud vowel is much the same at both sensors.

    Attributes:
        centres: of the bands, ``(B,)``, in Hz.
        weights: ``(B, B)``: row by row, what a band of the ratio takes from all bands of air; dB per dB.
        deviation_db: of the residual in a frame whose level is the mean power of speech, ``(B,)``, in dB.
        decay: the deviation is ``deviation_db * exp(-decay * level)`` in a frame of another level in dB, ``(B,)``.
        correlation: of the residual between bands, ``(B, B)``, positive semidefinite.
        memory: correlation of the residual with itself 0, 1, 2 ... steps later, ``(L,)``.
        step: seconds from one value of ``memory`` to the next.
        ridge: strength of the ridge penalty that validation chose, in dB² for each frame.
        explained: share of the variance of the ratio, about the mean of a recording, that the model explains in
            recordings that it was not fitted to.
        explained_by_level: the same of the slope over the level of air in the same band alone.
        validation: what was left out in turn: ``wearers`` or, with a single one, ``recordings`` or ``stretches``
            of time.
    """

    centres: np.ndarray
    weights: np.ndarray
    deviation_db: np.ndarray
    decay: np.ndarray
    correlation: np.ndarray
    memory: np.ndarray
    step: float
    ridge: float
    explained: float
    explained_by_level: float
    validation: str

    def record(self) -> dict[str, Any]:
        """Return the model as it is written to a file."""
        arrays = {name: getattr(self, name).round(decimals).tolist() for name, decimals in _DECIMALS.items()}
        return {**vars(self), **arrays}

    @classmethod
    def read(cls, record: dict[str, Any]) -> ShortTime:
        """Return the model that :meth:`record` wrote.

        Raises:
            ValueError: an array has another shape, or a number is not finite or out of range.
            KeyError: something is missing.
        """
        arrays = {name: np.asarray(record[name], dtype=np.float64) for name in _DECIMALS}
        bands = len(arrays["centres"])
        shapes = {"weights": (bands, bands), "correlation": (bands, bands), "deviation_db": (bands,), "decay": (bands,)}
        for name, array in arrays.items():
            wanted = shapes.get(name, (array.size,))
            if array.shape != wanted or bands < 2 or not array.size or not np.isfinite(array).all():
                raise ValueError(f"{name} of the short-time model is not {wanted} finite numbers")
        numbers = {name: float(record[name]) for name in ("step", "ridge", "explained", "explained_by_level")}
        if not (np.isfinite(list(numbers.values())).all() and numbers["step"] > 0.0):
            raise ValueError(f"numbers of the short-time model are out of range: {numbers}")
        values: dict[str, Any] = {**arrays, **numbers, "validation": str(record["validation"])}
        return cls(**values)
