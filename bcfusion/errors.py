"""Errors that the user can fix. Their text is one or two lines: what happened, where, and what to do.

The command line prints them without a traceback and exits with status 2; any other exception is a bug.
"""

from __future__ import annotations

import errno
import unicodedata


class BcfusionError(Exception):
    """A problem in the user's input. The message says what is wrong, where, and what to do."""


_UNSEEN = {"Cc", "Cf", "Zl", "Zp"}  # categories: controls, marks of direction, separators of lines and paragraphs
_JOINERS = "\u200c\u200d\u00ad"  # parts of words, and of pictures


def printable(text: str, keep: str = "") -> str:
    """Return a text with ``?`` for each control or invisible character, except those in ``keep``."""
    if text.isprintable():
        return text
    left = keep + _JOINERS
    return "".join("?" if unicodedata.category(each) in _UNSEEN and each not in left else each for each in text)


def first_line(error: BaseException) -> str:
    """Return an error in one line: the message alone of an error meant for users, else preceded by its class."""
    line = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    if isinstance(error, BcfusionError):
        return line
    return f"{type(error).__name__}: {line}" if line else type(error).__name__


class ConfigError(BcfusionError):
    """A configuration or an argument cannot work. The error lists every problem found, each with its place.

    Args:
        problems: one line per problem.
    """

    def __init__(self, problems: list[str]) -> None:
        self.problems = list(problems)
        super().__init__("\n".join(self.problems))

    def __reduce__(self) -> tuple[type[ConfigError], tuple[list[str]]]:
        return type(self), (self.problems,)


class AudioError(BcfusionError):
    """An audio file is missing, unreadable, truncated, or not of the expected shape."""


class DataError(BcfusionError):
    """A corpus, folder or manifest is missing, unreadable, or not what it was declared to be."""


class CheckpointError(BcfusionError):
    """A checkpoint, bundle or run directory is missing, damaged, or of the wrong kind."""


class WriteError(BcfusionError, OSError):
    """A file that cannot be written: the disk is full or read-only, a name is too long, a folder is a file.

    As an :class:`OSError` it has ``errno``, ``strerror`` (the reason alone) and ``filename``.
    """

    def __str__(self) -> str:
        return f"cannot write {self.filename}: {self.strerror}"

    @property
    def disk_full(self) -> bool:
        """Whether the disk, or what the user may use of it, is full."""
        return self.errno in (errno.ENOSPC, errno.EDQUOT)

    @property
    def nothing_fits(self) -> bool:
        """Whether other files cannot be written there either: the disk is full or read-only."""
        return self.disk_full or self.errno == errno.EROFS


class ExportError(BcfusionError):
    """A network cannot be exported, or an exported file cannot be used or does not do what the network does."""


class TrainingError(BcfusionError):
    """A run cannot continue, for example after too many non-finite steps in a row."""


class DeviceError(BcfusionError):
    """A sound card, or what is needed to use it, is missing, fails, or has too few channels."""
