"""scripts/slurm/train.sbatch: what it starts can be composed, and a job that was stopped resumes."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from hydra.utils import instantiate
from omegaconf import DictConfig

SCRIPT = Path(__file__).parents[1] / "scripts" / "slurm" / "train.sbatch"
OVERRIDES = ["experiment=seanet", "data=shards", "data.root=my shards", "budget.minutes=2880"]


@pytest.fixture
def submit(tmp_path: Path) -> Callable[[int], tuple[int, list[str], str]]:
    """Return a function that runs the script with an `srun` that records its arguments and ends with a given status.

    It returns the status of the script, what `srun` was to start, and the arguments of `scontrol`.
    """
    (tmp_path / "srun").write_text('#!/bin/bash\nprintf "%s\\n" "$@" > started\nexit "$SRUN_STATUS"\n')
    (tmp_path / "scontrol").write_text('#!/bin/bash\necho "$@" > requeued\n')
    for name in ("srun", "scontrol"):
        (tmp_path / name).chmod(0o755)

    def run(status: int) -> tuple[int, list[str], str]:
        environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "17"}
        environment["SRUN_STATUS"] = str(status)
        done = subprocess.run(["bash", str(SCRIPT), *OVERRIDES], cwd=tmp_path, env=environment)
        requeued = tmp_path / "requeued"
        text = requeued.read_text() if requeued.exists() else ""
        requeued.unlink(missing_ok=True)
        return done.returncode, (tmp_path / "started").read_text().splitlines(), text

    return run


@pytest.mark.slow
def test_it_starts_a_run_and_resumes_it_after_a_stop(
    submit: Callable[[int], tuple[int, list[str], str]], tmp_path: Path
) -> None:
    first = ["bcfusion", "train", "trainer=slurm", *OVERRIDES, "hydra.run.dir=runs/slurm/17"]
    assert submit(1) == (1, first, ""), "what failed is not tried again"
    assert submit(143) == (143, first, "requeue 17\n")
    last = tmp_path / "runs" / "slurm" / "17" / "checkpoints" / "last.ckpt"
    last.parent.mkdir(parents=True)
    last.touch()
    assert submit(0) == (0, [*first[:-1], "resume=runs/slurm/17"], "")


def test_what_it_starts_is_a_configuration(
    composed: Callable[..., DictConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = dict(re.findall(r"^#SBATCH --([a-z-]+)=(\S+)$", SCRIPT.read_text(), re.MULTILINE))
    assert asked["ntasks-per-node"] == asked["gpus-per-node"], "a process for each GPU"
    assert asked["signal"].startswith("TERM@"), "the signal at which the state is saved, to the tasks, not to the shell"
    monkeypatch.setenv("SLURM_NTASKS_PER_NODE", asked["ntasks-per-node"])
    monkeypatch.setenv("SLURM_NNODES", "2")
    trainer = composed("trainer=slurm", *OVERRIDES).trainer
    assert (trainer.devices, trainer.num_nodes, trainer.strategy) == (4, 2, "ddp")
    environment = instantiate(trainer.environment)
    assert type(environment).__name__ == "SLURMEnvironment"
    assert not environment.auto_requeue


def test_without_slurm_the_same_configuration_uses_one_machine(composed: Callable[..., DictConfig]) -> None:
    trainer = composed("trainer=slurm").trainer
    assert (trainer.devices, trainer.num_nodes) == ("auto", 1)
