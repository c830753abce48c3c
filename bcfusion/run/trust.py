"""What a bundle from elsewhere may name: networks of bcfusion, built from plain values, and nothing else.

A bundle's ``config.yaml`` names the class of the network, and those of the losses that it is adapted by. To look up a
class is to import its module, which runs code. So a name is first compared as text with the packages that hold networks
and losses; all of it but its last part must be a module of theirs; then the class that is really found must be defined
in one of them, so that no alias leads out of it.

A model on the disk may also name a network of the user's own. Before its module is imported, the user must have said
so: see :func:`may_be_imported`.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Mapping
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from reprlib import repr as short
from typing import Any

from bcfusion import __version__
from bcfusion.configuration.locations import is_path_key
from bcfusion.configuration.paths import user_conf_dir
from bcfusion.errors import CheckpointError, printable
from bcfusion.run.layout import BUNDLE_CONFIG
from bcfusion.run.yaml_file import read_yaml

__all__ = [
    "PARTS",
    "VARIABLE",
    "foreign_class",
    "is_part",
    "is_sensor_name",
    "may_be_built",
    "may_be_imported",
    "own_training",
    "require_own",
    "require_own_code",
]

VARIABLE = "BCFUSION_TRUST"  #: environment variable: packages of the user's own networks, separated by commas

#: packages of modules that do nothing but compute
NETWORKS = ("bcfusion.generators.", "bcfusion.objectives.", "bcfusion.nn.")
PARTS = (*NETWORKS, "bcfusion.discriminators.", "bcfusion.losses.")
_KEY = re.compile(r"[\w./-]{1,100}", re.ASCII)
_TARGET = re.compile(r"[A-Za-z_]\w{0,99}(\.[A-Za-z_]\w{0,99}){1,19}", re.ASCII)
_SPECIAL = frozenset("${}[],=\\")  #: means something in an override, or on a command line of bcfusion
#: layers of torch that compute, and do nothing else
_LAYERS = ("torch.nn.modules.",)
#: packages that bcfusion itself imports: that they are imported says nothing about what the user wants
_LIBRARIES = frozenset(
    {
        "bcfusion",
        "builtins",
        "lightning",
        "lightning_fabric",
        "pytorch_lightning",
        "torch",
        "torchaudio",
        "torchmetrics",
    }
)
_TARGET_LINE = re.compile(r"""_target_["']?\s*[:=]\s*["']?([A-Za-z_]\w*)\.""")
_LARGEST_CONF = 1_000_000  #: bytes of a file in ./conf that are looked at
#: where a class that is not bcfusion's own is left out, not refused: see own_training
_LEFT_OUT = (("training", "losses"), ("training", "imported", "discriminator_arguments"))
_CONSENT = (
    "only with trust_code=True (--trust-code) is it loaded: the code that it names then runs with all your rights, so "
    "read that code first"
)


def require_own_code(folder: Path, origin: str) -> None:
    """Raise an error if the bundle in ``folder`` names code that is not that of bcfusion's networks.

    Args:
        folder: the bundle.
        origin: what to call it.

    Raises:
        CheckpointError: its ``config.yaml`` names another class or a file, or is damaged.
    """
    content = read_yaml(folder / BUNDLE_CONFIG)
    if not isinstance(content, Mapping) or not isinstance(content.get("generator"), Mapping):
        raise CheckpointError(f"{origin} is no bundle of bcfusion: its {BUNDLE_CONFIG} describes no network")
    _require_plain(content, origin)
    for place, key, value in _values(content):
        of_network = place[:1] == ("generator",)
        if type(key) is not int and not (isinstance(key, str) and _KEY.fullmatch(key)):
            raise CheckpointError(f"{origin} is damaged: its {BUNDLE_CONFIG} holds the key {short(key)}")
        if isinstance(value, str) and printable(value, keep="\n\t") != value:
            raise CheckpointError(f"{origin} is damaged: its {BUNDLE_CONFIG} holds control characters")
        if any(place[: len(each)] == each != place for each in _LEFT_OUT):
            continue
        if key == "_args_":
            raise CheckpointError(f"{origin}: its {BUNDLE_CONFIG} holds _args_: arguments without names\n{_CONSENT}")
        if key == "_target_":
            require_own(value, NETWORKS if of_network else PARTS, origin)
        elif of_network and value is not None and is_path_key(str(key)) and not is_part(value):
            raise CheckpointError(
                f"{origin}: the argument {key} of its network is a place on this machine or another model: "
                f"{short(value)}\n{_CONSENT}"
            )


def is_part(value: Any) -> bool:
    """Return whether an argument is a part of a network, as the path of a flow is, not a place that is named so."""
    return isinstance(value, Mapping) and "_target_" in value


def is_sensor_name(text: str) -> bool:
    """Return whether a sensor of a model on the hub may have this name: printable, and nothing of an override."""
    return text.isprintable() and text == text.strip() != "" and not _SPECIAL & set(text)


def foreign_class(node: Any, packages: tuple[str, ...] = NETWORKS) -> str:
    """Return the first class in a node that is not bcfusion's own; empty if all are.

    Args:
        node: ``_target_`` and arguments of a network or a loss, however deep.
        packages: the beginnings of the names of the modules that may define it.
    """
    for _, key, value in _values([node]):
        if key == "_args_":
            return "_args_"
        if key == "_target_":
            try:
                require_own(value, packages, "the model")
            except CheckpointError:
                return str(value)
    return ""


def own_training(training: Mapping[str, Any]) -> dict[str, Any]:
    """Return the training block of a bundle without losses and discriminators whose classes are not bcfusion's own.

    They only serve to train the network further, and it is whole without them.
    """
    made = dict(training)
    if made.get("losses") is not None:
        made["losses"] = _own_parts(made["losses"])
    imported = made.get("imported")
    if isinstance(imported, Mapping) and imported.get("discriminator_arguments") is not None:
        made["imported"] = {**imported, "discriminator_arguments": _own_parts(imported["discriminator_arguments"])}
    return made


def _own_parts(parts: Any) -> dict[str, Any]:
    entries = parts.items() if isinstance(parts, Mapping) else ()
    return {name: part for name, part in entries if isinstance(part, Mapping) and not foreign_class(part, PARTS)}


def _require_plain(content: Mapping[str, Any], origin: str) -> None:
    """Raise an error if what verbs put into overrides is more than a number or a name."""
    sensors, rate, training = (content.get(key) for key in ("sensors", "sample_rate", "training"))
    named = isinstance(sensors, list) and all(isinstance(each, str) and is_sensor_name(each) for each in sensors)
    if not named or type(rate) is not int or not isinstance(training, Mapping | None):
        raise CheckpointError(
            f"{origin} is damaged: in its {BUNDLE_CONFIG} sensors must be names, sample_rate a number, training keys"
        )


def require_own(target: Any, packages: tuple[str, ...], origin: str) -> None:
    """Raise an error unless a ``_target_`` is a module of torch that is defined in one of the packages.

    Args:
        target: as it stands in the file.
        packages: beginnings of dotted paths.
        origin: what to call the model.

    Raises:
        CheckpointError: it is something else.
    """
    if not isinstance(target, str) or not _TARGET.fullmatch(target):
        raise CheckpointError(f"{origin} is damaged: a _target_ in its {BUNDLE_CONFIG} is not the name of a class")
    if not target.startswith(packages):
        raise CheckpointError(f"{origin} needs {target}, which is not a network of bcfusion\n{_CONSENT}")
    module, _, name = target.rpartition(".")
    if not _is_own_module(module):
        raise CheckpointError(f"{origin} needs {target}, which bcfusion {__version__} does not have")
    from torch import nn

    try:
        found = getattr(import_module(module), name, None)
    except ImportError as error:  # of a package that is not installed
        raise CheckpointError(f"{origin} needs {target}: {error}") from error
    if found is None:
        raise CheckpointError(f"{origin} needs {target}, which bcfusion {__version__} does not have")
    own = isinstance(found, type) and issubclass(found, nn.Module) and f"{found.__module__}.".startswith(packages)
    if not own:
        raise CheckpointError(f"{origin} needs {target}, which is not a network of bcfusion\n{_CONSENT}")


def may_be_imported(target: str) -> bool:
    """Return whether the module of a class that a model on the disk names may be imported without ``trust_code``.

    To import a module is to run it. So it is one of bcfusion or of torch's layers; or one that this program has
    imported already; or one of a package that the user trusts: by the environment variable ``BCFUSION_TRUST``, or
    because a file in ``./conf``, whose classes every training there imports, names a class of it.
    """
    if target.startswith(("bcfusion.", "torch.nn.")):
        return True
    return target.rpartition(".")[0] in sys.modules or _is_trusted(target)


def may_be_built(target: str, found: type) -> bool:
    """Return whether the class that was found may be built without ``trust_code``.

    Args:
        target: the dotted path, for which :func:`may_be_imported` is true.
        found: what is there, which may be an alias of a class of another package.
    """
    defined = found.__module__
    if f"{defined}.".startswith((*PARTS, *_LAYERS)):
        return True
    packages = {target.partition(".")[0], defined.partition(".")[0]}
    return not packages & _LIBRARIES or _in_environment(f"{defined}.")


def _is_trusted(target: str) -> bool:
    package = target.partition(".")[0]
    return _in_environment(target) or (package not in _LIBRARIES and package in _named_in_conf())


def _in_environment(target: str) -> bool:
    named = os.environ.get(VARIABLE, "").replace(" ", "").split(",")
    return any(name and target.startswith(f"{name}.") for name in named)


def _named_in_conf() -> set[str]:
    """Return the packages whose classes the files in ``./conf`` name; none where that folder is bcfusion's own."""
    folder = user_conf_dir(Path.cwd())
    found: set[str] = set()
    for file in () if folder is None else folder.rglob("*.yaml"):
        try:
            with file.open("rb") as stream:
                found |= set(_TARGET_LINE.findall(stream.read(_LARGEST_CONF).decode("utf-8", "replace")))
        except OSError:  # a link that leads nowhere, a file without permission: it names nothing
            continue
    return found


def _is_own_module(name: str) -> bool:
    """Return whether bcfusion has this module; it is looked for on the disk, not among what its modules import."""
    package, *parts = name.split(".")
    place = find_spec(package)
    for part in parts:  # packages of bcfusion are imported on the way, other code is not
        if place is None or place.submodule_search_locations is None:
            return False
        package = f"{package}.{part}"
        place = find_spec(package)
    return place is not None


def _values(node: Any, place: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any, Any]]:
    """Yield the place, the key and the value of every entry, however deep; of lists with their position as key."""
    waiting = [(place, node)]
    while waiting:
        place, node = waiting.pop()
        entries = node.items() if isinstance(node, Mapping) else enumerate(node)
        for key, value in entries:
            yield place, key, value
            if isinstance(value, Mapping | list | tuple | set):
                waiting.append(((*place, str(key)), value))
