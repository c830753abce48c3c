"""Keep bcfusion under load for long, and judge what grows: memory, handles, threads, processes, time of a frame.

    python scripts/soak.py --out results                       an hour of training, two hours of sound, 500 clients
    python scripts/soak.py --out results --minutes 10 --hours 0.5
    python scripts/soak.py --out results --only streaming silence

The parts, one after the other: `training` with a validation every 50 steps, workers of the loader, scoring processes
and TensorBoard; `streaming` of a sound that repeats itself through the fastest causal network; `silence` after speech
in all causal networks and shipped models; `serving` of clients that come and go. What they find is written to soak.json
and soak.md in the folder --out. The status is 1 if a bound is broken. Linux only: it reads /proc. CPU time is measured,
but a busy machine makes that noisy, too.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

os.environ.setdefault("GOMP_SPINCOUNT", "0")  # as the command line does: spinning threads distort every timing

from soaking.judge import Bounds, Verdict

from bcfusion.files import write_text

PARTS = ("training", "streaming", "silence", "serving")
SHIPPED = ("throat_causal", "bandwidth_8k", "fusion")

Found = tuple[list[Verdict], dict[str, float]]


def parts(
    folder: Path, minutes: float, hours: float, connections: int, bounds: Bounds
) -> dict[str, Callable[[], Found]]:
    """Return what loads and judges, by name."""

    def streaming() -> Found:
        from soaking.streams import streaming

        return streaming(hours, bounds)

    def silence() -> Found:
        from soaking.streams import causal_networks, silence

        return silence([*causal_networks(), *causal_models()])

    def training() -> Found:
        from soaking.training import training

        return training(folder, minutes, bounds)

    def serving() -> Found:
        from soaking.server import serving

        return serving(folder, connections, bounds)

    return {"training": training, "streaming": streaming, "silence": silence, "serving": serving}


def causal_models() -> list[str]:
    """Return the shipped models that stream."""
    from bcfusion.run.bundle import load_generator

    return [name for name in SHIPPED if getattr(load_generator(name), "causal", False)]


def page(found: Mapping[str, Found], seconds: Mapping[str, float]) -> str:
    """Return a Markdown page: of each part its verdicts, broken bounds in bold, and its figures."""
    lines = ["# Long load", "", f"{platform.platform()}, {len(os.sched_getaffinity(0))} cores", ""]
    for name, (verdicts, figures) in found.items():
        lines += [f"## {name}", "", f"{seconds[name] / 60:.1f} minutes.", ""]
        lines += ["| what | value | at most | |", "| --- | ---: | ---: | --- |"]
        for each in verdicts:
            answer = "holds" if each.holds else "**broken**"
            lines.append(
                f"| {each.what} | {shown(each.value, each.unit)} | {shown(each.bound, each.unit)} | {answer} |"
            )
        lines += ["", *(f"- {what}: {value:g}" for what, value in figures.items()), ""]
    return "\n".join(lines)


def shown(value: float, unit: str) -> str:
    """Return a value with three digits; shares in percent."""
    return f"{100 * value:.2f} %" if unit == "%" else f"{value:.3g}"


def write(out: Path, found: Mapping[str, Found], seconds: Mapping[str, float]) -> None:
    """Write what was found until now, as JSON and as a page."""
    results = {
        name: {
            "verdicts": [{**vars(each), "holds": each.holds} for each in verdicts],
            "figures": figures,
            "seconds": seconds[name],
        }
        for name, (verdicts, figures) in found.items()
    }
    write_text(out / "soak.json", json.dumps(results, indent=2) + "\n")
    write_text(out / "soak.md", page(found, seconds))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of soak.json and soak.md")
    parser.add_argument("--minutes", type=float, default=60.0, help="of training; default: 60")
    parser.add_argument("--hours", type=float, default=2.0, help="of sound; default: 2")
    parser.add_argument("--connections", type=int, default=500, help="clients of the server; default: 500")
    parser.add_argument("--memory", type=float, default=Bounds.memory, help="share by which memory may grow; 0.02")
    parser.add_argument(
        "--only", nargs="+", choices=PARTS, default=PARTS, metavar="PART", help=f"of {', '.join(PARTS)}"
    )
    options = parser.parse_args(arguments)
    found: dict[str, Found] = {}
    seconds: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        acts = parts(Path(folder), options.minutes, options.hours, options.connections, Bounds(memory=options.memory))
        for name in options.only:
            begun = time.monotonic()
            found[name] = acts[name]()
            seconds[name] = time.monotonic() - begun
            for each in found[name][0]:
                if not each.holds:
                    print(f"soak: {name}: {each.what}: {each.value:.4g} is above {each.bound:.4g}", file=sys.stderr)
            print(f"{name}: {len(found[name][0])} bounds, {seconds[name] / 60:.1f} minutes", flush=True)
            write(options.out, found, seconds)  # after each part: the next one may take an hour and fail
    print((options.out / "soak.md").read_text())
    return int(any(not each.holds for verdicts, _ in found.values() for each in verdicts))


if __name__ == "__main__":
    sys.exit(main())
