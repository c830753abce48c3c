"""The installation, as far as it can be judged without importing what it consists of."""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

from bcfusion import __version__
from bcfusion.doctor.finding import Finding, fail, note, ok, why
from bcfusion.doctor.project import (
    NAME,
    PACKAGE,
    TORCH,
    checkout,
    home,
    installed_version,
    normal,
    packaging,
    read_project,
)
from bcfusion.doctor.remedies import install, install_extra, pip, reinstall, repair_files, wanted
from bcfusion.run.commit import git_hash

__all__ = ["dependencies", "package", "python", "releases", "requirements", "working_directory"]

#: releases that must not even be imported, and why
COMPROMISED = {
    ("lightning", version): "a compromised release: importing it hands passwords and tokens to somebody else"
    for version in ("2.6.2", "2.6.3")
}
SHOWN = 3  # requirements, and conflicts of dependencies, that are printed one by one


def working_directory() -> Iterator[Finding]:
    """Look whether the working directory exists: most libraries cannot be imported without it."""
    try:
        yield ok("working directory", home(Path.cwd()))
    except OSError as error:
        yield fail("working directory", f"cannot be used: {why(error)}", "cd to a folder that exists")


def python() -> Iterator[Finding]:
    """Look at the version of Python."""
    project, versions = read_project(), packaging("specifiers")
    found = f"{platform.python_version()}, {home(sys.executable)}"
    needed = project.requires_python if project else ""
    if needed and versions and not versions.SpecifierSet(needed).contains(platform.python_version(), prereleases=True):
        remedy = "python3.12 -m venv .venv && . .venv/bin/activate, then install bcfusion again"
        yield fail("python", f"{found}; bcfusion needs {needed}", remedy)
    else:
        yield ok("python", found)


def package() -> Iterator[Finding]:
    """Look at which bcfusion this is, and where it comes from."""
    root = checkout()
    version = installed_version(NAME)
    if root is None:
        text = f"{__version__}, {home(PACKAGE)}"
        if version is None:
            yield note("bcfusion", f"{text}, a copy without metadata: its requirements are not known")
        elif version != __version__:
            remedy = repair_files("bcfusion")
            yield note("bcfusion", f"{text}, but the metadata are those of {version}", remedy)
        else:
            yield ok("bcfusion", f"{text}, installed")
        return
    how = "editable" if _editable(root) else "a checkout that is not installed"
    commit = git_hash(PACKAGE)
    yield ok("bcfusion", f"{__version__}, {how}, {home(root)}" + (f", commit {_short(commit)}" if commit else ""))


def _editable(root: Path) -> bool:
    """Return whether the installed distribution is an editable installation of a checkout."""
    try:
        written = metadata.distribution(NAME).read_text("direct_url.json")
        origin = json.loads(written or "{}")
        return bool(origin["dir_info"]["editable"]) and origin["url"] == root.as_uri()
    except (metadata.PackageNotFoundError, KeyError, TypeError, ValueError):
        return False


def _short(commit: str) -> str:
    number, _, dirty = commit.partition("-")
    return number[:12] + (f"-{dirty}" if dirty else "")


def releases() -> Iterator[Finding]:
    """Look for releases that must not be imported."""
    for (name, version), reason in COMPROMISED.items():
        if installed_version(name) == version:
            remedy = f"{reinstall(name)}, then replace every password, key and token that this machine can read"
            yield fail(name, f"{version} is {reason}", remedy)
            return
    yield ok("releases", "none that is known to be compromised")


def requirements() -> Iterator[Finding]:
    """Compare what is installed with what bcfusion requires."""
    project, parts = read_project(), packaging("requirements")
    if project is None or not project.requirements:
        yield note("requirements", "not known: this copy of bcfusion has no metadata", install_extra())
        return
    if parts is None:
        yield fail("requirements", "packaging is not installed, which lightning needs", install("packaging"))
        return
    broken = []
    needed = [parts.Requirement(line) for line in project.requirements]
    needed = [requirement for requirement in needed if requirement.marker is None or requirement.marker.evaluate()]
    for requirement in needed:
        version = installed_version(requirement.name)
        if (normal(requirement.name), version) in COMPROMISED or fits(requirement, version):
            continue
        text = "not installed" if version is None else f"{version}, but bcfusion needs {requirement.specifier}"
        of_torch = normal(requirement.name) in TORCH
        remedy = reinstall(*TORCH) if of_torch else install(wanted(requirement.name))
        broken.append(fail(requirement.name, text, remedy))
    if len(broken) > SHOWN:  # an environment into which bcfusion has not been installed
        names = ", ".join(each.name for each in broken)
        yield fail("requirements", f"missing or out of range: {names}", install_extra())
    else:
        yield from broken
    if not broken:
        yield ok("requirements", f"all {len(needed)} packages are installed in the versions that are required")


def dependencies() -> Iterator[Finding]:
    """Compare what is installed with what the requirements themselves require, and so on."""
    project, parts = read_project(), packaging("requirements")
    if project is None or not project.requirements or parts is None:
        return
    conflicts: dict[str, str] = {}
    seen: set[tuple[str, str]] = set()
    waiting: list[tuple[str, tuple[str, ...]]] = [
        (requirement.name, tuple(requirement.extras))
        for requirement in map(parts.Requirement, project.requirements)
        if requirement.marker is None or requirement.marker.evaluate()
    ]
    names = {normal(name) for name, _ in waiting if installed_version(name) is not None}
    while waiting:
        name, extras = waiting.pop()
        for requirement in _required_by(parts, name, extras):
            version = installed_version(requirement.name)
            own = normal(requirement.name) in names and not requirement.extras
            if not fits(requirement, version):
                found = "not installed" if version is None else f"{version} is installed"
                conflicts.setdefault(
                    f"{name} needs {requirement.name}{requirement.specifier}, {found}", str(requirement)
                )
            key = (normal(requirement.name), ",".join(sorted(requirement.extras)))
            if version is not None and not own and key not in seen:
                seen.add(key)
                waiting.append((requirement.name, tuple(requirement.extras)))
    for text, requirement in list(conflicts.items())[:SHOWN]:
        yield note("dependencies", text, install(requirement))
    if len(conflicts) > SHOWN:
        yield note("dependencies", f"{len(conflicts) - SHOWN} more conflicts", pip("check"))
    if not conflicts:
        yield ok(
            "dependencies", f"no conflicts among the {len(names | {name for name, _ in seen})} packages below them"
        )


def _required_by(parts: Any, name: str, extras: tuple[str, ...]) -> Iterator[Any]:
    """Yield the requirements of an installed distribution, here and with these extras."""
    try:
        lines = metadata.requires(name) or []
    except metadata.PackageNotFoundError:
        return
    for line in lines:
        try:
            requirement = parts.Requirement(line)
        except parts.InvalidRequirement:  # of an old release, which pip takes nevertheless
            continue
        marker = requirement.marker
        if marker is None or any(marker.evaluate({"extra": extra}) for extra in ("", *extras)):
            yield requirement


def fits(requirement: Any, version: str | None) -> bool:
    """Return whether an installed version is in the range of a requirement."""
    return version is not None and bool(requirement.specifier.contains(version, prereleases=True))
