"""What a long job has done so far, one JSON line for each piece, so that a killed run goes on where it stopped."""

from __future__ import annotations

import fcntl
import json
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from bcfusion.errors import DataError

logger = logging.getLogger(__name__)


class Journal:
    """An append-only file of records, each with an ``id``. Its first line says which job they are of.

    Opened for another job, it begins anew. A last line that was torn by the end of a process is dropped. While it is
    open, no other process can open it. Use it in a ``with`` statement.

    Args:
        path: of the file; missing folders are made.
        job: what the records depend on, as JSON can hold it.

    Attributes:
        done: the records that were there, by id.

    Raises:
        DataError: the file cannot be written to, or another process has it open.
    """

    def __init__(self, path: Path, job: Mapping[str, Any]) -> None:
        self.path = path
        self.done: dict[str, dict[str, Any]] = {}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("a+b")
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._file.close()
            raise DataError(f"{path} is in use: the same command is running already") from error
        except OSError as error:
            raise DataError(f"cannot write {path}: {error.strerror}") from error
        self._continue(json.loads(json.dumps(job)))

    def add(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Append records; they are with the operating system when this returns, and outlive the process."""
        self._file.write(b"".join(json.dumps(record).encode() + b"\n" for record in records))
        self._file.flush()

    def remove(self) -> None:
        """Delete the file: the job is done."""
        self.path.unlink(missing_ok=True)

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
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
            logger.warning("%s is of another command: it is begun anew", self.path)
        self._file.truncate(0)
        self.add([{"job": job}])


def _parsed(line: bytes) -> dict[str, Any] | None:
    """The record of a line; None where the line is torn."""
    if not line.endswith(b"\n"):
        return None
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) and ("id" in record or "job" in record) else None
