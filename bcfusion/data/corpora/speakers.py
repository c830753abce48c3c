"""Who speaks in the utterances of a corpus, as far as it is known."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Literal, Protocol

from bcfusion.contracts import UNKNOWN_SPEAKER

__all__ = ["Spoken", "known_speakers", "speakers_text", "wearer"]


class Spoken(Protocol):
    """What somebody speaks: a row, or a line of a manifest."""

    @property
    def speaker(self) -> str: ...


def known_speakers(utterances: Iterable[Spoken]) -> set[str]:
    """Return the names of the speakers, without ``unknown``: that is not one person."""
    return {utterance.speaker for utterance in utterances} - {UNKNOWN_SPEAKER}


def speakers_text(speakers: Collection[str]) -> str:
    """Return how many speakers there are: ``2 speakers``, ``1 speaker + unknown``, ``unknown speakers``."""
    names = set(speakers) - {UNKNOWN_SPEAKER}
    count = f"{len(names)} speaker{'s' * (len(names) != 1)}"
    if UNKNOWN_SPEAKER not in speakers:
        return count
    return f"{count} + unknown" if names else "unknown speakers"


def wearer(speaker: str, utterance: str) -> tuple[Literal["speaker", "utterance"], str]:
    """Return who wears the sensor: the speaker, or the utterance if the speaker is unknown.

    Each utterance of an unknown speaker counts as a speaker of its own: as one speaker, a whole corpus without names
    would have the body of a single person.
    """
    return ("utterance", utterance) if speaker == UNKNOWN_SPEAKER else ("speaker", speaker)
