"""Hugging Face parquet files: rows whose sounds are embedded as bytes, written to FLAC once."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

from bcfusion import audio
from bcfusion.errors import AudioError, DataError

logger = logging.getLogger(__name__)

_BATCH = 16  # sounds handed to the threads at a time
_THREADS = 4
_SIXTEEN_BITS = ("PCM_16", "PCM_S8", "PCM_U8")
_NUMBERED = re.compile(r"-\d{5}-of-(\d{5})$")


def find_shards(folders: Iterable[Path], split: str) -> list[Path]:
    """Find the parquet files of a split.

    Args:
        folders: where they may lie; the first that has some is used.
        split: as the dataset names it.

    Returns:
        ``FOLDER/SPLIT-00000-of-00201.parquet``, ... or ``FOLDER/SPLIT/0000.parquet``, ... (what Hugging Face converts
        to), sorted; empty if there are none. A warning says so if some are missing, by the total in their names.
    """
    for folder in folders:
        shards = sorted(folder.glob(f"{split}-*.parquet")) or sorted(folder.glob(f"{split}/*.parquet"))
        if shards:
            numbered = _NUMBERED.search(shards[0].stem)
            if numbered and len(shards) < int(numbered[1]):
                logger.warning("%s: only %d of the %s files of %s exist", folder, len(shards), numbered[1], split)
            return shards
    return []


def unpack(
    shards: Sequence[Path],
    sounds: Mapping[str, str],
    about: Sequence[str],
    name: Callable[[Mapping[str, Any]], str],
    folder: Path,
) -> Iterator[tuple[str, dict[str, Path], dict[str, Any]]]:
    """Write the sounds of parquet files as FLAC, and yield the other columns of their rows.

    One column of one row group is read at a time, the smallest unit for values so large (they share a page): memory
    holds about twice that. An existing file is not written again, and if all files of a row group exist its sounds are
    not even read: a second call takes seconds, and continues what was interrupted. 16 bits stay 16, all else becomes
    24. A row with a damaged sound is left out with a warning.

    Args:
        shards: parquet files.
        sounds: sensor to column, a struct of ``bytes`` and ``path``, whole sound files.
        about: other columns; those that a file does not have are left out.
        name: returns the name of a row from its other columns, a relative path without suffix. A repeated name gets a
            number.
        folder: of the FLAC files, ``FOLDER/SENSOR/NAME.flac``.

    Yields:
        The name of each row, its files by sensor, and its other columns.

    Raises:
        DataError: pyarrow is not installed, a file is not a parquet file, or lacks a column of ``sounds``.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise DataError("reading parquet files needs pyarrow: pip install 'bcfusion[corpora]'") from error
    times: Counter[str] = Counter()
    with ThreadPoolExecutor(_THREADS) as pool:
        for shard in shards:
            try:
                table = pyarrow.parquet.ParquetFile(shard, memory_map=True)
            except (pyarrow.ArrowException, OSError) as error:
                raise DataError(f"{shard} is not a parquet file, or truncated: {error}") from error
            present = table.schema_arrow.names
            if lacking := [column for column in sounds.values() if column not in present]:
                raise DataError(f"{shard} has no column {', '.join(lacking)}; its columns: {', '.join(present)}")
            known = [column for column in about if column in present]
            for group in range(table.num_row_groups):
                rows = table.read_row_group(group, columns=known).to_pylist() if known else []
                rows = rows or [{} for _ in range(table.metadata.row_group(group).num_rows)]
                names = []
                for row in rows:
                    times[name(row)] += 1
                    names.append(name(row) if times[name(row)] == 1 else f"{name(row)}-{times[name(row)]}")
                files = [{sensor: folder / sensor / f"{n}.flac" for sensor in sounds} for n in names]
                problems: dict[Path, str] = {}
                for sensor, column in sounds.items():
                    if all(row_files[sensor].is_file() for row_files in files):
                        continue
                    todo = iter(row_files[sensor] for row_files in files)
                    for batch in table.iter_batches(_BATCH, row_groups=[group], columns=[column]):
                        cells = batch.column(column)
                        written = pool.map(_write, islice(todo, batch.num_rows), cells)
                        problems.update({file: problem for file, problem in written if problem})
                for row_name, row_files, row in zip(names, files, rows, strict=True):
                    bad = [problems[file] for file in row_files.values() if file in problems]
                    if bad:
                        logger.warning("%s: %s is left out: %s", shard, row_name, bad[0])
                    else:
                        yield row_name, row_files, row


def _write(file: Path, cell: Any) -> tuple[Path, str]:
    """Write one sound unless it exists; return its file and what is wrong with the sound."""
    if file.is_file():
        return file, ""
    data = (cell.as_py() or {}).get("bytes")
    if not data:
        return file, "the row holds no sound"
    encoded = audio.EncodedAudio(str(file), data)
    try:
        header = audio.info(encoded)
        samples, sample_rate = audio.read(encoded)
    except AudioError as error:
        return file, str(error)
    if header.remark:
        logger.warning("%s: %s", file, header.remark)
    subtype = "PCM_16" if header.subtype in _SIXTEEN_BITS else "PCM_24"
    audio.write(file, samples, sample_rate, subtype)
    return file, ""


def download(repository: str, pattern: str, root: Path) -> None:
    """Download the parquet files of a Hugging Face dataset; existing files are not fetched again.

    Args:
        repository: ``owner/name``.
        pattern: of the files, relative to the dataset, with ``*``.
        root: folder to download to.

    Raises:
        DataError: huggingface_hub is not installed, or the download failed.
    """
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise DataError(
            f"--download needs huggingface_hub: pip install 'bcfusion[corpora]', or fetch {pattern} of "
            f"https://huggingface.co/datasets/{repository} into {root} yourself"
        ) from error
    try:
        # its sounds are read as data, whichever revision they are of
        snapshot_download(  # nosec B615 # see above
            repo_id=repository, repo_type="dataset", allow_patterns=[pattern], local_dir=root
        )
    except (OSError, ValueError) as error:  # errors of network, name, access and disk
        raise DataError(f"cannot download {pattern} of {repository}: {' '.join(str(error).split())}") from error
