"""Conditions from the body sensor for any generator: loudness per band, pitch and voicing, as further inputs.

Features of the body sensor, which is free of noise, that a network then need not learn to compute. All are causal.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from bcfusion.nn.frequency_norm import LEAST_OF_LOGARITHMS, FrequencyNorm, FrequencyNormalised
from bcfusion.nn.inner import Build, Inner, looking_ahead
from bcfusion.nn.mel import LogMel
from bcfusion.nn.network import WaveformNetwork, least_frame_of
from bcfusion.nn.pitch import Pitch
from bcfusion.requirements import above, at_least, require, within


class Conditioned(FrequencyNormalised, WaveformNetwork):
    """A generator that receives features of one sensor in addition to the sensors.

    A linear layer maps frames of features to ``channels`` numbers; each is repeated over the ``hop_length`` samples at
    whose end it was complete, as a further input channel of the generator. Causal if the generator is.

    Args:
        network: builds the generator; it is called with ``in_channels``, sensors and conditions together, and with
            ``skip_channel``, so that its output starts from the same sensor as without conditions. In a YAML a
            ``_target_`` with ``_partial_: true``; any of conf/generator that has both arguments.
        sample_rate: of input and output, in Hz.
        in_channels: number of sensors.
        channels: of the conditions.
        condition_channel: the sensor that they are computed from; 0 is the first (the body sensor, in fusion).
        bands: of the log mel filter bank; 0 leaves it out.
        pitch: whether log2(F0 / 150 Hz) and voicing are among the features.
        hop_length: of the features, in samples.
        win_length: likewise.
        n_fft: likewise.
        level: initial root mean square of the conditions. Well below that of speech, 0.07: several channels that are
            constant over a frame would otherwise dominate the first layer.
        skip_channel: the sensor that the output starts from; -1 is the last.
        frequency_norm: ``learnable``: the log mel spectrogram is scaled and shifted band by band, from the training
            set's statistics on, see :class:`bcfusion.nn.frequency_norm.FrequencyAffine`; the generator has an option of
            its own. None: all bands alike.
        lookahead_ms: additional look-ahead of the generator, in ms; 0: that of its own argument.

    Raises:
        ConfigError: no features at all, sensors that do not exist, or sizes that do not fit.
    """

    def __init__(
        self,
        network: Build,
        sample_rate: int = 16000,
        in_channels: int = 1,
        channels: int = 8,
        condition_channel: int = 0,
        bands: int = 32,
        pitch: bool = True,
        hop_length: int = 256,
        win_length: int = 1024,
        n_fft: int = 1024,
        level: float = 0.01,
        skip_channel: int = -1,
        frequency_norm: FrequencyNorm = None,
        lookahead_ms: float = 0.0,
    ) -> None:
        require(
            self,
            (bands or pitch, "bands=0 and pitch=false leave no condition"),
            within(-in_channels, in_channels - 1, condition_channel=condition_channel),
            at_least(1, channels=channels),
            at_least(0, bands=bands),
            above(0, level=level),
            (bands or frequency_norm is None, "frequency_norm scales the bands of the conditions: bands=0 has none"),
        )
        build = looking_ahead(network, lookahead_ms)
        built = build(in_channels=in_channels + channels, skip_channel=skip_channel % in_channels)
        apart = f"{type(built).__name__} does not hear all channels of its input alike: it takes no conditions"
        require(self, (getattr(built, "hears_all", True), apart))
        inner = Inner(built, sample_rate)
        hop = math.lcm(hop_length, inner.hop)
        # a condition is known at the end of its frame, so that a network that looks ahead looks as much further
        delay = None if inner.delay is None else inner.delay + hop_length - 1
        super().__init__(sample_rate, in_channels, hop, inner.causal, inner.lookahead, delay, skip_channel)
        self.set_frequency_norm(frequency_norm)
        self.least_frame = least_frame_of(built)
        self.only_masks = bool(getattr(built, "only_masks", False))
        self.keeps_noise = bool(getattr(built, "keeps_noise", False))
        self.amplifies = bool(getattr(built, "amplifies", False))
        self.condition_channel = condition_channel
        self.hop_length = hop_length
        self.mel = LogMel(sample_rate, n_fft, hop_length, win_length, bands) if bands else None
        self.pitch = Pitch(sample_rate, hop_length, win_length) if pitch else None
        if bands:
            self.frequency_in = self.frequency_affine(1, bands, least=LEAST_OF_LOGARITHMS)
        features = bands + (2 if pitch else 0)
        self.join = nn.Conv1d(features, channels, 1)
        with torch.no_grad():
            self.join.weight.mul_(level)
            assert self.join.bias is not None
            self.join.bias.zero_()  # it would be louder than the conditions
        self.network = inner

    def features(self, waveform: Tensor) -> Tensor:
        """Return ``(B, bands + 2, N)`` of ``(B, 1, T)``: log mel about zero, log2(F0 / 150 Hz) if voiced, voicing."""
        frames = []
        if self.mel is not None:
            levels = ((self.mel(waveform) + 6.0) / 3.0).unsqueeze(1)  # ln of mel magnitudes lies between -11.5 and 1
            if self.observed is not None:
                self.measure({"frequency_in": levels}, self.mel.stft)
            frames.append(self.frequency_in(levels).squeeze(1))
        if self.pitch is not None:
            f0, voicing = self.pitch(waveform)
            frames += [torch.log2(f0 / 150.0) * voicing, voicing]
        return torch.cat(frames, dim=1)

    def body(self, inputs: Tensor) -> Tensor:
        conditions = self.join(self.features(inputs[:, self.condition_channel].unsqueeze(1)))
        held = conditions.repeat_interleave(self.hop_length, dim=-1)
        estimate: Tensor = self.network(torch.cat([inputs, held], dim=1))
        return estimate
