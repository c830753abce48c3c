"""Which measured lags and polarities are believed: one rule for ``prepare``, ``inspect``, ``calibrate`` and ``train``.

A recording is measured alone, and together with the others of its session, in which sensors and clocks do not change.
Polarity, which wiring sets, rarely changes even between sessions; but voiced speech, shifted by half a period, looks
much the same with the other sign. So the polarity of nearly all recordings of a sensor is taken as known for those that
are not sure.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from bcfusion.contracts import UNKNOWN_SPEAKER
from bcfusion.data.inspect.alignment import ENOUGH, SAME, Alignment, session_alignment

__all__ = [
    "Take",
    "all_believed",
    "believed",
    "session_alignments",
    "session_of",
    "settled",
    "summary",
    "with_common_polarity",
]


AGREE = 4  #: certain recordings that are needed before they decide the polarity of others
COMMON = 0.8  #: share of the confidence that must be for it
SURE = 0.75  #: confidence from which on a recording keeps its own polarity


class Take(Protocol):
    """A recording, as far as its session depends on it: a row, a line of a manifest, a recording of a corpus."""

    @property
    def id(self) -> str: ...

    @property
    def speaker(self) -> str: ...

    @property
    def extra(self) -> Mapping[str, Any]: ...


def session_of(take: Take) -> str:
    """Return the session of a recording: by the column ``session``, else the speaker, else the recording alone."""
    if "session" in take.extra:
        return f"{take.speaker} / {take.extra['session']}"
    return take.id if take.speaker == UNKNOWN_SPEAKER else take.speaker


def with_common_polarity(found: Sequence[Alignment | None]) -> list[Alignment | None]:
    """Return what was measured on recordings of one sensor; where it is unsure, with the polarity of nearly all others.

    A recording with a confidence below :data:`SURE` gets what is measured if the polarity is known, provided that
    :data:`AGREE` or more recordings are certain, and at least :data:`COMMON` of their confidence is for one polarity.

    Args:
        found: what was measured on each recording alone; None: nothing.
    """
    sure = [own for own in found if own is not None and own.confidence >= ENOUGH]
    total = sum(own.confidence for own in sure)
    vote = sum(own.confidence * own.polarity for own in sure)
    if len(sure) < AGREE or abs(vote) < (2 * COMMON - 1) * total:
        return list(found)
    common = 1 if vote > 0 else -1

    def settled(own: Alignment) -> Alignment:
        return next((each for each in own.known if each.polarity == common), own) if own.confidence < SURE else own

    return [None if own is None else settled(own) for own in found]


def settled(takes: Sequence[Take], found: Sequence[Alignment | None]) -> list[Alignment | None]:
    """Return :func:`with_common_polarity` of the recordings of each sensor: by the columns ``corpus`` and ``sensor``.

    Args:
        takes: the recordings.
        found: what was measured on each of them alone; None: nothing.
    """
    groups: dict[tuple[str, ...], list[int]] = {}
    for place, take in enumerate(takes):
        groups.setdefault(tuple(str(take.extra.get(column)) for column in ("corpus", "sensor")), []).append(place)
    made = list(found)
    for places in groups.values():
        for place, own in zip(places, with_common_polarity([found[place] for place in places]), strict=True):
            made[place] = own
    return made


def session_alignments(takes: Sequence[Take], found: Sequence[Alignment | None]) -> dict[str, Alignment]:
    """Return lag and polarity of each session that has measured recordings.

    Args:
        takes: the recordings.
        found: what was measured on each of them alone; None: nothing.
    """
    members: dict[str, list[Alignment]] = {}
    for take, own in zip(takes, found, strict=True):
        if own is not None:
            members.setdefault(session_of(take), []).append(own)
    return {session: session_alignment(alignments) for session, alignments in members.items()}


def believed(own: Alignment | None, session: Alignment | None) -> Alignment | None:
    """Return lag and polarity of a recording: its session's, or its own if they are certain and differ; else None."""
    if own is None or session is None:
        return None
    departs = abs(own.lag_seconds - session.lag_seconds) > SAME or own.polarity != session.polarity
    if own.confidence >= ENOUGH and (departs or session.confidence < ENOUGH):
        return own
    return session if session.confidence >= ENOUGH else None


def all_believed(takes: Sequence[Take], found: Sequence[Alignment | None]) -> list[Alignment | None]:
    """Return what is believed of each recording; None if both the recording and its session are uncertain.

    Args:
        takes: the recordings.
        found: what was measured on each of them alone; None: nothing.
    """
    found = settled(takes, found)
    sessions = session_alignments(takes, found)
    return [believed(own, sessions.get(session_of(take))) for take, own in zip(takes, found, strict=True)]


def summary(results: Sequence[Alignment | None], unit: str = "lines") -> str:
    """Return lag and polarity of body in one line; empty if nothing was measured.

    Args:
        results: what is believed of each measured recording.
        unit: what the recordings are called.
    """
    sure = [result for result in results if result is not None]
    if not sure:
        return f"lag and polarity of body: uncertain in all of {len(results)} {unit}" if results else ""
    lags = [1e3 * result.lag_seconds for result in sure]
    inverted = sum(result.polarity < 0 for result in sure)
    return (
        f"body: lag {statistics.median(lags):+.2f} ms ({min(lags):+.2f} to {max(lags):+.2f}), "
        f"inverted in {inverted} of {len(sure)} {unit}; certain in {len(sure)} of {len(results)}"
    )
