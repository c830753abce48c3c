"""Transcripts of utterances, from a manifest's column ``text`` or a folder of text files, and their edit distance."""

from __future__ import annotations

import csv
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

from bcfusion.errors import DataError
from bcfusion.files import from_json, name_below, normal_name, on_disk

COLUMN = "text"


def read_transcripts(path: str | Path) -> dict[str, str]:
    """Return the transcripts by the id of the utterance.

    Args:
        path: a manifest (``.jsonl`` or ``.csv``) with the column ``text``, with the ids of
            :mod:`bcfusion.data.corpora.manifest`; or a folder of ``.txt`` files in UTF-8 at any depth, each named after
            the id of its utterance: ``<folder>/<id>.txt``.

    Raises:
        DataError: it does not exist, cannot be read, or contains no transcript.
    """
    source = on_disk(path)
    try:
        if source.is_dir():
            files = sorted(source.rglob("*.txt"))
            found = {name_below(source, file): file.read_text("utf-8") for file in files}
        else:
            with source.open(encoding="utf-8-sig", newline="") as lines:
                records = csv.DictReader(lines) if source.suffix == ".csv" else _objects(lines)
                found = {_identity(record): str(record[COLUMN]) for record in records if record.get(COLUMN)}
    except FileNotFoundError:
        raise DataError(f"transcripts {source}: there is no such file or folder") from None
    except (
        OSError,
        ValueError,
        TypeError,
        AttributeError,
        csv.Error,
    ) as error:  # not UTF-8, not JSON, no number, no path
        raise DataError(f"transcripts {source} cannot be read: {error}") from error
    if not found:
        wanted = "file *.txt" if source.is_dir() else f"line with the column {COLUMN!r}"
        raise DataError(f"transcripts {source}: there is no {wanted} in it")
    return found


def _objects(lines: Iterator[str]) -> Iterator[Mapping[str, Any]]:
    for line in lines:
        if line.strip():
            record = from_json(line)
            if not isinstance(record, dict):
                raise ValueError(f"a line of a manifest is an object in braces, not {line.strip()[:40]}")
            yield record


def _identity(record: Mapping[str, Any]) -> str:
    """Return the id of a line: its own, else the path of air without suffix, with ``@offset`` if there is an offset."""
    identity = record.get("id")
    if identity not in (None, ""):  # 0 is one
        return normal_name(str(identity))
    air = record.get("air") or (record.get("paths") or {}).get("air", "")
    offset = float(record.get("offset") or 0)
    return normal_name(PurePath(air).with_suffix("").as_posix()) + (f"@{offset:g}" if offset else "")


def words_of(text: str, normalise: bool = True) -> list[str]:
    """Return the words of a transcript; ``normalise`` folds case and drops punctuation except inner apostrophes.

    Letters, marks (vowel signs and points of many scripts) and numbers are kept.
    """
    if normalise:
        text = unicodedata.normalize("NFKC", text).casefold().replace("’", "'")
        text = "".join(char if char == "'" or unicodedata.category(char)[0] in "LMN" else " " for char in text)
        text = re.sub(r"(?<!\S)'+|'+(?!\S)", " ", text)
    # a word has a letter or a number: not a mark alone, as of an emoji
    return [
        word for word in text.split() if not normalise or any(unicodedata.category(char)[0] in "LN" for char in word)
    ]


def edit_distance(first: Sequence[str], second: Sequence[str]) -> int:
    """Return the smallest number of substitutions, deletions and insertions between two sequences.

    V. Levenshtein, "Binary codes capable of correcting deletions, insertions, and reversals", 1966.
    """
    row = list(range(len(second) + 1))
    for count, word in enumerate(first, start=1):
        previous, row = row, [count]
        for position, other in enumerate(second):
            row.append(min(previous[position] + (word != other), previous[position + 1] + 1, row[position] + 1))
    return row[-1]
