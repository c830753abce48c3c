"""MLflow."""

from __future__ import annotations

import io
import logging
import os
import re
import shlex
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import soundfile

from bcfusion.files import read_object
from bcfusion.requirements import require
from bcfusion.training.trackers.tracker import Row, Tracker, need

__all__ = ["MlflowTracker"]

DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
SERVERS = ("http", "https", "databricks")
PARAMETERS_AT_ONCE = 100  # MLflow's limit
LONGEST_PARAMETER = 6000  # characters; MLflow's limit


class MlflowTracker(Tracker):
    """Logs to an MLflow server or database.

    MLflow cannot delete values, so that what an interrupted session has logged after its checkpoint stays, and a
    resumed session logs what comes after.

    Args:
        run_dir: the run directory.
        first_step: step at which this session starts.
        experiment: of MLflow, the group of runs.
        tracking_uri: of a server or a database; None: that of ``MLFLOW_TRACKING_URI``, else ``mlflow.db`` in ``root``.
        root: folder of ``mlflow.db`` and of the sounds and pictures, ``mlartifacts``; None: that of the run directory.

    Raises:
        ConfigError: a package is missing, or the address is none of a server or a database.
    """

    title = "mlflow"

    def __init__(
        self,
        run_dir: str | Path,
        first_step: int = 0,
        experiment: str = "bcfusion",
        tracking_uri: str | None = None,
        root: str | None = None,
    ) -> None:
        super().__init__(run_dir, first_step)
        folder = (self.run.path.parent if root is None else Path(root)).absolute()
        given = tracking_uri or os.environ.get("MLFLOW_TRACKING_URI")
        if not given and first_step and (known := read_object(self.state).get("folder")) and Path(known).is_dir():
            folder = Path(known)  # the run is resumed from another working directory
        self._uri = given or f"sqlite:///{folder / 'mlflow.db'}"
        scheme = urlsplit(self._uri).scheme.partition("+")[0]
        require(
            self,
            (bool(experiment.strip()), "experiment must have a name"),
            (
                self._uri == "databricks" or scheme in (*DATABASES, *SERVERS),
                f"tracking_uri={self._uri} must begin with {', '.join((*DATABASES, *SERVERS))}; a file is sqlite:///PATH",
            ),
        )
        need(self.title, ("mlflow", *(("sqlalchemy", "alembic") if scheme in DATABASES else ())))
        self._experiment = experiment
        self._artifacts = None if given else folder / "mlartifacts"
        if not given:
            self.memory["folder"] = str(folder)
        self._client: Any = None
        self._mlflow_id: str = ""

    @property
    def where(self) -> str:
        """The command that shows a local database, or the address of the server."""
        shown = re.sub(r"//[^/@]*@", "//", self._uri)  # without a password
        remote = urlsplit(shown).scheme in SERVERS or shown == "databricks"
        return shown if remote else f"mlflow ui --backend-store-uri {shlex.quote(shown)}"

    def load(self) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # usage is not reported unless the user says so
        import mlflow.tracking  # noqa: F401

        logging.getLogger("mlflow").setLevel(logging.WARNING)  # each table of a new database

    def start(self, run_id: str | None, hyperparameters: Mapping[str, Any]) -> str:
        from mlflow.tracking import MlflowClient

        if self._artifacts is not None:
            self._artifacts.parent.mkdir(parents=True, exist_ok=True)
        self._client = MlflowClient(self._uri)
        run_id = self._mlflow_id or run_id  # an earlier attempt may have come as far as here
        known = self._continued(run_id)
        if known is None:
            self.sent = -1
            tags = {"mlflow.note.content": self.notes, "mlflow.source.name": "bcfusion"}
            tags |= {"mlflow.source.git.commit": commit} if (commit := self.commit) else {}
            run_id = self._client.create_run(self._experiment_id(), run_name=self.run_name, tags=tags).info.run_id
        else:
            self._client.update_run(run_id, status="RUNNING")
        self._mlflow_id = str(run_id)
        self._log_parameters(hyperparameters, {} if known is None else known.data.params)
        return self._mlflow_id

    def _continued(self, run_id: str | None) -> Any:
        """Return the run to continue; None if there is none, or none any more."""
        from mlflow.exceptions import MlflowException

        if run_id is None:
            return None
        try:
            return self._client.get_run(run_id)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return None

    def _experiment_id(self) -> str:
        from mlflow.exceptions import MlflowException

        location = None if self._artifacts is None else self._artifacts.as_uri()
        found = self._client.get_experiment_by_name(self._experiment)
        if found is None:
            try:
                return str(self._client.create_experiment(self._experiment, artifact_location=location))
            except MlflowException:  # another process was faster
                found = self._client.get_experiment_by_name(self._experiment)
                if found is None:
                    raise
        return str(found.experiment_id)

    def _log_parameters(self, hyperparameters: Mapping[str, Any], known: Mapping[str, Any]) -> None:
        """Log what is not known: MLflow refuses to change a parameter."""
        from mlflow.entities import Param

        new = {
            _permitted(key): str(value)[:LONGEST_PARAMETER]
            for key, value in hyperparameters.items()
            if _permitted(key) not in known
        }
        parameters = [Param(key, value) for key, value in new.items()]
        for first in range(0, len(parameters), PARAMETERS_AT_ONCE):
            self._client.log_batch(self._mlflow_id, params=parameters[first : first + PARAMETERS_AT_ONCE])

    def send(self, row: Row) -> None:
        from mlflow.entities import Metric
        from PIL import Image

        # first what would not be sent twice if the rest fails
        for tag, png in row.pictures.items():
            self._client.log_image(self._mlflow_id, Image.open(io.BytesIO(png)), key=tag, step=row.step)
        with tempfile.TemporaryDirectory() as scratch:
            for tag, signal in row.sounds.items():
                path = Path(scratch, f"step-{row.step:07d}.wav")
                soundfile.write(path, signal, row.sample_rate)
                self._client.log_artifact(self._mlflow_id, str(path), artifact_path=_permitted(tag))
        now = int(1000 * time.time())
        metrics = [Metric(_permitted(tag), value, now, row.step) for tag, value in row.values.items()]
        self._client.log_batch(self._mlflow_id, metrics=metrics)

    def finish(self, succeeded: bool) -> None:
        self._client.set_terminated(self._mlflow_id, status="FINISHED" if succeeded else "KILLED")


def _permitted(name: str) -> str:
    """Return a name without the characters that MLflow refuses, such as the brackets of ``valid_input (body)``."""
    return re.sub(r"[^\w.:/ -]", "", name)
