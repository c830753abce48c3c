"""The page of scripts/gpu_check.py: its report as Markdown, its curve as a picture, and both put into docs/."""

from __future__ import annotations

import json
import shutil
from collections.abc import Container, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

BEGIN, END = "<!-- gpu: scripts/gpu_check.py --write DIR -->", "<!-- /gpu -->"
PICTURE = "gpu_curve.png"
METRIC_TITLES = {"pesq_wb": "PESQ-WB", "stoi": "STOI", "estoi": "ESTOI", "si_sdr": "SI-SDR (dB)", "lsd": "LSD (dB)"}

Report = Mapping[str, Any]


def result_of(report: Report, section: str) -> dict[str, Any]:
    """Return what a section has saved, however it ended; empty if nothing."""
    found: dict[str, Any] = report["sections"].get(section, {}).get("result", {})
    return found


def steps(report: Report) -> Iterator[dict[str, Any]]:
    """Yield the results of the sections that timed training steps; compiled ones come last."""
    for name in report["sections"]:
        if name.startswith(("step_", "compiled_")) and result_of(report, name).get("precisions"):
            yield result_of(report, name)


def with_shares(report: Report) -> None:
    """Add to each measured step its FLOP/s, and their share of the rate of a matrix product in the same precision."""
    peaks = result_of(report, "machine").get("peak_flops", {})
    counted = {result["network"]: result["flops_per_step"] for result in steps(report) if "flops_per_step" in result}
    for result in steps(report):
        for precision, measured in result["precisions"].items():
            flops = counted.get(result["network"])
            if flops is None or "steps_per_second" not in measured:
                continue
            measured["flops_per_second"] = flops * measured["steps_per_second"]
            if precision in peaks:
                measured["share_of_peak"] = measured["flops_per_second"] / peaks[precision]


def fastest(report: Report, network: str) -> tuple[str, float] | None:
    """Return the precision in which a network takes most steps a second without compilation, and how many."""
    found = [
        (measured["steps_per_second"], precision)
        for result in steps(report)
        if result["network"] == network and not result["compiled"]
        for precision, measured in result["precisions"].items()
        if "steps_per_second" in measured
    ]
    return (max(found)[1], max(found)[0]) if found else None


# ---------------------------------------------------------------- Markdown


def markdown(report: Report) -> str:
    """Return the page; sections that failed are named at its end, with their reasons."""
    parts = [
        _opening(report),
        _machine(report),
        _tests(report),
        _steps(report),
        _loader(report),
        _training(report),
        _problems(report),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _opening(report: Report) -> str:
    took = f"{report.get('took_seconds', 0) / 60:.1f} minutes"
    if report["rehearsal"]:
        return (
            "**A rehearsal on the CPU, with tiny networks: it shows that the check runs; its numbers mean nothing.** "
            f"It took {took}."
        )
    speech = "the demo corpus" if report["corpus"] == "demo" else "a folder of speech"
    return f"Measured on {report['date']}, with {speech}, in {took} (`gpu.json`)."


def _machine(report: Report) -> str:
    found = result_of(report, "machine")
    if "torch" not in found:
        return ""
    rows = [("GPU", found["gpu"] or "none")]
    if found["gpu"]:
        size = f"{found['gpu_memory_bytes'] / 2**30:.0f} GiB"
        rows.append(
            ("memory, capability", f"{size}, {found['capability']}, {found['multiprocessors']} multiprocessors")
        )
    rows += [
        ("driver", found["driver"] or "unknown"),
        ("torch", f"{found['torch']}, CUDA {found['cuda'] or 'none'}, cuDNN {found['cudnn'] or 'none'}"),
        ("Python, Lightning, bcfusion", f"{found['python']}, {found['lightning']}, {found['bcfusion']}"),
        ("CPU cores, memory", f"{found['cores']}, {found['memory_bytes'] / 2**30:.0f} GiB"),
    ]
    size = found.get("peak_size", 0)
    for precision, rate in found.get("peak_flops", {}).items():
        rows.append((f"product of {size} x {size} matrices, {precision}", f"{_flops(rate)}/s"))
    return "### Machine\n\n" + table(["", ""], rows)


def _tests(report: Report) -> str:
    found = result_of(report, "tests")
    if "counts" not in found:
        return ""
    counts = ", ".join(f"{number} {word}" for word, number in found["counts"].items()) or "none ran"
    lines = [f"### Tests marked `gpu`\n\n`{found['command']}`: {counts}."]
    lines += [f"- `{line}`" for line in found["failures"]]
    return lines[0] + ("\n\n" + "\n".join(lines[1:]) if lines[1:] else "")


def _steps(report: Report) -> str:
    rows = []
    for result in steps(report):
        crop = f"{result['batch_size']} x {result['segment_seconds']:g} s"
        name = f"`{result['network']}`" + (", compiled" if result["compiled"] else "")
        for precision, measured in result["precisions"].items():
            if "problem" in measured:
                rows.append((name, crop, precision, measured["problem"], "", "", "", ""))
                continue
            memory = measured["memory_bytes"]
            share = measured.get("share_of_peak")
            flops = measured.get("flops_per_second")
            rows.append(
                (
                    name,
                    crop,
                    precision,
                    _digits(measured["steps_per_second"]),
                    _digits(measured["items_per_second"] * result["segment_seconds"]),
                    "" if memory is None else f"{memory / 2**30:.1f} GiB",
                    "" if flops is None else f"{_flops(flops)}/s",
                    "" if share is None else f"{100 * share:.2g} %",
                )
            )
    if not rows:
        return ""
    head = ["experiment", "batch", "precision", "steps/s", "audio s/s", "memory", "operations", "share of peak"]
    compiled = [result for result in steps(report) if result["compiled"]]
    first = max((m.get("first_seconds", 0) for result in compiled for m in result["precisions"].values()), default=0)
    return (
        "### Training steps\n\n"
        "Generator and discriminators learn, all losses take part; the batch lies on the GPU. Medians of single steps; "
        "memory is the most that was allocated. Operations are those of matrix products, convolutions and recurrent "
        "layers, forward and backward, counted once in fp32; the peak is the product above in the same precision.\n\n"
        + table(head, rows, numbers=range(3, 8))
        + (f"\n\nThe first compiled step took up to {first:.0f} s." if compiled else "")
    )


def _loader(report: Report) -> str:
    found = result_of(report, "loader")
    rows = []
    for network, measured in found.get("networks", {}).items():
        rate = measured["batches_per_second"]
        best = fastest(report, network)
        needed = "" if best is None else f"{_digits(best[1])} ({best[0]})"
        limit = "" if best is None else ("reading" if rate < best[1] else "the GPU")
        crop = f"{measured['batch_size']} x {measured['segment_seconds']:g} s"
        rows.append((f"`{network}`", crop, str(measured["workers"]), _digits(rate), needed, limit))
    if not rows:
        return ""
    head = ["experiment", "batch", "workers", "batches/s read", "steps/s, fastest", "limited by"]
    return (
        "### Reading against training\n\n"
        "The training loader of each experiment alone, `data.workers=auto`, crops read and sensors simulated.\n\n"
        + table(head, rows, numbers=range(2, 5))
    )


def _training(report: Report) -> str:
    found = result_of(report, "training")
    if "command" not in found:
        return ""
    parts = ["### A short training of EBEN", f"```\n{found['command']}\n```"]
    if found.get("steps"):
        rate = found.get("steps_per_second")
        pace = "" if rate is None else f", {_digits(rate)} steps/s with reading and logging"
        parts.append(f"{found['steps']} steps{pace}. Validations:")
        names = list(found["curve"][0])[1:] if found["curve"] else []
        rows = [["input", *(_digits(found["input"].get(name)) for name in names)]] if found.get("input") else []
        rows += [[str(point["step"]), *(_digits(point.get(name)) for name in names)] for point in found["curve"]]
        parts.append(table(["step", *(METRIC_TITLES[name] for name in names)], rows, numbers=range(1 + len(names))))
    if report.get("picture"):
        parts.append(f"![Validations of the training]({report['picture']})")
    if found.get("table"):
        parts.append("Closing evaluation of the best checkpoint:\n\n" + found["table"])
    return "\n\n".join(parts)


def _problems(report: Report) -> str:
    lines = [
        f"- `{name}`: {entry['status']}, {entry['reason']}"
        for name, entry in report["sections"].items()
        if entry["status"] != "ok"
    ]
    return "### Not measured, or only in part\n\n" + "\n".join(lines) if lines else ""


def table(head: Sequence[str], rows: Sequence[Sequence[str]], numbers: Container[int] = ()) -> str:
    """Return a Markdown table; the columns ``numbers`` are aligned to the right."""
    ruler = ["---:" if column in numbers else "---" for column in range(len(head))]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (head, ruler, *rows))


def _digits(value: float | None) -> str:
    """Return three digits, without an exponent."""
    if value is None:
        return ""
    if abs(value) >= 100:
        return f"{value:.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}" if abs(value) >= 1 else f"{value:.3f}"


def _flops(value: float) -> str:
    return f"{value / 1e12:.3g} TFLOP" if value >= 1e12 else f"{value / 1e9:.3g} GFLOP"


# ---------------------------------------------------------------- picture, docs


def draw_curve(report: Report, path: Path) -> bool:
    """Draw PESQ and STOI over steps, with the input's as dashed lines; return False without points or matplotlib."""
    found = result_of(report, "training")
    names = [name for name in ("pesq_wb", "stoi") if any(name in point for point in found.get("curve", []))]
    if not names:
        return False
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return False
    figure = Figure(figsize=(4.2 * len(names), 3.2), layout="constrained")
    for place, name in enumerate(names, start=1):
        axes = figure.add_subplot(1, len(names), place)
        points = [(point["step"], point[name]) for point in found["curve"] if name in point]
        axes.plot(*zip(*points, strict=True), marker="o", markersize=3, label="output")
        if name in found["input"]:
            axes.axhline(found["input"][name], color="0.5", linestyle="--", label="input")
        axes.set_xlabel("steps")
        axes.set_title(METRIC_TITLES[name], loc="left")
        axes.legend(frameon=False)
    figure.savefig(path, dpi=160)
    return True


def write_docs(results: Path, docs: Path) -> None:
    """Put the page of a check into ``docs/gpu.md``, and its picture into ``docs/pictures``.

    Raises:
        SystemExit: there is no check of a GPU in ``results``.
    """
    try:
        report = json.loads((results / "gpu.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SystemExit(f"gpu_check: --write: {results} holds no readable gpu.json ({error})") from None
    if report["rehearsal"]:
        raise SystemExit(f"gpu_check: --write: {results} is a rehearsal: its numbers mean nothing")
    if report.get("picture"):
        (docs / "pictures").mkdir(exist_ok=True)
        shutil.copy(results / report["picture"], docs / "pictures" / PICTURE)
        report["picture"] = f"pictures/{PICTURE}"
    page = docs / "gpu.md"
    before, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    page.write_text(f"{before}{BEGIN}\n\n{markdown(report)}\n{END}{after}", encoding="utf-8")
