from __future__ import annotations

import logging
from collections import Counter
from itertools import islice
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor

from bcfusion import audio
from bcfusion.contracts import Batch, Draw, Row
from bcfusion.data.loading.datamodule import SpeechDataModule
from bcfusion.data.loading.shards import open_shards
from bcfusion.data.loading.shards.datamodule import StreamedDataModule
from bcfusion.data.loading.shards.read import ShardCorpus
from bcfusion.data.loading.shards.remote import StreamedShards
from bcfusion.data.loading.shards.write import write_shards
from bcfusion.errors import DataError

pytest.importorskip("webdataset", reason="the extra 'shards' is not installed")

RATE = 8000
SEGMENT = 0.4


def noisy(air: Tensor, draw: Draw) -> dict[str, Tensor]:
    return {"signal": air + torch.randn(air.shape, generator=draw.generator)}


@pytest.fixture
def shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Five shards to train on, each of three utterances, and one to validate on."""
    monkeypatch.setenv("BCFUSION_CACHE", str(tmp_path / "cache"))
    rows = []
    for number in range(18):
        split = "valid" if number > 14 else "train"
        path = tmp_path / "audio" / f"{number}.wav"
        audio.write(path, np.random.default_rng(number).uniform(-0.5, 0.5, 8000), RATE)
        rows.append(Row(f"{split}/{number}", {"air": str(path)}, f"s{number % 2}", split, RATE, 1.0, polarity=-1))
    written = write_shards(rows, tmp_path / "shards", shard_bytes=50_000)
    assert [path.name for path in written] == [f"train-00000{n}.tar" for n in range(5)] + ["valid-000000.tar"]
    return tmp_path / "shards"


def pattern(shards: Path, scheme: str = "file:") -> str:
    return f"{scheme}{shards}/{{train-{{000000..000004}},valid-000000}}.tar"


def data(root: str | list[str], rank: int = 0, ranks: int = 1, **changes: object) -> StreamedDataModule:
    corpus = open_shards(root, shuffle_buffer=20, max_unreadable_share=0.3)
    assert isinstance(corpus, StreamedShards)
    assert corpus.datamodule is StreamedDataModule  # by which training loads it
    values: dict[str, object] = {"workers": 0, "batch_size": 3, "batches_per_pass": 10, **changes}
    made = StreamedDataModule(corpus, {"body": noisy}, ["body"], RATE, SEGMENT, **values)  # type: ignore[arg-type]
    made.trainer = SimpleNamespace(global_rank=rank, world_size=ranks)  # type: ignore[assignment]
    return made


def ids(batches: list[Batch]) -> list[str]:
    return [name for batch in batches for name in batch["ids"]]


@pytest.mark.parametrize("scheme", ["", "file:", "file://", "pipe:cat "])
def test_crops_of_streamed_shards_are_crops_of_their_files(shards: Path, scheme: str) -> None:
    module = data(pattern(shards, scheme))
    module.setup("fit")
    files = {row.id: audio.read(row.paths["air"])[0][0] for row in ShardCorpus(str(shards)).rows("train")}
    batches = list(module.train_dataloader())
    assert len(batches) == 10
    for batch in batches:
        assert batch["inputs"].shape == batch["target"].shape == (3, 1, round(SEGMENT * RATE))
        for name, target in zip(batch["ids"], batch["target"].numpy(), strict=True):
            windows = np.lib.stride_tricks.sliding_window_view(files[name], target.shape[-1])
            assert (windows == target[0]).all(axis=1).any()
        assert not torch.equal(batch["inputs"], batch["target"])
    # evaluation is that of the folder, bit by bit
    folder = SpeechDataModule(ShardCorpus(str(shards)), {"body": noisy}, ["body"], RATE)
    for one, other in zip(module.val_dataloader(), folder.val_dataloader(), strict=True):
        assert one["ids"] == other["ids"]
        assert torch.equal(one["inputs"], other["inputs"])


def test_a_stream_repeats_itself_and_another_epoch_has_other_crops(shards: Path) -> None:
    first, again = (list(data(pattern(shards)).train_dataloader()) for _ in range(2))
    assert all(torch.equal(one["inputs"], other["inputs"]) for one, other in zip(first, again, strict=True))
    longer = list(data(pattern(shards), batches_per_pass=40).train_dataloader())  # 2 visits to 15 utterances: 30 crops
    crops = {float(crop.sum()) for batch in longer for crop in batch["target"]}
    assert len(crops) == 120


@pytest.mark.parametrize("workers", [0, 2])
def test_ranks_and_workers_share_the_shards_evenly_and_every_pass_has_its_length(shards: Path, workers: int) -> None:
    # five shards for two ranks of two workers: each gets some, and over 10 epochs all are visited equally often
    seen: Counter[str] = Counter()
    for rank in range(2):
        module = data(pattern(shards), rank, 2, workers=workers, batches_per_pass=25)
        loader = module.train_dataloader()
        for number in range(2):
            batches = list(loader)
            assert len(batches) == 25
            assert loader.position == 25 * (number + 1)
            seen.update(ids(batches))
        module.teardown()
    assert len(seen) == 15
    assert sum(seen.values()) == 300  # 20 of each, except those still in the buffers
    assert min(seen.values()) >= 10


def test_a_pass_for_statistics_holds_every_crop_of_an_epoch_on_every_rank(shards: Path) -> None:
    first, second = (ids(list(data(pattern(shards), rank, 2, batch_size=4).pass_dataloader())) for rank in range(2))
    assert first == second
    assert Counter(first) == {row.id: 2 for row in ShardCorpus(str(shards)).rows("train")}  # 1 s in crops of 0.4 s


def test_a_resumed_stream_warns_and_continues_with_other_crops(shards: Path, caplog: pytest.LogCaptureFixture) -> None:
    loader = data(pattern(shards)).train_dataloader()
    assert "a resumed run continues with other crops" in caplog.text
    whole = list(loader)
    resumed = data(pattern(shards)).train_dataloader()
    resumed.start_batch = 4
    with caplog.at_level(logging.WARNING):
        rest = list(resumed)
    assert "cannot be resumed exactly" in caplog.text
    assert len(rest) == 6
    assert ids(rest) != ids(whole[4:])
    assert ids(rest) != ids(whole[:6])


def test_only_wanted_speakers_are_streamed(shards: Path) -> None:
    names = ids(list(islice(data(pattern(shards), speakers=["s1"]).train_dataloader(), 10)))
    assert {int(name.split("/")[1]) % 2 for name in names} == {1}
    with pytest.raises(DataError, match="max_train_items"):
        data(pattern(shards), max_train_items=3).setup("fit")


def test_a_stream_of_nothing_that_is_wanted_ends_with_a_message(shards: Path) -> None:
    module = data(pattern(shards), speakers=["nobody"])
    module.setup("fit")
    with pytest.raises(DataError, match=r"data\.speakers and data\.min_bandwidth"):
        next(iter(module.train_dataloader()))


def test_the_speakers_of_a_stream_are_not_known(shards: Path) -> None:
    assert data(pattern(shards)).train_speakers() is None
    folder = SpeechDataModule(ShardCorpus(str(shards)), {"body": noisy}, ["body"], RATE)
    assert folder.train_speakers() == {"s0", "s1"}


def test_a_truncated_shard_is_reported_and_its_rest_skipped(shards: Path, caplog: pytest.LogCaptureFixture) -> None:
    broken = shards / "train-000002.tar"
    with broken.open("r+b") as file:
        file.truncate(30_000)
    loader = data(pattern(shards), batches_per_pass=30, max_unreadable_share=0.3).train_dataloader()
    names = Counter(ids(list(loader)))
    assert 12 < len(names) < 15
    assert str(broken) in caplog.text
    assert str(broken) in loader.tally.paths


def test_too_many_broken_shards_end_the_run(shards: Path) -> None:
    for number in (1, 3, 4):
        (shards / f"train-00000{number}.tar").write_bytes(b"")
    with pytest.raises(DataError, match=r"of 5 training shards cannot be read"):
        list(data(pattern(shards), workers=1, batches_per_pass=100).train_dataloader())


def test_wrong_addresses_are_reported_before_the_training(shards: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is not a shard"):
        data(f"file:{shards}/all-{{000000..000004}}.tar")
    with pytest.raises(DataError, match="none of the URLs is a training shard"):
        data([f"file:{shards}/valid-000000.tar"])
    for root, reason in (
        (f"file:{tmp_path}/train-000000.tar", "No such file or directory"),
        (f"pipe:cat {tmp_path}/train-000000.tar 2>/dev/null", "ended with status 1; check the address"),
        ("http://127.0.0.1:9/train-000000.tar", "ended with status 7: nothing answers there"),
        ("s3://bucket/train-000000.tar", "use a command that fetches it: 'pipe:COMMAND s3://bucket/train-000000.tar'"),
    ):
        with pytest.raises(DataError) as error:
            data([root]).setup("fit")
        assert str(error.value).startswith("data.root: cannot read ")
        assert reason in str(error.value)
        assert len(str(error.value).splitlines()) == 1
    throat = StreamedDataModule(open_shards(pattern(shards)), {}, ["throat"], RATE)
    with pytest.raises(DataError, match="sensor 'throat': StreamedShards has no recording of it"):
        throat.setup("fit")


def test_validation_shards_are_copied_once(shards: Path, tmp_path: Path) -> None:
    root = pattern(shards, "pipe:cat ")
    first = open_shards(root).rows("valid")
    assert all(row.paths["air"].startswith(str(tmp_path / "cache")) for row in first)
    (shards / "valid-000000.tar").unlink()
    assert open_shards(root).rows("valid") == first
    with pytest.raises(DataError, match="cannot copy"):
        open_shards(root.replace("valid-000000", "valid-000001")).rows("valid")
