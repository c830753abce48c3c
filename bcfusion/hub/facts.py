"""What is known about a model that goes to the hub, from its bundle, its card and the run that made it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from torch import nn

from bcfusion.contracts import Generator
from bcfusion.errors import CheckpointError
from bcfusion.evaluation.scores import Scores, read_rows
from bcfusion.evaluation.summary import ScoreSummary, summarise
from bcfusion.evaluation.systems import ENHANCED, is_input
from bcfusion.nn.network import lookahead_of
from bcfusion.objectives.bridge import Bridge
from bcfusion.probe import count_parameters, macs_per_second
from bcfusion.report.comparison.run import Run, is_evaluated_bundle, read_run
from bcfusion.run.bundle import bundle_of
from bcfusion.run.card import CARD, Card, read_card
from bcfusion.run.card import Scores as CardScores
from bcfusion.run.description import Bundle, find_bundle
from bcfusion.run.layout import RunDir
from bcfusion.run.trust import foreign_class

__all__ = ["Facts", "OnnxFacts", "ScoreFacts", "facts_of", "scores_of_card"]

#: keys of the card of a run that say what it was trained on
_OF_THE_DATA = ("recipe", "data", "degradation")


@dataclass(frozen=True)
class ScoreFacts:
    """The scores of a run's closing evaluation, or of the latest evaluation of a bundle.

    Attributes:
        file: their table.
        split: of the corpus; empty if it is not known.
        summary: their statistics.
        speakers: number of speakers whose names are known.
        corpora: names, as far as they are known.
    """

    file: Path
    split: str
    summary: ScoreSummary
    speakers: int
    corpora: tuple[str, ...]

    @property
    def inputs(self) -> list[str]:
        """The unprocessed systems."""
        return [system for system in self.summary.systems if is_input(system)]


@dataclass(frozen=True)
class OnnxFacts:
    """The exported file.

    Attributes:
        frame: samples of a step of a stream; 0: it takes whole files.
        size: bytes.
        difference: largest difference from the network that its check has found.
        real_time_factor: on one thread of the machine that exported it.
    """

    frame: int
    size: int
    difference: float
    real_time_factor: float


@dataclass(frozen=True)
class Facts:
    """All that a card states.

    Attributes:
        bundle: the description, without what belongs to the machine that trained it.
        network: name of the class; of a path that of the network in it.
        path: name of the class of the path that it leads a signal along; empty without one.
        steps: on a path.
        own_code: the class of the network, or of a part of it, that is not bcfusion's own; empty if all are.
        parameters: number of trained values.
        size: bytes of the weights.
        macs: multiply-accumulate operations per second of sound; None if they cannot be counted.
        lookahead: samples by which a stream is late, beside the frame.
        card: the card in the model's folder.
        scores: measured ones, if the card has none.
        choices: of the run: the member of each group that says what it was trained on.
        session: of the run: versions, commit and device of its last session.
        adapted_to: number of recordings that it was adapted to.
        onnx: the exported file, if there is one.
    """

    bundle: Bundle
    network: str
    own_code: str
    parameters: int
    size: int
    macs: float | None
    lookahead: int
    card: Card | None = None
    scores: ScoreFacts | None = None
    choices: Mapping[str, str] = field(default_factory=dict)
    session: Mapping[str, Any] = field(default_factory=dict)
    adapted_to: int = 0
    onnx: OnnxFacts | None = None
    path: str = ""
    steps: int = 1


def facts_of(model: Path, generator: nn.Module, bundle: Bundle, weights: Path) -> Facts:
    """Return what is known about a model.

    Args:
        model: run directory, bundle or checkpoint.
        generator: the network that was loaded from there.
        bundle: its description as it is uploaded.
        weights: the file of its weights as it is uploaded.

    Raises:
        CheckpointError: the card or the record of the run is damaged.
    """
    loaded = bundle_of(generator)
    assert loaded is not None  # load_generator attaches it
    run = _run_of(model)
    card = _card_of(model)
    sessions = [] if run is None else run.record.get("sessions") or []
    return Facts(
        bundle=bundle,
        network=type(generator.domain.network if isinstance(generator, Bridge) else generator).__name__,
        own_code=foreign_class(bundle.generator),
        parameters=count_parameters(generator),
        size=weights.stat().st_size,
        macs=_macs(generator),
        lookahead=lookahead_of(cast("Generator", generator)),
        card=card,
        scores=None if run is None or scores_of_card(card) is not None else _scores_of(model, run),
        choices={} if run is None else {key: str(run.choices[key]) for key in _OF_THE_DATA if run.choices.get(key)},
        session=sessions[-1] if sessions and isinstance(sessions[-1], Mapping) else {},
        adapted_to=len(loaded.training.get("adapted_to") or ()),
        path=type(generator.path).__name__ if isinstance(generator, Bridge) else "",
        steps=generator.steps if isinstance(generator, Bridge) else 1,
    )


def scores_of_card(card: Card | None) -> CardScores | None:
    """Return the scores that a card states; None if it only says how they would be measured."""
    return None if card is None or card.scores is None or not card.scores.metrics else card.scores


def _card_of(model: Path) -> Card | None:
    places = [model, *([folder] if (folder := find_bundle(model)) is not None else [])] if model.is_dir() else []
    return next((card for place in places if (card := read_card(place / CARD)) is not None), None)


def _run_of(model: Path) -> Run | None:
    """Return the run that a model belongs to, or an evaluated bundle as one; None of any other bundle."""
    around = RunDir.around(model)
    if around is not None and around.record.is_file() and _is_part(model.resolve(), around):
        return read_run(around.path)
    return read_run(model) if model.is_dir() and is_evaluated_bundle(model) else None


def _is_part(model: Path, run: RunDir) -> bool:
    """Return whether a model is what a run trained, not another one in its folder, as one that was adapted from it."""
    own = (run.path.resolve(), run.bundle.resolve(), run.checkpoints.resolve())
    return model in own or model.parent in own[1:]


def _scores_of(model: Path, run: Run) -> ScoreFacts | None:
    """Return the scores of a run, which are those of its best checkpoint; None of another one of its checkpoints."""
    table = run.closing_table
    file = run.evaluated or run.parts.closing_scores()
    if table is None or file is None or (model.is_file() and model.resolve() != run.parts.best.resolve()):
        return None
    try:
        names, rows = read_rows(file)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file} cannot be read: {error}") from error
    directions = {name: run.higher_is_better.get(name) for name in names}
    summary = summarise(Scores(rows, directions))
    if ENHANCED not in summary.systems:
        return None
    known = {
        name: tuple(dict.fromkeys(row.info[name] for row in rows if name in row.info)) for name in ("speaker", "corpus")
    }
    split = "" if run.evaluated else file.stem
    return ScoreFacts(file, split, summary, len(known["speaker"]), known["corpus"])


def _macs(generator: nn.Module) -> float | None:
    try:
        return macs_per_second(generator)
    except (RuntimeError, NotImplementedError):  # an operation that torch cannot count or differentiate
        return None
