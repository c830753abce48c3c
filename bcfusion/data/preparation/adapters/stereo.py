"""A folder of recordings that hold a sensor in each channel."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from bcfusion.audio import AudioInfo
from bcfusion.data.corpora.folder import header
from bcfusion.data.preparation.adapters import Option, Recording
from bcfusion.data.preparation.adapters.channels import check_channel_order
from bcfusion.data.preparation.adapters.folder import PLACE_OPTIONS, placed
from bcfusion.errors import DataError

_NONE = "-"  # a channel that is left out
_LOOKED_AT = 15


class Stereo:
    """Recordings of two channels or more; the order of the sensors is said by the user and checked on the sound."""

    summary = "a folder of stereo files, body sensor and air microphone in the two channels"
    source = "your own recordings"
    layout = """\
ROOT/train/**/SPEAKER/NAME.{wav,flac,...}    so valid (or val, validation, dev) and test (or eval)
or, with speakers divided among the splits: ROOT/**/SPEAKER/NAME.{wav,flac,...}
channel by channel: the sensors that --channels names"""
    kind = "speech"
    options: tuple[Option, ...] = (
        Option(
            "channels",
            "sensor of each channel, first to last, as body,air; - leaves one out: --channels=-,air",
            "body,air",
        ),
        *PLACE_OPTIONS,
    )

    def recordings(self, root: Path, options: Mapping[str, str], unpacked: Path) -> Iterator[Recording]:
        """The files, sorted by path, after the check of the channel order."""
        channels = _channels(options["channels"])
        found = placed(self, root, options)
        if "body" in channels:
            files = _some_with_channel([one.file for one in found], max(channels["air"], channels["body"]))
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
        raise DataError(f"--channels {text!r}: a sensor for each channel, one of them air, each once, as body,air")
    return {name: channel for channel, name in enumerate(names) if name != _NONE}


def _some_with_channel(files: list[Path], channel: int) -> list[Path]:
    """Files, spread evenly, that can be looked at; what is wrong with the others is counted when headers are read."""
    spread = files[:: max(1, len(files) // _LOOKED_AT)][:_LOOKED_AT]
    headers = {file: header(file) for file in spread}
    return [file for file, found in headers.items() if isinstance(found, AudioInfo) and found.channels > channel]


ADAPTER = Stereo()
