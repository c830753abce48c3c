"""Weights & Biases."""

from __future__ import annotations

import io
import os
import socket
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit
from urllib.request import getproxies

from bcfusion.errors import TrainingError, first_line
from bcfusion.requirements import require
from bcfusion.training.trackers.tracker import Row, Tracker, need

__all__ = ["WandbTracker"]

CONNECTING_SECONDS = 30.0
FINISHING_SECONDS = 60.0


class WandbTracker(Tracker):
    """Logs to Weights & Biases, or offline into the run directory, from where ``wandb sync`` sends it.

    Without a login or a connection the run is logged offline. ``best/...`` is in the summary, since the summary has the
    last value of each tag.

    Args:
        run_dir: the run directory.
        first_step: step at which this session starts.
        project: of wandb.
        entity: user or team; None: your default.
        mode: None: as ``WANDB_MODE`` says, else online.

    Raises:
        ConfigError: a package is missing, or wandb does not allow that project name.
    """

    title = "wandb"

    def __init__(
        self,
        run_dir: str | Path,
        first_step: int = 0,
        project: str = "bcfusion",
        entity: str | None = None,
        mode: Literal["online", "offline", "disabled"] | None = None,
    ) -> None:
        require(
            self,
            (
                0 < len(project) <= 128 and not set(project) & set("/\\#?%:"),
                f"project={project!r} must have 1 to 128 characters, none of / \\ # ? % :",
            ),
        )
        need(self.title, ("wandb",))
        super().__init__(run_dir, first_step)
        self._project, self._entity, self._mode = project, entity, mode
        self._wandb: Any = None
        self._active: Any = None

    def load(self) -> None:
        # crashes of wandb are not reported to its makers unless the user says so
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        import wandb

        self._wandb = wandb

    def start(self, run_id: str | None, hyperparameters: Mapping[str, Any]) -> str:
        if self._active is None:  # else an earlier attempt has come as far as here
            self._active = self._begin(run_id or uuid.uuid4().hex[:16], run_id is not None)
        if self._active.resumed:  # rows that the server has; an offline run is told by the run directory
            self.sent = self._active.starting_step - 1
        self._active.config.update(dict(hyperparameters), allow_val_change=True)
        return str(self._active.id)

    def _begin(self, identity: str, resumes: bool) -> Any:
        """Begin or continue a run, offline if that is asked for or nothing else is possible."""
        mode = self._mode or os.environ.get("WANDB_MODE") or "online"
        if mode == "online":
            try:
                if self._wandb.run is None:  # a library user with a run of the same process is logged in
                    self._require_connection()
                    if not self._wandb.login(prompt=False):
                        raise TrainingError("not logged in (wandb login)")
                return self._init(identity, resumes, mode)
            except Exception as error:
                self.warn(f"{first_line(error)}: the run is logged offline, into {self.run.path / 'wandb'}")
                mode = self._mode = "offline"
                if self._wandb.run is None:
                    self._wandb.teardown()  # it would say that a run of this id is active
        return self._init(identity, resumes, mode)

    def _require_connection(self) -> None:
        """Raise an OSError if the server cannot be reached, to which wandb itself may take minutes.

        Without a key there is no login, and behind a proxy only wandb knows the way: neither is looked at.
        """
        settings = self._wandb.setup().settings
        address = urlsplit(settings.base_url)
        if not os.environ.get("WANDB_API_KEY") or getproxies().get(address.scheme):
            return
        port = address.port or (443 if address.scheme == "https" else 80)
        socket.create_connection((address.hostname or "", port), timeout=CONNECTING_SECONDS).close()

    @property
    def where(self) -> str:
        """The page of the run, or the command that sends an offline run."""
        url = getattr(self._active, "url", None)
        return url or f"wandb sync {self.run.path / 'wandb' / 'offline-run-*'}"

    def _init(self, identity: str, resumes: bool, mode: str) -> Any:
        settings = self._wandb.Settings(
            mode=mode,
            reinit="create_new",  # a run of a library user's own goes on
            silent=True,
            console="off",  # train.log has it
            save_code=False,
            disable_git=True,  # the notes have bcfusion's commit; the working directory may be anything
            init_timeout=CONNECTING_SECONDS,
            finish_timeout=FINISHING_SECONDS,
        )
        return self._wandb.init(
            project=self._project,
            entity=self._entity,
            id=identity,
            name=self.run_name,
            notes=self.notes,
            dir=str(self.run.path),
            resume="allow" if resumes else None,
            settings=settings,
        )

    def send(self, row: Row) -> None:
        from PIL import Image

        wandb = self._wandb
        sounds = {tag: wandb.Audio(signal, sample_rate=row.sample_rate) for tag, signal in row.sounds.items()}
        pictures = {tag: wandb.Image(Image.open(io.BytesIO(png))) for tag, png in row.pictures.items()}
        self._active.log({**row.values, **sounds, **pictures}, step=row.step, commit=True)

    def finish(self, succeeded: bool) -> None:
        self._active.finish(exit_code=0 if succeeded else 1)
