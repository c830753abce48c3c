"""Write sound files."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import soundfile

from bcfusion.audio.formats import one_line
from bcfusion.errors import AudioError
from bcfusion.files import appearing

__all__ = ["write"]

_FORMATS = {".wav": "WAV", ".flac": "FLAC"}


def write(
    path: str | os.PathLike[str],
    samples: np.ndarray,
    sample_rate: int,
    subtype: str = "PCM_16",
) -> None:
    """Write a WAV or FLAC file; it appears whole or not at all.

    Args:
        path: ends in ``.wav`` or ``.flac``; missing folders are created.
        samples: ``(channels, time)`` or ``(time,)``, real; full scale is 1, integer formats clip what exceeds it.
        sample_rate: in Hz.
        subtype: libsndfile's name: ``PCM_16``, ``PCM_24``, or for WAV also ``FLOAT``.

    Raises:
        AudioError: another extension, a subtype that the format does not have, samples of a wrong shape or not finite,
            or a place that cannot be written to.
    """
    target = Path(path)
    file_format = _FORMATS.get(target.suffix.lower())
    if file_format is None:
        raise AudioError(f"cannot write {target}: the name must end in {' or '.join(_FORMATS)}")
    if not soundfile.check_format(file_format, subtype):
        raise AudioError(f"cannot write {target}: {file_format} has no subtype {subtype!r}; use PCM_16 or PCM_24")
    data = np.atleast_2d(np.asarray(samples, dtype=np.float32))
    if data.ndim != 2 or data.shape[0] == 0:
        raise AudioError(f"cannot write {target}: samples of shape {np.shape(samples)}, expected (channels, time)")
    if not np.isfinite(data).all():
        raise AudioError(f"cannot write {target}: the samples hold NaN or infinity")
    try:
        with appearing(target) as part:
            soundfile.write(part, data.T, sample_rate, subtype=subtype, format=file_format)
    except (OSError, soundfile.LibsndfileError) as error:
        raise AudioError(f"cannot write {target}: {one_line(error)}") from error
