"""Run a stream with a sound card until somebody ends it."""

from __future__ import annotations

import gc
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from bcfusion.errors import DeviceError
from bcfusion.live.device import gone
from bcfusion.live.engine import Engine

__all__ = ["Port", "run_stream", "undisturbed", "until_stopped"]

SILENT_FOR = 3.0  #: seconds without a call after which a sound card counts as gone
_POLL = 0.05
_SWITCH = 5e-4  # seconds after which Python lets another thread go on; usually 5 ms, as long as a sound card's buffer


class Port(Protocol):
    """Whatever calls :meth:`Engine.hear` and :meth:`Engine.play` in threads of its own: a sound card, or a test."""

    calls: int  #: of hear

    def alive(self) -> bool:
        """Return whether it still works."""
        ...


@contextmanager
def until_stopped() -> Iterator[threading.Event]:
    """Yield an event that Ctrl-C and SIGTERM set; a second Ctrl-C interrupts as usual."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():  # no other thread gets signals
        yield stop
        return

    def ask(number: int, frame: Any) -> None:
        stop.set()
        signal.signal(signal.SIGINT, signal.default_int_handler)

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def undisturbed() -> Iterator[None]:
    """Let the threads of the block take turns faster, and spare them long collections of garbage.

    All that exists when the block begins, the modules of torch above all, is left out of the collections.
    """
    before = sys.getswitchinterval()
    sys.setswitchinterval(_SWITCH)
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
        sys.setswitchinterval(before)


def run_stream(
    engine: Engine,
    port: Port,
    stop: threading.Event,
    show: Callable[[], None],
    seconds: float | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Wait while a port and an engine work.

    Args:
        engine: inside of its ``with`` block.
        port: that calls it.
        stop: ends the stream.
        show: called twenty times a second.
        seconds: after which the stream ends; None: never.
        clock: seconds, from any point on.

    Raises:
        DeviceError: the port has stopped by itself, or has not called for three seconds.
        Exception: of the network.
    """
    begun = heard = clock()
    calls = port.calls
    while not stop.wait(_POLL):
        now = clock()
        engine.check()
        if port.calls != calls:
            calls, heard = port.calls, now
        if not port.alive():
            raise DeviceError(gone("the sound card"))
        if now - heard > SILENT_FOR:
            raise DeviceError(
                f"the sound card has delivered nothing for {SILENT_FOR:g} s\n"
                "connect it anew, or choose another one: bcfusion stream --list-devices"
            )
        if seconds is not None and now - begun >= seconds:
            break
        show()
    engine.check()
