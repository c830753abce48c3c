"""Which channel of a stereo recording is the air microphone: given by the user, and checked against the sound."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from bcfusion import audio
from bcfusion.data.preparation.adapters import Option
from bcfusion.errors import DataError

CHANNEL_OPTIONS = (
    Option("air-channel", "channel of the air microphone, counted from 0", default="0"),
    Option("body-channel", "channel of the body sensor, counted from 0", default="1"),
)  #: of an adapter whose recordings hold both sensors in one file

# Bone and skin pass little above 2 kHz, whatever the sensor: the level there identifies the air microphone.
_CORNER_HZ = 2000.0
_LOWEST_HZ = 125.0  # hum and handling noise below it differ between sensors and mean nothing
_BANDS_PER_OCTAVE = 3
_CHECKED_FILES = 15
_SECONDS = 10.0
_FRAME_SECONDS = 0.032
_CLEAR_DB = 1.0  # a smaller difference is no vote
_SILENT = 1e-10  # mean square, -100 dB: no vote either


def channels_of(options: Mapping[str, str]) -> dict[str, int]:
    """Return the channels that the values of :data:`CHANNEL_OPTIONS` name, sensor to channel.

    Raises:
        DataError: a value is not a whole number of at least 0.
    """
    channels = {}
    for option in CHANNEL_OPTIONS:
        value = options[option.name]
        if not value.isdecimal():
            raise DataError(f"--{option.name} {value!r} is not a channel; the first is 0")
        channels[option.name.removesuffix("-channel")] = int(value)
    return channels


def spread(files: Sequence[Path]) -> Sequence[Path]:
    """Return the files that :func:`check_channel_order` reads: up to 15, evenly spread."""
    return files[:: max(1, len(files) // _CHECKED_FILES)][:_CHECKED_FILES]


def check_channel_order(files: Sequence[Path], air_channel: int, body_channel: int, swap: str | None = None) -> None:
    """Refuse a channel order that the recordings contradict: air must be the channel of the wider band.

    Ten seconds from the middle of up to 15 files, evenly spread, are read. A file votes if the level above 2 kHz
    relative to the level below differs between the two channels by more than 1 dB. Levels are means over third-octave
    bands in dB, of what rises above the steady noise, so that the narrow line at 2 kHz that the sensor of ABCS rings
    with (github.com/wangmou21/abcs/issues/1), or the hiss of another sensor, is not taken for speech.

    Args:
        files: of the corpus, all with the same order of channels; there may be none.
        air_channel: of the air microphone, counted from 0.
        body_channel: of the body sensor, counted from 0.
        swap: the options that would swap them, for the message; None: those of :data:`CHANNEL_OPTIONS`.

    Raises:
        DataError: the two are one channel, a file does not have that many channels, most votes are for the other order,
            or the two channels of most files are the same signal. An unreadable file has no vote; it is reported when
            headers are read.
    """
    if air_channel == body_channel:
        raise DataError(
            f"--air-channel and --body-channel are both {air_channel}: the two sensors lie in different channels"
        )
    checked = spread(files)
    differences = [_difference(file, air_channel, body_channel) for file in checked]
    same = sum(np.isneginf(difference) for difference in differences)
    votes = [difference for difference in differences if np.isfinite(difference) and abs(difference) > _CLEAR_DB]
    against = sum(vote < 0 for vote in votes)
    if 2 * same > len(checked):
        raise DataError(
            f"{files[0].parent}: channels {air_channel} and {body_channel} hold the same signal in {same} of "
            f"{len(checked)} checked files: this is a mono recording in two channels, not two sensors"
        )
    if 2 * against > len(votes):
        raise DataError(
            f"{files[0].parent}: in {against} of {len(votes)} checked files, channel {body_channel} has more energy "
            f"above {_CORNER_HZ:.0f} Hz than channel {air_channel}, so it is the air microphone: swap the two with "
            + (swap or f"--air-channel {body_channel} --body-channel {air_channel}")
        )


def _difference(file: Path, air_channel: int, body_channel: int) -> float:
    """Return how much wider the air channel's band is, dB; NaN if that is unknown, -inf if both are one signal."""
    try:
        header = audio.info(file)
    except audio.UnreadableAudio:
        return float("nan")
    highest = max(air_channel, body_channel)
    if header.channels <= highest:
        raise DataError(
            f"{file} has {header.channels} channel(s), but --{'air' if air_channel == highest else 'body'}-channel "
            f"asks for channel {highest}, counted from 0"
        )
    frames = min(header.frames, round(_SECONDS * header.sample_rate))
    try:
        samples, sample_rate = audio.read(file, (header.frames - frames) // 2, frames)
    except audio.UnreadableAudio:
        return float("nan")
    air, body = samples[air_channel], samples[body_channel]
    if min(np.mean(air**2), np.mean(body**2)) < _SILENT:
        return float("nan")
    if np.array_equal(air, body):
        return float("-inf")
    return _tilt(air, sample_rate) - _tilt(body, sample_rate)


def _tilt(signal: np.ndarray, sample_rate: int) -> float:
    """Return the level above 2 kHz relative to the level from 125 Hz to 2 kHz, dB."""
    frame = round(_FRAME_SECONDS * sample_rate)
    frames = np.lib.stride_tricks.sliding_window_view(np.pad(signal, (0, frame)), frame)[:: frame // 2]
    power = np.abs(np.fft.rfft(frames * np.hanning(frame))) ** 2
    speech = np.maximum(power.mean(axis=0) - np.percentile(power, 10, axis=0), 0.1 * power.mean(axis=0)) + _SILENT
    frequency = np.fft.rfftfreq(frame, 1 / sample_rate)
    band = np.floor(_BANDS_PER_OCTAVE * np.log2(np.maximum(frequency, 1) / _CORNER_HZ))
    counted = frequency >= _LOWEST_HZ
    level = {b: 10 * np.log10(speech[counted & (band == b)].mean()) for b in np.unique(band[counted])}
    above, below = ([level[b] for b in level if (b >= 0) == high] for high in (True, False))
    return float(np.mean(above) - np.mean(below)) if above else float("nan")
