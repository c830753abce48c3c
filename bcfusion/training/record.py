"""What a run directory says about how it came to be: config.yaml, overrides.yaml, run.json."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
import yaml

from bcfusion import __version__

PACKAGES = ("torch", "torchaudio", "lightning", "hydra-core", "omegaconf", "numpy", "soundfile", "pesq", "pystoi")


@dataclass(frozen=True)
class Provenance:
    """Where a run comes from.

    Attributes:
        recipe, experiment: names of the chosen members; experiment may be None.
        overrides: as typed. choices: the member of each config group.
        command: the whole command line. config_dir: the user's own, if any.
    """

    recipe: str
    experiment: str | None = None
    overrides: Sequence[str] = ()
    choices: Mapping[str, Any] = field(default_factory=dict)
    command: Sequence[str] = ()
    config_dir: str | None = None


def git_hash(directory: Path) -> str | None:
    """Commit of the checkout that a directory lies in, with ``-dirty`` where files differ; None outside of one."""
    try:
        answer = subprocess.run(
            ["git", "-C", str(directory), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip() or None if answer.returncode == 0 else None


def write_text(path: Path, text: str) -> None:
    """Writes a text file so that a crash in between leaves the old one whole."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text)
    os.replace(temporary, path)


def write_record(run_dir: Path, config: dict[str, Any], provenance: Provenance, resumed_at: int | None) -> None:
    """Writes the record; a resumed run keeps what it said first and adds a session to run.json."""
    run_dir.mkdir(parents=True, exist_ok=True)
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
    path = run_dir / "run.json"
    sessions = json.loads(path.read_text())["sessions"] if resumed_at is not None and path.is_file() else []
    record = {
        "recipe": provenance.recipe,
        "experiment": provenance.experiment,
        "choices": dict(provenance.choices),
        "config_dir": provenance.config_dir,
        "sessions": [*sessions, session],
    }
    write_text(path, json.dumps(record, indent=2, default=str) + "\n")
    write_text(run_dir / "config.yaml", yaml.safe_dump(config, sort_keys=False, allow_unicode=True))
    write_text(run_dir / "overrides.yaml", yaml.safe_dump(list(provenance.overrides), allow_unicode=True))


def hyperparameters(config: Mapping[str, Any], provenance: Provenance) -> dict[str, Any]:
    """Flat plain values that tell runs apart in TensorBoard's HPARAMS: choices, and the numbers that are swept."""
    flat: dict[str, Any] = {
        "recipe": provenance.recipe,
        "experiment": provenance.experiment or "none",
        "generator": str(provenance.choices.get("generator", config["generator"]["_target_"])),
        "discriminators": "+".join(config["discriminators"] or ()) or "none",
        "losses": "+".join(config["losses"] or ()),
        "seed": config["seed"],
        "batch_size": config["data"]["batch_size"],
        "segment_seconds": config["data"]["segment_seconds"],
        "lr": config["optimizer"].get("lr"),
        "precision": config["trainer"]["precision"],
    }
    for name, loss in (config["losses"] or {}).items():
        flat[f"weight/{name}"] = loss["weight"]
    for override in provenance.overrides:
        key, _, value = override.lstrip("+~").partition("=")
        flat.setdefault(key, value)
    return {key: value if isinstance(value, bool | int | float | str) else str(value) for key, value in flat.items()}
