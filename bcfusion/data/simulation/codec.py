"""Speech after a codec: telephony and music codecs of libsndfile, with the output aligned to the input."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import soundfile
import torch
from torch import Tensor

from bcfusion.contracts import Draw, Simulator
from bcfusion.data.simulation import choice, known_names, pair, reflect, takes_a_draw, uniform
from bcfusion.data.simulation.narrowband import RESAMPLER_REACH
from bcfusion.errors import ConfigError
from bcfusion.requirements import ascending, check_rate, is_number, one_of, require, within

#: mirrored speech before and after the segment, in which a codec's adaptation settles
SETTLING_SECONDS = 0.1
#: longest delay of a codec that is searched for
LONGEST_DELAY_SECONDS = 0.25


class Format(NamedTuple):
    """libsndfile's names of a codec; ``graded`` if its bit rate can be chosen."""

    container: str
    subtype: str
    graded: bool = False


#: the codecs by name, as in the argument ``codecs``
CODECS: Mapping[str, Format] = {
    "opus": Format("OGG", "OPUS", graded=True),
    "vorbis": Format("OGG", "VORBIS", graded=True),
    "mp3": Format("MP3", "MPEG_LAYER_III", graded=True),
    "mu_law": Format("WAV", "ULAW"),
    "a_law": Format("WAV", "ALAW"),
    "gsm": Format("WAV", "GSM610"),
    "g721": Format("AU", "G721_32"),
    "g723_24": Format("AU", "G723_24"),
    "g723_40": Format("AU", "G723_40"),
    "ima_adpcm": Format("WAV", "IMA_ADPCM"),
    "ms_adpcm": Format("WAV", "MS_ADPCM"),
}


class Codec:
    """Simulates a channel with a codec: another sensor's signal, encoded and decoded in memory.

    The signal is resampled to ``rate``, coded, and resampled back. Codecs, at 8 kHz: ``opus`` (6 to 250 kbit/s),
    ``vorbis`` and ``mp3``, whose bit rate follows from ``quality``; G.711 ``mu_law`` and ``a_law`` (64 kbit/s);
    ``gsm``, full rate 06.10 (13); ``g721`` (32), ``g723_24`` and ``g723_40``; ``ima_adpcm`` and ``ms_adpcm`` (32). At
    other rates they have the same number of bits per sample. A codec that the installed libsndfile lacks, or that does
    not support the rate (Opus needs 8, 12, 16, 24 or 48 kHz, MP3 at least 8 kHz), is skipped. Samples beyond +-1 are
    clipped before coding, as the integer codecs would. A signal that is not finite is returned unchanged.

    Sample 0 stays sample 0: the delay of each codec is measured once, by cross-correlating noise with its decoded
    version, and removed; the borders are mirrored. Codecs run on the CPU, item by item.

    In training a codec and its quality are drawn for a share of the segments; in evaluation there is one fixed codec
    at the middle quality, or none, and nothing is drawn here.

    Args:
        simulator: makes the signal that is coded; null: clean speech is.
        rate: sample rate of the codec in Hz; null: that of the signal.
        codecs: names in ``CODECS``, all equally likely.
        quality: of Opus, Vorbis and MP3, drawn uniformly; 0 is the lowest bit rate of the codec and 1 the highest.
        probability: share of the training segments that are coded.
        evaluation: the codec used in evaluation; null: none.

    Raises:
        ConfigError: an argument is out of range; when called: none of the codecs works at this rate.
    """

    def __init__(
        self,
        simulator: Simulator | None = None,
        rate: int | None = None,
        codecs: Sequence[str] = ("opus", "vorbis", "mp3", "mu_law", "a_law", "gsm", "g721", "ima_adpcm", "ms_adpcm"),
        quality: Sequence[float] = (0.0, 0.4),
        probability: float = 0.5,
        evaluation: str | None = None,
    ) -> None:
        require(
            self,
            takes_a_draw("simulator", simulator),
            (
                not getattr(simulator, "provides_noise", False),
                "simulator returns noise separately, but a coded signal is not the sum of speech and noise",
            ),
            (
                rate is None or (is_number(rate) and rate > 0 and rate == int(rate)),
                f"rate={rate!r} must be a whole number of Hz, or null",
            ),
            known_names(CODECS, codecs=codecs),
            one_of((None, *CODECS), evaluation=evaluation),
            ascending(0, 1, quality=quality),
            within(0, 1, probability=probability),
        )
        self.simulator = simulator
        self.rate = None if rate is None else int(rate)
        self.codecs = tuple(codecs)
        self.quality = pair(quality)
        self.probability = float(probability)
        self.evaluation = evaluation

    def check_rate(self, sample_rate: int) -> None:
        """Refuse a sample rate, in Hz, below that of the codec, or that the simulator before it refuses.

        Raises:
            ConfigError: ``rate`` is above it.
        """
        check_rate(self.simulator, sample_rate)
        self._check_own_rate(sample_rate)

    def _check_own_rate(self, sample_rate: int) -> None:
        rate = self.rate or sample_rate
        require(self, (rate <= sample_rate, f"rate={rate} must not be above the sample rate, {sample_rate} Hz"))

    def __call__(self, air: Tensor, draw: Draw) -> dict[str, Tensor]:
        """Return the coded ``signal (1, T)`` float32 for ``air (1, T)``."""
        signal = air if self.simulator is None else self.simulator(air, draw)["signal"]
        sample_rate, generator = draw.sample_rate, draw.generator
        self._check_own_rate(sample_rate)
        rate = self.rate or sample_rate
        if not draw.training:
            quality = sum(self.quality) / 2
            names = () if self.evaluation is None else self._working((self.evaluation,), rate)
        else:
            quality = uniform(*self.quality, generator)
            names = self._working(self.codecs, rate)
            names = (names[choice(len(names), generator)],)
            if uniform(0.0, 1.0, generator) >= self.probability:
                names = ()
        signal = signal.to(torch.float32)
        return {"signal": _coded(signal, sample_rate, names[0], rate, quality) if names else signal}

    def _working(self, names: Sequence[str], rate: int) -> tuple[str, ...]:
        working = tuple(name for name in names if delay(name, rate) is not None)
        if not working:
            raise ConfigError(
                [
                    f"Codec: none of {', '.join(names)} codes {rate} Hz with libsndfile "
                    f"{soundfile.__libsndfile_version__}; at this rate there are "
                    f"{', '.join(name for name in CODECS if delay(name, rate) is not None)}"
                ]
            )
        return working


def _coded(signal: Tensor, sample_rate: int, name: str, rate: int, quality: float) -> Tensor:
    """Return ``(1, T)`` after resampler and codec, aligned."""
    from bcfusion import audio

    # a pad of whole periods of the two rates keeps sample 0 on the codec's grid
    period = sample_rate // math.gcd(sample_rate, rate)
    reach = math.ceil(SETTLING_SECONDS * sample_rate)
    if rate != sample_rate:
        reach += math.ceil(RESAMPLER_REACH * sample_rate / rate)
    pad = math.ceil(reach / period) * period
    narrow = audio.resample(reflect(signal, pad), sample_rate, rate)
    decoded = torch.from_numpy(round_trip(narrow[0].numpy(), rate, name, quality))[None]
    return audio.resample(decoded, rate, sample_rate)[:, pad : pad + signal.shape[-1]].contiguous()


def round_trip(samples: np.ndarray, rate: int, name: str, quality: float = 0.5) -> np.ndarray:
    """Encode and decode in memory, and remove the codec's delay.

    Args:
        samples: ``(T,)`` float32; clipped to +-1. If one is not finite, all are returned unchanged.
        rate: in Hz.
        name: one of ``CODECS``.
        quality: 0 to 1, for codecs whose bit rate can be chosen.

    Returns:
        ``(T,)`` float32.

    Raises:
        ConfigError: the codec does not work at this rate, or not in this build of libsndfile.
    """
    if not np.isfinite(samples).all():  # LAME ends the whole process at a NaN
        return samples
    late = delay(name, rate)
    if late is None:
        raise ConfigError([f"Codec: {name} does not code {rate} Hz with libsndfile {soundfile.__libsndfile_version__}"])
    decoded = _transcode(np.pad(samples, (0, late)), rate, name, quality)[late : late + len(samples)]
    return np.pad(decoded, (0, len(samples) - len(decoded)))


@lru_cache(maxsize=64)
def delay(name: str, rate: int) -> int | None:
    """Return a codec's delay in samples at a rate, measured with noise; None if the codec does not work."""
    # falls by 6 dB per octave, like speech: speech codecs reproduce that, but not white noise
    white = np.random.default_rng(0).standard_normal(rate)
    spectrum = np.fft.rfft(white) / np.maximum(np.fft.rfftfreq(rate), 0.01)
    probe = np.fft.irfft(spectrum, rate)
    probe = (0.1 * probe / probe.std()).astype(np.float32)
    try:
        decoded = _transcode(probe, rate, name, 0.5)
    except (soundfile.LibsndfileError, ValueError):  # ValueError: a format that this build does not know
        return None
    size = 2 * max(len(decoded), len(probe))
    correlation = np.fft.irfft(np.fft.rfft(decoded, size) * np.fft.rfft(probe, size).conj(), size)
    return int(np.argmax(correlation[: round(LONGEST_DELAY_SECONDS * rate)]))


def _transcode(samples: np.ndarray, rate: int, name: str, quality: float) -> np.ndarray:
    container, subtype, graded = CODECS[name]
    clipped = np.clip(samples, -1.0, 1.0)
    compression = min(1.0 - quality, 0.99) if graded else None  # 1 is refused for MP3
    with io.BytesIO() as memory:
        soundfile.write(memory, clipped, rate, subtype, format=container, compression_level=compression)
        memory.seek(0)
        decoded, _ = soundfile.read(memory, dtype="float32")
    return np.asarray(decoded, dtype=np.float32)
