"""Sound files: inspect, read, write, resample, find.

libsndfile decodes and encodes them (:data:`EXTENSIONS`). Samples are float32 of shape
``(channels, time)``, full scale is 1. What is read need not be a file of its own: ``shard.tar::OFFSET+SIZE``
(:func:`part`) is a part of an archive that starts at byte OFFSET, and :class:`EncodedAudio` is a file in memory. Every
failure is an :class:`~bcfusion.errors.AudioError` of one line that names the file: :class:`UnreadableAudio` if the
file is at fault, :class:`AudioFormatError` if it does not fit the task. PyTorch is imported only when something is
resampled, so that a process that only reads files stays small; :mod:`bcfusion.audio.level` needs it.
"""

from bcfusion.audio.finding import find_audio, walk
from bcfusion.audio.formats import EXTENSIONS, AudioFormatError, UnreadableAudio, require_finite
from bcfusion.audio.opening import EncodedAudio, container, encoded, part
from bcfusion.audio.reading import AudioInfo, info, read, read_span
from bcfusion.audio.resampling import RateChange, resample
from bcfusion.audio.writing import write

__all__ = [
    "EXTENSIONS",
    "AudioFormatError",
    "AudioInfo",
    "EncodedAudio",
    "RateChange",
    "UnreadableAudio",
    "container",
    "encoded",
    "find_audio",
    "info",
    "part",
    "read",
    "read_span",
    "require_finite",
    "resample",
    "walk",
    "write",
]
