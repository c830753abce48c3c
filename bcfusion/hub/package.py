"""What is uploaded of a model, as a folder: the bundle, the exported file, the scores and the card."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import yaml
from torch import nn

from bcfusion.errors import CheckpointError, ConfigError, ExportError, first_line
from bcfusion.files import appearing_folder
from bcfusion.hub.card import card_text
from bcfusion.hub.facts import Facts, OnnxFacts, facts_of, scores_of_card
from bcfusion.hub.front_matter import licence_of
from bcfusion.hub.private import private_place, require_public, write_public_scores
from bcfusion.nn.streaming import StreamingError
from bcfusion.run.bundle import bundle_of, load_generator, save_bundle
from bcfusion.run.bundle_files import KNOWN
from bcfusion.run.card import CARD
from bcfusion.run.description import FILES, find_bundle, read_description
from bcfusion.run.layout import BUNDLE_CONFIG, BUNDLE_DISCRIMINATORS, BUNDLE_WEIGHTS
from bcfusion.run.portable import portable_training, without_paths
from bcfusion.run.trust import is_sensor_name

__all__ = ["NAMES", "ONNX", "README", "SCORES", "Package", "write_package"]

README, ONNX, SCORES = "README.md", "model.onnx", "scores.csv"
NAMES = (*KNOWN, ONNX, SCORES, README)  #: all that is ever uploaded


@dataclass(frozen=True)
class Package:
    """A folder that is ready to be uploaded.

    Attributes:
        folder: holds nothing else.
        files: names, in the order of :data:`NAMES`.
        facts: what its card states.
        notes: what was left out or is missing, in sentences.
    """

    folder: Path
    files: tuple[str, ...]
    facts: Facts
    notes: tuple[str, ...]


def write_package(
    model: Path,
    folder: Path,
    repository: str,
    *,
    onnx: bool = True,
    licence: str | None = None,
    trust_code: bool = False,
) -> Package:
    """Write what is uploaded of a model; the folder appears whole, or not at all.

    Args:
        model: run directory, bundle or checkpoint.
        folder: to write; it must not exist, or be empty.
        repository: ``owner/name``, for the card.
        onnx: whether to export the network, too.
        licence: see :func:`bcfusion.hub.card.card_text`.
        trust_code: see :func:`bcfusion.load_generator`.

    Raises:
        CheckpointError: the model cannot be loaded, a sensor has a name that cannot be loaded again, ``licence`` is not
            that of the model's card, or what is stated names a place on this machine or a token.
        WriteError: the folder cannot be written.
    """
    notes: list[str] = []
    generator = load_generator(model, trust_code=trust_code)
    with appearing_folder(folder) as part:
        facts = _write_bundle(model, generator, repository, part)
        notes += _lost_losses(generator, facts)
        licence_of(facts.card, licence)  # before the work
        reason = "" if onnx else "it was left out."
        if onnx:
            try:
                facts = replace(facts, onnx=_export(generator, part / ONNX, facts))
            except (ExportError, StreamingError, ConfigError) as error:
                reason = f"the network cannot be exported ({first_line(error)})."
                notes.append(f"{ONNX} is left out: {first_line(error)}")
        if facts.scores is not None:
            write_public_scores(facts.scores.file, part / SCORES)
            if named := private_place((part / SCORES).read_text(encoding="utf-8")):
                (part / SCORES).unlink()
                notes.append(f"{SCORES} is left out: it names {named}")
        text = card_text(facts, repository, licence=licence, without_onnx=reason)
        (part / README).write_text(text, encoding="utf-8")
        for name in os.listdir(part):
            require_public(part / name)
        files = tuple(name for name in NAMES if (part / name).is_file())
    notes += _missing(facts, licence)
    return Package(folder, files, facts, tuple(notes))


def _write_bundle(model: Path, generator: nn.Module, repository: str, part: Path) -> Facts:
    """Write the files of the bundle, without what belongs to this machine."""
    bundle = bundle_of(generator)
    assert bundle is not None  # load_generator attaches it
    for sensor in bundle.sensors:
        if not is_sensor_name(sensor):
            raise CheckpointError(
                f"{model}: the hub's users could not name the sensor {sensor!r}: give it a name without "
                f"$ {{ }} [ ] , = \\ and line breaks, under sensors in {BUNDLE_CONFIG}"
            )
    with tempfile.TemporaryDirectory() as scratch:
        made = save_bundle(
            Path(scratch) / repository.partition("/")[2],
            generator,
            without_paths(bundle.generator),
            bundle.sensors,
            portable_training(bundle.training),
            dtype=getattr(torch, bundle.dtype),
        )
        for name in FILES:
            shutil.copyfile(made / name, part / name)
    source = find_bundle(model) if model.is_dir() else None
    if source is not None and (source / BUNDLE_DISCRIMINATORS).is_file():
        shutil.copyfile(source / BUNDLE_DISCRIMINATORS, part / BUNDLE_DISCRIMINATORS)
    facts = facts_of(model, generator, read_description(part), part / BUNDLE_WEIGHTS)
    if facts.card is not None:
        text = yaml.safe_dump(facts.card.plain(), sort_keys=False, allow_unicode=True, width=120)
        (part / CARD).write_text(text, encoding="utf-8")
    return facts


def _lost_losses(generator: nn.Module, facts: Facts) -> Iterator[str]:
    bundle = bundle_of(generator)
    assert bundle is not None
    kept = facts.bundle.training.get("losses") or {}
    for name in bundle.training.get("losses") or {}:
        if name not in kept:
            yield f"the loss {name} is left out: its class is not part of bcfusion; adapt does without it"


def _export(generator: nn.Module, file: Path, facts: Facts) -> OnnxFacts:
    from bcfusion.export.writing import Wishes, export_file

    exported = export_file(generator, file, Wishes(whole=not facts.bundle.causal), card=facts.card)
    found = exported.verified
    return OnnxFacts(exported.metadata.frame, exported.size, found.difference, found.real_time_factor)


def _missing(facts: Facts, licence: str | None) -> Iterator[str]:
    if facts.card is None:
        yield f"the data and its licences are not stated: put a {CARD} beside the model, see docs/models.md"
        if licence is None:
            yield "the licence of the weights is not stated: give --licence, such as cc-by-4.0"
    if facts.scores is None and scores_of_card(facts.card) is None:
        yield f"it has no scores, and {README} says so"
    if facts.own_code:
        yield (
            f"the code of {facts.own_code} is not uploaded: whoever uses the model has to install it, and to give "
            "--trust-code"
        )
