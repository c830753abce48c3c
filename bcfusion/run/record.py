"""The record of how a run came to be: config.yaml, overrides.yaml and run.json of its directory."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml

from bcfusion import __version__
from bcfusion.configuration.locations import absolute_paths
from bcfusion.configuration.values import OF_A_SESSION, at
from bcfusion.files import read_object, write_text
from bcfusion.run.commit import git_hash
from bcfusion.run.layout import RunDir

PACKAGES = ("torch", "torchaudio", "lightning", "hydra-core", "omegaconf", "numpy", "soundfile", "pesq")


@dataclass(frozen=True)
class Provenance:
    """Where a run comes from.

    Attributes:
        recipe: name of the chosen recipe.
        experiment: name of the chosen experiment, if any.
        overrides: as typed.
        choices: the chosen member of each config group.
        command: the whole command line.
        config_dir: the user's own, if any.
        config_name: the root configuration, if it is another than the shipped one.
    """

    recipe: str
    experiment: str | None = None
    overrides: Sequence[str] = ()
    choices: Mapping[str, Any] = field(default_factory=dict)
    command: Sequence[str] = ()
    config_dir: str | None = None
    config_name: str | None = None


def write_record(
    run_dir: Path,
    config: dict[str, Any],
    provenance: Provenance,
    resumed_at: int | None,
    relative: Mapping[str, Any] | None = None,
) -> None:
    """Write the record of a run; in config.yaml its paths are absolute, so that it can be read from any folder.

    Args:
        run_dir: the directory of the run.
        config: its resolved configuration.
        provenance: where it comes from.
        resumed_at: step at which this session resumes the run, whose earlier sessions stay in run.json; None for a new
            run.
        relative: paths that were written relative to the working directory, by their keys, as written.
    """
    import torch  # not by verbs that only read records

    run = RunDir(run_dir)
    session = {
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "command": list(provenance.command),
        "overrides": list(provenance.overrides),
        "resumed_at_step": resumed_at,
        "git": git_hash(Path(__file__).resolve().parent),
        "bcfusion": __version__,
        "python": platform.python_version(),
        "packages": {name: metadata.version(name) for name in PACKAGES},
        "seed": config["seed"],
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or "cpu",
        "cpus": os.cpu_count(),
    }
    earlier = [] if resumed_at is None else read_object(run.record).get("sessions", [])
    record = {
        "recipe": provenance.recipe,
        "experiment": provenance.experiment,
        "choices": dict(provenance.choices),
        "config_dir": provenance.config_dir,
        "config_name": provenance.config_name,
        "relative_paths": dict(relative or {}),
        "sessions": [*earlier, session],
    }
    write_text(run.record, json.dumps(record, indent=2, default=str) + "\n")
    write_text(run.config, yaml.safe_dump(absolute_paths(config), sort_keys=False, allow_unicode=True))
    write_text(run.overrides, yaml.safe_dump(list(provenance.overrides), allow_unicode=True))


def hyperparameters(config: Mapping[str, Any], provenance: Provenance) -> dict[str, Any]:
    """Return flat plain values that distinguish runs in TensorBoard's HPARAMS: choices, and the numbers that are swept.

    Settings that runs rarely share by accident (the member of each group, the root keys such as ``sample_rate`` and
    ``narrow_rate``) are always among them, so that runs of different tasks or defaults do not look alike.
    Keys are those of the configuration, so that a typed key and one that is always reported share a column. Only what
    an experiment usually sets is renamed to ``settings/...`` and ``weight/...``: TensorBoard first shows five of the
    columns that differ, in alphabetical order, and ``optimizer.lr`` and ``generator.channels`` should be among them.
    """
    flat: dict[str, Any] = {
        "recipe": provenance.recipe,
        "experiment": provenance.experiment or "none",
        "generator": str(provenance.choices.get("generator", config["generator"]["_target_"])),
        "discriminators": "+".join(config["discriminators"] or ()) or "none",
        "critics": "+".join(config.get("critics") or ()) or "none",
        "losses": "+".join(config["losses"] or ()),
    }
    members = {name: choice for name, choice in provenance.choices.items() if isinstance(choice, str)}
    flat = {**flat, **{name: choice for name, choice in members.items() if name not in flat}}
    plain_types = bool | int | float | str
    root = [key for key, value in config.items() if isinstance(value, plain_types) and key not in OF_A_SESSION]
    always = [*root, "seed", "optimizer.lr", "trainer.precision"]
    brought = {f"losses.{name}.weight": f"weight/{name}" for name in config["losses"] or {}}
    brought |= {f"data.{name}": f"settings/{name}" for name in ("batch_size", "segment_seconds")}
    typed = dict(text.lstrip("+~").partition("=")[::2] for text in provenance.overrides)
    for key in dict.fromkeys((*always, *brought, *typed)):
        value = at(config, key, None)
        if not isinstance(value, plain_types):
            value = typed.get(key, str(value))
        # a number stays a number (not the text "3e-4"), so that TensorBoard can sort by it and scale its axis
        flat.setdefault(brought.get(key, key), value)
    return flat
