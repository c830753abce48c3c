from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from serving_server import form

from bcfusion.serving.uploads import PIECE, Form, Refused, receive_form


async def in_pieces(body: bytes, size: int) -> AsyncIterator[bytes]:
    for start in range(0, len(body), size):
        yield body[start : start + size]


def received(body: bytes, kind: str, folder: Path, size: int = 1000, most: int = 10**6, files: int = 2) -> Form:
    return asyncio.run(receive_form(kind, in_pieces(body, size), folder, most, files))


@pytest.mark.parametrize("size", [1, 7, 100_000])
def test_files_and_fields_arrive_however_the_body_is_cut(tmp_path: Path, size: int) -> None:
    content = bytes(range(256)) * 20 + b"\r\n--"
    body, kind = form([("a.wav", content), ("b.flac", b"")], model="throat", strength=0.5)
    got = received(body, kind, tmp_path, size)
    assert got.values == {"model": "throat", "strength": "0.5"}
    assert [name for name, _ in got.files] == ["a.wav", "b.flac"]
    assert [path.read_bytes() for _, path in got.files] == [content, b""]
    assert {path.suffix for _, path in got.files} == {".wav", ".flac"}


@pytest.mark.parametrize(
    ("sent", "shown"),
    [
        ("../../etc/passwd", "passwd"),
        ("C:\\\\Users\\\\me\\\\a.wav", "a.wav"),
        ("/abs/b.wav::0+5", "b.wav::0+5"),
        ("<script>.wav", "<script>.wav"),
        ("", "recording"),
        ("x" * 500 + ".wav", "x" * 116 + ".wav"),
    ],
)
def test_the_name_of_a_file_is_no_path(tmp_path: Path, sent: str, shown: str) -> None:
    folder = tmp_path / "inside"
    folder.mkdir()
    body, kind = form([(sent, b"content")])
    [(name, path)] = received(body, kind, folder).files
    assert name == shown
    assert path.parent == folder
    assert path.stem == "upload-0"
    assert [each.name for each in tmp_path.iterdir()] == ["inside"]


def test_what_is_too_big_is_refused_before_it_has_arrived(tmp_path: Path) -> None:
    asked = 0
    body, kind = form([("a.wav", b"")])
    head = body.partition(b"\r\n\r\n")[0] + b"\r\n\r\n"

    async def endless() -> AsyncIterator[bytes]:
        nonlocal asked
        yield head
        while True:
            asked += 1
            yield bytes(1000)

    with pytest.raises(Refused, match=r"larger than 0\.05 MB") as error:
        asyncio.run(receive_form(kind, endless(), tmp_path, 50_000, 2))
    assert error.value.status == 413
    assert asked == 50
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 50_000


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"{}", "application/json"),
        (b"", ""),
        (b"x", "multipart/form-data"),
        (b"x", "multipart/form-data; boundary=" + "y" * 5000),
        (b"nonsense", "multipart/form-data; boundary=abc"),
        (
            b"--abc\r\nContent-Disposition: form-data; name=file; filename=a\r\n\r\nends",
            "multipart/form-data; boundary=abc",
        ),
        (b"--abc\r\n" + b"X: " + b"y" * 100_000, "multipart/form-data; boundary=abc"),
        (b"--abc\r\n" + b"X: y\r\n" * 1000 + b"\r\n", "multipart/form-data; boundary=abc"),
        (b"--abc\r\nbad header\r\n\r\n\r\n--abc--", "multipart/form-data; boundary=abc"),
        (b"--abc\r\n\r\nno name\r\n--abcd", "multipart/form-data; boundary=abc"),
    ],
)
def test_a_form_that_is_none_is_refused(tmp_path: Path, body: bytes, kind: str) -> None:
    with pytest.raises(Refused) as error:
        received(body, kind, tmp_path)
    assert error.value.status == 422


def test_more_than_a_recording_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="more than 2 files"):
        received(*form([("a", b"")] * 3), tmp_path)
    with pytest.raises(Refused, match="too many fields"):
        received(*form([], **{f"f{n}": 1 for n in range(20)}), tmp_path)
    with pytest.raises(Refused, match="model is too long"):
        received(*form([], model="x" * 5000), tmp_path)
    body, kind = form([("a", b"")])
    with pytest.raises(Refused, match="must be named file"):
        received(body.replace(b'name="file"', b'name="other"'), kind, tmp_path / "..")


def test_a_form_of_very_many_parts_is_given_up_at_its_first_ones(tmp_path: Path) -> None:
    asked = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal asked
        while True:
            asked += 1
            yield b"--x\r\nContent-Disposition: form-data; name=a%d\r\n\r\n\r\n" % asked

    with pytest.raises(Refused, match="too many") as error:
        asyncio.run(receive_form("multipart/form-data; boundary=x", endless(), tmp_path, 10**9, 2))
    assert error.value.status == 422
    assert asked <= 12


@pytest.mark.parametrize(
    ("parts", "says"),
    [
        (b"--x\r\n\r\n\r\n" * 100, "has no name"),
        (b"--x\r\nContent-Disposition: form-data; name=model\r\n\r\na\r\n" * 2, "model is there twice"),
    ],
)
def test_a_field_without_a_name_of_its_own_is_refused(tmp_path: Path, parts: bytes, says: str) -> None:
    with pytest.raises(Refused, match=says):
        received(parts + b"--x--\r\n", "multipart/form-data; boundary=x", tmp_path)


def test_others_have_their_turns_while_a_piece_that_is_slow_to_parse_is_taken(tmp_path: Path) -> None:
    body, kind = form([("a.wav", b"\r\n--" * 50_000)])

    async def turns() -> int:
        upload = asyncio.create_task(receive_form(kind, in_pieces(body, len(body)), tmp_path, 10**6, 1))
        count = 0
        while not upload.done():
            count += 1
            await asyncio.sleep(0)
        await upload
        return count

    assert asyncio.run(turns()) >= len(body) // PIECE
