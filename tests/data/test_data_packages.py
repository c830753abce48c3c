"""The packages of ``bcfusion.data`` build on each other in one direction."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import bcfusion

DATA = Path(bcfusion.__file__).parent / "data"
BUILDS_ON = {
    "corpora": set(),
    "inspect": {"corpora"},
    "preparation": {"corpora", "inspect"},
    "simulation": {"corpora"},
    "loading": {"corpora", "inspect", "simulation"},
}


def imported(source: str) -> set[str]:
    return set(re.findall(r"^ *(?:from|import) bcfusion\.data\.(\w+)", source, flags=re.MULTILINE))


def test_every_package_is_listed() -> None:
    assert {path.parent.name for path in DATA.glob("*/__init__.py")} == BUILDS_ON.keys()


@pytest.mark.parametrize("name", BUILDS_ON)
def test_a_package_imports_only_what_it_builds_on(name: str) -> None:
    found = {other for path in (DATA / name).rglob("*.py") for other in imported(path.read_text())}
    assert found & BUILDS_ON.keys() - {name} <= BUILDS_ON[name]


def test_a_module_beside_the_packages_imports_none_of_them() -> None:
    assert not {other for path in DATA.glob("*.py") for other in imported(path.read_text())} & BUILDS_ON.keys()


def test_an_import_inside_a_function_is_found() -> None:
    assert imported("def late() -> None:\n    from bcfusion.data.loading import rows") == {"loading"}
