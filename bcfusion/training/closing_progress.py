"""The progress of the closing evaluation: one line that is updated on a terminal, or lines at intervals in a log."""

from __future__ import annotations

import sys
import time
from typing import Any

from tqdm import tqdm

from bcfusion.training.callbacks.progress import SECONDS_BETWEEN_LINES, items_text


class ClosingProgress:
    """Shows how many of the utterances are done and how long the others will take.

    Args:
        total: number of utterances.
        split: that they belong to.
    """

    def __init__(self, total: int, split: str) -> None:
        self._total = total
        self._began = self._last_line = time.monotonic()
        self._bar: tqdm[Any] | None = None
        if sys.stderr.isatty():
            self._bar = tqdm(bar_format="{desc}", leave=False, dynamic_ncols=True)
        else:
            files = "file" if total == 1 else "files"
            print(f"closing evaluation of {total} {split} {files} ...", file=sys.stderr, flush=True)

    def __call__(self, done: int) -> None:
        """Show that ``done`` utterances are done, if it is time for it."""
        now = time.monotonic()
        if self._bar is not None:
            self._bar.set_description_str(self.text(done, now - self._began))
        elif now - self._last_line > SECONDS_BETWEEN_LINES:
            self._last_line = now
            print(self.text(done, now - self._began), file=sys.stderr, flush=True)

    def text(self, done: int, seconds: float) -> str:
        """Return the line after ``done`` utterances, at least one, which have taken ``seconds``."""
        return items_text("closing evaluation", done, self._total, seconds)

    def close(self) -> None:
        """Remove the line from a terminal."""
        if self._bar is not None:
            self._bar.close()
