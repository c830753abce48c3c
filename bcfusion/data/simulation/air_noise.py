"""The air microphone of the fusion task: clean speech plus recorded noise at a random signal-to-noise ratio."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from bcfusion.audio import UnreadableAudio
from bcfusion.audio.level import SILENCE_LEVEL, active_level, amplitude, level
from bcfusion.contracts import SPLITS, Draw
from bcfusion.data.simulation import choice, pair, uniform
from bcfusion.data.simulation.room import Response, Rooms
from bcfusion.data.simulation.sources import Source, Sources, find_sources, require_with
from bcfusion.errors import DataError
from bcfusion.files import on_disk
from bcfusion.requirements import ascending, one_of, within

logger = logging.getLogger(__name__)

#: level assumed for the speech of a slice without speech: the nominal -26 dBov of ITU-T P.56
NOMINAL_LEVEL = 10.0 ** (-26.0 / 20.0)
#: leading part of each noise file that is used for training if training and evaluation share one folder
TRAINING_SHARE = 0.8
#: draws after which digital silence in the noise files is accepted
DRAWS = 8
#: root mean square below which a slice of a noise file is digital silence, less than the rounding noise of 16 bits
NOISE_FLOOR = 1e-5


class AirNoise:
    """Simulates the air microphone in a noisy place: ``signal = air + noise``.

    The signal-to-noise ratio is that of the slice, not of the whole file: power of the speech over power of the noise.
    The speech level is measured over active speech only (``active``, see :func:`bcfusion.audio.level.active_level`), so
    that the ratio describes words against noise however long the pauses are, and means the same in every corpus; or
    over the whole slice (``slice``). If a quarter of the slice is pauses, ``slice`` gives 1.2 dB less noise. A slice
    without speech (below -80 dB) gets noise as if its speech were at the nominal -26 dB.

    Only the slice is read from the noise file, at a random position; noise that is shorter than the slice is repeated.
    Noise files of another sample rate are resampled; of several channels one is drawn. If the slice is digital silence,
    file and position are drawn again a few times, after which the silence is accepted: no noise.

    In a room the microphone picks up reverberant speech; the ratio is that of the reverberant speech, and ``noise`` is
    everything that is not in the target, so that ``signal = target + noise`` still holds.

    Nothing is rescaled: air and the other sensors keep their levels, so at a low ratio the sum may exceed +-1. It is
    float32 and not clipped, since clipping would break ``signal = air + noise``.

    Training and evaluation never use the same noise. A manifest assigns each recording to a split (column ``noise``),
    as does a folder with ``train/`` and ``valid/`` or ``test/``; of any other folder, training uses the first 80 % of
    each file and evaluation the last 20 %.

    In evaluation the file, the position and the ratio are drawn as in training, but from the generator that is seeded
    by the utterance: each utterance has its own noise and ratio, the same in every run, unless ``evaluation_snr`` fixes
    the ratio.

    Args:
        noise_root: folder of noise recordings, searched with its sub-folders, or manifest; None: the demo corpus' own
            noise.
        snr_range: lowest and highest signal-to-noise ratio in dB, drawn uniformly.
        evaluation_snr: in dB, the ratio in evaluation; None: drawn from ``snr_range`` for each utterance.
        snr_of: over what the speech level is measured.
        rooms: room responses for speech or noise; None: the speech is dry, the noise as recorded.
        key: what messages call ``noise_root``.

    Raises:
        ConfigError: an argument is out of range.
        DataError: there is no such folder or manifest, or nothing in it for evaluation; when called, there is nothing
            for training, a noise file holds no samples, or file after file cannot be read (single unreadable files are
            reported in a warning and replaced by others).
    """

    provides_noise = True  #: batches hold ``noise``, which losses may use

    def __init__(
        self,
        noise_root: str | None = None,
        snr_range: Sequence[float] = (-10.0, 15.0),
        evaluation_snr: float | None = None,
        snr_of: Literal["active", "slice"] = "active",
        rooms: Rooms | None = None,
        key: str = "data.noise_root",
    ) -> None:
        rules = (
            ascending(-100, 100, snr_range=snr_range),
            [] if evaluation_snr is None else within(-100, 100, evaluation_snr=evaluation_snr),
            one_of(("active", "slice"), snr_of=snr_of),
        )
        # a folder is searched now, so that a wrong path is reported before training; the demo's is made on first use
        root = None if noise_root is None else on_disk(noise_root)
        self._noises = require_with(self, rules, lambda: None if root is None else find_sources(root, "noise", key))
        self.snr_range = pair(snr_range)
        self.evaluation_snr = evaluation_snr
        self.snr_of = snr_of
        self.rooms = rooms
        self._key = key
        self._unreadable: set[str] = set()

    def __call__(self, air: Tensor, draw: Draw) -> dict[str, Tensor]:
        """Return ``signal`` and the ``noise`` in it, ``(1, T)`` float32 each, for clean speech ``air (1, T)``.

        If early reflections of the room belong to the target, also return that: ``target (1, T)``.
        """
        air = air.to(torch.float32)
        snr = uniform(*self.snr_range, draw.generator)  # drawn even if fixed, so that the noise is the same either way
        if not draw.training and self.evaluation_snr is not None:
            snr = self.evaluation_snr
        around_speech = around_noise = None
        if self.rooms is not None and self.rooms.enter(draw):
            around_speech = self.rooms.response(draw) if self.rooms.speech else None
            around_noise = self.rooms.response(draw) if self.rooms.noise else None
        speech = air if around_speech is None else around_speech.reverberate(air)
        noise = self._scaled(self._noise(air.shape[-1], draw, around_noise), speech, snr, draw.sample_rate)
        signal = speech + noise
        if around_speech is None or self.rooms is None:
            return {"signal": signal, "noise": noise}
        if not self.rooms.early_reflections:
            return {"signal": signal, "noise": signal - air}
        target = around_speech.early(round(self.rooms.early_reflections * draw.sample_rate)).reverberate(air)
        return {"signal": signal, "noise": signal - target, "target": target}

    def _scaled(self, noise: Tensor, speech: Tensor, snr: float, sample_rate: int) -> Tensor:
        """Return the noise at the level that gives the ratio ``snr``."""
        noise_level = level(noise)
        if noise_level <= NOISE_FLOOR:
            return torch.zeros_like(noise)
        speech_level = level(speech)
        if speech_level <= SILENCE_LEVEL:
            speech_level = NOMINAL_LEVEL
        elif self.snr_of == "active":
            speech_level = active_level(speech, sample_rate)
        return noise * (speech_level / noise_level * amplitude(-snr))

    def _noise(self, length: int, draw: Draw, room: Response | None) -> Tensor:
        """Return ``(1, length)`` of random noise; in a room it has been sounding for as long as the response lasts."""
        if self._noises is None:
            self._noises = demo_noises(draw.sample_rate)
        before = 0 if room is None else len(room.taps)
        noise = draw_slice(self._noises, before + length, draw, self._unreadable, self._key)
        return noise if room is None else room.reverberate(noise)[:, before:]


def draw_slice(noises: Sources, length: int, draw: Draw, unreadable: set[str], key: str) -> Tensor:
    """Return a slice of a random recording at a random position; drawn again while it is digital silence.

    Args:
        noises: recordings, of which those of ``draw.training`` are used, or the part of each if they are shared.
        length: of the slice, in samples.
        draw: sample rate of the slice, and generator of file, position and channel.
        unreadable: files already reported; a file that cannot be read is added and another one drawn. Likewise the
            root of the recordings, after a warning that nothing but silence was drawn.
        key: of the configuration, for messages.

    Returns:
        ``(1, length)`` float32.

    Raises:
        DataError: file after file cannot be read, or one holds no samples.
    """
    sources = noises.of(draw.training)
    low, high = 0.0, 1.0
    if noises.shared:
        low, high = (0.0, TRAINING_SHARE) if draw.training else (TRAINING_SHARE, 1.0)
    noise = None
    for _ in range(DRAWS):
        source = sources[choice(len(sources), draw.generator)]
        try:
            noise = read_looped(source, low, high, length, draw.sample_rate, draw.generator)
        except UnreadableAudio as error:  # not the utterance's fault: another noise takes its place
            if source.path not in unreadable:
                unreadable.add(source.path)
                logger.warning("noise left out: %s", error)
            continue
        if level(noise) > NOISE_FLOOR:
            return noise
    if noise is None:
        raise DataError(f"no noise could be read in {DRAWS} draws; the last: {source.path}. Check {key}")
    if noises.root not in unreadable:
        unreadable.add(noises.root)
        message = "%s: %d draws in a row are digital silence, the last from %s: no noise is added then. Check %s"
        logger.warning(message, noises.root, DRAWS, source.path, key)
    return noise


def demo_noises(sample_rate: int) -> Sources:
    """Return the demo corpus' noise, made on the first call ever; each split has realisations of its own."""
    from bcfusion.data.corpora.demo_noise import DemoNoise

    demo = DemoNoise(sample_rate=sample_rate)
    training, valid, test = (tuple(map(Source, demo.files(split))) for split in SPLITS)
    return Sources(demo.root, training, valid + test)


def read_looped(
    source: Source, low: float, high: float, length: int, sample_rate: int, generator: torch.Generator
) -> Tensor:
    """Read a slice at a random position of a part of a recording, which is repeated if it is too short.

    Args:
        source: of any sample rate and number of channels; one channel is drawn unless the source names it.
        low: start of the part, in [0, 1] of the source.
        high: end of the part, in [0, 1] of the source.
        length: of the slice, in samples at ``sample_rate``.
        sample_rate: of the result, in Hz.
        generator: of position and channel.

    Returns:
        ``(1, length)`` float32.

    Raises:
        UnreadableAudio: the file cannot be read, is shorter than the source says, or lacks the channel that it names.
        DataError: the part holds no samples.
    """
    from bcfusion import audio

    header = audio.info(source.path)
    begin = round(source.offset * sample_rate)
    frames = audio.RateChange(header.sample_rate, sample_rate).length(header.frames) - begin
    if source.duration is not None:
        frames = min(frames, round(source.duration * sample_rate))
    first, last = begin + int(low * frames), begin + int(high * frames)
    available = last - first
    if available < 1:
        raise DataError(f"{source.path} holds only {max(frames, 0)} samples of noise: remove it from the noises")
    if source.channel is not None and source.channel >= header.channels:
        raise UnreadableAudio(
            f"{source.path} has {header.channels} channel(s), none of them number {source.channel}", source.path
        )
    if available >= length:
        start = first + choice(available - length + 1, generator)
        samples = audio.read_span(source.path, start, length, sample_rate)
    else:
        samples = audio.read_span(source.path, first, available, sample_rate)
    drawn = choice(header.channels, generator)  # drawn even if named, so that naming the channel changes nothing else
    channel = torch.from_numpy(samples[drawn if source.channel is None else source.channel])
    if available < length:
        place = choice(available, generator) + torch.arange(length)
        channel = channel[place.remainder(available)]
    return channel[None]
