"""Rooms: speech and noise as they arrive after the walls have answered, with the direct path at time zero."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import pad

from bcfusion.audio import UnreadableAudio
from bcfusion.data.loading.seeding import stable_seed
from bcfusion.data.simulation import choice, uniform
from bcfusion.data.simulation.fir import causal_filter
from bcfusion.data.simulation.sources import Source, Sources, find_sources
from bcfusion.errors import ConfigError, DataError

logger = logging.getLogger(__name__)

#: share of the largest magnitude that the direct path has at least: 6 dB below a reflection that is stronger, and well
#: above the ripple before a band-limited pulse, which reaches 13 dB below it
ONSET = 0.5
#: what a band-limited direct path sounds like before its peak, in seconds; earlier is the way from source to microphone
RISE = 0.001
#: seconds behind the peak up to which a response is the direct path, for its level
DIRECT = 0.0025
#: share of the rooms that are training's where nothing says which are whose
TRAINING_SHARE = 0.8
#: draws after which responses that cannot be read end the run
DRAWS = 8


@dataclass(frozen=True)
class Response:
    """A room response ``taps (K,)`` whose direct path is tap ``direct``, has energy 1 and is not inverted."""

    taps: Tensor
    direct: int

    def reverberate(self, signal: Tensor) -> Tensor:
        """``(1, T)`` as heard in the room, the direct path in step with the signal and at its level.

        Before its first sample the signal counts as silent: what it left in the room is not heard.
        """
        ahead = pad(signal, (0, self.direct))
        return causal_filter(ahead[None], self.taps[None])[0, :, self.direct :]

    def early(self, samples: int) -> Response:
        """The response up to so many samples behind the direct path."""
        return Response(self.taps[: self.direct + samples + 1], self.direct)


class Rooms:
    """Draws room responses; an argument of the simulators that have a microphone in a room.

    A measured or computed response begins with the way from source to microphone, several milliseconds, by which the
    air channel would come later than its target and than the body sensor, and it has any level. Here the peak of the
    direct path is moved to time zero, to the sample, and the energy of the direct path, up to 2.5 ms behind the peak,
    is made 1, with its sign: the air microphone keeps place, level and polarity, and the room is added.

    Training and evaluation are never in the same room. A manifest says which responses are whose (column ``rir``), and
    so does a folder with ``train/`` and with ``valid/`` or ``test/``. Of any other folder, training has 80 % of the
    rooms, by a hash of their names: each of its subfolders that holds responses is a room, and where there is only one
    folder each file is.

    Args:
        root: folder or manifest of room responses; None: there are no rooms, whatever the other arguments say.
        share: of the utterances, in [0, 1], that are in a room; the others are dry.
        speech: whether the speech is heard through the room.
        noise: whether the noise is, through a response of its own. Recorded noise has been in a room already.
        early_reflections: seconds behind the direct path up to which reflections belong to the target: 0.05 is
            usual, they help to understand speech and a network need not remove them. 0: the target is the dry speech.

    Raises:
        ConfigError: an argument is out of range.
        DataError: there is no such folder or manifest, it holds no audio or only one room; when called, response after
            response cannot be read (single ones are named in a warning, and others taken).
    """

    def __init__(
        self,
        root: str | None = None,
        share: float = 1.0,
        speech: bool = True,
        noise: bool = False,
        early_reflections: float = 0.0,
    ) -> None:
        problems = []
        if not 0.0 <= share <= 1.0:
            problems.append(f"Rooms: share={share!r} must lie between 0 and 1")
        if not 0.0 <= early_reflections < 10.0:
            problems.append(
                f"Rooms: early_reflections={early_reflections!r} must be a number of seconds from 0, below 10"
            )
        if early_reflections and not speech:
            problems.append("Rooms: early_reflections needs speech=true: dry speech has none")
        if problems:
            raise ConfigError(problems)
        self.share = float(share)
        self.speech = speech
        self.noise = noise
        self.early_reflections = float(early_reflections)
        self._unreadable: set[str] = set()
        self._sources = None if root is None else room_sources(Path(root).expanduser())

    def enter(self, generator: torch.Generator) -> bool:
        """Draws whether the next utterance is in a room."""
        return self._sources is not None and uniform(0.0, 1.0, generator) < self.share

    def draw(self, sample_rate: int, generator: torch.Generator, training: bool) -> Response:
        """Draws a response."""
        assert self._sources is not None
        sources = self._sources.of(training)
        problem = ""
        for _ in range(DRAWS):
            source = sources[choice(len(sources), generator)]
            try:
                return read_response(source, sample_rate, generator)
            except UnreadableAudio as error:  # not the utterance's fault: another response takes its place
                problem = str(error)
                if source.path not in self._unreadable:
                    self._unreadable.add(source.path)
                    logger.warning("room response left out: %s", error)
        raise DataError(f"no room response could be read in {DRAWS} draws; the last: {problem}. Check data.room_root")


def room_sources(root: Path) -> Sources:
    """The responses of a folder or manifest, divided by rooms.

    Raises:
        DataError: see :class:`Rooms`.
    """
    found = find_sources(root, "rir", "data.room_root")
    if not found.shared:
        return found
    folders = {Path(source.path).parent for source in found.training}

    def name(source: Source) -> str:
        inside = Path(source.path).relative_to(root)
        return (inside.parent if len(folders) > 1 else inside).as_posix()

    rooms = sorted({name(source) for source in found.training}, key=lambda room: (stable_seed("room", room), room))
    if len(rooms) < 2:
        raise DataError(f"{root} holds one room response only: training and evaluation need rooms of their own")
    heard = set(rooms[: min(max(1, round(TRAINING_SHARE * len(rooms))), len(rooms) - 1)])
    training = tuple(source for source in found.training if name(source) in heard)
    return Sources(found.root, training, tuple(source for source in found.training if name(source) not in heard))


def read_response(source: Source, sample_rate: int, generator: torch.Generator) -> Response:
    """Reads a response of any sample rate; of several channels one is drawn, unless the source names it.

    Raises:
        UnreadableAudio: the file cannot be read, or is silent.
    """
    from bcfusion import audio

    rate = audio.info(source.path).sample_rate
    frames = None if source.duration is None else round(source.duration * rate)
    samples, _ = audio.read(source.path, round(source.offset * rate), frames)
    channel = choice(samples.shape[0], generator) if source.channel is None else source.channel
    if channel >= samples.shape[0]:
        raise UnreadableAudio(
            f"{source.path} has {samples.shape[0]} channel(s), none with number {channel}", source.path
        )
    taps = audio.resample(torch.from_numpy(samples[channel]).double(), rate, sample_rate)
    if not taps.any():
        raise UnreadableAudio(f"{source.path} is silent: no room response", source.path)
    direct = direct_path(taps)
    before = min(direct, round(RISE * sample_rate))
    taps = taps[direct - before :]
    energy = taps[: before + 1 + round(DIRECT * sample_rate)].square().sum()
    return Response((taps * taps[before].sign() / energy.sqrt()).float(), before)


def direct_path(response: Tensor) -> int:
    """The sample at which sound first arrives: the first peak of at least half the largest magnitude of ``(K,)``.

    It need not be the largest: in a reflecting room with the microphone turned away a wall may be louder.
    """
    magnitude = response.abs()
    place = int((magnitude >= ONSET * magnitude.max()).nonzero()[0])
    while place + 1 < len(magnitude) and magnitude[place + 1] > magnitude[place]:
        place += 1
    return place
