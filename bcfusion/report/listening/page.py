"""One HTML page to listen to systems side by side and to rate them blindly; it needs no server and no network."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from bcfusion.errors import BcfusionError, ConfigError
from bcfusion.report.colours import colour_of
from bcfusion.report.listening.rows import Settings, anchor_name, page_row
from bcfusion.report.listening.sounds import Utterance
from bcfusion.report.table import heading, metric_name

__all__ = ["Page", "listening_page", "require_replaceable"]

MARK = '<meta name="generator" content="bcfusion listen">'  # by which a file is known to be a listening page
SCRIPTS = ("player.js", "elements.js", "view.js", "rating.js", "main.js")


@dataclass(frozen=True)
class Page:
    """A listening page.

    Attributes:
        text: the HTML document.
        utterances: number of utterances on it.
    """

    text: str
    utterances: int


def listening_page(
    title: str, utterances: Sequence[Utterance], higher_is_better: Mapping[str, bool | None], settings: Settings
) -> Page:
    """Make the page.

    Args:
        title: title of the page.
        utterances: at least one, in their order on the page.
        higher_is_better: direction of each metric; its order is that of the columns.
        settings: length and format of the sounds, largest size, anchors.

    Raises:
        ConfigError: an anchor's cut-off is not below half the sample rate, or the first utterance alone exceeds the
            size.
    """
    names = {sound.name: sound.kind for utterance in utterances for sound in utterance.sounds}
    place = {"input": 0, "run": 1, "target": 2}
    ordered = sorted(names, key=lambda name: place[names[name]])
    systems: list[dict[str, Any]] = [
        {"name": name, "kind": names[name], "colour": colour_of(name, ordered)} for name in ordered
    ]
    systems += [{"name": anchor_name(cutoff), "kind": "anchor", "colour": "#000000"} for cutoff in settings.anchors]
    index = {system["name"]: number for number, system in enumerate(systems)}
    scored = {name for each in utterances for sound in each.sounds for name in sound.scores}
    known = {**higher_is_better, **dict.fromkeys(sorted(scored - higher_is_better.keys()))}
    metrics = {name: higher for name, higher in known.items() if name in scored}
    rows: list[dict[str, Any]] = []
    size = 0
    for utterance in utterances:
        row = page_row(utterance, index, metrics, settings)
        size += sum(len(sound["audio"]) + len(sound["picture"]) for sound in row["sounds"])
        if size > settings.megabytes * 1e6:
            break
        rows.append(row)
    if not rows:
        raise ConfigError(
            [f"--megabytes {settings.megabytes:g}: the first utterance needs {size / 1e6:.1f}; give fewer --seconds"]
        )
    content = {
        "title": title,
        "systems": systems,
        "metrics": [_metric(name, higher) for name, higher in metrics.items()],
        "rows": rows,
        "pair": _pair(systems),
    }
    content["key"] = hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]
    return Page(_document(title, content, settings), len(rows))


def require_replaceable(output: Path) -> None:
    """Refuse to write a page over anything but another page: the file may have been named by mistake.

    Raises:
        BcfusionError: ``output`` is a folder or another file, or cannot be read.
    """
    if output.is_dir():
        raise BcfusionError(f"--output {output}: is a folder; name a file in it")
    try:
        other = output.exists() and MARK not in output.read_text(encoding="utf-8", errors="replace")[:1000]
    except OSError as error:
        raise BcfusionError(f"--output {output}: {error.strerror}") from error
    if other:
        raise BcfusionError(f"--output {output}: this file exists and is not a listening page; name another")


def _metric(name: str, higher: bool | None) -> dict[str, Any]:
    return {**metric_name(name)._asdict(), "heading": heading(name, higher), "higher": higher}


def _pair(systems: Sequence[Mapping[str, Any]]) -> list[int]:
    """Return the two systems that are compared at first: two runs, or the input and the only run."""
    runs = [number for number, system in enumerate(systems) if system["kind"] == "run"]
    inputs = [number for number, system in enumerate(systems) if system["kind"] == "input"]
    first, *others = runs if len(runs) > 1 else [*inputs[:1], *runs]
    return [first, others[0] if others else first]


def _document(title: str, content: Mapping[str, Any], settings: Settings) -> str:
    folder = resources.files("bcfusion.report.listening") / "page_files"

    def part(name: str) -> str:
        return (folder / name).read_text(encoding="utf-8")

    script = '"use strict";\n' + "\n".join(part(name) for name in SCRIPTS)
    style = part("page.css")
    rows = content["rows"]
    gains = (
        "All sounds of an utterance are played at the same active speech level; the gain is shown next to each. "
        "Press M to hear them as recorded."
    )
    seconds = (
        f"Sounds are cut to {settings.seconds:g} s. " if any(row["seconds"] < row["whole"] for row in rows) else ""
    )
    runs = sum(system["kind"] == "run" for system in content["systems"])
    count = f"{len(rows)} utterance{'s' * (len(rows) != 1)}, {runs} system{'s' * (runs != 1)} with input and target"
    blanks = {
        "title": html.escape(title),
        "summary": html.escape(f"{count}. {seconds}{gains}"),
        "style": style,
        "style_hash": _hash(style),
        "script": script,
        "script_hash": _hash(script),
        # "</script>" or "<!--" in an id would end the element or change how the browser parses it
        "data": json.dumps(content).replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e"),
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda blank: blanks[blank[1]], part("page.html"))


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")
