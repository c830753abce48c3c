"""Sweeps as a user starts them, of jobs that take no time: every launcher, failures, the closing table."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from toy_sweep import run_sweep, write_app

from bcfusion.run import jobs

pytestmark = pytest.mark.slow  # each sweep is a process
ROOT = Path(__file__).resolve().parents[2]
JOB = """
    if cfg.seed == 2:
        raise ValueError("two is\\nno seed")
    if cfg.seed == 9:
        os._exit(3)  # like a job that is killed for its memory
    print("ran", cfg.seed, flush=True)
    return cfg.seed / 10
"""
# what Ray's processes print: Ray repeats it on the terminal of the sweep some time later, also after its closing line
FROM_RAY = re.compile(
    r"(?:\x1b\[\d+m)?\((?:(?:\w+ )?pid=\d+(?:, ip=[^)]*)?|(?:raylet|autoscaler)[^)]*)\)(?:\x1b\[0m)? .*"
)


def sweep_of(folder: Path, *arguments: str, body: str = JOB, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a sweep into ``folder/sweep``."""
    return run_sweep(folder, body, "-m", *arguments, **environment)


def require(package: str) -> None:
    if importlib.util.find_spec(f"hydra_plugins.{package}") is None:
        pytest.skip(f"{package} is not installed")


def check_three_jobs(
    done: subprocess.CompletedProcess[str], folder: Path, *, repeated: re.Pattern[str] | None = None
) -> None:
    """Check that the second of ``seed=1,2,3`` failed, the others did not, and every report says so.

    Args:
        repeated: lines on stderr that the launcher repeats from its workers whenever it gets them; they may come last.
    """
    assert done.returncode == 2, done.stderr
    outcomes = jobs.read_outcomes(folder / "sweep")
    assert [(o.job, o.status, o.objective) for o in outcomes] == [
        ("0", "finished", (0.1,)),
        ("1", "failed", ()),
        ("2", "finished", (0.3,)),
    ]
    failure = (folder / "sweep" / "1" / "failed.txt").read_text()
    assert failure.splitlines()[0] == "ValueError: two is"
    assert "no seed" in failure
    assert "Traceback" in failure
    rows = [
        line.split() for line in done.stdout.splitlines() if line.split()[1:2] in (["seed=1"], ["seed=2"], ["seed=3"])
    ]
    assert rows == [
        ["2", "seed=3", "0.3000", "finished"],
        ["0", "seed=1", "0.1000", "finished"],
        ["1", "seed=2", "–", "failed:", "ValueError:", "two", "is"],
    ]
    lines = [line for line in done.stderr.splitlines() if repeated is None or not repeated.fullmatch(line)]
    assert lines[-1] == "1 of 3 jobs failed: 1; see sweep/1/failed.txt"
    assert "Traceback" not in done.stderr


def test_a_failed_job_does_not_affect_the_others(tmp_path: Path) -> None:
    check_three_jobs(sweep_of(tmp_path, "seed=1,2,3"), tmp_path)


def test_a_failed_job_does_not_affect_a_later_batch_and_a_second_session_forgets_it(tmp_path: Path) -> None:
    check_three_jobs(sweep_of(tmp_path, "seed=1,2,3", "hydra.sweeper.max_batch_size=1"), tmp_path)
    again = sweep_of(tmp_path, "seed=1,4,3")
    assert again.returncode == 0, again.stderr
    assert not (tmp_path / "sweep" / "1" / "failed.txt").exists()
    assert "Sweep sweep, 3 jobs" in again.stdout


def test_joblib_runs_jobs_in_parallel(tmp_path: Path) -> None:
    require("hydra_joblib_launcher")
    done = sweep_of(tmp_path, "seed=1,2,3", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
    check_three_jobs(done, tmp_path)


def test_a_job_in_a_worker_of_joblib_starts_processes_of_its_own(tmp_path: Path) -> None:
    # like the metric workers
    require("hydra_joblib_launcher")
    body = """
        import multiprocessing
        from concurrent.futures import ProcessPoolExecutor
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            return pool.submit(abs, -cfg.seed).result()
    """
    done = sweep_of(tmp_path, "seed=1,2", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2", body=body)
    assert done.returncode == 0, done.stderr
    assert [o.objective for o in jobs.read_outcomes(tmp_path / "sweep")] == [(1.0,), (2.0,)]


def test_submitit_runs_each_job_in_its_own_process(tmp_path: Path) -> None:
    require("hydra_submitit_launcher")
    check_three_jobs(sweep_of(tmp_path, "seed=1,2,3", "hydra/launcher=submitit_local"), tmp_path)
    logs = [file.read_text() for file in sorted((tmp_path / "sweep" / ".submitit").rglob("*_log.out"))]
    assert sum("ran 1" in log for log in logs) == 1
    assert sum("ran 3" in log for log in logs) == 1


CLUSTER = """\
#!{python}
import os, re, subprocess, sys
from pathlib import Path
name, here = Path(sys.argv[0]).name, Path(sys.argv[0]).parent
if name == "sbatch":
    script = Path(sys.argv[1])
    (here / "script").write_text(script.read_text())  # as Slurm does: submitit removes its own
    last = int(re.search("--array=0-([0-9]+)", script.read_text())[1])
    for task in range(last + 1):
        numbers = dict(SLURM_JOB_ID=18 + task, SLURM_ARRAY_JOB_ID=17, SLURM_ARRAY_TASK_ID=task, SLURM_NTASKS=1,
                       SLURM_JOB_NUM_NODES=1, SLURM_NODEID=0, SLURM_PROCID=0, SLURM_LOCALID=0)
        environment = dict(os.environ, SLURM_JOB_NODELIST="here", **dict((k, str(v)) for k, v in numbers.items()))
        command = f"bash {{here / 'script'}} > {{here / 'log'}}-{{task}} 2>&1; touch {{here / 'ended'}}-{{task}}"
        subprocess.Popen(["bash", "-c", command], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    (here / "tasks").write_text(str(last + 1))
    print("Submitted batch job 17")
elif name == "srun":
    command = sys.argv[sys.argv.index(sys.executable):]
    sys.exit(subprocess.run(command).returncode)
elif name == "sacct":
    print("JobID|State|NodeList")
    for task in range(int((here / "tasks").read_text())):
        state = "COMPLETED" if (here / f"ended-{{task}}").exists() else "RUNNING"
        print(f"17_{{task}}|{{state}}|here")
"""


def test_submitit_hands_jobs_to_slurm(tmp_path: Path) -> None:
    # a stand-in for the cluster: three commands that run jobs on this machine
    require("hydra_submitit_launcher")
    cluster = tmp_path / "cluster"
    cluster.mkdir()
    for name in ("sbatch", "srun", "sacct"):
        (cluster / name).write_text(CLUSTER.format(python=sys.executable))
        (cluster / name).chmod(0o755)
    options = ["hydra.launcher.partition=gpu", "hydra.launcher.gpus_per_node=1", "hydra.launcher.timeout_min=90"]
    done = sweep_of(
        tmp_path,
        *("seed=1,2,3", "hydra/launcher=submitit_slurm", *options),
        PATH=f"{cluster}{os.pathsep}{os.environ['PATH']}",
    )
    for log in sorted(cluster.glob("log-*")):  # shown if the test fails
        print(f"{log.name}:\n{log.read_text()}")
    check_three_jobs(done, tmp_path)
    script = (cluster / "script").read_text()
    for line in ("partition=gpu", "gpus-per-node=1", "time=90", "array=0-2%3"):
        assert f"#SBATCH --{line}" in script


def test_ray_runs_jobs_on_its_workers(tmp_path: Path) -> None:
    require("hydra_ray_launcher")
    limits = ["+hydra.launcher.ray.init.num_cpus=2", "+hydra.launcher.ray.init.include_dashboard=false"]
    # an unbuffered stream writes the end of a line apart from it, and a line of Ray's thread may come between them
    environment = {"HOME": str(tmp_path), "PYTHONUNBUFFERED": ""}
    done = sweep_of(tmp_path, "seed=1,2,3", "hydra/launcher=ray", *limits, **environment)
    check_three_jobs(done, tmp_path, repeated=FROM_RAY)


def test_lines_that_ray_repeats_are_told_from_those_of_the_sweep() -> None:
    for line in (
        "\x1b[36m(_run_job pid=14722)\x1b[0m bcfusion: job 1 failed: ValueError: two is",
        "(_run_job pid=14722) ran 3",
        "\x1b[36m(pid=14722, ip=10.0.0.2)\x1b[0m ran 3",
        "\x1b[33m(raylet)\x1b[0m a worker died",
        "\x1b[36m(autoscaler +3s)\x1b[0m no resources",
    ):
        assert FROM_RAY.fullmatch(line), line
    for line in (
        "1 of 3 jobs failed: 1; see sweep/1/failed.txt",
        "bcfusion: job 1 failed: ValueError: two is",
        "(pid) x",
    ):
        assert not FROM_RAY.fullmatch(line), line


def test_a_killed_job_has_no_result(tmp_path: Path) -> None:
    require("hydra_submitit_launcher")
    done = sweep_of(tmp_path, "seed=1,9,3", "hydra/launcher=submitit_local")
    assert done.returncode == 2
    assert "the launcher of the sweep gave up" in done.stderr
    assert "Traceback" not in done.stderr
    outcomes = jobs.read_outcomes(tmp_path / "sweep")
    assert [o.status for o in outcomes] == ["finished", "no result", "finished"]
    assert "no result" in done.stdout


def test_a_launcher_that_is_not_installed_is_named_with_its_extra(tmp_path: Path) -> None:
    if importlib.util.find_spec("hydra_plugins.hydra_ray_launcher") is not None:
        pytest.skip("hydra_ray_launcher is installed")
    done = sweep_of(tmp_path, "seed=1,2", "hydra/launcher=ray")
    assert done.returncode == 2
    assert done.stderr == "hydra/launcher=ray: its package is not installed: pip install 'bcfusion[ray]'\n"


def test_a_single_run_prints_no_table_and_leaves_no_files_of_a_sweep(tmp_path: Path) -> None:
    app = write_app(tmp_path, "return 1.0")
    done = subprocess.run(
        [sys.executable, str(app), "hydra.run.dir=run"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "")
    assert not (tmp_path / "run" / "objective.json").exists()


def test_further_processes_of_a_job_get_its_directory(tmp_path: Path) -> None:
    # Lightning passes hydra.run.dir on to them
    body = """
        from hydra.core.hydra_config import HydraConfig
        assert HydraConfig.get().run.dir == HydraConfig.get().runtime.output_dir == os.path.abspath(f"sweep/{cfg.seed}")
    """
    done = sweep_of(tmp_path, "seed=0,1", body=body)
    assert done.returncode == 0, done.stderr


def test_errors_before_the_task_of_a_job_are_noted_too(tmp_path: Path) -> None:
    app = write_app(tmp_path, "return 1.0")
    app.write_text(
        "from bcfusion.commands.shared import hydra_app\n"
        "from bcfusion.errors import ConfigError\n"
        "def refuse(*_):\n"
        "    raise ConfigError(['losses: not so'])\n"
        "hydra_app.drop_unchosen = refuse\n" + app.read_text()
    )
    done = subprocess.run(
        [sys.executable, str(app), "-m", "seed=1,2", "hydra.sweep.dir=sweep"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert [o.note for o in jobs.read_outcomes(tmp_path / "sweep")] == ["losses: not so"] * 2


@pytest.mark.parametrize("package", [False, True], ids=["namespace", "package"])
def test_a_users_own_plugins_are_found_together_with_the_sweeper(tmp_path: Path, package: bool) -> None:
    plugins = tmp_path / "user" / "hydra_plugins"
    plugins.mkdir(parents=True)
    if package:
        (plugins / "__init__.py").touch()
    (plugins / "mine.py").write_text(
        "from hydra.plugins.search_path_plugin import SearchPathPlugin\n"
        "class Mine(SearchPathPlugin):\n"
        "    def manipulate_search_path(self, search_path):\n"
        "        print('mine is found')\n"
    )
    done = subprocess.run(
        [sys.executable, str(write_app(tmp_path, "return 1.0")), "hparams_search=optuna", "--cfg", "hydra"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": f"{plugins.parent}{os.pathsep}{ROOT}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "mine is found" in done.stdout
    assert "BcfusionOptunaSweeper" in done.stdout
