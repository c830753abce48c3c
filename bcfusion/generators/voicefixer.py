"""VoiceFixer: a ResUNet restores the log mel spectrogram, a neural vocoder generates a waveform from it.

Liu et al., "VoiceFixer: Toward General Speech Restoration with Neural Vocoder", 2021 (arXiv 2109.13731). The stages are
trained separately, the vocoder on clean speech; :class:`VoiceFixer` joins them. The paper's vocoder is TFGAN (Tian et
al. 2020); here it is :class:`bcfusion.generators.hifigan.HifiGan`, with the mel bands of stage one and one sensor.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bcfusion.errors import CheckpointError
from bcfusion.generators.hifigan import HifiGan
from bcfusion.nn.frequency_norm import LEAST_OF_LOGARITHMS, FrequencyNorm
from bcfusion.nn.mel import MAGNITUDE_EPS, LogMel
from bcfusion.nn.network import WaveformNetwork, future_reach
from bcfusion.nn.norm import BatchNorm1d
from bcfusion.nn.precision import filter_tensor
from bcfusion.nn.resunet import ResUNet, ResUNetGenerator
from bcfusion.nn.spectral import Complex, from_log, magnitude
from bcfusion.requirements import at_least, require
from bcfusion.run.bundle_files import read_bundle
from bcfusion.run.checkpoint import load_weights
from bcfusion.run.models import resolve_model

PHASE_EPS = 1e-12  # power: bins fainter than 1e-6 lose their phase, which keeps the gradient at silence finite


class VoiceFixerMel(ResUNetGenerator):
    """Stage one: a ResUNet on the log mel spectrograms of all sensors; its output is ADDED to that of one sensor.

    It is trained on ``log_mel (B, n_mels, N)``, with frames centred on multiples of the hop, the first on sample 0. So
    that the stage can be used alone, ``estimate`` is a waveform derived from it: the pseudo-inverse of the mel matrix
    gives a linear magnitude, negative values set to 0, and the sensor gives the phase. That is no vocoder: with an
    intact input and no correction it is the input at the resolution of the mel bands.

    Each band of each sensor first goes through a batch normalisation of its own, which the published stage lacks. The
    topmost band is left out of the network, as published, and stays as it is. With the defaults and one sensor 65.15 M
    parameters, the published number; the paper's analysis of 44.1 kHz, 2048 points at a hop of 441, has the same
    network (here a window is a multiple of two hops: 1764 samples of 2048 points).

    Args:
        sample_rate: of input and output, in Hz.
        in_channels: number of sensors.
        n_fft: of the STFT with a Hann window, in samples.
        hop_length: likewise.
        win_length: likewise.
        n_mels: of the mel bands, see :class:`bcfusion.nn.mel.LogMel`.
        f_min: likewise.
        f_max: likewise.
        floor: likewise.
        channels: of the :class:`bcfusion.nn.resunet.ResUNet`.
        blocks: likewise.
        init_output_scale: likewise.
        skip_channel: the sensor whose log mel spectrogram is corrected and whose phase is used; -1 is the last.
        frequency_norm: ``learnable``: in place of the batch normalisation the log mel spectrograms are scaled and
            shifted band by band, and so is what is added; both start from the training set, see
            :class:`bcfusion.nn.frequency_norm.FrequencyAffine`. None: batch normalisation.

    Attributes:
        settings: arguments that the shapes of the weights do not reveal, by name.

    Raises:
        ConfigError: sizes that do not fit.
    """

    provides = ("log_mel",)
    keeps_noise = True
    inverse: Tensor

    def __init__(
        self,
        sample_rate: int = 16000,
        in_channels: int = 1,
        n_fft: int = 1024,
        hop_length: int = 256,
        win_length: int = 1024,
        n_mels: int = 128,
        f_min: float = 0.0,
        f_max: float | None = None,
        floor: float = 1e-5,
        channels: Sequence[int] = (32, 64, 128, 256, 384, 384),
        blocks: int = 4,
        init_output_scale: float = 0.1,
        skip_channel: int = -1,
        frequency_norm: FrequencyNorm = None,
    ) -> None:
        unet = ResUNet(in_channels, 1, channels, blocks, init_output_scale)
        sizes = (n_fft, hop_length, win_length)
        super().__init__(unet, sample_rate, in_channels, *sizes, "hann", skip_channel, frequency_norm)
        self.log_mel = LogMel(sample_rate, n_fft, hop_length, win_length, n_mels, f_min, f_max, floor)
        self.settings = self.log_mel.settings
        require(self, at_least(2, n_mels=n_mels))
        self.norm = BatchNorm1d(in_channels * (n_mels - 1)) if frequency_norm is None else nn.Identity()
        self.frequency_in = self.frequency_affine(in_channels, n_mels - 1, least=LEAST_OF_LOGARITHMS)
        self.frequency_out = self.frequency_affine(1, n_mels - 1, kind="restore", least=LEAST_OF_LOGARITHMS)
        with torch.device("cpu"):
            inverse = torch.linalg.pinv(LogMel(**self.settings).filters.double())
        self.register_buffer("inverse", filter_tensor(inverse.numpy()), persistent=False)  # (F, n_mels)

    def statistics_of(self, sensors: Complex, target: Complex) -> dict[str, Tensor]:
        levels = self.log_mel.of_magnitude(magnitude(*sensors, MAGNITUDE_EPS))[:, :, :-1]
        wanted = self.log_mel.of_magnitude(magnitude(*target, MAGNITUDE_EPS))[:, :-1]
        return {"frequency_in": levels, "frequency_out": (wanted - levels[:, self.skip_channel]).unsqueeze(1)}

    def restore(self, real: Tensor, imag: Tensor) -> Tensor:
        """Return restored log mel magnitudes ``(B, n_mels, N)`` for a spectrum's parts ``(B, in_channels, F, N)``."""
        log_mel = self.log_mel.of_magnitude(magnitude(real, imag, MAGNITUDE_EPS))  # (B, in_channels, n_mels, N)
        lower = log_mel[:, :, :-1]
        normal = self.norm(lower.flatten(1, 2)).unflatten(1, lower.shape[1:3])
        correction = self.frequency_out(self.unet(self.frequency_in(normal))).squeeze(1)
        return log_mel[:, self.skip_channel] + F.pad(correction, (0, 0, 0, 1))

    def spectrum(self, real: Tensor, imag: Tensor) -> tuple[Complex, dict[str, Tensor]]:
        log_mel = self.restore(real, imag)
        mel = from_log(log_mel, self.stft.win_length) - self.log_mel.floor
        wanted = (self.inverse @ mel).clamp_min(0)  # (B, F, N)
        real, imag = real[:, self.skip_channel], imag[:, self.skip_channel]
        gain = wanted / magnitude(real, imag, PHASE_EPS)
        return (gain * real, gain * imag), {"log_mel": log_mel}


class VoiceFixer(WaveformNetwork):
    """Both stages, joined: ``(B, in_channels, T) -> (B, 1, T)``. The waveform of stage one is not computed.

    The weights of each stage may be taken from a finished run of it. They are part of this network from then on: its
    own checkpoints and bundles hold them, and loading one of these needs no other file. A source that cannot be read is
    therefore an error only if the network is used before weights have been loaded into it, not when it is built.

    Args:
        mel: stage one.
        vocoder: stage two, for the same mel bands; it takes one sensor.
        mel_from: a run of stage one, or its bundle; None: its present weights.
        vocoder_from: likewise, of stage two.

    Raises:
        ConfigError: the stages disagree in sample rate or mel bands.
        CheckpointError: in ``forward``, see above.
    """

    provides = ("log_mel",)

    def __init__(
        self,
        mel: VoiceFixerMel,
        vocoder: HifiGan,
        mel_from: str | None = None,
        vocoder_from: str | None = None,
    ) -> None:
        differing = [
            f"{name} is {value} in mel and {vocoder.settings[name]} in vocoder: they must be the same"
            for name, value in mel.settings.items()
            if value != vocoder.settings[name]
        ]
        at_all = "vocoder.published_mel=true: stage one gives the log mel spectrogram of this package: set it to false"
        require(self, differing, (not vocoder.published_mel, at_all))
        delay = vocoder.lookahead + future_reach(mel.hop, mel.stft, mel.unet, vocoder.vocoder)
        super().__init__(mel.sample_rate, mel.in_channels, mel.hop, False, vocoder.lookahead, delay, mel.skip_channel)
        self.mel, self.vocoder = mel, vocoder
        self._unread: list[str] = []
        for name, stage, source in (("mel_from", mel, mel_from), ("vocoder_from", vocoder, vocoder_from)):
            if source is not None:
                try:
                    _load_stage(stage, resolve_model(source).path)
                except CheckpointError as error:
                    self._unread.append(f"VoiceFixer: {name}={source}: {error}")
        self.register_load_state_dict_post_hook(_clear_unread)

    def body(self, inputs: Tensor) -> Tensor | dict[str, Tensor]:
        """Map ``(B, in_channels, T)``, T a multiple of ``hop``, to the waveform and the log mel spectrogram."""
        if self._unread:
            raise CheckpointError("\n".join(self._unread))
        if self.mel.observed is not None:
            return self.mel.body(inputs)
        log_mel = self.mel.restore(*self.mel.stft(inputs))
        return {"estimate": self.vocoder.synthesise(log_mel), "log_mel": log_mel}

    def trim(self, name: str, value: Tensor, length: int) -> Tensor:
        """Trim a waveform that is late by ``lookahead``, or frames like stage one."""
        return super().trim(name, value, length) if name == "estimate" else self.mel.trim(name, value, length)


def _load_stage(stage: VoiceFixerMel | HifiGan, source: Path) -> None:
    """Load the weights of a bundle, or of the bundle of a run, into a stage.

    Raises:
        CheckpointError: there is no bundle, or it is damaged, of other settings or of another network; the stage is
            unchanged.
    """
    bundle, state = read_bundle(source)
    others = [
        f"{key} is {bundle.generator[key]}, not {value}"
        for key, value in stage.settings.items()
        if bundle.generator.get(key, value) != value
    ]
    if others:
        raise CheckpointError(f"its bundle has other settings: {'; '.join(others)}")
    load_weights(stage, state, source)


def _clear_unread(network: VoiceFixer, _: object) -> None:
    network._unread = []
