"""A public checkpoint becomes a bundle, with a card that says where it comes from."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from safetensors.torch import save_file
from torch import nn

from bcfusion.errors import CheckpointError
from bcfusion.files import appearing_folder
from bcfusion.importing.files import Found, find_files
from bcfusion.importing.source import Choices, Converted, Source, find_source
from bcfusion.run.building import build_generator
from bcfusion.run.bundle import save_bundle
from bcfusion.run.bundle_files import require_place
from bcfusion.run.card import CARD, Card
from bcfusion.run.description import FILES
from bcfusion.run.layout import BUNDLE_DISCRIMINATORS

__all__ = ["Imported", "import_model"]

#: the sensor of each recipe that has one, as public networks have
SENSORS = {"bone_to_air": "body", "bandwidth_extension": "narrow"}


@dataclass(frozen=True)
class Imported:
    """What an import has written.

    Attributes:
        folder: the bundle.
        generator: ``_target_`` and arguments of the network.
        experiment: member of conf/experiment that trains such a network.
        overrides: of the task: its recipe, its sample rate and what else the network needs.
        discriminators: member of conf/discriminators to its arguments; empty without discriminators.
        card: its card.
    """

    folder: Path
    generator: dict[str, Any]
    experiment: str
    overrides: list[str]
    discriminators: dict[str, dict[str, Any]]
    card: Card


def import_model(
    source_name: str,
    given: str,
    output: Path,
    *,
    sensor: str | None = None,
    recipe: str | None = None,
    source_index: int | None = None,
    discriminators: str | None = None,
    overwrite: bool = False,
) -> Imported:
    """Write the bundle of a public checkpoint.

    Args:
        source_name: one of :func:`bcfusion.importing.source.source_names`.
        given: file, folder or repository of the hub; see :func:`bcfusion.importing.files.find_files`.
        output: folder to write: the bundle, ``card.yaml``, and ``discriminators.safetensors`` if there are any.
        sensor: name of the network's input; None: that of the recipe.
        recipe: that the bundle is evaluated and trained with; None: that of the source.
        source_index: which output of a network with several.
        discriminators: file, folder or repository with the discriminators, if they are apart.
        overwrite: whether an earlier model in ``output`` is replaced.

    Raises:
        CheckpointError: there is no such source or checkpoint, it cannot be fetched or imported, or ``output`` is in
            use.
        WriteError: ``output`` cannot be written.
    """
    source = find_source(source_name)
    for option, value in (("source_index", source_index), ("discriminators", discriminators)):
        if value is not None and option in source.refuses:
            raise CheckpointError(f"--{option.replace('_', '-')} {value}: {source.refuses[option]}")
    require_place(output, overwrite)
    found = find_files(given, source.weights, source.config, source.needs_config)
    judges = None if discriminators is None else find_files(discriminators, source.weights, source.config)
    converted = source.convert(found, Choices(source_index, judges))
    task = recipe or source.task
    arguments = _arguments(converted)
    generator = build_generator(arguments, found.weights)
    converted.weights.load(generator)
    if converted.discriminator_weights is not None:
        networks = nn.ModuleDict(
            {name: build_generator(node, found.weights) for name, node in converted.discriminators.items()}
        )
        converted.discriminator_weights.load(networks)
    card = _card(source, source_name, converted, found, judges, task)
    name_of_input = sensor or SENSORS.get(task, "noisy")  # of several sensors, the air microphone
    overrides = [f"recipe={task}", f"sample_rate={converted.sample_rate}", *converted.overrides]
    if task not in SENSORS:
        overrides.append(f"task.sensors=[{name_of_input}]")
    training: dict[str, Any] = {"recipe": task, "imported": _record(source_name, found, judges, converted)}
    if name_of_input == SENSORS.get(task):  # otherwise the verb that reads the bundle looks for a task that fits
        # the network is the bundle's, whatever the experiment
        training["overrides"] = ["experiment=identity", *overrides]
    with tempfile.TemporaryDirectory() as scratch:
        made = save_bundle(Path(scratch) / output.name, generator, arguments, [name_of_input], training)
        with appearing_folder(output) as part:
            for name in FILES:
                shutil.copyfile(made / name, part / name)
            text = yaml.safe_dump(card.plain(), sort_keys=False, allow_unicode=True, width=120)
            (part / CARD).write_text(text, encoding="utf-8")
            if converted.discriminator_weights is not None:
                state = converted.discriminator_weights.state
                save_file({name: each.contiguous() for name, each in state.items()}, part / BUNDLE_DISCRIMINATORS)
    nodes = {name: dict(node) for name, node in converted.discriminators.items()}
    return Imported(output, arguments, source.experiment, overrides, nodes, card)


def _arguments(converted: Converted) -> dict[str, Any]:
    first = {"_target_": converted.generator["_target_"], "sample_rate": converted.sample_rate, "in_channels": 1}
    return {**first, **converted.generator}


def _record(name: str, found: Found, judges: Found | None, converted: Converted) -> dict[str, Any]:
    """Return where the weights come from, for the bundle's own description."""
    record: dict[str, Any] = {"source": name}
    places = [("checkpoint", found), *([("discriminators", judges)] if judges is not None else [])]
    for key, place in places:
        repository = {"repository": place.repository, "revision": place.revision} if place.repository else {}
        record[key] = {**repository, "files": place.checksums()}
    if converted.licence:
        record["licence"] = converted.licence
    if converted.discriminators:
        record["discriminator_arguments"] = dict(converted.discriminators)
    return record


def _card(source: Source, name: str, converted: Converted, found: Found, judges: Found | None, task: str) -> Card:
    origins = [f"The weights are those of {found.origin}."]
    if judges is not None:
        origins.append(f"The discriminators are those of {judges.origin}.")
    imported = (
        f"Imported by bcfusion import {name}; published by {source.project}. It was neither trained nor scored with "
        "bcfusion."
    )
    return Card(
        summary=f"{source.network[0].upper()}{source.network[1:]}; a public checkpoint of {source.project}.",
        licence=converted.licence or source.licence,
        data=source.data,
        task=task,
        limits=("recordings unlike those that it was trained on: compare its output with the input first",),
        notes=(imported, *origins, *converted.notes),
    )
