"""Files: written whole or not at all, found by patterns, and matched by name.

Whatever cannot be written is reported by a :class:`~bcfusion.errors.WriteError` that names the file and the reason.
"""

from __future__ import annotations

import errno
import glob
import json
import os
import re
import secrets
import shutil
import time
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from bcfusion.errors import BcfusionError, WriteError
from bcfusion.system import BINARY, lock, open_folder

__all__ = [
    "NamesOnDisk",
    "appearing",
    "appearing_folder",
    "cache_directory",
    "fixed_part",
    "from_json",
    "from_yaml",
    "in_use",
    "make_folder",
    "matching",
    "name_below",
    "normal_name",
    "of_the_disk",
    "on_disk",
    "read_object",
    "remove_folder",
    "remove_leftovers",
    "remove_unfinished",
    "why_unwritable",
    "write_text",
]

#: reasons that concern the place that is written to, even if the error names no file
_OF_THE_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
_PROBE_BYTES = 1 << 20
#: names of what is being written, or being replaced
_UNFINISHED = re.compile(r"\.(.+)\.[0-9a-f]{8}\.(part|old)")
_DEEP = 500  # brackets of a YAML text, and columns of one line's indentation, that may be nested
_INDENTED = re.compile(rb"^[ ?:-]{500}", re.MULTILINE)
_YOUNG = 2.0  # seconds; the process that writes a younger file may not have locked it yet


@contextmanager
def appearing(path: str | os.PathLike[str], *, fsync: bool = False) -> Iterator[Path]:
    """Yield a hidden name beside ``path`` to write to; the file takes its place when the block ends without an error.

    Missing folders are created. If the block or the replacement fails, a previous file at ``path`` stays as it was and
    the unfinished one is deleted.

    Args:
        path: the file to write.
        fsync: whether to force the content and the new name to the disk, so that it survives a power failure too.

    Raises:
        WriteError: ``path`` cannot be written to. Errors of the block that come from the disk are reported as this too.
    """
    target = Path(path)
    part = _hidden(target, "part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        yield part
        if fsync:
            _to_disk(part)
        os.replace(part, target)
        if fsync:
            _names_to_disk(target.parent)
    except Exception as error:
        if (fault := _fault(error, part, target)) is not None:
            raise fault from error
        raise
    finally:
        with suppress(OSError):  # there may be nothing, or no way to delete it; what went wrong before is the reason
            part.unlink()


def make_folder(path: Path) -> None:
    """Create a folder, with those above it, unless it is there.

    Raises:
        WriteError: it cannot be created.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WriteError(error.errno, why_unwritable(error, path), os.fspath(path)) from error


@contextmanager
def in_use(part: Path) -> Iterator[None]:
    """Mark a file that is being written, until the block or the process ends, so that nobody removes it as a leftover.

    Args:
        part: from :func:`appearing`; it is created.
    """
    descriptor = os.open(part, os.O_CREAT | os.O_RDWR | BINARY, 0o666)
    try:
        with suppress(OSError):  # some network file systems have no locks
            lock(descriptor)
        yield
    finally:
        os.close(descriptor)


def remove_leftovers(targets: Iterable[str | os.PathLike[str]]) -> list[Path]:
    """Delete what a process that was killed has left of files: those of :func:`appearing` that no process has locked.

    Args:
        targets: the files to be written. They are all written by processes that mark them by :func:`in_use`.

    Returns:
        What was deleted.
    """
    starts: dict[Path, set[str]] = {}
    for target in map(Path, targets):
        starts.setdefault(target.parent, set()).add(target.name[:24])
    removed = []
    for folder, names in starts.items():
        for entry in os.listdir(folder) if folder.is_dir() else []:
            found = _UNFINISHED.fullmatch(entry)
            if found and found[2] == "part" and found[1] in names and _is_left(folder / entry):
                with suppress(OSError):
                    (folder / entry).unlink()
                    removed.append(folder / entry)
    return removed


def remove_unfinished(folders: Iterable[str | os.PathLike[str]]) -> list[Path]:
    """Delete what processes that were killed have left of files and folders; nobody else may write there meanwhile.

    Args:
        folders: what lies in them is looked at, not what lies deeper. They may be missing.

    Returns:
        What was deleted.
    """
    found = [
        Path(folder, entry)
        for folder in folders
        if os.path.isdir(folder)
        for entry in os.listdir(folder)
        if _UNFINISHED.fullmatch(entry)
    ]
    for path in found:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            with suppress(OSError):
                path.unlink()
    return [path for path in found if not path.exists()]


def remove_folder(path: str | os.PathLike[str]) -> None:
    """Delete a folder, if it exists, so that no process ever sees a part of it, not even after a crash."""
    old = _hidden(Path(path), "old")
    with suppress(FileNotFoundError):
        os.replace(path, old)
        shutil.rmtree(old, ignore_errors=True)


def _is_left(part: Path) -> bool:
    """Return whether no process writes a file any more."""
    try:
        if time.time() - part.stat().st_mtime < _YOUNG:
            return False
        descriptor = os.open(part, os.O_RDWR)
    except OSError:  # it has just taken its place, or is another user's
        return False
    try:
        lock(descriptor)
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True


@contextmanager
def appearing_folder(path: str | os.PathLike[str], *, keep: Callable[[Path], bool] = lambda _: False) -> Iterator[Path]:
    """Yield an empty hidden folder beside ``path`` to fill; it replaces ``path`` when the block ends without an error.

    A previous folder stays until the new one is complete, and returns if the replacement fails.

    Args:
        path: the folder to write.
        keep: whether a folder that is at ``path`` when the block ends stays and the new one is deleted: so of several
            processes that make the same folder, the first one wins, and what it made is never moved.

    Raises:
        WriteError: ``path`` cannot be written to. Errors of the block that come from the disk are reported as this too.
    """
    target = Path(path)
    part, old = _hidden(target, "part"), _hidden(target, "old")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        part.mkdir()
        yield part
        try:
            os.replace(part, target)  # onto nothing or an empty folder: no other process sees a moment without it
            return
        except OSError:
            if not target.exists():
                raise
        if keep(target):
            return
        os.replace(target, old)
        try:
            os.replace(part, target)
        except OSError:
            if old.exists():
                os.replace(old, target)
            raise
    except Exception as error:
        if (fault := _fault(error, part, target)) is not None:
            raise fault from error
        raise
    finally:
        shutil.rmtree(part, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def write_text(path: str | os.PathLike[str], text: str, *, newline: str | None = None) -> Path:
    """Write ``text`` as UTF-8 to a file that appears whole or not at all; see :func:`appearing`.

    Args:
        path: the file to write.
        text: its content. What UTF-8 cannot hold, a byte of a file's name that is not UTF-8 itself, is written as an
            escape, such as ``\\udce9``.
        newline: as of :func:`open`; ``""`` keeps the line ends of ``text``.

    Returns:
        ``path``.

    Raises:
        WriteError: ``path`` cannot be written to.
    """
    with appearing(path) as part:
        part.write_text(text, encoding="utf-8", errors="backslashreplace", newline=newline)
    return Path(path)


def from_json(text: str | bytes) -> Any:
    """Return the value of a JSON text.

    Raises:
        ValueError: it is no JSON, is not UTF-8, or holds a number of thousands of digits or brackets in thousands of
            others, for which Python's own reader has other errors.
    """
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("its brackets are nested too deeply") from error


def from_yaml(text: str | bytes) -> Any:
    """Return the plain values of a YAML text; nothing that it names is made or called.

    Raises:
        ValueError: it is no YAML, holds a tag, a date that does not exist or brackets in thousands of others.
    """
    import yaml

    data = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    # libyaml's reader is ten times faster, and ends the whole process where Python's has an error
    may_be_deep = data.count(b"[") + data.count(b"{") > _DEEP or _INDENTED.search(data) is not None
    fast = yaml.SafeLoader if may_be_deep else getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        return yaml.load(data, fast)  # nosec B506 # both are safe loaders
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from error
    except RecursionError as error:
        raise ValueError("its brackets are nested too deeply") from error
    except (OverflowError, TypeError, AttributeError, LookupError) as error:  # of numbers, keys and times that are none
        raise ValueError(f"a value cannot be read ({type(error).__name__}: {error})") from error


def read_object(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the JSON object in a file; empty if there is no such file, or if it holds something else."""
    try:
        content = from_json(Path(path).read_bytes())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def of_the_disk(error: OSError) -> WriteError | None:
    """Return an error of a disk that is full or read-only as one that the user can mend; None if it is another one."""
    if error.errno not in _OF_THE_DISK:
        return None
    if error.filename is None or isinstance(error.filename, int):  # which disk is not known
        return WriteError(error.errno, error.strerror, "a file")
    target = Path(os.fsdecode(error.filename))
    return WriteError(error.errno, why_unwritable(error, target), os.fspath(target))


def cache_directory(cache_dir: str | None = None) -> Path:
    """Return the first that is set: ``cache_dir``, $BCFUSION_CACHE, $XDG_CACHE_HOME/bcfusion, ~/.cache/bcfusion."""
    if chosen := cache_dir or os.environ.get("BCFUSION_CACHE"):
        return Path(os.path.expanduser(chosen)).absolute()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache").absolute() / "bcfusion"


def normal_name(text: str) -> str:
    """Return the form in which names are compared and written: Unicode's composed form (NFC).

    An accented letter is one character or two (NFD, as macOS stores names), which look the same but compare as
    different. A byte that is not UTF-8 becomes an escape, such as ``\\udce9``, that any file and terminal can hold.
    """
    if text.isascii():
        return text
    return unicodedata.normalize("NFC", text.encode("utf-8", "backslashreplace").decode("utf-8"))


def name_below(folder: Path, file: Path) -> str:
    """Return what a file is matched by: its :func:`normal_name` below a folder, with ``/`` and without suffix."""
    return normal_name(file.relative_to(folder).with_suffix("").as_posix())


class NamesOnDisk:
    """Finds files by names whose Unicode form may differ from that of the names on disk; folders are listed once."""

    def __init__(self) -> None:
        self._entries: dict[str, dict[str, str]] = {}

    def find(self, path: str) -> str:
        """Return ``path`` as it is spelled on disk; unchanged if there is no such file or its name is ASCII."""
        folder, name = os.path.split(path)
        if path.isascii() or not name:
            return path
        folder = self.find(folder) if folder else ""
        if folder not in self._entries:
            try:
                names = os.listdir(folder or os.curdir)
            except OSError:
                names = []
            # of two names that look the same, each is found by its own spelling
            self._entries[folder] = {normal_name(entry): entry for entry in names} | {entry: entry for entry in names}
        entries = self._entries[folder]
        return os.path.join(folder, entries.get(name) or entries.get(normal_name(name), name))


def on_disk(path: str | os.PathLike[str]) -> Path:
    """Return a path that a user typed, with ``~`` replaced, as it is spelled on disk; see :class:`NamesOnDisk`."""
    return Path(NamesOnDisk().find(os.path.expanduser(path)))


def fixed_part(pattern: str | os.PathLike[str]) -> Path:
    """Return the leading folders of a pattern that exist as they are written, with brackets in their names too."""
    path = Path(pattern)
    while not os.path.isdir(path) and path != path.parent:
        path = path.parent
    return path


def matching(pattern: str | os.PathLike[str]) -> list[Path]:
    """Return what a glob pattern (``**`` too) matches, sorted.

    Leading folders that exist are taken as they are written, so that ``[`` and ``]`` in their names are no pattern. If
    nothing matches, the brackets of the rest are tried as parts of names.
    """
    folder = fixed_part(pattern)
    rest = os.fspath(Path(pattern).relative_to(folder))
    start = glob.escape(os.fspath(folder))
    found = glob.glob(os.path.join(start, rest), recursive=True)
    if not found and "[" in rest:
        found = glob.glob(os.path.join(start, rest.replace("[", "[[]")), recursive=True)
    return [Path(name) for name in sorted(found)]


def _hidden(target: Path, suffix: str) -> Path:
    """Return an unused hidden name beside ``target``, in the same file system.

    It does not end in the suffix of the target, so that a glob for ``*.ckpt`` never finds an unfinished file, and holds
    only the start of a long name, because names have at most 255 bytes.
    """
    return target.with_name(f".{target.name[:24]}.{secrets.token_hex(4)}.{suffix}")


def _fault(error: Exception, part: Path, target: Path) -> WriteError | None:
    """Return why ``target`` cannot be written; None if the error is about something else.

    Libraries hide the system's error behind one of their own. Whether the disk still takes data is then tried.
    """
    if isinstance(error, BcfusionError):
        return None
    if not isinstance(error, OSError) or error.errno == errno.EIO:
        tried = _tried(part)
        return None if tried is None else WriteError(tried.errno, why_unwritable(tried, target), os.fspath(target))
    named = None if error.filename is None or isinstance(error.filename, int) else Path(os.fsdecode(error.filename))
    if named is None:
        concerned = error.errno in _OF_THE_DISK
    else:
        concerned = named == target or named in target.parents or part in (named, *named.parents)
    return WriteError(error.errno, why_unwritable(error, target), os.fspath(target)) if concerned else None


def _tried(part: Path) -> OSError | None:
    """Return the error with which the file or folder ``part`` takes no more data; None if it takes it."""
    try:
        with (part / "probe" if part.is_dir() else part).open("ab", buffering=0) as file:
            left = memoryview(bytes(_PROBE_BYTES))
            while left:
                left = left[file.write(left) :]
            os.fsync(file.fileno())
    except OSError as error:
        return error
    return None


def why_unwritable(error: OSError, target: Path) -> str:
    """Return the reason for an error of writing ``target``, with the disk or the name that is at fault."""
    folder = fixed_part(target.absolute().parent)
    disk = next(path for path in (folder, *folder.parents) if path == path.parent or os.path.ismount(path))
    if error.errno == errno.ENOSPC:
        usage = shutil.disk_usage(disk)
        return f"the disk is full: {_size(usage.free)} of {_size(usage.total)} are free at {disk}"
    if error.errno == errno.EDQUOT:
        return f"the quota of the disk at {disk} is used up"
    if error.errno == errno.EROFS:
        return f"the file system of {folder} is read-only"
    if error.errno == errno.ENAMETOOLONG:
        longest = max(target.parts, key=lambda name: len(os.fsencode(name)))
        return f"the name is too long for the file system: {longest[:24]}... has {len(os.fsencode(longest))} bytes"
    if error.errno in (errno.ENOTDIR, errno.EEXIST):
        file = next((path for path in target.parents if os.path.exists(path) and not os.path.isdir(path)), None)
        if file is not None:
            return f"{file} is a file, not a folder"
    return error.strerror or str(error)


def _size(count: int) -> str:
    number, unit = float(count), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if number < 1000:
            break
        number, unit = number / 1000, larger
    return f"{number:.3g} {unit}"


def _names_to_disk(folder: Path) -> None:
    try:
        _to_disk(folder)
    except OSError as error:  # some network file systems cannot do that for a folder
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EACCES, errno.EBADF):
            raise


def _to_disk(path: Path) -> None:
    descriptor = open_folder(path) if path.is_dir() else os.open(path, os.O_RDWR)  # Windows writes no other to the disk
    if descriptor is None:
        return
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
