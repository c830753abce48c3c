"""Interrupt a small GAN run at random moments, resume it each time, and check what is left after each interruption.

python scripts/chaos.py --out chaos                      100 interruptions
python scripts/chaos.py --out chaos --kills 10 --seed 1
python scripts/chaos.py --out chaos --kinds SIGKILL,rank
python scripts/chaos.py --out chaos --plain-writes       the check of the checks: has to fail

A run is `bcfusion train ... resume=auto` of a few thousand parameters: generator and discriminators, gradient balancer,
averaged generator, gradients accumulated over two batches, a reader process and a metric process. It is interrupted and
resumed until it ends; then the next one begins, until the interruptions are used up. Each must end bit for bit as one
that nobody interrupted. The kinds, their shares, and where they hit are in the report, OUT/chaos.json and OUT/chaos.md.

What is random is drawn from the seed; the moment at which it hits depends on the machine, too. A full disk is a small
tmpfs, which root alone can mount: without it, a limit of the size of files takes its place.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import resource
import select
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

os.environ.setdefault("GOMP_SPINCOUNT", "0")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import chaos_checks as checks
import torch
from chaos_process import CLOSING, START, TRAINING, VALIDATION, read_note

from bcfusion import __version__
from bcfusion.files import read_object, write_text
from bcfusion.run.layout import RunDir

# how many of a hundred interruptions are of a kind
SHARES = {
    "SIGKILL": 27,
    "SIGKILL inside a write": 16,  # the kernel ends the process at a random byte of a file
    "SIGKILL between two files": 14,  # before a random rename, link or deletion
    "SIGTERM": 10,
    "SIGINT twice": 8,
    "full disk": 7,
    "file too large": 2,
    "read-only folder": 4,
    "loader worker": 4,
    "metric process": 4,
    "rank": 4,
}
INSIDE, BETWEEN = "SIGKILL inside a write", "SIGKILL between two files"
OF_THE_DISK = ("full disk", "file too large", "read-only folder")
WRITING = "checkpoint writing"
PHASES = (START, TRAINING, VALIDATION, WRITING, CLOSING)
# how often of a hundred times an interruption aims at a part of a session
AIMS = {START: 18, TRAINING: 36, VALIDATION: 18, WRITING: 18, CLOSING: 10}
STEPS, INTERVAL, VALIDATE = 24, 4, 8
PATIENCE = 900.0  # seconds after which a process hangs; a net, not a measure
GRACE = 60.0  # seconds in which all processes of a run have to be gone
DISK = 96 << 20
AT_RANDOM = 0.3  # share of the deaths inside a write that are not aimed at a checkpoint
LEAST = 20_000  # bytes of a limit of the size of files: what a session prints is smaller
CHECKPOINT = 1_000_000  # bytes of last.ckpt, about
OPERATIONS = 60  # a session changes about so many names

SETTINGS = (
    "experiment=seanet",
    "data=folder",
    "generator.channels=2",
    "generator.bottleneck_channels=4",
    "discriminators.melgan_msd.channels=2",
    "discriminators.melgan_msd.max_channels=8",
    "balancer=eben",
    "scheduler=cosine",
    "adversarial.start_step=0",
    "data.batch_size=2",
    "data.segment_seconds=0.128",
    "data.workers=1",
    "trainer.accelerator=cpu",
    "trainer.accumulate=2",
    "trainer.max_valid_items=2",
    "trainer.log_every=1",
    "trainer.keep_best=[stoi]",
    f"trainer.checkpoint_every={INTERVAL}",
    f"trainer.validate_every={VALIDATE}",
    f"trainer.max_steps={STEPS}",
    "budget.minutes=null",
    "metrics=[stoi,si_sdr]",
    "selection=stoi",
)


@dataclass
class Kill:
    """One interruption.

    Attributes:
        kind: of :data:`SHARES`.
        aim: the part of the session that it waits for.
        share: random, in [0, 1): when it comes within that part, or at which byte.
        choice: random, in [0, 1): which process, or which signal.
        run: number of the run that it hit.
        hit: the part of the session that it hit.
        step: batches that were trained.
        saved: step of ``last.ckpt`` after it.
        status: of the process; None if it went on.
        problems: what is wrong after it.
    """

    kind: str
    aim: str
    share: float
    choice: float
    run: int = -1
    hit: str = ""
    step: int = -1
    saved: int = 0
    status: int | None = None
    hidden: int = 0
    problems: list[str] = field(default_factory=list)


def deal(kinds: Sequence[str], number: int, dice: random.Random) -> list[Kill]:
    """Return interruptions of the given kinds in random order, as many of each as its share says."""
    total = sum(SHARES[kind] for kind in kinds)
    counts = {kind: number * SHARES[kind] // total for kind in kinds}
    by_rest = sorted(kinds, key=lambda kind: -(number * SHARES[kind] % total))
    for kind in by_rest[: number - sum(counts.values())]:
        counts[kind] += 1
    deck = [kind for kind in kinds for _ in range(counts[kind])]
    dice.shuffle(deck)
    aims, weights = list(AIMS), list(AIMS.values())
    return [Kill(kind, dice.choices(aims, weights)[0], dice.random(), dice.random()) for kind in deck]


# ---------------------------------------------------------------- processes


class Hangs(Exception):
    """A process did not end in time."""


class Sessions:
    """Starts sessions: forked from a process that has imported everything, or in an interpreter of their own.

    Args:
        environment: of the processes.
    """

    def __init__(self, environment: dict[str, str]) -> None:
        self._environment = environment
        self._script = str(Path(__file__).with_name("chaos_process.py"))
        self._server: subprocess.Popen[str] | None = None

    def start(self, session: dict[str, Any], *, fork: bool) -> Session:
        if not fork:
            command = [sys.executable, self._script, json.dumps(session)]
            process = subprocess.Popen(command, env=self._environment, start_new_session=True)
            return Session(process.pid, process.poll)
        if self._server is None:
            pipe = subprocess.PIPE
            self._server = subprocess.Popen(
                [sys.executable, self._script], env=self._environment, stdin=pipe, stdout=pipe, text=True
            )
        server = self._server
        assert server.stdin is not None
        assert server.stdout is not None
        output = server.stdout
        server.stdin.write(json.dumps(session) + "\n")
        server.stdin.flush()
        started = json.loads(output.readline())

        def status() -> int | None:
            return json.loads(output.readline())["status"] if select.select([output], [], [], 0)[0] else None

        return Session(started["pid"], status)

    def close(self) -> None:
        if self._server is not None:
            self._server.kill()
            self._server.communicate()


class Session:
    """A running session.

    Args:
        pid: of its process, which is also the number of its group.
        status: returns how it ended, None while it runs; it is asked until it answers, once.
    """

    def __init__(self, pid: int, status: Callable[[], int | None]) -> None:
        self.pid = pid
        self.status: int | None = None
        self._ask = status

    def ended(self) -> bool:
        if self.status is None:
            self.status = self._ask()
        return self.status is not None

    def wait(self, until: Callable[[], bool] = lambda: False) -> bool:
        """Wait until the session ends, then return True, or until something else holds."""
        limit = time.monotonic() + PATIENCE
        while not self.ended():
            if until():
                return False
            if time.monotonic() > limit:
                raise Hangs(f"process {self.pid} does nothing for {PATIENCE:g} seconds")
            time.sleep(0.003)
        return True

    def end(self) -> None:
        """Kill whatever is left of the session, and wait for it."""
        if self.ended():
            processes = members(self.pid)
        else:
            processes = [self.pid, *members(self.pid)]
        for process in processes:
            with suppress(OSError):
                os.kill(process, signal.SIGKILL)
        self.wait()


def members(session: int) -> list[int]:
    """Return the processes of a session, those that have ended and were not waited for excepted."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with suppress(OSError, IndexError):
                state, _, _, leader = (folder / "stat").read_text().rpartition(")")[2].split()[:4]
                if int(leader) == session and state not in "ZX":
                    found.append(int(folder.name))
    return found


def send(process: int, signum: int, *, group: bool = False) -> bool:
    """Send a signal to a process or its group; return False if the process is gone."""
    try:
        os.killpg(process, signum) if group else os.kill(process, signum)
    except ProcessLookupError:
        if not group:
            return False
        return send(process, signum)  # it has no group of its own yet
    return True


def helpers(session: int, kind: str) -> list[int]:
    """Return the processes of a session of one kind: loader worker, metric process, rank."""
    lines = {}
    for process in members(session):
        with suppress(OSError):
            lines[process] = Path(f"/proc/{process}/cmdline").read_bytes()
    main = lines.pop(session, None)
    if kind == "loader worker":  # it was forked
        return [process for process, line in lines.items() if line == main]
    part = b"spawn_main" if kind == "metric process" else b"commands/train.py"
    return [process for process, line in lines.items() if part in line]


# ---------------------------------------------------------------- runs


@dataclass
class Place:
    """Where everything is.

    Attributes:
        out: of the report, the corpus, and the runs that nobody interrupts.
        disk: the disk that the other runs are on.
        small: whether this disk can be filled.
    """

    out: Path
    disk: Path
    small: bool

    @property
    def filler(self) -> Path:
        return self.disk / "filler"

    def fill(self, left: int) -> None:
        """Leave so many bytes free."""
        with self.filler.open("wb") as file, suppress(OSError):
            while True:
                file.write(bytes(1 << 20))
        size = max(0, self.filler.stat().st_size - left) if self.filler.exists() else 0
        os.truncate(self.filler, size)


@contextmanager
def small_disk(out: Path) -> Iterator[Place]:
    """Mount a small disk, if that is allowed, for the block."""
    disk = out / "disk"
    disk.mkdir()
    mounted = not subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={DISK}", "chaos", str(disk)], capture_output=True, check=False
    ).returncode
    try:
        yield Place(out, disk, mounted)
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(disk)], check=False)


class Run:
    """A run that is interrupted and resumed until it ends.

    Args:
        number: of the run.
        place: where everything is.
        sessions: starts its sessions.
        reference: the same run, not interrupted; None: this is that one.
        ranks: number of processes.
        plain: whether files are written plainly.
    """

    def __init__(
        self,
        number: int,
        place: Place,
        sessions: Sessions,
        reference: checks.Reference | None,
        ranks: int = 1,
        plain: bool = False,
        pace: Pace | None = None,
    ) -> None:
        self.number = number
        self.root = (place.disk if reference else place.out) / f"run-{number:03d}"
        self.root.mkdir()
        self.notes = place.out / f"notes-{number:03d}"  # not on the disk that is filled
        self.notes.mkdir()
        self.samples = reference is None or number % 6 == 1  # pictures take half of the time
        self.ranks = ranks
        self.done = False
        self._place = place
        self._sessions = sessions
        self._reference = reference
        self._plain = plain
        self._pace = pace or Pace()
        self._fixed = self.root / "here" if number % 2 else None  # or a folder that is named by the time
        self._known = checks.Known()
        self._started: list[Session] = []
        self._count = 0

    @property
    def path(self) -> Path | None:
        """The directory of the run, as far as there is one."""
        if self._fixed is not None:
            return self._fixed if self._fixed.exists() else None
        runs = [path for path in self.root.glob("bone_to_air/seanet/*") if path.is_dir()]
        return max(runs, key=lambda path: (RunDir(path).last.is_file(), path.name), default=None)

    def argv(self) -> list[str]:
        note = self.notes / f"phase-{self._count}"
        return [
            "train",
            *SETTINGS,
            f"data.root={self._place.out / 'speech'}",
            f"output_root={self.root}",
            *([] if self._fixed is None else [f"hydra.run.dir={self._fixed}"]),
            f"trainer.samples={int(self.samples)}",
            *([] if self.ranks == 1 else [f"trainer.devices={self.ranks}"]),
            "+callbacks.phases._target_=chaos_process.Phases",
            f"+callbacks.phases.path={note}",
            "resume=auto",
        ]

    def output(self) -> str:
        file = self.notes / f"output-{self._count}"
        return file.read_text(errors="replace") if file.is_file() else ""  # a session may die before its first line

    def note(self) -> tuple[str, int]:
        return read_note(self.notes / f"phase-{self._count}")

    def session(self, kill: Kill | None, fork: bool = True) -> bool:
        """Run one session, interrupt it, and check what is left; return whether the interruption came in time."""
        self._count += 1
        before = self.path
        if before is None or not RunDir(before).last.is_file():
            self._known = checks.Known(hidden=self._known.hidden if before is not None and self._fixed else ())
        order: dict[str, Any] = {
            "argv": self.argv(),
            "cwd": str(self.root),
            "output": str(self.notes / f"output-{self._count}"),
            "plain": self._plain,
        }
        if kill is not None:
            kill.run = self.number
            order["dies_of_size"] = kill.kind == INSIDE
            if kill.kind == BETWEEN:
                order["dies_at"] = [str(self.root), 1 + int(kill.share * OPERATIONS)]
        session = self._sessions.start(order, fork=fork)
        self._started.append(session)
        hit = kill is not None and Interruption(self, session, kill, self._place, self._pace).happens()
        session.wait()
        # a folder that became read-only at the very end keeps the mark, whose lock died with the session
        keeps_mark = kill is not None and kill.kind in OF_THE_DISK and not hit
        return self._ends(session, kill if hit else None, keeps_mark)

    def end(self) -> list[str]:
        """Wait for the processes of all sessions, kill those that stay, and return them as problems."""
        problems = self._left(self._started)
        self.kill()
        return problems

    def kill(self) -> None:
        """Kill the processes of all sessions."""
        for session in self._started:
            session.end()

    @staticmethod
    def _left(ended: Sequence[Session]) -> list[str]:
        """Return the processes that outlive their sessions; those of readers take seconds to notice the end."""
        limit = time.monotonic() + GRACE
        while any(members(session.pid) for session in ended) and time.monotonic() < limit:
            time.sleep(0.1)
        left = [process for session in ended for process in members(session.pid)]
        return [f"process {process} outlives its session by {GRACE:g} seconds" for process in left]

    def _ends(self, session: Session, kill: Kill | None, keeps_mark: bool = False) -> bool:
        """Check a session that has ended."""
        problems = self._left([one for one in self._started if one is not session])
        output = self.output()
        phase, step = self.note()
        finished = session.status == 2 and " is finished: step " in output  # it was killed when all was done
        if kill is None and session.status != 0 and not finished:
            problems.append(f"status {session.status} without a reason: {' / '.join(output.splitlines()[-3:])}")
        if kill is not None:
            kill.status = session.status
            problems += unexpected(kill, session.status, output)
        if session.status == 0 or finished:
            self.done = True
        path = self.path
        if path is not None and self._reference is not None:
            began = phase != START or read_object(RunDir(path).running).get("pid") == session.pid
            # before training began, Lightning ends the run after a step that is not saved
            saved_at_once = kill is not None and kill.hit != START and "stopped by SIG" in output
            hidden = set(self._known.hidden)
            found, self._known = checks.interrupted(path, self._reference, self._known, step, began, saved_at_once)
            problems += found
            if self.done:
                problems += [
                    problem
                    for problem in checks.closed(path, self._reference, self.samples)
                    # a session that is refused changes nothing
                    if not ((finished or keeps_mark) and problem == checks.MARK_LEFT)
                ]
            if kill is not None:
                new = set(self._known.hidden) - hidden
                kill.hidden = len(new)
                if kill.kind in (INSIDE, BETWEEN):
                    kill.hit, kill.step = phase, step
                if any(file.parent.name == "checkpoints" for file in new) or (
                    kill.kind in OF_THE_DISK and f"cannot write {path}/checkpoints/" in output
                ):
                    kill.hit = WRITING
                elif kill.hit == START and self._known.step == STEPS and began:
                    kill.hit = CLOSING  # nothing was left to train
                kill.saved = self._known.step
        if problems and kill is None:
            raise Broken(problems)
        if kill is not None:
            kill.problems = problems
        return kill is not None


class Broken(Exception):
    """A run does not hold what it promises, and not because of the latest interruption."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


@dataclass
class Pace:
    """How long the parts of a session take, as measured by the run that nobody interrupts, in seconds."""

    seconds: dict[str, float] = field(default_factory=lambda: {START: 3.0, TRAINING: 0.5, VALIDATION: 0.5, CLOSING: 1})

    def measure(self, run: Run, session: Session) -> None:
        begun, last = time.monotonic(), START
        longest: dict[str, float] = {}

        def look() -> bool:
            nonlocal begun, last
            phase = run.note()[0]
            if phase != last:
                now = time.monotonic()
                longest[last] = max(longest.get(last, 0.0), now - begun)
                begun, last = now, phase
            return False

        session.wait(look)
        longest[last] = time.monotonic() - begun
        self.seconds |= longest


def unexpected(kill: Kill, status: int | None, output: str) -> Iterator[str]:
    """Yield what a user should not see at the end of a session that was interrupted in a way that can be caught."""
    end = " / ".join(output.splitlines()[-3:])
    refused = "cannot write" in output or "Permission denied" in output
    if kill.kind in OF_THE_DISK and status != 0 and (status != 2 or not refused):
        yield f"{kill.kind}: status {status}, {end}"
    if kill.kind in ("SIGTERM", "SIGINT twice", *OF_THE_DISK) and kill.hit != START and "Traceback" in output:
        yield f"{kill.kind}: a traceback, {end}"


@dataclass
class Interruption:
    """An interruption that waits for its moment.

    Attributes:
        run: that is interrupted.
        session: of it.
        kill: what is to happen.
        place: where everything is.
        pace: how long the parts of a session take.
    """

    run: Run
    session: Session
    kill: Kill
    place: Place
    pace: Pace

    def happens(self) -> bool:
        """Wait and interrupt; return False if the session came to its end before that, or in spite of it."""
        if self.kill.kind == BETWEEN:  # by itself
            self.session.wait()
            return self.session.status != 0
        if self.session.wait(self._moment()):
            return False
        self.kill.hit, self.kill.step = self.run.note()
        return self._act()

    def _moment(self) -> Callable[[], bool]:
        """Return a function that says whether the moment has come."""
        wanted = self.kill.kind
        aim = TRAINING if wanted == "loader worker" and self.kill.aim == START else self.kill.aim
        if wanted in (INSIDE, "metric process"):
            aim = TRAINING if wanted == INSIDE else VALIDATION  # training writes little but checkpoints
        # a step is short, and what was measured are all between two validations
        seconds = self.pace.seconds.get(aim, 0.0) / (VALIDATE if aim == TRAINING else 1)
        begun: float | None = None
        first: int | None = None
        ahead = 1 + int(self.kill.choice * 2 * INTERVAL)

        def come() -> bool:
            nonlocal begun, first
            phase, step = self.run.note()
            if wanted == INSIDE and self.kill.choice >= AT_RANDOM:  # the next checkpoint comes before a validation
                return phase == TRAINING and step % VALIDATE < INTERVAL
            if aim == WRITING:
                return self._writes_checkpoint()
            if wanted in ("loader worker", "metric process", "rank") and not helpers(self.session.pid, wanted):
                return False
            if phase != START and first is None:
                first = step
            there = phase == aim or (phase == CLOSING and begun is None and aim != CLOSING)
            if aim == START:
                there = True
            if aim == TRAINING and first is not None:
                there = step >= min(first + ahead, STEPS)
            if there and begun is None:
                begun = time.monotonic()
            # later parts of a session are as good: what matters is that the moment is random
            return begun is not None and time.monotonic() - begun >= self.kill.share * seconds

        return come

    def _writes_checkpoint(self) -> bool:
        path = self.run.path
        with suppress(OSError):
            return path is not None and any(map(checks.HIDDEN.fullmatch, os.listdir(RunDir(path).checkpoints)))
        return False

    def _act(self) -> bool:
        kind, choice, pid = self.kill.kind, self.kill.choice, self.session.pid
        if kind == "SIGKILL":
            return send(pid, signal.SIGKILL)
        elif kind == INSIDE or kind == "file too large":
            limit = self._size()
            with suppress(ProcessLookupError):
                resource.prlimit(pid, resource.RLIMIT_FSIZE, (limit, limit))
            self.session.wait()
            return self.session.status != 0
        elif kind == "SIGTERM":
            return send(pid, signal.SIGTERM, group=choice < 0.5)
        elif kind == "SIGINT twice":
            sent = send(pid, signal.SIGINT, group=True)
            time.sleep(0.3 * choice)
            send(pid, signal.SIGINT, group=True)
            return sent
        elif kind == "full disk":
            self.place.fill(int(choice * CHECKPOINT))
            try:
                self.session.wait()
            finally:
                self.place.filler.unlink()
            return self.session.status != 0
        elif kind == "read-only folder":
            with self._read_only():
                self.session.wait()
            return self.session.status != 0
        else:
            processes = helpers(pid, kind)
            if kind == "rank" and choice < 0.5:
                processes = [pid]
            if not processes:
                return False
            return send(processes[0], signal.SIGKILL)

    def _size(self) -> int:
        """Return how large a file may become: mostly more than the events have, so that it is a checkpoint."""
        events = [file.stat() for file in (self.run.path or self.run.root).glob("events.out.tfevents.*")]
        latest = max(events, key=lambda status: status.st_mtime, default=None)
        floor = 0 if latest is None or latest.st_size > CHECKPOINT or self.kill.choice < AT_RANDOM else latest.st_size
        return max(LEAST, floor + int(self.kill.choice * (CHECKPOINT - floor)))

    @contextmanager
    def _read_only(self) -> Iterator[None]:
        path = self.run.path or self.run.root
        folders = [path, *(folder for folder in path.rglob("*") if folder.is_dir())]
        for folder in folders:
            folder.chmod(0o555)
        try:
            yield
        finally:
            for folder in folders:
                folder.chmod(0o755)


# ---------------------------------------------------------------- the whole


def make_speech(folder: Path) -> None:
    """Make a corpus of a few seconds."""
    from bcfusion.data.corpora.demo import DemoCorpus

    corpus = DemoCorpus(
        cache_dir=str(folder.with_name("cache")),
        speakers={"train": 2, "valid": 1, "test": 1},
        utterances_per_speaker={"train": 2, "valid": 2, "test": 1},
        seconds=(2.5, 2.6),
    )
    corpus.rows("train")
    shutil.move(corpus.root, folder)


def uninterrupted(number: int, place: Place, sessions: Sessions, ranks: int) -> tuple[checks.Reference, Pace]:
    """Return what a run writes that nobody interrupts, and how long its parts take."""
    run, pace = Run(number, place, sessions, None, ranks), Pace()
    order = {"argv": run.argv(), "cwd": str(run.root), "output": str(run.notes / "output-0")}
    sessions.start({**order, "argv": ["--version"]}, fork=True).wait()  # everything has been imported now
    session = sessions.start(order, fork=True)
    try:
        pace.measure(run, session)
    finally:
        session.end()
    if session.status != 0 or run.path is None:
        raise SystemExit(f"the run that nobody interrupts failed with {session.status}: {run.output()}")
    return checks.Reference.read(run.path, INTERVAL), pace


@dataclass
class Report:
    """What happened.

    Attributes:
        command: as typed.
        kills: that hit.
        problems: of whole runs, with their numbers.
        runs: number of runs that came to their end.
        notes: what could not be done here.
    """

    command: str
    kills: list[Kill] = field(default_factory=list)
    problems: list[tuple[int, str]] = field(default_factory=list)
    runs: int = 0
    notes: list[str] = field(default_factory=list)
    cpu_minutes: float = 0.0

    def broken(self) -> list[str]:
        found = [
            f"run {kill.run}, {kill.kind} at step {kill.step} in {kill.hit}: {problem}"
            for kill in self.kills
            for problem in kill.problems
        ]
        return found + [f"run {run}: {problem}" for run, problem in self.problems]

    def markdown(self) -> str:
        counts = Counter((kill.kind, kill.hit) for kill in self.kills)
        repeated = [max(0, kill.step - kill.saved) for kill in self.kills if kill.step >= 0]
        cells = [["kind", *PHASES, "all"]]
        for kind in SHARES:
            row = [counts[kind, phase] for phase in PHASES]
            if sum(row):
                cells.append([kind, *map(str, row), str(sum(row))])
        totals = [sum(counts[kind, phase] for kind in SHARES) for phase in PHASES]
        cells.append(["all", *map(str, totals), str(sum(totals))])
        lines = [f"| {' | '.join(row)} |" for row in cells]
        lines.insert(1, f"| --- |{' ---: |' * (len(PHASES) + 1)}")
        broken = self.broken()
        lines += [
            "",
            f"{len(self.kills)} interruptions of {self.runs} runs of {STEPS} steps, each resumed until it ended; "
            f"{self.cpu_minutes:.0f} minutes of CPU time.",
            f"Steps repeated after an interruption: at most {max(repeated, default=0)} "
            f"(mean {sum(repeated) / max(len(repeated), 1):.1f}), with {INTERVAL} between checkpoints.",
            f"Unfinished files left by a death: {sum(kill.hidden for kill in self.kills)}; "
            "the next session removed them.",
            *self.notes,
            "",
            f"Broken: {len(broken)}" if broken else "Nothing is broken.",
            *(f"- {line}" for line in broken),
        ]
        return "\n".join(lines) + "\n"

    def write(self, out: Path) -> None:
        record = {
            "command": self.command,
            "bcfusion": __version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
            "runs": self.runs,
            "kills": [asdict(kill) for kill in self.kills],
            "notes": self.notes,
            "broken": self.broken(),
        }
        write_text(out / "chaos.json", json.dumps(record, indent=1) + "\n")
        write_text(out / "chaos.md", self.markdown())


def interrupt_runs(
    kills: Sequence[Kill], place: Place, sessions: Sessions, report: Report, plain: bool, dice: random.Random
) -> None:
    """Interrupt runs until the interruptions are used up, and let the last one of each number of processes end."""
    number = 0
    for ranks in (1, 2):
        left = deque(kill for kill in kills if (kill.kind == "rank") == (ranks == 2))
        if not left:
            continue
        reference, pace = uninterrupted(number, place, sessions, ranks)
        while left:
            number += 1
            run = Run(number, place, sessions, reference, ranks, plain, pace)
            try:
                interrupt(run, left, report, dice)
            except Broken as broken:
                report.problems += [(number, problem) for problem in broken.problems]
            except Hangs as hangs:
                report.problems.append((number, str(hangs)))
            except BaseException:  # this script is stopped
                run.kill()
                raise
            report.problems += [(number, problem) for problem in run.end()]
            broken = {run for run, _ in report.problems} | {kill.run for kill in report.kills if kill.problems}
            if number in broken:
                shutil.copytree(run.root, run.notes / "run")
            else:
                shutil.rmtree(run.notes)
            shutil.rmtree(run.root)
            report.write(place.out)
        number += 1


def interrupt(run: Run, left: deque[Kill], report: Report, dice: random.Random) -> None:
    """Interrupt and resume one run until it ends, or is broken."""
    while not run.done:
        kill = left[0] if left else None
        fork = dice.random() >= 0.05
        if run.session(kill, fork):
            kill = left.popleft()
            report.kills.append(kill)
            print(
                f"{len(report.kills):>4} run {run.number} {kill.kind}: {kill.hit}, step {kill.step}, saved {kill.saved}"
                + "".join(f"\n     BROKEN: {problem}" for problem in kill.problems),
                flush=True,
            )
            if kill.problems:
                return
        elif kill is not None:  # the session was over before that: another moment
            left[0] = Kill(kill.kind, dice.choice(list(AIMS)), dice.random(), dice.random())
    report.runs += 1


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="of the report; it must not exist")
    parser.add_argument("--kills", type=int, default=100, metavar="N", help="number of interruptions; default: 100")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of all that is random; default: 0")
    parser.add_argument("--kinds", default=",".join(SHARES), help="some of them, separated by commas")
    parser.add_argument("--plain-writes", action="store_true", help="write files plainly: the checks have to fail")
    options = parser.parse_args(arguments)
    kinds = options.kinds.split(",")
    if unknown := set(kinds) - SHARES.keys():
        parser.error(f"--kinds: there is no {', '.join(sorted(unknown))}; there are {', '.join(SHARES)}")
    out = options.out.absolute()
    out.mkdir(parents=True)
    torch.set_num_threads(1)
    dice = random.Random(options.seed)
    report = Report(" ".join(["python", "scripts/chaos.py", *arguments]))
    make_speech(out / "speech")
    here = str(Path(__file__).parent)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([here, *filter(None, [os.environ.get("PYTHONPATH")])])}
    sessions = Sessions(environment)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    with small_disk(out) as place:
        if not place.small and "full disk" in kinds:
            report.notes.append("No disk could be mounted: a limit of the size of files took the place of a full one.")
        kills = deal(kinds, options.kills, dice)
        for kill in kills:
            if kill.kind == "full disk" and not place.small:
                kill.kind = "file too large"
        try:
            interrupt_runs(kills, place, sessions, report, options.plain_writes, dice)
        finally:  # of what was done, if it is stopped
            sessions.close()
            usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
            report.cpu_minutes = sum(one.ru_utime + one.ru_stime for one in usage) / 60
            report.write(out)
            print(report.markdown())
    return 1 if report.broken() else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
