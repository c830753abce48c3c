"""ESMB: Mandarin speech from earbuds with a microphone and a bone sensor, in the two channels of a file.

Elevoc Simultaneously-recorded Microphone/Bone-sensor corpus: 131 men and 156 women, some 20 minutes each, a stereo
recording at 16 kHz of each earbud (github.com/elevoctech/ESMB-corpus). That a folder holds the two earbuds of a
speaker, and that air is the first channel, is how CUHK's AIoT lab reads it; speakers of four digits are those of TDK's
lists. We have not seen the archive: names of files are not relied upon, and the channel order is checked.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from bcfusion import audio
from bcfusion.data.preparation.adapters import Option, Recording, missing, split_by_speaker
from bcfusion.data.preparation.adapters.channels import CHANNEL_OPTIONS, channels_of, check_channel_order
from bcfusion.data.preparation.adapters.tree import relative_id, sounds_of
from bcfusion.errors import AudioError, DataError

_SECONDS = Option("seconds", "length of the rows that the long recordings are cut into", default="10")


class Esmb:
    """Outer microphone against bone sensor of each earbud; the corpus has no official splits.

    The speaker is the folder that a file lies in; speakers are divided 80/10/10 by a hash of their names. The order of
    the channels is checked on the sound. A recording of minutes becomes rows of ``--seconds``, the last up to twice as
    long.
    """

    summary = "Mandarin speech, microphone and bone sensor of earbuds in stereo, 16 kHz, 287 speakers, 128 h"
    source = "https://github.com/elevoctech/ESMB-corpus (MEGA); no licence is stated, ask Elevoc"
    layout = """\
ROOT/**/SPEAKER/LEFT.wav     channel 0 air, channel 1 bone
ROOT/**/SPEAKER/RIGHT.wav    the other earbud"""
    kind = "speech"
    options: tuple[Option, ...] = (*CHANNEL_OPTIONS, _SECONDS)

    def recordings(self, root: Path, options: Mapping[str, str], unpacked: Path) -> Iterator[Recording]:
        """Rows of some seconds, after the check of the channel order; the headers are read for the lengths."""
        channels = channels_of(options)
        seconds = _positive(options[_SECONDS.name])
        files = [file for file in sounds_of(root) if file.parent != root]
        if not files:
            raise missing(self, root, "no recordings in folders of speakers")
        check_channel_order(files, channels["air"], channels["body"])
        splits = split_by_speaker(file.parent.name for file in files)
        for file in files:
            speaker = file.parent.name
            rows = max(1, int(_duration(file) / seconds))
            for index in range(rows):
                offset = index * seconds
                yield Recording(
                    id=f"{relative_id(file, root)}@{offset:g}",
                    split=splits[speaker],
                    speaker=speaker,
                    paths={"air": file, "body": file},
                    channels=channels,
                    offset=offset,
                    duration=seconds if index < rows - 1 else None,
                )


def _duration(file: Path) -> float:
    """Seconds; 0 for a file that cannot be read, whose one row is counted as unreadable later."""
    try:
        return audio.info(file).duration
    except AudioError:
        return 0.0


def _positive(value: str) -> float:
    try:
        seconds = float(value)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise DataError(f"--{_SECONDS.name} {value!r} is no length in seconds")
    return seconds


ADAPTER = Esmb()
