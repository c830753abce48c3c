"""The sound files that bcfusion reads and writes, and the errors about them."""

from __future__ import annotations

import os

import numpy as np

from bcfusion.errors import AudioError

__all__ = [
    "EXTENSIONS",
    "FOREIGN",
    "MOST_CHUNKS",
    "RATES",
    "AudioFormatError",
    "UnreadableAudio",
    "one_line",
    "require_finite",
]

#: files that libsndfile reads
EXTENSIONS = (
    *(".wav", ".flac", ".ogg", ".opus", ".mp3"),
    *(".wave", ".bwf", ".w64", ".rf64", ".oga", ".aiff", ".aif", ".aifc", ".au", ".snd", ".caf", ".sph"),
)
#: files of sound, or with sound in them, that libsndfile does not read
FOREIGN = (
    *(".m4a", ".m4b", ".aac", ".mp4", ".m4v", ".mov", ".3gp", ".3ga", ".amr", ".awb", ".wma", ".webm", ".weba", ".mka"),
    *(".mkv", ".avi", ".wv", ".ape", ".tta", ".tak", ".alac", ".ac3", ".eac3", ".dts", ".dsf", ".dff", ".ra", ".spx"),
    *(".mp1", ".mp2", ".mpc", ".qcp", ".gsm", ".raw", ".pcm"),
)

#: Hz that a header may state: a tenth of what holds speech, up to ten times what converters give. Memory grows with the
#: rate, for what is read at once, and against it, for what is resampled.
RATES = (100, 1 << 20)
#: chunks of a WAV or one of its relatives before its samples: programs write some tens, and each takes time
MOST_CHUNKS = 4096


class AudioFormatError(AudioError):
    """A sound file that can be read but has a different number of channels or sample rate than the task needs.

    Kept apart from a damaged file: replacing one clip by another would not help, the configuration must change.
    """


class UnreadableAudio(AudioError):
    """A sound file that is missing, damaged, truncated, empty, or holds samples that are not numbers.

    Attributes:
        path: of the file, so that it can be counted and replaced by another one.
    """

    def __init__(self, message: str, path: str | os.PathLike[str] = "") -> None:
        super().__init__(message)
        self.path = os.fspath(path)


def require_finite(samples: np.ndarray, path: str | os.PathLike[str]) -> None:
    """Refuse samples that are not numbers.

    Args:
        samples: ``(..., time)``.
        path: named in the message.

    Raises:
        UnreadableAudio: a sample is NaN or infinite; the message gives their number and the position of the first.
    """
    finite = np.isfinite(samples)
    if not finite.all():
        bad = np.flatnonzero(~finite.reshape(-1, finite.shape[-1]).all(axis=0))
        raise UnreadableAudio(
            f"{path} holds NaN or infinite samples: {bad.size} of them, the first at sample {bad[0]}", path
        )


def one_line(error: Exception) -> str:
    """Return what an error of libsndfile or of the operating system says, without line breaks and final dots."""
    text = getattr(error, "error_string", None) or getattr(error, "strerror", None) or str(error)
    return " ".join(str(text).split()).rstrip(".")
