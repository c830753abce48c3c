"""Write a fold of a manifest, or all but a fold, or all of it, as JSONL that may lie in any folder.

    python scripts/manifest_fold.py pairs.jsonl out/held.jsonl --count 4 --fold 0 --split test       lines 1, 5, 9, ...
    python scripts/manifest_fold.py pairs.jsonl out/train.jsonl --count 4 --without 0 --split train  all others
    python scripts/manifest_fold.py pairs.jsonl out/all.jsonl --split train

The paths of a manifest start at its own folder, so a copy elsewhere has them absolute.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

from bcfusion.data.corpora.manifest import read_manifest
from bcfusion.data.corpora.manifest_columns import csv_table
from bcfusion.errors import BcfusionError
from bcfusion.files import write_text


def records_of(manifest: Path) -> list[dict[str, Any]]:
    """Return the lines of a manifest, with absolute paths.

    Raises:
        DataError: it cannot be read, or has lines with faults.
    """
    entries = read_manifest(manifest)
    with manifest.open(encoding="utf-8-sig", newline="") as text:
        if manifest.suffix == ".csv":
            header, lines = csv_table(text)
            records = [{name: cell for name, cell in zip(header, cells, strict=False) if cell} for _, cells in lines]
        else:
            records = [json.loads(line) for line in text if line.strip()]
    for record, entry in zip(records, entries, strict=True):
        files = record["paths"] if isinstance(record.get("paths"), dict) else record
        record["id"] = entry.id  # which may be made of the path as it was written
        files |= {sensor: os.path.abspath(file) for sensor, file in entry.paths.items()}
    return records


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest", type=Path)
    parser.add_argument("output", type=Path, help="its folder is made")
    parser.add_argument("--count", type=int, default=1, help="number of folds; each COUNTth line is of one fold")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--fold", type=int, help="the lines of this fold, counted from 0")
    which.add_argument("--without", type=int, help="the lines of all folds but this one")
    parser.add_argument("--split", help="train, valid or test: of all lines, in place of their own")
    arguments = parser.parse_args(argv)
    fold, without = arguments.fold, arguments.without
    for number in (fold, without):
        if number is not None and not 0 <= number < arguments.count:
            parser.error(f"there is no fold {number} of {arguments.count}")
    try:
        records = records_of(arguments.manifest)
    except (BcfusionError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    chosen = [
        record if arguments.split is None else {**record, "split": arguments.split}
        for place, record in enumerate(records)
        if fold in (None, place % arguments.count) and without != place % arguments.count
    ]
    try:
        write_text(arguments.output, "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in chosen))
    except BcfusionError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
