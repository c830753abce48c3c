"""Which channel of a stereo recording is the air microphone: told by the user, and checked against the sound."""

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

# Bone and skin keep little above 2 kHz, whatever the sensor: the level there tells the air microphone.
_CORNER_HZ = 2000.0
_LOWEST_HZ = 125.0  # below is hum and handling noise, which differs between sensors and says nothing
_BANDS_PER_OCTAVE = 3
_LOOKED_AT = 15
_SECONDS = 10.0
_FRAME_SECONDS = 0.032
_CLEAR_DB = 1.0  # a smaller difference is no vote
_SILENT = 1e-10  # mean square, -100 dB: no vote either


def channels_of(options: Mapping[str, str]) -> dict[str, int]:
    """The channels that :data:`CHANNEL_OPTIONS` ask for, sensor to channel.

    Raises:
        DataError: one is no whole number of 0 or more.
    """
    channels = {}
    for option in CHANNEL_OPTIONS:
        value = options[option.name]
        if not value.isdecimal():
            raise DataError(f"--{option.name} {value!r} is no channel: 0 is the first")
        channels[option.name.removesuffix("-channel")] = int(value)
    return channels


def check_channel_order(files: Sequence[Path], air_channel: int, body_channel: int, swap: str | None = None) -> None:
    """Refuse a channel order that the recordings contradict: air must be the channel of the wider band.

    Ten seconds from the middle of up to 15 files, spread evenly, are read. A file votes where the level above 2 kHz
    relative to that below differs between the two channels by more than 1 dB. Levels are means over third-octave bands
    in dB, of what rises above the steady noise: so the narrow line at 2 kHz that the sensor of ABCS rings with
    (github.com/wangmou21/abcs/issues/1), or the hiss of another sensor, is not taken for speech.

    Args:
        files: of the corpus, with the same order of channels in all; none are read where there are none.
        air_channel: of the air microphone, counted from 0.
        body_channel: of the body sensor, counted from 0.
        swap: the options that would swap them, for the message; None: those of :data:`CHANNEL_OPTIONS`.

    Raises:
        DataError: the two are one channel, a file has not that many channels, most votes are for the other order, or
            the two channels of most files are the same signal. An unreadable file has no vote: it is told where
            headers are read.
    """
    if air_channel == body_channel:
        raise DataError(
            f"--air-channel and --body-channel are both {air_channel}: the two sensors lie in different channels"
        )
    step = max(1, len(files) // _LOOKED_AT)
    looked_at = files[::step][:_LOOKED_AT]
    differences = [_difference(file, air_channel, body_channel) for file in looked_at]
    same = sum(np.isneginf(difference) for difference in differences)
    votes = [difference for difference in differences if np.isfinite(difference) and abs(difference) > _CLEAR_DB]
    against = sum(vote < 0 for vote in votes)
    if 2 * same > len(looked_at):
        raise DataError(
            f"{files[0].parent}: channels {air_channel} and {body_channel} hold the same signal in {same} of "
            f"{len(looked_at)} files looked at: this is a mono recording in two channels, not two sensors"
        )
    if 2 * against > len(votes):
        raise DataError(
            f"{files[0].parent}: in {against} of {len(votes)} files looked at, channel {body_channel} has more energy "
            f"above {_CORNER_HZ:.0f} Hz than channel {air_channel}, so it is the air microphone: swap the two, "
            + (swap or f"--air-channel {body_channel} --body-channel {air_channel}")
        )


def _difference(file: Path, air_channel: int, body_channel: int) -> float:
    """How much wider the air channel's band is, dB; NaN where that cannot be said, -inf where both are one signal."""
    try:
        header = audio.info(file)
    except audio.UnreadableAudio:
        return float("nan")
    highest = max(air_channel, body_channel)
    if header.channels <= highest:
        raise DataError(
            f"{file} has {header.channels} channel(s), but channel {highest} (counted from 0) is asked for by "
            f"--{'air' if air_channel == highest else 'body'}-channel"
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
    """Level above 2 kHz relative to that from 125 Hz to 2 kHz, dB."""
    frame = round(_FRAME_SECONDS * sample_rate)
    frames = np.lib.stride_tricks.sliding_window_view(np.pad(signal, (0, frame)), frame)[:: frame // 2]
    power = np.abs(np.fft.rfft(frames * np.hanning(frame))) ** 2
    speech = np.maximum(power.mean(axis=0) - np.percentile(power, 10, axis=0), 0.1 * power.mean(axis=0)) + _SILENT
    frequency = np.fft.rfftfreq(frame, 1 / sample_rate)
    band = np.floor(_BANDS_PER_OCTAVE * np.log2(np.maximum(frequency, 1) / _CORNER_HZ))
    heard = frequency >= _LOWEST_HZ
    level = {b: 10 * np.log10(speech[heard & (band == b)].mean()) for b in np.unique(band[heard])}
    above, below = ([level[b] for b in level if (b >= 0) == high] for high in (True, False))
    return float(np.mean(above) - np.mean(below)) if above else float("nan")
