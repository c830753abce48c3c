"""A folder of recordings with one sensor per channel."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from bcfusion.audio import AudioInfo
from bcfusion.data.corpora.headers import header
from bcfusion.data.preparation.adapters import Option, Recording
from bcfusion.data.preparation.adapters.channels import check_channel_order, spread
from bcfusion.data.preparation.adapters.folder import PLACE_OPTIONS, placed
from bcfusion.errors import DataError

_NONE = "-"  # a channel that is left out


class Stereo:
    """Recordings of two or more channels; the user gives the order of the sensors, and the sound is checked for it."""

    summary = "a folder of stereo files, body sensor and air microphone in the two channels"
    source = "your own recordings"
    layout = """\
ROOT/train/**/SPEAKER/NAME.{wav,flac,...}    likewise valid (or val, validation, dev) and test (or eval)
or, with speakers divided among the splits: ROOT/**/SPEAKER/NAME.{wav,flac,...}
each channel: the sensor that --channels names for it"""
    kind = "speech"
    options: tuple[Option, ...] = (
        Option(
            "channels",
            "sensor of each channel, first to last, for example body,air; - skips one: --channels=-,air",
            "body,air",
        ),
        *PLACE_OPTIONS,
    )

    def recordings(self, root: Path, options: Mapping[str, str], unpacked: Path) -> Iterator[Recording]:
        """Yield the files, sorted by path, after checking the channel order."""
        channels = _channels(options["channels"])
        found = placed(self, root, options)
        if "body" in channels:
            # what is wrong with the others is counted when headers are read
            highest = max(channels["air"], channels["body"])
            headers = [header(file) for file in spread([one.file for one in found])]
            files = [Path(each.path) for each in headers if isinstance(each, AudioInfo) and each.channels > highest]
            names = options["channels"].split(",")
            names[channels["air"]], names[channels["body"]] = "body", "air"
            swap = f"--channels={','.join(names)}"
            check_channel_order(files, channels["air"], channels["body"], swap)
        for one in found:
            yield Recording(
                id=one.id,
                split=one.split,
                speaker=one.speaker,
                paths=dict.fromkeys(channels, one.file),
                channels=channels,
            )


def _channels(text: str) -> dict[str, int]:
    names = [name.strip() for name in text.split(",")]
    sensors = [name for name in names if name != _NONE]
    if "air" not in sensors or not all(name.isidentifier() for name in sensors) or len(set(sensors)) < len(sensors):
        raise DataError(
            f"--channels {text!r}: name a different sensor for each channel, one of them air, for example body,air"
        )
    return {name: channel for channel, name in enumerate(names) if name != _NONE}


ADAPTER = Stereo()
