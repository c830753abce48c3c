"""Measure memory and CPU time of prepare, inspect and enhance for one long recording: a Markdown table.

    python scripts/long_files.py --minutes 600                  # ten hours, as in docs/reliability.md
    python scripts/long_files.py --minutes 10 40                # does memory grow with the length?
    python scripts/long_files.py --generator band_gain_causal   # another network than the identity

The recording is a pair of body and air, FLAC at 8 kHz: silence with a burst of noise every minute, so that ten hours
take some megabytes. Each verb runs in a process of its own, which reports the peak of its resident set and its CPU time
itself, processes that it starts included. The output must have the length of the input.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
from memory_enhance import untrained

from bcfusion.commands.shared.arguments import positive_number

RATE = 8000
VERBS = ("prepare", "inspect", "enhance")
CHILD = """
import json, os, pathlib, re, resource, sys
from bcfusion.cli import main
status = main(sys.argv[2:])
peak = int(re.search(r"VmHWM:\\s*(\\d+) kB", pathlib.Path("/proc/self/status").read_text())[1])
peak = max(peak, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
pathlib.Path(sys.argv[1]).write_text(json.dumps([peak * 1.024e-3, sum(os.times()[:4])]))
sys.exit(status)
"""


@dataclass(frozen=True)
class Measured:
    """One verb: peak of the resident set in MB, and CPU time in seconds."""

    megabytes: float
    seconds: float


def recording(path: Path, minutes: float, lag: int = 0) -> int:
    """Write a FLAC of silence with a second of noise in each minute; return its samples.

    Args:
        path: the file.
        minutes: its length.
        lag: samples by which the noise comes later.
    """
    rng = np.random.default_rng(0)
    samples = round(minutes * 60 * RATE)
    path.parent.mkdir(parents=True, exist_ok=True)
    with soundfile.SoundFile(path, "w", RATE, 1, "PCM_16", format="FLAC") as sound:
        for start in range(0, samples, 60 * RATE):
            block = np.zeros(min(60 * RATE, samples - start), np.float32)
            burst = (0.1 * rng.standard_normal(RATE)).clip(-1, 1)
            part = block[RATE + lag : 2 * RATE + lag]
            part[:] = burst[: len(part)]
            sound.write(block)
    return samples


def run(arguments: list[str], folder: Path) -> Measured:
    """Run a verb in a process of its own."""
    report = folder / "measured.json"
    command = [sys.executable, "-c", CHILD, str(report), *arguments]
    finished = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False)
    if finished.returncode not in (0, 1):  # 1: inspect has found something
        raise SystemExit(f"bcfusion {' '.join(arguments)}: status {finished.returncode}\n{finished.stderr}")
    return Measured(*json.loads(report.read_text()))


def measure(minutes: float, model: str) -> dict[str, Measured]:
    """Prepare, inspect and restore one recording; return what each verb took.

    Raises:
        SystemExit: a verb failed, or the output has another length than the input.
    """
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        samples = recording(folder / "rec" / "air" / "a.flac", minutes)
        recording(folder / "rec" / "body" / "a.flac", minutes, lag=20)
        manifest, output = folder / "pairs.jsonl", folder / "out"
        found = {
            "prepare": run(
                [
                    "prepare",
                    "pairs",
                    "--root",
                    str(folder / "rec"),
                    "--out",
                    str(manifest),
                    "--measure",
                    "--splits",
                    "train",
                ],
                folder,
            ),
            "inspect": run(["inspect", str(manifest)], folder),
            "enhance": run(
                ["enhance", model, str(folder / "rec" / "body"), "--output", str(output), "--format", "flac"], folder
            ),
        }
        (restored,) = output.rglob("*.flac")
        if soundfile.info(restored).frames != samples:
            raise SystemExit(f"{minutes:g} min: the output has another length than the input")
        return found


def table(rows: dict[float, dict[str, Measured]]) -> str:
    """Return a Markdown table with one row per length."""
    lines = [f"| recording | {' | '.join(f'{verb}: peak RSS, MB | CPU, s' for verb in VERBS)} |"]
    lines.append("| --- |" + " ---: | ---: |" * len(VERBS))
    for minutes, found in rows.items():
        cells = " | ".join(f"{found[verb].megabytes:.0f} | {found[verb].seconds:.1f}" for verb in VERBS)
        lines.append(f"| {minutes:g} min | {cells} |")
    return "\n".join(lines)


def main(argv: list[str]) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", nargs="+", type=positive_number, default=[10.0, 40.0], help="of the recordings")
    parser.add_argument("--generator", default="identity", help="entry of conf/generator; untrained")
    arguments = parser.parse_args(argv)
    rows: dict[float, dict[str, Measured]] = {}
    with tempfile.TemporaryDirectory() as folder:
        model = str(untrained(arguments.generator, Path(folder), RATE))
        for minutes in arguments.minutes:
            rows[minutes] = measure(minutes, model)
            print(f"{minutes:g} min: {rows[minutes]}", file=sys.stderr)
    print(table(rows))


if __name__ == "__main__":
    main(sys.argv[1:])
