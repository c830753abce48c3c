"""The report of ``bcfusion enhance``: a row for each recording, written as soon as it is known."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from bcfusion.errors import AudioError, WriteError
from bcfusion.files import from_json, of_the_disk, why_unwritable

__all__ = ["COLUMNS", "EXISTING", "FAILED", "RESTORED", "ReportFile", "check_report"]

COLUMNS = (
    "sources",
    "target",
    "status",
    "seconds",
    "rate",
    "format",
    "subtype",
    "peak",
    "overs",
    "protection",
    "gain",
    "real_time_factor",
    "joined",
    "model",
    "strength",
    "precision",
    "remarks",
    "error",
)  #: of a row; what is not known is empty
RESTORED, EXISTING, FAILED = "restored", "exists", "failed"  #: the values of ``status``
KINDS = (".jsonl", ".csv")
_OPENING = {".jsonl": b'{"sources": [', ".csv": b"sources,target,"}  # of what was begun, if there is no whole row


class ReportFile:
    """Rows that are appended one by one, so that a report is whole up to the recording at which a process was ended.

    A report that exists is continued, as the command itself is, after its last whole row.

    Args:
        path: ends in ``.jsonl`` (a JSON object a line) or ``.csv``.
        replace: whether a report that exists is replaced.

    Raises:
        AudioError: see :func:`check_report`.
        WriteError: it cannot be written.
    """

    def __init__(self, path: Path, replace: bool = False) -> None:
        check_report(path, replace)
        self.path = path
        self._is_csv = path.suffix.lower() == ".csv"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | (os.O_TRUNC if replace else 0)
            self._file = os.open(path, flags, 0o666)
        except OSError as error:
            raise WriteError(error.errno, why_unwritable(error, path), os.fspath(path)) from error
        try:
            self._continue()
        except BaseException:
            os.close(self._file)
            raise

    def _continue(self) -> None:
        """Cut off a row that is not whole, and write the header of a new table."""
        whole, rows = _present(self.path)
        self._there = {_cell_text(row["target"]) for row in rows if row["status"] in (RESTORED, EXISTING)}
        os.ftruncate(self._file, whole)
        if self._is_csv and not whole:
            self._append(_HEADER)

    def holds(self, target: str | os.PathLike[str]) -> bool:
        """Return whether a row says that a target was restored, or found to exist."""
        return _cell_text(os.fspath(target)) in self._there

    def add(self, **values: Any) -> None:
        """Append a row; see :data:`COLUMNS`.

        Raises:
            WriteError: the disk is full. The report then ends with the row before.
        """
        row = {name: values.pop(name, None) for name in COLUMNS}
        if values:
            raise TypeError(f"no columns: {', '.join(values)}")
        self._append(_line(row) if self._is_csv else _json(row))
        if row["status"] in (RESTORED, EXISTING):
            self._there.add(_cell_text(row["target"]))

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)

    def _append(self, line: bytes) -> None:
        """Write a line by one call of the system, so that it is there or not."""
        before = os.fstat(self._file).st_size
        try:
            done = os.write(self._file, line)
            while done < len(line):  # a disk that is full takes a part, and says why at the next call
                done += os.write(self._file, line[done:])
        except OSError as error:
            with suppress(OSError):
                os.ftruncate(self._file, before)
            error.filename = os.fspath(self.path)
            raise of_the_disk(error) or error from error


def check_report(path: Path, replace: bool = False) -> None:
    """Raise an error if a report cannot be written to a path or continued there.

    Args:
        path: see :class:`ReportFile`.
        replace: likewise.

    Raises:
        AudioError: the name has another ending, or the file is no report.
        WriteError: the file cannot be read.
    """
    if path.suffix.lower() not in KINDS:
        raise AudioError(f"--report {path}: the name must end in {' or '.join(KINDS)}")
    if not replace and path.is_file():
        _present(path)


def _present(path: Path) -> tuple[int, list[dict[str, Any]]]:
    """Return the number of bytes up to the end of the last whole row, and the rows.

    Raises:
        AudioError: a row is none of a report, so that the file belongs to someone else.
        WriteError: the file cannot be read.
    """
    try:
        present = path.read_bytes()
    except OSError as error:
        raise WriteError(error.errno, why_unwritable(error, path), os.fspath(path)) from error
    *lines, half = present.split(b"\n")
    kind = path.suffix.lower()
    rows: list[dict[str, Any] | None]
    if kind == ".csv":
        rows = [_csv_row(line) for line in lines[1:]] if lines[:1] == [_HEADER[:-1]] else [None] * len(lines)
    else:
        rows = [_json_row(line) for line in lines]
    ours = [row for row in rows if row is not None]
    if len(ours) < len(rows) or (half and not lines and not half.startswith(_OPENING[kind])):
        raise AudioError(
            f"--report {path}: is no report of bcfusion enhance, and is left as it is; give another name, or "
            "--overwrite to replace it"
        )
    return len(present) - len(half), ours


def _json_row(line: bytes) -> dict[str, Any] | None:
    try:
        row = from_json(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) and set(row) == set(COLUMNS) else None


def _csv_row(line: bytes) -> dict[str, Any] | None:
    try:
        cells = next(csv.reader([line.decode("utf-8", "replace")]), [])
    except csv.Error:  # a cell of megabytes
        return None
    return dict(zip(COLUMNS, cells, strict=True)) if len(cells) == len(COLUMNS) else None


def _json(row: Mapping[str, Any]) -> bytes:
    return (json.dumps(row, ensure_ascii=False) + "\n").encode("utf-8", "backslashreplace")


def _line(row: Mapping[str, Any]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow([_cell(row[name]) for name in COLUMNS])
    return text.getvalue().encode("utf-8", "backslashreplace")


def _cell(value: Any) -> Any:
    """Return a value as a cell on one line."""
    text = "; ".join(map(str, value)) if isinstance(value, list) else value
    return " ".join(text.splitlines()) if isinstance(text, str) else text


def _cell_text(target: Any) -> str:
    """Return a target as any report gives it back."""
    return str(_cell(target)).encode("utf-8", "backslashreplace").decode()


_HEADER = _line(dict(zip(COLUMNS, COLUMNS, strict=True)))
