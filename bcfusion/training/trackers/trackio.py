"""Trackio, in its local folder."""

from __future__ import annotations

import contextlib
import io
import shlex
import sqlite3
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bcfusion.requirements import require
from bcfusion.training.trackers.tracker import Row, Tracker, need

__all__ = ["TrackioTracker"]


class TrackioTracker(Tracker):
    """Logs to trackio's local folder: ``TRACKIO_DIR``, else that of Hugging Face's cache.

    No server is started and nothing is sent; ``trackio show`` starts the page and ``trackio sync`` publishes a project.
    What an interrupted session has logged after its checkpoint is deleted when the run is resumed.

    Args:
        run_dir: the run directory.
        first_step: step at which this session starts.
        project: of trackio.

    Raises:
        ConfigError: a package is missing, or the project has no name.
    """

    title = "trackio"

    def __init__(self, run_dir: str | Path, first_step: int = 0, project: str = "bcfusion") -> None:
        require(self, (bool(project.strip()), "project must have a name"))
        need(self.title, ("trackio",))
        super().__init__(run_dir, first_step)
        self._project = project
        self._active: Any = None

    @property
    def where(self) -> str:
        """The command that shows the project."""
        return f"trackio show --project {shlex.quote(self._project)}"

    def load(self) -> None:
        import trackio  # noqa: F401

    def start(self, run_id: str | None, hyperparameters: Mapping[str, Any]) -> str:
        from trackio.run import Run
        from trackio.sqlite_storage import SQLiteStorage

        class LocalRun(Run):
            def _get_username(self) -> None:
                """Ask nobody for the name of whoever is logged in at Hugging Face."""

        SQLiteStorage.validate_project_name(self._project)
        SQLiteStorage.init_db(self._project)  # fails here, rather than in trackio's own thread
        identity = run_id or uuid.uuid4().hex
        config = {**hyperparameters, "notes": self.notes}
        if run_id is not None:
            self._rewind(identity)
        self._active = LocalRun(
            url=None, project=self._project, client=None, name=self.run_name, run_id=identity, config=config
        )
        return identity

    def _rewind(self, identity: str) -> None:
        """Delete what follows the checkpoint, and note which rows are left."""
        from trackio import utils
        from trackio.sqlite_storage import SQLiteStorage

        if utils.get_storage_mode() != "sqlite":  # on network file systems: files to which rows are only added
            return
        connection = sqlite3.connect(SQLiteStorage.get_project_db_path(self._project), timeout=30)
        with contextlib.closing(connection), connection:
            connection.execute("DELETE FROM metrics WHERE run_id = ? AND step > ?", (identity, self.first_step))
            (last,) = connection.execute("SELECT MAX(step) FROM metrics WHERE run_id = ?", (identity,)).fetchone()
        self.sent = -1 if last is None else int(last)

    def send(self, row: Row) -> None:
        import trackio
        from PIL import Image

        sounds = {tag: trackio.Audio(signal, sample_rate=row.sample_rate) for tag, signal in row.sounds.items()}
        pictures = {tag: trackio.Image(Image.open(io.BytesIO(png))) for tag, png in row.pictures.items()}
        self._active.log({**row.values, **sounds, **pictures}, step=row.step)

    def finish(self, succeeded: bool) -> None:
        with contextlib.redirect_stdout(io.StringIO()):  # it says that it uploads
            self._active.finish()
