"""Which pieces are trained on and which are held out, so that every choice is made on recordings not trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bcfusion.adaptation.pairs import Piece

__all__ = ["FOLDS", "FOR_INTERVAL", "Fold", "folds_of", "seconds_of"]

FOLDS = 4  #: the largest number of folds
FOR_INTERVAL = 4  #: recordings from which on an interval is stated
#: recordings that are scored, of each fold: scores of more take longer than training on them
SCORED_SECONDS = 60.0
_HELD_PART = 0.3  # of a single recording


@dataclass(frozen=True)
class Fold:
    """One division of the pieces.

    Attributes:
        training: pieces to train on.
        held: pieces that are scored; of many, about a minute, evenly spread.
    """

    training: tuple[Piece, ...]
    held: tuple[Piece, ...]


def seconds_of(pieces: Sequence[Piece]) -> float:
    """Return the length of pieces, in seconds."""
    return sum(piece.row.duration for piece in pieces)


def folds_of(pieces: Sequence[Piece]) -> list[Fold]:
    """Divide pieces into at most four folds of about equal length, by their groups; a single group in time.

    The last 30 % of a single group, whole pieces, are held out in its only fold.

    Args:
        pieces: in the order of recordings and time; at least two.
    """
    groups: dict[str, list[Piece]] = {}
    for piece in pieces:
        groups.setdefault(piece.group, []).append(piece)
    if len(groups) == 1:
        held = max(1, round(_HELD_PART * len(pieces)))
        return [Fold(tuple(pieces[:-held]), _scored(pieces[-held:]))]
    count = min(FOLDS, len(groups))
    members: list[list[Piece]] = [[] for _ in range(count)]
    for group in sorted(groups.values(), key=seconds_of, reverse=True):  # the longest first, each to the shortest fold
        min(members, key=seconds_of).extend(group)
    order = {piece.row.id: place for place, piece in enumerate(pieces)}
    folds = []
    for held_out in members:
        names = {piece.row.id for piece in held_out}
        training = tuple(piece for piece in pieces if piece.row.id not in names)
        folds.append(Fold(training, _scored(sorted(held_out, key=lambda piece: order[piece.row.id]))))
    return folds


def _scored(pieces: Sequence[Piece]) -> tuple[Piece, ...]:
    """Return pieces of about a minute in all, evenly spread; all of them if there are no more."""
    count = len(pieces)
    limit = max(1, min(count, round(SCORED_SECONDS / (seconds_of(pieces) / count))))
    return tuple(pieces[place * count // limit] for place in range(limit))
