"""Writing a corpus as tar shards."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import math
import os
import re
import tarfile
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import soundfile
from tqdm import tqdm

from bcfusion import audio
from bcfusion.audio import UnreadableAudio
from bcfusion.contracts import SPLITS, Row
from bcfusion.data.loading.shards.index import (
    HEADER,
    VERSION,
    Header,
    ShardError,
    header_content,
    index_path,
    load,
    record,
    scan,
    write,
)
from bcfusion.errors import DataError
from bcfusion.files import appearing
from bcfusion.requirements import at_least, require

logger = logging.getLogger(__name__)

SHARD_BYTES = 1_000_000_000
#: formats that are copied unchanged into a shard; positions in MP3 are inexact
_KEPT = {b"fLaC": "flac", b"RIFF": "wav", b"RF64": "wav", b"OggS": "ogg"}
#: seconds of a longer file kept around an utterance, for the resampler and for rounded durations
_MARGIN = 0.05
#: seconds by which a file may be longer than its utterance and still be copied whole
_LONGER = 1.0
#: cuts begin at multiples of 1/25 s, a whole number of samples at all usual rates, and of periods of their resampling
_GRID = 25
#: bytes of FLAC per sample of 16-bit speech
_FLAC_BYTES = 1.2


def write_shards(
    rows: Sequence[Row],
    folder: str | os.PathLike[str],
    shard_bytes: int = SHARD_BYTES,
    seed: int = 0,
    workers: int = 4,
    max_unreadable_share: float = 0.05,
) -> list[Path]:
    """Write rows as shards ``SPLIT-000000.tar`` with their indices; existing shards of the same rows are kept.

    The order within a split is a fixed random one, so that every shard mixes speakers. A sound file is copied unchanged
    if the row covers all of it and it is mono and not MP3; otherwise the part of the row is cut out and written as FLAC
    (as floating-point WAV if samples exceed full scale). Lag, polarity and gain of a row stay in the row. Each shard
    and each index appears whole or not at all, and the same rows give the same bytes.

    Args:
        rows: of all splits.
        folder: for the shards; created if missing.
        shard_bytes: approximate size of a shard; the last one of a split is smaller.
        seed: of the order.
        workers: shards that are written at the same time.
        max_unreadable_share: share of the rows, in [0, 1], that may be left out because a file cannot be read.

    Returns:
        The shards, by split and number.

    Raises:
        ConfigError: an argument is out of range.
        DataError: there are no rows, the folder holds shards of other rows or cannot be written to, or too many files
            are unreadable.
        bcfusion.audio.AudioFormatError: a file has several channels, and the row does not name one.
    """
    if not rows:
        raise DataError("no utterances to write shards of")
    require("write_shards", at_least(1, shard_bytes=shard_bytes, workers=workers))
    target = Path(os.path.expanduser(folder))
    plans = [plan for split in SPLITS for plan in _plans(rows, split, target, shard_bytes, seed)]
    _refuse_others(target, plans)
    try:
        target.mkdir(parents=True, exist_ok=True)
        with (
            ThreadPoolExecutor(workers) as pool,
            tqdm(total=len(rows), desc="shards", unit="utterance", disable=None) as progress,
        ):
            written = []
            jobs = [pool.submit(_write_shard, plan) for plan in plans]
            try:
                for plan, job in zip(plans, jobs, strict=True):
                    written.append(job.result())
                    progress.update(len(plan.rows))
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
    except OSError as error:
        raise DataError(f"cannot write shards to {target}: {error.strerror or error}") from error
    left_out = len(rows) - sum(written)
    if left_out > max_unreadable_share * len(rows):
        raise DataError(
            f"{left_out} of {len(rows)} utterances cannot be read and are not in the shards of {target}, more than the "
            f"share of {max_unreadable_share:g} that is allowed; the warnings above name them"
        )
    return [plan.tar for plan in plans]


class _Plan(NamedTuple):
    """One shard to be written."""

    tar: Path
    header: Header
    rows: Sequence[Row]


def _plans(rows: Sequence[Row], split: str, folder: Path, shard_bytes: int, seed: int) -> Iterator[_Plan]:
    """Yield the shards of a split, with their rows in order; all are planned before anything is written."""
    mine = [row for row in rows if row.split == split]
    if not mine:
        return
    uses = Counter(path for row in mine for path in row.paths.values())
    mine.sort(key=lambda row: hashlib.blake2b(f"{seed}:{row.id}".encode()).digest())
    fingerprint = hashlib.blake2b(f"{VERSION}:{shard_bytes}".encode(), digest_size=16)
    groups: list[list[Row]] = [[]]
    filled = 0
    for row in mine:
        sizes = [_size(row, path, uses[path] == 1) for path in row.paths.values()]
        fingerprint.update(json.dumps([record(row), sorted(row.paths), sizes], sort_keys=True).encode())
        if groups[-1] and filled + sum(sizes) > shard_bytes:
            groups.append([])
            filled = 0
        groups[-1].append(row)
        filled += sum(sizes)
    for number, group in enumerate(groups):
        header = Header(split, number, len(groups), len(group), fingerprint.hexdigest())
        yield _Plan(folder / f"{split}-{number:06d}.tar", header, group)


def _size(row: Row, path: str, alone: bool) -> int:
    """Return the approximate bytes of a file in its shard."""
    if alone and row.offset == 0 and not isinstance(path, audio.EncodedAudio) and os.path.isfile(path):
        return os.path.getsize(path)
    return math.ceil(_FLAC_BYTES * row.duration * row.sample_rate)


def _refuse_others(folder: Path, plans: Sequence[_Plan]) -> None:
    """Refuse a folder with shards of other rows, which are neither mixed with these nor deleted unasked."""
    planned = {plan.tar: plan.header.corpus for plan in plans}
    for tar in sorted(tar for split in SPLITS for tar in folder.glob(f"{split}-*.tar")):
        try:
            same = tar in planned and load(tar).header.corpus == planned[tar]
        except ShardError:
            same = False
        if not same:
            raise DataError(
                f"{tar} exists already, made of other utterances or with another size of shards: remove the shards of "
                "that folder, or choose another"
            )


def _write_shard(plan: _Plan) -> int:
    """Write a shard and its index unless they exist; return the number of utterances in it."""
    for left in plan.tar.parent.glob(f".{plan.tar.name}.*.part"):  # of a run that was killed
        left.unlink(missing_ok=True)
    if plan.tar.exists():
        return len(load(plan.tar).entries)
    index_path(plan.tar).unlink(missing_ok=True)
    written = 0
    with appearing(plan.tar) as part:
        with tarfile.open(part, "w", format=tarfile.PAX_FORMAT) as archive:
            _add(archive, HEADER, header_content(plan.header))
            keys: set[str] = set()
            for row in plan.rows:
                try:
                    described, files = _packed(row)
                except UnreadableAudio as error:
                    logger.warning("left out of %s: %s", plan.tar.name, error)
                    continue
                key = _key(row.id, keys)
                _add(archive, f"{key}.json", json.dumps(described, ensure_ascii=False).encode())
                for suffix, content in files.items():
                    _add(archive, f"{key}.{suffix}", content)
                written += 1
        with part.open("r+b") as archive_file:  # now that the number of readable rows is known
            archive_file.seek(tarfile.BLOCKSIZE)
            archive_file.write(header_content(plan.header._replace(rows=written)))
    write(scan(plan.tar))
    return written


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


def _key(identity: str, taken: set[str]) -> str:
    """Return an id as the key of a WebDataset sample: without dots, which start a suffix, and unique in its shard."""
    plain = re.sub(r"[^A-Za-z0-9_/-]", "_", identity).strip("/") or "_"
    if plain.startswith("__"):  # such names are skipped by WebDataset
        plain = f"id{plain}"
    key = plain
    number = 1
    while key in taken:
        number += 1
        key = f"{plain}_{number}"
    taken.add(key)
    return key


def _packed(row: Row) -> tuple[dict[str, object], dict[str, bytes]]:
    """Return the content of ``KEY.json`` for a row, and the row's files by suffix (``air.flac``).

    Raises:
        UnreadableAudio: a file of the row cannot be read.
        AudioFormatError: a file has several channels, and the row does not name one.
    """
    headers = {sensor: audio.info(path) for sensor, path in row.paths.items()}
    grid = _GRID if all(header.sample_rate % _GRID == 0 for header in headers.values()) else 1
    around = _MARGIN + abs(row.lag)
    begin = max(0, math.floor((row.offset - around) * grid))  # in steps of the grid
    end = row.offset + row.duration + around
    names: dict[str, str] = {}
    files: dict[str, bytes] = {}
    for sensor, path in row.paths.items():
        header = headers[sensor]
        whole = begin == 0 and header.channels == 1 and header.duration <= end + _LONGER
        content = audio.encoded(path) if whole else b""
        suffix = _KEPT.get(content[:4])
        if suffix is None:
            first = begin * header.sample_rate // grid
            frames = min(header.frames, math.ceil(end * header.sample_rate)) - first
            content, suffix = _cut(row, sensor, header, first, frames)
        names[sensor] = f"{sensor}.{suffix}"
        files[names[sensor]] = content
    if len({name.lower() for name in files}) < len(files):
        raise DataError(f"{row.id}: the sensors {', '.join(names)} differ only in case, which WebDataset ignores")
    kept = replace(row, offset=row.offset - begin / grid, channels={})
    return {**record(kept), "files": names}, files


def _cut(row: Row, sensor: str, header: audio.AudioInfo, first: int, frames: int) -> tuple[bytes, str]:
    """Return a stretch of the row's channel, encoded, and the suffix of its format."""
    path = row.paths[sensor]
    channel = row.channels.get(sensor, 0)
    if channel >= header.channels or (header.channels > 1 and sensor not in row.channels):
        raise audio.AudioFormatError(
            f"{path} has {header.channels} channel(s): the row {row.id} must name the one of {sensor!r}, from 0"
        )
    if frames < 1:
        raise UnreadableAudio(f"{path} ends before the utterance {row.id} begins", path)
    samples = audio.read(path, first, frames)[0][channel]
    encoded = io.BytesIO()
    if abs(samples).max(initial=0.0) > 1.0:
        soundfile.write(encoded, samples, header.sample_rate, format="WAV", subtype="FLOAT")
        return encoded.getvalue(), "wav"
    sixteen = header.subtype in ("PCM_16", "PCM_S8", "PCM_U8", "VORBIS", "OPUS", "MPEG_LAYER_III")
    soundfile.write(encoded, samples, header.sample_rate, format="FLAC", subtype="PCM_16" if sixteen else "PCM_24")
    return encoded.getvalue(), "flac"
