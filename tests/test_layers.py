"""Imports go to the same layer or to one below; computed from the source, imports inside of functions included."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "bcfusion"

LAYERS = (
    ("contracts", "errors", "files", "nearest", "requirements", "startup", "system", "telemetry", "audio"),
    ("nn", "configuration", "probe"),
    ("run",),
    ("generators", "objectives", "discriminators", "critics", "losses", "balancers", "metrics", "data"),
    ("inference", "evaluation", "search", "importing", "export"),
    ("training", "adaptation", "report", "live", "serving", "hub", "doctor"),
    ("commands",),
    ("cli", "__main__"),
)
LAYER = {name: number for number, names in enumerate(LAYERS) for name in names}
APART = 3  # the layer whose packages never import each other


def imported(source: str, module: str) -> Iterator[str]:
    """Yield the dotted names of what a module imports, wherever in the file."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = module.split(".")[: -node.level] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            yield from (f"{base}.{alias.name}" for alias in node.names)


def violations(files: dict[str, str]) -> list[str]:
    """Return one line for each import that goes up, or across the layer of independent packages."""
    found = []
    for path, source in sorted(files.items()):
        parts = Path(path).with_suffix("").parts
        module = ".".join(("bcfusion", *parts))
        name = parts[0]
        if name == "__init__":
            continue  # the package itself: __version__ and one lazily loaded name
        for target in imported(source, module):
            if not target.startswith("bcfusion."):
                continue
            other = target.split(".")[1]
            if other == name or other == "__version__":
                continue
            if other not in LAYER:
                found.append(f"{path}: imports {target}, which no layer holds")
            elif LAYER[other] > LAYER[name]:
                found.append(f"{path}: layer {LAYER[name]} imports {target} of layer {LAYER[other]}")
            elif LAYER[other] == LAYER[name] == APART:
                found.append(f"{path}: imports {target}, a package of the same layer")
    return found


def package() -> dict[str, str]:
    return {path.relative_to(PACKAGE).as_posix(): path.read_text() for path in PACKAGE.rglob("*.py")}


def test_every_module_has_a_layer() -> None:
    names = {Path(path).parts[0].removesuffix(".py") for path in package()} - {"__init__"}
    assert names == set(LAYER)


def test_the_architecture_page_has_these_layers() -> None:
    page = (PACKAGE.parent / "docs" / "architecture.md").read_text()
    rows = re.findall(r"^\| (\d) \| (`[^|]+`) \|", page, flags=re.MULTILINE)
    table = {int(number): set(re.findall(r"`(\w+)`", names)) for number, names in rows}
    assert table == {number: set(names) - {"__main__"} for number, names in enumerate(LAYERS)}


def test_the_functions_on_the_path_of_a_batch_exist() -> None:
    page = (PACKAGE.parent / "docs" / "architecture.md").read_text()
    [path] = re.findall(r"^```\n(configuration .*?)```$", page, flags=re.DOTALL | re.MULTILINE)
    sources = "\n".join(package().values())
    named = {name for names in re.findall(r"[\w.]+:([\w.]+)", path) for name in names.split(".")}
    assert len(named) > 15
    assert [name for name in sorted(named) if not re.search(rf"(def|class) {name}\b", sources)] == []
    modules = {name.replace(".", "/") for name in re.findall(r"\b([a-z_]+(?:\.[a-z_]+)+):\w", path)}
    files = [file.relative_to(PACKAGE).with_suffix("").as_posix() for file in PACKAGE.rglob("*.py")]
    assert [name for name in sorted(modules) if not any(file.endswith(name) for file in files)] == []


@pytest.mark.slow
def test_imports_go_down() -> None:
    assert violations(package()) == []


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("nn/conv.py", "from bcfusion.training.module import SpeechModule"),
        ("nn/conv.py", "def late() -> None:\n    import bcfusion.report.table"),
        ("losses/waveform.py", "from bcfusion.metrics import si_sdr"),
        ("metrics/lsd.py", "from ..data import corpora"),
        ("run/bundle.py", "from bcfusion import inference"),
        ("run/bundle.py", "from bcfusion.somewhere import thing"),
    ],
)
def test_a_planted_import_is_found(path: str, line: str) -> None:
    assert len(violations({path: line})) == 1
