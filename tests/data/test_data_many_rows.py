"""Start-up with many rows: what is made for each of them, and that nothing else depends on how they are kept."""

from __future__ import annotations

import json
import math
import pickle
import random
import tracemalloc
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bcfusion import audio
from bcfusion.contracts import SPLITS, Row
from bcfusion.data.corpora import headers, json_lines, manifest_columns
from bcfusion.data.corpora.json_lines import parsed
from bcfusion.data.corpora.listing import ManifestCorpus
from bcfusion.data.corpora.manifest import read_manifest
from bcfusion.data.corpora.manifest_line import ManifestEntry, entry_of, faults, file_columns
from bcfusion.data.corpora.table import RowTable, columns_of, tabled
from bcfusion.data.loading.datamodule import SpeechDataModule
from bcfusion.data.loading.mixture import Mixture
from bcfusion.data.loading.segments import TrainSegments
from bcfusion.data.loading.shards import index as shard_index
from bcfusion.data.loading.shards.read import ShardCorpus
from bcfusion.data.loading.shards.write import write_shards
from bcfusion.errors import DataError
from bcfusion.files import NamesOnDisk

RATE = 8000
FILES = 5


@pytest.fixture(scope="module")
def sounds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of files of 1 to 5 s whose samples encode their positions."""
    folder = tmp_path_factory.mktemp("sounds")
    for number in range(FILES):
        frames = (number + 1) * RATE
        audio.write(folder / f"{number}.wav", np.arange(1, frames + 1, dtype=np.float32) / 2**17, RATE, "FLOAT")
    return folder


def manifest(folder: Path, count: int, name: str = "m.jsonl", **more: object) -> Path:
    """Write a manifest of parts of the files."""
    path = folder / name
    with path.open("w") as text:
        for number in range(count):
            row: dict[str, object] = {
                "id": f"u{number}",
                "air": f"{number % FILES}.wav",
                "split": "valid" if number % 10 == 9 else "train",
                "speaker": f"s{number % 10}",
                "offset": number % 7 / 10,
                **more,
            }
            if number % 4:
                row |= {"duration": 0.3, "weight": 1 + number % 3 / 2}
            text.write(json.dumps(row) + "\n")
    return path


def data(corpus: Any, **more: Any) -> SpeechDataModule:
    return SpeechDataModule(corpus, {}, ["air"], RATE, 0.25, 4, workers=0, seed=5, **more)


def counted(monkeypatch: pytest.MonkeyPatch, module: Any, name: str) -> list[None]:
    """Return a list that grows with each call of a function of a module."""
    calls: list[None] = []
    function: Callable[..., Any] = getattr(module, name)

    def counting(*arguments: Any, **named: Any) -> Any:
        calls.append(None)
        return function(*arguments, **named)

    monkeypatch.setattr(module, name, counting)
    return calls


# ---------------------------------------------------------------- what start-up costs


@pytest.mark.parametrize("count", [50, 2000])
def test_rows_are_made_for_the_first_batch_only_and_each_file_is_looked_at_once(
    sounds: Path, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    made = counted(monkeypatch, manifest_columns, "entry_of")
    looked = counted(monkeypatch, headers, "header")
    read: list[Path] = []
    whole = Path.read_bytes

    def reading(path: Path) -> bytes:
        read.append(path)
        return whole(path)

    monkeypatch.setattr(Path, "read_bytes", reading)
    path = manifest(sounds, count)
    module = data(ManifestCorpus(str(path)))
    module.setup("fit")
    module.describe()
    module.audio_seconds("train")
    loader = module.train_dataloader()
    assert (len(made), len(looked), read.count(path)) == (0, FILES, 1)
    assert len(next(iter(loader))["ids"]) == len(made) == 4


@pytest.mark.parametrize("kind", ["manifest", "shards", "mixture"])
def test_a_row_takes_the_memory_of_its_text_and_no_object(sounds: Path, tmp_path: Path, kind: str) -> None:
    def corpus(count: int) -> Any:
        path = manifest(sounds, count, f"{count}.jsonl")
        if kind == "shards":
            folder = tmp_path / str(count)
            write_shards(ManifestCorpus(str(path)).rows("train"), folder, workers=1)
            return ShardCorpus(str(folder))
        return Mixture({"x": str(path), "y": str(path)}) if kind == "mixture" else ManifestCorpus(str(path))

    def kept(corpus: Any) -> tuple[int, int]:  # bytes, and blocks of memory
        tracemalloc.start()
        module = data(corpus)
        rows = module.rows("train")
        segments = TrainSegments(rows, module.reader, 0.25, 0)
        blocks = tracemalloc.take_snapshot().traces
        tracemalloc.stop()
        assert len(segments.rows) == len(rows)
        return sum(block.size for block in blocks), len(blocks)

    few, many = (100, 700) if kind == "shards" else (500, 2500)
    kept(corpus(many))  # imports modules, and leaves Python with the free blocks that it keeps for the next objects
    (first, fewer), (second, more) = kept(corpus(few)), kept(corpus(many))
    text = 330 if kind == "shards" else 105  # bytes of a line
    parts = 2 if kind == "mixture" else 1
    assert (second - first) / (many - few) < parts * (text + 90)
    assert more - fewer < 0.5 * (many - few)


# ---------------------------------------------------------------- the same as line by line


def by_line(path: Path) -> list[ManifestEntry] | None:
    """Return the entries of a manifest, each line by itself; None if it has faults."""
    lines = [line for line in path.read_text().split("\n") if line.strip()]
    try:
        records = [{k: v for k, v in json.loads(line).items() if v is not None} for line in lines]
    except (ValueError, AttributeError):
        return None
    files = file_columns(records, "air")
    if not records or any(faults(record, "air", files) for record in records):
        return None
    entries = [entry_of(record, path.parent, "air", files, NamesOnDisk()) for record in records]
    names = [entry.id for entry in entries]
    return entries if all(names) and len(set(names)) == len(names) else None


VALUES: Sequence[Any] = (
    *(None, "", " ", 0, 1, 1.5, -1, True, math.nan, "1", "2.5", "nan", "soon", 10**30, [1], {}, {"body": "b.wav"}),
    *({"air": 3}, {"air": "p/q.wav", "throat": "b.flac"}, "a.wav", "/abs/c.wav", "é.wav", "e\u0301.wav", "\udce9.wav"),
    *("train", "unknown", "A.WAV ", "~/x.wav", "./a.wav", "a//b.wav"),
)
COLUMNS = (
    *("id", "split", "speaker", "paths", "air", "body", "throat", "offset", "duration", "lag", "polarity", "gain"),
    *("sample_rate", "bandwidth", "weight", "text", "comment", "air_channel", "throat_channel", "x_channel"),
)


def odd_line(draw: random.Random, number: int, share: float) -> str:
    record: dict[str, Any] = {"id": f"ü{number}", "air": f"{draw.randrange(9)}.wav", "split": draw.choice(SPLITS)}
    if draw.random() < 0.2:
        record = {"air": f"g{number}.wav", "split": "train"}
    usual = {"speaker": 3, "throat": "t.wav", "offset": "0.5", "throat_channel": 1.0, "text": "a.wav", "weight": 2}
    for name, value in (*usual.items(), ("comment", draw.choice(["x.wav", "no", "no"])), ("paths", {"body": "b.wav"})):
        if draw.random() < 0.3:
            record[name] = value
    while draw.random() < share:
        record[draw.choice(COLUMNS)] = draw.choice(VALUES)
    line = json.dumps(record)
    broken = (line[:-1], line + ",", line + line, "[1]", "3", '{"a": 1}, {"b": [{}', "{}]}", "")
    return draw.choice(broken) if draw.random() < share / 8 else f" {line}\t" if draw.random() < 0.05 else line


def test_many_lines_at_once_give_what_each_gives_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outcomes = {True: 0, False: 0}
    for seed in range(300):
        draw = random.Random(seed)
        monkeypatch.setattr(json_lines, "_BLOCK", draw.choice([1, 500, 1 << 16]))
        share = draw.choice([0.0, 0.02, 0.1])
        path = tmp_path / "m.jsonl"
        path.write_text("\n".join(odd_line(draw, number, share) for number in range(draw.randrange(1, 20))))
        expected = by_line(path)
        outcomes[expected is not None] += 1
        if expected is None:
            with pytest.raises(DataError, match=r"problem\(s\)|no utterance|no column"):
                read_manifest(path)
        else:
            assert list(read_manifest(path)) == expected, seed
    assert min(outcomes.values()) > 50


@pytest.mark.parametrize("texts", [["[1", "2]"], ['{"a": 1}, {"b": [{}', "{}]}"], ["1", ""], ["1, 2", "3"]])
def test_texts_that_are_values_only_together_are_refused(texts: list[str]) -> None:
    with pytest.raises(ValueError):
        parsed(texts)


def test_the_first_of_two_lines_with_one_id_is_named_however_far_apart_they_are(sounds: Path) -> None:
    path = manifest(sounds, 3000)
    with path.open("a") as text:
        text.write(json.dumps({"id": "u7", "air": "0.wav", "split": "train"}) + "\n")
    with pytest.raises(DataError, match=r"line 3001: id: 'u7' is also the id of line 8"):
        read_manifest(path)


def test_names_with_equal_hashes_are_compared_themselves() -> None:
    distinct = manifest_columns._distinct
    assert distinct(np.array([1, 2, 1]), ["a", "b", "c"].__getitem__)
    assert not distinct(np.array([1, 2, 1, 1]), ["a", "b", "c", "a"].__getitem__)


# ---------------------------------------------------------------- the order of training


#: what the version before 1 December 2026 gave, which kept an object for each row
GOLDEN_ITEMS = 125
GOLDEN_IDS = [
    ["u33", "u13", "u24", "u21"],
    ["u0", "u16", "u16", "u16"],
    ["u28", "u8", "u28", "u24"],
    ["u31", "u8", "u36", "u4"],
]
GOLDEN_STARTS = [
    [4315, 4853, 11208, 192],
    [5518, 11703, 10693, 4012],
    [6517, 14656, 23555, 17857],
    [2518, 19585, 1768, 23538],
]


def test_batches_are_those_of_runs_that_were_recorded_before_rows_were_columns(sounds: Path) -> None:
    module = data(ManifestCorpus(str(manifest(sounds, 40))), max_train_items=30)
    module.setup("fit")
    loader = module.train_dataloader()
    batches = [batch for batch, _ in zip(loader, range(4), strict=False)]
    assert len(loader.segments) == GOLDEN_ITEMS  # type: ignore[attr-defined]
    assert [batch["ids"] for batch in batches] == GOLDEN_IDS
    starts = [[round(float(crop[0, 0]) * 2**17) for crop in batch["target"]] for batch in batches]
    assert starts == GOLDEN_STARTS


def test_visits_add_up_as_in_a_plain_loop() -> None:
    draw = random.Random(0)
    row = Row("r", {"air": "a.wav"}, "s", "train", RATE, 1.0)
    rows = [
        replace(row, duration=draw.uniform(0.01, 9), weight=draw.choice([1, draw.uniform(0.1, 7)])) for _ in "x" * 999
    ]
    expected, exact, visits = [], 0.0, 0
    for each in rows:
        before = round(exact)
        exact += max(1, round(each.duration / 0.7)) * each.weight
        visits += max(1, round(exact) - before)
        expected.append(visits)
    segments = TrainSegments(rows, data(ManifestCorpus("none.jsonl")).reader, 0.7, 0)
    assert len(segments) == expected[-1]
    assert [segments.row_of(end) for end in expected[:-1]] == list(range(1, 999))
    assert [segments.row_of(end - 1) for end in expected] == list(range(999))


# ---------------------------------------------------------------- tables


@pytest.fixture
def tables(sounds: Path, tmp_path: Path) -> dict[str, Sequence[Row]]:
    path = manifest(sounds, 40, bandwidth=3000)
    mixture = Mixture({"x": str(path), "y": str(path)}, {"x": 0.25})
    write_shards(ManifestCorpus(str(path)).rows("train"), tmp_path / "shards", workers=1)
    return {
        "manifest": ManifestCorpus(str(path)).rows("train"),
        "mixture": mixture.weighted(mixture.rows("train"), lambda columns: np.ones(len(columns))),
        "shards": ShardCorpus(str(tmp_path / "shards")).rows("train"),
        "list": tabled(list(ManifestCorpus(str(path)).rows("train"))),
    }


@pytest.mark.parametrize("kind", ["manifest", "mixture", "shards", "list"])
def test_a_table_is_a_sequence_of_its_rows_whose_columns_are_theirs(
    tables: dict[str, Sequence[Row]], kind: str
) -> None:
    table = tables[kind]
    rows = list(table)
    assert isinstance(table, RowTable)
    assert len(table) == len(rows) == (72 if kind == "mixture" else 36)
    assert table == rows
    assert table[:-1] != rows
    assert table[-1] == rows[-1]
    assert table[3:20:5] == rows[3:20:5]
    assert table[::-1][0] == rows[-1]
    assert pickle.loads(pickle.dumps(table)) == rows  # as for a worker that is spawned
    with pytest.raises(IndexError):
        table[len(rows)]
    found, expected = columns_of(table[5:30]), columns_of(rows[5:30])
    assert [found.speakers[n] for n in found.speaker] == [row.speaker for row in rows[5:30]]
    assert found.speaker_names() == expected.speaker_names()
    for name in ("sample_rate", "duration", "weight", "bandwidth"):
        assert getattr(found, name).tolist() == getattr(expected, name).tolist()
    assert found.with_sensor("air").all()
    assert not found.with_sensor("body").any()
    assert found.distinct


def test_mixed_parts_keep_their_shares_without_a_row_being_made(sounds: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = manifest(sounds, 400)
    made = counted(monkeypatch, manifest_columns, "entry_of")
    module = data(Mixture({"x": str(path), "y": str(path)}, {"x": 0.25}))
    module.setup("fit")
    segments = module.train_dataloader().segments  # type: ignore[attr-defined]
    assert not made
    of_x = sum(segments.row_of(item) < len(segments.rows) // 2 for item in range(len(segments)))
    assert of_x / len(segments) == pytest.approx(0.25, abs=0.01)


def test_an_index_of_shards_is_read_without_an_entry_for_each_row_kept(
    tables: dict[str, Sequence[Row]], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(audio.container(tables["shards"][0].paths["air"])).parent
    lines = (folder / "train-000000.index.jsonl").read_text().splitlines()[1:]
    kinds = {tuple(json.loads(line)["row"]) for line in lines}
    made = counted(monkeypatch, shard_index, "row_of")
    module = data(ShardCorpus(str(folder)))
    assert len(module.rows("train")) == 36
    assert len(made) == len(kinds) < 8  # one for each set of fields that rows have
    assert module.rows("train")[7].split == "train"
    assert len(made) == len(kinds) + 1
