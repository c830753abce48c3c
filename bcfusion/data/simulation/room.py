"""Rooms: reverberant speech and noise, with the direct path at time zero."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import pad

from bcfusion.audio import UnreadableAudio
from bcfusion.contracts import Draw
from bcfusion.data.seeding import stable_seed
from bcfusion.data.simulation import choice, uniform
from bcfusion.data.simulation.fir import causal_filter
from bcfusion.data.simulation.sources import Source, Sources, find_sources, require_with
from bcfusion.errors import DataError
from bcfusion.files import normal_name, on_disk
from bcfusion.requirements import Rule, within

logger = logging.getLogger(__name__)

#: smallest magnitude of the direct path, relative to the largest of the response: a stronger reflection may exceed it
#: by 6 dB, and the ripple before a band-limited pulse, 13 dB below it, is well under the threshold
ONSET = 0.5
#: seconds that a band-limited direct path lasts before its peak; what is earlier is the delay from source to microphone
RISE = 0.001
#: seconds after the peak that count as the direct path when its level is measured
DIRECT = 0.0025
#: share of the rooms used for training if nothing assigns rooms to splits
TRAINING_SHARE = 0.8
#: unreadable responses in succession that end the run
DRAWS = 8


@dataclass(frozen=True)
class Response:
    """A room response ``taps (K,)`` whose direct path is at tap ``direct``, has energy 1 and is not inverted."""

    taps: Tensor
    direct: int

    def reverberate(self, signal: Tensor) -> Tensor:
        """Return ``(1, T)`` as it sounds in the room, the direct path aligned with the signal and at its level.

        The signal counts as silent before its first sample, so there is no reverberation of earlier sound.
        """
        ahead = pad(signal, (0, self.direct))
        return causal_filter(ahead[None], self.taps[None])[0, :, self.direct :]

    def early(self, samples: int) -> Response:
        """Return the response up to ``samples`` after the direct path."""
        return Response(self.taps[: self.direct + samples + 1], self.direct)


class Rooms:
    """Draws room responses; an argument of simulators whose microphone is in a room.

    A measured or computed response begins with the delay from source to microphone, several milliseconds, by which the
    air channel would come later than its target and than the body sensor, and it has an arbitrary level. Here the peak
    of the direct path is moved to time zero, exact to the sample, and the direct path, up to 2.5 ms after the peak, is
    scaled to energy 1 and positive sign: the air microphone keeps position, level and polarity, and the room is added.

    Training and evaluation never share a room. A manifest assigns each response to a split (column ``rir``), as does a
    folder with ``train/`` and ``valid/`` or ``test/``. Of any other folder, training gets 80 % of the rooms, by a hash
    of their names: each subfolder that holds responses is a room, or each file if there is only one folder.

    Args:
        root: folder or manifest of room responses; None: there are no rooms, whatever the other arguments are.
        share: of the utterances, in [0, 1], that are in a room; the others are dry.
        speech: whether the speech is reverberant.
        noise: whether the noise is, with a response of its own. Recorded noise usually is already.
        early_reflections: seconds after the direct path up to which reflections belong to the target. 0.05 is usual:
            they help intelligibility, so a network need not remove them. 0: the target is the dry speech.

    Raises:
        ConfigError: an argument is out of range.
        DataError: there is no such folder or manifest, or it holds no audio or only one room; when called, response
            after response cannot be read (single unreadable files are reported in a warning and replaced by others).
    """

    def __init__(
        self,
        root: str | None = None,
        share: float = 1.0,
        speech: bool = True,
        noise: bool = False,
        early_reflections: float = 0.0,
    ) -> None:
        rules: tuple[Rule, ...] = (
            within(0, 1, share=share),
            within(0, 10, early_reflections=early_reflections),
            (speech or not early_reflections, "early_reflections needs speech=true: dry speech has none"),
            (
                root is None or speech or noise,
                "speech=false and noise=false leave nothing in the room; set root to null for no rooms",
            ),
        )
        searched = None if root is None else on_disk(root)
        self._sources = require_with(self, rules, lambda: None if searched is None else room_sources(searched))
        self.share = float(share)
        self.speech = speech
        self.noise = noise
        self.early_reflections = float(early_reflections)
        self._unreadable: set[str] = set()

    def enter(self, draw: Draw) -> bool:
        """Draw whether the utterance is in a room."""
        return self._sources is not None and uniform(0.0, 1.0, draw.generator) < self.share

    def response(self, draw: Draw) -> Response:
        """Draw a response of the room."""
        assert self._sources is not None
        sources = self._sources.of(draw.training)
        problem = ""
        for _ in range(DRAWS):
            source = sources[choice(len(sources), draw.generator)]
            try:
                return read_response(source, draw.sample_rate, draw.generator)
            except UnreadableAudio as error:  # not the utterance's fault: another response takes its place
                problem = str(error)
                if source.path not in self._unreadable:
                    self._unreadable.add(source.path)
                    logger.warning("room response left out: %s", error)
        raise DataError(f"no room response could be read in {DRAWS} draws; the last: {problem}. Check data.room_root")


def room_sources(root: Path) -> Sources:
    """Find the responses of a folder or manifest, and divide them by rooms.

    Raises:
        DataError: see :class:`Rooms`.
    """
    found = find_sources(root, "rir", "data.room_root")
    if not found.shared:
        return found
    folders = {Path(source.path).parent for source in found.training}

    def name(source: Source) -> str:
        inside = Path(source.path).relative_to(root)
        return normal_name((inside.parent if len(folders) > 1 else inside).as_posix())

    rooms = sorted({name(source) for source in found.training}, key=lambda room: (stable_seed("room", room), room))
    if len(rooms) < 2:
        raise DataError(f"{root} holds only one room response: training and evaluation need different rooms")
    chosen = set(rooms[: min(max(1, round(TRAINING_SHARE * len(rooms))), len(rooms) - 1)])
    training = tuple(source for source in found.training if name(source) in chosen)
    return Sources(found.root, training, tuple(source for source in found.training if name(source) not in chosen))


def read_response(source: Source, sample_rate: int, generator: torch.Generator) -> Response:
    """Read a response of any sample rate; of several channels one is drawn, unless the source names one.

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
            f"{source.path} has {samples.shape[0]} channel(s), none of them number {channel}", source.path
        )
    taps = audio.resample(torch.from_numpy(samples[channel]).double(), rate, sample_rate)
    if not taps.any():
        raise UnreadableAudio(f"{source.path} is silent, not a room response", source.path)
    direct = direct_path(taps)
    before = min(direct, round(RISE * sample_rate))
    taps = taps[direct - before :]
    energy = taps[: before + 1 + round(DIRECT * sample_rate)].square().sum()
    return Response((taps * taps[before].sign() / energy.sqrt()).float(), before)


def direct_path(response: Tensor) -> int:
    """Return the sample at which sound arrives: the first peak of at least half the largest magnitude of ``(K,)``.

    It need not be the largest: in a reflecting room with the microphone turned away, a wall may be louder.
    """
    magnitude = response.abs()
    place = int((magnitude >= ONSET * magnitude.max()).nonzero()[0])
    while place + 1 < len(magnitude) and magnitude[place + 1] > magnitude[place]:
        place += 1
    return place
