"""What must not be uploaded by accident: places on this machine, passwords and tokens, names of recordings and people.

Patterns find what commonly stands in commands and notes; they cannot know every form in which a place may be written.
"""

from __future__ import annotations

import csv
import os
import re
from pathlib import Path

from bcfusion.errors import CheckpointError
from bcfusion.evaluation.scores import INFO, read_rows
from bcfusion.files import appearing
from bcfusion.run.card import CARD

__all__ = ["private_place", "require_public", "write_public_scores"]

_NAME = r"[\w.@~+-]+"
_PLACE = re.compile(
    "|".join(
        (
            rf"(?:(?<![\w/.~*)\]}}-])|(?<=\s-\w))(?<!\]\()/{_NAME}(?:/{_NAME})+",  # /a/b, -I/a/b; no address, no link
            rf"(?<!\w)[A-Za-z]:\\{_NAME}(?:\\{_NAME})*",
            rf"(?<!\\)\\\\{_NAME}\\{_NAME}",
            r"(?<![\w/~])~(?:[A-Za-z_][\w-]*)?/\w[\w./-]*",  # a home
            r"(?<![\w/.])\.\./[\w./-]+",
            r"(?<!\w)(?:file|smb|nfs|afp|cifs|s?ftp|ssh)://\S+",
            r"(?<!\w)[A-Za-z][\w+.-]*://[^\s/@:]*:[^\s/@]+@\S+",  # a password
        )
    )
)
_TOKEN = re.compile(rb"\bhf_[A-Za-z0-9]{20,}")


def private_place(text: str) -> str | None:
    """Return the first place on a machine, or address with a password, in a text; None if none is found."""
    found = _PLACE.search(text)
    return None if found is None else found[0]


def require_public(file: Path) -> None:
    """Raise an error if a file that is to be uploaded names a place on this machine, or holds a password or a token.

    Raises:
        CheckpointError: it does; the message names what was found.
    """
    content = file.read_bytes()
    found = private_place(content.decode("utf-8")) if file.suffix in (".md", ".yaml", ".csv") else None
    known = (os.path.expanduser("~"), os.getcwd())
    own = dict.fromkeys([*known, *map(os.path.realpath, known)])
    found = found or next((place for place in own if place.count(os.sep) > 1 and place.encode() in content), None)
    if found is not None:
        raise CheckpointError(
            f"{file.name} would tell everybody {found}, a place on this machine or a password: take it out of the "
            f"model's card ({CARD}) or of its settings"
        )
    if _TOKEN.search(content):
        raise CheckpointError(f"{file.name} would hold a token of the Hugging Face hub: take it out")


def write_public_scores(scores: Path, file: Path) -> None:
    """Write a table of scores in which utterances and speakers are numbers, in the order in which they appear.

    Args:
        scores: from an evaluation.
        file: to write.

    Raises:
        OSError: a file cannot be read or written.
        ValueError: ``scores`` is no table of scores.
    """
    names, _ = read_rows(scores)
    known = {"id", "system", *INFO, *names, "skipped"}  # any other column may name a recording
    numbers: dict[str, dict[str, int]] = {"id": {}, "speaker": {}}
    with scores.open(newline="", encoding="utf-8") as source, appearing(file) as part:
        reader = csv.DictReader(source)
        heads = [head for head in reader.fieldnames or () if head in known]
        with part.open("w", newline="", encoding="utf-8") as target:
            writer = csv.DictWriter(target, heads, extrasaction="ignore")
            writer.writeheader()
            for row in reader:
                for head, seen in numbers.items():
                    if row.get(head):
                        row[head] = str(seen.setdefault(row[head], len(seen) + 1))
                writer.writerow(row)
