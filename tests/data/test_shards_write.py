from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from bcfusion import audio
from bcfusion.audio import AudioFormatError
from bcfusion.contracts import Row
from bcfusion.data.loading.reader import SensorReader
from bcfusion.data.loading.shards.read import ShardCorpus
from bcfusion.data.loading.shards.write import write_shards
from bcfusion.errors import DataError

RATE = 8000


def sound(seed: int, seconds: float, channels: int = 1, rate: int = RATE) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-0.5, 0.5, (channels, round(seconds * rate))).astype(np.float32)


def row(folder: Path, number: int, split: str = "train", suffix: str = "flac", seconds: float = 1.0) -> Row:
    path = folder / "audio" / split / f"{number}.{suffix}"
    audio.write(path, sound(number, seconds), RATE)
    return Row(f"{split}/a.{number}", {"air": str(path)}, f"s{number % 3}", split, RATE, seconds)


def members(tar: Path) -> dict[str, bytes]:
    with tarfile.open(tar) as archive:
        return {name.name: archive.extractfile(name).read() for name in archive}  # type: ignore[union-attr]


def both(given: Row, folder: Path, sample_rate: int = RATE) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Return inputs of a row before and after it was written to a shard, at some positions."""
    kept = ShardCorpus(str(folder)).rows(given.split)[0]
    reader = SensorReader(tuple(given.paths), sample_rate=sample_rate)
    total = reader.total(given)
    for start, length in ((0, total), (total // 3, total // 2)):
        yield tuple(reader.read(one, start, length, (0,), True)["inputs"] for one in (given, kept))  # type: ignore[misc]


def test_whole_files_are_copied_byte_by_byte_in_webdataset_layout(tmp_path: Path) -> None:
    rows = [row(tmp_path, 0), row(tmp_path, 1, suffix="wav"), row(tmp_path, 0, "valid")]
    shards = write_shards(rows, tmp_path / "shards")
    assert [path.name for path in shards] == ["train-000000.tar", "valid-000000.tar"]
    inside = members(shards[0])
    # a dot starts a suffix, so those of the id are replaced; json comes before the sounds of its key
    assert next(iter(inside)) == "__shard__"
    assert sorted(list(inside)[1:]) == [
        "train/a_0.air.flac",
        "train/a_0.json",
        "train/a_1.air.wav",
        "train/a_1.json",
    ]
    assert inside["train/a_0.air.flac"] == Path(rows[0].paths["air"]).read_bytes()
    assert inside["train/a_1.air.wav"] == Path(rows[1].paths["air"]).read_bytes()
    assert json.loads(inside["train/a_0.json"])["id"] == "train/a.0"


@pytest.mark.parametrize("sample_rate", [RATE, 5000])
def test_a_part_of_a_file_is_cut_so_that_every_sample_stays_even_after_resampling(
    tmp_path: Path, sample_rate: int
) -> None:
    stereo = tmp_path / "session.wav"
    audio.write(stereo, sound(0, 20.0, 2), RATE)
    lag = 0.0123
    given = Row(
        "x",
        {"air": str(stereo), "body": str(stereo)},
        "s",
        "train",
        RATE,
        1.7,
        offset=11.111,
        lag=lag,
        polarity=-1,
        channels={"air": 1, "body": 0},
        gain=6.0,
    )
    (shard,) = write_shards([given], tmp_path / "shards")
    kept = ShardCorpus(str(tmp_path / "shards")).rows("train")[0]
    assert (kept.lag, kept.polarity, kept.gain, kept.duration) == (lag, -1, 6.0, 1.7)
    assert not kept.channels
    assert kept.offset < 0.2
    assert {name.rpartition(".")[2] for name in members(shard)} == {"__shard__", "json", "flac"}
    assert shard.stat().st_size < 200_000  # 1.8 s of it, not 20
    for before, after in both(given, tmp_path / "shards", sample_rate):
        assert (before - after).abs().max() <= (0 if sample_rate == RATE else 5e-6)


def test_samples_beyond_full_scale_and_of_24_bits_are_kept(tmp_path: Path) -> None:
    loud = 1.5 * sound(0, 1.0, 2)
    loud[:, 100] = 1.25
    soundfile.write(tmp_path / "loud.wav", loud.T, RATE, subtype="FLOAT")
    fine = np.full((2, RATE), 3 / 2**23, np.float32)
    soundfile.write(tmp_path / "fine.wav", fine.T, RATE, subtype="PCM_24")
    for name in ("loud", "fine"):
        path = str(tmp_path / f"{name}.wav")
        given = Row(name, {"air": path}, "s", "train", RATE, 1.0, channels={"air": 1})
        write_shards([given], tmp_path / name)
        for before, after in both(given, tmp_path / name):
            assert torch.equal(before, after)


def test_mp3_becomes_flac_and_several_channels_without_a_choice_are_refused(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.mp3", sound(0, 1.0)[0], 16000)
    duration = audio.info(tmp_path / "a.mp3").duration
    given = Row("a", {"air": str(tmp_path / "a.mp3")}, "s", "train", 16000, duration)
    (shard,) = write_shards([given], tmp_path / "shards")
    content = members(shard)["a.air.flac"]
    assert soundfile.info(io.BytesIO(content)).format == "FLAC"
    audio.write(tmp_path / "b.wav", sound(0, 1.0, 2), RATE)
    wide = Row("b", {"air": str(tmp_path / "b.wav")}, "s", "train", RATE, 1.0)
    with pytest.raises(AudioFormatError, match="2 channel"):
        write_shards([wide], tmp_path / "other")


def test_a_shard_mixes_neighbours_and_the_same_rows_give_the_same_bytes(tmp_path: Path) -> None:
    rows = [row(tmp_path, number, seconds=0.2) for number in range(24)]
    size = 4 * Path(rows[0].paths["air"]).stat().st_size
    shards = write_shards(rows, tmp_path / "a", shard_bytes=size)
    assert len(shards) >= 6
    numbers = [[int(name.split("_")[1].split(".")[0]) for name in members(tar) if "json" in name] for tar in shards]
    assert sorted(number for some in numbers for number in some) == list(range(24))
    assert np.mean([max(some) - min(some) for some in numbers]) > 8
    again = write_shards(rows, tmp_path / "b", shard_bytes=size, workers=1)
    assert [tar.read_bytes() for tar in again] == [tar.read_bytes() for tar in shards]
    other = write_shards(rows, tmp_path / "c", shard_bytes=size, seed=1)
    assert members(other[0]).keys() != members(shards[0]).keys()


def test_writing_continues_where_it_stopped_and_refuses_other_rows(tmp_path: Path) -> None:
    rows = [row(tmp_path, number, seconds=0.2) for number in range(12)]
    size = 4 * Path(rows[0].paths["air"]).stat().st_size
    shards = write_shards(rows, tmp_path / "shards", shard_bytes=size)
    whole = [tar.read_bytes() for tar in shards]
    times = [tar.stat().st_mtime_ns for tar in shards]
    shards[1].unlink()
    rest = tmp_path / "shards" / f".{shards[1].name}.0a1b2c3d.part"
    rest.write_bytes(b"what a killed process left")
    assert write_shards(rows, tmp_path / "shards", shard_bytes=size) == shards
    assert [tar.read_bytes() for tar in shards] == whole
    assert [tar.stat().st_mtime_ns == time for tar, time in zip(shards, times, strict=True)].count(False) == 1
    assert not rest.exists()
    with pytest.raises(DataError, match=r"train-000000\.tar exists already, made of other utterances"):
        write_shards(rows[1:], tmp_path / "shards", shard_bytes=size)


def test_files_that_cannot_be_read_are_left_out_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [row(tmp_path, number, seconds=0.2) for number in range(4)]
    Path(rows[2].paths["air"]).write_bytes(b"fLaC, but nothing else")
    write_shards(rows, tmp_path / "shards", max_unreadable_share=0.3)
    assert rows[2].paths["air"] in caplog.text
    kept = ShardCorpus(str(tmp_path / "shards")).rows("train")
    assert sorted(one.id for one in kept) == ["train/a.0", "train/a.1", "train/a.3"]
    with pytest.raises(DataError, match="1 of 4 utterances cannot be read"):
        write_shards(rows, tmp_path / "others", max_unreadable_share=0.1)


def test_shards_can_be_made_of_shards(tmp_path: Path) -> None:
    rows = [row(tmp_path, number, seconds=0.2) for number in range(3)]
    write_shards(rows, tmp_path / "a")
    kept = ShardCorpus(str(tmp_path / "a")).rows("train")
    write_shards(kept, tmp_path / "b")
    again = {one.id: audio.encoded(one.paths["air"]) for one in ShardCorpus(str(tmp_path / "b")).rows("train")}
    assert again == {one.id: Path(one.paths["air"]).read_bytes() for one in rows}
