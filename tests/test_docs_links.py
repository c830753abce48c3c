"""Links of every Markdown file lead to a file of the repository and, with ``#``, to one of its headings."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TOP = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]
PAGES = [*TOP, *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "recipes").rglob("*.md"))]
SOURCES = [
    *sorted((ROOT / "conf").rglob("*.yaml")),
    *sorted((ROOT / "recipes").rglob("*.yaml")),
    *sorted((ROOT / "bcfusion").rglob("*.py")),
]


def prose(text: str) -> str:
    """Return Markdown without blocks of code and code in lines."""
    text = re.sub(r"^ *```.*?^ *```", "", text, flags=re.DOTALL | re.MULTILINE)
    return re.sub(r"`[^`\n]+`", "", text)


def links(text: str) -> Iterator[str]:
    """Yield the targets of Markdown links and pictures, of references and of HTML, without those of other sites."""
    text = prose(text)
    found = re.findall(r"\]\(\s*<?([^)\s>]+)", text)
    found += re.findall(r"^\[[^\]]+\]:\s*(\S+)", text, flags=re.MULTILINE)
    found += re.findall(r"(?:href|src)=\"([^\"]+)\"", text)
    yield from (link for link in found if "://" not in link and not link.startswith("mailto:"))


@cache
def anchors(page: Path) -> frozenset[str]:
    """Return the anchors of a page as GitHub makes them: headings in lower case, - for spaces, no punctuation."""
    text = re.sub(r"^ *```.*?^ *```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    found: list[str] = re.findall(r"(?:id|name)=\"([^\"]+)\"", text)
    for heading in re.findall(r"^#+ +(.*?) *#*$", text, flags=re.MULTILINE):
        words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)  # of a link, its text
        name = re.sub(r"[^\w\- ]", "", words).strip().lower().replace(" ", "-")
        same = found.count(name)
        found += [name] if not same else [name, f"{name}-{same}"]
    return frozenset(found)


def broken(text: str, page: Path) -> list[str]:
    """Return the links of a text, as a part of ``page``, that lead nowhere."""
    found = []
    for link in links(text):
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        exists = target.is_relative_to(ROOT) and target.exists()
        if not exists or (anchor and target.suffix == ".md" and anchor not in anchors(target)):
            found.append(link)
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_link_leads_to_a_file_and_a_heading(page: Path) -> None:
    assert broken(page.read_text(), page) == []


def test_a_link_that_leads_nowhere_is_found(tmp_path: Path) -> None:
    page = ROOT / "README.md"
    good = "[a](docs/networks.md) [b](docs/streaming.md#latency) [c](#start) ![d](docs/pictures/throat.png) `[e](x.md)`"
    assert broken(good, page) == []
    for link in ("docs/nosuch.md", "docs/streaming.md#nosuch", "#networks", "README.md#networks", "../secret.md"):
        assert broken(f"[x]({link})", page) == [link]
    assert broken('<img src="docs/nosuch.png">', page) == ["docs/nosuch.png"]


@pytest.mark.parametrize("folder", ["conf", "recipes", "bcfusion"])
def test_pages_that_comments_and_messages_name_exist(folder: str) -> None:
    for source in (path for path in SOURCES if path.is_relative_to(ROOT / folder)):
        text = source.read_text()
        for page, anchor in re.findall(r"\b((?:docs|recipes)/[\w/.-]+\.md)(?:#([\w-]+))?", text):
            assert (ROOT / page).is_file(), (source, page)
            assert not anchor or anchor in anchors(ROOT / page), (source, page, anchor)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_prose_has_one_spelling_of_look_ahead(page: Path) -> None:
    text = re.sub(r"\]\([^)]*\)", "]", prose(page.read_text()))  # names of files are no prose
    assert not re.search(r"\blook ?aheads?\b", text, flags=re.IGNORECASE)


def test_comments_of_the_configuration_have_one_spelling_of_look_ahead() -> None:
    for path in sorted((ROOT / "conf").rglob("*.yaml")):
        for comment in re.findall(r"#(.*)$", path.read_text(), flags=re.MULTILINE):
            assert not re.search(r"\blook ?aheads?\b", comment, flags=re.IGNORECASE), (path, comment)


def test_a_folder_of_recipes_is_named_with_the_clone_that_it_is_in() -> None:
    """`--config-dir recipes/...` works only there: an installed package has no recipes."""
    for page in PAGES:
        text = page.read_text()
        if "--config-dir recipes/" in text and page.name != "CHANGELOG.md":
            assert re.search(r"\b(clone|checkout)\b", text), page
