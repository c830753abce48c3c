"""NISQA: overall quality and four of its dimensions by a network, from the estimate alone."""

from __future__ import annotations

import fcntl
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np

from bcfusion.contracts import Skip
from bcfusion.errors import ConfigError
from bcfusion.metrics.optional import NetworkMetric, require_packages, weights_file

FILE_NAME = "nisqa.tar"


class Nisqa(NetworkMetric):
    """Ratings from 1 to 5, higher is better: ``nisqa_mos`` and noisiness, discontinuity, coloration, loudness.

    G. Mittag et al., "NISQA: a deep CNN-self-attention model for multidimensional speech quality prediction with
    crowdsourced datasets", 2021 (version 2.0), as torchmetrics runs it. Each dimension is rated high where it does not
    disturb. It hears up to 20 kHz at the rate of the signal, so that 16 kHz speech is judged as wide-band speech.

    The weights are for non-commercial use (CC BY-NC-SA 4.0). They come with torchmetrics' own download on first
    use, into ``~/.torchmetrics/NISQA``, or from a file, which must be called ``nisqa.tar``; one file for a process.
    Skipped too: what is too short or too long (about 52 s) for the network.

    Args:
        weights: the file ``nisqa.tar``; None: torchmetrics' own download.

    Raises:
        ConfigError: there is no such file, or the packages that it needs are not installed.
    """

    names = ("nisqa_mos", "nisqa_noisiness", "nisqa_discontinuity", "nisqa_coloration", "nisqa_loudness")

    def __init__(self, weights: str | None = None) -> None:
        super().__init__()
        require_packages("Nisqa", "torchmetrics", "librosa", "requests")
        self.weights: Path | None = weights_file("Nisqa", weights)
        if self.weights is not None and self.weights.name != FILE_NAME:
            raise ConfigError([f"Nisqa: weights={weights!r} must be a file called {FILE_NAME}"])
        self.higher_is_better = dict.fromkeys(self.names, True)

    def _load(self) -> Callable[..., Any]:
        import torch
        from torchmetrics.functional.audio import nisqa

        downloads = nisqa.NISQA_DIR
        folder = Path(downloads).expanduser() if self.weights is None else self.weights.parent
        try:
            nisqa.NISQA_DIR = str(folder)
            # torchmetrics writes what it downloads bit by bit, under the file's own name
            with nullcontext() if self.weights is not None else _alone(folder):
                nisqa.non_intrusive_speech_quality_assessment(torch.full((16_000,), 0.1), 16_000)
        finally:
            nisqa.NISQA_DIR = downloads
        return nisqa.non_intrusive_speech_quality_assessment  # it keeps the network that it loaded just now

    def _remedy(self) -> str:
        return f"name a copy of {FILE_NAME} with metrics.nisqa.weights=FILE, or run once with a connection"

    def _predict(self, network: Any, estimate: np.ndarray, sample_rate: int) -> dict[str, float]:
        import torch

        try:
            with torch.inference_mode():
                ratings = network(torch.from_numpy(estimate).float(), sample_rate)
        except RuntimeError as error:  # by its documentation: too short or too long
            raise Skip(f"NISQA: {str(error).splitlines()[0]}") from None
        return dict(zip(self.names, (float(value) for value in ratings), strict=True))


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keeps other processes out of a folder, which is made."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
