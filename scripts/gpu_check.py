"""Measure on a GPU what can only be measured there: tests, steps, memory, loader, and a short training.

    python scripts/gpu_check.py --out DIR                     # at most 9 minutes on one GPU, with the demo corpus
    python scripts/gpu_check.py --out DIR --corpus SPEECH     # SPEECH/{train,valid,test}/**/<speaker>/*.flac
    python scripts/gpu_check.py --out DIR --rehearse          # the same on a CPU, with tiny networks: about two minutes
    python scripts/gpu_check.py --write DIR                   # put what DIR holds into docs/gpu.md

Each section runs in a process of its own, with a limit in seconds: one that crashes, hangs or runs out of memory costs
its own limit, and the others still run. DIR gets gpu.json and gpu.md, rewritten after each section, the output of
all sections in gpu_log.txt, and of the training gpu_metrics.csv and gpu_curve.png. The training at the end has all the
time that the sections before it leave. The exit status is 1 if a section failed.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from gpu_page import draw_curve, markdown, with_shares, write_docs

ROOT = Path(__file__).resolve().parents[1]

# Seconds of the sections before the training, of 9 minutes; with other --minutes in proportion.
MINUTES = 9.0
REHEARSAL_MINUTES = 30.0  # it takes about two on an idle CPU; limits are for those that are busy
LIMITS = {
    "machine": 40.0,
    "tests": 60.0,
    "step_eben": 45.0,
    "step_seanet": 45.0,
    "step_dccrn": 45.0,
    "step_bsrnn": 45.0,
    "loader": 45.0,
    "compiled_eben": 130.0,
}
RESERVE = 10.0  # seconds for the page, and for processes that are killed
LEAST_TRAINING = 60.0  # seconds; a run of less would only load its data
MARGIN = 2.0  # seconds that a section keeps of its limit, to write its results


@dataclass(frozen=True)
class Section:
    """A part of the check.

    Attributes:
        name: of the section.
        limit: seconds after which its process group is killed.
        command: its process; it writes a JSON object to the last argument of the command.
    """

    name: str
    limit: float
    command: Sequence[str]


def run_section(section: Section, result: Path, log: Path) -> dict[str, Any]:
    """Run a section to its end or its limit; return its status, the reason if it is not ``ok``, and what it has saved.

    Args:
        section: its command gets ``result`` as its last argument.
        result: where it saves a JSON object, as often as it likes; ``problem`` in it says why it failed.
        log: its output is appended.
    """
    began = time.monotonic()
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    with log.open("ab") as output:
        output.write(f"==== {section.name}\n".encode())
        output.flush()
        process = subprocess.Popen(
            [*section.command, str(result)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            process_group=0,  # so that its own processes end with it
        )
        try:
            status: int | None = process.wait(section.limit)
        except subprocess.TimeoutExpired:
            status = None
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    saved = _read(result)
    problem = saved.pop("problem", None)
    report = {"status": "ok", "reason": None, "limit": section.limit, "result": saved}
    if status is None:
        report |= {"status": "over its limit", "reason": f"it did not end within {section.limit:.0f} s"}
    elif status < 0:
        report |= {"status": "failed", "reason": f"ended by {_signal_name(-status)}; {_last_line(log)}"}
    elif status:
        report |= {"status": "failed", "reason": problem or _last_line(log)}
    return report | {"seconds": round(time.monotonic() - began, 1)}


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _last_line(log: Path) -> str:
    lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return lines[-1].strip()[:300] if lines and not lines[-1].startswith("====") else "it printed nothing"


def save(report: dict[str, Any], out: Path) -> None:
    """Write report and page, each whole or not at all."""
    with_shares(report)
    files = {"gpu.json": json.dumps(report, indent=1) + "\n", "gpu.md": markdown(report)}
    for name, text in files.items():
        part = out / f".{name}.part"
        part.write_text(text, encoding="utf-8")
        part.replace(out / name)


def check(
    out: Path,
    minutes: float,
    corpus: Path | None,
    rehearsal: bool,
    command_of: Callable[[str, Path, float, float | None], Sequence[str]] | None = None,
) -> dict[str, Any]:
    """Run all sections; return the report, which ``out`` holds too.

    Args:
        out: folder of the results.
        minutes: that all of it may take.
        corpus: folder of speech; None: the demo corpus.
        rehearsal: on the CPU, with tiny networks.
        command_of: returns the command of a section for its name, the folder of temporary files, its seconds, and the
            steps per second of EBEN; None: this script's own.
    """
    began = time.monotonic()
    end = began + 60 * minutes
    out.mkdir(parents=True, exist_ok=True)
    log = out / "gpu_log.txt"
    log.write_bytes(b"")
    report: dict[str, Any] = {
        "date": time.strftime("%Y-%m-%d"),
        "rehearsal": rehearsal,
        "minutes": minutes,
        "corpus": "demo" if corpus is None else "folder",
        "sections": {},
    }

    def command(name: str, scratch: Path, seconds: float, rate: float | None) -> Sequence[str]:
        words = [sys.executable, str(Path(__file__).resolve()), "--out", str(out.resolve()), "--section", name]
        words += ["--scratch", str(scratch), "--seconds", f"{seconds:.1f}"]
        words += ["--corpus", str(corpus.resolve())] if corpus is not None else []
        words += ["--rehearse"] if rehearsal else []
        words += ["--rate", f"{rate:.4f}"] if rate is not None else []
        return [*words, "--result"]

    make = command_of or command
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        scratch = Path(folder)
        limits = [(name, limit * minutes / MINUTES) for name, limit in LIMITS.items()]
        for name, planned in [*limits, ("training", float("inf"))]:
            left = end - time.monotonic() - RESERVE * min(1.0, minutes / MINUTES)
            limit = min(planned, left)
            needed = LEAST_TRAINING if name == "training" and not rehearsal else 1.0
            if limit < needed:
                entry: dict[str, Any] = {"status": "skipped", "reason": f"{max(left, 0):.0f} s were left", "result": {}}
            else:
                words = make(name, scratch, max(limit - MARGIN, 1.0), _rate(report))
                entry = run_section(Section(name, limit, words), scratch / f"{name}.json", log)
            report["sections"][name] = entry
            report["took_seconds"] = round(time.monotonic() - began, 1)
            save(report, out)
            reason = f": {entry['reason']}" if entry["reason"] else ""
            print(f"{name:<14} {entry['status']}, {entry.get('seconds', 0):.0f} s{reason}", flush=True)
            if name == "machine" and entry["status"] == "ok" and not entry["result"].get("gpu") and not rehearsal:
                raise SystemExit("gpu_check: torch finds no GPU; --rehearse runs the same on the CPU, at tiny sizes")
    if draw_curve(report, out / "gpu_curve.png"):
        report["picture"] = "gpu_curve.png"
        save(report, out)
    return report


def _rate(report: dict[str, Any]) -> float | None:
    """Return the steps per second of EBEN at the default precision of a training."""
    measured = report["sections"].get("step_eben", {}).get("result", {}).get("precisions", {})
    value = measured.get("tf32", {}).get("steps_per_second")
    return None if value is None else float(value)


def in_section(arguments: argparse.Namespace) -> int:
    """Run one section in this process; its result goes to a file as it grows."""
    began = time.monotonic()
    content: dict[str, Any] = {}

    def keep(result: dict[str, Any]) -> None:
        content.update(result)
        part = arguments.result.with_suffix(".part")
        part.write_text(json.dumps(content), encoding="utf-8")
        part.replace(arguments.result)

    try:
        import gpu_sections

        setting = gpu_sections.Setting(
            seconds=arguments.seconds,
            rehearsal=arguments.rehearse,
            corpus=None if arguments.corpus is None else str(arguments.corpus),
            scratch=arguments.scratch,
            out=arguments.out,
            began=began,
            steps_per_second=arguments.rate,
        )
        keep(gpu_sections.SECTIONS[arguments.section](setting, keep))  # type: ignore[arg-type]
    except Exception as error:
        import traceback

        traceback.print_exc()
        causes = [error] if error.__cause__ is None else [error, error.__cause__]
        keep({"problem": "; ".join(f"{type(one).__name__}: {first_line(one)}" for one in causes)[:300]})
        return 1
    return 0


def first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), "no message")


def _end(signum: int, frame: FrameType | None) -> None:
    """End by an exception, so that the process of the present section is killed too."""
    raise SystemExit(128 + signum)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, metavar="DIR", help="where the results go")
    parser.add_argument("--corpus", type=Path, metavar="FOLDER", help="speech with train/ and valid/ (default: demo)")
    parser.add_argument("--minutes", type=float, help="that all of it may take (default: 9; to rehearse: 30)")
    parser.add_argument("--rehearse", action="store_true", help="on the CPU, with tiny networks and sizes")
    parser.add_argument("--write", type=Path, metavar="DIR", help="put the results of a check into docs/gpu.md")
    for option, kind in (("section", str), ("result", Path), ("scratch", Path), ("seconds", float), ("rate", float)):
        parser.add_argument(f"--{option}", type=kind, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.write is not None:
        write_docs(arguments.write, ROOT / "docs")
        return 0
    if arguments.out is None:
        parser.error("--out DIR says where the results go")
    if arguments.corpus is not None and not (arguments.corpus / "train").is_dir():
        parser.error(f"--corpus: {arguments.corpus} has no folder train/")
    if arguments.minutes is None:
        arguments.minutes = REHEARSAL_MINUTES if arguments.rehearse else MINUTES
    if not arguments.minutes > 0:
        parser.error(f"--minutes: {arguments.minutes:g} must be above 0")
    if arguments.section is not None:
        return in_section(arguments)
    signal.signal(signal.SIGTERM, _end)
    report = check(arguments.out, arguments.minutes, arguments.corpus, arguments.rehearse)
    print(f"{arguments.out / 'gpu.md'}, {arguments.out / 'gpu.json'}")
    return int(any(entry["status"] not in ("ok", "skipped") for entry in report["sections"].values()))


if __name__ == "__main__":
    sys.exit(main())
