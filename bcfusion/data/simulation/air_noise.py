"""The air microphone of the fusion task: clean speech with recorded noise at a random signal-to-noise ratio."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from bcfusion.audio import UnreadableAudio
from bcfusion.audio.level import SILENCE_LEVEL, active_level, amplitude, level
from bcfusion.data.simulation import checked_range, choice, uniform
from bcfusion.data.simulation.room import Response, Rooms
from bcfusion.data.simulation.sources import Source, Sources, find_sources
from bcfusion.errors import ConfigError, DataError

logger = logging.getLogger(__name__)

#: level of a speech slice that stands in for one without speech: the nominal -26 dBov of ITU-T P.56
NOMINAL_LEVEL = 10.0 ** (-26.0 / 20.0)
#: part of each noise file that is training's where one folder serves both
TRAINING_SHARE = 0.8
#: draws after which digital silence in the noise files is taken as it is
DRAWS = 8
#: root mean square below which a slice of a noise file is digital silence, under the rounding noise of 16 bits
NOISE_FLOOR = 1e-5


class AirNoise:
    """Simulates the air microphone in a noisy place: ``signal = air + noise``.

    The signal-to-noise ratio is that of the slice and not of the whole file: power of the speech over power of the
    noise. The speech is measured while somebody speaks (``active``, see :func:`bcfusion.audio.level.active_level`), so
    that the ratio says how words and noise stand to each other whatever share of the slice is pause, and means the same
    in every corpus; or over the whole slice (``slice``). With a quarter of pauses ``slice`` takes 1.2 dB less noise. A
    slice without speech (below -80 dB) takes noise as if its speech were at the nominal -26 dB.

    Only the slice is read from the noise file, at a random position; a noise that is shorter than the slice is
    repeated. Noise files of another sample rate are resampled, and of several channels one is drawn. Digital silence in
    a noise file is drawn anew a few times and then taken as it is: no noise.

    In a room the microphone hears the speech reverberant; the ratio is that of the reverberant speech, and ``noise`` is
    all that the target has not: ``signal = target + noise`` still.

    Nothing is rescaled: air keeps its level, as the other sensors keep theirs, so at a low ratio the sum may exceed
    +-1. It is float32 and is not clipped, since clipping would break ``signal = air + noise``.

    Training and evaluation never hear the same noise. A manifest says which recordings are whose (column ``noise``),
    and so does a folder with ``train/`` and with ``valid/`` or ``test/``; of any other folder, training hears the first
    80 % of each file and evaluation the last 20 %.

    In evaluation the file, the position and the ratio are drawn as in training, but from the generator that is seeded
    by the utterance: each utterance has its own noise and ratio, the same in every run, unless ``evaluation_snr`` fixes
    the ratio of all.

    Args:
        noise_root: folder of noise recordings, searched with its sub-folders, or manifest; None: the demo corpus' own
            noises.
        snr_range: lowest and highest signal-to-noise ratio in dB, drawn uniformly.
        evaluation_snr: in dB, the one ratio of the evaluation; None: drawn from ``snr_range`` for each utterance.
        snr_of: over what the speech is measured.
        rooms: what speech or noise is heard through; None: the speech is dry, the noise as recorded.
        key: how messages call ``noise_root``.

    Raises:
        ConfigError: an argument is out of range.
        DataError: there is no such folder or manifest, or nothing in it for the evaluation; when called, there is
            nothing for training, a noise file holds next to nothing, or file after file cannot be read (single ones are
            named in a warning, and others taken).
    """

    provides_noise = True  #: batches hold ``noise``, which losses may ask for

    def __init__(
        self,
        noise_root: str | None = None,
        snr_range: Sequence[float] = (-10.0, 15.0),
        evaluation_snr: float | None = None,
        snr_of: Literal["active", "slice"] = "active",
        rooms: Rooms | None = None,
        key: str = "data.noise_root",
    ) -> None:
        self.snr_range = checked_range("AirNoise", "snr_range", snr_range, -100.0, 100.0)
        if evaluation_snr is not None and not -100.0 <= evaluation_snr <= 100.0:
            raise ConfigError([f"AirNoise: evaluation_snr={evaluation_snr!r} must be null or a number of dB"])
        if snr_of not in ("active", "slice"):
            raise ConfigError([f"AirNoise: snr_of={snr_of!r} must be active or slice"])
        self.evaluation_snr = evaluation_snr
        self.snr_of = snr_of
        self.rooms = rooms
        self._key = key
        self._unreadable: set[str] = set()
        # a folder is looked at now, so that a wrong path is told before training; the demo's is made only when used
        root = None if noise_root is None else Path(noise_root).expanduser()
        self._noises = None if root is None else find_sources(root, "noise", key)

    def __call__(self, air: Tensor, sample_rate: int, generator: torch.Generator, training: bool) -> dict[str, Tensor]:
        """For clean speech ``air (1, T)``: ``signal`` and the ``noise`` in it, ``(1, T)`` float32 each.

        And ``target``, where the room's early reflections belong to it.
        """
        air = air.to(torch.float32)
        snr = uniform(*self.snr_range, generator)  # always: a fixed ratio meets the same noise at the same place
        if not training and self.evaluation_snr is not None:
            snr = self.evaluation_snr
        around_speech = around_noise = None
        if self.rooms is not None and self.rooms.enter(generator):
            around_speech = self.rooms.draw(sample_rate, generator, training) if self.rooms.speech else None
            around_noise = self.rooms.draw(sample_rate, generator, training) if self.rooms.noise else None
        speech = air if around_speech is None else around_speech.reverberate(air)
        noise = self._scaled(
            self._noise(air.shape[-1], sample_rate, generator, training, around_noise), speech, snr, sample_rate
        )
        signal = speech + noise
        if around_speech is None or self.rooms is None:
            return {"signal": signal, "noise": noise}
        if not self.rooms.early_reflections:
            return {"signal": signal, "noise": signal - air}
        target = around_speech.early(round(self.rooms.early_reflections * sample_rate)).reverberate(air)
        return {"signal": signal, "noise": signal - target, "target": target}

    def _scaled(self, noise: Tensor, speech: Tensor, snr: float, sample_rate: int) -> Tensor:
        """The noise at the level that makes the ratio ``snr``."""
        noise_level = level(noise)
        if noise_level <= NOISE_FLOOR:
            return torch.zeros_like(noise)
        speech_level = level(speech)
        if speech_level <= SILENCE_LEVEL:
            speech_level = NOMINAL_LEVEL
        elif self.snr_of == "active":
            speech_level = active_level(speech, sample_rate)
        return noise * (speech_level / noise_level * amplitude(-snr))

    def _noise(
        self, length: int, sample_rate: int, generator: torch.Generator, training: bool, room: Response | None
    ) -> Tensor:
        """``(1, length)`` of a random file at a random place, heard through a room that it has filled before."""
        if room is None:
            return self._slice(length, sample_rate, generator, training)
        before = len(room.taps)
        return room.reverberate(self._slice(before + length, sample_rate, generator, training))[:, before:]

    def _slice(self, length: int, sample_rate: int, generator: torch.Generator, training: bool) -> Tensor:
        """``(1, length)`` of a random file at a random place; drawn again while it is digital silence."""
        if self._noises is None:
            self._noises = demo_noises(sample_rate)
        return draw_slice(self._noises, length, sample_rate, generator, training, self._unreadable, self._key)


def draw_slice(
    noises: Sources,
    length: int,
    sample_rate: int,
    generator: torch.Generator,
    training: bool,
    unreadable: set[str],
    key: str,
) -> Tensor:
    """A slice of a random recording at a random place; drawn again while it is digital silence.

    Args:
        noises: of which those of training or of evaluation are taken, or their share of each where they are shared.
        length: of the slice, in samples at ``sample_rate``.
        sample_rate: in Hz.
        generator: of file, place and channel.
        training: whether it is for training.
        unreadable: files that a warning has named; those that cannot be read are added, and others taken.
        key: of the configuration, for messages.

    Returns:
        ``(1, length)`` float32.

    Raises:
        DataError: file after file cannot be read, or one holds not a sample.
    """
    sources = noises.of(training)
    low, high = 0.0, 1.0
    if noises.shared:
        low, high = (0.0, TRAINING_SHARE) if training else (TRAINING_SHARE, 1.0)
    noise = None
    for _ in range(DRAWS):
        source = sources[choice(len(sources), generator)]
        try:
            noise = read_looped(source, low, high, length, sample_rate, generator)
        except UnreadableAudio as error:  # not the utterance's fault: another noise takes its place
            if source.path not in unreadable:
                unreadable.add(source.path)
                logger.warning("noise left out: %s", error)
            continue
        if level(noise) > NOISE_FLOOR:
            break
    if noise is None:
        raise DataError(f"no noise could be read in {DRAWS} draws; the last: {source.path}. Check {key}")
    return noise


def demo_noises(sample_rate: int) -> Sources:
    """The demo corpus' noises, made on the first call ever; its splits are of different realisations."""
    from bcfusion.data.corpora.demo_noise import DemoNoise

    demo = DemoNoise(sample_rate=sample_rate)
    training, valid, test = (tuple(map(Source, demo.files(split))) for split in ("train", "valid", "test"))
    return Sources(demo.root, training, valid + test)


def read_looped(
    source: Source, low: float, high: float, length: int, sample_rate: int, generator: torch.Generator
) -> Tensor:
    """A slice from a random place of a part of a recording, which is repeated where it is too short.

    Args:
        source: of any sample rate and number of channels, of which one is drawn unless the source names it.
        low: where the part begins, in [0, 1] of the source. high: where it ends.
        length: of the slice, in samples at ``sample_rate``.
        sample_rate: in Hz, of the result.
        generator: of place and channel.

    Returns:
        ``(1, length)`` float32.

    Raises:
        UnreadableAudio: the file cannot be read, is shorter than the source says, or has not the channel that it names.
        DataError: the part holds not one sample.
    """
    from bcfusion import audio

    header = audio.info(source.path)
    begin = round(source.offset * sample_rate)
    frames = -(-header.frames * sample_rate // header.sample_rate) - begin
    if source.duration is not None:
        frames = min(frames, round(source.duration * sample_rate))
    first, last = begin + int(low * frames), begin + int(high * frames)
    available = last - first
    if available < 1:
        raise DataError(f"{source.path} holds only {max(frames, 0)} samples of noise: remove it from the noises")
    if source.channel is not None and source.channel >= header.channels:
        raise UnreadableAudio(
            f"{source.path} has {header.channels} channel(s), none with number {source.channel}", source.path
        )
    if available >= length:
        start = first + choice(available - length + 1, generator)
        samples = audio.read_span(source.path, start, length, sample_rate)
    else:
        samples = audio.read_span(source.path, first, available, sample_rate)
    drawn = choice(header.channels, generator)  # always, so that naming the channel changes nothing else
    channel = torch.from_numpy(samples[drawn if source.channel is None else source.channel])
    if available < length:
        place = choice(available, generator) + torch.arange(length)
        channel = channel[place.remainder(available)]
    return channel[None]
