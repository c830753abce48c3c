"""What metrics by networks and by further packages share: the check for the package, and loading once, when needed.

A network lives in its metric, in the process that scores: never in a LightningModule, a checkpoint or a pickle.
"""

from __future__ import annotations

import logging
from abc import abstractmethod
from importlib.util import find_spec
from pathlib import Path
from textwrap import shorten
from typing import Any

import numpy as np

from bcfusion.contracts import Skip
from bcfusion.errors import ConfigError
from bcfusion.metrics.base import MetricBase, is_silent

logger = logging.getLogger(__name__)

SHORTEST_SECONDS = 0.25
TOO_SHORT = "shorter than 0.25 s"
SILENT_ESTIMATE = "estimate is silent"


def require_packages(owner: str, *packages: str) -> None:
    """Refuse a metric whose packages are not installed, without importing them.

    Raises:
        ConfigError: names the owner, what is missing, and the extra that brings it.
    """
    missing = [package for package in packages if find_spec(package) is None]
    if missing:
        verb = "is" if len(missing) == 1 else "are"
        remedy = "pip install 'bcfusion[metrics]' brings what it needs"
        raise ConfigError([f"{owner}: {', '.join(missing)} {verb} not installed; {remedy}"])


def weights_file(owner: str, weights: str | Path | None) -> Path | None:
    """The file that the user named; None where none was.

    Raises:
        ConfigError: it does not exist.
    """
    if weights is None:
        return None
    path = Path(weights).expanduser().absolute()
    if not path.is_file():
        raise ConfigError([f"{owner}: weights={str(weights)!r} does not exist or is no file"])
    return path


class NetworkMetric(MetricBase):
    """A measure by a network that hears the estimate alone; the target is not compared with.

    The network is loaded at the first utterance, once in each process that scores. Where that fails (no network
    connection to download from, a damaged file) every utterance is skipped with the reason, and it is not tried again.

    Skipped too: a silent estimate, and less than 0.25 s.
    """

    def __init__(self) -> None:
        super().__init__()
        self._network: Any = None
        self._failure = ""

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_network": None, "_failure": ""}

    def _measure(self, estimate: np.ndarray, target: np.ndarray, sample_rate: int) -> dict[str, float]:
        if estimate.size < SHORTEST_SECONDS * sample_rate:
            raise Skip(TOO_SHORT)
        if is_silent(estimate):
            raise Skip(SILENT_ESTIMATE)
        return self._predict(self._loaded(), np.clip(estimate, -1.0, 1.0), sample_rate)

    def _loaded(self) -> Any:
        if self._failure:
            raise Skip(self._failure)
        if self._network is None:
            try:
                self._network = self._load()
            except Exception as error:  # whatever a download or a damaged file gives; hours may be at stake
                reason = shorten(str(error), 100, placeholder=" ...")  # of a download, libraries tell a long story
                self._failure = f"no network: {type(error).__name__}: {reason}; {self._remedy()}"
                logger.warning("%s: %s", type(self).__name__, self._failure)
                raise Skip(self._failure) from error
        return self._network

    @abstractmethod
    def _load(self) -> Any:
        """Load the network; any exception is the reason for which utterances are skipped."""

    @abstractmethod
    def _remedy(self) -> str:
        """Tell in a few words where the weights come from and how to name them."""

    @abstractmethod
    def _predict(self, network: Any, estimate: np.ndarray, sample_rate: int) -> dict[str, float]:
        """Score a float64 array ``(T,)`` in [-1, 1] of at least 0.25 s that is not silent, or raise Skip."""
