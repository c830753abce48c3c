from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import lightning
import numpy as np
import pytest
import torch
from torch import Tensor

from bcfusion import audio
from bcfusion.contracts import Batch, Draw, Row
from bcfusion.data.loading import loaders
from bcfusion.data.loading.loaders import EvalLoader, StepLoader, UnreadableTally
from bcfusion.data.loading.reader import SensorReader
from bcfusion.data.loading.schedule import BatchSchedule
from bcfusion.data.loading.segments import EvalItems, TrainSegments
from bcfusion.errors import AudioError, ConfigError, DataError
from bcfusion.run.processes import runs

RATE = 8000


def noisy(air: Tensor, draw: Draw) -> dict[str, Tensor]:
    return {"signal": air + torch.randn(air.shape, generator=draw.generator)}


def failing(air: Tensor, draw: Draw) -> dict[str, Tensor]:
    raise ConfigError(["degradation: a cutoff", "degradation: a rate"])


@pytest.fixture
def rows(tmp_path: Path) -> list[Row]:
    made = []
    for number in range(5):
        path = tmp_path / f"{number}.wav"
        audio.write(path, np.random.default_rng(number).uniform(-0.5, 0.5, 2 * RATE), RATE)
        made.append(Row(str(number), {"air": str(path)}, "s", "train", RATE, 2.0))
    return made


def loader(
    rows: list[Row], workers: int = 0, passes: int = 4, share: float = 0.5, simulator: object = noisy
) -> StepLoader:
    segments = TrainSegments(rows, SensorReader(["body"], {"body": simulator}, RATE), 0.5, seed=1)  # type: ignore[dict-item]
    schedule = BatchSchedule(len(segments), 3, seed=1)
    return StepLoader(segments, schedule, passes, UnreadableTally(len(rows), share, "train"), workers)


def endless(steps: StepLoader) -> Iterator[Batch]:
    while True:
        yield from steps


def equal(a: Batch, b: Batch) -> bool:
    return torch.equal(a["inputs"], b["inputs"]) and torch.equal(a["target"], b["target"]) and a["ids"] == b["ids"]


@pytest.mark.parametrize(("n_items", "batch_size", "world_size"), [(10, 3, 1), (7, 4, 2), (2, 5, 3)])
def test_every_epoch_visits_every_item_once_over_all_ranks(n_items: int, batch_size: int, world_size: int) -> None:
    ranks = [BatchSchedule(n_items, batch_size, 0, rank, world_size) for rank in range(world_size)]
    visits = [key for number in range(4 * n_items) for rank in ranks for key in rank.batch(number)]
    assert {len(rank.batch(number)) for rank in ranks for number in range(9)} == {batch_size}
    complete = visits[-1][0]
    assert complete > 2
    assert [epoch for epoch, _ in visits] == sorted(epoch for epoch, _ in visits)
    for epoch in range(complete):
        assert sorted(index for e, index in visits if e == epoch) == list(range(n_items))


def test_epochs_are_shuffled_each_in_its_own_way() -> None:
    schedule = BatchSchedule(50, 50, seed=0)
    orders = [[index for _, index in schedule.batch(number)] for number in range(3)]
    assert len({tuple(order) for order in [*orders, list(range(50))]}) == 4
    assert [index for _, index in BatchSchedule(50, 50, seed=1).batch(0)] != orders[0]


def test_a_schedule_begun_later_is_the_rest_of_the_same_schedule() -> None:
    whole = list(islice(BatchSchedule(7, 3, seed=5), 20))
    assert list(islice(BatchSchedule(7, 3, seed=5, start_batch=11), 9)) == whole[11:]
    assert BatchSchedule(7, 3, seed=5).batch(11) == whole[11]


def test_a_schedule_of_nothing_is_refused() -> None:
    for arguments in ((0, 1, 0), (1, 0, 0), (1, 1, 0, 2, 2)):
        with pytest.raises(ValueError, match="no schedule"):
            BatchSchedule(*arguments)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_stream_resumed_at_any_batch_is_bit_identical_to_the_uninterrupted_one(rows: list[Row], workers: int) -> None:
    uninterrupted = list(islice(endless(loader(rows)), 13))
    for start in (0, 4, 6):
        resumed = loader(rows, workers)
        resumed.start_batch = start
        assert all(equal(a, b) for a, b in zip(uninterrupted[start:], endless(resumed), strict=False))
        resumed.close()


@pytest.mark.parametrize("workers", [0, 1])
def test_a_pass_ends_at_a_multiple_and_the_next_continues(rows: list[Row], workers: int) -> None:
    steps = loader(rows, workers)
    steps.start_batch = 6
    first, second = list(steps), list(steps)
    assert (len(first), len(second), steps.position) == (2, 4, 12)
    expected = list(islice(endless(loader(rows)), 12))[6:]
    assert all(equal(a, b) for a, b in zip([*first, *second], expected, strict=True))


def test_workers_outlive_a_pass(rows: list[Row]) -> None:
    steps = loader(rows, workers=1)
    list(steps)
    processes = steps._batches._workers  # type: ignore[union-attr]
    list(steps)
    assert steps._batches._workers is processes  # type: ignore[union-attr]
    assert processes[0].is_alive()
    steps.close()
    processes[0].join(10)
    assert not processes[0].is_alive()
    assert len(list(steps)) == 4


def test_closing_in_the_middle_loses_no_batch(rows: list[Row]) -> None:
    steps = loader(rows)
    first = list(islice(steps, 2))
    steps.close()
    assert all(equal(a, b) for a, b in zip([*first, *steps], loader(rows), strict=True))


@pytest.mark.parametrize("workers", [0, 1])
def test_loading_leaves_the_global_random_state_alone(rows: list[Row], workers: int) -> None:
    before = torch.get_rng_state()
    list(loader(rows, workers))
    reader = SensorReader(["body"], {"body": noisy}, RATE)
    list(EvalLoader(EvalItems(rows, reader), UnreadableTally(5, 0, "valid"), workers))
    assert torch.equal(torch.get_rng_state(), before)


class Seen(lightning.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.seen: list[Batch] = []
        self.validated_after: list[int] = []

    def training_step(self, batch: Batch, _number: int) -> None:
        self.seen.append(batch)

    def validation_step(self, batch: Batch, number: int) -> None:
        if number == 0:
            self.validated_after.append(len(self.seen))

    def configure_optimizers(self) -> None:
        return None


def test_lightning_takes_one_pass_per_epoch_and_validates_after_it(rows: list[Row], tmp_path: Path) -> None:
    steps = loader(rows)
    steps.start_batch = 6
    valid = EvalLoader(EvalItems(rows[:2], SensorReader(["body"], {"body": noisy}, RATE)), UnreadableTally(2, 0, "v"))
    module = Seen()
    trainer = lightning.Trainer(
        max_epochs=3, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, num_sanity_val_steps=0, use_distributed_sampler=False, default_root_dir=tmp_path,
    )  # fmt: skip
    trainer.fit(module, steps, valid)
    assert module.validated_after == [2, 6, 10]
    assert all(equal(a, b) for a, b in zip(module.seen, islice(endless(loader(rows)), 6, 16), strict=True))


@pytest.mark.slow
def test_a_program_that_leaves_the_loader_open_ends(rows: list[Row]) -> None:
    program = (
        "import sys\n"
        "from bcfusion.contracts import Row\n"
        "from test_loading_loaders import loader\n"
        "rows = [Row(str(n), {'air': path}, 's', 'train', 8000, 2.0) for n, path in enumerate(sys.argv[1:])]\n"
        "batches = iter(loader(rows, workers=1))\n"
        "print(len(next(batches)['ids']))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *(row.paths["air"] for row in rows)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([*sys.path, str(Path(__file__).parent)])},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stdout) == (0, "3\n"), done.stderr


@pytest.mark.parametrize("workers", [0, 1])
def test_unreadable_training_files_are_counted_once_and_end_the_run_past_the_share(
    rows: list[Row], workers: int, caplog: pytest.LogCaptureFixture
) -> None:
    Path(rows[0].paths["air"]).unlink()
    steps = loader(rows, workers, share=0.2)
    for _ in range(4):
        list(steps)
    assert list(steps.tally.paths) == [rows[0].paths["air"]]
    assert sum(rows[0].paths["air"] in record.message for record in caplog.records) == 1
    Path(rows[1].paths["air"]).unlink()
    with pytest.raises(DataError, match="2 unreadable files among the 5 utterances of train"):
        list(islice(endless(steps), 40))


def test_a_second_ctrl_c_while_an_unfinished_pass_ends_its_readers_is_no_traceback(
    rows: list[Row], monkeypatch: pytest.MonkeyPatch
) -> None:
    items = EvalItems(rows[:2], SensorReader(["body"], {"body": noisy}, RATE))
    ends = []

    def interrupted(batches: object) -> None:
        ends.append(batches)
        if len(ends) == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(loaders, "end_workers", interrupted)
    unfinished = iter(EvalLoader(items, UnreadableTally(2, 0, "valid")))
    next(unfinished)
    unfinished.close()  # as when it is garbage
    assert len(ends) == 2, "they are ended all the same"
    ends.clear()
    with pytest.raises(KeyboardInterrupt):  # at the end of a whole pass it is the first one
        list(EvalLoader(items, UnreadableTally(2, 0, "valid")))


@pytest.mark.parametrize("workers", [0, 1])
def test_an_unreadable_evaluation_file_is_left_out_and_counted(rows: list[Row], workers: int) -> None:
    Path(rows[2].paths["air"]).unlink()
    items = EvalItems(rows, SensorReader(["body"], {"body": noisy}, RATE))
    evaluation = EvalLoader(items, UnreadableTally(5, 0.2, "valid"), workers)
    assert len(evaluation) == 5
    assert [batch["ids"] for batch in evaluation] == [["0"], ["1"], ["3"], ["4"]]
    assert list(evaluation.tally.paths) == [rows[2].paths["air"]]
    with pytest.raises(DataError, match="max_unreadable_share"):
        list(EvalLoader(items, UnreadableTally(5, 0.1, "valid"), workers))


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_in_a_worker_reaches_the_user_without_a_traceback_in_its_text(rows: list[Row], workers: int) -> None:
    audio.write(rows[0].paths["air"], np.zeros((2, 2 * RATE)), RATE)
    with pytest.raises(AudioError) as wide:
        list(islice(endless(loader(rows, workers)), 9))
    assert str(wide.value).startswith(rows[0].paths["air"])
    assert "\n" not in str(wide.value)
    with pytest.raises(ConfigError) as config:
        list(loader(rows, workers, simulator=failing))
    assert str(config.value) == "degradation: a cutoff\ndegradation: a rate"


def test_files_that_other_processes_could_not_read_count_too_but_are_not_reported_again() -> None:
    tally = UnreadableTally(10, 0.2, "train")
    tally.add("a.wav", "damaged")
    tally.join([{"a.wav": "damaged"}, {"b.wav": "gone"}])
    assert tally.paths == {"a.wav": "damaged", "b.wav": "gone"}
    with pytest.raises(DataError, match=r"3 unreadable files among the 10 utterances of train.*c\.wav: gone"):
        tally.join([dict(tally.paths), {"c.wav": "gone"}])


HANGING = """\
import os, signal, sys, time
import torch
from bcfusion.data.loading.loaders import batch_loader, end_workers
from bcfusion.run.processes import began, end_children

class Hangs(torch.utils.data.Dataset):
    def __getitem__(self, keys):
        open(sys.argv[2] + ".part", "w").write(f"{os.getpid()} {began(os.getpid())}")
        os.rename(sys.argv[2] + ".part", sys.argv[2])
        time.sleep(3600)

batches = iter(batch_loader(Hangs(), 1, False, torch.Generator(), [[0]]))
while not os.path.exists(sys.argv[2]):
    time.sleep(0.05)
if sys.argv[1] == "closed":
    end_workers(batches)
elif sys.argv[1] == "ended":  # as by a verb that Ctrl-C ends
    end_children()
    time.sleep(1)
elif sys.argv[1] == "interrupted":
    batches._shutdown = True  # as a second Ctrl-C leaves it that comes before PyTorch forgets its workers
    end_workers(batches)
    time.sleep(1)  # in which the signal of the dead worker is handled; to wait for the worker would take that from it
else:
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.slow
@pytest.mark.parametrize("how", ["closed", "ended", "interrupted", "killed"])
def test_a_worker_that_hangs_ends_with_the_trainer(how: str, tmp_path: Path) -> None:
    worker = tmp_path / "worker"
    command = [sys.executable, "-c", HANGING, how, str(worker)]
    done = subprocess.run(command, timeout=300, check=False, stderr=subprocess.PIPE, text=True)
    assert (done.returncode == 0) == (how != "killed"), done.stderr  # before, it would not end at all
    assert "Traceback" not in done.stderr
    number, since = worker.read_text().split()
    deadline = time.monotonic() + 300  # a net
    while runs(int(number), since):
        assert time.monotonic() < deadline
        time.sleep(0.1)
