"""Files of a repository of the Hugging Face hub, through the cache of its own client; used by all who read from there.

Only files of known names are fetched, and only up to known sizes. What the hub cannot be asked for is taken from the
cache, if an earlier download left it there.
"""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from glob import escape
from pathlib import Path
from typing import Any, NamedTuple

from bcfusion.errors import CheckpointError

__all__ = ["Fetched", "Reference", "fetch", "hub_errors", "hub_reason", "parse_reference", "repository_of"]

_PART = r"\w(?:[\w.-]*\w)?"  # by the hub's rule
_REFERENCE = re.compile(rf"(?P<name>{_PART}/{_PART})(?:@(?P<revision>[\w./-]{{1,255}}))?", re.ASCII)
LONGEST_NAME = 96  # of owner and name together, by the hub's rule
_COMMIT = re.compile(r"[0-9a-f]{40}")
#: folder of one commit in the cache of the hub
_SNAPSHOT = re.compile(r"/models--(?P<name>[\w.-]+)/snapshots/(?P<revision>[0-9a-f]{40})(?:/|$)", re.ASCII)
LARGEST = 8_000_000_000  #: bytes of a file, unless a smaller limit is known
PATIENCE = 30.0  # seconds until the hub counts as unreachable

#: in a few words, why the hub gave nothing; its own texts run over many lines
_REASONS = {
    "OfflineModeIsEnabled": "it is switched off (HF_HUB_OFFLINE)",
    "GatedRepoError": "its owner grants access to it: ask on its page, then log in by hf auth login, or set HF_TOKEN",
    "RepositoryNotFoundError": "there is no such repository, or it is private: then log in by hf auth login, or set "
    "HF_TOKEN",
    "RevisionNotFoundError": "the repository has no such revision",
    "DisabledRepoError": "the hub has disabled the repository",
}


class Reference(NamedTuple):
    """A repository as it is typed, ``OWNER/NAME`` or ``OWNER/NAME@REVISION``."""

    name: str
    revision: str | None


@dataclass(frozen=True)
class Fetched:
    """Files of a repository on this machine.

    Attributes:
        folder: in the cache of the hub; it may hold further files, which other programs fetched.
        repository: ``owner/name``.
        revision: the full hash of the commit.
        offline: why the hub was not asked, if the files come from an earlier download.
    """

    folder: Path
    repository: str
    revision: str
    offline: str = ""


def parse_reference(text: str) -> Reference | None:
    """Return the repository and the revision that a text names; None if it can be neither."""
    found = _REFERENCE.fullmatch(text)
    if found is None or ".." in text or "--" in found["name"] or len(found["name"]) > LONGEST_NAME:
        return None
    return Reference(found["name"], found["revision"])


def repository_of(path: Path) -> tuple[str, str] | None:
    """Return the repository and the commit of a path in the cache of the hub, however it is written; else None."""
    # of a file its folder counts: the cache keeps files elsewhere, as links
    places = (os.path.realpath(path), os.path.join(os.path.realpath(path.parent), path.name))
    found = next((found for place in places if (found := _SNAPSHOT.search(place.replace(os.sep, "/")))), None)
    return None if found is None else (found["name"].replace("--", "/", 1), found["revision"])


def fetch(
    reference: Reference,
    patterns: Sequence[str],
    *,
    needed: Iterable[str] = (),
    largest: Mapping[str, int] | None = None,
    instead: str = "",
) -> Fetched:
    """Return files of a repository of models; those in the cache are not fetched again.

    Args:
        reference: the repository.
        patterns: names of the files, with ``*``; all others stay where they are.
        needed: names without which there is no use in the others.
        largest: name to the largest size in bytes.
        instead: further line of an error: what to do without the hub.

    Raises:
        CheckpointError: the repository, its revision or a needed file does not exist or may not be read, a file is too
            large, the hub cannot be reached and an earlier download is not in the cache, or ``huggingface_hub`` is not
            installed.
    """
    try:
        import huggingface_hub as hub
    except ImportError as error:
        lines = [
            f"{reference.name} is on the Hugging Face hub, which needs huggingface_hub: pip install 'bcfusion[hub]'"
        ]
        raise CheckpointError("\n".join([*lines, *([instead] if instead else [])])) from error

    def fault(reason: str) -> CheckpointError:
        line = f"{reference.name} cannot be fetched from the Hugging Face hub: {reason}"
        return CheckpointError(f"{line}\n{instead}" if instead else line)

    name, revision = reference

    def cached() -> Path | None:
        try:
            folder = Path(
                hub.snapshot_download(name, revision=revision, allow_patterns=list(patterns), local_files_only=True)
            )
        except (OSError, ValueError):
            return None
        return folder if all((folder / each).is_file() for each in needed) else None

    known = revision is not None and _COMMIT.fullmatch(revision)
    if needed and known and (folder := cached()) is not None:  # a commit never changes
        return Fetched(folder, name, folder.name)
    try:
        with _quiet():
            info = hub.HfApi().model_info(name, revision=revision, files_metadata=True, timeout=PATIENCE)
    except hub_errors() as error:
        if not _is_unreachable(error):
            raise fault(hub_reason(error)) from error
        if (folder := cached()) is None:
            raise fault(f"{hub_reason(error)}, and an earlier download is not in the cache") from error
        return Fetched(folder, name, folder.name, hub_reason(error))
    sizes = {each.rfilename: each.size for each in info.siblings or ()}
    if missing := [each for each in needed if each not in sizes]:
        raise fault(f"it has no {' and no '.join(missing)}")
    names = [each for each in sizes if any(fnmatchcase(each, pattern) for pattern in patterns)]
    for each in names:
        if (size := sizes[each] or 0) > (limit := (largest or {}).get(each, LARGEST)):
            raise fault(f"its {each} has {size} bytes, more than the {limit} that such a file may have")
    folder = cached()  # found by the name of its branch, too, as it must be when the hub cannot be asked
    if folder is not None and folder.name == info.sha and all((folder / each).is_file() for each in names):
        return Fetched(folder, name, folder.name)
    try:
        with _quiet():
            exact = [escape(each) for each in names]
            folder = Path(hub.snapshot_download(name, revision=revision, allow_patterns=exact))
    except hub_errors() as error:
        broken = "the download broke off; the same command continues it"
        raise fault(broken if _is_unreachable(error) else hub_reason(error)) from error
    if folder.name != info.sha:
        raise fault("it changed during the download; try again")
    return Fetched(folder, name, folder.name)


def hub_reason(error: BaseException) -> str:
    """Return in a few words why the hub did not do what was asked."""
    name = type(error).__name__
    if (reason := _REASONS.get(name)) is not None:
        return reason
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status == 401:
        return "the hub does not know the token: log in by hf auth login, or correct HF_TOKEN"
    if status == 403:
        return "the token does not allow it: its owner grants rights at huggingface.co/settings/tokens"
    if _is_unreachable(error):
        return "the hub cannot be reached" if status is None else f"the hub answers with an error ({status})"
    return " ".join(str(error).split())[:160] or name


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep each request out of the log of a run, which shows what other programs tell at the level of information."""
    loggers = [logging.getLogger(name) for name in ("httpx", "httpx2")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(max(logger.level, logging.WARNING))
    try:
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)


def hub_errors() -> tuple[type[BaseException], ...]:
    """Return what huggingface_hub raises about network, name, access and disk."""
    transports = (("requests", "RequestException"), ("httpx", "HTTPError"), ("httpx2", "HTTPError"))  # of 0.x, 1.x, 2.x
    found = [getattr(sys.modules[module], name) for module, name in transports if module in sys.modules]
    return (OSError, ValueError, RuntimeError, *found)


def _is_unreachable(error: BaseException) -> bool:
    """Return whether the hub gave no answer, or only that it is out of order."""
    response: Any = getattr(error, "response", None)
    if response is not None:
        return int(response.status_code) >= 500 or int(response.status_code) == 429  # too many requests
    names = {kind.__name__ for kind in type(error).__mro__}
    return bool(names & {"OfflineModeIsEnabled", "ConnectionError", "Timeout", "TransportError"})
