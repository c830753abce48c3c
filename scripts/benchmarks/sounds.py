"""Speech for the rows that read files or score utterances: a folder of recordings, or made-up speech."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from bcfusion import audio
from benchmarks.harness import Missing

RATE = 16000


def suitable(root: Path, most: int | None, seconds: float) -> list[Path]:
    """Return mono files that are at least a segment long and have the sample rate of the first.

    Args:
        root: folder with sound files, at any depth.
        most: number of files; None: all.
        seconds: length of a segment.

    Raises:
        Missing: there are none.
    """
    found: list[Path] = []
    rate = None
    for file in audio.find_audio(root):
        header = audio.info(file)
        rate = rate or header.sample_rate
        if header.channels == 1 and header.sample_rate == rate and header.duration >= seconds:
            found.append(file)
        if len(found) == most:
            break
    if not found:
        raise Missing(f"--speech {root} has no mono file of at least {seconds:g} s")
    return found


def made_up(folder: Path, count: int, seconds: float) -> list[Path]:
    """Write utterances of the demo corpus's speech, of at least ``seconds``, as FLAC files; return their paths."""
    from bcfusion.data.corpora.demo_speech import draw_voice, utterance

    files = []
    for number in range(count):
        rng = np.random.default_rng([0, number])
        samples, _ = utterance(draw_voice((number % 10 + 0.5) / 10, rng), seconds + 1, RATE, rng)
        repeated = np.resize(samples, max(len(samples), int(np.ceil(seconds * RATE))))
        files.append(folder / f"{number:04d}.flac")
        audio.write(files[-1], repeated, RATE)
    return files


def speech(root: str | None, folder: Path, count: int, seconds: float) -> list[Path]:
    """Return files of speech: from a folder, or else made up in ``folder``."""
    if root is not None:
        return suitable(Path(root), count, seconds)
    folder.mkdir(parents=True, exist_ok=True)
    return made_up(folder, count, seconds)


def origin(root: str | None) -> str:
    """Return a note on the speech."""
    return f"speech of {Path(root).name}" if root is not None else "made-up speech"
