"""What metrics that need networks or further packages share: checks of packages and files, and lazy loading.

A network belongs to its metric in the process that scores: never to a LightningModule, a checkpoint or a pickle.
"""

from __future__ import annotations

import logging
import os
from abc import abstractmethod
from importlib.util import find_spec
from pathlib import Path
from textwrap import shorten
from typing import Any

import numpy as np

from bcfusion.contracts import Skip
from bcfusion.metrics.base import SHORTEST_SECONDS, TOO_SHORT, MetricBase, skip_silence
from bcfusion.requirements import require

logger = logging.getLogger(__name__)


def require_packages(owner: object, *packages: str, extra: str = "metrics") -> None:
    """Refuse a metric whose packages are not installed, without importing them.

    Args:
        owner: the metric, whose name starts a message.
        packages: names by which they are imported.
        extra: of bcfusion, that installs them.

    Raises:
        ConfigError: it names the owner, the missing packages, and the extra that installs them.
    """
    missing = [package for package in packages if find_spec(package) is None]
    verb = "is" if len(missing) == 1 else "are"
    remedy = f"pip install 'bcfusion[{extra}]' brings what it needs"
    require(owner, (not missing, f"{', '.join(missing)} {verb} not installed; {remedy}"))


def weights_file(owner: object, weights: str | Path | None, name: str | None = None) -> Path | None:
    """Return the file that the user named; None if there is none.

    Args:
        owner: the metric, whose name starts a message.
        weights: as the user gave it.
        name: that the file must have; None: any.

    Raises:
        ConfigError: it does not exist, or has another name.
    """
    if weights is None:
        return None
    path = Path(os.path.expanduser(weights)).absolute()
    require(
        owner,
        (path.is_file(), f"weights={str(weights)!r} does not exist or is not a file"),
        (name in (None, path.name), f"weights={str(weights)!r} must be a file called {name}"),
    )
    return path


class LazyMetric(MetricBase):
    """A measure by a network that is loaded at the first utterance, once in each process that scores.

    If that fails (no connection to download from, a damaged file), every utterance is skipped with the reason, and
    loading is not tried again.
    """

    def __init__(self) -> None:
        self._network: Any = None
        self._failure = ""

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_network": None, "_failure": ""}

    def _loaded(self) -> Any:
        if self._failure:
            raise Skip(self._failure)
        if self._network is None:
            try:
                self._network = self._load()
            except Exception as error:  # a download or a damaged file may raise anything; hours may be at stake
                reason = shorten(str(error), 200, placeholder=" ...")  # messages of failed downloads are long
                self._failure = f"no network: {type(error).__name__}: {reason}; {self._remedy()}"
                logger.warning("%s: %s", type(self).__name__, self._failure)
                raise Skip(self._failure) from error
        return self._network

    @abstractmethod
    def _load(self) -> Any:
        """Load the network; any exception becomes the reason for which utterances are skipped."""

    @abstractmethod
    def _remedy(self) -> str:
        """Return in a few words where the weights come from and how to give a file."""


class NetworkMetric(LazyMetric):
    """A measure by a network that uses the estimate only, not the target.

    An utterance is skipped if the estimate is silent or shorter than 0.25 s, or if there is no network.
    """

    def _measure(self, estimate: np.ndarray, target: np.ndarray, sample_rate: int) -> dict[str, float]:
        if estimate.size < SHORTEST_SECONDS * sample_rate:
            raise Skip(TOO_SHORT)
        skip_silence(estimate=estimate)
        return self._predict(self._loaded(), np.clip(estimate, -1.0, 1.0), sample_rate)

    @abstractmethod
    def _predict(self, network: Any, estimate: np.ndarray, sample_rate: int) -> dict[str, float]:
        """Score a float64 array ``(T,)`` in [-1, 1] of at least 0.25 s that is not silent, or raise Skip."""
