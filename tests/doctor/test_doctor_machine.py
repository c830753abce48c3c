"""Cores and memory as containers limit them, threads, shared memory, open files, encoding."""

from __future__ import annotations

import resource
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from bcfusion.doctor import machine
from bcfusion.doctor.finding import FAIL, NOTE, OK
from bcfusion.doctor.limits import Limits, read_limits

GB = 10**9
MEMINFO = "MemTotal:       16000000 kB\nMemFree:  1 kB\nMemAvailable:   12000000 kB\n"


def files(root: Path, **content: str) -> None:
    for name, text in content.items():
        file = root / name.replace("__", "/").replace("_dot_", ".")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)


def limits_of(tmp_path: Path, groups: str) -> Limits:
    (tmp_path / "proc" / "self").mkdir(parents=True)
    (tmp_path / "proc" / "meminfo").write_text(MEMINFO)
    (tmp_path / "proc" / "self" / "cgroup").write_text(groups)
    return read_limits(tmp_path / "groups", tmp_path / "proc")


def test_a_machine_without_containers_has_all_of_it(tmp_path: Path) -> None:
    found = limits_of(tmp_path, "0::/\n")
    assert (found.memory, found.free, found.quota) == (16_384_000_000, 12_288_000_000, None)
    assert found.usable == found.cores >= 1


def test_version_2_limits_cores_and_memory_at_any_level(tmp_path: Path) -> None:
    """A job of Slurm: the limit of the job counts, not only that of the innermost group."""
    job = tmp_path / "groups" / "system.slice" / "job_7"
    files(job, cpu_dot_max="150000 100000\n", memory_dot_max=str(4 * GB), memory_dot_current=str(3 * GB))
    files(job, memory_dot_stat=f"anon 5\ninactive_file {GB}\n")
    files(job / "step_0", cpu_dot_max="max 100000\n", memory_dot_max="max\n")
    found = limits_of(tmp_path, "0::/system.slice/job_7/step_0\n")
    assert (found.quota, found.memory) == (1.5, 4 * GB)
    assert found.free == 2 * GB, "what is cached of files can be dropped"


def test_version_2_in_a_container_that_sees_its_own_root_alone(tmp_path: Path) -> None:
    files(tmp_path / "groups", cpu_dot_max="50000 100000\n", memory_dot_max=str(2 * GB), memory_dot_current="0\n")
    found = limits_of(tmp_path, "0::/../../docker/0123\n")
    assert (found.quota, found.memory, found.usable) == (0.5, 2 * GB, 1)
    assert found.free == 2 * GB, "nothing is used, which is a number too"


def test_version_1_limits_them_in_two_hierarchies(tmp_path: Path) -> None:
    groups = tmp_path / "groups"
    files(groups / "cpu,cpuacct", cpu_dot_cfs_quota_us="200000\n", cpu_dot_cfs_period_us="100000\n")
    files(groups / "memory" / "docker", memory_dot_limit_in_bytes=str(GB), memory_dot_usage_in_bytes="0\n")
    files(groups / "memory", memory_dot_limit_in_bytes="9223372036854771712\n")
    found = limits_of(tmp_path, "4:memory:/docker\n3:cpu,cpuacct:/\n")
    assert (found.quota, found.memory, found.free) == (2.0, GB, GB)


def test_this_machine_has_cores_and_memory() -> None:
    found = read_limits()
    assert 1 <= found.cores <= found.machine_cores
    assert found.memory is not None
    assert found.free is not None
    assert 0 < found.free <= found.memory


@pytest.mark.parametrize(("free", "status"), [(0.5, FAIL), (1.5, NOTE), (8.0, OK)])
def test_little_memory(free: float, status: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "read_limits", lambda: Limits(4, 4, None, 16 * GB, int(free * GB)))
    [found] = machine.memory()
    assert found.status == status
    assert found.text.startswith(f"{free:.1f} of 16.0 GB are free")
    assert bool(found.remedy) == (status != OK)


@pytest.mark.parametrize(("free", "concerns"), [(0.5, ("train",)), (0.3, ("train", "stream"))])
def test_a_stream_needs_less_memory_than_a_training(
    free: float, concerns: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "read_limits", lambda: Limits(4, 4, None, 16 * GB, int(free * GB)))
    [found] = machine.memory()
    assert found.purposes == concerns


@pytest.mark.parametrize(
    ("variables", "status"),
    [
        ({}, OK),
        ({"SLURM_NTASKS": "1"}, OK),
        ({"SLURM_NTASKS": "2"}, FAIL),
        ({"SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2"}, OK),
        ({"SLURM_NTASKS": "2", "SLURM_JOB_NAME": "interactive"}, OK),
    ],
)
def test_what_lightning_refuses_of_slurm(
    variables: dict[str, str], status: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lightning.fabric.plugins.environments import SLURMEnvironment

    for name in ("SLURM_NTASKS", "SLURM_NTASKS_PER_NODE", "SLURM_JOB_NAME"):
        monkeypatch.delenv(name, raising=False)
    for name, text in variables.items():
        monkeypatch.setenv(name, text)
    assert [finding.status for finding in machine.cluster()] == [status]
    if status == FAIL:
        with pytest.raises(RuntimeError, match="ntasks-per-node"):
            SLURMEnvironment()


@pytest.mark.parametrize(
    ("cores", "quota", "variables", "status", "remedy"),
    [
        (8, None, {}, OK, ""),
        (8, 2.0, {}, NOTE, "export OMP_NUM_THREADS=2"),  # eight threads in the time of two
        (8, 2.0, {"OMP_NUM_THREADS": "2"}, OK, ""),
        (2, None, {"OMP_NUM_THREADS": "16"}, NOTE, "export OMP_NUM_THREADS=2"),
        (2, None, {"MKL_NUM_THREADS": "all"}, NOTE, "export MKL_NUM_THREADS=2"),
        (4, None, {"OMP_NUM_THREADS": "4,1"}, OK, ""),  # nested regions
    ],
)
def test_more_threads_than_cores_are_slow(
    cores: int,
    quota: float | None,
    variables: dict[str, str],
    status: str,
    remedy: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    for name, text in variables.items():
        monkeypatch.setenv(name, text)
    monkeypatch.setattr(machine, "read_limits", lambda: Limits(cores, 16, quota, None, None))
    [found] = machine.threads()
    assert (found.status, found.remedy) == (status, remedy)


@pytest.mark.parametrize(
    ("cores", "free", "status"),
    [
        (16, 64 << 20, FAIL),  # what Docker gives, and eight workers
        (2, 64 << 20, NOTE),  # no workers
        (4, 300 << 20, NOTE),
        (16, 8 * GB, OK),
        (16, None, FAIL),
        (2, None, NOTE),
    ],
)
def test_shared_memory_for_the_workers(
    cores: int, free: int | None, status: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "read_limits", lambda: Limits(cores, cores, None, None, None))

    def statvfs(_: object) -> SimpleNamespace:
        if free is None:
            raise FileNotFoundError
        return SimpleNamespace(f_bavail=free // 4096, f_frsize=4096, f_files=0, f_favail=0)

    monkeypatch.setattr(machine.os, "statvfs", statvfs)
    [found] = machine.shared_memory()
    assert found.status == status
    assert (status == OK) or "data.workers=0" in found.remedy


def test_the_workers_that_are_counted_are_those_that_would_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    from bcfusion.data.loading.loaders import automatic_workers

    [found] = machine.shared_memory()
    assert (f"{automatic_workers()} workers" in found.text) or (automatic_workers() == 0 and "no worker" in found.text)


@pytest.mark.parametrize(("soft", "status"), [(64, FAIL), (256, NOTE), (1024, OK), (resource.RLIM_INFINITY, OK)])
def test_few_open_files(soft: int, status: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (soft, 4096))
    [found] = machine.open_files()
    assert found.status == status
    assert found.remedy == ("" if status == OK else "ulimit -n 1024")


def test_an_encoding_that_does_not_know_all_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine.locale, "getpreferredencoding", lambda _: "ISO-8859-1")
    [found] = machine.encoding()
    assert (found.status, found.remedy) == (NOTE, "export PYTHONUTF8=1")
    monkeypatch.setattr(machine.locale, "getpreferredencoding", lambda _: "UTF-8")
    [found] = machine.encoding()
    assert (found.status == OK) == (sys.getfilesystemencoding() == "utf-8")


def test_a_processor_without_wide_vectors_is_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_cpuinfo", lambda: ("Old", frozenset({"sse2", "avx"})))
    [found] = machine.processor()
    assert found.status == NOTE
    monkeypatch.setattr(machine, "_cpuinfo", lambda: ("New", frozenset({"avx2", "avx512f", "avx512_bf16"})))
    [found] = machine.processor()
    assert found.status == OK
    assert found.text.endswith("AVX-512, bf16")
