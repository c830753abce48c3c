"""Models by name: those that are shipped with bcfusion, in folders of the user's own, and on the Hugging Face hub.

What a MODEL on the command line or in Python means is decided here and nowhere else, by :func:`resolve_model`. Nothing
here loads torch, but to look at the classes that a model of the hub names.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from bcfusion.errors import CheckpointError
from bcfusion.nearest import did_you_mean, nearest_path
from bcfusion.run.card import CARD
from bcfusion.run.description import FILES, find_bundle
from bcfusion.run.fetching import Fetched, Reference, fetch, parse_reference, repository_of
from bcfusion.run.layout import BUNDLE_CONFIG, BUNDLE_DISCRIMINATORS, BUNDLE_WEIGHTS, RunDir
from bcfusion.run.trust import require_own_code
from bcfusion.run.yaml_file import LARGEST as LARGEST_YAML

__all__ = [
    "HUB",
    "VARIABLE",
    "NamedModel",
    "Resolved",
    "fetch_bundle",
    "holds_model",
    "hub_name",
    "is_on_hub",
    "missing_folders",
    "model_name",
    "named_models",
    "require_reference",
    "resolve_model",
]

SHIPPED = Path(__file__).resolve().parent.parent / "pretrained"  #: the models in the package
VARIABLE = "BCFUSION_MODELS"  #: environment variable: further folders of models, separated as in PATH
HUB = "hf:"  #: begins the name of a repository of the Hugging Face hub
#: bytes that the files of a bundle on the hub may have
LARGEST = {
    BUNDLE_CONFIG: LARGEST_YAML,
    CARD: LARGEST_YAML,
    BUNDLE_WEIGHTS: 4_000_000_000,
    BUNDLE_DISCRIMINATORS: 4_000_000_000,
}


@dataclass(frozen=True)
class NamedModel:
    """A model that is found by its name.

    Attributes:
        name: of its folder.
        folder: a bundle, or a run with one.
        shipped: whether it is part of bcfusion.
        hides: folders of other models with the same name, which this one stands before.
    """

    name: str
    folder: Path
    shipped: bool
    hides: tuple[Path, ...] = ()

    @property
    def origin(self) -> str:
        """Which model it is, for a message: ``the shipped model``, or the one in a folder."""
        return "the shipped model" if self.shipped else f"the model in {self.folder.parent}"


@dataclass(frozen=True)
class Resolved:
    """What a MODEL means.

    Attributes:
        path: run directory, bundle or checkpoint. It need not exist: whoever loads it says what is wrong.
        note: one line that says which model was used, where a name was given; None for a path that can mean one thing.
        named: the model of that name, if it is the one that is meant.
    """

    path: Path
    note: str | None = None
    named: NamedModel | None = None


def named_models() -> dict[str, NamedModel]:
    """Return the models that have a name, by it: the user's own first, in the order of their folders.

    A model is a folder that holds a bundle, or a run with a bundle, in the package's folder or in one of those that the
    environment variable ``BCFUSION_MODELS`` names.
    """
    found: dict[str, list[NamedModel]] = {}
    for place in (*_own_folders(), SHIPPED):
        for folder in sorted(_folders_in(place)):
            if find_bundle(folder) is not None:
                found.setdefault(folder.name, []).append(NamedModel(folder.name, folder, place == SHIPPED))
    return {
        name: NamedModel(name, first.folder, first.shipped, tuple(other.folder for other in others))
        for name, (first, *others) in found.items()
    }


def missing_folders() -> list[str]:
    """Return a line for each folder that ``BCFUSION_MODELS`` names and that does not exist."""
    return [f"{VARIABLE}: there is no folder {place}" for place in _own_folders() if not place.is_dir()]


def resolve_model(
    given: str | os.PathLike[str], *, searched: bool = False, missing_ok: bool = False, trust_code: bool = False
) -> Resolved:
    """Return what a MODEL means: a path, a model by its name, or one on the Hugging Face hub, which is fetched.

    A run, bundle or checkpoint at that path comes before a model of that name. A folder that only happens to have the
    name of a model, such as one of recordings, does not hide it. To mean a path in any case, write it with a slash:
    ``./throat``. A path into the cache of the hub is held to the same rules as the model of the hub that is there.

    Args:
        given: as typed, with ``~`` for the home directory.
        searched: whether the caller also searches folders for runs, so that a folder of runs is meant too.
        missing_ok: whether the caller reports what does not exist, later.
        trust_code: whether a model of the hub may name other code than that of bcfusion's networks.

    Raises:
        CheckpointError: it could be a name, but there is neither a path nor a model of that name; or the model is on
            the hub and cannot be fetched, or names other code.
    """
    found = _resolved(os.fspath(given), searched, missing_ok)
    if not trust_code and os.path.exists(found.path):
        folder = find_bundle(found.path)
        if (origin := repository_of(folder or found.path)) is not None:
            if folder is None:
                raise CheckpointError(
                    f"{found.path} comes from the Hugging Face hub, from where only bundles are loaded: give its folder"
                )
            require_own_code(folder, f"{HUB}{origin[0]}")
    return found


def _resolved(text: str, searched: bool, missing_ok: bool) -> Resolved:
    if is_on_hub(text):
        fetched = fetch_bundle(text.removeprefix(HUB))
        note = f"{HUB}{fetched.repository}: revision {fetched.revision} of the Hugging Face hub"
        if fetched.offline:
            note += f", from the cache: {fetched.offline}"
        return Resolved(fetched.folder, note, NamedModel(model_name(text), fetched.folder, False))
    path = Path(os.path.expanduser(text))
    if os.sep in text or text in ("", ".", "..") or text.startswith("~"):
        # a relative path of one part loses its slash in a Path, and whoever gets that would take it for a name
        return Resolved(path.absolute() if path.name == os.fspath(path) and path.name in named_models() else path)
    model = named_models().get(text)
    there = os.path.lexists(path)
    if there and (model is None or holds_model(path) or (searched and _holds_runs(path))):
        other = None if model is None else f"{model.origin} of that name"
        return Resolved(path, other and f"{text}: ./{text}, not {other}")
    if model is not None:
        note = f"{text}: {model.origin}"
        if there:
            note += f"; ./{text} holds no model"
        elif not model.shipped and any(folder.parent == SHIPPED for folder in model.hides):
            note += f" ({VARIABLE}), not the shipped model of that name"
        return Resolved(model.folder, note, model)
    if missing_ok or path.suffix == ".ckpt":
        return Resolved(path)
    lines = [f"{text}: no such run, bundle or shipped model{_meant(text)}", *missing_folders()]
    raise CheckpointError("\n".join(lines))


def is_on_hub(given: str) -> bool:
    """Return whether a MODEL is one on the Hugging Face hub, ``hf:OWNER/NAME`` or ``hf:OWNER/NAME@REVISION``."""
    return given.startswith(HUB)


def model_name(given: str) -> str:
    """Return what files that are made of a MODEL are named after: the last part of its path or repository."""
    if is_on_hub(given) and (reference := parse_reference(given.removeprefix(HUB))) is not None:
        return reference.name.partition("/")[2]
    return Path(given).resolve().name


def require_reference(text: str) -> Reference:
    """Return the repository and the revision that a text names.

    Raises:
        CheckpointError: it can be neither.
    """
    if (parsed := parse_reference(text)) is None:
        shown = text if len(text) <= 100 else f"{text[:97]}..."
        raise CheckpointError(f"{HUB}{shown} names no repository: write hf:OWNER/NAME or hf:OWNER/NAME@REVISION")
    return parsed


def fetch_bundle(reference: str, *, discriminators: bool = False) -> Fetched:
    """Return the bundle in a repository of the Hugging Face hub, and its card; no other file is fetched.

    Args:
        reference: ``OWNER/NAME`` or ``OWNER/NAME@REVISION``.
        discriminators: whether those of an imported bundle are fetched, too.

    Raises:
        CheckpointError: it names no repository, or the repository holds no bundle or cannot be fetched.
    """
    parsed = require_reference(reference)
    names = [*sorted(FILES), CARD, *([BUNDLE_DISCRIMINATORS] if discriminators else [])]
    return fetch(parsed, names, needed=sorted(FILES), largest=LARGEST)


def holds_model(path: str | os.PathLike[str]) -> bool:
    """Return whether something is a run, a bundle or a file; a folder of recordings, or of runs, is not."""
    place = Path(path)
    run = RunDir(place)
    parts = (place, run.record, run.last, run.best, place / BUNDLE_WEIGHTS, run.bundle / BUNDLE_WEIGHTS)
    return any(map(os.path.isfile, parts))  # not Path.is_file: it raises for a name that is too long


def _holds_runs(folder: Path) -> bool:
    """Return whether a folder holds the samples of an evaluation, or runs at most three folders deep."""
    parts = ("samples", *("*/" * depth + RunDir(Path()).record.name for depth in (1, 2, 3)))
    return any(True for pattern in parts for _ in folder.glob(pattern))


def _meant(text: str) -> str:
    near = did_you_mean(text, named_models()) or nearest_path(text)
    return near or ("; bcfusion models lists those with a name" if named_models() else "")


def _own_folders() -> list[Path]:
    given = os.environ.get(VARIABLE, "").split(os.pathsep)
    return [Path(os.path.abspath(os.path.expanduser(text))) for text in given if text]


def _folders_in(place: Path) -> list[Path]:
    try:
        return [entry for entry in place.iterdir() if entry.is_dir() and not entry.name.startswith((".", "_"))]
    except OSError:  # a folder that is missing has no models
        return []


def hub_name(path: Path) -> str | None:
    """Return ``hf:OWNER/NAME@COMMIT`` of a path in the cache of the hub; None of any other path."""
    origin = repository_of(path)
    return None if origin is None else f"{HUB}{'@'.join(origin)}"
