"""The measurements of scripts/gpu_check.py; each runs in a process of its own and saves what it has as it goes.

On a GPU with the published batches and crops; for a rehearsal on the CPU with tiny ones, where numbers mean nothing.
"""

from __future__ import annotations

import csv
import itertools
import math
import os
import platform
import re
import shlex
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

os.environ.setdefault("GOMP_SPINCOUNT", "0")  # as the command line does: spinning threads distort every timing

import lightning
import torch
from benchmarks.step import WithoutTrainer, batch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig
from step_flops import count

import bcfusion
from bcfusion.configuration.compose import register_resolvers
from bcfusion.configuration.paths import conf_dir
from bcfusion.run.layout import RunDir, register_run_dir
from bcfusion.training import device
from bcfusion.training.assemble import build_datamodule, build_module

ROOT = Path(__file__).resolve().parents[1]
NETWORKS = ("eben", "seanet", "dccrn", "bsrnn")
PRECISIONS = ("fp32", "tf32", "bf16-mixed")

Save = Callable[[Mapping[str, Any]], None]
Result = dict[str, Any]

TINY = {
    "eben": (
        *("generator.channels=4", "generator.latent_channels=8"),
        *("discriminators.pqmf_bands.min_channels=4", "discriminators.pqmf_bands.full_band=false"),
    ),
    "seanet": (
        *("generator.channels=2", "generator.bottleneck_channels=4"),
        *("discriminators.melgan_msd.channels=2", "discriminators.melgan_msd.max_channels=8"),
    ),
    "dccrn": ("generator.channels=[4,4,8,8,8,8]", "generator.lstm_units=32"),
    "bsrnn": ("generator.channels=20", "generator.layers=2", "generator.rnn_channels=16", "generator.mlp_channels=16"),
}


@dataclass(frozen=True)
class Setting:
    """What a section works with.

    Attributes:
        seconds: that it may take.
        rehearsal: whether it works on the CPU, with tiny networks.
        corpus: folder of speech with ``train/`` and ``valid/``; None: the demo corpus.
        scratch: folder for what is not kept.
        out: folder for what is kept.
        began: ``time.monotonic()`` at the start of the section.
        steps_per_second: of the training of EBEN at its default precision; None: not measured.
    """

    seconds: float
    rehearsal: bool
    corpus: str | None
    scratch: Path
    out: Path
    began: float
    steps_per_second: float | None = None

    @property
    def device(self) -> torch.device:
        return torch.device("cpu" if self.rehearsal else "cuda")

    def left(self) -> float:
        """Return the seconds that are left of the section."""
        return self.seconds - (time.monotonic() - self.began)


def overrides(network: str, setting: Setting) -> list[str]:
    """Return the overrides of a published experiment, on the corpus and at the sizes of the setting."""
    chosen = [f"experiment={network}", "machine=gpu"]
    if setting.corpus is not None:
        chosen += ["data=folder", f"data.root={setting.corpus}"]
    if setting.rehearsal:
        chosen += [*TINY[network], "data.batch_size=2", "data.segment_seconds=0.256", "trainer.accelerator=cpu"]
        if setting.corpus is None:  # seconds to make, not minutes
            few = {"speakers": "{train:2,valid:1,test:1}", "utterances_per_speaker": "{train:2,valid:2,test:1}"}
            chosen += [f"+data.corpus.{key}={value}" for key, value in few.items()]
            chosen += [f"+data.corpus.cache_dir={setting.scratch}"]
    return chosen


def composed(network: str, setting: Setting) -> DictConfig:
    """Compose the configuration of :func:`overrides`."""
    register_resolvers()
    register_run_dir()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return compose("train", overrides(network, setting))


def synchronised(where: torch.device) -> float:
    """Return the time in seconds, after the work of the device has ended."""
    if where.type == "cuda":
        torch.cuda.synchronize(where)
    return time.perf_counter()


def with_precision(precision: str, where: torch.device) -> AbstractContextManager[Any]:
    """Set TensorFloat-32 as ``trainer.tf32`` does, and return the context of a step for ``trainer.precision``."""
    # in bf16-mixed, what stays in float32 may use TensorFloat-32 too, as in a run with the default settings
    device.configure({"tf32": precision != "fp32", "cudnn_benchmark": True, "deterministic": False})
    return torch.autocast(where.type, torch.bfloat16) if precision == "bf16-mixed" else nullcontext()


# ---------------------------------------------------------------- the machine


def machine(setting: Setting, save: Save) -> Result:
    """Describe the machine, and measure the rate of a large matrix product in each precision."""
    where = setting.device
    result: Result = {
        "gpu": None,
        "driver": _driver(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "lightning": lightning.__version__,
        "bcfusion": bcfusion.__version__,
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
    }
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        result |= {
            "gpu": properties.name,
            "gpu_memory_bytes": properties.total_memory,
            "capability": f"{properties.major}.{properties.minor}",
            "multiprocessors": properties.multi_processor_count,
        }
    elif not setting.rehearsal:
        return result
    save(result)
    result["peak_size"] = size = 256 if setting.rehearsal else 8192
    result["peak_flops"] = {}
    for precision in PRECISIONS:
        with with_precision(precision, where):
            result["peak_flops"][precision] = product_rate(size, precision, where)
        save(result)
    return result


def _driver() -> str | None:
    """Return the version of the NVIDIA driver; None without nvidia-smi."""
    command = shutil.which("nvidia-smi")
    if command is None:
        return None
    query = [command, "--query-gpu=driver_version", "--format=csv,noheader"]
    done = subprocess.run(query, capture_output=True, text=True, timeout=30, check=False)
    return done.stdout.strip().splitlines()[0] if done.returncode == 0 and done.stdout.strip() else None


def product_rate(size: int, precision: str, where: torch.device) -> float:
    """Return the FLOP/s of a product of two square matrices of random numbers: the median of ten, after three."""
    dtype = torch.bfloat16 if precision == "bf16-mixed" else torch.float32
    one, other = (torch.randn(size, size, device=where, dtype=dtype) for _ in range(2))
    seconds = []
    for _ in range(13):
        if where.type == "cuda":  # events: a product in bfloat16 takes a millisecond
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            one @ other
            end.record()
            end.synchronize()
            seconds.append(begin.elapsed_time(end) / 1000)
        else:
            began = time.perf_counter()
            one @ other
            seconds.append(time.perf_counter() - began)
    return 2 * size**3 / statistics.median(seconds[3:])


# ---------------------------------------------------------------- the tests


def tests(setting: Setting, save: Save) -> Result:
    """Run the tests that need a GPU; without one they are only collected, and skipped.

    Raises:
        RuntimeError: one of them fails, or none was found.
    """
    files = [path for path in sorted((ROOT / "tests").rglob("test_*.py")) if "pytest.mark.gpu" in path.read_text()]
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-q", "-p", "no:cacheprovider", "--no-header"]
    command += [str(path.relative_to(ROOT)) for path in files if path.name != "test_gpu_check.py"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    print(done.stdout, done.stderr, sep="\n")
    counts = {word: int(number) for number, word in re.findall(r"(\d+) (passed|failed|errors?|skipped)", done.stdout)}
    lines = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    result: Result = {"counts": counts, "failures": lines, "command": shlex.join(["python", *command[1:]])}
    save(result)
    if done.returncode:
        raise RuntimeError(lines[0] if lines else f"pytest ended with status {done.returncode}: see the log")
    return result


# ---------------------------------------------------------------- training steps


def step(network: str, setting: Setting, save: Save, compiled: bool = False) -> Result:
    """Time training steps of an experiment in each precision, with all losses and discriminators taking part.

    The batch is noise that lies on the device: reading is measured on its own.
    """
    where = setting.device
    cfg = composed(network, setting)
    device.configure(cfg.trainer)
    torch.manual_seed(cfg.seed)
    module, _ = build_module(cfg)
    module.__class__ = WithoutTrainer
    assert isinstance(module, WithoutTrainer)
    module.to(where).train()
    module.start()
    accumulate = int(cfg.trainer.accumulate)
    joined = int(cfg.adversarial.start_step + cfg.adversarial.ramp_steps) if cfg.discriminators else 0
    module.step = accumulate * joined
    discriminators = list(module.adversary.discriminators.values()) if module.adversary is not None else []
    if compiled:
        for part in (module.generator, *discriminators):  # as trainer.compile=true does
            part.compile(backend="eager" if setting.rehearsal else "inductor")
    # after so many batches, the same networks learn again
    cycle = accumulate * (math.lcm(cfg.adversarial.interval, cfg.adversarial.generator_interval) if joined else 1)
    size, samples = cfg.data.batch_size, round(cfg.data.segment_seconds * cfg.sample_rate)
    mono, target = batch(size, samples, where)
    given = {
        "inputs": mono.expand(-1, len(cfg.task.sensors), -1).contiguous(),
        "target": target,
        "lengths": torch.full((size,), samples, device=where),
        "ids": [str(index) for index in range(size)],
    }

    def cycle_of_steps() -> None:
        for _ in range(cycle):
            module.training_step(given, 0)  # type: ignore[arg-type]

    result: Result = {
        "network": network,
        "batch_size": size,
        "segment_seconds": float(cfg.data.segment_seconds),
        "parameters": sum(parameter.numel() for parameter in module.generator.parameters()),
        "parameters_of_discriminators": sum(p.numel() for part in discriminators for p in part.parameters()),
        "compiled": compiled,
        "precisions": {},
    }
    wanted = PRECISIONS if not compiled else ("bf16-mixed",) if setting.rehearsal else ("bf16-mixed", "tf32")
    first = 0.0  # seconds of the first step so far: compiling takes as long for the next precision
    for position, precision in enumerate(wanted):
        if compiled and setting.left() < first + 5.0:
            result["precisions"][precision] = {"problem": f"not tried: {max(setting.left(), 0):.0f} s were left"}
            break
        share = max(setting.left() - 3.0, 0.0) / (len(wanted) - position)
        try:
            with with_precision(precision, where):
                if not compiled and "flops_per_step" not in result:
                    result["flops_per_step"] = count(cycle_of_steps) / cycle
                result["precisions"][precision] = timed(cycle_of_steps, cycle, size, share, setting)
            first = result["precisions"][precision]["first_seconds"]
        except torch.OutOfMemoryError as error:  # the next precision may need less
            result["precisions"][precision] = {"problem": f"out of memory: {str(error).splitlines()[0]}"}
            torch.cuda.empty_cache()
        except RuntimeError as error:
            if where.type != "cpu" or "could not create a primitive" not in str(error):
                raise
            result["precisions"][precision] = {"problem": f"this CPU cannot: {str(error).splitlines()[0]}"}
        save(result)
    skipped = sum(module.guard.skipped.values())
    if skipped:  # such a step does less work than others
        raise RuntimeError(f"{skipped} steps had a non-finite gradient: the times are too short")
    return result


def timed(action: Callable[[], None], steps: int, size: int, seconds: float, setting: Setting) -> Result:
    """Time ``action``, of ``steps`` training steps, for about ``seconds``: the first of them compiles and tunes."""
    where = setting.device
    if where.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(where)
    began = synchronised(where)
    action()
    first = synchronised(where) - began
    at_least, at_most = (2, 2) if setting.rehearsal else (5, 200)
    end = began + min(max(seconds, first), first + 12.0)
    times: list[float] = []
    warm = 1 if setting.rehearsal else 3
    while len(times) < warm + at_least or (len(times) < warm + at_most and time.perf_counter() < end):
        before = synchronised(where)
        action()
        times.append((synchronised(where) - before) / steps)
    times = times[warm:]
    low, median, high = statistics.quantiles(times, n=4)
    return {
        "first_seconds": first,
        "steps": len(times) * steps,
        "seconds": median,
        "quartiles": [low, high],
        "steps_per_second": 1 / median,
        "items_per_second": size / median,
        "memory_bytes": torch.cuda.max_memory_allocated(where) if where.type == "cuda" else None,
    }


# ---------------------------------------------------------------- the loader


def loader(setting: Setting, save: Save) -> Result:
    """Measure how many batches a second the training loader of each experiment delivers, sensors simulated."""
    result: Result = {"corpus": setting.corpus or "demo", "networks": {}}
    for position, network in enumerate(NETWORKS):
        cfg = composed(network, setting)
        datamodule = build_datamodule(cfg)
        datamodule.setup("fit")
        batches = datamodule.train_dataloader()
        seconds = min(max(setting.left() - 3.0, 1.0) / (len(NETWORKS) - position), 1.0 if setting.rehearsal else 10.0)
        try:
            rate = delivery_rate(batches, 4 * max(datamodule.workers, 1), seconds)
        finally:
            batches.close()
        result["networks"][network] = {
            "workers": datamodule.workers,
            "batch_size": datamodule.batch_size,
            "segment_seconds": datamodule.segment_seconds,
            "batches_per_second": rate,
        }
        save(result)
    return result


def delivery_rate(loader: Iterable[object], warm_up: int, seconds: float) -> float:
    """Return the batches a second of an endless loader, after ``warm_up`` batches: those that were read ahead."""
    batches: Iterator[object] = itertools.chain.from_iterable(itertools.repeat(loader))
    began = time.perf_counter()
    for number, _ in enumerate(batches, start=1):
        if number >= warm_up or time.perf_counter() - began > seconds / 2:
            break
    began, delivered = time.perf_counter(), 0
    while time.perf_counter() - began < seconds / 2:
        next(batches)
        delivered += 1
    return delivered / (time.perf_counter() - began)


# ---------------------------------------------------------------- a training

CLOSING_SECONDS = 15.0  # for what follows the run, and for a run that ends a little late
CURVE_METRICS = ("pesq_wb", "stoi", "estoi", "si_sdr", "lsd")


def training(setting: Setting, save: Save) -> Result:
    """Train EBEN with the command line for the time that is left; the curve and the closing table are kept.

    Raises:
        RuntimeError: the run failed, or did not end in time.
    """
    run_root = setting.scratch / "runs"
    command = training_command(setting, run_root)
    print(shlex.join(command), flush=True)
    result: Result = {"corpus": setting.corpus or "demo", "command": _shown(command)}
    process = subprocess.Popen(command, cwd=setting.scratch)
    problem = None
    try:
        status = process.wait(max(setting.left() - 5.0, 1.0))
        problem = f"bcfusion train ended with status {status}: see the log" if status else None
    except subprocess.TimeoutExpired:
        problem = "bcfusion train did not end within its time"
        process.send_signal(signal.SIGINT)  # its validations are in metrics.csv
        try:
            process.wait(3.0)
        except subprocess.TimeoutExpired:
            process.kill()
    metrics = next(run_root.glob("**/metrics.csv"), None)
    if metrics is not None:
        run = RunDir(metrics.parent)
        result |= curve(run.metrics)
        shutil.copy(run.metrics, setting.out / "gpu_metrics.csv")
        scores = run.closing_scores()
        if scores is not None:
            result["table"] = scores.with_suffix(".md").read_text().strip()
    save(result)
    if problem:
        raise RuntimeError(problem)
    return result


def training_command(setting: Setting, run_root: Path) -> list[str]:
    """Return the command of the training, which validates about eight times."""
    seconds = setting.left() - CLOSING_SECONDS
    every = 2 if setting.rehearsal else max(50, round((setting.steps_per_second or 2.0) * seconds / 8 / 50) * 50)
    command = [sys.executable, "-m", "bcfusion", "train", *overrides("eben", setting)]
    command += [f"output_root={run_root}", f"budget.minutes={seconds / 60:.2f}"]
    command += [f"trainer.validate_every={every}", f"trainer.checkpoint_every={every}"]
    if find_spec("pesq") is None:  # it has to be compiled, which not every machine can
        command += ["metrics=[stoi,estoi,si_sdr,lsd]", "selection=stoi", "trainer.keep_best=[stoi]"]
    if setting.rehearsal:
        return [*command, "trainer.max_steps=4", "trainer.max_valid_items=2", "trainer.max_test_items=1"]
    return [*command, "trainer.max_steps=null", "trainer.max_valid_items=32", "trainer.max_test_items=64"]


def _shown(command: Sequence[str]) -> str:
    """Return the command without the places of this machine, as a reader would type it."""
    hidden = ("output_root=", "+data.corpus.cache_dir=")
    kept = [word for word in command[3:] if not word.startswith(hidden)]
    shown = ["data.root=FOLDER" if word.startswith("data.root=") else word for word in kept]
    return shlex.join(["bcfusion", *shown])


def curve(metrics: Path) -> Result:
    """Return the validations of a run, the scores of its input, its steps, and its median rate from ``metrics.csv``."""
    with metrics.open(newline="") as file:
        rows = [{key: float(value) for key, value in row.items() if value} for row in csv.DictReader(file)]
    validated = [row for row in rows if any(key.startswith("valid/") for key in row)]
    names = [name for name in CURVE_METRICS if any(f"valid/{name}" in row for row in validated)]
    points = [
        {"step": int(row["step"]), **{name: row[f"valid/{name}"] for name in names if f"valid/{name}" in row}}
        for row in validated
    ]
    rates = [row["rate/steps_per_second"] for row in rows if "rate/steps_per_second" in row]
    before = validated[0] if validated else {}
    return {
        "steps": int(rows[-1]["step"]) if rows else 0,
        "steps_per_second": statistics.median(rates) if rates else None,
        "curve": points,
        "input": {name: before[f"valid_input/{name}"] for name in names if f"valid_input/{name}" in before},
    }


SECTIONS: Mapping[str, Callable[[Setting, Save], Result]] = {
    "machine": machine,
    "tests": tests,
    **{f"step_{network}": partial(step, network) for network in NETWORKS},
    "loader": loader,
    "compiled_eben": partial(step, "eben", compiled=True),
    "training": training,
}
