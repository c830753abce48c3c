"""How ``bcfusion enhance`` works through its recordings: a line for each, a row of the report, what went wrong."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from bcfusion.commands import USER_ERROR
from bcfusion.commands.enhance_plan import EXISTS, Fault, Job, Plan
from bcfusion.commands.enhance_report import EXISTING, FAILED, RESTORED, ReportFile
from bcfusion.commands.shared.restored import SHORTEST_CUT, peak_warning
from bcfusion.errors import AudioError, BcfusionError, WriteError, printable

if TYPE_CHECKING:
    from bcfusion.inference.enhance import Enhanced

__all__ = ["Restore", "show", "work"]

#: computes recordings together, and gives the result of each, in their order, or why there is none
Restore = Callable[[Sequence[Job]], Iterator["Enhanced | BcfusionError | OSError"]]


def show(plan: Plan, arguments: argparse.Namespace) -> int:
    """Print what would be read and written, and return the exit status."""
    for job in plan.jobs:
        replaced = "  (replaced)" if os.path.exists(job.target) else ""
        print(printable(f"{' + '.join(map(str, job.sources))} -> {job.target}{replaced}"))
    print(f"{_count(len(plan.jobs))} would be written to {arguments.output}")
    return _left_out(plan, "would not be restored")


@dataclass
class _Rows:
    """The report, if one is wanted.

    Attributes:
        file: the report.
        always: what all its rows have in common.
    """

    file: ReportFile | None
    always: dict[str, Any] = field(default_factory=dict)

    def restored(self, result: Enhanced, factor: float, protection: str) -> None:
        if self.file is not None:
            self.file.add(
                **self.always,
                sources=[os.fspath(source) for source in result.sources],
                target=os.fspath(result.target),
                status=RESTORED,
                seconds=round(result.seconds, 6),
                rate=result.rate,
                peak=round(result.peak, 6),
                overs=result.overs,
                protection=protection,
                gain=round(result.gain, 6),
                real_time_factor=round(factor, 6),
                joined=result.joined,
                remarks=list(result.remarks),
            )

    def refused(self, fault: Fault) -> None:
        """Add a row about a recording that is not restored; none if the report already has a row for its output."""
        if self.file is None or (fault.exists and fault.target is not None and self.file.holds(fault.target)):
            return
        self.file.add(
            **self.always,
            sources=[os.fspath(source) for source in fault.sources],
            target=None if fault.target is None else os.fspath(fault.target),
            status=EXISTING if fault.exists else FAILED,
            error=None if fault.exists else fault.reason,
        )


@dataclass
class _Progress:
    done: list[Enhanced] = field(default_factory=list)
    tried: int = 0


def work(
    plan: Plan,
    batches: Sequence[Sequence[Job]],
    restore: Restore,
    protection: str,
    row: dict[str, Any],
    arguments: argparse.Namespace,
) -> int:
    """Restore the recordings, print a line for each and return the exit status.

    Args:
        plan: what cannot be restored is noted in it.
        batches: its jobs, those together that are computed together.
        restore: computes and writes them.
        protection: what is done to samples beyond full scale.
        row: what all rows of the report have in common.
        arguments: the parsed command line.
    """
    report = None if arguments.report is None else ReportFile(arguments.report, arguments.overwrite)
    rows, progress = _Rows(report, row), _Progress()
    started = time.perf_counter()
    try:
        for fault in plan.faults:
            rows.refused(fault)
        for jobs in batches:
            if not _restore(plan, jobs, restore, protection, rows, progress, arguments):
                left = len(plan.jobs) - progress.tried
                if left:
                    plan.leave_out(f"{_count(left)} after it: not tried, since nothing more can be written there", left)
                break
    finally:
        if report is not None:
            report.close()
    took = time.perf_counter() - started
    done = progress.done
    if done:
        seconds = sum(result.seconds for result in done)
        print(
            f"{_count(len(done))}, {seconds:.1f} s of audio, real-time factor {took / seconds:.3f}, "
            f"in {arguments.output}"
        )
    if cut := [result.cut for result in done if result.cut > SHORTEST_CUT]:
        print(
            f"the sensors of {_count(len(cut))} differ in length, by up to {1e3 * max(cut):.1f} ms; "
            "their common part was restored"
        )
    if faded := sum(result.joined == "cross-faded" for result in done):
        print(
            f"{_count(faded)} longer than a chunk of {arguments.chunk:g} s: the network needs the whole of a file, and "
            "its chunks were cross-faded, which comes close to one pass; a larger --chunk takes more memory"
        )
    return _left_out(plan, "not restored")


def _restore(
    plan: Plan,
    jobs: Sequence[Job],
    restore: Restore,
    protection: str,
    rows: _Rows,
    progress: _Progress,
    arguments: argparse.Namespace,
) -> bool:
    """Restore recordings that are computed together; return whether others can still be written."""
    begun = time.perf_counter()
    wanted = [job for job in jobs if arguments.overwrite or not os.path.exists(job.target)]
    alone = len(jobs) == 1
    if alone:
        print(_title(plan, jobs[0], progress.tried + 1), end="", flush=True)
    results = iter(restore(wanted)) if wanted else iter(())
    written: list[Enhanced] = []
    writable = True
    for job in jobs:
        progress.tried += 1
        if job in wanted:
            result = next(results)
        else:  # written since the command was given
            result = AudioError(f"{job.target} {EXISTS}")
        if not alone:
            print(_title(plan, job, progress.tried), end="")
        if isinstance(result, Exception):
            print("  FAILED", flush=True)
            plan.leave_out(str(result))
            rows.refused(Fault(job.sources, str(result), job.target, exists=job not in wanted))
            cause = result.__cause__
            if isinstance(cause, WriteError) and cause.nothing_fits:
                writable = False
                break
            continue
        written.append(result)
        took = f" in {time.perf_counter() - begun:.1f} s" if alone else ""
        print(f"  {result.seconds:.1f} s of audio{took}", flush=True)
        _remark(result, protection)
    took_all = time.perf_counter() - begun
    seconds = sum(result.seconds for result in written)
    for result in written:
        rows.restored(result, took_all / seconds, protection)
    progress.done += written
    return writable


def _remark(result: Enhanced, protection: str) -> None:
    for remark in result.remarks:
        print(printable(f"note: {remark}"))
    if result.overs:
        warning = peak_warning(result.overs, result.peak, result.gain, protection, result.target, "--subtype FLOAT")
        print(printable(warning))


def _title(plan: Plan, job: Job, number: int) -> str:
    return printable(f"[{number}/{len(plan.jobs)}] {job.sources[0]} -> {job.target}")


def _left_out(plan: Plan, what: str) -> int:
    if plan.problems:
        print(f"{plan.left_out} {what}:", file=sys.stderr)
        for problem in plan.problems:
            print(printable(f"  {problem}", keep="\n"), file=sys.stderr)
    return USER_ERROR if plan.problems else 0


def _count(files: int) -> str:
    return f"{files} file{'s' * (files != 1)}"
