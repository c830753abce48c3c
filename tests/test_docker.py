"""scripts/docker: it is linted, and what it copies, pins and asks for is what the project has."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).resolve().parents[1]
DOCKERFILE = ROOT / "scripts" / "docker" / "Dockerfile"
IGNORED = DOCKERFILE.with_name("Dockerfile.dockerignore")
TEXT = re.sub(r"\\\n\s*", " ", DOCKERFILE.read_text())
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def stages() -> dict[str, list[str]]:
    """Return the instructions of each stage, with those of the stages that it is built on, first to last."""
    found: dict[str, list[str]] = {}
    name = ""
    for line in TEXT.splitlines():
        if opened := re.fullmatch(r"FROM (\S+) AS (\S+)", line):
            name = opened[2]
            found[name] = [*found.get(opened[1], [line])]
        elif name and re.match(r"[A-Z]+ ", line):
            found[name].append(line)
    return found


def allowed() -> list[str]:
    """Return what of the checkout is given to the build."""
    lines = [line for line in IGNORED.read_text().splitlines() if line and not line.startswith("#")]
    assert lines[0] == "*"
    return [line[1:] for line in lines if line.startswith("!")]


def hadolint(file: Path) -> subprocess.CompletedProcess[str]:
    program = Path(sys.executable).with_name("hadolint")
    if not program.exists():
        pytest.skip('hadolint is not installed: pip install -e ".[dev]"')
    return subprocess.run(
        [program, "--no-color", file], cwd=file.parent, capture_output=True, text=True, timeout=120, check=False
    )


@pytest.mark.slow
def test_the_linter_finds_nothing() -> None:
    done = hadolint(DOCKERFILE)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.slow
def test_the_linter_would_find_something(tmp_path: Path) -> None:
    file = tmp_path / "Dockerfile"
    file.write_text(DOCKERFILE.read_text().replace("python:3.12.12-slim-bookworm", "python:latest"))
    done = hadolint(file)
    assert done.returncode == 1
    assert "DL3007" in done.stdout


def test_there_is_a_target_for_cpus_and_one_for_gpus() -> None:
    found = stages()
    for target in ("cpu", "cuda"):
        lines = found[target]
        assert [line for line in lines if line.startswith("USER")][-1] == "USER 1000", "not root"
        assert 'ENTRYPOINT ["bcfusion"]' in lines
        assert f"COPY --from=build-{target} /opt/bcfusion /opt/bcfusion" in lines
        assert lines[-1] == 'RUN ["bcfusion", "doctor", "--for", "stream"]', "an image that cannot work is not built"
    assert not [line for line in found["cpu"] if "g++" in line or "NVIDIA" in line]
    assert [line for line in found["cuda"] if "g++" in line], "for torch.compile"


def test_the_page_builds_targets_that_there_are() -> None:
    page = (ROOT / "docs" / "docker.md").read_text()
    assert set(re.findall(r"--target (\w+)", page)) == {"cpu", "cuda"} <= stages().keys()
    assert set(re.findall(r" bcfusion:(\w+)", page)) == {"cpu", "cuda"}
    [extras] = re.findall(r'^ARG EXTRAS="(.+)"$', TEXT, re.MULTILINE)
    assert f"`{extras}`" in page


def test_torch_and_torchaudio_come_from_one_index() -> None:
    """Both are installed by the same command; without CUDA they are not those of the default index."""
    for target, backend in (("cpu", True), ("cuda", False)):
        commands = [
            line for line in stages()[f"build-{target}"] if "uv pip install" in line and "--no-deps" not in line
        ]
        assert len(commands) == 1
        assert ("--torch-backend cpu" in commands[0]) == backend
        assert "--constraints constraints.txt --requirements pyproject.toml" in commands[0]


def test_what_is_pinned_fits_the_project() -> None:
    [python] = re.findall(r"^FROM python:([\d.]+)-slim-\w+ AS base$", TEXT, re.MULTILINE)
    assert python.count(".") == 2
    assert python in SpecifierSet(PROJECT["requires-python"])
    assert re.search(r"pip install uv==\d+\.\d+\.\d+$", TEXT, re.MULTILINE)
    extras = re.findall(r'^ARG EXTRAS="(.+)"$', TEXT, re.MULTILINE)[0].split()
    assert set(extras) <= PROJECT["optional-dependencies"].keys()


def test_caches_are_in_the_folder_that_everybody_may_write_to() -> None:
    from bcfusion.doctor import storage

    source = Path(storage.__file__).read_text()
    for variable in ("BCFUSION_CACHE", "HF_HOME", "TORCH_HOME", "TORCHINDUCTOR_CACHE_DIR"):
        assert variable in source
        assert f" {variable}=/cache/" in TEXT


def test_what_is_copied_is_given_to_the_build() -> None:
    copied = {
        name
        for line in TEXT.splitlines()
        if line.startswith("COPY ") and "--from" not in line
        for name in line.split()[1:-1]
    }
    assert copied == set(allowed())
    assert all((ROOT / name).exists() for name in copied)


@pytest.mark.slow
def test_what_is_copied_makes_the_whole_wheel(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for name in allowed():
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, source / name)
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(source)],
        check=True,
        capture_output=True,
        timeout=300,
    )
    [wheel] = tmp_path.glob("*.whl")
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    package = {file.relative_to(ROOT).as_posix() for file in (ROOT / "bcfusion").rglob("*.*")}
    conf = {f"bcfusion/{file.relative_to(ROOT).as_posix()}" for file in (ROOT / "conf").rglob("*.yaml")}
    assert packed == {name for name in package | conf if "__pycache__" not in name}
