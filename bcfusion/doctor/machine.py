"""The machine: cores, memory, and what the system lets a process have."""

from __future__ import annotations

import locale
import os
import platform
import sys
from collections.abc import Iterator
from pathlib import Path

from bcfusion.doctor.finding import PURPOSES, Finding, fail, note, ok
from bcfusion.doctor.limits import read_limits
from bcfusion.doctor.project import GB, size
from bcfusion.doctor.remedies import MEMORY
from bcfusion.system import space

__all__ = ["cluster", "encoding", "memory", "open_files", "processor", "shared_memory", "threads"]

LEAST_MEMORY, LITTLE_MEMORY = 0.8 * GB, 2 * GB  # free: a process with torch and Lightning alone takes 0.75 GB
LEAST_OF_STREAM = 0.4 * GB  # a stream takes 0.6 GB with torch, of which a part is files that can be dropped
LEAST_FILES, FEW_FILES = 128, 1024
LITTLE_SHARED = 0.5 * GB
SHARED = Path("/dev/shm")  # nosec B108 # only its size is read
#: bytes that one worker of the loader keeps in shared memory: two batches ahead and the one that is trained on, each of
#: 16 crops of 2 s of one sensor and the target
PER_WORKER = 3 * 16 * 2 * 2 * 16000 * 4
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")


def processor() -> Iterator[Finding]:
    """Look at the processor, and at the cores that this process may use."""
    limits, (model, flags) = read_limits(), _cpuinfo()
    cores = f"{limits.cores} of {limits.machine_cores} cores"
    if limits.quota is not None and limits.quota < limits.cores:
        cores += f", limited to the time of {limits.quota:g}"
    kinds = {"avx512f": "AVX-512", "avx2": "AVX2", "asimd": "NEON"}
    kind = next((name for flag, name in kinds.items() if flag in flags), "no AVX2")
    bf16 = "bf16" if flags & {"avx512_bf16", "amx_bf16", "bf16"} else "no bf16"
    text = f"{model}, {cores}, {kind}, {bf16}"
    if flags and kind == "no AVX2":
        yield note("processor", f"{text}: several times slower than a processor that has it")
    else:
        yield ok("processor", text)


def _cpuinfo() -> tuple[str, frozenset[str]]:
    """Return the name of the processor and its flags."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    fields = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    flags = fields.get("flags") or fields.get("Features") or ""
    return fields.get("model name") or platform.machine(), frozenset(flags.split())


def memory() -> Iterator[Finding]:
    """Look at the memory that is free, on the machine or in its container."""
    limits = read_limits()
    if limits.memory is None or limits.free is None:
        yield note("memory", "not known: there is no /proc/meminfo")
        return
    text = f"{limits.free / GB:.1f} of {limits.memory / GB:.1f} GB are free"
    if limits.free < LEAST_MEMORY:
        purposes = PURPOSES if limits.free < LEAST_OF_STREAM else ("train",)
        yield fail("memory", text, MEMORY, purposes)
    elif limits.free < LITTLE_MEMORY:
        yield note("memory", f"{text}: enough for small networks", "data.batch_size=2 needs less")
    else:
        yield ok("memory", text)


def threads() -> Iterator[Finding]:
    """Look at how many threads compute."""
    limits = read_limits()
    cores, shown = limits.usable, "1 core" if limits.usable == 1 else f"{limits.usable} cores"
    given = {name: os.environ[name] for name in _THREADS if os.environ.get(name)}
    for name, text in given.items():
        number = text.split(",")[0].strip()
        if not number.isdecimal() or int(number) < 1:
            yield note("threads", f"{name}={text} is not a number of threads", f"export {name}={cores}")
            return
        if int(number) > cores:
            yield note("threads", f"{name}={text}, but only {shown} may be used", f"export {name}={cores}")
            return
    if not given and limits.quota is not None and cores < limits.cores:
        text = f"as many as there are cores, {limits.cores}, but only {limits.quota:g} may be used"
        yield note("threads", text, f"export OMP_NUM_THREADS={cores}")
        return
    chosen = ", ".join(f"{name}={text}" for name, text in given.items()) or "as many as there are cores"
    yield ok("threads", f"{chosen}; {shown}")


def shared_memory() -> Iterator[Finding]:
    """Look at the shared memory, through which the workers of the loader hand over their batches."""
    cores = read_limits().cores
    workers = 0 if cores <= 2 else min(8, cores - 1)  # as data.workers=auto chooses
    if not sys.platform.startswith("linux"):
        yield ok("shared memory", f"of {platform.system()}, which has no {SHARED}")
        return
    try:
        free = space(SHARED).free
    except OSError:
        text = f"there is no {SHARED}, which workers of the loader need"
        remedy = "mount a tmpfs there, or train with data.workers=0"
        yield fail("shared memory", text, remedy) if workers else note("shared memory", text, remedy)
        return
    remedy = "docker run --shm-size=2g, or data.workers=0"
    text = f"{size(free)} are free in {SHARED}"
    of_workers = f"{workers} workers of the loader" if workers else "no worker of the loader"
    if free < workers * PER_WORKER:
        yield fail("shared memory", f"{text}, {of_workers} may need {size(workers * PER_WORKER)}", remedy)
    elif free < LITTLE_SHARED:
        yield note("shared memory", f"{text}, {of_workers}: large batches may not fit", remedy)
    else:
        yield ok("shared memory", f"{text}, {of_workers}")


def open_files() -> Iterator[Finding]:
    """Look at how many files and connections a process may have open."""
    try:
        import resource
    except ImportError:
        yield ok("open files", f"as {platform.system()} allows")
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= FEW_FILES:
        yield ok("open files", "any number" if soft == resource.RLIM_INFINITY else f"up to {soft}")
        return
    higher = FEW_FILES if hard == resource.RLIM_INFINITY else min(FEW_FILES, hard)
    text, remedy = f"up to {soft} only", f"ulimit -n {higher}"
    yield fail("open files", text, remedy) if soft < LEAST_FILES else note("open files", text, remedy)


def cluster() -> Iterator[Finding]:
    """Look at the job of Slurm that this is part of: Lightning takes its variables and refuses some of them."""
    tasks = os.environ.get("SLURM_NTASKS", "")
    if not tasks or os.environ.get("SLURM_JOB_NAME") in ("bash", "interactive"):
        yield ok("cluster", "no job of Slurm")
    elif tasks.isdecimal() and int(tasks) > 1 and "SLURM_NTASKS_PER_NODE" not in os.environ:
        remedy = f"give --ntasks-per-node={tasks} in place of --ntasks; for one process: unset SLURM_NTASKS"
        yield fail("cluster", f"a job of Slurm with --ntasks={tasks}, which Lightning refuses", remedy)
    else:
        yield ok("cluster", f"a job of Slurm, {tasks} task{'s' * (tasks != '1')}")


def encoding() -> Iterator[Finding]:
    """Look at the encoding of names and of the terminal."""
    found = {
        "names of files": sys.getfilesystemencoding(),
        "text files": locale.getpreferredencoding(False),
    }
    others = {what: name for what, name in found.items() if name.lower().replace("-", "") != "utf8"}
    if others:
        text = ", ".join(f"{what} are {name}" for what, name in others.items())
        yield note("encoding", f"{text}, not UTF-8: names with accents may not be found", "export PYTHONUTF8=1")
    else:
        yield ok("encoding", "UTF-8")
