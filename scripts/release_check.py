"""Check a release as far as a machine can: versions and dates agree, the packages hold what they should and no more.

python scripts/release_check.py --out dist                 builds the sdist, and the wheel from it
python scripts/release_check.py --out dist --final         also: nothing unreleased, and the commit has the tag

`twine`, `check-wheel-contents` and `cffconvert` are used where they are on the PATH; `--final` needs them. The rest of
the checklist is in CONTRIBUTING.md.
"""

from __future__ import annotations

import argparse
import re
import shutil
import stat
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Iterator, Sequence
from email.parser import Parser
from pathlib import Path, PurePosixPath

import yaml

ROOT = Path(__file__).resolve().parent.parent
LARGEST = {"wheel": 12_000_000, "sdist": 16_000_000}  # bytes
TOOLS = (
    ("twine", ["twine", "check", "--strict", "{wheel}", "{sdist}"]),
    ("check-wheel-contents", ["check-wheel-contents", "{wheel}"]),
    ("cffconvert", ["cffconvert", "--validate", "-i", "CITATION.cff"]),
)
#: what the build adds to files of the repository
ADDED_TO_SDIST = {"PKG-INFO"}
ABOUT_WHEEL = {"METADATA", "WHEEL", "RECORD", "entry_points.txt", "licenses/LICENSE"}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="an empty or new folder for the sdist and the wheel")
    parser.add_argument("--final", action="store_true", help="what must be true at the moment of the upload")
    arguments = parser.parse_args(argv)
    problems = list(versions(ROOT, final=arguments.final))
    wheel, sdist = build(ROOT, arguments.out)
    tracked = set(output_of(["git", "ls-files"], ROOT).splitlines())
    problems += [*wheel_contents(wheel, tracked), *sdist_contents(sdist, tracked), *metadata(wheel, ROOT)]
    problems += tools(wheel, sdist, ROOT, needed=arguments.final)
    if arguments.final:
        problems += tag(ROOT)
    for problem in problems:
        print(f"release: {problem}", file=sys.stderr)
    if not problems:
        print(f"{wheel}\n{sdist}\nnothing is wrong with them")
    return 1 if problems else 0


def versions(root: Path, *, final: bool = False) -> Iterator[str]:
    """Yield what disagrees between the package, the changelog and the citation file."""
    match = re.search(r'^__version__ = "(.+)"$', (root / "bcfusion" / "__init__.py").read_text(), re.MULTILINE)
    version = match[1] if match else ""
    changelog = (root / "CHANGELOG.md").read_text()
    sections = re.findall(r"^## \[(.+?)\](?: - (\S+))?$", changelog, re.MULTILINE)
    if not sections or sections[0][0] != "Unreleased":
        yield "CHANGELOG.md does not begin with a section [Unreleased]"
        return
    released = dict(sections[1:])
    if version not in released:
        yield f"CHANGELOG.md has no section [{version}], the version in bcfusion/__init__.py"
        return
    if sections[1][0] != version:
        yield f"the newest version in CHANGELOG.md is {sections[1][0]}, that of bcfusion/__init__.py {version}"
    if not re.fullmatch(r"\d{4}-\d\d-\d\d", released[version]):
        yield f"CHANGELOG.md: [{version}] has no date"
    citation = yaml.safe_load((root / "CITATION.cff").read_text())
    if str(citation["version"]) != version:
        yield f"CITATION.cff has version {citation['version']}, bcfusion/__init__.py {version}"
    if str(citation["date-released"]) != released[version]:
        yield f"CITATION.cff has the date {citation['date-released']}, CHANGELOG.md {released[version] or 'none'}"
    unreleased = changelog.split("## [Unreleased]", 1)[1].split("\n## [", 1)[0].strip()
    if final and unreleased:
        yield "CHANGELOG.md: move what is under [Unreleased] to the version that is released"


def build(root: Path, folder: Path) -> tuple[Path, Path]:
    """Build the sdist, and the wheel from it, as installers that build from source do."""
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise SystemExit(f"release: {folder} is not empty")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(root)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"release: cannot build\n{done.stdout}{done.stderr}")
    (wheel,), (sdist,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    return wheel, sdist


def wheel_contents(wheel: Path, tracked: set[str]) -> Iterator[str]:
    """Yield a line for each file that the wheel lacks, or should not have."""
    members = zipfile.ZipFile(wheel).infolist()
    names = {member.filename for member in members if not member.is_dir()}
    for member in members:
        name = member.filename.partition(".dist-info/")[2]
        if name and not member.is_dir() and name not in ABOUT_WHEEL:
            yield f"the wheel has {member.filename}, which says nothing about it"
        kind = stat.S_IFMT(member.external_attr >> 16)
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR) or _leads_out(member.filename):
            yield f"the wheel has {member.filename}, which is no plain file below it"
    if len(members) > len({member.filename for member in members}):
        yield "the wheel has two files of one name"
    wanted = {name for name in tracked if name.startswith("bcfusion/")}
    wanted |= {f"bcfusion/{name}" for name in tracked if name.startswith("conf/")}
    yield from _differences("wheel", {name for name in names if ".dist-info/" not in name}, wanted)
    yield from _size("wheel", wheel)


def sdist_contents(sdist: Path, tracked: set[str]) -> Iterator[str]:
    """Yield a line for each file that the sdist lacks, or should not have."""
    with tarfile.open(sdist) as archive:
        members = archive.getmembers()
    names = {member.name.partition("/")[2] for member in members if member.isfile()}
    for member in members:
        if not (member.isfile() or member.isdir()) or _leads_out(member.name):
            yield f"the sdist has {member.name}, which is no plain file below it"
        elif member.mode & 0o7022:
            yield f"the sdist has {member.name}, which others could write, or run as somebody else"
    if len(members) > len({member.name for member in members}):
        yield "the sdist has two files of one name"
    wanted = {name for name in tracked if not name.startswith((".ci/", ".pre-commit"))}
    yield from _differences("sdist", names, wanted | ADDED_TO_SDIST)
    yield from _size("sdist", sdist)


def metadata(wheel: Path, root: Path) -> Iterator[str]:
    """Yield what is missing in the metadata of the wheel."""
    archive = zipfile.ZipFile(wheel)
    (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
    found = Parser().parsestr(archive.read(name).decode())
    for field in ("Summary", "License-Expression", "License-File", "Requires-Python", "Keywords", "Classifier"):
        if not found[field]:
            yield f"the wheel's metadata has no {field}"
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    extras = set(project["optional-dependencies"])
    if set(found.get_all("Provides-Extra", [])) != extras:
        yield f"the wheel's extras are {found.get_all('Provides-Extra')}, not {sorted(extras)}"
    if "typed" in str(found.get_all("Classifier")).lower() and "bcfusion/py.typed" not in archive.namelist():
        yield "the wheel says that it is typed and has no bcfusion/py.typed"


def tools(wheel: Path, sdist: Path, root: Path, *, needed: bool) -> Iterator[str]:
    """Yield what the public tools find."""
    for name, words in TOOLS:
        if shutil.which(name) is None:
            if needed:
                yield f"{name} is not installed: pip install {name}"
            continue
        command = [word.format(wheel=wheel, sdist=sdist) for word in words]
        done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
        if done.returncode:
            yield f"{' '.join(command)}\n{done.stdout}{done.stderr}"


def tag(root: Path) -> Iterator[str]:
    """Yield what is missing for an upload from this commit."""
    version = re.search(r'__version__ = "(.+)"', (root / "bcfusion" / "__init__.py").read_text())
    name = f"v{version[1] if version else ''}"
    if name not in output_of(["git", "tag", "--points-at", "HEAD"], root).split():
        yield f"the commit has no tag {name}: git tag -a {name} -m 'bcfusion {name[1:]}'"
    if output_of(["git", "status", "--porcelain"], root):
        yield "the working tree has changes that are not committed"


def output_of(command: list[str], folder: Path) -> str:
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout


def _differences(kind: str, names: set[str], wanted: set[str]) -> Iterator[str]:
    yield from (f"the {kind} lacks {name}" for name in sorted(wanted - names))
    yield from (f"the {kind} has {name}, which is not part of it" for name in sorted(names - wanted))


def _leads_out(name: str) -> bool:
    path = PurePosixPath(name)
    return path.is_absolute() or ".." in path.parts or "\\" in name


def _size(kind: str, file: Path) -> Iterator[str]:
    if file.stat().st_size > LARGEST[kind]:
        yield f"the {kind} has {file.stat().st_size / 1e6:.1f} MB, more than {LARGEST[kind] / 1e6:.0f}"


if __name__ == "__main__":
    sys.exit(main())
