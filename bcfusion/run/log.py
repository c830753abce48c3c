"""``train.log``: a copy of what a session of a run printed, warned, logged and failed with."""

from __future__ import annotations

import logging
import re
import sys
import threading
import time
import traceback
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from bcfusion.errors import BcfusionError
from bcfusion.files import why_unwritable

__all__ = ["RunLog"]

_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")  # colours and cursor movements of a terminal
_LOGGED = "%(levelname)s %(name)s: %(message)s"
_SECONDS_BETWEEN_REDRAWS = 20.0  # a line that a terminal redraws, such as a progress bar, is kept as often as this


class RunLog:
    """Copies standard output, standard error, warnings and log records of this process into a file.

    Text is kept in memory until :meth:`open` names the file, so that a session that is refused leaves nothing behind.
    An exception that ends the block is appended: the message alone if it is meant for users, else its traceback. If the
    file cannot be written (the disk is full), a line on standard error says so, and the session goes on without it.

    Example:
        >>> import tempfile, pathlib
        >>> folder = pathlib.Path(tempfile.mkdtemp())
        >>> with RunLog() as log:
        ...     print("before the file is known")
        ...     log.open(folder / "train.log", "first session")
        before the file is known
        >>> (folder / "train.log").read_text().splitlines()[-1]
        'before the file is known'
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._waiting: list[str] = []
        self._path: Path | None = None
        self._title = ""
        self._file: IO[str] | None = None
        self._unwritable = False
        self._tees: list[_Tee] = []
        self._handler = _Records(self)

    def open(self, path: Path, title: str) -> None:
        """Append a title with the time, the text so far, and all that follows, to ``path``.

        A process that has nothing to say makes no file.
        """
        with self._lock:
            if self._path is None:
                self._path, self._title = path, f"--- {time.strftime('%Y-%m-%d %H:%M:%S %z')} {title}\n"
            waiting, self._waiting = "".join(self._waiting), []
            self._put(waiting)

    def write(self, text: str) -> None:
        """Add whole lines to the file alone."""
        with self._lock:
            self._put(text)

    def _put(self, text: str) -> None:
        if self._path is None:
            self._waiting.append(text)
        elif text and not self._unwritable:
            try:
                if self._file is None:
                    self._path.parent.mkdir(parents=True, exist_ok=True)  # another process of the run may be slower
                    self._file = self._path.open("a", encoding="utf-8", errors="replace")
                    self._file.write(self._title)
                self._file.write(text)
                self._file.flush()  # a killed process loses nothing
            except OSError as error:
                self._unwritable = True
                print(
                    f"bcfusion: cannot write {self._path}: {why_unwritable(error, self._path)}", file=self._streams[1]
                )

    def __enter__(self) -> RunLog:
        self._streams = sys.stdout, sys.stderr
        self._tees = [_Tee(stream, self) for stream in self._streams]
        sys.stdout, sys.stderr = self._tees
        logging.getLogger().addHandler(self._handler)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        logging.getLogger().removeHandler(self._handler)
        sys.stdout, sys.stderr = self._streams
        for tee in self._tees:
            tee.end()
        if isinstance(error, BcfusionError):
            self.write(f"{error}\n")
        elif error is not None and not isinstance(error, SystemExit):  # its message has been printed
            self.write("".join(traceback.format_exception(error)))
        with self._lock:
            if self._file is not None:
                with suppress(OSError):  # of what could not be written before
                    self._file.close()
            self._file, self._path, self._waiting = None, None, []


class _Tee:
    """A stream that passes everything on and copies finished lines, as a terminal would show them in the end."""

    def __init__(self, stream: IO[str], log: RunLog) -> None:
        self._stream = stream
        self._log: RunLog | None = log
        self._line = ""
        self._redrawn = time.monotonic()

    def write(self, text: str) -> int:
        written = self._stream.write(text)
        if self._log is not None:
            self._copy(text, self._log)
        return written

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:  # isatty, encoding, fileno, ...
        return getattr(self._stream, name)

    def _copy(self, text: str, log: RunLog) -> None:
        with log._lock:
            *lines, self._line = (self._line + _ESCAPES.sub("", text)).split("\n")
            log.write("".join(f"{_shown(line)}\n" for line in lines))
            drawn, _, unfinished = self._line.rpartition("\r")
            if drawn:
                now = time.monotonic()
                if now - self._redrawn > _SECONDS_BETWEEN_REDRAWS and _shown(drawn):
                    self._redrawn = now
                    log.write(f"{_shown(drawn)}\n")
                self._line = f"\r{unfinished}"

    def end(self) -> None:
        """Copy the unfinished line and nothing from now on: a logger may hold this stream longer than the log."""
        if self._log is not None and (line := _shown(self._line)):
            self._log.write(f"{line}\n")
        self._log = None


class _Records(logging.Handler):
    """Copies log records that no stream of ours shows: handlers hold the streams that were there before."""

    def __init__(self, log: RunLog) -> None:
        super().__init__()
        self._log = log
        self.setFormatter(logging.Formatter(_LOGGED))

    def emit(self, record: logging.LogRecord) -> None:
        self._log.write(f"{self.format(record)}\n")


def _shown(line: str) -> str:
    """Return what is left of a line after its last return to the start."""
    return line.rstrip("\r").rpartition("\r")[2].rstrip()
