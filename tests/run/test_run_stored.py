"""Archives of torch: nothing in them may be larger than the file that holds them."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path

import pytest
import torch

from bcfusion.errors import CheckpointError
from bcfusion.importing.torchscript import read_archive
from bcfusion.importing.weights import read_pickle
from bcfusion.run import checkpoint
from bcfusion.run.stored import require_stored_whole

READERS = {"checkpoint": checkpoint.read, "pickle": read_pickle, "torchscript": read_archive}


def bomb(file: Path) -> Path:
    """Write ten megabytes of zeros as a checkpoint, then compress its members: ten kilobytes."""
    checkpoint.write(file, {"weight": torch.zeros(2_500_000)})
    with zipfile.ZipFile(file) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    assert file.stat().st_size < 100_000
    return file


@pytest.mark.parametrize("reader", READERS)
def test_a_compressed_archive_is_refused_before_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reader: str
) -> None:
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("it is read"))
    with pytest.raises(CheckpointError, match=r"bomb\.ckpt was not written by torch: .* in it is compressed"):
        READERS[reader](bomb(tmp_path / "bomb.ckpt"))


@pytest.mark.parametrize("reader", READERS)
def test_members_that_overlap_are_refused(tmp_path: Path, reader: str) -> None:
    """A directory may name the same bytes a thousand times."""
    file = tmp_path / "overlap.ckpt"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("x/data.pkl", pickle.dumps({}))
        archive.writestr("x/data/0", bytes(100_000))
        again = archive.infolist()[-1]
        for number in range(1, 1000):
            copy = zipfile.ZipInfo(f"x/data/{number}")
            copy.CRC, copy.header_offset, copy.file_size, copy.compress_size = (
                again.CRC,
                again.header_offset,
                100_000,
                100_000,
            )
            archive.filelist.append(copy)
    assert file.stat().st_size < 200_000
    with pytest.raises(CheckpointError, match="it says that it holds more bytes than it has"):
        READERS[reader](file)


def test_what_torch_writes_passes(tmp_path: Path) -> None:
    checkpoint.write(tmp_path / "new.ckpt", {"weight": torch.zeros(1000)})
    torch.save([torch.zeros(10)], tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    torch.jit.save(torch.jit.script(torch.nn.Conv1d(4, 4, 3)), tmp_path / "script.pt")
    for file in tmp_path.iterdir():
        require_stored_whole(file)


class Reduced:
    """Pickled as a call of a function of torch, by its name."""

    def __init__(self, *arguments: object) -> None:
        self.arguments = arguments

    def __reduce__(self) -> tuple[object, ...]:
        return torch._utils._rebuild_tensor_v2, self.arguments


class Storage:
    """Stands for the storage of one number."""


class Pickler(pickle.Pickler):
    def persistent_id(self, obj: object) -> object:
        return ("storage", torch.FloatStorage, "0", "cpu", 1) if isinstance(obj, Storage) else None


def test_a_tensor_that_is_larger_than_its_numbers_is_refused(tmp_path: Path) -> None:
    """One number with strides of zero would be a tensor of a terabyte."""
    file = tmp_path / "wide.pt"
    with zipfile.ZipFile(file, "w") as archive:
        with archive.open("x/data.pkl", "w") as content:
            Pickler(content, 2).dump({"weight": Reduced(Storage(), 0, (500_000, 500_000), (0, 0), False, {})})
        archive.writestr("x/data/0", bytes(4))
        archive.writestr("x/constants.pkl", b"")
    with pytest.raises(CheckpointError, match=r"it holds a tensor \[500000, 500000\] of 1 numbers"):
        read_archive(file)
