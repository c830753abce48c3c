"""The card of a model, ``card.yaml`` beside its bundle: what it was trained on, how well it does, where it helps.

What the bundle itself states (sensors, rate, latency, size) is read from there, so a card cannot contradict it.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from reprlib import repr as short
from typing import Any

from bcfusion.errors import CheckpointError, printable
from bcfusion.nearest import did_you_mean
from bcfusion.run.yaml_file import read_yaml

__all__ = ["CARD", "Card", "Corpus", "MetricScore", "Scores", "read_card"]

CARD = "card.yaml"  #: its name in the folder of a model
FORMAT = 1


@dataclass(frozen=True)
class Corpus:
    """Data that a model was trained on.

    Attributes:
        name: what it is called.
        licence: its licence, in short.
        amount: how much of it was used, and how.
        attribution: whom the licence asks to name.
        notice: the text that the licence asks to reproduce, if any.
    """

    name: str
    licence: str
    amount: str = ""
    attribution: str = ""
    notice: str = ""


@dataclass(frozen=True)
class MetricScore:
    """The mean of one metric over all utterances.

    Attributes:
        input: of the unprocessed input.
        enhanced: of the model's output.
        change: mean difference of the two, over the utterances that both were scored on.
        interval: lower and upper end of the 95 % interval of ``change``; None with too few utterances.
        higher_is_better: whether a higher value is better.
    """

    input: float
    enhanced: float
    change: float
    interval: tuple[float, float] | None = None
    higher_is_better: bool = True


@dataclass(frozen=True)
class Scores:
    """How a model was scored, and the result.

    Attributes:
        what: the data, and how utterances that were scored were kept out of training.
        command: that scored it.
        utterances: their number.
        metrics: by key, such as ``stoi``.
    """

    what: str
    command: str = ""
    utterances: int = 0
    metrics: dict[str, MetricScore] = field(default_factory=dict)


@dataclass(frozen=True)
class Card:
    """The content of a ``card.yaml``.

    Attributes:
        summary: what the model does, in one line.
        licence: of the weights.
        data: what it was trained on.
        sensors: sensor to what it is, such as the place on the body.
        task: name of the recipe.
        helps: for which recordings the output is better than the input.
        limits: for which it is not, and what to mind.
        scores: out of fold, or on other data that took no part in training.
        training: commands that made the weights.
        notes: anything else, such as what float16 changes.
        format: version of the file format.
    """

    summary: str
    licence: str
    data: tuple[Corpus, ...]
    sensors: dict[str, str] = field(default_factory=dict)
    task: str = ""
    helps: tuple[str, ...] = ()
    limits: tuple[str, ...] = ()
    scores: Scores | None = None
    training: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    format: int = FORMAT

    def plain(self) -> dict[str, Any]:
        """Return the card in plain values, as in the file; what is empty is left out."""
        return {"format": self.format, **_plain({key: value for key, value in vars(self).items() if key != "format"})}


def read_card(file: Path) -> Card | None:
    """Return the card in a file; None if there is no such file.

    Raises:
        CheckpointError: it is damaged or of a newer format; the message names the key.
    """
    return _Reader(file).card(read_yaml(file)) if os.path.lexists(file) else None


def _clean(text: str) -> str:
    return printable(text.strip(), keep="\n\t")


class _Reader:
    """Turns the content of one file into a card; every error names the file and the key."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def card(self, content: Any) -> Card:
        node = self.node(content, "", Card)
        version = node.get("format", FORMAT)
        if not isinstance(version, int) or version > FORMAT:
            raise self.fault("format", f"is {short(version)}, but this bcfusion reads up to {FORMAT}: update it")
        scores = node.get("scores")
        return Card(
            summary=self.text(node, "summary"),
            licence=self.text(node, "licence"),
            data=tuple(self.corpus(each, f"data[{n}]") for n, each in enumerate(self.sequence(node, "data"))),
            sensors={printable(str(name)): _clean(str(text)) for name, text in self.mapping(node, "sensors").items()},
            task=self.text(node, "task", ""),
            helps=self.texts(node, "helps"),
            limits=self.texts(node, "limits"),
            scores=None if scores is None else self.scores(scores),
            training=self.texts(node, "training"),
            notes=self.texts(node, "notes"),
            format=version,
        )

    def corpus(self, content: Any, place: str) -> Corpus:
        node = self.node(content, place, Corpus)
        optional = {key: self.text(node, key, "", place) for key in ("amount", "attribution", "notice")}
        return Corpus(self.text(node, "name", None, place), self.text(node, "licence", None, place), **optional)

    def scores(self, content: Any) -> Scores:
        node = self.node(content, "scores", Scores)
        utterances = node.get("utterances", 0)
        if type(utterances) is not int or utterances < 0:
            raise self.fault("scores.utterances", f"must be a whole number, not {short(utterances)}")
        metrics = self.mapping(node, "metrics", "scores")
        return Scores(
            what=self.text(node, "what", None, "scores"),
            command=self.text(node, "command", "", "scores"),
            utterances=utterances,
            metrics={printable(str(key)): self.metric(each, f"scores.metrics.{key}") for key, each in metrics.items()},
        )

    def metric(self, content: Any, place: str) -> MetricScore:
        node = self.node(content, place, MetricScore)
        ends = node.get("interval")
        if ends is not None and not (isinstance(ends, list) and len(ends) == 2):
            raise self.fault(f"{place}.interval", f"must be two numbers, not {short(ends)}")
        higher = node.get("higher_is_better", True)
        if not isinstance(higher, bool):
            raise self.fault(f"{place}.higher_is_better", f"must be true or false, not {short(higher)}")
        values = {key: self.number(node.get(key), f"{place}.{key}") for key in ("input", "enhanced", "change")}
        interval = None
        if ends is not None:
            interval = (self.number(ends[0], f"{place}.interval"), self.number(ends[1], f"{place}.interval"))
        return MetricScore(**values, interval=interval, higher_is_better=higher)

    # ------------------------------------------------------------ kinds of values

    def fault(self, key: str, what: str) -> CheckpointError:
        key = printable(key if len(key) <= 100 else f"{key[:97]}...")
        return CheckpointError(f"{self.file} is damaged: {key} {what}")

    def node(self, content: Any, place: str, kind: type) -> Mapping[str, Any]:
        """Return a mapping that has no other keys than a class has fields."""
        if not isinstance(content, Mapping):
            raise self.fault(place or "it", f"must hold keys, not {short(content)}")
        known = [each.name for each in fields(kind)]
        for key in content:
            if key not in known:
                raise self.fault(
                    f"{place}.{key}".lstrip("."), f"is no key of a card{did_you_mean(str(key)[:100], known)}"
                )
        return content

    def text(self, node: Mapping[str, Any], key: str, default: str | None = None, place: str = "") -> str:
        value = node.get(key, default)
        if not isinstance(value, str) or not (value or default is not None):
            what = "is missing" if value is None else f"must be text, not {short(value)}"
            raise self.fault(f"{place}.{key}".lstrip("."), what)
        return _clean(value)

    def number(self, value: Any, place: str) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise self.fault(place, f"must be a number, not {short(value)}")
        return float(value)

    def sequence(self, node: Mapping[str, Any], key: str, default: Any = None) -> list[Any]:
        value = node.get(key, default)
        if not isinstance(value, list):
            raise self.fault(key, "is missing" if value is None else f"must be a list, not {short(value)}")
        return value

    def texts(self, node: Mapping[str, Any], key: str) -> tuple[str, ...]:
        values = self.sequence(node, key, [])
        if wrong := [value for value in values if not isinstance(value, str)]:
            raise self.fault(key, f"must be a list of texts; {short(wrong[0])} is none")
        return tuple(_clean(value) for value in values)

    def mapping(self, node: Mapping[str, Any], key: str, place: str = "") -> Mapping[str, Any]:
        value = node.get(key, {})
        if not isinstance(value, Mapping):
            raise self.fault(f"{place}.{key}".lstrip("."), f"must hold keys, not {short(value)}")
        return value


def _plain(value: Any) -> Any:
    if isinstance(value, Corpus | MetricScore | Scores):
        value = vars(value)
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items() if each not in ("", (), None) and each != {}}
    if isinstance(value, tuple):
        return [_plain(each) for each in value]
    return value
