"""The commands that install things again, for the Python that runs and from where they came."""

from __future__ import annotations

import errno
import json
import re
import shlex
import sys
from importlib import metadata
from importlib.util import find_spec

from bcfusion.doctor.project import NAME, TORCH, checkout, installed_version, normal, read_project

__all__ = ["MEMORY", "after", "install", "install_extra", "pip", "reinstall", "repair_files", "wanted"]

MEMORY = "end other programs, give the container or job more memory, or ulimit -v unlimited"
#: modules whose distributions have another name
_DISTRIBUTIONS = {"PIL": "pillow", "antlr4": "antlr4-python3-runtime", "hydra": "hydra-core", "yaml": "pyyaml"}
_OF_MEMORY = ("failed to map", "annot allocate memory", "can't allocate memory", "std::bad_alloc")


def pip(arguments: str) -> str:
    """Return a command of pip for the Python that runs; of uv, which makes environments without pip, if it has none."""
    python = shlex.quote(sys.executable)
    if find_spec("pip") is None:
        command, _, rest = arguments.partition(" ")
        return f"uv pip {command} --python {python}{' ' * bool(rest)}{rest}"
    return f"{python} -m pip {arguments}"


def install(*requirements: str) -> str:
    """Return the command that installs what bcfusion, or one of its parts, requires."""
    return pip(f"install {' '.join(map(_quoted, requirements))}")


def _quoted(requirement: str) -> str:
    return f"'{requirement.partition(';')[0].strip()}'"


def wanted(name: str) -> str:
    """Return what bcfusion requires of a distribution, as pip takes it, without marker; else its name alone."""
    project = read_project()
    lines = (*project.requirements, *(line for extra in project.extras.values() for line in extra)) if project else ()
    for line in lines:
        found = re.match(r"[\w.-]+", line)
        if found and normal(found[0]) == normal(name):
            return line.partition(";")[0].strip()
    return name


def reinstall(*names: str, options: str = "--no-deps", kind: str = "") -> str:
    """Return the command that installs distributions again; torch and torchaudio in the releases that were tested.

    Args:
        names: of the distributions.
        options: of pip. By default what they depend on stays as it is: pip would otherwise replace torch too.
        kind: of the build of torch: ``cpu``, ``cu126``, ``auto``; empty: of the one that is installed.
    """
    if not set(names) & set(TORCH):
        return pip(f"install --force-reinstall {options} {' '.join(_quoted(wanted(name)) for name in names)}")
    pair = " ".join(map(_of_the_pair, names))
    built = re.search(r"\+(cpu|cu\d+|rocm[\d.]+)$", installed_version("torch") or "")
    kind = kind or (built[1] if built else "")
    if not kind:
        return pip(f"install --force-reinstall {pair}")
    # pip would take the build for CUDA from the default index; uv knows the indexes of all kinds
    python = shlex.quote(sys.executable)
    return f"uv pip install --python {python} --torch-backend {kind} --force-reinstall {pair}"


def _of_the_pair(name: str) -> str:
    """Return torch or torchaudio in the release of torchaudio that is required: no other torch is sure to fit it."""
    release = re.search(r">=([\d.]+)", wanted("torchaudio"))
    return f"'{name}=={release[1]}.*'" if release else name


def install_extra(extra: str = "") -> str:
    """Return the command that installs what bcfusion requires, or one of its extras; no index has bcfusion itself."""
    root = checkout()
    if root is not None:
        target = f"'.[{extra}]'" if extra else "."
        return f"cd {shlex.quote(str(root))} && {pip(f'install -c constraints.txt -e {target}')}"
    if origin := _origin():
        return pip(f"install {shlex.quote(f'{NAME}[{extra}] @ {origin}' if extra else origin)}")
    project = read_project()
    lines = (project.extras.get(extra, ()) if extra else project.requirements) if project else ()
    lines = tuple(line for line in lines if not line.startswith(NAME))  # of dev: the other extras
    return install(*lines) if lines else f"install the wheel of bcfusion again{f', with [{extra}]' if extra else ''}"


def _origin() -> str | None:
    """Return the address that an installed bcfusion came from; None for one that came from an index."""
    try:
        url = json.loads(metadata.distribution(NAME).read_text("direct_url.json") or "{}").get("url")
    except (metadata.PackageNotFoundError, AttributeError, ValueError):
        return None
    return url if isinstance(url, str) else None


def repair_files(path: str) -> str:
    """Return how files of bcfusion are brought back that are missing or damaged.

    Args:
        path: of a folder below the root of a checkout.
    """
    root = checkout()
    if root is not None and not (root / ".git").exists():
        return f"unpack bcfusion again into {root}"
    if root is not None:
        git = f"git -C {shlex.quote(str(root))}"
        return f"{git} diff {path} shows what has been changed, {git} restore {path} undoes it"
    if origin := _origin():
        return pip(f"install --force-reinstall --no-deps {shlex.quote(origin)}")
    return f"{pip('install --force-reinstall --no-deps FILE.whl')}, the wheel that bcfusion came from"


def after(error: BaseException, otherwise: str) -> str:
    """Return what to do about an error of something that has been imported or computed.

    Args:
        error: what was raised.
        otherwise: the remedy if neither memory nor another package is missing.
    """
    while error.__cause__ is not None:
        error = error.__cause__
    of_memory = isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM)
    if of_memory or any(words in str(error) for words in _OF_MEMORY):
        return MEMORY
    if isinstance(error, ModuleNotFoundError) and error.name:
        return _with_module(error.name.partition(".")[0], otherwise)
    return otherwise


def _with_module(module: str, otherwise: str) -> str:
    """Return how a module is installed that is not found: by a distribution that is installed or required by one."""
    installed = metadata.packages_distributions().get(module)
    if module == NAME or module in TORCH or (installed and normal(installed[0]) in (NAME, *TORCH)):
        return otherwise
    if installed:
        return reinstall(installed[0])
    name = normal(_DISTRIBUTIONS.get(module, module))
    for distribution in metadata.distributions():
        for line in distribution.requires or ():
            found = re.match(r"[\w.-]+", line)
            if found and normal(found[0]) == name:
                return install(wanted(name))
    return otherwise
