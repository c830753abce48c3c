"""The MODEL of a command line: a path, a name or a repository, and the line that says which of them it was."""

from __future__ import annotations

import argparse
from pathlib import Path

from bcfusion.commands.shared.arguments import positive_int
from bcfusion.errors import CheckpointError
from bcfusion.run.card import CARD, read_card
from bcfusion.run.description import find_bundle, read_description
from bcfusion.run.models import hub_name, resolve_model

__all__ = [
    "MODEL_HELP",
    "TRUST_OPTION",
    "add_steps_option",
    "add_trust_option",
    "chosen_model",
    "label_of",
    "sensors_needed",
]

MODEL_HELP = "run directory, bundle, .ckpt, a name that bcfusion models lists, or hf:OWNER/NAME[@REVISION]"
TRUST_OPTION = "--trust-code"


def add_trust_option(parser: argparse.ArgumentParser) -> None:
    """Add ``--trust-code`` to a parser."""
    parser.add_argument(
        TRUST_OPTION,
        action="store_true",
        help="load a network whose class is not bcfusion's own; that class is imported from this machine and runs with "
        "all your rights",
    )


def add_steps_option(parser: argparse.ArgumentParser) -> None:
    """Add ``--steps`` to a parser."""
    parser.add_argument(
        "--steps",
        metavar="N",
        type=positive_int,
        help="of a model trained with objective=flow or bridge, from the sensor to the result; default: the model's",
    )


def chosen_model(given: str, *, searched: bool = False, missing_ok: bool = False, trust_code: bool = False) -> Path:
    """Return the path that a MODEL means; where it is a name or a repository, print which model that is.

    Args:
        given: as typed.
        searched: see :func:`bcfusion.run.models.resolve_model`.
        missing_ok: see there.
        trust_code: see there.

    Raises:
        CheckpointError: there is neither a path nor a model of that name, or one on the hub cannot be used.
    """
    found = resolve_model(given, searched=searched, missing_ok=missing_ok, trust_code=trust_code)
    if found.note:
        print(found.note, flush=True)
    return found.path


def label_of(given: str, path: Path) -> str:
    """Return what results call a MODEL: as it was typed, but one on the hub with the commit that was used.

    Args:
        given: as typed.
        path: from :func:`chosen_model`.
    """
    return hub_name(path) or given


def sensors_needed(given: str, *, trust_code: bool = False) -> str | None:
    """Return what to type for a model of several sensors; None for one sensor, or if they are not known.

    Args:
        given: the MODEL as typed.
        trust_code: see :func:`bcfusion.run.models.resolve_model`.
    """
    try:
        path = resolve_model(given, trust_code=trust_code).path
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
