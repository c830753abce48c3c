"""The tensors in an archive of ``torch.jit.save``, read without the code beside them.

An archive is a zip file: ``data.pkl`` pickles the module as a tree of attributes, and ``data/NUMBER`` holds the bytes
of each storage. ``torch.jit.load`` would compile the code in the archive. Here the classes in the pickle become plain
holders of attributes, and nothing but tensors is built.
"""

from __future__ import annotations

import math
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bcfusion.errors import CheckpointError
from bcfusion.run.stored import require_stored_whole

_STORAGES = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}


class _Holder:
    """Stands for any class of the archive: it keeps its attributes and runs nothing."""

    def __init__(self, *_: Any) -> None:
        self.attributes: dict[str, Any] = {}

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, dict):
            self.attributes = state


def read_archive(file: Path) -> dict[str, Tensor]:
    """Return the tensors of a module, parameters and buffers, by their names as in a state dict.

    Args:
        file: an archive of ``torch.jit.save``.

    Raises:
        CheckpointError: it is none, or damaged.
    """
    require_stored_whole(file)
    try:
        with zipfile.ZipFile(file) as archive:
            name = next(each for each in archive.namelist() if each.endswith("/data.pkl"))
            with archive.open(name) as content:
                module = _Unpickler(content, archive, name.removesuffix("data.pkl")).load()
    except (OSError, zipfile.BadZipFile, StopIteration) as error:
        raise CheckpointError(f"{file} is no archive of torch.jit.save, or a damaged one") from error
    except (pickle.UnpicklingError, ValueError, TypeError, KeyError, RuntimeError, EOFError) as error:
        raise CheckpointError(f"{file} cannot be read as an archive of torch.jit.save: {error}") from error
    return dict(_tensors(module))


def _tensors(value: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield name, value
    elif isinstance(value, _Holder):
        for key, entry in value.attributes.items():
            yield from _tensors(entry, f"{name}.{key}" if name else str(key))


def _rebuilt(storage: Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> Tensor:
    if math.prod(size) > storage.numel():  # strides of zero would make a tensor of any size of one number
        raise pickle.UnpicklingError(f"it holds a tensor {list(size)} of {storage.numel()} numbers")
    return storage.as_strided(size, stride, offset).clone()


class _Unpickler(pickle.Unpickler):
    """Builds tensors and holders only; every other name in the pickle is refused."""

    def __init__(self, content: Any, archive: zipfile.ZipFile, folder: str) -> None:
        super().__init__(content)
        self.archive, self.folder = archive, folder

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in (("torch._utils", "_rebuild_tensor_v2"), ("torch._utils", "_rebuild_parameter")):
            return _rebuilt if name == "_rebuild_tensor_v2" else lambda tensor, *_: tensor
        if module == "torch" and name in _STORAGES:
            return _STORAGES[name]
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if module == "torch.jit._pickle":  # lists of plain values: build_intlist and the like
            return lambda values, *_: values
        if module.startswith("__torch__"):
            return _Holder
        raise pickle.UnpicklingError(f"it holds {module}.{name}, which is no tensor")

    def persistent_load(self, pid: Any) -> Tensor:
        kind, dtype, key, _, count = pid
        if kind != "storage" or not isinstance(dtype, torch.dtype):
            raise pickle.UnpicklingError(f"it holds a {kind} of {dtype}, which is no tensor")
        data = bytearray(self.archive.read(f"{self.folder}data/{key}"))
        return torch.frombuffer(data, dtype=dtype, count=count) if count else torch.empty(0, dtype=dtype)
