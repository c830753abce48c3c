"""The command line as a user meets it: real processes, real exit codes.

Where many calls differ in their words alone, they are made in this process, and one of each kind in its own process.
"""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from conftest import Call

from bcfusion.cli import HYDRA_VERBS, VERBS
from bcfusion.commands import exit_status
from bcfusion.errors import ConfigError

ROOT = Path(__file__).resolve().parent.parent
ENVIRONMENT = {
    name: value
    for name, value in os.environ.items()
    if name not in ("HYDRA_FULL_ERROR", "BCFUSION_TRACEBACK", "LOCAL_RANK", "COMP_LINE")
} | {"PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))}


def bcfusion(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return python("-m", "bcfusion.cli", *arguments, cwd=cwd, **environment)


def python(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env=ENVIRONMENT | environment,
        capture_output=True,
        text=True,
        timeout=120,
    )


# ---------------------------------------------------------------- verbs and help


@pytest.mark.slow
def test_help_lists_every_verb_without_loading_torch_or_hydra(tmp_path: Path) -> None:
    code = """
        import sys
        from bcfusion.cli import main
        assert main(["--help"]) == 0
        heavy = {"torch", "hydra", "omegaconf", "lightning", "numpy"} & set(sys.modules)
        assert not heavy, heavy
    """
    done = python("-c", textwrap.dedent(code), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for verb in VERBS:
        assert f"\n  {verb} " in done.stdout


@pytest.mark.slow
def test_help_takes_less_than_half_a_second(tmp_path: Path) -> None:
    def processor_seconds(*arguments: str) -> float:  # not wall-clock time: other processes share the machine
        before = os.times()
        assert python(*arguments, cwd=tmp_path).returncode == 0
        after = os.times()
        return after.children_user + after.children_system - before.children_user - before.children_system

    assert min(processor_seconds("-m", "bcfusion.cli", "--help") for _ in range(3)) < 0.5


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself_with_examples(verb: str, called: Call) -> None:
    """In a process of its own, tests/test_startup.py calls the help of each."""
    done = called(verb, "--help")
    assert done.returncode == 0, done.stderr
    assert f"bcfusion {verb}" in done.stdout
    assert "examples:" in done.stdout
    assert done.stderr == ""


@pytest.mark.parametrize("verb", HYDRA_VERBS)
def test_help_of_a_hydra_verb_names_the_members_of_each_group(verb: str, called: Call) -> None:
    assert "seanet_regression, seanet_streaming" in called(verb, "--help").stdout


@pytest.mark.slow
def test_module_and_script_are_the_same_command(tmp_path: Path) -> None:
    script = ROOT / "bcfusion" / "commands" / "check.py"
    by_verb = bcfusion("check", "--cfg", "job", "seed=3", cwd=tmp_path)
    by_script = python(str(script), "--cfg", "job", "seed=3", cwd=tmp_path)
    assert by_verb.returncode == by_script.returncode == 0
    assert by_verb.stdout == by_script.stdout
    assert "\nseed: 3\n" in by_verb.stdout


@pytest.mark.slow
def test_no_command_module_hides_a_module_of_the_standard_library() -> None:
    # Run as a script, a command has its folder first on the import path: a verb `inspect` needs another file name.
    names = {file.stem for file in (ROOT / "bcfusion" / "commands").glob("*.py")}
    assert not names & set(sys.stdlib_module_names)


@pytest.mark.slow
def test_version(tmp_path: Path) -> None:
    from bcfusion import __version__

    assert bcfusion("--version", cwd=tmp_path).stdout == f"bcfusion {__version__}\n"


# ---------------------------------------------------------------- wrong input


def short_error(done: subprocess.CompletedProcess[str]) -> str:
    """Return the message, after making sure that it has one or two lines and exit status 2."""
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert 1 <= len(done.stderr.strip().splitlines()) <= 2, done.stderr
    return done.stderr


@pytest.mark.slow
def test_an_unknown_verb_member_and_option_get_the_nearest_ones(tmp_path: Path) -> None:
    assert "did you mean 'train'?" in short_error(bcfusion("trian", cwd=tmp_path))
    assert "did you mean 'seanet'?" in short_error(bcfusion("check", "experiment=senet", cwd=tmp_path))
    assert "there is no option --foo" in short_error(bcfusion("check", "--foo", cwd=tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("argument", "says"),
    [
        ("experiment=senet", "did you mean 'seanet'?\navailable: ap_bwe, attention_fusion, "),
        ("generator=seanett", "did you mean 'seanet'?"),
        ("losses=[l1,mrstft]", "did you mean 'mr_stft'?\navailable: complex_l1, complex_mse, component, "),
        ("optimizer.lrr=1", "did you mean 'optimizer.lr'?"),
        ("optimiser.lr=1", "did you mean 'optimizer.lr'?"),
        ("experimnt=seanet", "did you mean 'experiment'?"),
        ("~losses.mrstft", "did you mean '~losses.mr_stft'?"),
        ("optimizer.lr.x=1", "'optimizer.lr' has no keys"),
        ("seed==1", "cannot read the argument 'seed==1'"),
        ("seed", "seed: a key without its value\nwrite seed=VALUE"),
        ("seed=1,2", "to run once per value write bcfusion check -m seed=1,2"),
        ("experiment=null", "write ~experiment for none"),
        ("losses=null", "write losses=[] for none"),
        ("~losses", "write losses=[] for none"),
        ("+seed=1", "leave out the +"),
        ("seed=abc", "seed: must be a whole number of at least 0 and of at most 4294967295, not 'abc'"),
        ("optimizer.lr=${nosuch}", "optimizer.lr: Interpolation key 'nosuch' not found"),
        ("hydra.run.dir=${nosuch}", "hydra.run.dir: Interpolation key 'nosuch' not found"),
        ("--config-dir=nosuch", "not found"),
        ("--config-nam=nosuch", "there is no option --config-nam; did you mean '--config-name'?"),
        ("--config-name=nosuch", "no root configuration 'nosuch'"),
        ("--multirun=1", "ignored explicit argument '1'"),
        ("--foo", "there is no option --foo"),
        ("--cfg=jbo", "invalid choice: 'jbo'"),
    ],
)
def test_a_configuration_error_is_one_or_two_lines(argument: str, says: str, called: Call) -> None:
    assert says in short_error(called("check", argument))


@pytest.mark.slow
def test_broken_yaml_is_named_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "conf" / "experiment" / "mine.yaml"
    file.parent.mkdir(parents=True)
    file.write_text("seed: 1\ndata: [1\n")
    assert f"{file}, line 3: not valid YAML" in short_error(bcfusion("check", "experiment=mine", cwd=tmp_path))


@pytest.mark.slow
def test_an_error_in_a_resolver_is_reported_to_the_user(tmp_path: Path) -> None:
    app = write_app(tmp_path, "return None")
    assert "resume: there is no nosuch" in python(str(app), "resume=nosuch", cwd=tmp_path).stderr


@pytest.mark.slow
def test_the_traceback_is_shown_on_request(tmp_path: Path) -> None:
    for variable in ("BCFUSION_TRACEBACK", "HYDRA_FULL_ERROR"):
        done = bcfusion("check", "experiment=senet", cwd=tmp_path, **{variable: "1"})
        assert done.returncode != 0
        assert "Traceback" in done.stderr


@pytest.mark.parametrize("named", [True, False])
def test_a_disk_that_takes_nothing_is_no_bug(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], named: bool
) -> None:
    def full(_: list[str]) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), *([str(tmp_path / "table.csv")] if named else []))

    def missing(_: list[str]) -> None:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), "a bug")

    for name in ("HYDRA_FULL_ERROR", "BCFUSION_TRACEBACK"):
        monkeypatch.delenv(name, raising=False)
    assert exit_status(full, []) == 2
    file = f"{tmp_path}/table.csv: the disk is full: " if named else "a file: No space left on device"
    assert capsys.readouterr().err.startswith(f"cannot write {file}")
    with pytest.raises(FileNotFoundError):
        exit_status(missing, [])
    monkeypatch.setenv("BCFUSION_TRACEBACK", "1")
    with pytest.raises(OSError, match="No space left"):
        exit_status(full, [])


def test_status_of_a_users_error_and_of_an_interrupt(capsys: pytest.CaptureFixture[str]) -> None:
    def mistaken(argv: list[str]) -> None:
        raise ConfigError(["data.root: missing", "sample_rate: 8000"])

    def interrupted(argv: list[str]) -> None:
        raise KeyboardInterrupt

    assert exit_status(mistaken, []) == 2
    assert capsys.readouterr().err == "data.root: missing\nsample_rate: 8000\n"
    assert exit_status(interrupted, []) == 130
    assert capsys.readouterr().err == ""


@pytest.mark.slow
@pytest.mark.parametrize("end", ["KeyboardInterrupt", "SystemExit(143)"])
def test_a_further_ctrl_c_while_python_ends_prints_nothing(tmp_path: Path, end: str) -> None:
    (tmp_path / "app.py").write_text(
        "import os, signal, sys, weakref\n"
        "from bcfusion.commands import exit_status\n"
        "class Resource: pass\n"
        "held = Resource()\n"
        "weakref.finalize(held, os.kill, os.getpid(), signal.SIGINT)\n"
        "def main(argv):\n"
        f"    raise {end}\n"
        "sys.exit(exit_status(main, []))\n"
    )
    done = python("app.py", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (143 if "143" in end else 130, "")


@pytest.mark.slow
@pytest.mark.parametrize("later", [0.0, 0.01])
def test_a_further_ctrl_c_before_python_ends_prints_nothing(tmp_path: Path, later: float) -> None:
    """While the frames of the exception are freed, or while Python waits for threads: before its exit hooks."""
    (tmp_path / "app.py").write_text(
        "import os, signal, sys, threading, time\n"
        "from bcfusion.commands import exit_status\n"
        "from bcfusion.startup import own_process\n"
        "go = threading.Event()\n"
        "def send():\n"
        f"    go.wait(); time.sleep({later}); os.kill(os.getpid(), signal.SIGINT)\n"
        "threading.Thread(target=send, daemon=True).start()\n"
        "def main(argv):\n"
        "    frames = [[each] for each in range(200_000)]\n"
        "    go.set()\n"
        "    raise SystemExit(130)\n"
        "own_process()\n"
        "status = exit_status(main, [])\n"
    )
    done = python("app.py", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (130, "")


@pytest.mark.slow
def test_a_process_that_nobody_tells_to_end_does_not_hold_an_interrupted_verb(tmp_path: Path) -> None:
    """As a scoring process is left that Ctrl-C has caught while its pool started."""
    (tmp_path / "app.py").write_text(
        "import multiprocessing, sys, time\n"
        "from bcfusion.commands import exit_status\n"
        "def main(argv):\n"
        "    multiprocessing.get_context('spawn').Process(target=time.sleep, args=(1000,)).start()\n"
        "    raise KeyboardInterrupt\n"
        "if __name__ == '__main__':\n"
        "    sys.exit(exit_status(main, []))\n"
    )
    assert python("app.py", cwd=tmp_path).returncode == 130


@pytest.mark.slow
def test_a_reader_that_stops_early_is_not_an_error() -> None:
    shell = f"set -o pipefail; {sys.executable} -m bcfusion.cli prepare --list | true; exit $PIPESTATUS"
    done = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (141, "")


def test_a_broken_pipe_inside_the_program_is_an_error() -> None:
    def broken(argv: list[str]) -> None:
        raise BrokenPipeError("a worker's")

    with pytest.raises(BrokenPipeError, match="a worker's"):
        exit_status(broken, [])


# ---------------------------------------------------------------- Hydra's features


def write_app(folder: Path, body: str) -> Path:
    """Write a script with a task of its own on the shell that all Hydra verbs share."""
    app = folder / "app.py"
    app.write_text(
        "import os, subprocess, sys\n"
        "from bcfusion.commands import exit_status\n"
        "from bcfusion.commands.shared.hydra_app import run\n"
        f"def task(cfg):\n{textwrap.indent(textwrap.dedent(body), '    ')}\n"
        "def main(argv):\n"
        "    print('returned', run(task, argv, module_file=__file__, verb='train'))\n"
        "if __name__ == '__main__':\n"
        "    sys.exit(exit_status(main, sys.argv[1:]))\n"
    )
    return app


@pytest.mark.slow
def test_the_task_gets_the_configuration_and_its_result_comes_back(tmp_path: Path) -> None:
    done = python(str(write_app(tmp_path, "return cfg.seed + 1")), "seed=41", cwd=tmp_path)
    assert done.stdout == "returned 42\n"


@pytest.mark.slow
def test_a_bug_in_the_task_keeps_its_traceback(tmp_path: Path) -> None:
    done = python(str(write_app(tmp_path, "return {}['nosuch']")), cwd=tmp_path)
    assert done.returncode == 1
    assert "return {}['nosuch']" in done.stderr
    assert "KeyError: 'nosuch'" in done.stderr


@pytest.mark.slow
def test_a_users_error_in_the_task_is_its_text_alone(tmp_path: Path) -> None:
    body = "from bcfusion.errors import DataError\nraise DataError('data.root: the folder is empty')"
    done = python(str(write_app(tmp_path, body)), cwd=tmp_path)
    assert (done.returncode, done.stderr) == (2, "data.root: the folder is empty\n")


@pytest.mark.slow
def test_processes_started_by_lightning_get_the_same_configuration(tmp_path: Path) -> None:
    body = """
        print("rank", os.environ.get("LOCAL_RANK", 0), cfg.seed, cfg.generator.channels, flush=True)
        if "LOCAL_RANK" not in os.environ:
            from lightning.fabric.strategies.launchers.subprocess_script import _hydra_subprocess_cmd
            command, cwd = _hydra_subprocess_cmd(local_rank=1)
            subprocess.run(command, cwd=cwd, env=os.environ | {"LOCAL_RANK": "1"}, check=True)
    """
    member = tmp_path / "mine" / "generator" / "small.yaml"
    member.parent.mkdir(parents=True)
    member.write_text("channels: 5\n")
    app = write_app(tmp_path, body)
    done = python(str(app), "seed=7", "generator=small", "--config-dir", "mine", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "rank 0 7 5\n" in done.stdout
    assert "rank 1 7 5\n" in done.stdout


@pytest.mark.slow
def test_a_process_started_by_module_name_finds_its_verb_in_the_environment(tmp_path: Path) -> None:
    # Lightning starts the further processes of `python -m bcfusion.cli train ...` without the verb.
    done = bcfusion("--cfg", "job", "seed=3", cwd=tmp_path, LOCAL_RANK="1", BCFUSION_VERB="check")
    assert "\nseed: 3\n" in done.stdout, done.stderr


@pytest.mark.slow
def test_jobs_of_a_sweep_do_not_affect_each_other(tmp_path: Path) -> None:
    body = """
        print("job", cfg.seed, sys.argv[1:], os.environ.get("LOCAL_RANK"), os.environ.get("HYDRA_FULL_ERROR"))
        os.environ["LOCAL_RANK"] = "0"  # as Lightning does when it starts processes
        return cfg.seed
    """
    done = python(str(write_app(tmp_path, body)), "-m", "seed=1,2", "hydra.sweep.dir=sweep", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    machine = "gpu" if torch.cuda.is_available() else "cpu"
    for seed in (1, 2):
        assert f"job {seed} ['seed={seed}', 'machine={machine}'] None None\n" in done.stdout


@pytest.mark.slow
def test_overrides_may_follow_options(tmp_path: Path) -> None:
    done = bcfusion("check", "seed=1", "--cfg", "job", "sample_rate=8000", "--package", "seed", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "1\n"), done.stderr


@pytest.mark.slow
def test_info_and_hydra_help_are_reachable(tmp_path: Path) -> None:
    assert "== Flags ==" in bcfusion("check", "--hydra-help", cwd=tmp_path).stdout
    assert "experiment/seanet" in bcfusion("check", "experiment=seanet", "--info", "defaults", cwd=tmp_path).stdout


@pytest.mark.slow
def test_members_of_the_working_directory_are_added_to_the_shipped_ones(tmp_path: Path) -> None:
    folder = tmp_path / "conf" / "experiment"
    folder.mkdir(parents=True)
    (folder / "mine.yaml").write_text("# @package _global_\nseed: 77\n")
    (folder / "seanet.yaml").write_text("# @package _global_\nseed: 78\n")
    done = bcfusion("check", "experiment=mine", "--cfg", "job", "-p", "seed", cwd=tmp_path)
    assert done.stdout == "77\n"
    assert f"{folder / 'seanet.yaml'}: not used, a shipped file has that name" in done.stderr


@pytest.mark.slow
def test_check_prints_what_a_network_costs_and_leaves_nothing_behind(tmp_path: Path) -> None:
    typed = ["check", "experiment=seanet_streaming", "discriminators=[]", "check.step=false"]
    done = bcfusion(*typed, cwd=tmp_path, COLUMNS="120")
    assert done.returncode == 0, done.stderr
    facts = dict(line.strip("│ ").split("│", 1) for line in done.stdout.splitlines() if line.startswith("│"))
    facts = {name.strip(): value.strip() for name, value in facts.items()}
    assert facts["parameters"] == "0.693 M"
    assert facts["causal"] == "yes"
    assert facts["latency"].startswith("255 samples (15.9 ms)")  # the rest of a frame of 256
    assert facts["loss feature_matching"] == "left out without discriminators"
    assert not list(tmp_path.iterdir())
