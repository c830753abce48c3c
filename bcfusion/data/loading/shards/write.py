"""Writing a corpus as tar shards."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import math
import os
import re
import secrets
import tarfile
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import soundfile
from tqdm import tqdm

from bcfusion import audio
from bcfusion.audio import UnreadableAudio
from bcfusion.contracts import Row
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

logger = logging.getLogger(__name__)

SHARD_BYTES = 1_000_000_000
#: what a shard may hold as it is; the places in MP3 are inexact
_KEPT = {b"fLaC": "flac", b"RIFF": "wav", b"RF64": "wav", b"OggS": "ogg"}
#: seconds around an utterance that are kept of a longer file, for the resampler and for durations that were rounded
_MARGIN = 0.05
#: seconds that a file may be longer than its utterance and still be kept as it is
_LONGER = 1.0
#: cuts begin at multiples of 1/25 s, a whole number of samples at all usual rates, and of periods of their resampling
_GRID = 25
#: bytes of FLAC for each sample of speech in 16 bits
_FLAC_BYTES = 1.2
_SPLITS = ("train", "valid", "test")


def write_shards(
    rows: Sequence[Row],
    folder: str | os.PathLike[str],
    shard_bytes: int = SHARD_BYTES,
    seed: int = 0,
    workers: int = 4,
    max_unreadable_share: float = 0.05,
) -> list[Path]:
    """Write rows as shards ``SPLIT-000000.tar`` with their indices; shards that are there already are kept.

    The order within a split is a fixed random one, so that every shard mixes speakers. A sound file is copied as it is
    where the row is the whole of it and it is mono and no MP3; else what the row means is cut out and written as FLAC
    (as floating-point WAV where samples exceed full scale). Lag, polarity and gain of a row stay in the row. Each shard
    and each index appears whole or not at all, and the same rows give the same bytes.

    Args:
        rows: of all splits.
        folder: for the shards; made where there is none.
        shard_bytes: size of a shard, about; the last one of a split is smaller.
        seed: of the order.
        workers: shards that are written at the same time.
        max_unreadable_share: of the rows, in [0, 1], that may be left out because a file cannot be read.

    Returns:
        The shards, by split and number.

    Raises:
        DataError: there are no rows, the folder holds shards of other rows or cannot be written to, or too many files
            are unreadable.
        bcfusion.audio.AudioFormatError: a file has several channels, and the row does not say which one it means.
    """
    if not rows:
        raise DataError("no utterances to write shards of")
    if shard_bytes < 1 or workers < 1:
        raise ValueError(f"shard_bytes={shard_bytes} and workers={workers} must be at least 1")
    target = Path(folder).expanduser()
    plans = [plan for split in _SPLITS for plan in _plans(rows, split, target, shard_bytes, seed)]
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
        raise DataError(f"cannot write shards to {target}: {error}") from error
    left_out = len(rows) - sum(written)
    if left_out > max_unreadable_share * len(rows):
        raise DataError(
            f"{left_out} of {len(rows)} utterances cannot be read and are not in the shards of {target}, more than the "
            f"share of {max_unreadable_share:g} that may be; the warnings above name them"
        )
    return [plan.tar for plan in plans]


class _Plan:
    """One shard that is to be."""

    def __init__(self, tar: Path, header: Header, rows: Sequence[Row]) -> None:
        self.tar = tar
        self.header = header
        self.rows = rows


def _plans(rows: Sequence[Row], split: str, folder: Path, shard_bytes: int, seed: int) -> Iterator[_Plan]:
    """The shards of a split: which rows in which order, decided before anything is written."""
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
    """Bytes that a file will have in its shard, about."""
    if alone and row.offset == 0 and not isinstance(path, audio.EncodedAudio) and os.path.isfile(path):
        return os.path.getsize(path)
    return math.ceil(_FLAC_BYTES * row.duration * row.sample_rate)


def _refuse_others(folder: Path, plans: Sequence[_Plan]) -> None:
    """A folder with shards of other rows is not mixed with these, nor are those deleted unasked."""
    planned = {plan.tar: plan.header.corpus for plan in plans}
    for tar in sorted(tar for split in _SPLITS for tar in folder.glob(f"{split}-*.tar")):
        try:
            same = tar in planned and load(tar).header.corpus == planned[tar]
        except ShardError:
            same = False
        if not same:
            raise DataError(
                f"{tar} is there already, made of other utterances or with another size of shards: remove the shards "
                "of that folder, or choose another"
            )


def _write_shard(plan: _Plan) -> int:
    """Write a shard and its index, if they are not there; returns how many utterances are in it."""
    for left in plan.tar.parent.glob(f".{plan.tar.name}.*.tmp"):  # of a run that was killed
        left.unlink(missing_ok=True)
    if plan.tar.exists():
        return len(load(plan.tar).entries)
    index_path(plan.tar).unlink(missing_ok=True)
    temporary = plan.tar.with_name(f".{plan.tar.name}.{secrets.token_hex(4)}.tmp")
    written = 0
    try:
        with tarfile.open(temporary, "w", format=tarfile.PAX_FORMAT) as archive:
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
        with temporary.open("r+b") as archive_file:  # now that it is known how many could be read
            archive_file.seek(tarfile.BLOCKSIZE)
            archive_file.write(header_content(plan.header._replace(rows=written)))
        os.replace(temporary, plan.tar)
    finally:
        temporary.unlink(missing_ok=True)
    write(scan(plan.tar))
    return written


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


def _key(identity: str, taken: set[str]) -> str:
    """The id as the name of a WebDataset sample: without dots, which begin a suffix there, and unique in its shard."""
    plain = re.sub(r"[^A-Za-z0-9_/-]", "_", identity).strip("/") or "_"
    if plain.startswith("__"):  # the names of what is no sample
        plain = f"id{plain}"
    key = plain
    number = 1
    while key in taken:
        number += 1
        key = f"{plain}_{number}"
    taken.add(key)
    return key


def _packed(row: Row) -> tuple[dict[str, object], dict[str, bytes]]:
    """What ``KEY.json`` says of a row, and its files by suffix (``air.flac``).

    Raises:
        UnreadableAudio: a file of it cannot be read.
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
        raise DataError(f"{row.id}: the sensors {', '.join(names)} differ by capitals alone, which WebDataset ignores")
    kept = replace(row, offset=row.offset - begin / grid, channels={})
    return {**record(kept), "files": names}, files


def _cut(row: Row, sensor: str, header: audio.AudioInfo, first: int, frames: int) -> tuple[bytes, str]:
    """A stretch of the channel that a row means, encoded, and the suffix of that."""
    path = row.paths[sensor]
    channel = row.channels.get(sensor, 0)
    if channel >= header.channels or (header.channels > 1 and sensor not in row.channels):
        raise audio.AudioFormatError(
            f"{path} has {header.channels} channel(s): the row {row.id} must say which one is {sensor!r}, from 0"
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
