"""The MODEL of a command line: a path or a name, and the line that says which of the two it was."""

from __future__ import annotations

from pathlib import Path

from bcfusion.errors import CheckpointError
from bcfusion.run.card import CARD, read_card
from bcfusion.run.description import find_bundle, read_description
from bcfusion.run.models import resolve_model

__all__ = ["chosen_model", "sensors_needed"]


def chosen_model(given: str, *, searched: bool = False, missing_ok: bool = False) -> Path:
    """Return the path that a MODEL means; where it is a name, print which model that is.

    Args:
        given: as typed.
        searched: see :func:`bcfusion.run.models.resolve_model`.
        missing_ok: see there.

    Raises:
        CheckpointError: there is neither a path nor a model of that name.
    """
    found = resolve_model(given, searched=searched, missing_ok=missing_ok)
    if found.note:
        print(found.note, flush=True)
    return found.path


def sensors_needed(given: str) -> str | None:
    """Return what to type for a model of several sensors; None for one sensor, or if they are not known.

    Args:
        given: the MODEL as typed.
    """
    try:
        path = resolve_model(given).path
        folder = find_bundle(path)
        if folder is None:
            return None
        sensors = read_description(folder).sensors
        card = read_card(path / CARD)
    except CheckpointError:  # reported when it is loaded
        return None
    if len(sensors) < 2:
        return None
    about = {} if card is None else card.sensors
    named = [f"{sensor} ({about[sensor]})" if sensor in about else sensor for sensor in sensors]
    options = " ".join(f"--sensor {sensor}=FOLDER" for sensor in sensors)
    return (
        f"{given} takes {' and '.join(named)}\ngive {options}, or recordings that hold them as channels, in this order"
    )
