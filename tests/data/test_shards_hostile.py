"""Shards of a stranger: what is in the archive is neither followed out of it, nor expanded, nor read without end."""

from __future__ import annotations

import gzip
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from bcfusion import audio
from bcfusion.contracts import Row
from bcfusion.data.loading.shards import index, streaming
from bcfusion.data.loading.shards.index import LARGEST_JSON, scan
from bcfusion.data.loading.shards.remote import StreamedShards
from bcfusion.data.loading.shards.write import write_shards
from bcfusion.errors import DataError

Change = Callable[[tarfile.TarInfo, bytes], tuple[tarfile.TarInfo, bytes]]


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    """A shard of two utterances: ``__shard__`` and, for each, a description and a sound."""
    (tmp_path / "secret.json").write_text(json.dumps({"files": {}}))
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, (1, 800)).astype(np.float32)
    rows = []
    for number in (0, 1):
        audio.write(tmp_path / f"{number}.wav", noise, 8000)
        rows.append(Row(str(number), {"air": str(tmp_path / f"{number}.wav")}, "s", "train", 8000, 0.1))
    return write_shards(rows, tmp_path / "shards")[0]


def changed(shard: Path, number: int, change: Change) -> Path:
    """Write the shard again, with another member at a place."""
    with tarfile.open(shard) as archive:
        members = [(member, archive.extractfile(member).read()) for member in archive]  # type: ignore[union-attr]
    members[number] = change(*members[number])
    with shard.open("wb") as file:
        for member, content in members:
            file.write(header(member))
            file.write(content + bytes(-len(content) % tarfile.BLOCKSIZE))
        file.write(bytes(2 * tarfile.BLOCKSIZE))
    return shard


def header(member: tarfile.TarInfo) -> bytes:
    """Return the block of a member; its size may be below zero, which tarfile does not write."""
    size, member.size = member.size, 0
    block = bytearray(member.tobuf(tarfile.GNU_FORMAT))
    block[124:136] = tarfile.itn(size, 12, tarfile.GNU_FORMAT)
    block[148:156] = b"%06o\0 " % (sum(block[:148]) + sum(block[156:]) + 8 * 32)
    return bytes(block)


def as_kind(kind: bytes, target: str = "") -> Change:
    def change(member: tarfile.TarInfo, _: bytes) -> tuple[tarfile.TarInfo, bytes]:
        member.type, member.size, member.linkname = kind, 0, target
        return member, b""

    return change


def sized(size: int) -> Change:
    def change(member: tarfile.TarInfo, content: bytes) -> tuple[tarfile.TarInfo, bytes]:
        member.size = size
        return member, content

    return change


def named(name: str) -> Change:
    def change(member: tarfile.TarInfo, content: bytes) -> tuple[tarfile.TarInfo, bytes]:
        member.name = name
        return member, content

    return change


def long_json(member: tarfile.TarInfo, content: bytes) -> tuple[tarfile.TarInfo, bytes]:
    content = content.ljust(LARGEST_JSON + 1)
    member.size = len(content)
    return member, content


HOSTILE = [
    pytest.param(as_kind(tarfile.SYMTYPE, "../secret.json"), "is no plain file", id="symbolic link"),
    pytest.param(as_kind(tarfile.SYMTYPE, "/etc/passwd"), "is no plain file", id="absolute link"),
    pytest.param(as_kind(tarfile.LNKTYPE, "__shard__"), "is no plain file", id="hard link"),
    pytest.param(as_kind(tarfile.CHRTYPE), "is no plain file", id="device"),
    pytest.param(as_kind(tarfile.FIFOTYPE), "is no plain file", id="pipe"),
    pytest.param(sized(-512), "", id="the same member for ever"),
    pytest.param(sized(-1536), "", id="back to the one before"),
    pytest.param(sized(10**12), "", id="more than there is"),
    pytest.param(long_json, f"is longer than {LARGEST_JSON} bytes", id="long description"),
]


@pytest.mark.parametrize(("change", "says"), HOSTILE)
def test_a_hostile_member_ends_the_reading_of_a_shard(shard: Path, change: Change, says: str) -> None:
    """The utterances before it are used, none of those behind it."""
    [first, _] = scan(shard).entries
    found = scan(changed(shard, 3, change))
    assert found.problem is not None
    assert says in found.problem
    assert found.entries == [first]


def test_a_name_that_comes_twice_ends_the_reading(shard: Path) -> None:
    with tarfile.open(shard) as archive:
        first = archive.getnames()[1]
    found = scan(changed(shard, 3, named(first)))
    assert f"it holds {first} twice" in str(found.problem)
    assert len(found.entries) == 1


@pytest.mark.parametrize("name", ["../../escaped.json", "/tmp/escaped.json"])
def test_names_that_lead_out_of_the_folder_write_nothing(shard: Path, tmp_path: Path, name: str) -> None:
    before = set(tmp_path.rglob("*"))
    [first, _] = scan(shard).entries
    assert scan(changed(shard, 3, named(name))).entries == [first]
    assert set(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(("change", "says"), HOSTILE)
def test_a_hostile_first_description_is_refused_in_a_stream(shard: Path, change: Change, says: str) -> None:
    pytest.importorskip("webdataset")
    with pytest.raises(DataError, match=r"data\.root: cannot read"):
        StreamedShards([f"file:{changed(shard, 1, change)}"]).first_rows()


def test_a_compressed_stream_is_refused(shard: Path) -> None:
    """A megabyte of it can become a gigabyte."""
    pytest.importorskip("webdataset")
    shard.write_bytes(gzip.compress(shard.read_bytes()))
    with pytest.raises(DataError, match=r"data\.root: cannot read"):
        StreamedShards([f"file:{shard}"]).first_rows()


def streamed(shard: Path) -> tuple[list[str], list[Exception]]:
    """Return the names of the members that a stream yields, and what it reports."""
    errors: list[Exception] = []
    members = streaming._members(str(shard), lambda error: bool(errors.append(error)))
    return [member["fname"] for member in members if member], errors


def test_a_stream_yields_the_members_of_a_shard(shard: Path) -> None:
    pytest.importorskip("webdataset")
    names, errors = streamed(shard)
    with tarfile.open(shard) as archive:
        assert ["__shard__", *names] == archive.getnames()
    assert errors == []


@pytest.mark.parametrize(("change", "says"), HOSTILE)
def test_a_hostile_member_ends_a_stream(shard: Path, change: Change, says: str) -> None:
    pytest.importorskip("webdataset")
    names, [error] = streamed(changed(shard, 3, change))
    assert len(names) == 2
    assert says in str(error)


def test_a_recording_that_does_not_fit_into_memory_ends_a_stream(shard: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("webdataset")
    monkeypatch.setattr(streaming, "LARGEST_FILE", 1000)
    names, [error] = streamed(shard)
    assert "is longer than 1000 bytes" in str(error)
    assert len(names) < 4


def test_extended_headers_that_nest_without_end_are_damage(shard: Path) -> None:
    """Python's reader calls itself for each of them."""
    longer = tarfile.TarInfo("x")
    longer.type, longer.size = tarfile.GNUTYPE_LONGNAME, 512
    data = shard.read_bytes()
    shard.write_bytes(data[:1024] + (header(longer) + bytes(512)) * 3000 + data[1024:])
    found = scan(shard)
    assert found.problem is not None
    assert found.entries == []


def test_a_member_is_checked_before_it_is_read() -> None:
    member = tarfile.TarInfo("a.json")
    member.size = LARGEST_JSON
    index.check_member(member)
    member.size += 1
    with pytest.raises(ValueError, match="is longer than"):
        index.check_member(member)
    sparse = tarfile.TarInfo("a.flac")
    sparse.sparse = [(0, 1)]  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="is no plain file"):
        index.check_member(sparse)
