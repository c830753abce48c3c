"""Measure streaming: computing per frame, memory and size of causal networks, in PyTorch and in onnxruntime.

python scripts/bench_stream.py                                 all causal entries of conf/generator, at their own sizes
python scripts/bench_stream.py seanet_streaming dpcrn          these
python scripts/bench_stream.py throat_causal                   a model by its name, a run or a bundle
python scripts/bench_stream.py --write docs/streaming.md       put the table into the page, too

Each measurement is a process of its own with one thread, whose CPU time is taken: other programs lengthen it by what
they take from the caches only. What has been measured is kept in a JSON file, and a second call measures what is
missing; --again measures anew. Entries of conf/generator have random weights, which take as long as trained ones. The
memory is the peak of a process that does nothing but step: for onnxruntime it loads neither torch nor bcfusion's
networks.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

os.environ.setdefault("GOMP_SPINCOUNT", "0")  # as the command line does: spinning threads distort every timing

import numpy as np

from bcfusion.files import write_text

if TYPE_CHECKING:
    from torch import nn

    from bcfusion.inference.stepping import Stepper

BEGIN, END = "<!-- streams: scripts/bench_stream.py --write docs/streaming.md -->", "<!-- /streams -->"
HEADER = (
    "| network | frame | latency | state | PyTorch | onnxruntime | int8 | file | int8 | memory | PyTorch | sherpa |",
    "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
)
KINDS = ("torch", "fp32", "int8")
WARM_UP = 20  # frames


def entries() -> list[str]:
    """Return the names of conf/generator."""
    from bcfusion.configuration.paths import conf_dir

    return sorted(path.stem for path in (conf_dir() / "generator").glob("*.yaml"))


def network(name: str) -> nn.Module:
    """Return an entry of conf/generator with random weights, or a trained model."""
    import networks_table

    from bcfusion.nn.conv import remove_weight_norm
    from bcfusion.run.bundle import load_generator

    model = remove_weight_norm(networks_table.network(name)) if name in entries() else load_generator(name)
    return model.eval()


def export(name: str, folder: Path) -> dict[str, Any]:
    """Write the ONNX files of a network to a folder; return what does not have to be measured."""
    from bcfusion.export.metadata import parse_metadata
    from bcfusion.export.onnx_export import export_step, stamp
    from bcfusion.export.precision import Weights, in_int8

    model = network(name)
    if not getattr(model, "causal", False):
        return {"causal": False}
    step = export_step(model)
    small = in_int8(step, Weights(model))
    stamp(small, parse_metadata({each.key: each.value for each in step.metadata_props}, name))
    for kind, content in (("fp32", step), ("int8", small)):
        (folder / f"{kind}.onnx").write_bytes(content.SerializeToString())
    metadata = parse_metadata({each.key: each.value for each in step.metadata_props}, name)
    return {
        "causal": True,
        "sample_rate": metadata.sample_rate,
        "frame": metadata.frame,
        "latency": metadata.lookahead + metadata.frame,
        "state": sum(int(np.prod(state.shape)) for state in metadata.states),
        "sensors": len(metadata.sensors),
        "sherpa": sherpa_difference(model, folder),
        "bytes": {kind: (folder / f"{kind}.onnx").stat().st_size for kind in ("fp32", "int8")},
    }


def sherpa_difference(model: nn.Module, folder: Path) -> float | str:
    """Return the largest difference between the online denoiser of sherpa-onnx and our stream, or why there is none."""
    from bcfusion.errors import BcfusionError, first_line
    from bcfusion.export.sherpa import export_sherpa
    from bcfusion.inference.stepping import TorchStepper, stream_signal

    try:
        import sherpa_onnx
    except ImportError:
        return "not installed"
    try:
        (folder / "sherpa.onnx").write_bytes(export_sherpa(model).SerializeToString())
    except BcfusionError as error:
        return f"refused: {first_line(error)}"
    gtcrn = sherpa_onnx.OfflineSpeechDenoiserGtcrnModelConfig(str(folder / "sherpa.onnx"))
    settings = sherpa_onnx.OfflineSpeechDenoiserModelConfig(gtcrn=gtcrn, num_threads=1)
    denoiser = sherpa_onnx.OnlineSpeechDenoiser(sherpa_onnx.OnlineSpeechDenoiserConfig(model=settings))
    stepper = TorchStepper(model)
    noise = (0.07 * np.random.default_rng(0).standard_normal(2 * stepper.sample_rate)).astype(np.float32)
    heard = np.asarray(denoiser(noise, stepper.sample_rate).samples, np.float32)
    wanted = stream_signal(stepper, noise[None])
    stepper.close()
    late = stepper.lookahead - denoiser.frame_shift_in_samples  # the first frame is left out
    heard, wanted = heard[max(late, 0) :], wanted[max(-late, 0) :]
    both = min(len(heard), len(wanted))
    return float(np.abs(heard[:both] - wanted[:both]).max())


def stepper_of(name: str, kind: str, folder: Path) -> Stepper:
    """Return what is measured."""
    if kind != "torch":
        from bcfusion.export.onnx_stepper import OnnxStepper

        return OnnxStepper(folder / f"{kind}.onnx")
    import torch

    from bcfusion.inference.stepping import TorchStepper

    torch.set_num_threads(1)
    return TorchStepper(network(name))


def measure(stepper: Stepper, seconds: float) -> dict[str, float]:
    """Return median and 99th percentile of the CPU time of a frame in ms, and the peak of the memory in MB."""
    frames = max(100, round(seconds * stepper.sample_rate / stepper.frame))
    rng = np.random.default_rng(0)
    times = []
    for number in range(WARM_UP + frames):
        chunk = (0.07 * rng.standard_normal((len(stepper.sensors), stepper.frame))).astype(np.float32)
        begun = time.thread_time()
        stepper.step(chunk)
        if number >= WARM_UP:
            times.append(1000 * (time.thread_time() - begun))
    tail = float(np.percentile(times, 99))
    return {"median_ms": statistics.median(times), "p99_ms": tail, "memory_mb": peak_memory(), "frames": frames}


def peak_memory() -> float:
    """Return the peak of this process in MB."""
    status = Path("/proc/self/status")
    if status.is_file():  # what getrusage gives on Linux includes the process that started this one
        [line] = [line for line in status.read_text().splitlines() if line.startswith("VmHWM")]
        return int(line.split()[1]) * 1024 / 1e6
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1e6 if sys.platform == "darwin" else 1e3)


def in_process(*arguments: str) -> dict[str, Any]:
    """Run this script in a process with one thread and return what it prints."""
    variables = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, __file__, *arguments]
    done = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        return {"failed": reason}
    result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return result


def attempted(work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return a result, or the reason why there is none, in one line."""
    from bcfusion.errors import BcfusionError, first_line

    try:
        return work()
    except BcfusionError as error:
        return {"failed": first_line(error)}


def bench(name: str, seconds: float) -> dict[str, Any]:
    """Measure one network in all kinds."""
    with tempfile.TemporaryDirectory() as folder:
        result = in_process("--export", folder, name)
        if result.get("causal"):
            for kind in KINDS:
                result[kind] = in_process("--measure", kind, folder, "--seconds", str(seconds), name)
    return result


def complete(found: dict[str, Any]) -> bool:
    """Return whether nothing of a network has to be measured again."""
    return "failed" not in found and not any("failed" in found.get(kind, {}) for kind in KINDS)


def sherpa_cell(note: float | str) -> str:
    """Return the cell of sherpa-onnx: a difference, or why there is none in a word; :func:`remarks` has the reason."""
    return note.partition(":")[0] if isinstance(note, str) else f"{note:.0e}"


def row(name: str, found: dict[str, Any]) -> str:
    """Return the row of the table."""

    def took(kind: str) -> str:
        each = found[kind]
        return "fails" if "failed" in each else f"{each['median_ms']:.2f} ({each['p99_ms']:.2f}) ms"

    def memory(kind: str) -> str:
        each = found[kind]
        return "" if "failed" in each else f"{each['memory_mb']:.0f} MB"

    rate = found["sample_rate"] / 1000
    cells = [
        f"`{name}`",
        f"{found['frame'] / rate:.2f} ms",
        f"{found['latency'] / rate:.2f} ms",
        f"{found['state']}",
        *(took(kind) for kind in KINDS),
        f"{found['bytes']['fp32'] / 1e6:.2f} MB",
        f"{found['bytes']['int8'] / 1e6:.2f} MB",
        memory("fp32"),
        memory("torch"),
        sherpa_cell(found["sherpa"]),
    ]
    return "| " + " | ".join(cells) + " |"


def table(results: dict[str, Any]) -> list[str]:
    """Return the lines of the table: the causal networks that could be exported."""
    return [*HEADER, *(row(name, found) for name, found in sorted(results.items()) if found.get("causal"))]


def remarks(results: dict[str, Any]) -> list[str]:
    """Return what is missing in the table, with the reasons, as a list; empty if nothing is."""
    lines = []
    for name, found in sorted(results.items()):
        if "failed" in found:
            lines.append(f"- `{name}` is not in the table: {found['failed']}")
        lines += [f"- `{name}`, {kind}: {found[kind]['failed']}" for kind in KINDS if "failed" in found.get(kind, {})]
        if ":" in (note := str(found.get("sherpa", ""))):
            lines.append(f"- `{name}`, sherpa: {note}")
    return lines


def report(results: dict[str, Any]) -> list[str]:
    """Return the table, and below it what is missing."""
    missing = remarks(results)
    return [*table(results), *(["", *missing] if missing else [])]


def told(name: str, found: dict[str, Any]) -> str:
    """Return the line that is printed after a measurement."""
    if "failed" in found:
        return f"{name}: failed: {found['failed']}"
    return row(name, found) if found["causal"] else f"{name}: not causal"


def replaced(text: str, lines: list[str], note: str) -> str:
    """Return a page with a new table between the markers."""
    head, begin, rest = text.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"the page has no markers {BEGIN} and {END}")
    return "\n".join([head + begin, "", *lines, "", note, "", end]) + tail


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="entries of conf/generator, or models; default: all causal entries")
    parser.add_argument("--seconds", type=float, default=10.0, help="of audio for each measurement; default: 10")
    parser.add_argument("--json", type=Path, default=Path("bench_stream.json"), help="results; default: %(default)s")
    parser.add_argument("--again", action="store_true", help="measure what has been measured, too")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="put the table between the markers of this page")
    parser.add_argument("--export", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.export:
        print(json.dumps(attempted(lambda: export(arguments.names[0], arguments.export))))
        return
    if arguments.measure:
        kind, folder = arguments.measure
        print(
            json.dumps(
                attempted(lambda: measure(stepper_of(arguments.names[0], kind, Path(folder)), arguments.seconds))
            )
        )
        return
    results: dict[str, Any] = json.loads(arguments.json.read_text()) if arguments.json.is_file() else {}
    for name in arguments.names or entries():
        if name not in results or arguments.again or not complete(results[name]):
            results[name] = bench(name, arguments.seconds)
            write_text(arguments.json, json.dumps(results, indent=2) + "\n")
        print(told(name, results[name]), flush=True)
    import networks_table
    import onnxruntime
    import torch

    version = torch.__version__.partition("+")[0]
    note = (
        "Computing: median (99th percentile) of a frame, in CPU time. State: values of float32. Files: with the "
        "transforms, whose filters stay float32. Memory: of a process with onnxruntime, and of one with PyTorch. "
        "sherpa: the largest difference between the online denoiser of sherpa-onnx and our stream. "
        f"One core of {networks_table.processor()}, torch {version}, onnxruntime "
        f"{onnxruntime.__version__}; random weights for entries of `conf/generator`."
    )
    print("\n".join(["", *report(results), "", note]))
    if arguments.write:
        page = arguments.write.read_text(encoding="utf-8")
        write_text(arguments.write, replaced(page, report(results), note))


if __name__ == "__main__":
    main()
