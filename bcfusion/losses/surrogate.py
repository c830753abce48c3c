"""What losses share that come from a package with a differentiable form of a quality metric."""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from bcfusion.audio import resample
from bcfusion.errors import ConfigError
from bcfusion.losses.valid import valid_samples


class SurrogateLoss(nn.Module, ABC):
    """A metric of items of equal length, at its own rate, as a loss of items of any length.

    An item whose target is silent, or that is too short for the metric, counts as 0 and has no gradient.

    Args:
        sample_rate: Hz.
        silence_db: RMS level in dBFS at or below which a target is silence.
        internal_rate: Hz, of the metric.
        least_samples: of an item, at the internal rate.
    """

    def __init__(self, sample_rate: int, silence_db: float, internal_rate: int, least_samples: int) -> None:
        super().__init__()
        self.sample_rate, self.internal_rate, self.least_samples = sample_rate, internal_rate, least_samples
        self.silence_power = 10.0 ** (silence_db / 10.0)

    def library(self, package: str, extra: str) -> Any:
        """Import the package, which ``extra`` of bcfusion installs.

        Raises:
            ConfigError: it is not installed.
        """
        try:
            return importlib.import_module(package)
        except ImportError as error:
            raise ConfigError(
                [f"{type(self).__name__} needs the package {package}: run pip install 'bcfusion[{extra}]'"]
            ) from error

    @staticmethod
    def with_constants(model: Any) -> Any:
        """Make parameters and buffers of a package's module constants: not in checkpoints, and not for optimisers."""
        for module in model.modules():
            for name, constant in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]:
                delattr(module, name)
                module.register_buffer(name, constant.detach(), persistent=False)
        return model

    @abstractmethod
    def measure(self, estimate: Tensor, target: Tensor) -> Tensor:
        """Return the loss ``(B,)`` of ``estimate`` and ``target (B, T)`` at the internal rate."""

    def forward(self, estimate: Tensor, target: Tensor, lengths: Tensor) -> Tensor:
        """Return a float32 scalar from ``estimate`` and ``target (B, 1, T)``, ``lengths (B,)``.

        Raises:
            ValueError: other shapes.
        """
        with torch.autocast(estimate.device.type, enabled=False):
            estimate, target, _ = valid_samples(estimate, target, lengths)
            audible = target.square().sum(-1) / lengths.clamp_min(1) > self.silence_power
            values = 0.0 * (estimate.sum(-1) + target.sum(-1))  # in the graph even if no item counts; NaN if either is
            for length in lengths[audible].unique().tolist():  # the packages take items of equal length only
                if -(-length * self.internal_rate // self.sample_rate) < self.least_samples:
                    continue
                items = (audible & (lengths == length)).nonzero().squeeze(1)
                # resampled here: the filter of torch_stoi lets tones above 5 kHz alias
                signals = (
                    resample(x[items, :length], self.sample_rate, self.internal_rate) for x in (estimate, target)
                )
                values = values.index_add(0, items, self.measure(*signals))
            return values.mean()
