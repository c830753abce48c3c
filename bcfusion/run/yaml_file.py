"""Read the YAML files of a model: as they are if they are the user's own, small and plain ones only from the hub.

A stranger's few hundred bytes of YAML can keep a reader busy for hours: aliases and merge keys multiply, and numbers to
the base 60 or of a hundred thousand digits are slow to convert. All of this is refused while the file is parsed.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from bcfusion.errors import CheckpointError
from bcfusion.run.fetching import repository_of

__all__ = ["LARGEST", "read_yaml"]

LARGEST = 100_000  #: bytes of a file from the hub
MOST_EVENTS = 20_000  # of the parser: about one a value
DEEPEST = 40
_NUMBER = re.compile(r"[-+]?(0x[\da-fA-F_]+|0b[01_]+|[\d_:.]+)", re.ASCII)


def read_yaml(file: Path) -> Any:
    """Return the content of a YAML file of a model.

    Args:
        file: if it lies in the cache of the hub, it may be at most :data:`LARGEST` bytes long, and hold no aliases,
            anchors, merge keys, tags or endless numbers.

    Raises:
        CheckpointError: it cannot be read, is no YAML, or holds more than a file from the hub may.
    """
    foreign = repository_of(file) is not None
    try:
        with file.open("rb") as stream:
            content = stream.read(LARGEST + 1 if foreign else -1)
        if foreign and len(content) > LARGEST:
            raise CheckpointError(f"{file} is longer than the {LARGEST} bytes that it may have on the hub")
        loader = _Foreign if foreign else yaml.SafeLoader
        return yaml.load(content.decode("utf-8"), loader)  # nosec B506 # both are safe loaders
    except _TooMuch as error:
        raise CheckpointError(f"{file} is damaged: it holds {error}, which a model of the hub may not") from error
    except OSError as error:
        raise CheckpointError(f"{file} cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError) as error:
        raise CheckpointError(f"{file} is damaged: it is not YAML ({type(error).__name__})") from error


class _TooMuch(Exception):
    """The text says in a few words what a file holds."""


class _Foreign(yaml.SafeLoader):
    """Looks at each event of the parser before anything is made of it."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._left, self._depth = MOST_EVENTS, 0

    def get_event(self) -> Any:
        event = super().get_event()
        self._left -= 1
        self._depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if self._left < 0 or self._depth > DEEPEST:
            raise _TooMuch("too many values")
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            raise _TooMuch("aliases")
        if isinstance(event, yaml.NodeEvent) and getattr(event, "tag", None) is not None:
            raise _TooMuch("tags")
        if isinstance(event, yaml.ScalarEvent) and event.style is None:
            if event.value == "<<":
                raise _TooMuch("merge keys")
            if len(event.value) > 40 and _NUMBER.fullmatch(event.value):
                raise _TooMuch("endless numbers")
        return event
