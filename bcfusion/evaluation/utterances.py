"""The utterances of an evaluation: whole files, and what is known about each of them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from bcfusion.audio.level import active_level, level
from bcfusion.contracts import UNKNOWN_SPEAKER, Batch, Row
from bcfusion.data.corpora.manifest_line import number_of
from bcfusion.data.loading.loaders import EvalLoader, UnreadableTally
from bcfusion.data.loading.segments import EvalItems
from bcfusion.evaluation.scores import ItemScore, Scores

if TYPE_CHECKING:
    from bcfusion.data.loading.datamodule import SpeechDataModule  # imports lightning, which folders do not need

__all__ = ["UNREADABLE", "Utterances", "snr_text"]

UNREADABLE = "unreadable file"  #: reason for which an utterance is skipped
_SILENCE = 1e-5  # root mean square below the rounding noise of 16 bits


class Utterances:
    """Whole files to evaluate on, with the speaker, corpus and signal-to-noise ratio of each.

    The ratio is measured if a simulator of the task provides the noise that it added: the level of the target while
    somebody speaks, over the level of the noise, which with a simulated room includes the late reverberation. For
    recorded noise it is taken from the column ``snr`` of the manifest. The corpus is the manifest's column ``corpus``.

    Args:
        rows: the utterances.
        batches: their signals, see :class:`bcfusion.contracts.Batch`; unreadable utterances are absent.
        sensors: names of the input channels.
        sample_rate: of the batches, in Hz.
        split: that the rows belong to.

    Attributes:
        rows: by id.
    """

    def __init__(
        self,
        rows: Iterable[Row],
        batches: Iterable[Batch],
        sensors: Sequence[str],
        sample_rate: int,
        split: str = "test",
    ) -> None:
        self.rows = {row.id: row for row in rows}
        self.batches = batches
        self.sensors = list(sensors)
        self.sample_rate = sample_rate
        self.split = split

    @classmethod
    def of_split(cls, datamodule: SpeechDataModule, split: str, limit: int | None = None) -> Utterances:
        """Return the utterances of a split; ``valid`` instead of ``test`` if the corpus has no test split.

        Args:
            datamodule: the data.
            split: name of the split.
            limit: use at most so many utterances, evenly spread; None: all.

        Raises:
            DataError: the split is empty or does not fit the task. While the batches are read: more files are
                unreadable than ``data.max_unreadable_share`` allows.
        """
        split = datamodule.test_split if split == "test" else split
        reader = datamodule.reader
        loader = datamodule.whole_dataloader(split, limit)
        return cls(loader.items.rows, loader, reader.sensors, reader.sample_rate, split)

    @classmethod
    def of_rows(cls, datamodule: SpeechDataModule, rows: Sequence[Row], split: str) -> Utterances:
        """Return some utterances of a split, any number of which may be unreadable."""
        reader = datamodule.reader
        loader = EvalLoader(EvalItems(rows, reader), UnreadableTally(len(rows), 1.0, split))
        return cls(rows, loader, reader.sensors, reader.sample_rate, split)

    def about(self, batch: Batch, position: int) -> dict[str, str]:
        """Return the columns ``speaker``, ``corpus`` and ``snr`` (dB) of one item; empty if unknown."""
        about = self._recorded(batch["ids"][position])
        if "noise" in batch:
            length = int(batch["lengths"][position])
            target, noise = batch["target"][position, :, :length], batch["noise"][position, :, :length]
            about["snr"] = snr_text(target, noise, self.sample_rate)
        return about

    def complete(self, scores: Scores) -> Scores:
        """Return the scores, followed by the utterances they lack because their files could not be read."""
        scored = {row.id for row in scores.rows}
        missing = [
            ItemScore.unscored(name, system, scores.names, UNREADABLE, self._recorded(name))
            for name in self.rows
            if name not in scored
            for system in scores.systems
        ]
        return Scores([*scores.rows, *missing], scores.higher_is_better)

    def _recorded(self, name: str) -> dict[str, str]:
        row = self.rows[name]
        ratio = number_of(row.extra.get("snr"))
        return {
            "speaker": "" if row.speaker == UNKNOWN_SPEAKER else row.speaker,
            "corpus": str(row.extra.get("corpus", "")),
            "snr": "" if ratio is None else f"{ratio:.1f}",
        }


def snr_text(speech: Tensor, noise: Tensor, sample_rate: int) -> str:
    """Return the signal-to-noise ratio in dB to a tenth; empty if there is no speech or no noise.

    Args:
        speech: ``(1, T)``, measured while somebody speaks (:func:`bcfusion.audio.level.active_level`).
        noise: ``(1, T)``, measured over all of it.
        sample_rate: of both, in Hz.
    """
    speech_level, noise_level = active_level(speech, sample_rate), level(noise)
    if min(speech_level, noise_level) <= _SILENCE:
        return ""
    return f"{20 * math.log10(speech_level / noise_level) + 0.0:.1f}"
