"""Where runs, caches and temporary files go: whether there is space, and whether it may be written to."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from bcfusion import system
from bcfusion.configuration.paths import ROOT_CONFIG, conf_dir
from bcfusion.doctor.finding import FAIL, NOTE, Finding, fail, note, ok, why
from bcfusion.doctor.project import GB, home, size
from bcfusion.errors import ConfigError
from bcfusion.files import cache_directory

__all__ = ["cache", "library_caches", "runs", "temporary", "token"]

LEAST, LITTLE = 1 * GB, 5 * GB
COUNTED = 100_000  # files of a cache that are counted before it is said to be larger
MEASURED = 5.0  # seconds after which this is said too


def runs() -> Iterator[Finding]:
    """Look at the folder of runs, in the working directory."""
    remedy = "change to a folder of your own, or give output_root=FOLDER"
    folder = Path.cwd() / _output_root()
    yield _place("runs", folder, remedy, "delete what is not needed, or give output_root=FOLDER on another disk")


def _output_root() -> str:
    """Return the folder of runs as the shipped configuration has it, without loading what reads YAML."""
    try:
        found = re.search(r"^output_root: (\S+)", (conf_dir() / ROOT_CONFIG).read_text("utf-8"), flags=re.MULTILINE)
    except (ConfigError, OSError):  # the check of the configuration says so
        found = None
    return found[1] if found else "runs"


def cache() -> Iterator[Finding]:
    """Look at the cache, in which the demo corpus and shards from URLs are."""
    remedy, folder = "export BCFUSION_CACHE=FOLDER", cache_directory()
    found = _place("cache", folder, remedy, f"{remedy} on another disk", counted=True)
    if found.status == FAIL and any(folder.glob("demo_*/index.json")):  # then it is only read
        found = replace(found, status=NOTE, text=f"{found.text}; the demo corpus is there")
    yield found


def temporary() -> Iterator[Finding]:
    """Look at the folder of temporary files."""
    try:
        folder = Path(tempfile.gettempdir())
    except FileNotFoundError:
        yield fail("temporary files", "no folder for them can be written to", "export TMPDIR=FOLDER")
        return
    free = shutil.disk_usage(folder).free
    text = f"{home(folder)}, {size(free)} are free"
    if free < GB / 10:
        yield note("temporary files", text, "export TMPDIR=FOLDER on another disk")
    else:
        yield ok("temporary files", text)


def library_caches() -> Iterator[Finding]:
    """Look at the caches of libraries that are used here."""
    weights = Path(os.environ.get("TORCH_HOME") or _base() / "torch")
    caches = {
        "hub cache": ("HF_HOME", Path(os.environ.get("HF_HUB_CACHE") or _hub() / "hub")),
        "weights of metrics": ("TORCH_HOME", weights / "hub"),
        "compiled networks": ("TORCHINDUCTOR_CACHE_DIR", _compiled()),
    }
    for name, (variable, folder) in caches.items():
        problem = _unwritable(folder)
        if problem:
            yield note(name, f"{home(folder)} cannot be written to: {problem}", f"export {variable}=FOLDER")
        else:
            yield ok(name, f"{home(folder)}, {_used(folder)}")


def _base() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))


def _hub() -> Path:
    return Path(os.environ.get("HF_HOME") or _base() / "huggingface")


def _compiled() -> Path:
    """Return where torch.compile keeps what it has compiled."""
    if given := os.environ.get("TORCHINDUCTOR_CACHE_DIR"):
        return Path(given)
    names = (os.environ.get(name) for name in ("LOGNAME", "USER", "LNAME", "USERNAME"))
    user = next(filter(None, names), None) or _user()
    return Path(tempfile.gettempdir()) / f"torchinductor_{re.sub(r'[^A-Za-z0-9_.-]', '_', user)}"


def _user() -> str:
    import getpass

    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):  # a container that is run as a user of the host
        return str(system.own_user())


def token() -> Iterator[Finding]:
    """Look for a token of the Hugging Face hub; it is never read, let alone printed."""
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        if os.environ.get(name, "").strip():
            yield ok("hub token", f"present, in {name}")
            return
    file = Path(os.environ.get("HF_TOKEN_PATH") or _hub() / "token")
    try:
        present = file.stat().st_size > 0
    except OSError:
        present = False
    if present:
        yield ok("hub token", f"present, in {home(file)}")
    else:
        yield ok("hub token", "none: public repositories can be read, nothing can be uploaded")


def _place(name: str, folder: Path, move: str, space: str, counted: bool = False) -> Finding:
    """Return whether a folder, which need not exist yet, can be written to and has space."""
    problem = _unwritable(folder)
    if problem:
        return fail(name, f"{home(folder)} cannot be written to: {problem}", move)
    free, full_of_files = system.space(_existing(folder))
    text = f"{home(folder)}, {size(free)} are free" + (f", {_used(folder)}" if counted else "")
    if free < LEAST:
        return fail(name, text, space)
    if full_of_files:
        return fail(name, f"{text}, but the disk can hold no more files", space)
    return note(name, text, space) if free < LITTLE else ok(name, text)


def _existing(folder: Path) -> Path:
    """Return a folder, or the nearest one above it that exists."""
    return next(each for each in (folder, *folder.parents) if each.exists())


def _unwritable(folder: Path) -> str:
    """Return why nothing can be written to a folder, or made in the nearest one that exists; empty if it can."""
    try:
        place = _existing(folder)
        dangling = next((each for each in (folder, *folder.parents) if each.is_symlink() and not each.exists()), None)
        if dangling is not None:
            return f"{home(dangling)} is a link to nothing"
        with tempfile.TemporaryFile(dir=place) as file:
            file.write(b"\0" * 4096)
            file.flush()
    except NotADirectoryError:
        return f"{home(place)} is a file"
    except OSError as error:
        return (error.strerror or why(error)).lower()
    return ""


def _used(folder: Path) -> str:
    """Return the size of the files in a folder; links are not followed."""
    total = number = 0
    until = time.monotonic() + MEASURED
    waiting = [folder]
    while waiting and number < COUNTED and time.monotonic() < until:
        try:
            with os.scandir(waiting.pop()) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(Path(entry.path))
                        continue
                    number += 1
                    total += entry.stat(follow_symlinks=False).st_size
        except OSError:  # not there yet, or somebody else's
            continue
    if not number:
        return "not measured" if waiting else "empty"
    return f"{'more than ' if waiting or number >= COUNTED else ''}{size(total)} in it"
