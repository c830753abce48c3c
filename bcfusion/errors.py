"""Errors that are the user's to mend. Their text is one or two lines: what, where, what to do.

The command line prints them without a traceback and exits with status 2; anything else that is raised is a bug of ours.
"""

from __future__ import annotations


class BcfusionError(Exception):
    """A problem in what the user gave us. The message says what is wrong, where, and what to do."""


class ConfigError(BcfusionError):
    """The composed configuration cannot work. Holds every problem found, each with its YAML path.

    Args:
        problems: one line each.
    """

    def __init__(self, problems: list[str]) -> None:
        self.problems = list(problems)
        super().__init__("\n".join(self.problems))

    def __reduce__(self) -> tuple[type[ConfigError], tuple[list[str]]]:
        return type(self), (self.problems,)


class AudioError(BcfusionError):
    """An audio file is missing, unreadable, truncated, or not of the shape that was asked for."""


class DataError(BcfusionError):
    """A corpus, folder or manifest is not what was announced."""


class CheckpointError(BcfusionError):
    """A checkpoint, bundle or run directory is missing, damaged, or of another kind."""


class TrainingError(BcfusionError):
    """A run cannot go on (too many non-finite steps in a row, for instance)."""
