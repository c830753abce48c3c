"""What is known of the utterances of an evaluation: who speaks, of which corpus, how loud the noise is."""

from __future__ import annotations

import math
from collections.abc import Iterable

from torch import Tensor

from bcfusion.audio.level import active_level, level
from bcfusion.contracts import UNKNOWN_SPEAKER, Batch, Row
from bcfusion.data.corpora.manifest_line import number_of
from bcfusion.evaluation.scores import ItemScore, Scores

__all__ = ["UNREADABLE", "Utterances", "snr_text"]

UNREADABLE = "unreadable file"  #: reason of an utterance that was left out


class Utterances:
    """Tells the speaker, the corpus and the signal-to-noise ratio of each item of an evaluation.

    The ratio is measured where a simulator of the task tells the noise that it added: the level of the target while
    somebody speaks over that of the noise, which with a room holds the late reverberation too. For recorded noise it is
    what the column ``snr`` of the manifest says. The corpus is the manifest's column ``corpus``.

    Args:
        rows: of the split. sample_rate: of the batches, in Hz.
    """

    def __init__(self, rows: Iterable[Row], sample_rate: int) -> None:
        self._rows = {row.id: row for row in rows}
        self._sample_rate = sample_rate

    def __call__(self, batch: Batch, position: int) -> dict[str, str]:
        """The columns ``speaker``, ``corpus`` and ``snr`` (dB) of one item; empty where it is not known."""
        about = self._recorded(batch["ids"][position])
        if "noise" in batch:
            length = int(batch["lengths"][position])
            target, noise = batch["target"][position, :, :length], batch["noise"][position, :, :length]
            about["snr"] = snr_text(target, noise, self._sample_rate)
        return about

    def complete(self, scores: Scores) -> Scores:
        """The scores, and behind them the utterances that are not among them, since their files could not be read."""
        scored = {row.id for row in scores.rows}
        left_out = [name for name in self._rows if name not in scored]
        nothing, reasons = dict.fromkeys(scores.names, math.nan), dict.fromkeys(scores.names, UNREADABLE)
        rows = [
            ItemScore(name, system, dict(nothing), dict(reasons), self._recorded(name))
            for name in left_out
            for system in scores.systems
        ]
        return Scores([*scores.rows, *rows], scores.higher_is_better)

    def _recorded(self, name: str) -> dict[str, str]:
        row = self._rows[name]
        ratio = number_of(row.extra.get("snr"))
        return {
            "speaker": "" if row.speaker == UNKNOWN_SPEAKER else row.speaker,
            "corpus": str(row.extra.get("corpus", "")),
            "snr": "" if ratio is None else f"{ratio:.1f}",
        }


def snr_text(speech: Tensor, noise: Tensor, sample_rate: int) -> str:
    """Signal-to-noise ratio in dB to a tenth; empty where there is no speech or no noise.

    Args:
        speech: ``(1, T)``, measured while somebody speaks (:func:`bcfusion.audio.level.active_level`).
        noise: ``(1, T)``, measured over all of it.
        sample_rate: of both, in Hz.
    """
    loudness, disturbance = active_level(speech, sample_rate), level(noise)
    if min(loudness, disturbance) <= _SILENCE:
        return ""
    return f"{20 * math.log10(loudness / disturbance) + 0.0:.1f}"


_SILENCE = 1e-5  # root mean square under the rounding noise of 16 bits
