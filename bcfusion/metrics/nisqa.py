"""NISQA: overall quality and four of its dimensions, predicted by a network from the estimate alone."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np

from bcfusion.contracts import Skip
from bcfusion.metrics.optional import NetworkMetric, require_packages, weights_file
from bcfusion.system import lock

FILE_NAME = "nisqa.tar"


class Nisqa(NetworkMetric):
    """Ratings from 1 to 5, higher is better: ``nisqa_mos`` and noisiness, discontinuity, coloration, loudness.

    G. Mittag et al., "NISQA: a deep CNN-self-attention model for multidimensional speech quality prediction with
    crowdsourced datasets", 2021 (version 2.0), as run by torchmetrics. A dimension has a high rating if it does not
    disturb. The network uses frequencies up to 20 kHz at the rate of the signal, so 16 kHz speech is rated as wide-band
    speech.

    The weights are for non-commercial use (CC BY-NC-SA 4.0). torchmetrics downloads them on first use to
    ``~/.torchmetrics/NISQA``; or they come from a file, which must be called ``nisqa.tar``, the same for all metrics of
    a process. Utterances that are too short or too long (about 52 s) for the network are skipped too.

    Args:
        weights: the file ``nisqa.tar``; None: torchmetrics' own download.

    Raises:
        ConfigError: the file does not exist or has another name, or a package that the metric needs is not installed.
    """

    names = ("nisqa_mos", "nisqa_noisiness", "nisqa_discontinuity", "nisqa_coloration", "nisqa_loudness")

    def __init__(self, weights: str | None = None) -> None:
        super().__init__()
        require_packages(self, "torchmetrics", "librosa", "requests")
        self.weights = weights_file(self, weights, FILE_NAME)
        self.higher_is_better = dict.fromkeys(self.names, True)

    def _load(self) -> Callable[..., Any]:
        import torch
        from torchmetrics.functional.audio import nisqa

        downloads = nisqa.NISQA_DIR
        folder = Path(os.path.expanduser(downloads)) if self.weights is None else self.weights.parent
        try:
            nisqa.NISQA_DIR = str(folder)
            # torchmetrics writes its download bit by bit to the final name of the file
            with nullcontext() if self.weights is not None else _alone(folder):
                nisqa.non_intrusive_speech_quality_assessment(torch.full((16_000,), 0.1), 16_000)
        finally:
            nisqa.NISQA_DIR = downloads
        return nisqa.non_intrusive_speech_quality_assessment  # it keeps the network that it has just loaded

    def _remedy(self) -> str:
        return f"name a copy of {FILE_NAME} with metrics.nisqa.weights=FILE, or run once with a connection"

    def _predict(self, network: Any, estimate: np.ndarray, sample_rate: int) -> dict[str, float]:
        import torch

        try:
            with torch.inference_mode():
                ratings = network(torch.from_numpy(estimate).float(), sample_rate)
        except RuntimeError as error:  # documented for signals that are too short or too long
            raise Skip(f"NISQA: {str(error).splitlines()[0]}") from None
        return dict(zip(self.names, (float(value) for value in ratings), strict=True))


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Create a folder and keep other processes out of it."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as file:
        lock(file, wait=True)
        yield
