"""The arguments that a public checkpoint states about itself, checked before anything is built from them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from bcfusion.errors import CheckpointError
from bcfusion.importing.files import Found

__all__ = ["required", "supported"]


def required(found: Found, keys: Iterable[str]) -> dict[str, Any]:
    """Return the content of the configuration beside a checkpoint.

    Args:
        found: the files.
        keys: those that must be there.

    Raises:
        CheckpointError: it cannot be read, or lacks a key.
    """
    settings = found.settings()
    if missing := [key for key in keys if key not in settings]:
        raise CheckpointError(
            f"{found.config} has no {', '.join(missing[:3])}: it is not the configuration of such a checkpoint"
        )
    return settings


def supported(where: object, settings: Mapping[str, Any], allowed: Mapping[str, Iterable[Any]]) -> None:
    """Check that settings have values that our network can have; those that are not given are not checked.

    Args:
        where: holds them, for the message.
        settings: by name.
        allowed: name to the values that can be imported.

    Raises:
        CheckpointError: one has another value; the message names it and the values that it may have.
    """
    for name, values in allowed.items():
        options = list(values)
        if name in settings and settings[name] not in options:
            words = ", ".join(map(str, options))
            raise CheckpointError(
                f"{where}: {name}={settings[name]} cannot be imported: the network here has only {name}={words}"
            )
