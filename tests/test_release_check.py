"""scripts/release_check.py: what it finds in a release that is not ready. .ci/run runs it on the real packages."""

from __future__ import annotations

import io
import shutil
import stat
import subprocess
import tarfile
import zipfile
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from script_loading import load_script

from bcfusion import __version__

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def script() -> ModuleType:
    return load_script("release_check")


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The files that say which version this is."""
    (tmp_path / "bcfusion").mkdir()
    for name in ("CHANGELOG.md", "CITATION.cff", "pyproject.toml", "bcfusion/__init__.py"):
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


@pytest.mark.slow
def test_nothing_that_a_script_wrote_is_at_the_top_of_the_repository() -> None:
    """The sdist names what it takes: a result committed by mistake fails the release, so it fails here first."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a checkout")
    done = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    folders = {".ci", "bcfusion", "conf", "docs", "recipes", "scripts", "tests"}
    pages = {"CHANGELOG.md", "CITATION.cff", "CONTRIBUTING.md", "LICENSE", "README.md", "SECURITY.md"}
    settings = {".gitignore", ".pre-commit-config.yaml", "constraints.txt", "mkdocs.yml", "pyproject.toml"}
    assert {name.split("/", 1)[0] for name in done.stdout.splitlines()} - folders - pages - settings == set()


def change(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))


def test_versions_and_dates_of_this_tree_agree(script: ModuleType) -> None:
    assert list(script.versions(ROOT)) == []


def test_a_version_that_the_changelog_does_not_know_is_found(script: ModuleType, copy: Path) -> None:
    change(copy / "bcfusion" / "__init__.py", '__version__ = "', '__version__ = "9.')
    assert list(script.versions(copy)) == [
        f"CHANGELOG.md has no section [9.{__version__}], the version in bcfusion/__init__.py"
    ]


def test_a_citation_of_another_version_or_day_is_found(script: ModuleType, copy: Path) -> None:
    citation = yaml.safe_load((copy / "CITATION.cff").read_text())
    citation |= {"version": "0.0.9", "date-released": "2001-01-01"}
    (copy / "CITATION.cff").write_text(yaml.safe_dump(citation))
    version, day = script.versions(copy)
    assert version.startswith("CITATION.cff has version 0.0.9")
    assert day.startswith("CITATION.cff has the date 2001-01-01")


def test_an_older_version_at_the_top_of_the_changelog_is_found(script: ModuleType, copy: Path) -> None:
    change(copy / "CHANGELOG.md", "## [Unreleased]\n", "## [Unreleased]\n\n## [99.0.0] - 2030-01-01\n")
    assert list(script.versions(copy)) == [
        f"the newest version in CHANGELOG.md is 99.0.0, that of bcfusion/__init__.py {__version__}"
    ]


def test_what_is_unreleased_stops_an_upload_but_not_ci(script: ModuleType, copy: Path) -> None:
    change(copy / "CHANGELOG.md", "## [Unreleased]\n", "## [Unreleased]\n\n- a change\n")
    assert list(script.versions(copy)) == []
    assert list(script.versions(copy, final=True)) == [
        "CHANGELOG.md: move what is under [Unreleased] to the version that is released"
    ]


def test_a_changelog_without_a_place_for_what_comes_next_is_found(script: ModuleType, copy: Path) -> None:
    change(copy / "CHANGELOG.md", "## [Unreleased]\n", "")
    assert list(script.versions(copy)) == ["CHANGELOG.md does not begin with a section [Unreleased]"]


def wheel(folder: Path, *names: str, metadata: str = "Name: bcfusion\n") -> Path:
    file = folder / "bcfusion-1-py3-none-any.whl"
    with zipfile.ZipFile(file, "w") as archive:
        for name in names:
            archive.writestr(name, "x")
        archive.writestr("bcfusion-1.dist-info/METADATA", metadata)
    return file


def test_what_a_wheel_lacks_or_should_not_have_is_named(script: ModuleType, tmp_path: Path) -> None:
    file = wheel(tmp_path, "bcfusion/a.py", "bcfusion/conf/b.yaml", "bcfusion/mine.wav", "tests/c.py")
    tracked = {"bcfusion/a.py", "bcfusion/py.typed", "conf/b.yaml", "tests/c.py", "README.md"}
    assert list(script.wheel_contents(file, tracked)) == [
        "the wheel lacks bcfusion/py.typed",
        "the wheel has bcfusion/mine.wav, which is not part of it",
        "the wheel has tests/c.py, which is not part of it",
    ]


def test_a_package_that_grows_without_bound_is_found(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(script.LARGEST, "wheel", 100)
    (found,) = script.wheel_contents(wheel(tmp_path, "bcfusion/a.py"), {"bcfusion/a.py"})
    assert found.startswith("the wheel has 0.0 MB, more than")


def test_what_an_sdist_lacks_or_should_not_have_is_named(script: ModuleType, tmp_path: Path) -> None:
    file = tmp_path / "bcfusion-1.tar.gz"
    with tarfile.open(file, "w:gz") as archive:
        for name in ("PKG-INFO", "README.md", "runs/a.ckpt"):
            archive.addfile(tarfile.TarInfo(f"bcfusion-1/{name}"), io.BytesIO())
    assert list(script.sdist_contents(file, {"README.md", "LICENSE", ".ci/run"})) == [
        "the sdist lacks LICENSE",
        "the sdist has runs/a.ckpt, which is not part of it",
    ]


def test_what_is_no_plain_file_of_its_own_is_found_in_a_wheel(script: ModuleType, tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="Duplicate name"):
        file = wheel(
            tmp_path, "bcfusion/a.py", "bcfusion/a.py", "../escaped.py", "bcfusion-1.dist-info/direct_url.json"
        )
    with zipfile.ZipFile(file, "a") as archive:
        link = zipfile.ZipInfo("bcfusion/link.py")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")
    found = list(script.wheel_contents(file, {"bcfusion/a.py", "bcfusion/link.py"}))
    assert found == [
        "the wheel has ../escaped.py, which is no plain file below it",
        "the wheel has bcfusion-1.dist-info/direct_url.json, which says nothing about it",
        "the wheel has bcfusion/link.py, which is no plain file below it",
        "the wheel has two files of one name",
        "the wheel has ../escaped.py, which is not part of it",
    ]


@pytest.mark.parametrize(
    ("name", "change", "says"),
    [
        ("bcfusion-1/link", {"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"}, "no plain file below it"),
        ("bcfusion-1/pipe", {"type": tarfile.FIFOTYPE}, "no plain file below it"),
        ("bcfusion-1/../../x", {}, "no plain file below it"),
        ("bcfusion-1/LICENSE", {"mode": 0o666}, "others could write"),
        ("bcfusion-1/LICENSE", {"mode": 0o4755}, "run as somebody else"),
        ("bcfusion-1/README.md", {}, "two files of one name"),
    ],
)
def test_what_is_no_plain_file_of_its_own_is_found_in_an_sdist(
    script: ModuleType, tmp_path: Path, name: str, change: dict[str, Any], says: str
) -> None:
    file = tmp_path / "bcfusion-1.tar.gz"
    member = tarfile.TarInfo(name)
    vars_of = {"mode": 0o644, **change}
    for key, value in vars_of.items():
        setattr(member, key, value)
    with tarfile.open(file, "w:gz") as archive:
        for each in (tarfile.TarInfo("bcfusion-1/PKG-INFO"), tarfile.TarInfo("bcfusion-1/README.md"), member):
            archive.addfile(each)
    assert any(says in line for line in script.sdist_contents(file, {"README.md", "LICENSE"}))


def test_missing_metadata_is_named(script: ModuleType, tmp_path: Path) -> None:
    fields = "Name: bcfusion\nSummary: s\nLicense-Expression: MIT\nLicense-File: LICENSE\nRequires-Python: >=3.11\n"
    file = wheel(tmp_path, metadata=f"{fields}Classifier: Typing :: Typed\nProvides-Extra: hub\n")
    keywords, extras, typed = script.metadata(file, ROOT)
    assert keywords == "the wheel's metadata has no Keywords"
    assert extras.startswith("the wheel's extras are ['hub'], not ['clustering', ")
    assert typed == "the wheel says that it is typed and has no bcfusion/py.typed"


@pytest.mark.slow
def test_a_commit_without_a_tag_is_not_uploaded(script: ModuleType, copy: Path) -> None:
    git = ["git", "-C", str(copy), "-c", "user.name=n", "-c", "user.email=e@example.org"]
    for words in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "all"]):
        subprocess.run([*git, *words], check=True)
    name = f"v{__version__}"
    assert list(script.tag(copy)) == [f"the commit has no tag {name}: git tag -a {name} -m 'bcfusion {name[1:]}'"]
    subprocess.run([*git, "tag", "-am", "release", name], check=True)
    assert list(script.tag(copy)) == []
    (copy / "CITATION.cff").write_text("changed")
    assert list(script.tag(copy)) == ["the working tree has changes that are not committed"]


def test_the_upload_needs_the_public_tools(script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert list(script.tools(tmp_path, tmp_path, tmp_path, needed=False)) == []
    assert [line.split()[0] for line in script.tools(tmp_path, tmp_path, tmp_path, needed=True)] == [
        "twine",
        "check-wheel-contents",
        "cffconvert",
    ]
