"""Colours of systems, the same in every picture: fixed for inputs and target, by name for others."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

__all__ = ["FIXED", "PALETTE", "colour_of", "marker_of"]

# Colours of Okabe and Ito and three darker ones, distinct for colour-blind readers too; their yellow is too pale for a
# line on white.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#6A3D9A", "#8C510A", "#117733", "#B2182B")
_MARKERS = "osD^vPXp*h"

#: Inputs and target, and the system in the pictures of a single run.
FIXED = {
    "target": "#000000",
    "input": "#7F7F7F",
    "input (body)": "#5F5F5F",
    "input (noisy)": "#A6A6A6",
    "enhanced": PALETTE[0],
}


def colour_of(system: str, order: Sequence[str] | None = None) -> str:
    """Return the colour of a system.

    It follows from the name, so a system keeps its colour from picture to picture, however they are sorted. If two
    systems of a picture would have the same colour, the alphabetically second one gets a free colour.

    Args:
        system: its name, as in scores and legends.
        order: the systems of a picture or page, in any order; up to the size of :data:`PALETTE` they have different
            colours. If it is None or lacks the system, the colour follows from the name alone.

    Returns:
        ``#RRGGBB``.
    """
    return FIXED[system] if system in FIXED else PALETTE[_place(system, order) % len(PALETTE)]


def marker_of(system: str, order: Sequence[str] | None = None) -> str:
    """Return the Matplotlib marker of a system, by the rule of :func:`colour_of`.

    Up to a hundred systems of a picture differ in colour or marker.
    """
    if system in FIXED:
        return _MARKERS[list(FIXED).index(system)]
    place = _place(system, order)
    return _MARKERS[(place + place // len(PALETTE)) % len(_MARKERS)]


def _place(system: str, order: Sequence[str] | None) -> int:
    """Return the index into the palette, plus its size for every other system that has taken the colour before."""
    shown = {*order} if order is not None and system in order else {system}
    taken = [sum(FIXED.get(name) == colour for name in shown) for colour in PALETTE]
    names = sorted(shown - FIXED.keys())
    wanted = {name: zlib.crc32(name.encode()) % len(PALETTE) for name in names}
    first = {wanted[name]: name for name in reversed(names)}
    for name in sorted(names, key=lambda name: first[wanted[name]] != name):  # others then take what is left
        turn = min(range(len(PALETTE)), key=lambda step: (taken[(wanted[name] + step) % len(PALETTE)], step))
        place = (wanted[name] + turn) % len(PALETTE)
        if name == system:
            return place + len(PALETTE) * taken[place]
        taken[place] += 1
    raise ValueError(f"{system} has a fixed colour")
