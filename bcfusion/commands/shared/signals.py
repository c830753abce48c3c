"""A process that is asked to end: it deletes what is unfinished first."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from bcfusion.system import ENDING

__all__ = ["cleaning_up_when_ended"]

AGAIN = 0.01  # seconds
_ALARM = getattr(signal, "SIGALRM", None)  # Windows has no timer that interrupts: there, the exception may be lost


@contextmanager
def cleaning_up_when_ended() -> Iterator[None]:
    """Let SIGINT, SIGTERM and SIGHUP end the block as an exception, so that unfinished files are deleted.

    The exit status is then 128 plus the number of the signal, as in shells. The exception waits until libsndfile has
    returned: raised in a function that a C library calls, it would be printed and forgotten. Signals that the process
    ignores (as under nohup) stay ignored, and outside of the main thread nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    ending = _Ending()
    usual = (signal.SIG_DFL, signal.default_int_handler)
    before = {number: signal.getsignal(number) for number in ENDING}
    before = {number: handler for number, handler in before.items() if handler in usual}
    if _ALARM is not None:
        before[_ALARM] = signal.getsignal(_ALARM)
    try:
        for number in before:
            signal.signal(number, ending)
        yield
    finally:
        if _ALARM is not None:
            signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before.items():
            signal.signal(number, handler)


class _Ending:
    """Ends the process at the next moment at which an exception is not lost."""

    def __init__(self) -> None:
        self._asked = int(signal.SIGTERM)

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if number != _ALARM:
            self._asked = number
        while frame is not None and _ALARM is not None:
            if frame.f_globals.get("__name__") == "soundfile":
                signal.setitimer(signal.ITIMER_REAL, AGAIN)
                return
            frame = frame.f_back
        if self._asked == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + self._asked)
