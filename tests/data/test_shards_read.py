from __future__ import annotations

import os
import re
import shutil
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor

from bcfusion import audio
from bcfusion.audio import UnreadableAudio
from bcfusion.contracts import Corpus, Draw, Row
from bcfusion.data.corpora.listing import ManifestCorpus
from bcfusion.data.corpora.manifest import write_manifest
from bcfusion.data.loading.datamodule import SpeechDataModule
from bcfusion.data.loading.shards import open_shards
from bcfusion.data.loading.shards.index import index_path
from bcfusion.data.loading.shards.read import ShardCorpus
from bcfusion.data.loading.shards.write import write_shards
from bcfusion.errors import DataError

RATE = 8000


def noisy(air: Tensor, draw: Draw) -> dict[str, Tensor]:
    return {"signal": air + torch.randn(air.shape, generator=draw.generator)}


class Rows:
    def __init__(self, rows: list[Row]) -> None:
        self.all = rows

    def rows(self, split: str) -> list[Row]:
        return [row for row in self.all if row.split == split]


@pytest.fixture
def rows(tmp_path: Path) -> list[Row]:
    made = []
    for number in range(12):
        split = "valid" if number > 8 else "train"
        path = tmp_path / "audio" / f"{number}.{('flac', 'wav')[number % 2]}"
        samples = np.random.default_rng(number).uniform(-0.5, 0.5, RATE + 100 * number)
        audio.write(path, samples, RATE)
        made.append(Row(f"{split}/{number}", {"air": str(path)}, "s", split, RATE, len(samples) / RATE))
    return made


@pytest.fixture
def folder(tmp_path: Path, rows: list[Row]) -> Path:
    write_shards(rows, tmp_path / "shards", shard_bytes=40_000)
    assert len(list((tmp_path / "shards").glob("train-*.tar"))) > 3
    return tmp_path / "shards"


def data(corpus: Corpus, workers: int = 0) -> SpeechDataModule:
    return SpeechDataModule(corpus, {"body": noisy}, ["body"], RATE, 0.4, 2, 5, workers=workers)


def test_utterances_come_back_with_everything_but_their_paths(folder: Path, rows: list[Row]) -> None:
    corpus = open_shards(str(folder))
    assert isinstance(corpus, ShardCorpus)
    found = {row.id: row for split in ("train", "valid", "test") for row in corpus.rows(split)}
    assert found.keys() == {row.id for row in rows}
    for row in rows:
        kept = found[row.id]
        assert kept == Row(row.id, kept.paths, row.speaker, row.split, row.sample_rate, row.duration)
        for start, length, rate in ((0, RATE, RATE), (777, 3000, RATE), (500, 4000, 6000)):
            wanted = audio.read_span(row.paths["air"], start, length, rate)
            assert np.array_equal(audio.read_span(kept.paths["air"], start, length, rate), wanted)


def test_a_run_on_shards_is_that_on_the_same_files_and_resumes_exactly(folder: Path, rows: list[Row]) -> None:
    corpus = ShardCorpus(str(folder))
    by_id = {row.id: row for row in rows}
    files = Rows([by_id[row.id] for split in ("train", "valid") for row in corpus.rows(split)])
    batches = list(data(corpus).train_dataloader())
    for batch, other in zip(batches, data(files).train_dataloader(), strict=True):
        assert batch["ids"] == other["ids"]
        assert torch.equal(batch["inputs"], other["inputs"])
    resumed = data(corpus, workers=1)
    loader = resumed.train_dataloader()
    loader.start_batch = 3
    for batch, other in zip(batches[3:], islice(loader, 2), strict=True):
        assert torch.equal(batch["inputs"], other["inputs"])
    resumed.teardown()


def test_a_part_of_an_archive_ends_where_it_ends(tmp_path: Path) -> None:
    contents = []
    for number, suffix in enumerate(("wav", "flac", "wav")):
        audio.write(tmp_path / f"a.{suffix}", np.full(4000, 0.1 * (number + 1)), RATE)
        contents.append((tmp_path / f"a.{suffix}").read_bytes())
    archive = tmp_path / "three.tar"
    archive.write_bytes(b"".join(contents))
    sizes = [len(content) for content in contents]
    for number in range(3):
        path = audio.part(archive, sum(sizes[:number]), sizes[number])
        assert audio.info(path).frames == 4000
        assert audio.read(path, 3000)[0] == pytest.approx(0.1 * (number + 1), abs=1e-4)
    # past the cut the WAV continues in the archive, but not in its part
    with pytest.raises(UnreadableAudio, match="truncated: its header promises 4000 samples, 3000 are there"):
        audio.read(audio.part(archive, 0, sizes[0] - 2000))
    with pytest.raises(UnreadableAudio, match="does not exist"):
        audio.info(audio.part(tmp_path / "two.tar", 0, 1))


def test_a_manifest_may_name_parts_of_archives(folder: Path, tmp_path: Path) -> None:
    shards = ShardCorpus(str(folder)).rows("train")
    write_manifest(
        tmp_path / "parts.jsonl", [*shards, replace(shards[0], id="x", paths={"air": f"{folder}/no.tar::0+9"})]
    )
    listed = ManifestCorpus(str(tmp_path / "parts.jsonl"), max_unreadable_share=0.2).rows("train")
    assert listed == shards
    with pytest.raises(DataError, match=r"no\.tar does not exist"):
        ManifestCorpus(str(tmp_path / "parts.jsonl"), max_unreadable_share=0).rows("train")


@pytest.mark.parametrize("suffix", ["ogg", "opus"])
def test_ogg_in_an_archive_is_read_at_the_same_place(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    samples = np.sin(np.arange(96000) / 20) * np.linspace(0, 0.5, 96000)
    soundfile.write(path, samples, 48000, format="OGG", subtype="OPUS" if suffix == "opus" else "VORBIS")
    archive = tmp_path / "one.tar"
    archive.write_bytes(b"x" * 1000 + path.read_bytes() + b"x" * 1000)
    inside = audio.part(archive, 1000, path.stat().st_size)
    assert np.array_equal(audio.read(inside, 50000, 4000)[0], audio.read(path, 50000, 4000)[0])
    in_memory = audio.EncodedAudio("s3://somewhere/a", path.read_bytes())
    assert np.array_equal(audio.read(in_memory, 50000, 4000)[0], audio.read(path, 50000, 4000)[0])


def test_an_index_that_is_missing_old_or_damaged_is_made_again(folder: Path) -> None:
    wanted = ShardCorpus(str(folder)).rows("train")
    tars = sorted(folder.glob("train-*.tar"))
    indices = [index_path(tar) for tar in tars]
    written = [path.read_bytes() for path in indices]
    indices[0].unlink()
    indices[1].write_bytes(written[1][:-20])
    shutil.copy(indices[3], indices[2])  # that of another shard
    os.utime(tars[3], ns=(time := indices[3].stat().st_mtime_ns + 10**9, time))
    indices[3].write_text(written[3].decode().replace('"air"', '"eye"'))
    os.utime(indices[3], ns=(time - 1, time - 1))
    assert ShardCorpus(str(folder)).rows("train") == wanted
    assert [path.read_bytes() for path in indices] == written


@pytest.mark.parametrize("identity", ["null", '""', "7"])
def test_an_index_with_a_row_without_an_id_is_made_again(folder: Path, identity: str) -> None:
    wanted = ShardCorpus(str(folder)).rows("train")
    index = index_path(min(folder.glob("train-*.tar")))
    written = index.read_text()
    index.write_text(re.sub('"id": "[^"]*"', f'"id": {identity}', written))
    assert index.read_text() != written
    assert ShardCorpus(str(folder)).rows("train") == wanted
    assert index.read_text() == written


def test_a_shard_that_was_cut_off_gives_what_is_left_of_it(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    wanted = ShardCorpus(str(folder)).rows("train")
    tar = max(folder.glob("train-*.tar"), key=lambda path: path.stat().st_size)
    in_it = [row for row in wanted if str(tar) in row.paths["air"]]
    assert len(in_it) > 1
    end = int(in_it[-1].paths["air"].rpartition("::")[2].split("+")[0])
    with tar.open("r+b") as file:
        file.truncate(end + 100)
    found = ShardCorpus(str(folder), max_unreadable_share=0.3).rows("train")
    assert found == [row for row in wanted if row != in_it[-1]]
    assert f"{len(in_it) - 1} of its {len(in_it)} utterances can be read" in caplog.text
    with pytest.raises(DataError, match="missing or damaged"):
        ShardCorpus(str(folder), max_unreadable_share=0.01).rows("train")


def test_missing_and_foreign_shards_are_reported(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    tars = sorted(folder.glob("train-*.tar"))
    everything = len(ShardCorpus(str(folder)).rows("train"))
    tars[1].unlink()
    tars[2].write_bytes(b"no tar at all")
    found = ShardCorpus(str(folder), max_unreadable_share=0.8).rows("train")
    assert 0 < len(found) < everything
    assert f"{tars[1].name} is missing" in caplog.text
    assert f"{tars[2]} is not a shard" in caplog.text
    with pytest.raises(DataError, match=rf": 2 of {len(tars)} shards of train are missing or damaged"):
        ShardCorpus(str(folder)).rows("train")
    with pytest.raises(DataError, match="no such folder"):
        open_shards(str(folder / "no"))
    for tar in tars:
        tar.unlink(missing_ok=True)
    with pytest.raises(DataError, match=r"no shards train-000000\.tar and so on in .*; there are: train-000000\.index"):
        ShardCorpus(str(folder)).rows("train")


def test_shards_of_two_preparations_are_not_mixed(folder: Path, tmp_path: Path, rows: list[Row]) -> None:
    write_shards(rows[:4], tmp_path / "others")
    shutil.copy(tmp_path / "others" / "train-000000.tar", folder / "train-000001.tar")
    with pytest.raises(DataError, match="several corpora or preparations"):
        ShardCorpus(str(folder)).rows("train")


def test_a_damaged_utterance_is_replaced_in_training_as_a_damaged_file_is(folder: Path) -> None:
    corpus = ShardCorpus(str(folder))
    row = next(row for row in corpus.rows("train") if int(row.id.split("/")[1]) % 2 == 0)  # FLAC
    archive, _, place = row.paths["air"].rpartition("::")
    offset, size = map(int, place.split("+"))
    with open(archive, "r+b") as file:
        file.seek(offset)
        file.write(b"\0" * size)
    os.utime(index_path(Path(archive)))
    module = SpeechDataModule(corpus, {"body": noisy}, ["body"], RATE, 0.4, 4, 8, workers=0, max_unreadable_share=0.5)
    loader = module.train_dataloader()
    ids = [name for batch in loader for name in batch["ids"]]
    assert len(ids) == 32
    assert row.id not in ids
    assert list(loader.tally.paths) == [row.paths["air"]]
