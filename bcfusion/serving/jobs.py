"""Recordings that wait, are restored by threads of their own, and whose results are kept for a while."""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import secrets
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bcfusion.errors import BcfusionError
from bcfusion.serving.limits import Limits
from bcfusion.serving.models import ServedModel
from bcfusion.serving.restoring import Cancelled, restore
from bcfusion.serving.uploads import Refused

if TYPE_CHECKING:
    from torch import nn

__all__ = ["Job", "Jobs"]

NICE = 10  # of the threads that restore files: live streams come first

logger = logging.getLogger(__name__)


@dataclass
class Job:
    """A recording, from its upload to the end of its result.

    Attributes:
        id: that nobody can guess.
        folder: of its files.
        client: its address.
        model: that restores it; None while it is received.
        share: of the sensor in the output.
        files: name as it was sent, and place, of each file.
        seconds: length of the recording.
        state: ``receiving``, ``queued``, ``running``, ``done`` or ``failed``.
        progress: 0 to 1.
        error: why it failed.
        took: seconds of computing.
        ended: when it was done or failed, by the clock of the jobs.
        cancelled: whether nobody wants it any more.
    """

    id: str
    folder: Path
    client: str = ""
    model: ServedModel | None = None
    share: float = 0.0
    files: list[tuple[str, Path]] = field(default_factory=list)
    seconds: float = 0.0
    state: str = "receiving"
    progress: float = 0.0
    error: str | None = None
    took: float | None = None
    ended: float | None = None
    cancelled: bool = False

    def plain(self, position: int) -> dict[str, Any]:
        """Return what its client may know; ``position`` is the number of jobs before it."""
        return {
            "id": self.id,
            "state": self.state,
            "position": position,
            "progress": round(self.progress, 4),
            "error": self.error,
            "model": self.model.name if self.model else "",
            "seconds": self.seconds,
            "sample_rate": self.model.bundle.sample_rate if self.model else 0,
            "took_seconds": None if self.took is None else round(self.took, 3),
        }

    def sounds(self) -> list[str]:
        """Return the names of its results."""
        return ["output", *(f"input-{number}" for number in range(len(self.model.sensors if self.model else ())))]


class Jobs:
    """All jobs of a server. Use it as a context manager: the threads run inside of the block.

    Args:
        folder: private and temporary; each job has one of its own in it.
        limits: of the server.
        workers: jobs that are computed at a time.
        threads: that compute each.
        clock: seconds, from any point on.
    """

    def __init__(
        self,
        folder: Path,
        limits: Limits,
        workers: int = 1,
        threads: int = 1,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._folder, self._limits, self._clock = folder, limits, clock
        self._lock = threading.Lock()
        self._jobs: dict[str, Job] = {}
        self._waiting: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._closed = False
        self._workers = [
            threading.Thread(target=self._work, args=(threads,), name=f"restoring-{n}", daemon=True)
            for n in range(workers)
        ]

    def __enter__(self) -> Jobs:
        for worker in self._workers:
            worker.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
        for worker in self._workers:
            worker.join()

    def close(self) -> None:
        """Cancel everything; the threads end as soon as what they compute allows."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            for job in self._jobs.values():
                job.cancelled = True
        for _ in self._workers:
            self._waiting.put(None)

    def receive(self, client: str) -> Job:
        """Return a new job with a folder of its own, to receive the recording in.

        Args:
            client: its address.

        Raises:
            Refused: there are too many.
        """
        with self._lock:
            if self._closed:
                raise Refused(503, "the server shuts down: try again later")
            busy = [job.client for job in self._jobs.values() if job.ended is None]
            if len(busy) >= self._limits.max_jobs:
                raise Refused(429, "too many recordings wait: try again in a few seconds")
            if busy.count(client) >= self._limits.jobs_of(client):
                raise Refused(429, "too many recordings of this address wait: try again in a few seconds")
            job = Job(secrets.token_urlsafe(24), self._folder / secrets.token_hex(16), client)
            try:
                job.folder.mkdir(mode=0o700)
            except OSError as error:
                raise Refused(507, "the server's disk is full: try again later") from error
            self._jobs[job.id] = job
            return job

    def submit(self, job: Job, model: ServedModel, share: float) -> None:
        """Let a job that was received wait for its turn."""
        with self._lock:
            if self._closed:
                raise Refused(503, "the server shuts down: try again later")
            job.model, job.share, job.state = model, share, "queued"
            # behind those that arrived before, in whichever order they began
            self._jobs[job.id] = self._jobs.pop(job.id)
        self._waiting.put(job)

    def get(self, id: str) -> Job | None:
        """Return a job that was submitted; None if there is none."""
        with self._lock:
            job = self._jobs.get(id)
            return None if job is None or job.state == "receiving" else job

    def plain(self, job: Job) -> Mapping[str, Any]:
        """Return the state of a job."""
        with self._lock:
            before = 0
            if job.state == "queued":
                waiting = [each for each in self._jobs.values() if each.state == "queued" and not each.cancelled]
                before = waiting.index(job) if job in waiting else 0
                before += sum(each.state == "running" for each in self._jobs.values())
            return job.plain(before)

    def remove(self, job: Job) -> None:
        """Cancel a job, and delete all of it."""
        with self._lock:
            self._jobs.pop(job.id, None)
            job.cancelled = True
            running = job.state == "running"
        if not running:  # else the thread deletes it, when it has noticed
            shutil.rmtree(job.folder, ignore_errors=True)

    def sweep(self) -> None:
        """Delete the results that were kept for long enough; and beyond the number that is kept, the oldest ones of
        the address that has the most."""
        now = self._clock()
        with self._lock:
            ended = sorted(
                ((job.ended, job) for job in self._jobs.values() if job.ended is not None), key=lambda pair: pair[0]
            )
        kept = []
        for at, job in ended:
            if now - at > 60 * self._limits.keep_minutes:
                self.remove(job)
            else:
                kept.append(job)
        while len(kept) > self._limits.kept_jobs:
            [(most, _)] = Counter(job.client for job in kept).most_common(1)
            oldest = next(job for job in kept if job.client == most)
            kept.remove(oldest)
            self.remove(oldest)

    # ---------------------------------------------------------------- threads

    def _work(self, threads: int) -> None:
        import torch

        torch.set_num_threads(threads)
        with contextlib.suppress(OSError, AttributeError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)
        networks: dict[str, nn.Module] = {}  # of this thread: a network that streams does nothing else
        while (job := self._waiting.get()) is not None:
            with self._lock:
                if job.cancelled:
                    continue
                job.state = "running"
            self._run(job, networks)

    def _run(self, job: Job, networks: dict[str, nn.Module]) -> None:
        from bcfusion.inference.blend import Blend

        assert job.model is not None
        begun = time.perf_counter()
        error: str | None = None

        def progress(done: float) -> None:
            if job.cancelled:
                raise Cancelled
            job.progress = done

        try:
            if job.model.name not in networks:
                networks[job.model.name] = _loaded(job.model)
            network = networks[job.model.name]
            restore(job.model, Blend(network, job.share) if job.share else network, job.files, job.folder, progress)
        except Cancelled:
            pass
        except BcfusionError as fault:
            error = str(fault)
        except Exception:
            logger.exception("a recording could not be restored")
            error = "the network failed on this recording: the server's log says how"
        for _, path in job.files:
            path.unlink(missing_ok=True)
        with self._lock:
            job.took, job.ended = time.perf_counter() - begun, self._clock()
            job.error, job.state = error, "done" if error is None else "failed"
            job.progress = 1.0 if error is None else job.progress
            gone = job.id not in self._jobs
        if gone:
            shutil.rmtree(job.folder, ignore_errors=True)
        self.sweep()


def _loaded(model: ServedModel) -> nn.Module:
    """Return the network of a model; why it cannot be loaded any more concerns the server alone."""
    from bcfusion.run.bundle import load_generator

    try:
        return load_generator(model.path)
    except BcfusionError as error:
        logger.error("%s cannot be loaded: %s", model.name, error)
        raise BcfusionError("the model cannot be loaded: the server's log says how; choose another one") from error
