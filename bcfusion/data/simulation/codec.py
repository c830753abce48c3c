"""Speech that went through a codec: telephony and music codecs of libsndfile, aligned with what went in."""

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

from bcfusion.contracts import Simulator
from bcfusion.data.simulation import checked_range, choice, models_body, reflect, simulate, uniform
from bcfusion.data.simulation.narrowband import RESAMPLER_REACH
from bcfusion.errors import ConfigError

#: mirrored speech before and behind the segment, in which a codec's adaptation settles
SETTLING_SECONDS = 0.1
#: longest delay of a codec that is looked for
LONGEST_DELAY_SECONDS = 0.25


class Format(NamedTuple):
    """libsndfile's names of a codec. graded: whether its bit rate can be chosen."""

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

    The signal is brought to ``rate``, coded, and brought back. Codecs, at 8 kHz: ``opus`` (6 to 250 kbit/s),
    ``vorbis`` and ``mp3``, whose bit rate is their ``quality``; G.711 ``mu_law`` and ``a_law`` (64 kbit/s); ``gsm``,
    full rate 06.10 (13); ``g721`` (32), ``g723_24`` and ``g723_40``; ``ima_adpcm`` and ``ms_adpcm`` (32). At other
    rates they have as many bits a sample. What the libsndfile at hand lacks, or a codec that does not know the rate
    (Opus is for 8, 12, 16, 24 and 48 kHz, MP3 for 8 kHz and more), is passed over. Samples beyond +-1 are clipped
    before coding, as the integer codecs would. A signal that is not finite comes back as it is.

    Sample 0 stays sample 0: the delay of each codec is measured once, by the cross-correlation of a noise with what
    comes back of it, and taken away; the borders are mirrored. Codecs run on the CPU, item by item.

    In training a codec and its quality are drawn for a share of the segments; in evaluation there is one fixed codec
    at the middle quality, or none, and nothing is drawn here.

    Args:
        simulator: makes the signal that is coded; null: it is clean speech.
        rate: sample rate of the codec in Hz; null: that of the signal.
        codecs: names out of ``CODECS``, all equally likely.
        quality: of Opus, Vorbis and MP3, drawn uniformly; 0 is the lowest bit rate of the codec and 1 the highest.
        probability: share of the training segments that are coded.
        evaluation: the codec of the evaluation; null: none.

    Raises:
        ConfigError: an argument is out of range; when called: no codec of the list works at this rate.
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
        problems = []
        if unknown := [name for name in (*codecs, evaluation or "opus") if name not in CODECS]:
            problems.append(f"Codec: {', '.join(map(str, unknown))} is no codec; there are {', '.join(CODECS)}")
        if not codecs:
            problems.append("Codec: codecs=[] must name at least one")
        if rate is not None and (rate <= 0 or rate != int(rate)):
            problems.append(f"Codec: rate={rate!r} must be a positive whole number of Hz, or null")
        if not 0.0 <= probability <= 1.0:
            problems.append(f"Codec: probability={probability!r} must be a share, 0 to 1")
        if getattr(simulator, "provides_noise", False):
            problems.append("Codec: simulator adds noise that the batch tells apart, which nothing coded keeps")
        if problems:
            raise ConfigError(problems)
        self.simulator = simulator
        self.models_body = models_body(simulator)
        self.rate = None if rate is None else int(rate)
        self.codecs = tuple(codecs)
        self.quality = checked_range("Codec", "quality", quality, 0.0, 1.0)
        self.probability = float(probability)
        self.evaluation = evaluation

    def __call__(
        self,
        air: Tensor,
        sample_rate: int,
        generator: torch.Generator,
        training: bool,
        *,
        body: torch.Generator | None = None,
    ) -> dict[str, Tensor]:
        """The coded signal ``(1, T)`` float32 at ``sample_rate`` for ``air (1, T)``, under the key ``signal``."""
        signal = air
        if self.simulator is not None:
            signal = simulate(self.simulator, air, sample_rate, generator, training, body)["signal"]
        rate = self.rate or sample_rate
        if rate > sample_rate:
            raise ConfigError([f"Codec: rate={rate} must not be above the sample rate, {sample_rate} Hz"])
        if not training:
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
    """``(1, T)`` through resampler and codec, aligned."""
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
    """Encode and decode in memory, with the codec's delay taken away.

    Args:
        samples: ``(T,)`` float32; clipped to +-1. Where one is not finite, all are returned as they are.
        rate: in Hz. name: out of ``CODECS``.
        quality: 0 to 1, where the codec has several.

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
    """By how many samples a codec is late at a rate, measured with noise; None where it does not work."""
    # falls by 6 dB an octave, as speech does; codecs of speech follow it, where white noise would be noise to them
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
