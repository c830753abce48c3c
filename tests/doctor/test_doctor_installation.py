"""Requirements, compromised releases, versions of Python, and where the package comes from."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from bcfusion.doctor import extras as extras_module
from bcfusion.doctor import installation, project, remedies
from bcfusion.doctor.extras import FOR, extras
from bcfusion.doctor.finding import FAIL, NOTE, OK, Finding, ok

MakeInstalled = Callable[..., None]
METADATA = """\
Metadata-Version: 2.4
Name: {name}
Version: {version}
"""


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MakeInstalled:
    """Return a function that makes a distribution appear, before an installed one of that name."""
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(str(site))

    def make(name: str, version: str, *lines: str) -> None:
        folder = site / f"{name.replace('-', '_')}-{version}.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(METADATA.format(name=name, version=version) + "".join(f"{x}\n" for x in lines))

    return make


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, installed: MakeInstalled) -> None:
    """The package as if it were installed from a wheel: only its metadata say what it requires."""
    package = tmp_path / "site" / "bcfusion"
    for module in (project, installation):
        monkeypatch.setattr(module, "PACKAGE", package)
    installed(
        "bcfusion",
        installation.__version__,
        "Requires-Python: <3.13,>=3.11",
        "Requires-Dist: numpy<3,>=2.0",
        "Requires-Dist: nothing-of-this-name>=1; sys_platform == 'nowhere'",
        "Requires-Dist: toy-torch<3,>=2",
        "Provides-Extra: onnx",
        "Provides-Extra: dev",
        'Requires-Dist: toy-onnx>=1.20; extra == "onnx"',
        "Requires-Dist: toy-runtime>=1; (python_version >= '3') and extra == 'onnx'",
        "Requires-Dist: bcfusion[onnx]; extra == 'dev'",
        "Requires-Dist: numpy>=2; extra == 'dev'",
    )


def test_a_missing_package_and_one_out_of_range_are_named_with_the_command(
    wheel: None, installed: MakeInstalled
) -> None:
    [missing] = installation.requirements()
    assert (missing.name, missing.status, missing.text) == ("toy-torch", FAIL, "not installed")
    assert missing.remedy == remedies.pip("install 'toy-torch<3,>=2'")
    installed("toy-torch", "3.1")
    [old] = installation.requirements()
    assert (old.status, old.text) == (FAIL, "3.1, but bcfusion needs <3,>=2")


def test_a_missing_torchaudio_comes_with_its_torch(wheel: None, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = ("torch<2.15,>=2.11", "torchaudio<2.12,>=2.11")
    monkeypatch.setattr(installation, "read_project", lambda: project.Project("", lines, {}))
    monkeypatch.setattr(remedies, "read_project", lambda: project.Project("", lines, {}))
    for module in (installation, remedies):
        monkeypatch.setattr(module, "installed_version", {"torch": "2.12.0"}.get)
    [found] = installation.requirements()
    assert found.name == "torchaudio"
    assert found.remedy == remedies.pip("install --force-reinstall 'torch==2.11.*' 'torchaudio==2.11.*'")


def test_an_empty_environment_has_one_line_and_one_command(
    wheel: None, installed: MakeInstalled, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = tuple(f"toy-{number}>=1" for number in range(5))
    monkeypatch.setattr(installation, "read_project", lambda: project.Project("", missing, {}))
    monkeypatch.setattr(installation, "install_extra", lambda: "install it")
    [found] = installation.requirements()
    assert (found.name, found.status, found.remedy) == ("requirements", FAIL, "install it")
    assert all(f"toy-{number}" in found.text for number in range(5))
    installed("toy-0", "1")
    [below] = installation.dependencies()
    assert below.text == "no conflicts among the 1 packages below them", "what is not installed is not counted"


def test_a_range_holds_builds_and_previews(wheel: None, installed: MakeInstalled) -> None:
    installed("toy-torch", "2.11.0+cpu")
    [found] = installation.requirements()
    assert found == ok("requirements", "all 2 packages are installed in the versions that are required")


def test_this_installation_has_what_the_checkout_requires() -> None:
    assert [finding.status for finding in installation.requirements()] == [OK]
    assert project.checkout() == Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("version", ["2.6.2", "2.6.3"])
def test_a_compromised_lightning_is_a_failure_before_it_is_imported(installed: MakeInstalled, version: str) -> None:
    installed("lightning", version)
    [found] = installation.releases()
    assert (found.name, found.status) == ("lightning", FAIL)
    assert version in found.text
    assert "!=2.6.2,!=2.6.3" in found.remedy
    assert "token" in found.remedy
    assert [finding.status for finding in installation.requirements()] == [OK], "it is not reported twice"


def test_other_releases_of_lightning_are_not_suspected(installed: MakeInstalled) -> None:
    installed("lightning", "2.6.1")
    assert [finding.status for finding in installation.releases()] == [OK]


def test_conflicts_below_the_requirements_are_notes(wheel: None, installed: MakeInstalled) -> None:
    installed("toy-torch", "2.1", "Requires-Dist: toy-inner>=5", "Requires-Dist: toy-extra; extra == 'gpu'")
    installed("toy-inner", "5.1", "Requires-Dist: toy-deep<2", "Requires-Dist: toy-gone; sys_platform != 'nowhere'")
    installed("toy-deep", "2.0")
    found = list(installation.dependencies())
    assert {finding.status for finding in found} == {NOTE}
    assert {finding.text for finding in found} == {
        "toy-inner needs toy-deep<2, 2.0 is installed",
        "toy-inner needs toy-gone, not installed",
    }
    assert {finding.remedy for finding in found} == {remedies.install("toy-deep<2"), remedies.install("toy-gone")}


def test_python_out_of_range_is_a_failure(wheel: None, monkeypatch: pytest.MonkeyPatch) -> None:
    assert [finding.status for finding in installation.python()] == [OK]
    for version in ("3.10.9", "3.13.0"):
        monkeypatch.setattr(installation.platform, "python_version", lambda version=version: version)
        [found] = installation.python()
        assert (found.status, found.remedy[:10]) == (FAIL, "python3.12")


def test_a_python_that_cannot_read_toml_is_known_to_be_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tomllib", None)
    monkeypatch.setattr(installation.platform, "python_version", lambda: "3.10.9")
    [found] = installation.python()
    assert (found.status, found.text.endswith("bcfusion needs >=3.11,<3.14")) == (FAIL, True)
    assert [finding.status for finding in (*installation.requirements(), *extras())] == [NOTE, NOTE]


def test_where_the_package_comes_from(wheel: None, installed: MakeInstalled, monkeypatch: pytest.MonkeyPatch) -> None:
    [found] = installation.package()
    assert (found.status, found.text.endswith("installed")) == (OK, True)
    monkeypatch.setattr(installation, "__version__", "99.0")
    [found] = installation.package()
    assert found.status == NOTE
    assert "the metadata are those of" in found.text


def test_a_checkout_has_its_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installation, "git_hash", lambda _: "0123456789abcdef0123-dirty")
    [found] = installation.package()
    assert found.text.endswith("commit 0123456789ab-dirty")


def test_without_metadata_requirements_are_not_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(project, "PACKAGE", tmp_path / "bcfusion")
    monkeypatch.setattr(project, "NAME", "no-such-distribution")
    assert project.read_project() is None
    assert [finding.status for finding in installation.requirements()] == [NOTE]
    assert [finding.status for finding in extras()] == [NOTE]
    assert remedies.reinstall("pesq") == remedies.pip("install --force-reinstall --no-deps 'pesq'")


def test_a_remedy_never_brings_a_torch_that_torchaudio_was_not_tested_with(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever depends on torch is installed without it; torch comes in the release of torchaudio."""
    constraints = (Path(__file__).resolve().parents[2] / "constraints.txt").read_text()
    release = re.findall(r"^torchaudio==(\d+\.\d+)", constraints, re.MULTILINE)[0]
    pair = f"'torch=={release}.*' 'torchaudio=={release}.*'"
    monkeypatch.setattr(remedies, "installed_version", lambda _: f"{release}.0")
    assert remedies.reinstall(*project.TORCH) == remedies.pip(f"install --force-reinstall {pair}")
    monkeypatch.setattr(remedies, "installed_version", lambda _: f"{release}.0+cpu")
    for_cpus = remedies.reinstall(*project.TORCH)
    assert for_cpus.endswith(f" --torch-backend cpu --force-reinstall {pair}"), "not gigabytes of CUDA"
    for name in ("lightning", "soundfile", "pesq", "onnxruntime"):
        assert "--no-deps" in remedies.reinstall(name)


# ---------------------------------------------------------------- extras


def test_every_extra_is_explained_and_no_other() -> None:
    declared = project.read_project()
    assert declared is not None
    assert declared.extras.keys() == FOR.keys()
    assert all(FOR.values())


def state(name: str) -> Finding:
    [found] = [finding for finding in extras() if finding.name == name]
    return found


def test_an_extra_is_installed_missing_or_incomplete(wheel: None, installed: MakeInstalled) -> None:
    assert {finding.name for finding in extras()} == {"onnx", "dev"}
    assert state("onnx") == ok("onnx", "not installed, for export; stream by onnxruntime")
    assert state("dev").text.startswith("installed"), "of itself, not of the extras that it stands for"
    installed("toy-runtime", "1")
    assert state("onnx").text.startswith("not installed"), "half of it may have come with something else"
    installed("toy-onnx", "1.20")
    assert state("onnx") == ok("onnx", "installed, for export; stream by onnxruntime")


def test_an_extra_of_another_version_is_named(wheel: None, installed: MakeInstalled) -> None:
    installed("toy-runtime", "1")
    installed("toy-onnx", "1.19")
    found = state("onnx")
    assert found.status == NOTE
    assert found.text == "toy-onnx is 1.19, not >=1.20; for export; stream by onnxruntime"
    assert found.remedy == remedies.install("toy-onnx>=1.20", "toy-runtime>=1"), "no index has bcfusion"


def test_an_extra_that_lacks_one_package_is_incomplete(wheel: None, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = ("numpy>=2", "toy-gone>=1", "pytest>=1")
    monkeypatch.setattr(extras_module, "read_project", lambda: project.Project("", (), {"metrics": lines}))
    found = state("metrics")
    assert found.status == NOTE
    assert found.text.startswith("not installed: toy-gone; for metrics=")


def test_metadata_and_checkout_say_the_same_of_an_installed_package() -> None:
    """What is read from the lines of a wheel's metadata is what its pyproject.toml has."""
    lines = ['torch-stoi<0.3,>=0.2.3; extra == "stoi"', "x>1; (sys_platform == 'linux') and extra == 'stoi'", "y"]
    assert project._of_extra(lines, "stoi") == ("torch-stoi<0.3,>=0.2.3", "x>1; (sys_platform == 'linux')")
    assert project._of_extra(lines, "sto") == ()
