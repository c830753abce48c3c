"""Pages of the documentation site that come from the repository: recipes, configuration, contributing, changes.

A MkDocs hook, named in mkdocs.yml. The pages are generated when the site is built, so that each text exists only once.
Links between files of the repository become links between pages; linked files that are not pages are copied.
"""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import config_reference
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
CONFIG, RECIPES = "config", "recipes"  #: folders of pages, written as `config/*` and `recipes/*` in mkdocs.yml
_LINK = re.compile(r"(\]\()([^)\s]+)(\))")
_FENCE = re.compile(r"^ {0,3}(```|~~~)")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Add the generated pages to the navigation."""
    config.nav = _expanded(config.nav or [])
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages, and the files that pages link to."""
    linked: set[str] = set()
    for name, (text, origin) in made_pages().items():
        files.append(File.generated(config, name, content=rewritten(text, origin, name)))
        linked |= set(copied(text, origin))
    for file in list(files.documentation_pages()):
        if file.generated_by is None:
            origin = PurePosixPath("docs") / file.src_uri
            linked |= set(copied(file.content_string, origin))
    for path in sorted(linked):
        files.append(File.generated(config, site_path(PurePosixPath(path)), abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Rewrite the links of a page of docs/ that lead out of docs/."""
    if page.file.generated_by is not None:
        return markdown
    return rewritten(markdown, PurePosixPath("docs") / page.file.src_uri, page.file.src_uri)


# ---------------------------------------------------------------- pages


def made_pages() -> dict[str, tuple[str, PurePosixPath]]:
    """Return every page outside of docs/: name in the site to its Markdown and the file of the repository."""
    pages = {f"{CONFIG}/index.md": (config_reference.index(), PurePosixPath("docs/config/index.md"))}
    for group in config_reference.groups():
        pages[f"{CONFIG}/{group}.md"] = (config_reference.page(group), PurePosixPath(f"docs/config/{group}.md"))
    for recipe in recipes():
        for source in _written(recipe):
            path = PurePosixPath(RECIPES) / recipe / source
            pages[site_path(path)] = ((ROOT / path).read_text(encoding="utf-8"), path)
        if (ROOT / RECIPES / recipe / "conf").is_dir():
            path = PurePosixPath(RECIPES) / recipe / "conf"
            pages[site_path(path)] = (_of_recipe(recipe), path / "README.md")
    for source in ("CONTRIBUTING.md", "CHANGELOG.md"):
        pages[site_path(PurePosixPath(source))] = ((ROOT / source).read_text(encoding="utf-8"), PurePosixPath(source))
    return pages


def recipes() -> list[str]:
    """Return the names of the folders of recipes/."""
    return sorted(path.parent.name for path in (ROOT / RECIPES).glob("*/README.md"))


def _written(recipe: str) -> list[str]:
    """Return the names of a recipe's Markdown files in reading order: README, RESULTS, then the others."""
    names = sorted(path.name for path in (ROOT / RECIPES / recipe).glob("*.md"))
    first = [name for name in ("README.md", "RESULTS.md") if name in names]
    return [*first, *(name for name in names if name not in first)]


def _of_recipe(recipe: str) -> str:
    """Return the page of a recipe's own configuration."""
    conf = ROOT / RECIPES / recipe / "conf"
    lines = [f"# Configuration of {recipe}", "", f"Used with `--config-dir recipes/{recipe}/conf` in a checkout."]
    for group, paths in config_reference.groups(conf).items():
        for path in paths:
            lines += ["", *config_reference.section(config_reference.read_entry(path, group), group)]
    return "\n".join(lines) + "\n"


def _expanded(nav: list[Any]) -> list[Any]:
    expanded: list[Any] = []
    for item in nav:
        if isinstance(item, dict):
            [(title, value)] = item.items()
            if value == f"{CONFIG}/*":
                item = {title: [f"{CONFIG}/index.md", *[f"{CONFIG}/{name}.md" for name in config_reference.groups()]]}
            elif value == f"{RECIPES}/*":
                item = {title: [{_title(recipe): _of_folder(recipe)} for recipe in recipes()]}
            elif isinstance(value, list):
                item = {title: _expanded(value)}
        expanded.append(item)
    return expanded


def _of_folder(recipe: str) -> list[dict[str, str]]:
    """Return the pages of a recipe in reading order."""
    titles = {"README.md": "From corpus to result", "RESULTS.md": "Results"} if "RESULTS.md" in _written(recipe) else {}
    paths = [PurePosixPath(RECIPES) / recipe / name for name in _written(recipe)]
    pages = [{titles.get(path.name) or _title(recipe, path.name): site_path(path)} for path in paths]
    conf = PurePosixPath(RECIPES) / recipe / "conf"
    return pages + ([{"Configuration": site_path(conf)}] if (ROOT / conf).exists() else [])


def _title(recipe: str, name: str = "README.md") -> str:
    """Return the heading of one of a recipe's Markdown files."""
    first = (ROOT / RECIPES / recipe / name).read_text(encoding="utf-8").partition("\n")[0]
    return first.removeprefix("# ")


# ---------------------------------------------------------------- links


def site_path(path: PurePosixPath) -> str:
    """Return where a file or folder of the repository is in the site, with ``#anchor`` if it is part of a page."""
    parts = path.parts
    if parts[0] == "docs":
        return "/".join(parts[1:])
    if parts[0] == RECIPES and len(parts) > 1:
        folder = f"{RECIPES}/{parts[1]}"
        if len(parts) == 2 or parts[2] == "README.md":
            return f"{folder}/index.md"
        if len(parts) == 3 and path.suffix == ".md":
            return f"{folder}/{path.stem.lower()}.md"
        if parts[2] == "conf":
            return f"{folder}/conf.md" + (f"#{path.stem}" if path.suffix else "")
        return str(path)
    if parts[0] == "conf":
        group = "/".join(parts[1:-1] if path.suffix else parts[1:])
        if not group:
            return f"{CONFIG}/index.md"
        return f"{CONFIG}/{group}.md" + (f"#{path.stem}" if path.suffix else "")
    names = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
    return names.get(str(path), f"files/{path}")


def rewritten(markdown: str, origin: PurePosixPath, page: str) -> str:
    """Return the Markdown of the file ``origin`` with its links as they are in the site.

    Args:
        markdown: text of the file.
        origin: path of the file in the repository.
        page: path of the page in the site.
    """

    def link(match: re.Match[str]) -> str:
        found = _target(match[2], origin)
        if found is None:
            return match[0]
        path, anchor = found
        name, _, part = site_path(path).partition("#")
        place = posixpath.relpath(name, posixpath.dirname(page) or ".")
        return f"{match[1]}{place}{anchor or (part and f'#{part}')}{match[3]}"

    return "\n".join(_LINK.sub(link, line) if prose else line for line, prose in _lines(markdown)) + "\n"


def copied(markdown: str, origin: PurePosixPath) -> Iterator[str]:
    """Yield the files of the repository that a Markdown file links to, if they are not pages and not in docs/."""
    for line, prose in _lines(markdown):
        for match in _LINK.finditer(line) if prose else ():
            found = _target(match[2], origin)
            if found and found[0].parts[0] != "docs" and not site_path(found[0]).partition("#")[0].endswith(".md"):
                yield str(found[0])


def _target(link: str, origin: PurePosixPath) -> tuple[PurePosixPath, str] | None:
    """Return the file or folder that a link of ``origin`` leads to, and its anchor; None outside of the repository."""
    name, hash_, anchor = link.partition("#")
    path = posixpath.normpath(posixpath.join(origin.parent, name))
    if not name or "://" in name or path.startswith(("..", "/")) or not os.path.exists(ROOT / path):
        return None
    return PurePosixPath(path), hash_ + anchor


def _lines(markdown: str) -> Iterator[tuple[str, bool]]:
    """Yield each line, and whether it is prose, that is, not in a block of code."""
    fenced = False
    for line in markdown.splitlines():
        if _FENCE.match(line):
            fenced = not fenced
            yield line, False
        else:
            yield line, not fenced
