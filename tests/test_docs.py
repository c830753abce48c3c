"""The documentation agrees with the code: the site builds, its messages exist, its reference names every file."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType

import pytest
import yaml
from script_loading import load_script

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.glob("*.md"))
GROUPS = sorted({path.parent.relative_to(ROOT / "conf").as_posix() for path in (ROOT / "conf").glob("*/**/*.yaml")})
SHOWN = "…"  # stands for a value on the page of errors


@pytest.fixture(scope="module")
def reference() -> ModuleType:
    return load_script("config_reference")


# ---------------------------------------------------------------- reference of the configuration


@pytest.mark.slow
@pytest.mark.parametrize("group", GROUPS)
def test_every_file_of_a_group_is_on_its_page_with_its_command_and_keys(reference: ModuleType, group: str) -> None:
    page = reference.page(group)
    for path in (ROOT / "conf" / group).glob("*.yaml"):
        part = page.partition(f"\n## `{path.stem}`\n")[2].partition("\n## `")[0]
        lines = path.read_text().splitlines()
        command = next(line for line in lines if not line.startswith("# @package"))
        assert f"```\n{command.removeprefix('# ')}\n```" in part, path
        content = yaml.safe_load(path.read_text()) or {}
        for name in content.keys() - {"defaults"}:
            assert re.search(rf"`([\w.]+\.)?{re.escape(str(name))}[`.]", part), (path, name)


def test_every_comment_after_a_key_is_on_the_page(reference: ModuleType) -> None:
    for group, paths in reference.groups().items():
        for path in paths:
            entry = reference.read_entry(path, group)
            comments = " ".join(part.comment for part in (*entry.keys, *entry.choices))
            for line in path.read_text().splitlines():
                after = re.search(r"^[^#'\"]*\S[^#'\"]*\s#\s*(.+)$", line)
                assert after is None or after[1].rstrip() in comments, (path, line)


def test_every_key_of_a_page_is_explained_on_it(reference: ModuleType) -> None:
    """By its own comment, by the comment of the mapping it is in, or by naming the key that it takes its value from."""
    for group, paths in reference.groups().items():
        for path in paths:
            entry = reference.with_comments(reference.read_entry(path, group))
            explained = {key.path for key in entry.keys if key.comment}
            for key in entry.keys:
                above = any(key.path.startswith(f"{other}.") for other in explained)
                plain = key.path.endswith(("._target_", "._partial_")) or key.value.startswith("${")
                assert key.comment or above or plain, (path, key.path)


def test_overrides_are_explained_where_their_keys_are(reference: ModuleType) -> None:
    def comments(name: str) -> dict[str, str]:
        entry = reference.read_entry(ROOT / "conf" / "experiment" / f"{name}.yaml", "experiment")
        return {key.path: key.comment for key in reference.with_comments(entry).keys}

    assert comments("hifigan")["losses.log_mel.weight"].startswith("in the generator's sum")
    assert comments("ap_bwe")["optimizer.lr"] == "of the generator"
    assert comments("ap_bwe")["data.segment_seconds"] == "s, 8000 samples"  # its own


def test_the_keys_of_the_root_are_typed_without_a_point_in_front(reference: ModuleType) -> None:
    assert "\n| `seed` | `0` |" in reference.index()


def test_every_group_is_described(reference: ModuleType) -> None:
    root = reference.read_entry(ROOT / "conf" / "train.yaml", "")
    assert not [choice.group for choice in root.choices if not choice.comment]


def test_keys_are_shown_as_they_are_typed(reference: ModuleType) -> None:
    def keys(group: str, name: str) -> dict[str, str]:
        entry = reference.read_entry(ROOT / "conf" / group / f"{name}.yaml", group)
        return {key.path: key.value for key in entry.keys}

    assert (
        keys("losses", "mr_stft")["losses.mr_stft.resolutions"]
        == "[[512, 50, 240], [1024, 120, 600], [2048, 240, 1200]]"
    )
    assert keys("experiment", "hifigan_plus")["adversarial.start_step"] == "100000"  # a file of @package _global_
    assert keys("data", "folder")["data.corpus.splits.train"] == "train"
    assert keys("hydra", "default")["hydra.run.dir"].startswith("${run_dir:")


def test_a_file_without_its_command_is_refused(reference: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("channels: 4  # of every layer\n")
    with pytest.raises(ValueError, match="the first line must be a comment"):
        reference.read_entry(tmp_path / "mine.yaml", "generator")


def test_comments_are_distinguished_from_hash_signs_in_values(reference: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(
        "# bcfusion train x=mine\n# What it is.\n\n"
        "# above a key\nfirst: 'a # b'\nsecond: c#d  # after,\n             # and on\nthird: [1,\n  2]  # of both\n"
    )
    keys = {key.path: (key.value, key.comment) for key in reference.read_entry(tmp_path / "mine.yaml", "x").keys}
    assert keys["x.first"] == ("'a # b'", "above a key")
    assert keys["x.second"] == ("c#d", "after, and on")
    assert keys["x.third"] == ("[1, 2]", "of both")


# ---------------------------------------------------------------- messages


@cache
def strings() -> str:
    """Return every string of the package, joined, with the sign for a value instead of each value."""
    texts = []
    for path in (ROOT / "bcfusion").rglob("*.py"):
        tree = ast.parse(path.read_text())
        inside = {part for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
        for node in ast.walk(tree):
            if isinstance(node, ast.JoinedStr):
                texts.append("".join(str(p.value) if isinstance(p, ast.Constant) else SHOWN for p in node.values))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in inside:
                texts.append(node.value)
    return re.sub(f"{SHOWN}+", SHOWN, "\0".join(texts))


def messages() -> list[str]:
    return re.findall(r"```text\n(.*?)\n```", (DOCS / "errors.md").read_text(), flags=re.DOTALL)


@pytest.mark.slow
@pytest.mark.parametrize("message", messages())
def test_each_quoted_message_is_in_the_source(message: str) -> None:
    assert message in strings()


# ---------------------------------------------------------------- the site


class Resources(HTMLParser):
    """What a page loads by itself, and its text outside of code, paragraph by paragraph."""

    def __init__(self) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.paragraphs: list[str] = []
        self._code = 0
        self._open = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if tag in ("script", "img", "iframe", "source") and values.get("src"):
            self.loaded.append(str(values["src"]))
        if tag == "link" and values.get("rel") in ("stylesheet", "preload", "preconnect", "dns-prefetch", "icon"):
            self.loaded.append(str(values["href"]))
        self._code += tag in ("code", "pre")
        if tag == "p":
            self._open = True
            self.paragraphs.append("")

    def handle_endtag(self, tag: str) -> None:
        self._code -= tag in ("code", "pre")
        self._open = self._open and tag != "p"

    def handle_data(self, data: str) -> None:
        if self._open and not self._code:
            self.paragraphs[-1] += data


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built strictly: a broken link, anchor or page outside of the navigation ends it."""
    pytest.importorskip("material", reason='the extra docs is not installed: pip install -e ".[docs]"')
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def parsed(site: Path) -> Iterator[tuple[Path, Resources]]:
    for path in site.rglob("*.html"):
        resources = Resources()
        resources.feed(path.read_text())
        yield path, resources


@pytest.mark.slow
def test_the_site_has_the_recipes_the_networks_and_every_group(site: Path) -> None:
    for recipe in (ROOT / "recipes").glob("*/README.md"):
        title = recipe.read_text().partition("\n")[0].removeprefix("# ")
        name = recipe.parent.name
        assert f"{title}</h1>" in re.sub(
            r"<a[^>]*headerlink.*?</a>", "", (site / "recipes" / name / "index.html").read_text()
        )
        assert (site / "recipes" / name / "results.html").is_file() == (recipe.parent / "RESULTS.md").is_file()
    assert "seanet_streaming" in (site / "networks.html").read_text()
    for group in GROUPS:
        text = (site / "config" / f"{group}.html").read_text()
        for path in (ROOT / "conf" / group).glob("*.yaml"):
            assert f'id="{path.stem}"' in text, path


@pytest.mark.slow
def test_links_between_files_became_links_between_pages(site: Path) -> None:
    for path, _ in parsed(site):
        if (DOCS / path.relative_to(site)).is_file():
            continue  # copied as it is, a page of bcfusion listen
        for link in re.findall(r'href="([^"#]+)', path.read_text()):
            if "://" not in link and not link.startswith(("mailto:", "/")):
                assert (path.parent / link).exists(), (path, link)


@pytest.mark.slow
def test_nothing_is_loaded_from_elsewhere(site: Path) -> None:
    for path, resources in parsed(site):
        assert not [source for source in resources.loaded if source.startswith(("http", "//"))], path
    for path in site.rglob("*.css"):
        assert not re.search(r"url\(\s*[\"']?(https?:)?//", path.read_text()), path


@pytest.mark.slow
def test_search_finds_a_key_by_its_last_part(site: Path) -> None:
    config = json.loads((site / "search" / "search_index.json").read_text())["config"]
    assert {"data", "sensor_dropout", "0.2"} <= set(re.split(config["separator"], "`data.sensor_dropout=0.2`"))


@pytest.mark.slow
def test_no_page_shows_markdown_that_was_not_understood(site: Path) -> None:
    for path, resources in parsed(site):
        for paragraph in resources.paragraphs:
            assert not re.search(r"(^|\n)\s*([-*]|\d+\.) \S|\]\(|^\s*\||```", paragraph), (path, paragraph)


# ---------------------------------------------------------------- the pages as files of the repository


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_no_page_names_a_place_of_one_machine(page: Path) -> None:
    assert not re.search(r"(^|[\s`\"'=(])/(home|root|work|tmp|mnt|Users)/", page.read_text())


def test_the_quick_start_names_every_extra() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"].keys() - {"dev"}
    rows = re.findall(r"^\| (`.+?) \|", (DOCS / "quickstart.md").read_text(), flags=re.MULTILINE)
    assert {name for row in rows for name in re.findall(r"`(\w+)`", row)} >= extras


def test_the_readme_leads_to_the_pages() -> None:
    text = (ROOT / "README.md").read_text()
    assert "(docs/index.md)" in text
    assert {page.name for page in PAGES} <= set(re.findall(r"[\w-]+\.md", (ROOT / "mkdocs.yml").read_text()))
