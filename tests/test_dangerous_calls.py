"""What can run code, a shell or an archive is found in the source; each place has a reason, or is not there."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

#: calls that run what they are given, or read what may run
CALLS = {
    "builtins": {"eval", "exec", "compile", "__import__"},
    "pickle": {"load", "loads", "Unpickler"},
    "_pickle": {"load", "loads", "Unpickler"},
    "cPickle": {"load", "loads"},
    "cloudpickle": {"load", "loads"},
    "dill": {"load", "loads"},
    "joblib": {"load"},
    "marshal": {"load", "loads"},
    "shelve": {"open", "Shelf", "DbfilenameShelf"},
    "jsonpickle": {"decode", "loads"},
    "pandas": {"read_pickle"},
    "torch": {"load"},
    "torch.jit": {"load"},
    "torch.package": {"PackageImporter"},
    "torch.hub": {"load", "load_state_dict_from_url"},
    "numpy": {"load", "genfromtxt"},
    "yaml": {"load", "load_all", "full_load", "full_load_all", "unsafe_load", "unsafe_load_all"},
    "os": {"system", "popen", "execv", "execvp", "execl", "execlp", "spawnl", "spawnv", "startfile", "fork", "forkpty"},
    "pty": {"spawn"},
    "subprocess": {"getoutput", "getstatusoutput"},
    "tempfile": {"mktemp"},
    "shutil": {"unpack_archive"},
    "tarfile": {"open"},
    "zipfile": {"ZipFile"},
    "importlib": {"import_module"},
    "runpy": {"run_path", "run_module"},
    "ctypes": {"CDLL", "cdll"},
    "code": {"interact"},
    "xml.etree.ElementTree": {"parse", "fromstring", "XML"},
    "multiprocessing": {"Manager"},
    "multiprocessing.connection": {"Client", "Listener"},
    "socketserver": {"TCPServer"},
    "urllib.request": {"urlopen", "urlretrieve"},
}
#: methods with these names are looked at whatever they belong to
METHODS = {"extract", "extractall", "_extract_member"}

#: place in the source and call, with the reason why it is right; a place that is gone must go from here, too
ALLOWED = {
    ("bcfusion/cli.py", "importlib.import_module"): "the verb is one of a fixed list",
    ("bcfusion/commands/completion.py", "importlib.import_module"): "the verb is one of a fixed list",
    ("bcfusion/commands/prepare.py", "importlib.import_module"): "the user types the name of an adapter",
    ("bcfusion/commands/shared/corpora.py", "importlib.import_module"): "modules of one package of bcfusion",
    ("bcfusion/commands/shared/hydra_app.py", "importlib.import_module"): "the verb is one of a fixed list",
    ("bcfusion/configuration/keys.py", "yaml.load"): "a safe loader, of libyaml where it is there; shipped files",
    ("bcfusion/configuration/targets.py", "importlib.import_module"): "a configuration is code; bundles: run.trust",
    ("bcfusion/doctor/answering.py", "importlib.import_module"): "a fixed table, in a process of the doctor",
    ("bcfusion/doctor/project.py", "importlib.import_module"): "what the user's own ./conf names",
    ("bcfusion/generators/chimera.py", "importlib.import_module"): "a fixed name",
    ("bcfusion/importing/source.py", "importlib.import_module"): "modules of one package of bcfusion",
    ("bcfusion/importing/torchscript.py", "pickle.Unpickler"): "a subclass that builds tensors and holders alone",
    ("bcfusion/importing/torchscript.py", "zipfile.ZipFile"): "read in place; sizes are checked before",
    ("bcfusion/importing/weights.py", "torch.load"): "weights_only, plain classes; sizes are checked before",
    ("bcfusion/importing/weights.py", "zipfile.ZipFile"): "names alone",
    ("bcfusion/losses/surrogate.py", "importlib.import_module"): "a fixed name",
    ("bcfusion/metrics/squim.py", "torch.load"): "weights_only",
    ("bcfusion/evaluation/pool.py", "pickle.loads"): "bytes that the process which started this one has pickled",
    ("bcfusion/files.py", "yaml.load"): "a safe loader, of libyaml where it is there",
    ("bcfusion/run/checkpoint.py", "torch.load"): "weights_only; sizes are checked before",
    ("bcfusion/run/stored.py", "zipfile.ZipFile"): "names and sizes alone",
    ("bcfusion/run/trust.py", "importlib.import_module"): "a module of bcfusion, compared as text before",
    ("bcfusion/run/yaml_file.py", "yaml.load"): "a safe loader, bounded for what comes from the hub",
    ("bcfusion/data/loading/shards/index.py", "tarfile.open"): "read in place, each member checked, nothing unpacked",
    ("bcfusion/data/loading/shards/remote.py", "tarfile.open"): "read in place, each member checked, nothing unpacked",
    ("bcfusion/data/loading/shards/streaming.py", "tarfile.open"): "read in place, each member checked",
    ("bcfusion/data/loading/shards/write.py", "tarfile.open"): "written",
}


def names_of(tree: ast.AST) -> dict[str, str]:
    """Return what each name in a file stands for: ``np`` for ``numpy``, ``loads`` for ``pickle.loads``."""
    names = {name: f"builtins.{name}" for name in CALLS["builtins"]}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                top = alias.name.partition(".")[0]
                names[alias.asname or top] = alias.name if alias.asname else top
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.update({alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names})
    return names


def dotted(node: ast.AST, names: dict[str, str]) -> str:
    """Return the full name of an attribute or a name; empty of other expressions."""
    if isinstance(node, ast.Attribute):
        above = dotted(node.value, names)
        return f"{above}.{node.attr}" if above else ""
    return names.get(node.id, "") if isinstance(node, ast.Name) else ""


def found_in(source: str) -> Iterator[tuple[str, ast.AST]]:
    """Yield the dangerous names that a file uses, and where."""
    tree = ast.parse(source)
    names = names_of(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute | ast.Name):
            full = dotted(node, names)
            module, _, name = full.rpartition(".")
            if name in CALLS.get(module, ()):
                yield full.removeprefix("builtins."), node
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in METHODS:
            yield f".{node.func.attr}", node
        if isinstance(node, ast.Call) and any(
            word.arg == "shell" and not (isinstance(word.value, ast.Constant) and word.value.value is False)
            for word in node.keywords
        ):
            yield "shell=True", node


def problems(source: str, file: str, allowed: dict[tuple[str, str], str]) -> tuple[list[str], set[tuple[str, str]]]:
    """Return a line for each place without a reason, and the places that have one."""
    lines, used = [], set()
    tree = ast.parse(source)
    names = names_of(tree)
    for name, node in found_in(source):
        if (file, name) in allowed:
            used.add((file, name))
        else:
            lines.append(f"{file}:{getattr(node, 'lineno', 0)}: {name}")
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        words = {word.arg: word.value for word in node.keywords}
        called = dotted(node.func, names)
        safe = words.get("weights_only")
        if called == "torch.load" and not (isinstance(safe, ast.Constant) and safe.value is True):
            lines.append(f"{file}:{node.lineno}: torch.load without weights_only=True")
        if "allow_pickle" in words:
            lines.append(f"{file}:{node.lineno}: allow_pickle")
    return lines, used


def test_nothing_in_the_package_runs_or_unpacks_what_it_is_given() -> None:
    lines, used = [], set()
    for path in sorted((ROOT / "bcfusion").rglob("*.py")):
        file = path.relative_to(ROOT).as_posix()
        more, known = problems(path.read_text(encoding="utf-8"), file, ALLOWED)
        lines += more
        used |= known
    assert lines == []
    assert set(ALLOWED) - used == set(), "these places are gone: delete their reasons"
    assert all(ALLOWED.values())


SCRIPTS = {
    ("scripts/bench_serve.py", "urllib.request.urlopen"): "a server that the script has started",
    ("scripts/chaos_process.py", "ctypes.CDLL"): "the C library of the system",
    ("scripts/chaos_process.py", "os.fork"): "a process for each session of the run that is interrupted",
    ("scripts/chaos_process.py", "importlib.import_module"): "fixed names",
    ("scripts/benchmarks/networks.py", "importlib.import_module"): "fixed names",
    ("scripts/benchmarks/processes.py", "importlib.import_module"): "the name is typed by the one who measures",
    ("scripts/benchmarks/run.py", "importlib.import_module"): "the table of the benchmarks",
    ("scripts/release_check.py", "tarfile.open"): "names alone, of an archive that it has built",
    ("scripts/release_check.py", "zipfile.ZipFile"): "names and metadata, of an archive that it has built",
    ("scripts/screenshots.py", "urllib.request.urlopen"): "a server that the script has started",
}


def test_nothing_in_the_scripts_runs_or_unpacks_what_it_is_given() -> None:
    lines, used = [], set()
    for path in sorted((ROOT / "scripts").rglob("*.py")):
        more, known = problems(path.read_text(encoding="utf-8"), path.relative_to(ROOT).as_posix(), SCRIPTS)
        lines += more
        used |= known
    assert lines == []
    assert set(SCRIPTS) - used == set(), "these places are gone: delete their reasons"


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("import pickle as p\np.loads(b'')", "pickle.loads"),
        ("from pickle import loads\nread = loads", "pickle.loads"),
        ("import torch\ntorch.load('x', weights_only=False)", "torch.load without weights_only=True"),
        ("import torch\ntorch.load('x')", "torch.load without weights_only=True"),
        ("import numpy as np\nnp.load('x', allow_pickle=True)", "allow_pickle"),
        ("import numpy as np\nnp.load('x')", "numpy.load"),
        ("def f(text):\n    return eval(text)", "eval"),
        ("import subprocess as s\ns.run('ls', shell=True)", "shell=True"),
        ("run('ls', shell=flag)", "shell=True"),
        ("import os\nos.system('ls')", "os.system"),
        ("archive.extractall('.')", ".extractall"),
        ("import tempfile\ntempfile.mktemp()", "tempfile.mktemp"),
        ("import yaml\nyaml.load(text, yaml.Loader)", "yaml.load"),
        ("import shelve\nshelve.open('x')", "shelve.open"),
        ("from joblib import load", None),
        ("from joblib import load\nload('x')", "joblib.load"),
        ("import json\njson.loads('x')", None),
        ("model.eval()", None),
        ("import re\nre.compile('x')", None),
        ("run(['ls'], shell=False)", None),
        ("class eval_: pass", None),
    ],
)
def test_the_search_finds_what_it_is_for(source: str, says: str | None) -> None:
    lines, _ = problems(source, "x.py", {})
    assert any(says in line for line in lines) if says else lines == []


@pytest.mark.parametrize("file", ["bcfusion/configuration/keys.py", "bcfusion/files.py"])
def test_the_loaders_of_yaml_are_safe(file: str) -> None:
    """The name of a loader is a variable there: libyaml's, if it is there."""
    source = (ROOT / file).read_text(encoding="utf-8")
    assert "SafeLoader" in source
    for unsafe in ("FullLoader", "UnsafeLoader", "yaml.Loader", "CLoader"):
        assert unsafe not in source
