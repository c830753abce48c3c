"""``bcfusion models``: the models that have a name, and their cards."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bcfusion.commands import exit_status
from bcfusion.commands.shared.arguments import verb_parser
from bcfusion.errors import CheckpointError, printable
from bcfusion.nearest import did_you_mean
from bcfusion.report.table import metric_name, number
from bcfusion.run.card import CARD, Card, Corpus, Scores, read_card
from bcfusion.run.description import Bundle, count_parameters, find_bundle, read_description
from bcfusion.run.layout import BUNDLE_WEIGHTS
from bcfusion.run.models import VARIABLE, NamedModel, hub_name, is_on_hub, missing_folders, named_models, resolve_model

HELP = """\
List the models that have a name: those that are shipped with bcfusion, and those in your own folders. A name can be
given wherever a MODEL is taken: to enhance, evaluate, listen and adapt, as init_from=NAME, and to load_generator in
Python.
With a name, or hf:OWNER/NAME for one on the Hugging Face hub, print the card of that model: training data and licences,
scores, where it helps and where it does not.

BCFUSION_MODELS names further folders, separated by colons: each folder in them that holds a bundle, or a run with one,
is a model of that name. A card.yaml beside the bundle is its card.

examples:
  bcfusion models
  bcfusion models throat
  bcfusion models hf:OWNER/NAME
  bcfusion models --json                      # for other programs
  BCFUSION_MODELS=/srv/models bcfusion models
"""
NONE = f"there is no model with a name: this installation ships none, and {VARIABLE} names no folder with one"


def main(argv: list[str]) -> None:
    """Run the verb.

    Raises:
        CheckpointError: there is no model of that name, or it is damaged.
    """
    arguments = _parser().parse_args(argv)
    if arguments.name is not None and is_on_hub(arguments.name):
        # only read, not built: no code of it runs, whatever it names
        named = resolve_model(arguments.name, trust_code=True).named
        assert named is not None
        models = {arguments.name: named}
    else:
        models = named_models()
    for line in missing_folders():
        print(line, file=sys.stderr)
    if arguments.name is None:
        entries = list(_readable(models.values()))
        if arguments.json:
            print(json.dumps([entry.plain() for entry in entries], indent=2, ensure_ascii=False))
        elif not models:
            print(NONE)
        elif entries:
            print("\n".join(_list_lines(entries, _width())))
        return
    if arguments.name not in models:
        known = f"\nmodels: {', '.join(models)}" if models else f"\n{NONE}"
        raise CheckpointError(f"there is no model named {arguments.name}{did_you_mean(arguments.name, models)}{known}")
    model = models[arguments.name]
    entry = Entry.read(model, read_card(model.folder / CARD))
    if arguments.json:
        print(json.dumps(entry.plain(), indent=2, ensure_ascii=False))
    else:
        print("\n".join(map(printable, _card_lines(entry, _width()))))


@dataclass(frozen=True)
class Entry:
    """All that is known about a model.

    Attributes:
        model: its name and place.
        bundle: what its bundle says.
        parameters: number of trained values.
        size: bytes of its bundle.
        card: its card; None without one.
    """

    model: NamedModel
    bundle: Bundle
    parameters: int
    size: int
    card: Card | None

    @classmethod
    def read(cls, model: NamedModel, card: Card | None) -> Entry:
        """Read what a model's bundle says.

        Raises:
            CheckpointError: the bundle is damaged.
        """
        folder = find_bundle(model.folder)
        if folder is None:  # deleted since the models were listed
            raise CheckpointError(f"{model.folder}: the bundle is gone")
        bundle = read_description(folder)
        try:
            parameters = count_parameters(folder / BUNDLE_WEIGHTS)
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{folder / BUNDLE_WEIGHTS} is damaged or not a safetensors file") from error
        return cls(model, bundle, parameters, _bytes_of(folder), card)

    @property
    def task(self) -> str:
        """Name of the recipe, as far as it is known."""
        return (self.card.task if self.card else "") or str(self.bundle.training.get("recipe") or "")

    def plain(self) -> dict[str, Any]:
        """Return everything in plain values."""
        return {
            "name": self.model.name,
            "folder": None if hub_name(self.model.folder) else str(self.model.folder),
            "shipped": self.model.shipped,
            "task": self.task,
            "sensors": self.bundle.sensors,
            "sample_rate": self.bundle.sample_rate,
            "causal": self.bundle.causal,
            "latency_ms": self.bundle.latency_ms,
            "parameters": self.parameters,
            "dtype": self.bundle.dtype,
            "bytes": self.size,
            "card": None if self.card is None else self.card.plain(),
        }


def _parser() -> argparse.ArgumentParser:
    parser = verb_parser("models", HELP)
    parser.add_argument("name", metavar="NAME", nargs="?", help="print the card of this model")
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    return parser


def _readable(models: Iterable[NamedModel]) -> Iterator[Entry]:
    """Yield the models that can be read; a damaged card is reported and left out, and so is a damaged bundle."""
    for model in models:
        try:
            card = read_card(model.folder / CARD)
        except CheckpointError as error:
            print(f"without its card: {error}", file=sys.stderr)
            card = None
        try:
            yield Entry.read(model, card)
        except CheckpointError as error:
            print(f"left out: {error}", file=sys.stderr)


def _width() -> int:
    return min(shutil.get_terminal_size().columns, 100)


def _bytes_of(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.iterdir() if file.is_file())


# ---------------------------------------------------------------- the list


def _list_lines(entries: Iterable[Entry], width: int) -> Iterator[str]:
    """Yield a paragraph for each model: a table of so many facts does not fit into 80 columns."""
    for entry in entries:
        card, bundle = entry.card, entry.bundle
        facts = {
            "task": f"{entry.task or 'not known'}, {', '.join(bundle.sensors)} at {bundle.sample_rate / 1000:g} kHz",
            "latency": _latency(bundle),
            "size": f"{entry.size / 1e6:.1f} MB",
            "scores": (_short_scores(card.scores) if card and card.scores else "") or "–",
            "data": "; ".join(f"{corpus.name} ({corpus.licence})" for corpus in card.data) if card else "no card",
        }
        yield from _wrapped(_title(entry), width, hanging="")
        for name, text in facts.items():
            yield from _wrapped(f"  {name:<9}{text}", width, hanging=" " * 11)
        yield ""
    yield from _wrapped("scores: mean of input → mean of output; bcfusion models NAME says on what", width, hanging="")
    yield "use one: bcfusion enhance NAME RECORDINGS --output DIR"


def _title(entry: Entry) -> str:
    return f"{entry.model.name}: {entry.card.summary if entry.card else 'it has no card'}"


def _short_scores(scores: Scores) -> str:
    return ", ".join(
        f"{metric_name(key).text} {number(key, score.input)} → {number(key, score.enhanced)}"
        for key, score in scores.metrics.items()
    )


# ---------------------------------------------------------------- the card


def _card_lines(entry: Entry, width: int) -> Iterator[str]:
    card, bundle = entry.card, entry.bundle
    yield from _wrapped(_title(entry), width, hanging="")
    yield ""
    about = {} if card is None else card.sensors
    sensors = [f"{sensor}, {about[sensor]}" if sensor in about else sensor for sensor in bundle.sensors]
    precision = "" if bundle.dtype == "float32" else f", stored in {bundle.dtype}"
    facts = {
        "task": entry.task or "not known",
        "takes": "; ".join(sensors),
        "rate": f"{bundle.sample_rate} Hz",
        "latency": _latency(bundle),
        "size": f"{entry.parameters / 1e6:.2f} M parameters, {entry.size / 1e6:.1f} MB{precision}",
        "licence": card.licence if card else "not known",
        "folder": str(entry.model.folder),
    }
    if (origin := hub_name(entry.model.folder)) is not None:  # named hf:OWNER/NAME, not by a folder of the cache
        facts["folder"] = f"of the Hugging Face hub: {origin}"
    for name, text in facts.items():
        yield from _wrapped(f"{name:<10}{text}", width, hanging=" " * 10)
    if entry.model.hides:
        yield f"{'hides':<10}{', '.join(map(str, entry.model.hides))}"
    if card is None:
        return
    yield from _section("It helps", card.helps, width)
    yield from _section("It does not help, or needs care", card.limits, width)
    if card.scores is not None:
        yield from _scores_lines(card.scores, width)
    yield from _section("Trained on", [_corpus_line(corpus) for corpus in card.data], width)
    for corpus in card.data:
        if corpus.notice:
            yield ""
            yield from _wrapped(f"{corpus.name}: {corpus.notice}", width, hanging="")
    if card.training:
        lines = [line for command in card.training for line in command.splitlines()]
        yield from ("", "Made by", *(f"  {line}" for line in lines))  # not wrapped: to be copied
    yield from _section("Notes", card.notes, width)


def _corpus_line(corpus: Corpus) -> str:
    amount, attribution = (f", {text}" if text else "" for text in (corpus.amount, corpus.attribution))
    return f"{corpus.name}{amount}: {corpus.licence}{attribution}"


def _latency(bundle: Bundle) -> str:
    if bundle.latency_ms is None:
        return "it needs the whole file"
    if bundle.causal:
        return f"{bundle.latency_ms:.1f} ms: it is causal and can stream"
    return f"it looks {bundle.latency_ms:.1f} ms ahead, and cannot stream"


def _scores_lines(scores: Scores, width: int) -> Iterator[str]:
    yield from ("", "Scores")
    yield from _wrapped(f"  {scores.what}", width, hanging="  ")
    if scores.metrics:
        yield f"  {'':<12}{'input':>8}{'output':>8}{'change':>9}  95 % interval of the change"
    for key, score in scores.metrics.items():
        ends = "–"
        if score.interval is not None:
            ends = f"[{number(key, score.interval[0], '+')}, {number(key, score.interval[1], '+')}]"
        arrow = "↑" if score.higher_is_better else "↓"
        yield (
            f"  {f'{metric_name(key).text} {arrow}':<12}{number(key, score.input):>8}{number(key, score.enhanced):>8}"
            f"{number(key, score.change, '+'):>9}  {ends}"
        )
    if scores.utterances:
        yield f"  means over {scores.utterances} recordings"
    if scores.command:
        yield from (f"  {line}" for line in scores.command.splitlines())


def _section(title: str, texts: Sequence[str], width: int) -> Iterator[str]:
    if texts:
        yield from ("", title)
    for text in texts:
        yield from _wrapped(f"- {text}", width, hanging="  ")


def _wrapped(text: str, width: int, hanging: str) -> list[str]:
    return textwrap.wrap(text, width, subsequent_indent=hanging, break_long_words=False, break_on_hyphens=False)


if __name__ == "__main__":
    raise SystemExit(exit_status(main, sys.argv[1:]))
