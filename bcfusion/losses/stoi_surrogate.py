"""Short-time objective intelligibility as a loss."""

from __future__ import annotations

import importlib

import torch
from torch import Tensor, nn

from bcfusion.audio import resample
from bcfusion.errors import ConfigError
from bcfusion.losses.valid import valid_samples
from bcfusion.requirements import above, require, within

_INTERNAL_RATE = 10_000  # Hz, the rate at which STOI is defined
_LEAST_SAMPLES = 256 + 30 * 128  # of 31 frames: one segment of 30, and the last frame, which pystoi omits as well


class StoiSurrogateLoss(nn.Module):
    """Negative STOI, classic (Taal et al. 2011) or extended (Jensen and Taal 2016), per item, then the mean over items.

    The differentiable form is that of the optional package ``torch_stoi``, which uses the constants of pystoi: equal to
    it at 10 kHz, and close to it at other rates, which pystoi converts with another filter. Segments of 0.4 s of band
    envelopes are correlated, so that neither the level nor the fine structure of the estimate counts: it complements
    other losses and does not suffice alone.

    An item that has no STOI counts as 0, unintelligible, and has no gradient: if its target is silent, or shorter than
    0.41 s, or has less than that within 40 dB of its loudest frame.

    Args:
        sample_rate: Hz.
        extended: the extended form, which also judges the correlation between bands.
        silence_db: RMS level in dBFS at or below which a target is silence.

    Raises:
        ConfigError: ``torch_stoi`` is not installed, or an argument is out of range.
    """

    def __init__(self, sample_rate: int = 16000, extended: bool = False, silence_db: float = -60.0) -> None:
        require(self, above(0, sample_rate=sample_rate), within(-300, 0, silence_db=silence_db))
        super().__init__()
        try:
            library = importlib.import_module("torch_stoi")
        except ImportError as error:
            raise ConfigError(
                ["StoiSurrogateLoss needs the package torch_stoi: run pip install 'bcfusion[stoi]'"]
            ) from error
        self.sample_rate = sample_rate
        self.silence_power = 10.0 ** (silence_db / 10.0)
        # Signals are resampled here: the package's own filter lets tones above 5 kHz alias.
        self.negative_stoi = library.NegSTOILoss(_INTERNAL_RATE, use_vad=True, extended=extended, do_resample=False)
        # Its constants are parameters; as such they would be in every checkpoint and reach the optimizer.
        for name, constant in list(self.negative_stoi.named_parameters()):
            delattr(self.negative_stoi, name)
            self.negative_stoi.register_buffer(name, constant.detach(), persistent=False)

    def forward(self, estimate: Tensor, target: Tensor, lengths: Tensor) -> Tensor:
        """Return a float32 scalar in [-1, 0] (about 0 at most) from ``estimate`` and ``target (B, 1, T)``, ``lengths
        (B,)``.

        Raises:
            ValueError: other shapes.
        """
        with torch.autocast(estimate.device.type, enabled=False):
            estimate, target, _ = valid_samples(estimate, target, lengths)
            audible = target.square().sum(-1) / lengths.clamp_min(1) > self.silence_power
            values = 0.0 * estimate.sum(-1)  # in the graph even if no item has a STOI
            for length in lengths[audible].unique().tolist():  # the package takes items of equal length only
                if -(-length * _INTERNAL_RATE // self.sample_rate) < _LEAST_SAMPLES:
                    continue
                items = (audible & (lengths == length)).nonzero().squeeze(1)
                signals = (resample(x[items, :length], self.sample_rate, _INTERNAL_RATE) for x in (estimate, target))
                values = values.index_add(0, items, self.negative_stoi(*signals))
            return values.mean()
