"""ESMB: Mandarin speech from earbuds with a microphone and a bone sensor, in the two channels of a file.

Elevoc Simultaneously-recorded Microphone/Bone-sensor corpus: 131 men and 156 women, some 20 minutes each, a stereo
recording at 16 kHz of each earbud (github.com/elevoctech/ESMB-corpus). CUHK's AIoT lab reads it with the two earbuds of
a speaker in one folder and air as the first channel; TDK's lists name speakers by four digits. The archive itself was
not available to us: names of files are not relied upon, and the channel order is checked.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from bcfusion import audio
from bcfusion.data.preparation.adapters import Option, Recording, missing, split_by_speaker
from bcfusion.data.preparation.adapters.channels import CHANNEL_OPTIONS, channels_of, check_channel_order
from bcfusion.data.preparation.adapters.tree import relative_id, sounds_of
from bcfusion.errors import AudioError, DataError

_SECONDS = Option("seconds", "length of the rows that long recordings are cut into", default="10")


class Esmb:
    """Outer microphone and bone sensor of each earbud; the corpus has no official splits.

    The speaker is the folder that a file lies in; speakers are divided 80/10/10 by a hash of their names. The sound is
    checked for the order of the channels. A recording of minutes becomes rows of ``--seconds``, the last one up to
    twice as long.
    """

    summary = "Mandarin speech, microphone and bone sensor of earbuds in stereo, 16 kHz, 287 speakers, 128 h"
    source = "https://github.com/elevoctech/ESMB-corpus (MEGA); no licence is stated, ask Elevoc"
    layout = """\
ROOT/**/SPEAKER/LEFT.wav     channel 0 air, channel 1 bone
ROOT/**/SPEAKER/RIGHT.wav    the other earbud"""
    kind = "speech"
    options: tuple[Option, ...] = (*CHANNEL_OPTIONS, _SECONDS)

    def recordings(self, root: Path, options: Mapping[str, str], unpacked: Path) -> Iterator[Recording]:
        """Yield rows of some seconds, after checking the channel order; headers are read for the lengths."""
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
    """Return the seconds of a file; 0 if it is unreadable, so that its single row is counted as unreadable later."""
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
        raise DataError(f"--{_SECONDS.name} {value!r} is not a length in seconds")
    return seconds


ADAPTER = Esmb()
