"""How cost grows: with batch, length, rows of a manifest, utterances of a validation, workers and processes.

Each figure is the cost per unit (item, second, row, utterance) at a larger size over that at a smaller one: 1 is linear
growth. For workers and processes it is what two of them deliver over what one delivers: 2 is linear.
"""

from __future__ import annotations

import csv
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import machine
from benchmarks.harness import Act, Measured, Setting, Turn, alone, compared, in_turns, per_unit
from benchmarks.processes import call, environment, peak_megabytes
from benchmarks.sounds import RATE, made_up

REGRESSION = ("generator=seanet_streaming", "discriminators=[]", "losses=[l1,mr_stft]")
SMALL = ("generator.channels=2", "generator.bottleneck_channels=4")


# ---------------------------------------------------------------- training and inference


def batch(setting: dict[str, Any]) -> Measured:
    """Time training steps of one item and of many, 1 s each."""
    how = Setting(**setting)
    sizes = (1, 2) if how.rehearsal else (1, 4, 16)
    module, step = stepper(how)
    return against_first(
        {f"batch {size}": per_unit(step(size, 4096 if how.rehearsal else RATE), size) for size in sizes},
        "s per item",
        how,
        f"training steps of {module}, by regression",
    )


def length(setting: dict[str, Any]) -> Measured:
    """Time training steps on short and long segments, and the restoration of short and long recordings."""
    import torch

    from bcfusion.inference.enhance import enhance_signal

    how = Setting(**setting)
    module, step = stepper(how)
    segments = (0.25, 0.5) if how.rehearsal else (1.0, 8.0)
    result = against_first(
        {f"{each:g} s": per_unit(step(2, round(each * RATE)), each) for each in segments},
        "s per s",
        how,
        f"training steps of {module}, by regression, two items",
    )
    generator = configured_generator(how)
    recordings = (2, 4) if how.rehearsal else (30, 240)
    enhanced = against_first(
        {
            f"recording of {each} s": per_unit(
                lambda each=each: enhance_signal(generator, 0.07 * torch.randn(1, each * RATE)), each
            )
            for each in recordings
        },
        "s per s",
        how,
        "",
    )
    result.figures += enhanced.figures
    return result


def stepper(how: Setting) -> tuple[str, Callable[[int, int], Callable[[], Any]]]:
    """Return the name of a network, and what makes training steps of a batch and a length."""
    import torch

    from benchmarks import step

    module = step.configured(*REGRESSION, *(SMALL if how.rehearsal else ()))

    def of(size: int, samples: int) -> Callable[[], Any]:
        given = step.given(*step.batch(size, samples, torch.device("cpu")))
        return lambda: module.training_step(given, 0)  # type: ignore[arg-type,func-returns-value]

    return REGRESSION[0].partition("=")[2], of


def configured_generator(how: Setting) -> Any:
    from benchmarks import step

    return step.configured(*REGRESSION, *(SMALL if how.rehearsal else ())).generator.eval()


def against_first(sides: dict[str, Act], unit: str, how: Setting, note: str) -> Measured:
    """Return a figure for each side but the first, which is the other side of all."""
    taken = in_turns(sides, how)
    first, *others = sides
    return Measured(
        [compared(f"{name} to {first}", unit, name, first, taken) for name in others],
        ["the same code on both sides"],
        [note] if note else [],
    )


# ---------------------------------------------------------------- manifests

FILES = 100  # of a manifest: its rows are parts of these


def manifest(setting: dict[str, Any]) -> Measured:
    """Measure time and memory from a manifest to the first batch, in fresh processes, at several numbers of rows."""
    how = Setting(**setting)
    sizes = (100, 200, 1000) if how.rehearsal else (1000, 100_000, 1_000_000)
    few, some, many = (f"{size:,} rows" for size in sizes)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = made_up(folder, 3 if how.rehearsal else FILES, 3.0)
        paths = {label: write_rows(folder, files, size) for label, size in zip((few, some, many), sizes, strict=True)}
        memory: dict[str, list[float]] = {label: [] for label in paths}

        def started(label: str) -> Act:
            def act() -> float:
                found = call("benchmarks.growth:first_batch", how.threads, path=str(paths[label]))
                memory[label].append(found["megabytes"])
                return float(found["seconds"])

            return act

        taken = in_turns({label: started(label) for label in paths}, how)
    per_row = {
        label: [Turn(turn.measure / size, turn.cpu) for turn in taken[label]]
        for label, size in zip(paths, sizes, strict=True)
    }
    seconds = [b.measure - a.measure for a, b in zip(taken[few], taken[many], strict=True)]
    gigabytes = [(b - a) / 1000 for a, b in zip(memory[few], memory[many], strict=True)]
    return Measured(
        [
            compared(f"{many} to {some}", "s per row", many, some, per_row),
            alone(f"{many}, s above {few}", "s", "ours", seconds),
            alone(f"{many}, GB above {few}", "GB", "ours", gigabytes[-len(seconds) :]),
        ],
        ["the same code on both sides"],
        [f"from the manifest to the first batch of training, without imports; rows are parts of {len(files)} files"],
    )


def write_rows(folder: Path, files: list[Path], count: int) -> Path:
    """Write a manifest of ``count`` rows that are parts of the files; return its path."""
    path = folder / f"{count}.jsonl"
    with path.open("w", encoding="utf-8") as text:
        for number in range(count):
            split = "valid" if number % 100 == 99 else "train"
            row = {
                "id": f"utterance-{number:07d}",
                "air": files[number % len(files)].name,
                "speaker": f"{split}-{number % len(files):03d}",
                "split": split,
                "offset": round(number % 97 / 100, 2),
                "duration": 1.5,
            }
            text.write(json.dumps(row) + "\n")
    return path


def first_batch(path: str) -> dict[str, float]:
    """Return seconds and peak memory in MB from a manifest to the first batch of training."""
    from bcfusion.data.corpora.listing import ManifestCorpus
    from bcfusion.data.loading.datamodule import SpeechDataModule

    before, began = peak_megabytes(), time.perf_counter()
    module = SpeechDataModule(ManifestCorpus(path), {}, ["air"], RATE, 1.0, 8, workers=0)
    module.setup("fit")
    loader = module.train_dataloader()
    if len(next(iter(loader))["ids"]) != 8:
        raise ValueError("the first batch is not whole")
    return {"seconds": time.perf_counter() - began, "megabytes": peak_megabytes() - before}


# ---------------------------------------------------------------- validation


def validation(setting: dict[str, Any]) -> Measured:
    """Time the evaluation of few and of many utterances, in the processes of one scorer."""
    from bcfusion.data.corpora.folder import FolderCorpus
    from bcfusion.data.loading.datamodule import SpeechDataModule
    from bcfusion.evaluation.evaluate import evaluate
    from bcfusion.evaluation.pool import Scorer
    from bcfusion.evaluation.utterances import Utterances
    from bcfusion.metrics.pesq import Pesq
    from bcfusion.metrics.stoi import Stoi

    how = Setting(**setting)
    sizes = (2, 3) if how.rehearsal else (8, 64)
    generator = configured_generator(how)
    with tempfile.TemporaryDirectory() as name, Scorer({"pesq_wb": Pesq(), "stoi": Stoi()}, RATE, workers=2) as scorer:
        folder = Path(name) / "valid" / "s0"
        folder.mkdir(parents=True)
        made_up(folder, sizes[-1], 3.0)
        module = SpeechDataModule(FolderCorpus(name), {}, ["air"], RATE, workers=0)

        def evaluated(count: int) -> Callable[[], None]:
            def act() -> None:
                scores = evaluate(generator, Utterances.of_split(module, "valid", count), scorer)
                if len({row.id for row in scores.rows}) != count:
                    raise ValueError("not every utterance was scored")

            return act

        sides = {f"{size} utterances": per_unit(evaluated(size), size) for size in sizes}
        return against_first(sides, "s per utterance", how, "enhanced, and scored by PESQ and STOI in two processes")


# ---------------------------------------------------------------- workers, processes


def workers(setting: dict[str, Any]) -> Measured:
    """Measure the rate of the training loader with two workers and with one, with and without a simulated sensor."""
    from benchmarks.loader import delivering
    from benchmarks.segments import Plan, convert, source
    from benchmarks.sounds import speech

    how = Setting(**setting)
    plan = Plan(0.25, 2, 0.05) if how.rehearsal else Plan()
    result = Measured(agreement=["the samples of the first batch are those that soundfile reads"])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        roots = convert(speech(how.speech, folder / "sounds", 3 if how.rehearsal else 300, plan.seconds), folder)
        for simulated in ("", "eben_lowpass"):
            mine = source("flac", simulated, roots, plan, how)
            sides = {f"{count} workers": delivering(mine, count, plan) for count in (2, 1)}
            figure = "flac, simulated" if simulated else "flac"
            result.figures.append(compared(figure, "segments/s", *sides, in_turns(sides, how)))
    return result


def processes(setting: dict[str, Any]) -> Measured:
    """Measure the items a second of a training in one, two and four processes of one thread each."""
    how = Setting(**setting)
    steps = 4 if how.rehearsal else 60
    sent: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as name:
        runs = iter(range(10**6))

        def side(count: int, size: int) -> Callable[[], float]:
            def act() -> float:
                before = loopback_bytes()
                rate = trained(count, steps, size, Path(name) / str(next(runs)), how)
                if before is not None:
                    sent.setdefault(f"{count}", []).append((loopback_bytes() - before) / steps / count / 1e6)
                return rate

            return act

        result = Measured(agreement=["the same code on both sides"])
        result.notes = [
            "bcfusion train trainer=ddp on the demo corpus, segments of 1 s: the rate of the last third of the steps",
            f"{machine.cores()} cores: more processes than cores gain nothing",
        ]
        for size, counts in [(4, (2,))] if how.rehearsal else [(4, (2, 4)), (1, (2,))]:
            sides = {f"{count} x {size}": side(count, size) for count in (1, *counts)}
            taken = in_turns(sides, how)
            for count in counts:
                figure = compared(
                    f"{count} processes, batch {size}", "items/s", f"{count} x {size}", f"1 x {size}", taken
                )
                result.figures.append(figure)
            for count in counts if size == 4 else ():
                if values := sent.get(f"{count}"):
                    result.figures.append(alone(f"{count} processes, MB sent by each a step", "MB", "ours", values))
    parameters = sum(each.numel() for each in configured_generator(how).parameters())
    result.notes.append(
        f"{parameters:,} parameters: a ring of n processes sends 2 (n - 1) / n x 4 bytes x parameters from each, "
        + ", ".join(f"{8e-6 * (n - 1) / n * parameters:.2f} MB with {n}" for n in (2, 4))
        + "; measured on the loopback device, the weights that are sent once at the begin included"
    )
    return result


def loopback_bytes() -> int | None:
    """Return what was sent through the loopback device since the system began; None where the system does not tell."""
    count = Path("/sys/class/net/lo/statistics/tx_bytes")
    return int(count.read_text()) if count.is_file() else None


def trained(count: int, steps: int, size: int, folder: Path, how: Setting) -> float:
    """Train with batches of ``size`` in each of ``count`` processes; return the items a second of all together.

    Raises:
        RuntimeError: the run failed.
    """
    folder.mkdir()
    command = [sys.executable, "-m", "bcfusion", "train", *REGRESSION, *(SMALL if how.rehearsal else ())]
    command += [
        f"data.batch_size={size}",
        "data.segment_seconds=1",
        "data.workers=0",
        f"hydra.run.dir={folder / 'run'}",
    ]
    command += [f"trainer.max_steps={steps}", f"trainer.validate_every={steps}", f"trainer.log_every={steps // 3 or 1}"]
    command += ["trainer=ddp", "trainer.accelerator=cpu", f"trainer.devices={count}", "trainer.samples=0"]
    command += ["trainer.max_valid_items=1", "trainer.max_test_items=1", "metrics=[si_sdr]", "selection=si_sdr"]
    command += ["trainer.keep_best=[]"]
    done = subprocess.run(command, env=environment(1), cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise RuntimeError(f"bcfusion train in {count} processes ended with status {done.returncode}: {reason}")
    with (folder / "run" / "metrics.csv").open(newline="") as file:
        rates = [float(row["rate/steps_per_second"]) for row in csv.DictReader(file) if row["rate/steps_per_second"]]
    return size * count * rates[-1]
