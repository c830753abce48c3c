"""Word error rate of the user's own speech recogniser."""

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
from bcfusion.errors import DataError
from bcfusion.files import normal_name
from bcfusion.metrics.base import MetricBase, checked, is_silent, resample
from bcfusion.metrics.transcripts import edit_distance, read_transcripts, words_of
from bcfusion.requirements import above, at_least, require

logger = logging.getLogger(__name__)

PLACE = "{wav}"


class WordErrorRate(MetricBase):
    """Word error rate in per cent, lower is better: ``wer``, and the number of words of the transcript, ``wer_words``.

    ``100 * (substitutions + deletions + insertions) / words of the transcript``; insertions may raise it above 100. A
    mean over utterances weights each the same; the rate of the corpus, which is mostly published, is
    ``sum(wer * wer_words) / sum(wer_words)`` over the lines of the CSV.

    The command is run once per utterance, without a shell, and prints the recognised words to its standard output. For
    a silent estimate it is not run: all words count as deleted.

    An utterance is skipped if it has no transcript or a transcript without words, or if the command fails or takes too
    long. The metric needs the id of the utterance (:class:`bcfusion.contracts.ItemMetric`); without it, the utterance
    is skipped.

    Args:
        command: command line with ``{wav}`` as the name of the file, as ``asr --model small {wav}``.
        transcripts: a manifest with the column ``text``, or a folder of ``<id>.txt``.
        sample_rate: of the 16-bit file that the command is given, in Hz.
        timeout: for one run of the command, in seconds.
        normalise: whether to ignore case and punctuation.

    Raises:
        ConfigError: the command cannot be parsed, lacks ``{wav}`` or is not found, there are no transcripts, or a
            number is out of its range.
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
        self._command, command_problem = _parsed(command)
        self._transcripts, transcript_problem = _read(transcripts)
        require(
            self,
            (not command_problem, f"command={command!r} {command_problem}"),
            at_least(1, sample_rate=sample_rate),
            above(0, timeout=timeout),
            (not transcript_problem, transcript_problem),
        )
        self.higher_is_better = {"wer": False, "wer_words": None}
        self.sample_rate, self.timeout, self.normalise = sample_rate, timeout, normalise

    def score_item(self, item_id: str, estimate: Any, target: Any, sample_rate: int) -> dict[str, float]:
        """Score one utterance by its transcript.

        Args:
            item_id: of the utterance in the transcripts.
            estimate: ``(T,)``.
            target: ``(T,)``.
            sample_rate: of both, in Hz.

        Raises:
            Skip: it cannot be scored.
            ValueError: an array is not one-dimensional.
        """
        estimate, _ = checked(estimate, target)
        if (name := normal_name(item_id)) not in self._transcripts:
            raise Skip("no transcript")
        spoken = words_of(self._transcripts[name], self.normalise)
        if not spoken:
            raise Skip("transcript without a word")
        recognised = [] if is_silent(estimate) else words_of(self._recognise(estimate, sample_rate), self.normalise)
        return {"wer": 100.0 * edit_distance(spoken, recognised) / len(spoken), "wer_words": float(len(spoken))}

    def _measure(self, estimate: np.ndarray, target: np.ndarray, sample_rate: int) -> dict[str, float]:
        raise Skip("the id of the utterance is not known")

    def _recognise(self, estimate: np.ndarray, sample_rate: int) -> str:
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


def _parsed(command: str) -> tuple[list[str], str]:
    """Return the arguments of a command line, and what is wrong with it."""
    try:
        arguments = shlex.split(command)
    except ValueError as error:
        return [], f"cannot be parsed: {str(error).lower()}"
    if not any(PLACE in argument for argument in arguments):
        return [], f"lacks {PLACE}, which stands for the name of the file"
    if shutil.which(arguments[0]) is None:
        return [], f"cannot be run: {arguments[0]} is not found or not executable"
    return arguments, ""


def _read(transcripts: str | None) -> tuple[dict[str, str], str]:
    """Return the transcripts, and what is wrong with them."""
    if transcripts is None:
        return {}, "transcripts=None must name a manifest with the column text, or a folder of .txt"
    try:
        return read_transcripts(transcripts), ""
    except DataError as error:
        return {}, str(error)
