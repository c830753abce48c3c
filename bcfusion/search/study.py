"""The study of a search: everything that was tried, in a file or database that jobs and later sessions read."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from bcfusion import system
from bcfusion.errors import ConfigError, first_line

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.storages import BaseStorage
    from optuna.trial import FrozenTrial

INTERRUPTED = "interrupted"  # marks a trial that did not run to its end
LOCK_SECONDS = 15  # age of a journal's lock, which is held for milliseconds, at which its process must have died
FLOOR = -1.0  # of the scale of `selection`: as far below its worst value as its best value is above it


@contextmanager
def quiet_optuna() -> Iterator[None]:
    """Keep Optuna's log lines and its warnings about experimental parts out of the output.

    Raises:
        ConfigError: Optuna is not installed, or is too old (another package may have brought it).
    """
    missing = ConfigError(["hparams_search needs optuna 4.3 or later: pip install 'bcfusion[optuna]'"])
    try:
        import optuna
    except ImportError as error:
        raise missing from error
    major, minor = optuna.__version__.split(".")[:2]
    if (int(major), int(minor)) < (4, 3):  # the first whose journals take over the lock of a dead process
        raise missing
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(before)


def open_storage(place: str) -> BaseStorage:
    """Return the storage at a path (a journal file that several processes may append to) or at a database's URL."""
    from optuna.storages import JournalStorage, RDBStorage
    from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

    if "://" in place:
        return RDBStorage(place)
    Path(place).parent.mkdir(parents=True, exist_ok=True)
    # Optuna's default lock, a symbolic link, waits forever if the process that held it was killed: a link to a
    # relative path leads nowhere, so that its age cannot be read. This lock is taken over instead.
    return JournalStorage(JournalFileBackend(place, lock_obj=JournalFileOpenLock(place, LOCK_SECONDS)))


@contextmanager
def exclusive(place: str, name: str, sweep_dir: Path) -> Iterator[None]:
    """Keep other searches out of a study while this one runs; the system releases the lock when the process ends.

    Args:
        place: path or URL of the storage.
        name: of the study.
        sweep_dir: where the lock is if the storage is a database.

    Raises:
        ConfigError: another process searches in the study.
    """
    lock = sweep_dir / "search.running" if "://" in place else Path(f"{place}.{quote(name, safe='')}.running")
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("a") as file:
        try:
            system.lock(file)
        except (BlockingIOError, PermissionError) as error:
            raise ConfigError(
                [f"hydra.sweeper.storage: another process searches in {place}; wait until it has ended"]
            ) from error
        except OSError:  # a file system without locks; the numbers of the trials show a second search too, if later
            pass
        yield


def open_study(place: str, name: str, objectives: int, pruner: Any = None) -> Study:
    """Return the study in a storage, created if it does not exist; each of its objectives is maximised.

    Args:
        place: path or URL of the storage.
        name: of the study.
        objectives: how many.
        pruner: Optuna's; None for its default.

    Raises:
        ConfigError: the study has another number of objectives, or the storage cannot be used.
    """
    import optuna

    try:
        study = optuna.create_study(
            study_name=name,
            storage=open_storage(place),
            pruner=pruner,
            directions=["maximize"] * objectives,
            load_if_exists=True,
        )
    except Exception as error:  # not a journal, no such database, no driver for it, no permission to write
        raise ConfigError([f"hydra.sweeper.storage: cannot use {place}: {first_line(error)}"]) from error
    if len(study.directions) != objectives:
        raise ConfigError(
            [f"hydra.sweeper.storage: {place} holds a search of {len(study.directions)} objectives, not {objectives}"]
        )
    return study


def requeue_interrupted(study: Study) -> int:
    """Queue the values of trials that an earlier session left unfinished, before any new ones; return their number."""
    from optuna.trial import TrialState

    left = [t for t in study.get_trials(deepcopy=False) if t.state == TrialState.RUNNING]
    for trial in left:
        set_aside(study, trial)
        study.enqueue_trial(trial.params)
    return len(left)


def set_aside(study: Study, trial: Trial | FrozenTrial) -> None:
    """End a trial that has no result; it does not count as one of the ``n_trials``."""
    from optuna.trial import TrialState

    study._storage.set_trial_user_attr(trial._trial_id, INTERRUPTED, True)
    study.tell(trial.number, state=TrialState.FAIL)


def count_ended(study: Study) -> int:
    """Return how many trials have ended: finished, pruned or failed, but not interrupted."""
    return len(_ended(study))


def count_if_all_failed(study: Study) -> int:
    """Return how many trials have ended if all of them have failed; otherwise 0."""
    from optuna.trial import TrialState

    ended = _ended(study)
    return len(ended) if all(trial.state == TrialState.FAIL for trial in ended) else 0


def _ended(study: Study) -> list[FrozenTrial]:
    return [t for t in study.get_trials(deepcopy=False) if t.state.is_finished() and INTERRUPTED not in t.user_attrs]


def finite(values: Sequence[float]) -> list[float]:
    """Return objective values that Optuna accepts: NaN and infinities become the floor of the scale."""
    return [float(value) if math.isfinite(value) else FLOOR for value in values]


def results(study: Study) -> dict[str, Any]:
    """Return what a study has found, in plain containers: the best trial, or the Pareto front of several objectives."""
    from optuna.trial import TrialState

    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    found: dict[str, Any] = {"name": "optuna", "study": study.study_name, "trials": count_ended(study)}
    if len(study.directions) > 1:
        front = study.best_trials if complete else []
        solutions = [{"job": t.number, "params": dict(t.params), "values": list(t.values)} for t in front]
        return {**found, "solutions": solutions}
    if not complete:
        return {**found, "best_job": None, "best_params": {}, "best_value": None}
    best = study.best_trial
    return {**found, "best_job": best.number, "best_params": dict(best.params), "best_value": best.value}
