"""What is shipped: the wheel, its requirements, the pinned versions."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version
from script_loading import load_script

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
REQUIREMENTS = {r.name: r for r in map(Requirement, PROJECT["dependencies"])}


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from this checkout and unpacked."""
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)],
        check=True,
        capture_output=True,
        timeout=300,
    )
    (wheel,) = folder.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(folder / "site")
    return folder / "site"


def files(folder: Path, pattern: str = "*") -> dict[Path, bytes]:
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob(pattern) if path.is_file()}


@pytest.mark.slow
def test_every_yaml_and_every_model_is_in_the_wheel(unpacked: Path) -> None:
    package = unpacked / "bcfusion"
    assert files(package / "conf", "*.yaml") == files(ROOT / "conf", "*.yaml")
    assert files(package / "pretrained") == files(ROOT / "bcfusion" / "pretrained") != {}
    others = {path.relative_to(package).parts[0] for path in package.rglob("*.yaml")}
    assert others <= {"conf", "pretrained"}
    assert not [path for path in unpacked.iterdir() if path.name != "bcfusion" and ".dist-info" not in path.name]


@pytest.mark.slow
def test_the_wheel_composes_from_an_empty_directory(unpacked: Path, tmp_path: Path) -> None:
    code = (
        "import sys; sys.path.insert(0, sys.argv.pop(1)); from bcfusion.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", code, str(unpacked), "train", "experiment=seanet", "--cfg", "job"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "bcfusion.generators.seanet.SEANet" in done.stdout


@pytest.mark.slow
def test_the_wheel_brings_its_sweeper_for_hydra(unpacked: Path, tmp_path: Path) -> None:
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from bcfusion.search.sweeper import NAME, register_sweeper\n"
        "register_sweeper()\n"
        "print(sys.modules[NAME].__file__)"
    )
    command = [sys.executable, "-I", "-c", code, str(unpacked)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()).is_relative_to(unpacked)


def test_models_are_part_of_the_package_and_small() -> None:
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]
    assert "bcfusion" in build["wheel"]["packages"]  # with everything in it
    assert "/bcfusion" in build["sdist"]["include"]
    shipped = files(ROOT / "bcfusion" / "pretrained")
    assert sum(map(len, shipped.values())) <= load_script("ship_model").LIMIT <= 8_000_000
    ignored = subprocess.run(
        ["git", "-C", str(ROOT), "check-ignore", "bcfusion/pretrained/name/generator.safetensors"],
        check=False,
        capture_output=True,
    )
    assert ignored.returncode != 0  # what git ignores, the build leaves out


@pytest.mark.parametrize("version", ["2.6.2", "2.6.3"])
def test_compromised_releases_of_lightning_are_excluded(version: str) -> None:
    assert Version(version) not in REQUIREMENTS["lightning"].specifier
    assert Version("2.6.6") in REQUIREMENTS["lightning"].specifier


def test_torch_and_torchaudio_fit_each_other() -> None:
    assert Version("2.11.0") in REQUIREMENTS["torch"].specifier
    assert Version("2.14.0") in REQUIREMENTS["torch"].specifier
    assert Version("2.15.0") not in REQUIREMENTS["torch"].specifier


def test_constraints_hold_names_and_versions_only() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = {}
    for line in lines:
        match = re.fullmatch(r"([A-Za-z0-9._-]+)==([A-Za-z0-9.+!]+)( ; [^/]+)?", line)
        assert match, line
        pinned[match[1].lower()] = match[2]
    assert pinned["torch"] == pinned["torchaudio"] == "2.11.0"
    for name, requirement in REQUIREMENTS.items():
        assert Version(pinned[name.lower()]) in requirement.specifier, name


@pytest.mark.parametrize("address", ["", "--index-url https://registry.example/simple"])
def test_hashed_requirements_hold_no_address(tmp_path: Path, address: str) -> None:
    """A stand-in for uv writes what it was asked, and what it would print."""
    uv = tmp_path / "uv"
    uv.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/asked\necho "{address}"\necho "soxr==1.0 --hash=sha256:00"\n')
    uv.chmod(0o755)
    done = subprocess.run(
        [ROOT / "scripts" / "hashed_requirements.sh", "metrics", "serve"],
        env={"PATH": f"{tmp_path}:/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    asked = (tmp_path / "asked").read_text().split()
    assert asked[:2] == ["pip", "compile"]
    assert {"--generate-hashes", "--no-emit-index-url", "--constraint", "constraints.txt"} <= set(asked)
    assert " ".join(asked).count("--extra") == 2
    assert (done.returncode, done.stdout.strip()) == ((1, "") if address else (0, "soxr==1.0 --hash=sha256:00"))
