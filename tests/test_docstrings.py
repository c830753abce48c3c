"""Docstrings of the package: one argument per line, every argument that is described exists, the imperative mood."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "bcfusion"
SECTIONS = ("Args:", "Attributes:", "Returns:", "Raises:", "Yields:")
#: first words of a docstring that is not in the imperative mood: "Returns the ...", "Samples of ...", "The ..."
NOT_IMPERATIVE = re.compile(
    r"(?!Pass|Process|Access|Compress|Express)[A-Z][a-z]+s\b|(The|A|An|All|Each|Every|What|Whether|Which|How)\b"
)


@cache
def documented() -> list[tuple[str, ast.AST, str]]:
    """Yield place, node and docstring of every documented class and function."""
    found: list[tuple[str, ast.AST, str]] = []
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                text = ast.get_docstring(node)
                if text:
                    found.append((f"{path.relative_to(PACKAGE.parent)}:{node.lineno} {node.name}", node, text))
    return found


def section(text: str, name: str) -> list[str]:
    """Return the lines of one section that open an entry, without their indentation."""
    lines = text.split("\n")
    if name not in lines:
        return []
    entries = []
    for line in lines[lines.index(name) + 1 :]:
        if line and not line.startswith("    "):
            break
        if line.startswith("    ") and not line.startswith("     "):
            entries.append(line.strip())
    return entries


def constructors(node: ast.ClassDef) -> list[ast.FunctionDef]:
    return [item for item in node.body if isinstance(item, ast.FunctionDef) and item.name in ("__init__", "__new__")]


def names_of(node: ast.AST) -> set[str]:
    """Return the arguments of a function, or those of a class's constructor and its fields."""
    if isinstance(node, ast.ClassDef):
        fields = {
            item.target.id
            for item in node.body
            if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)
        }
        made = [
            item for item in node.body if isinstance(item, ast.FunctionDef) and item.name in ("__init__", "__new__")
        ]
        return fields.union(*(names_of(item) for item in made))
    assert isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    arguments = node.args
    every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg]
    return {argument.arg for argument in every if argument is not None}


def test_one_argument_per_line() -> None:
    packed = []
    for where, node, text in documented():
        names = names_of(node)
        for title in ("Args:", "Attributes:"):
            for entry in section(text, title):
                head, _, rest = entry.partition(":")
                several = "," in head and {name.strip() for name in head.split(",")} <= names
                follows = [name for name in re.findall(r"[.;] (\w+): ", rest) if name in names]
                if several or follows:
                    packed.append(f"{where}: {entry}")
    assert packed == []


def test_described_arguments_exist() -> None:
    unknown = []
    for where, node, text in documented():
        if isinstance(node, ast.ClassDef) and not constructors(node):
            continue  # its arguments are those of its parent or of its fields
        for entry in section(text, "Args:"):
            name = entry.partition(":")[0].strip().lstrip("*")
            if re.fullmatch(r"\w+", name) and name not in names_of(node):
                unknown.append(f"{where}: {name}")
    assert unknown == []


def test_functions_are_described_in_the_imperative() -> None:
    found = []
    for where, node, text in documented():
        if not isinstance(node, ast.ClassDef) and not is_property(node) and NOT_IMPERATIVE.match(text):
            found.append(f"{where}: {text.splitlines()[0]}")
    assert found == []


def is_property(node: ast.AST) -> bool:
    decorators = getattr(node, "decorator_list", [])
    return any(ast.unparse(decorator).rpartition(".")[2] in ("property", "cached_property") for decorator in decorators)
