"""Ends a run of several processes together when one of them has died, has failed alone, or no longer gets on."""

from __future__ import annotations

import itertools
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import sysconfig
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from types import FrameType
from typing import Any

import torch.distributed as dist
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from bcfusion.errors import TrainingError, first_line
from bcfusion.run.alive import place
from bcfusion.run.processes import began, runs
from bcfusion.system import kill

__all__ = ["LAUNCHER", "Watch"]

LAUNCHER = "BCFUSION_LAUNCHER"  #: environment variable: the process that has started this one as a further rank
STATUS = 2  #: of a process that is ended because of another one
GRACE = 15.0  #: seconds for a process to end by itself after another one was lost

_LIBRARIES = tuple({sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")})
_OWN = str(Path(__file__).parents[1])
_TORCH = str(Path(dist.__file__).parents[1])
# where a process waits for others: in an exchange, or in a backward pass, which ends with one
_WAITING = tuple(f"{_TORCH}/{place}" for place in ("distributed/", "autograd/", "nn/parallel/distributed.py"))
_numbers = itertools.count()  # of the watches of a process, in whose store the words of earlier ones are still
_BROKEN = ("gloo", "NCCL", "Connection closed by peer", "Connection reset by peer")


@dataclass
class _Peer:
    """What is known of one process.

    Attributes:
        record: its own latest words; see :meth:`Watch._words`.
        heard: when it last said anything.
        moved: when its work last got on.
    """

    record: dict[str, Any]
    heard: float
    moved: float


@dataclass(frozen=True)
class _Fault:
    """Why the run ends, and the ranks that are the reason."""

    message: str
    ranks: frozenset[int]


class Watch:
    """Tells the processes of a run about each other, in threads that go on while the main thread computes or waits.

    Each process says once a second where its main thread is, through the store that the processes have met in. It gets
    on if it has marked a new place (:meth:`at`), or if its stack has changed. The run ends if

    - a process of this machine is no more, or one has ended with an error;
    - a process has said nothing for ``seconds``: it is stopped, or its machine is gone;
    - none has got on for ``seconds``. Those that do not wait for others are the reason, or else those that are behind;
      a validation of which one process has more than the others is no reason, however long.

    Then a process that hangs is killed, if it is on this machine. What the others wait for fails with that, and
    :meth:`guarding` makes a :class:`~bcfusion.errors.TrainingError` of it, which says which rank, where, and what to
    do. Where nothing fails (NCCL, or a machine that is gone) the process ends after :data:`GRACE` seconds. Its own
    worker processes end with it.

    Args:
        seconds: see above.
        what_now: returns what a user does after the run has ended.
    """

    def __init__(self, seconds: float, what_now: Callable[[], str] = str) -> None:
        self.seconds = seconds
        self.what_now = what_now
        self._tick = min(1.0, seconds / 5)
        self._main = threading.main_thread().ident
        self._mark = (0, "before training")
        self._last: tuple[Any, ...] = ()
        self._beat = self._moves = 0
        self._rank, self._world_size, self._number = 0, 1, 0
        self._state, self._problem, self._blames = "works", "", False
        self._lock = threading.Lock()
        self._peers: dict[int, _Peer] = {}
        self._gone: dict[int, float] = {}  # when a process was first found to be no more
        self._asked = time.monotonic()
        self._children: dict[int, subprocess.Popen[Any]] = {}  # by rank
        self._launcher = 0
        self._fault: _Fault | None = None
        self._ending, self._over, self._wake = threading.Event(), threading.Event(), threading.Event()
        self._threads: list[threading.Thread] = []

    # ---------------------------------------------------------------- what the run tells

    def at(self, order: int, where: str) -> None:
        """Mark a place that the main thread has reached.

        Args:
            order: grows along the run; who has the least is behind.
            where: for the message.
        """
        self._mark = (order, where)

    def fails(self, error: BaseException) -> None:
        """Say that the main thread has begun to end this process with an error: the others need not wait for it."""
        self._ending.set()
        if self._threads and not _is_broken(error):
            self._state, self._problem = "fails", first_line(error)
            self._wake.set()

    def supervise(self, children: Sequence[subprocess.Popen[Any]]) -> None:
        """Take the processes that this one has started as ranks 1, 2, ... of its machine."""
        self._children = dict(enumerate(children, start=1))

    def start(self) -> None:
        """Begin to watch the processes that this one has started, or the one that has started it."""
        if not self._threads:
            self._launcher = int(os.environ.pop(LAUNCHER, "0"))
            self._begin(self._judge)

    def join(self, rank: int, world_size: int) -> None:
        """Begin to watch all ranks, now that they have met."""
        if world_size > 1 and len(self._threads) == 1:
            self._rank, self._world_size = rank, world_size
            self._number = next(_numbers)
            self._asked = time.monotonic()
            self._begin(self._exchange)

    def _begin(self, loop: Callable[[], None]) -> None:
        thread = threading.Thread(target=loop, name=f"bcfusion-watch{loop.__name__}", daemon=True)
        self._threads.append(thread)
        thread.start()

    @contextmanager
    def guarding(self) -> Iterator[None]:
        """Run the block; if it fails because another process is lost, say which, where, and what to do.

        However the block ends, the other processes are told. With one process nothing happens.

        Raises:
            TrainingError: another process is lost; on the lowest rank that is left. On others SystemExit, since one
                message is enough.
        """
        try:
            yield
        except BaseException as error:
            lost = None
            if self._threads and _is_broken(error):
                with _ignoring_sigterm():  # by which torchrun ends the others as soon as it sees that one has ended
                    lost = self._lost()
                    if lost is not None:
                        self._close(lost.message, blames=True)
                        self.end_children()
            if lost is None:
                self._close(first_line(error))
                self.end_children()
                raise
            if not self._speaks(lost):
                raise SystemExit(STATUS) from None
            raise TrainingError(f"{lost.message}\n{self.what_now()}") from error
        self._close()

    # ---------------------------------------------------------------- exchange

    def _exchange(self) -> None:
        """Say where this process is, and hear where the others are, again and again."""
        keys = [f"bcfusion/watch/{self._number}/{rank}" for rank in range(self._world_size)]
        store: TCPStore | None = None
        while not self._over.is_set():
            try:
                if store is None and not self._host_is_gone():
                    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
                    store = TCPStore(address, port, is_master=False, timeout=timedelta(seconds=5))
                words = json.dumps(self._words())
                if store is not None:
                    store.set(keys[self._rank], words)
                if store is not None and store.check(keys):
                    self._hear([json.loads(words) for words in store.multi_get(keys)])
            except (RuntimeError, OSError, ValueError):  # the store is gone, or does not answer
                store = None
            self._wake.wait(self._tick)
            self._wake.clear()

    def _host_is_gone(self) -> bool:
        """Return whether rank zero, whose store it mostly is, has been seen to be no more."""
        with self._lock:
            host = self._peers.get(0)
        return host is not None and not _is_there(host.record)

    def _words(self) -> dict[str, Any]:
        """Return what this process says of itself."""
        frames = _stack(sys._current_frames().get(self._main or 0))
        seen = (self._mark, [(id(frame.f_code), frame.f_lasti) for frame in frames])
        self._moves += seen != self._last
        self._last = seen
        self._beat += 1
        order, where = self._mark
        with self._lock:
            heard_end = [rank for rank, peer in self._peers.items() if peer.record["state"] != "works"]
        return {
            **place(),
            "pid": os.getpid(),
            "began": began(os.getpid()),
            "beat": self._beat,
            "moves": self._moves,
            "order": order,
            "where": f"{where}, {_line(frames)}" if frames else where,
            "waits": bool(frames) and frames[0].f_code.co_filename.startswith(_WAITING),
            "state": self._state,
            "problem": self._problem,
            "blames": self._blames,
            "heard_end": heard_end,
        }

    def _hear(self, records: Sequence[dict[str, Any]]) -> None:
        now = time.monotonic()
        with self._lock:
            self._asked = now
            for rank, record in enumerate(records):
                peer = self._peers.get(rank)
                if peer is None:
                    self._peers[rank] = _Peer(record, now, now)
                elif record["beat"] != peer.record["beat"]:
                    moved = now if record["moves"] != peer.record["moves"] else peer.moved
                    self._peers[rank] = _Peer(record, now, moved)

    # ---------------------------------------------------------------- judgement

    def _judge(self) -> None:
        """Look for a reason to end, again and again, and end this process if the main thread does not."""
        last = time.monotonic()
        while not self._over.wait(self._tick):
            now = time.monotonic()
            if now - last > 3 * self._tick + 5:  # this process was stopped: it does not know what the others did
                with self._lock:
                    self._asked = now
                    self._peers = {rank: _Peer(peer.record, now, now) for rank, peer in self._peers.items()}
            last = now
            fault = self._find(now)
            if fault is not None:
                self._fault = fault
                if not self._ending.is_set():
                    self._end(fault)
                return

    def _find(self, now: float) -> _Fault | None:
        with self._lock:
            peers, asked = dict(self._peers), self._asked
        if not peers:
            return self._find_before(now)
        others = {rank: peer for rank, peer in peers.items() if rank != self._rank}
        at_work = {rank: peer for rank, peer in peers.items() if peer.record["state"] == "works"}
        for blames in (False, True):  # who fails because of a third one is not the reason
            for rank, peer in others.items():
                if peer.record["problem"] and peer.record["blames"] == blames:
                    said = peer.record["problem"]
                    return _Fault(said if blames else f"{_name(rank, peer)} ended with: {said}", frozenset({rank}))
        for rank, peer in others.items():
            if rank not in at_work or _is_there(peer.record):
                continue
            noticed = self._gone.setdefault(rank, now)  # it may have said why in its last words
            if asked > noticed + self._tick or now > noticed + 3 * self._tick:
                how = self._how(rank)
                return _Fault(f"{_name(rank, peer)} has died{how} ({peer.record['where']})", frozenset({rank}))
        if now - asked >= self.seconds and 0 in others:
            return self._silent([0], peers)  # with it the store is gone
        silent = [rank for rank in others if rank in at_work and now - others[rank].heard >= self.seconds]
        if silent and now - asked < self.seconds / 2:
            return self._silent(silent, peers)
        heard = all(now - peer.heard < self.seconds / 2 for peer in at_work.values())
        if at_work and heard and all(now - peer.moved >= self.seconds for peer in at_work.values()):
            return self._stuck(at_work)
        return None

    def _find_before(self, now: float) -> _Fault | None:
        """Find a reason before the processes have met."""
        if self._launcher and os.getppid() != self._launcher:
            return _Fault(f"rank 0 (process {self._launcher}), which started this process, has died", frozenset({0}))
        for rank, child in self._children.items():
            if child.poll() is not None:
                return _Fault(
                    f"rank {rank} (process {child.pid}) ended{self._how(rank)} before the processes met; if it said "
                    "why, it is above",
                    frozenset({rank}),
                )
        return None

    def _how(self, rank: int) -> str:
        """Return how a process ended that this one has started; nothing if it is not known."""
        child = self._children.get(rank)
        status = None if child is None else child.poll()
        if status is None:
            return ""
        if status >= 0:
            return f" with status {status}"
        with suppress(ValueError):
            return f" of {signal.Signals(-status).name}"
        return f" of signal {-status}"

    def _silent(self, ranks: Sequence[int], peers: Mapping[int, _Peer]) -> _Fault:
        said = "; ".join(f"{_name(rank, peers[rank])}, last {peers[rank].record['where']}" for rank in ranks)
        return _Fault(f"no answer for {self.seconds:g} s from {said}", frozenset(ranks))

    def _stuck(self, at_work: Mapping[int, _Peer]) -> _Fault:
        """Return who is the reason that no process gets on."""
        reasons = [rank for rank, peer in at_work.items() if not peer.record["waits"]]
        if not 0 < len(reasons) < len(at_work):
            least = min(peer.record["order"] for peer in at_work.values())
            reasons = [rank for rank, peer in at_work.items() if peer.record["order"] == least]
        names = "; ".join(f"{_name(rank, at_work[rank])} {at_work[rank].record['where']}" for rank in reasons)
        return _Fault(f"no progress for {self.seconds:g} s: the run hangs in {names}", frozenset(reasons))

    # ---------------------------------------------------------------- the end

    def _end(self, fault: _Fault) -> None:
        """Free the main thread from what it waits for; if it does not end the process, do so."""
        if self._rank in fault.ranks:
            frame = sys._current_frames().get(self._main or 0)
            stack = "".join(traceback.format_stack(frame)) if frame is not None else ""
            _say(f"{stack}rank {self._rank}: {fault.message}")
            self._tell("ended", fault.message, blames=True)
            self._exit()
        # one that hangs ends itself, if it still can
        waiting = time.monotonic() + (GRACE / 3 if self._hangs_awake(fault) else 0.0)
        while time.monotonic() < waiting and not self._ending.wait(self._tick):
            pass
        for rank in fault.ranks:
            self._kill(rank)
        if not self._ending.wait(GRACE):
            if self._speaks(fault):
                _say(f"{fault.message}\n{self.what_now()}")
            self._tell("ended", fault.message, blames=True)
            self._exit()

    def _hangs_awake(self, fault: _Fault) -> bool:
        """Return whether processes at fault are still heard."""
        now = time.monotonic()
        with self._lock:
            return any(now - self._peers[rank].heard < 5 for rank in fault.ranks if rank in self._peers)

    def _kill(self, rank: int) -> None:
        with self._lock:
            peer = self._peers.get(rank)
        if peer is not None and peer.record["state"] == "works" and _is_there(peer.record, elsewhere=False):
            with suppress(OSError):
                kill(peer.record["pid"])

    def _exit(self) -> None:
        """End this process from a thread, with everything that it has started."""
        for child in multiprocessing.active_children():
            child.kill()
        self.end_children()
        with suppress(OSError, ValueError):
            sys.stdout.flush()
        os._exit(STATUS)

    def end_children(self) -> None:
        """Wait for the processes that this one has started, which have nothing to do any more, and kill the rest."""
        deadline = time.monotonic() + GRACE
        for child in self._children.values():
            try:
                child.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                child.kill()  # also one that is stopped
                child.wait()

    def _speaks(self, fault: _Fault) -> bool:
        """Return whether this is the process that prints the reason: the lowest rank that is left."""
        return self._rank == min(set(range(self._world_size)) - fault.ranks, default=self._rank)

    def _lost(self) -> _Fault | None:
        """Return why an exchange with other processes has failed; None if it is not found soon."""
        deadline = time.monotonic() + 3 * self._tick + 3
        while self._fault is None and time.monotonic() < deadline:
            time.sleep(self._tick / 5)
        return self._fault

    def _close(self, problem: str = "", blames: bool = False) -> None:
        """Tell the others that this process ends, and stop watching."""
        self._ending.set()
        if len(self._threads) > 1:
            self._tell("ended" if problem else "done", problem, blames)
        self._over.set()
        self._wake.set()
        self._threads = []

    def _tell(self, state: str, problem: str, blames: bool) -> None:
        """Say how this process ends, and wait until that is heard: rank zero takes the store away with it."""
        self._problem, self._blames, self._state = problem, blames, state
        said, deadline = self._beat, time.monotonic() + 3 * self._tick + 2
        while time.monotonic() < deadline:
            self._wake.set()
            time.sleep(self._tick / 20)
            with self._lock:
                others = [peer.record for rank, peer in self._peers.items() if rank != self._rank]
            heard = all(
                other["state"] != "works" or self._rank in other["heard_end"] or not _is_there(other)
                for other in others
            )
            if self._beat > said + 1 and heard:
                return


@contextmanager
def _ignoring_sigterm() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


def _is_broken(error: BaseException) -> bool:
    """Return whether an error is that of a connection to other processes."""
    if isinstance(error, dist.DistError | ConnectionError):
        return True
    return isinstance(error, RuntimeError) and any(word in str(error) for word in _BROKEN)


def _is_there(record: Mapping[str, Any], elsewhere: bool = True) -> bool:
    """Return whether a process runs; ``elsewhere`` if it is that of another machine, which cannot be seen."""
    if any(record[name] != value for name, value in place().items()):
        return elsewhere
    return runs(record["pid"], record["began"])


def _name(rank: int, peer: _Peer) -> str:
    return f"rank {rank} (process {peer.record['pid']} on {peer.record['host']})"


def _stack(frame: FrameType | None) -> list[FrameType]:
    """Return the frames of a stack, innermost first."""
    frames = []
    while frame is not None:
        frames.append(frame)
        frame = frame.f_back
    return frames


def _line(frames: Sequence[FrameType]) -> str:
    """Return the line of a stack that says most: the innermost one that is not of a library."""

    def tells(frame: FrameType) -> bool:
        file = frame.f_code.co_filename
        return file.startswith(_OWN) or not file.startswith((*_LIBRARIES, "<"))

    frame = next(filter(tells, frames), frames[0])
    return f"{frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_name}"


def _say(text: str) -> None:
    with suppress(OSError, ValueError):
        sys.stderr.write(f"bcfusion: {text}\n")  # at once: the processes of a run share the terminal
        sys.stderr.flush()
