"""Finds runs and reads what each of them was and came to."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from bcfusion.errors import CheckpointError
from bcfusion.report.comparison.run import Run, State
from bcfusion.report.comparison.run_files import read_settings, read_yaml
from bcfusion.run.jobs import FAILED, PRUNED

__all__ = ["Run", "find_runs", "read_run"]


def read_run(path: str | os.PathLike[str]) -> Run:
    """Reads what a run directory says of itself.

    Args:
        path: the directory of a finished, running, stopped or failed run.

    Raises:
        CheckpointError: it is none, or its run.json is damaged.
    """
    folder = Path(path)
    record: dict[str, Any] = {}
    if (folder / "run.json").is_file():
        try:
            record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
            choices, recipe = dict(record["choices"]), str(record["recipe"])
            typed = [str(override) for override in record["sessions"][-1]["overrides"]]
        except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
            raise CheckpointError(f"{folder / 'run.json'} cannot be read: {_reason(error)}") from error
    elif _is_job(folder):
        typed = [str(override) for override in _hydra_overrides(folder)]
        choices = _hydra_choices(folder)
        recipe = str(choices.get("recipe") or "")
    else:
        raise CheckpointError(f"{folder} is no run: it has no run.json")
    overrides = {key.lstrip("+~"): value for key, _, value in (text.partition("=") for text in typed)}
    state, problem = _state(folder)
    return Run(
        path=folder,
        recipe=recipe or overrides.get("recipe", ""),
        experiment=record.get("experiment") if record else choices.get("experiment") or overrides.get("experiment"),
        overrides=overrides,
        choices=choices,
        run=record,
        state=state,
        problem=problem,
    )


def find_runs(paths: Sequence[str | os.PathLike[str]], tell: Callable[[str], None] | None = None) -> list[Run]:
    """Reads the runs of several folders, each once, in the order of their paths.

    Args:
        paths: run directories, something inside one (its bundle, a checkpoint), or folders that hold runs at any depth
            (``runs``, a sweep).
        tell: called with one line for each path that holds no run and for each run that is damaged.

    Returns:
        What could be read; the list may be empty.
    """
    told = tell or (lambda line: None)
    found: dict[Path, Run] = {}
    for path in (Path(path).expanduser() for path in paths):
        folders = list(_run_folders(path))
        if not folders:
            told(f"{path}: {'no run in it' if path.exists() else 'there is no such folder'}")
        for folder in folders:
            try:
                found.setdefault(folder.resolve(), read_run(folder))
            except CheckpointError as error:
                told(str(error))
    return list(found.values())


def _run_folders(path: Path) -> Iterator[Path]:
    """Run directories at, around or below a path; nothing below a run directory is another one."""
    holder = next((folder for folder in (path, *path.parents[:3]) if (folder / "run.json").is_file()), None)
    if path.exists() and holder is not None:
        yield holder
        return
    for root, folders, files in os.walk(path):
        if "run.json" in files or _is_job(Path(root)):
            yield Path(root)
            folders.clear()
        folders[:] = sorted((name for name in folders if not name.startswith(".")), key=_natural)


def _natural(name: str) -> tuple[int, str]:
    """Sorts the jobs of a sweep by number: 2 before 10."""
    return (int(name), "") if name.isdigit() else (-1, name)


def _reason(error: Exception) -> str:
    return f"there is no {error}" if isinstance(error, KeyError) else str(error)


def _is_job(folder: Path) -> bool:
    """Whether it is the directory of a training job, though it may have failed before it wrote a record."""
    return (folder / ".hydra" / "overrides.yaml").is_file() and (
        (folder / "train.log").is_file() or (folder / FAILED).is_file()
    )


def _hydra_overrides(folder: Path) -> list[Any]:
    try:
        return list(read_yaml(folder / ".hydra" / "overrides.yaml") or ())
    except (OSError, yaml.YAMLError):
        return []


def _hydra_choices(folder: Path) -> dict[str, Any]:
    try:
        choices = read_settings(folder / ".hydra" / "hydra.yaml")["hydra"]["runtime"]["choices"]
        return {group: member for group, member in choices.items() if not group.startswith("hydra")}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, yaml.YAMLError):
        return {}


def _state(folder: Path) -> tuple[State, str]:
    """What became of a run, and why it did not end as it should."""
    ends: tuple[tuple[str, State], ...] = ((FAILED, "failed"), (PRUNED, "pruned"))
    for name, state in ends:
        if (folder / name).is_file():
            text = (folder / name).read_text(encoding="utf-8", errors="replace").strip()
            return state, text.partition("\n")[0] or "no reason was written"
    if not (folder / "run.json").is_file():
        began = (folder / "metrics.csv").is_file()
        return "failed", "its run.json is missing" if began else "it ended before it began to train"
    closed = any((folder / "quality" / f"{split}.csv").is_file() for split in ("test", "valid"))
    # the bundle is removed when a run goes on, and written before its closing evaluation
    return ("finished" if closed and (folder / "bundle" / "config.yaml").is_file() else "unfinished"), ""
