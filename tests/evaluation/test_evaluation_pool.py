from __future__ import annotations

import math
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import OmegaConf

from bcfusion.configuration.paths import conf_dir
from bcfusion.contracts import Metric, Skip
from bcfusion.errors import ConfigError
from bcfusion.evaluation.pool import Scorer, available_workers
from bcfusion.evaluation.scores import ItemScore
from bcfusion.metrics.lsd import Lsd
from bcfusion.metrics.optional import LazyMetric
from bcfusion.metrics.pesq import Pesq
from bcfusion.metrics.si_sdr import SiSdr
from bcfusion.metrics.stoi import Stoi

RATE = 16_000
FATAL = 6.0  # an estimate that begins with it kills the process that scores it
FATAL_ONCE = 5.0  # the same, but only the first time
WAITS = 7.0  # an estimate that begins with it is scored after one that begins with RELEASES
RELEASES = 8.0
FATAL_AFTER = 9.0  # the same as FATAL, once FATAL_ONCE has killed
PATIENCE = 60.0  # seconds; without a release there is no score


def wait_for(file: Path) -> None:
    deadline = time.monotonic() + PATIENCE
    while not file.exists():
        if time.monotonic() > deadline:
            raise Skip(f"no {file.name}")
        time.sleep(0.01)


class Probe:
    """A user's own metric: reports about its process, and does what the first sample of the estimate requests."""

    names: tuple[str, ...] = ("pid", "torch_loaded", "blas_threads", "signals_blocked", "main_is_bare")
    higher_is_better: Mapping[str, bool | None] = dict.fromkeys(names)

    def __init__(self, directory: str = "") -> None:
        self.directory = directory

    def score(self, estimate: np.ndarray, target: np.ndarray, sample_rate: int) -> dict[str, float]:
        if estimate[0] == FATAL:
            os.kill(os.getpid(), signal.SIGKILL)
        if estimate[0] == FATAL_ONCE:
            try:
                Path(self.directory, "died").touch(exist_ok=False)
            except FileExistsError:
                pass
            else:
                os.kill(os.getpid(), signal.SIGKILL)
        if estimate[0] == FATAL_AFTER:
            wait_for(Path(self.directory, "died"))
            os.kill(os.getpid(), signal.SIGKILL)
        released = Path(self.directory, "released")
        if estimate[0] == RELEASES:
            released.touch()
        if estimate[0] == WAITS:
            wait_for(released)
        if estimate[0] == 3.0:
            raise Skip("as it likes")
        if estimate[0] == 2.0:
            raise KeyError("a bug")
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [])
        return {
            "pid": math.inf if estimate[0] == 4.0 else os.getpid(),
            "torch_loaded": "torch" in sys.modules,
            "blas_threads": float(os.environ.get("OPENBLAS_NUM_THREADS", "0")),
            "signals_blocked": {signal.SIGINT, signal.SIGTERM} <= blocked,
            "main_is_bare": getattr(sys.modules["__main__"], "__spec__", None) is None,
        }


class Breaks:
    """A metric with one value."""

    names: tuple[str, ...] = ("breaks",)
    higher_is_better: Mapping[str, bool | None] = {"breaks": True}

    def score(self, estimate: np.ndarray, target: np.ndarray, sample_rate: int) -> dict[str, float]:
        return {"breaks": 1.0}


def signals(count: int, seconds: float = 1.0) -> Iterator[tuple[str, dict[str, np.ndarray], np.ndarray]]:
    """Yield modulated noise, which all metrics accept, with two systems of different quality."""
    generator = np.random.default_rng(0)
    time_axis = np.arange(round(seconds * RATE)) / RATE
    for index in range(count):
        target = 0.1 * generator.standard_normal(time_axis.size) * (1.1 + np.sin(2 * np.pi * 4 * time_axis))
        noise = generator.standard_normal(time_axis.size)
        systems = {"input": target + 0.1 * noise, "estimate": target + 0.02 * noise}
        yield f"item-{index}", {name: x.astype(np.float32) for name, x in systems.items()}, target.astype(np.float32)


def first(value: float) -> dict[str, np.ndarray]:
    return {"estimate": np.array([value, 0.0, 0.0])}


def score(scorer: Scorer, *values: float) -> list[ItemScore]:
    for index, value in enumerate(values):
        scorer.submit(f"item-{index}", first(value), np.ones(3))
    return scorer.collect().rows


@pytest.fixture(scope="module")
def scorer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scorer]:
    with Scorer({"probe": Probe(str(tmp_path_factory.mktemp("probe")))}, RATE, workers=1) as made:
        yield made


@pytest.mark.slow
def test_workers_give_the_scores_of_this_process_in_the_order_of_submission() -> None:
    metrics: dict[str, Metric] = {"pesq_wb": Pesq(), "estoi": Stoi(extended=True), "si_sdr": SiSdr(), "lsd": Lsd()}
    results = []
    for workers in (0, 2):
        with Scorer(metrics, RATE, workers=workers) as made:
            for item, systems, target in signals(12):
                made.submit(item, systems, target, {"speaker": "a"})
                target[:] = 0  # the caller may reuse its memory at once
                for array in systems.values():
                    array[:] = 0
            results.append(made.collect())
    inside, outside = results
    for there, here in zip(outside.rows, inside.rows, strict=True):
        assert (there.id, there.system, there.skipped, there.info) == (here.id, here.system, {}, {"speaker": "a"})
        assert there.values == pytest.approx(here.values, rel=1e-9)  # sums differ with the number of BLAS threads
    assert [row.id for row in outside.rows[::2]] == [f"item-{i}" for i in range(12)]
    assert outside.systems == ("input", "estimate")
    assert outside.names == ("pesq_wb", "estoi", "si_sdr", "si_sdr_aligned", "si_sdr_lag_ms", "lsd")
    assert outside.count("pesq_wb", "estimate") == 12
    assert outside.mean("estimate")["si_sdr"] > outside.mean("input")["si_sdr"] + 10


@pytest.mark.slow
def test_a_worker_is_a_bare_process_with_one_thread_that_leaves_signals_to_its_parent(scorer: Scorer) -> None:
    (row,) = score(scorer, 0.0)
    facts = {name: row.values[name] for name in ("torch_loaded", "blas_threads", "signals_blocked", "main_is_bare")}
    assert facts == {"torch_loaded": 0, "blas_threads": 1, "signals_blocked": 1, "main_is_bare": 1}
    assert row.values["pid"] != os.getpid()
    assert not {signal.SIGINT, signal.SIGTERM} & signal.pthread_sigmask(signal.SIG_BLOCK, [])


@pytest.mark.slow
def test_workers_are_kept_between_validations_and_survive_ctrl_c(scorer: Scorer) -> None:
    (before,) = score(scorer, 0.0)
    os.kill(int(before.values["pid"]), signal.SIGINT)
    os.kill(int(before.values["pid"]), signal.SIGTERM)
    time.sleep(0.2)
    (after,) = score(scorer, 0.0)
    assert after == before


@pytest.mark.slow
def test_an_utterance_that_kills_its_worker_is_skipped_and_the_others_are_scored(scorer: Scorer) -> None:
    rows = score(scorer, 0.0, FATAL, 0.0, 0.0)
    assert [row.id for row in rows] == ["item-0", "item-1", "item-2", "item-3"]
    assert [set(row.skipped.values()) for row in rows] == [set(), {"scoring process died"}, set(), set()]
    assert all(math.isnan(value) for value in rows[1].values.values())
    assert os.getpid() not in {row.values["pid"] for row in rows}


@pytest.mark.slow
def test_an_utterance_whose_worker_died_by_chance_is_scored_after_all(scorer: Scorer) -> None:
    rows = score(scorer, 0.0, FATAL_ONCE, 0.0)
    assert not any(row.skipped for row in rows)


@pytest.mark.slow
def test_the_death_of_one_worker_does_not_wait_for_another_that_hangs() -> None:
    before = set(multiprocessing.active_children())
    with Scorer({"probe": Probe()}, RATE, workers=2) as made:
        score(made, *[0.0] * 10)  # more than may be pending at once
        hanging, dying = set(multiprocessing.active_children()) - before
        os.kill(hanging.pid or 0, signal.SIGSTOP)
        os.kill(dying.pid or 0, signal.SIGKILL)
        time.sleep(0.5)  # the pool notices while nothing is pending
        rows = score(made, *[0.0] * 10)
        assert len(rows) == 10
        assert not any(row.skipped for row in rows)


@pytest.mark.slow
def test_without_any_worker_the_scores_are_computed_in_this_process(
    monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    monkeypatch.setattr("bcfusion.evaluation.workers._prepare_worker", _die)
    with Scorer({"probe": Probe()}, RATE, workers=2) as made:
        rows = score(made, 0.0, 0.0)
    assert [row.values["pid"] for row in rows] == [os.getpid()] * 2
    assert "no scoring process can be started" in caplog.text


def test_without_further_processes_the_scores_are_computed_in_this_process(
    monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    def refuse(_: object) -> None:
        raise BlockingIOError("Resource temporarily unavailable")

    monkeypatch.setattr("bcfusion.evaluation.workers._Process.start", refuse)
    with Scorer({"probe": Probe()}, RATE, workers=1) as made:
        rows = score(made, 0.0, 0.0)
    assert [row.values["pid"] for row in rows] == [os.getpid()] * 2
    assert "Resource temporarily unavailable" in caplog.text


def _die() -> None:
    os._exit(3)


@pytest.mark.parametrize(("value", "reason"), [(3.0, "as it likes"), (2.0, "KeyError: 'a bug'")])
def test_whatever_a_metric_raises_is_a_counted_reason(value: float, reason: str) -> None:
    scorer = Scorer({"probe": Probe()}, RATE, workers=0)
    scorer.submit("bad", first(value), np.ones(3))
    scorer.submit("good", first(0.0), np.ones(3))
    scores = scorer.collect()
    assert scores.skipped("estimate") == {name: {reason: 1} for name in Probe.names}
    assert scores.count("pid", "estimate") == 1
    assert scores.mean("estimate")["pid"] == os.getpid()


def test_a_score_that_is_not_finite_does_not_poison_the_mean() -> None:
    scorer = Scorer({"probe": Probe()}, RATE, workers=0)
    rows = score(scorer, 4.0)
    assert rows[0].skipped == {"pid": "non-finite score"}
    assert math.isnan(rows[0].values["pid"])


@pytest.mark.slow
def test_collect_starts_from_scratch_and_reset_forgets(scorer: Scorer) -> None:
    assert len(score(scorer, 0.0, 0.0)) == 2
    assert scorer.collect().rows == []
    scorer.submit("interrupted", first(0.0), np.ones(3))
    scorer.reset()
    assert [row.id for row in score(scorer, 0.0)] == ["item-0"]


# ---------------------------------------------------------------- a part of what was submitted


def submit(scorer: Scorer, **values: float) -> None:
    """Submit utterances by their ids and what the estimates begin with."""
    for item, value in values.items():
        scorer.submit(item, first(value), np.ones(3))


def ids(scorer: Scorer, count: int | None = None) -> list[str]:
    return [row.id for row in scorer.collect(count).rows]


def test_the_first_so_many_are_collected_and_then_the_rest() -> None:
    scorer = Scorer({"probe": Probe()}, RATE, workers=0)
    submit(scorer, a=0.0, b=0.0, c=0.0)
    assert ids(scorer, 2) == ["a", "b"]
    assert ids(scorer, 0) == []
    submit(scorer, d=0.0)
    assert ids(scorer, 1) == ["c"]
    submit(scorer, e=0.0)
    assert ids(scorer) == ["d", "e"]
    assert ids(scorer) == []


@pytest.mark.parametrize("count", [3, -1])
def test_more_than_was_submitted_is_refused_and_nothing_is_lost(count: int) -> None:
    scorer = Scorer({"probe": Probe()}, RATE, workers=0)
    submit(scorer, a=0.0, b=0.0, c=0.0)
    assert ids(scorer, 1) == ["a"]
    with pytest.raises(ValueError, match=rf"count={count} must be 0 to 2, the number of utterances"):
        scorer.collect(count)
    assert ids(scorer) == ["b", "c"]
    with pytest.raises(ValueError, match=r"must be 0 to 0"):
        scorer.collect(1)


@pytest.mark.parametrize("end", [Scorer.reset, Scorer.close])
def test_a_reset_or_close_between_forgets_the_rest(end: Callable[[Scorer], None]) -> None:
    with Scorer({"probe": Probe()}, RATE, workers=0) as scorer:
        submit(scorer, a=0.0, b=0.0)
        assert ids(scorer, 1) == ["a"]
        end(scorer)
        submit(scorer, c=0.0, d=0.0)
        assert ids(scorer, 1) == ["c"]
        assert ids(scorer) == ["d"]


@pytest.mark.slow
@pytest.mark.parametrize("end", [Scorer.reset, Scorer.close])
def test_what_workers_finish_after_a_reset_or_close_is_not_collected(
    end: Callable[[Scorer], None], tmp_path: Path
) -> None:
    with Scorer({"probe": Probe(str(tmp_path))}, RATE, workers=2) as scorer:
        submit(scorer, a=0.0, b=WAITS, c=0.0)
        assert ids(scorer, 1) == ["a"]
        released = Path(tmp_path, "released")
        if end is Scorer.close:  # which waits for the workers
            released.touch()
        end(scorer)
        released.touch()
        submit(scorer, d=0.0, e=0.0)
        assert ids(scorer, 1) == ["d"]
        assert ids(scorer) == ["e"]


@pytest.mark.slow
def test_utterances_that_finish_late_keep_their_place(tmp_path: Path) -> None:
    with Scorer({"probe": Probe(str(tmp_path))}, RATE, workers=2) as scorer:
        submit(scorer, late=WAITS, b=0.0, c=0.0, d=RELEASES, e=0.0)
        rows = scorer.collect(2).rows
        assert [row.id for row in rows] == ["late", "b"]
        assert not any(row.skipped for row in rows)
        assert ids(scorer) == ["c", "d", "e"]


@pytest.mark.slow
def test_a_worker_that_dies_while_a_part_is_waited_for_costs_one_utterance(tmp_path: Path) -> None:
    with Scorer({"probe": Probe(str(tmp_path))}, RATE, workers=2) as scorer:
        submit(scorer, a=FATAL_ONCE, b=0.0, c=FATAL_AFTER, d=0.0)
        parts = [scorer.collect(count).rows for count in (2, 1, None)]
    assert [[row.id for row in rows] for rows in parts] == [["a", "b"], ["c"], ["d"]]
    reasons = {row.id: set(row.skipped.values()) for rows in parts for row in rows}
    assert reasons == {"a": set(), "b": set(), "c": {"scoring process died"}, "d": set()}


@pytest.mark.parametrize(("cores", "beside_a_network", "alone"), [(1, 1, 1), (2, 1, 2), (12, 6, 12), (64, 8, 16)])
def test_without_a_network_every_core_scores(
    monkeypatch: pytest.MonkeyPatch, cores: int, beside_a_network: int, alone: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)))
    assert available_workers(with_network=True) == beside_a_network
    assert available_workers(with_network=False) == alone


@pytest.mark.slow
def test_something_else_is_computed_in_a_worker_or_here_if_that_dies() -> None:
    here = os.getpid()
    with Scorer({"probe": Probe()}, RATE, workers=1) as made:
        aside = made.aside(os.getpid)
        assert aside.result() != here
        assert aside.done()
        lost = made.aside(partial(_die_elsewhere, here))
        assert lost.result() == here
        assert made.aside(os.getpid).result() == here, "nothing is begun in a broken pool"
        assert len(score(made, 0.0)) == 1, "utterances start new workers"
        assert made.aside(os.getpid).result() != here
        with pytest.raises(ZeroDivisionError):
            made.aside(partial(divmod, 1, 0)).result()
        waiting = [made.aside(partial(_slowly, here)) for _ in range(8)]
    assert [each.result() for each in waiting][-1] == here, "the workers have ended before its turn"
    with Scorer({}, RATE, workers=0) as none:
        aside = none.aside(os.getpid)
        assert aside.done()
        assert aside.result() == here


def _die_elsewhere(process: int) -> int:
    if os.getpid() != process:
        os.kill(os.getpid(), signal.SIGKILL)
    return process


def _slowly(process: int) -> int:
    if os.getpid() != process:
        time.sleep(0.2)
    return os.getpid()


def test_a_backlog_below_one_is_refused() -> None:
    with pytest.raises(ConfigError, match="backlog=0 must be at least 1"):
        Scorer({"probe": Probe()}, RATE, backlog=0)


@pytest.mark.slow
def test_submitting_waits_only_for_what_exceeds_the_backlog(tmp_path: Path) -> None:
    with Scorer({"probe": Probe(str(tmp_path))}, RATE, workers=1, backlog=10) as scorer:
        submit(scorer, first=WAITS, **{f"item_{number}": 0.0 for number in range(9)})
        Path(tmp_path, "released").touch()  # after all were submitted: by default, the fifth would have waited
        rows = scorer.collect().rows
        assert len(rows) == 10
        assert not any(row.skipped for row in rows)
    Path(tmp_path, "released").unlink()
    with Scorer({"probe": Probe(str(tmp_path))}, RATE, workers=1, backlog=1) as scorer:
        submit(scorer, a=RELEASES, b=0.0)
        assert Path(tmp_path, "released").exists(), "the second utterance has waited for the first"


@pytest.mark.slow
def test_a_closed_scorer_leaves_no_process_and_starts_again_when_used() -> None:
    with Scorer({"probe": Probe()}, RATE, workers=1) as made:
        (row,) = score(made, 0.0)
        made.close()
        assert not Path("/proc", str(int(row.values["pid"]))).exists()
        (again,) = score(made, 0.0)
    assert again.values["pid"] != row.values["pid"]


def test_mistakes_are_named_when_the_scorer_is_made() -> None:
    with pytest.raises(ConfigError, match=r"metrics.second: metrics.first gives a value 'lsd' too"):
        Scorer({"first": Lsd(), "second": Lsd(floor=1e-10)}, RATE)

    class Local(Breaks):
        pass

    with pytest.raises(ConfigError, match=r"metrics.local: cannot be pickled"):
        Scorer({"local": Local()}, RATE, workers=1)
    assert score(Scorer({"local": Local()}, RATE, workers=0), 0.0)[0].values == {"breaks": 1.0}
    with pytest.raises(ValueError, match=r"item-7: estimate must be \(T,\)"):
        Scorer({}, RATE, workers=0).submit("item-7", {"estimate": np.zeros((1, 3))}, np.zeros(3))


# A script without `if __name__ == "__main__"`, which multiprocessing would run again in every worker.
SCRIPT = """
import os, sys, time
import numpy as np
from bcfusion.evaluation.pool import Scorer
from test_evaluation_pool import Probe
open({log!r}, "a").write("run\\n")
scorer = Scorer({{"probe": Probe()}}, 16000, workers=1)
scorer.submit("item", {{"estimate": np.zeros(3)}}, np.ones(3))
print(int(scorer.collect().rows[0].values["pid"]), os.getpid(), flush=True)
{end}
"""


def run_script(tmp_path: Path, end: str, start: Callable[[Path], list[str]]) -> tuple[int, int, subprocess.Popen[str]]:
    script = tmp_path / "unguarded.py"
    script.write_text(textwrap.dedent(SCRIPT).format(log=str(tmp_path / "log"), end=end))
    path = os.pathsep.join([str(tmp_path), str(Path(__file__).parent), *sys.path])
    process = subprocess.Popen(
        [sys.executable, *start(script)], env={**os.environ, "PYTHONPATH": path}, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    worker, main = (int(pid) for pid in process.stdout.readline().split())
    return worker, main, process


@pytest.mark.slow
@pytest.mark.parametrize(
    "start", [lambda script: [str(script)], lambda script: ["-m", script.stem]], ids=["file", "-m"]
)
def test_a_main_script_without_a_guard_is_not_run_again(tmp_path: Path, start: Callable[[Path], list[str]]) -> None:
    worker, main, process = run_script(tmp_path, "", start)
    assert process.wait(30) == 0
    assert worker != main
    assert (tmp_path / "log").read_text() == "run\n"


@pytest.mark.slow
def test_workers_die_with_a_killed_parent_even_if_it_has_forked(tmp_path: Path) -> None:
    # the forked child, like a data loader's, inherits every pipe of the parent and keeps it open
    end = "child = os.fork()\nprint(child, flush=True) if child else None\ntime.sleep(60)"
    worker, main, process = run_script(tmp_path, end, lambda script: [str(script)])
    assert process.stdout is not None
    child = int(process.stdout.readline())
    try:
        os.kill(main, signal.SIGKILL)
        process.wait(10)
        deadline = time.monotonic() + 10
        while _alive(worker) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert not _alive(worker)
    finally:
        os.kill(child, signal.SIGKILL)


def _alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:  # it ended before or while it was read
        return False
    return state != "Z"  # in a container orphans may stay zombies


@pytest.mark.slow
@pytest.mark.parametrize("path", sorted((Path(conf_dir()) / "metrics").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_metric_is_keyed_by_its_name_and_gives_its_value(path: Path, tmp_path: Path) -> None:
    assert path.read_text().startswith("# bcfusion ")
    config = OmegaConf.merge(OmegaConf.load(path), {"cutoff_frequency": 1000})
    if path.stem == "wer":  # needs the user's recogniser
        (tmp_path / "item-0.txt").write_text("word")
        config.wer.update({"command": "true {wav}", "transcripts": str(tmp_path)})
    try:
        metric = instantiate(OmegaConf.select(config, path.stem))
    except InstantiationException as error:
        if "not installed; pip install 'bcfusion[" not in str(error.__cause__):
            raise
        pytest.skip(str(error.__cause__))
    assert isinstance(metric, Metric)
    assert set(metric.higher_is_better) == set(metric.names)
    assert metric.names[0].startswith("csig" if path.stem == "composite" else path.stem)
    if not isinstance(metric, LazyMetric):  # whose weights may have to be downloaded
        with Scorer({path.stem: metric}, RATE, workers=0) as made:
            for item, systems, target in signals(1):
                made.submit(item, systems, target)
            rows = made.collect().rows
        assert [row.skipped for row in rows] == [{}, {}]
        assert set(rows[0].values) == set(metric.names)
