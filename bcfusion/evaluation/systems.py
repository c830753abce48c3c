"""Names of the systems whose signals are scored, as they appear in scores, tables, pictures and sample files."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["ENHANCED", "INPUT", "TARGET", "input_names", "is_input"]

ENHANCED = "enhanced"  #: the output of the model under test
TARGET = "target"  #: the clean speech; it has no scores
INPUT = "input"  #: the input of a model with one sensor; with several ``input (SENSOR)``


def input_names(sensors: Sequence[str]) -> list[str]:
    """Return the name of the system for each input channel."""
    return [INPUT] if len(sensors) == 1 else [f"{INPUT} ({sensor})" for sensor in sensors]


def is_input(system: str) -> bool:
    """Return whether a system is an unprocessed input: ``input`` or ``input (SENSOR)``."""
    return system == INPUT or system.startswith(f"{INPUT} (")
