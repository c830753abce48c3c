"""Names of the sound files and pictures in ``samples/``: ``NUMBER-ID.SYSTEM.wav`` and ``NUMBER-ID.png``.

The last 80 characters of the id of the utterance are kept, or fewer if they need more than 160 bytes (file systems take
names of 255), with ``_`` instead of ``/``. The number, the position of the utterance in its evaluation from 0,
distinguishes ids that become equal. ``input (body)`` becomes ``input_body``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from bcfusion.evaluation.systems import INPUT

__all__ = ["Sample", "parse", "picture_name", "sound_name"]

_SOUND = re.compile(r"(?P<number>\d+)-(?P<item>.+)\.(?P<system>[^.]+)\.wav", re.DOTALL)

_MOST_BYTES = 160


class Sample(NamedTuple):
    """What a sound file contains: number and id of the utterance, and the system."""

    number: int
    item: str
    system: str


def sound_name(number: int, item: str, system: str) -> str:
    """Return the name of the file with one system's signal of the utterance ``item``."""
    return f"{number}-{_short_id(item)}.{_label(system)}.wav"


def picture_name(number: int, item: str) -> str:
    """Return the name of the file with the spectrograms of the utterance ``item``."""
    return f"{number}-{_short_id(item)}.png"


def parse(name: str, ids: Sequence[str] = (), systems: Sequence[str] = ()) -> Sample | None:
    """Return what a name of :func:`sound_name` stands for; None if it is none.

    Args:
        name: of the file.
        ids: of the utterances of the evaluation in their order, from which the full id is restored; of several that
            became equal, the one with this number. An id that is not among them stays short.
        systems: of the evaluation, from which the system is restored. A system that is not among them is restored as
            far as the rule for inputs goes.
    """
    match = _SOUND.fullmatch(name)
    if match is None:
        return None
    number, item, label = int(match["number"]), match["item"], match["system"]
    candidates = [full for full in ids if _short_id(full) == item]
    if len(candidates) > 1 and number < len(ids) and ids[number] in candidates:
        candidates = [ids[number]]
    kind, _, sensor = label.partition("_")
    by_rule = f"{INPUT} ({sensor})" if kind == INPUT and sensor else label
    system = next((system for system in systems if _label(system) == label), by_rule)
    return Sample(number, candidates[0] if candidates else item, system)


def _short_id(item: str) -> str:
    short = item.replace("/", "_")[-80:]
    while len(short.encode("utf-8", "surrogateescape")) > _MOST_BYTES:
        short = short[1:]
    return short


def _label(system: str) -> str:
    return system.replace("(", "").replace(")", "").replace(" ", "_")
