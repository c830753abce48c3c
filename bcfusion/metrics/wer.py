"""Word error rate of a speech recogniser of the user's own."""

from __future__ import annotations

import logging
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from bcfusion.contracts import Skip
from bcfusion.errors import ConfigError, DataError
from bcfusion.metrics.base import MetricBase, checked, is_silent, resample
from bcfusion.metrics.transcripts import edit_distance, read_transcripts, words_of

logger = logging.getLogger(__name__)

PLACE = "{wav}"


class WordErrorRate(MetricBase):
    """Word error rate in per cent, lower is better: ``wer``, with ``wer_words``, the words of the transcript.

    ``100 * (substitutions + deletions + insertions) / words of the transcript``, which insertions may bring above 100.
    A mean over utterances weighs each the same; that of the corpus, as it is mostly published, is
    ``sum(wer * wer_words) / sum(wer_words)`` over the lines of the CSV.

    The command is run once for each utterance, without a shell, and prints what it heard to its standard output. A
    silent estimate says no word and costs no run: all words are deleted.

    Skipped: an utterance without a transcript or whose transcript has no word, and a command that fails or takes too
    long. It has to know the utterance (:class:`bcfusion.contracts.ItemMetric`): without its id, it is skipped.

    Args:
        command: with ``{wav}`` where the file belongs, as ``asr --model small {wav}``.
        transcripts: a manifest with the column ``text``, or a folder of ``<id>.txt``.
        sample_rate: of the 16-bit file that the command is given, in Hz.
        timeout: seconds that the command may take.
        normalise: compare in one case and without punctuation.

    Raises:
        ConfigError: the command has no ``{wav}`` or is not found, there are no transcripts, or a number is not
            positive.
    """

    names = ("wer", "wer_words")

    def __init__(
        self,
        command: str,
        transcripts: str | None,
        sample_rate: int = 16_000,
        timeout: float = 300.0,
        normalise: bool = True,
    ) -> None:
        super().__init__()
        self.higher_is_better = {"wer": False, "wer_words": None}
        problems = []
        try:
            self._command = shlex.split(command)
        except ValueError as error:
            raise ConfigError([f"WordErrorRate: command={command!r}: {str(error).lower()}"]) from None
        if not any(PLACE in part for part in self._command):
            problems.append(f"WordErrorRate: command={command!r} has no {PLACE} where the name of the file belongs")
        elif shutil.which(self._command[0]) is None:
            problems.append(f"WordErrorRate: command={command!r}: {self._command[0]} is not found or not executable")
        if sample_rate < 1 or timeout <= 0:
            problems.append(f"WordErrorRate: sample_rate={sample_rate} and timeout={timeout} must be positive")
        self._transcripts: dict[str, str] = {}
        if transcripts is None:
            problems.append(
                "WordErrorRate: transcripts=None; name a manifest with the column text, or a folder of .txt"
            )
        else:
            try:
                self._transcripts = read_transcripts(transcripts)
            except DataError as error:
                problems.append(f"WordErrorRate: {error}")
        if problems:
            raise ConfigError(problems)
        self.sample_rate, self.timeout, self.normalise = sample_rate, timeout, normalise

    def score_item(self, item_id: str, estimate: Any, target: Any, sample_rate: int) -> dict[str, float]:
        """Score one utterance by its transcript.

        Args:
            item_id: of the utterance in the transcripts. estimate, target: ``(T,)``. sample_rate: of both, in Hz.

        Raises:
            Skip: it cannot be scored.
            ValueError: an array is not one-dimensional.
        """
        estimate, _ = checked(estimate, target)
        if item_id not in self._transcripts:
            raise Skip("no transcript")
        said = words_of(self._transcripts[item_id], self.normalise)
        if not said:
            raise Skip("transcript without a word")
        heard = [] if is_silent(estimate) else words_of(self._heard(estimate, sample_rate), self.normalise)
        return {"wer": 100.0 * edit_distance(said, heard) / len(said), "wer_words": float(len(said))}

    def _measure(self, estimate: np.ndarray, target: np.ndarray, sample_rate: int) -> dict[str, float]:
        raise Skip("the id of the utterance is not known")

    def _heard(self, estimate: np.ndarray, sample_rate: int) -> str:
        import soundfile

        estimate = resample(estimate, sample_rate, self.sample_rate)
        with tempfile.TemporaryDirectory(prefix="bcfusion-wer-") as folder:
            file = str(Path(folder, "utterance.wav"))
            soundfile.write(file, np.clip(estimate, -1.0, 1.0), self.sample_rate, subtype="PCM_16")
            command = [part.replace(PLACE, file) for part in self._command]
            try:
                done = subprocess.run(
                    command, stdin=subprocess.DEVNULL, capture_output=True, timeout=self.timeout, check=False
                )
            except subprocess.TimeoutExpired:
                raise Skip(f"recogniser took longer than {self.timeout:g} s") from None
            except OSError as error:
                raise Skip(f"recogniser cannot be started: {error.strerror}") from None
        if done.returncode != 0:
            logger.warning("%s: %s", shlex.join(self._command), done.stderr.decode(errors="replace").strip()[-500:])
            raise Skip(f"recogniser failed with status {done.returncode}")
        return done.stdout.decode(errors="replace")
