"""What a long job has done so far, one JSON line per piece, so that a killed run resumes where it stopped."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from bcfusion.errors import DataError
from bcfusion.files import from_json, why_unwritable
from bcfusion.system import lock

logger = logging.getLogger(__name__)


class Journal:
    """An append-only file of records, each with an ``id``; its first line names the job that they belong to.

    Opened for another job, it starts from scratch. A last line that was cut off when a process was killed is dropped.
    While it is open, no other process can open it. Use it in a ``with`` statement.

    Args:
        path: of the file; missing folders are created.
        job: what the records depend on, as JSON can store it.

    Attributes:
        path: of the file.
        done: the records of earlier runs, by id.

    Raises:
        DataError: the file cannot be written to, or another process has it open.
    """

    def __init__(self, path: Path, job: Mapping[str, Any]) -> None:
        self.path = path
        self.done: dict[str, dict[str, Any]] = {}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("a+b")
            lock(self._file)
        except BlockingIOError as error:
            self._file.close()
            raise DataError(f"{path} is in use: the same command is already running") from error
        except OSError as error:
            raise DataError(f"cannot write {path}: {why_unwritable(error, path)}") from error
        self._continue(json.loads(json.dumps(job)))

    def add(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Append records; once this returns the operating system has them, and they survive the process.

        Raises:
            DataError: they cannot be written.
        """
        try:
            self._file.write(b"".join(json.dumps(record).encode() + b"\n" for record in records))
            self._file.flush()
        except OSError as error:
            raise DataError(f"cannot write {self.path}: {why_unwritable(error, self.path)}") from error

    def remove(self) -> None:
        """Delete the file, when the job is done."""
        self.path.unlink(missing_ok=True)

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(OSError):  # everything is written, or has been reported; the block's own error comes first
            self._file.close()

    def _continue(self, job: dict[str, Any]) -> None:
        self._file.seek(0)
        first = self._file.readline()
        whole = len(first)
        if first and _parsed(first) == {"job": job}:
            for line in self._file:
                record = _parsed(line)
                if record is None:
                    break
                self.done[str(record["id"])] = record
                whole += len(line)
            self._file.truncate(whole)
            return
        if first.endswith(b"\n"):
            logger.warning("%s belongs to another command: starting from scratch", self.path)
        self._file.truncate(0)
        self.add([{"job": job}])


def _parsed(line: bytes) -> dict[str, Any] | None:
    """Return the record of a line; None if the line is incomplete."""
    if not line.endswith(b"\n"):
        return None
    try:
        record = from_json(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) and ("id" in record or "job" in record) else None
