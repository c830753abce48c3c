"""Jobs that wait for somebody else, done one after the other in a thread of their own."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

__all__ = ["Outbox"]

Job = Callable[[], None]


class Outbox:
    """Does jobs in their order, so that whoever puts them never waits; one that fails is tried again until it succeeds.

    Args:
        name: of the thread.
        failed: called in the thread with the error of each failed attempt.
        first_pause: seconds before the second attempt; each further pause is twice as long, up to ``longest_pause``.
        longest_pause: seconds.
    """

    def __init__(
        self, name: str, failed: Callable[[Exception], None], first_pause: float = 1.0, longest_pause: float = 60.0
    ) -> None:
        self._failed = failed
        self._first_pause, self._longest_pause = first_pause, longest_pause
        self._jobs: deque[Job] = deque()
        self._changed = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def put(self, job: Job) -> None:
        """Add a job, to be done after those that wait."""
        with self._changed:
            self._jobs.append(job)
            self._changed.notify()

    def close(self, timeout: float) -> int:
        """Do what is left, with one more attempt at what fails, and end the thread.

        Args:
            timeout: seconds to wait; a job that takes longer is left alone.

        Returns:
            The number of jobs that were not done.
        """
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(timeout)
        return len(self._jobs)

    def _work(self) -> None:
        pause = self._first_pause
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._jobs or self._closing)
                if not self._jobs:
                    return
                job, last_attempt = self._jobs[0], self._closing
            try:
                job()
            except Exception as error:  # libraries have classes of their own
                self._failed(error)
                if last_attempt:
                    return
                with self._changed:
                    self._changed.wait_for(lambda: self._closing, timeout=pause)
                pause = min(2 * pause, self._longest_pause)
            else:
                self._jobs.popleft()
                pause = self._first_pause
