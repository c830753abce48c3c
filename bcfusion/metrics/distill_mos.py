"""Distill-MOS: overall quality, predicted by a small network from the estimate alone."""

from __future__ import annotations

import io
import math
from contextlib import redirect_stdout
from typing import Any

import numpy as np

from bcfusion.metrics.base import resample
from bcfusion.metrics.optional import NetworkMetric, require_packages

RATE = 16_000
SEGMENT = 122_880  #: samples that the network takes at once, 7.68 s
HOP = 16_000  #: largest distance of two segments


class DistillMos(NetworkMetric):
    """A rating from 1 to 5, higher is better: ``distill_mos``.

    B. Stahl and H. Gamper, "Distillation and pruning for scalable self-supervised representation-based speech quality
    assessment", 2025 (variant 7 of the package distillmos 0.9): the mean opinion of listeners, as a network on wav2vec
    2.0 XLS-R predicts it, learnt by one of 4.1 million parameters. Segments of 7.68 s, at most a second apart, are
    averaged; a shorter utterance is continued by zeros. The network brings each segment to the same peak, so level does
    not count. Computed at 16 kHz; other rates are resampled.

    The network is part of the package distillmos (MIT): nothing is downloaded. A segment takes 0.25 s of a core.

    Raises:
        ConfigError: distillmos or a package that it needs is not installed.
    """

    names = ("distill_mos",)

    def __init__(self) -> None:
        super().__init__()
        require_packages(self, "distillmos", "xls_r_sqa", extra="distillmos")
        self.higher_is_better = {"distill_mos": True}

    def _load(self) -> Any:
        import distillmos  # with torch: processes that score other metrics never load it

        with redirect_stdout(io.StringIO()):  # it prints where its weights are
            return distillmos.ConvTransformerSQAModel(segmenting_in_forward=False).eval()

    def _remedy(self) -> str:
        return "the network is a file of the package distillmos: pip install --force-reinstall 'bcfusion[distillmos]'"

    def _predict(self, network: Any, estimate: np.ndarray, sample_rate: int) -> dict[str, float]:
        import torch

        signal = torch.from_numpy(resample(estimate, sample_rate, RATE)).float()
        signal = torch.nn.functional.pad(signal, (0, max(0, SEGMENT - len(signal))))
        rest = len(signal) - SEGMENT
        starts = np.linspace(0, 1, math.ceil(rest / HOP) + 1) * rest
        with torch.inference_mode():  # one by one: all segments of a minute together take gigabytes
            ratings = [float(network(signal[None, start : start + SEGMENT])) for start in starts.astype(int)]
        return {"distill_mos": float(np.mean(ratings))}
