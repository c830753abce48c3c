from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from bcfusion import audio
from bcfusion.contracts import Batch, Draw, Row
from bcfusion.data.corpora.manifest import write_manifest
from bcfusion.data.loading.datamodule import SpeechDataModule
from bcfusion.data.loading.mixture import Mixture
from bcfusion.data.loading.segments import natural_visits
from bcfusion.data.loading.shards.write import write_shards
from bcfusion.errors import ConfigError, DataError

RATE = 8000
SECONDS = 0.5  # of a crop


def rows_of(folder: Path, name: str, durations: list[float], recorded: bool = False) -> list[Row]:
    """Rows of air, and of body where it was recorded: then it is 0.25, as simulated bodies never are."""
    made = []
    folder.mkdir(exist_ok=True)
    for number, seconds in enumerate(durations):
        length = round(seconds * RATE)
        paths = {"air": str(folder / f"{name}{number}.wav")}
        audio.write(paths["air"], np.random.default_rng(number).uniform(-0.5, 0.5, length), RATE, "FLOAT")
        if recorded:
            paths["body"] = str(folder / f"{name}{number}_body.wav")
            audio.write(paths["body"], np.full(length, 0.25, dtype=np.float32), RATE, "FLOAT")
        split = "valid" if number == len(durations) - 1 else "train"
        made.append(Row(f"{number}", paths, f"s{number}", split, RATE, seconds))
    return made


@pytest.fixture
def parts(tmp_path: Path) -> dict[str, str]:
    """Six seconds of pairs, and about a minute of speech in clips of odd lengths; a manifest each."""
    sources = {
        "pairs": rows_of(tmp_path / "p", "p", [2.0, 1.8, 2.2, 1.0], recorded=True),
        "speech": rows_of(tmp_path / "s", "s", [0.3 + 0.07 * number for number in range(40)]),
    }
    for name, rows in sources.items():
        write_manifest(tmp_path / f"{name}.jsonl", rows)
    return {name: str(tmp_path / f"{name}.jsonl") for name in sources}


class Body:
    def __call__(self, air: Tensor, draw: Draw) -> dict[str, Tensor]:
        return {"signal": air * torch.rand(1, generator=draw.generator)}


def data(corpus: Mixture, **changes: object) -> SpeechDataModule:
    values: dict[str, object] = {"batch_size": 8, "batches_per_pass": 5, "workers": 0, **changes}
    return SpeechDataModule(corpus, {"body": Body()}, ["body"], RATE, SECONDS, **values)  # type: ignore[arg-type]


def epoch_counts(module: SpeechDataModule) -> tuple[Counter[str], Counter[str]]:
    """Count the crops of an epoch by part and by row."""
    schedule = module.train_dataloader().schedule  # type: ignore[attr-defined]
    segments = module.train_dataloader().segments  # type: ignore[attr-defined]
    ids = [segments.rows[segments.row_of(index)].id for index in range(len(segments))]
    assert len(ids) == schedule.n_items
    return Counter(name.split("/")[0] for name in ids), Counter(ids)


@pytest.mark.parametrize("share", [0.02, 0.1, 0.5, 0.9])
def test_an_epoch_has_the_stated_shares_and_no_row_is_visited_less_often(parts: dict[str, str], share: float) -> None:
    module = data(Mixture(parts, {"pairs": share, "speech": None}))
    of_parts, of_rows = epoch_counts(module)
    assert of_parts["pairs"] == pytest.approx(share * sum(of_parts.values()), abs=1.0)
    for row in module.rows("train"):
        assert of_rows[row.id] >= natural_visits(row, SECONDS)
    # long rows of a part still count in proportion to their length
    assert of_rows["speech/38"] == pytest.approx(of_rows["speech/10"] * 6 / 2, rel=0.2)


def test_shares_hold_in_an_epoch_of_thousands_of_crops(tmp_path: Path) -> None:
    class Listed:
        def __init__(self, durations: list[float]) -> None:
            self.durations = durations

        def rows(self, split: str) -> list[Row]:
            paths = {"air": "a.wav", "body": "b.wav"}
            return [Row(str(n), paths, "s", "train", RATE, length) for n, length in enumerate(self.durations)]

    lengths = torch.rand(2000, generator=torch.Generator().manual_seed(0)).tolist()
    parts = {
        "pairs": Listed([5.0] * 16),
        "a": Listed([0.2 + 3 * length for length in lengths]),
        "b": Listed([1.3] * 90),
    }
    counts, _ = epoch_counts(data(Mixture(parts, {"pairs": 0.33, "a": 0.5})))
    for name, share in (("pairs", 0.33), ("a", 0.5), ("b", 0.17)):
        assert counts[name] / sum(counts.values()) == pytest.approx(share, rel=0.001)


def test_a_body_is_read_where_it_was_recorded_and_simulated_elsewhere(parts: dict[str, str]) -> None:
    module = data(Mixture(parts, {"pairs": 0.5}))
    seen: Counter[str] = Counter()
    for _ in range(4):
        for batch in module.train_dataloader():
            for name, body, length in zip(batch["ids"], batch["inputs"], batch["lengths"], strict=True):
                seen[name.split("/")[0]] += 1
                assert bool((body[0, : int(length)] == 0.25).all()) == name.startswith("pairs/")
    assert 55 < seen["pairs"] < 105  # of 160, drawn without order


def test_a_resumed_epoch_goes_on_with_the_same_crops_and_ranks_divide_it(parts: dict[str, str]) -> None:
    def batches(start: int, **changes: object) -> list[Batch]:
        loader = data(Mixture(parts, {"pairs": 0.5}), **changes).train_dataloader()
        loader.start_batch = start
        return list(loader)

    whole, resumed = batches(0), batches(3)
    assert len(whole) == 5
    for one, other in zip(whole[3:], resumed, strict=True):
        assert one["ids"] == other["ids"]
        assert torch.equal(one["inputs"], other["inputs"])
    module = data(Mixture(parts, {"pairs": 0.5}), batch_size=4)
    schedule = module.train_dataloader().schedule  # type: ignore[attr-defined]
    schedule.world_size = 2
    both = []
    for schedule.rank in (0, 1):
        both += schedule.batch(1)
    single = data(Mixture(parts, {"pairs": 0.5})).train_dataloader().schedule  # type: ignore[attr-defined]
    assert both == single.batch(1)


def test_validation_uses_the_parts_that_are_named(parts: dict[str, str]) -> None:
    everything = Mixture(parts)
    assert [row.id for row in everything.rows("valid")] == ["pairs/3", "speech/39"]
    assert [row.extra["corpus"] for row in everything.rows("valid")] == ["pairs", "speech"]
    module = data(Mixture(parts, evaluate_on=["pairs"]))
    assert [batch["ids"] for batch in module.val_dataloader()] == [["pairs/3"]]
    assert {row.id.split("/")[0] for row in module.rows("train")} == {"pairs", "speech"}
    only_judged = Mixture(parts, {"pairs": 0.0}, evaluate_on=["pairs"])
    assert {row.id.split("/")[0] for row in only_judged.rows("train")} == {"speech"}
    assert epoch_counts(data(only_judged))[0]["pairs"] == 0


def test_parts_are_manifests_folders_shards_and_corpora(tmp_path: Path, parts: dict[str, str]) -> None:
    write_shards(rows_of(tmp_path / "t", "t", [1.0, 1.5, 0.6]), tmp_path / "shards")
    (tmp_path / "folder").mkdir()
    rows_of(tmp_path / "folder" / "train", "f", [1.0, 2.0])

    class Built:
        def rows(self, split: str) -> list[Row]:
            return [replace(row, id="x") for row in rows_of(tmp_path / "b", "b", [3.0, 1.0]) if row.split == split]

    made = Mixture(
        {"p": parts["pairs"], "s": str(tmp_path / "shards"), "f": str(tmp_path / "folder"), "b": Built(), "n": None},
        {"p": 0.4, "b": 0.2},
    )
    counts, _ = epoch_counts(data(made))
    total = sum(counts.values())
    assert counts.keys() == {"p", "s", "f", "b"}
    assert counts["p"] / total == pytest.approx(0.4, abs=0.02)
    assert counts["b"] / total == pytest.approx(0.2, abs=0.02)
    # those without a share have the rest, in proportion to their crops: of 2.5 s in shards, and 3 s in the folder
    assert counts["s"] / counts["f"] == pytest.approx(5 / 6, rel=0.2)


def test_what_cannot_be_mixed_is_refused(tmp_path: Path, parts: dict[str, str]) -> None:
    (tmp_path / "rec" / "air").mkdir(parents=True)
    cases: list[tuple[Callable[[], object], type[Exception], str]] = [
        (lambda: Mixture({"pairs": parts["pairs"], "speech": None}), ConfigError, "at least two corpora.*are: pairs"),
        (lambda: Mixture(parts, {"pairs": 1.5}), ConfigError, r"shares.pairs=1.5"),
        (lambda: Mixture(parts, {"pairs": 1.0}), ConfigError, "leave nothing for speech"),
        (lambda: Mixture(parts, {"pairs": 0.5, "speech": 0.6}), ConfigError, "must sum to 1"),
        (lambda: Mixture(parts, {"pair": 0.5}), ConfigError, "pair: not among the parts: pairs, speech"),
        (lambda: Mixture(parts, evaluate_on="pairs"), ConfigError, r"list of names, as in \[pairs\]"),
        (lambda: Mixture({**parts, "x": "nowhere"}), DataError, "data.parts.x: no such file"),
        (lambda: Mixture({**parts, "x": "https://host/a.tar"}), DataError, "is a URL"),
        (lambda: Mixture({**parts, "x": str(tmp_path / "p")}), DataError, "neither a folder of speech"),
        (lambda: Mixture({**parts, "x": str(tmp_path / "rec")}), DataError, "bcfusion prepare pairs --root .*rec"),
        (lambda: data(Mixture(parts), max_train_items=1).train_dataloader(), DataError, "data.parts.speech: no train"),
    ]
    for make, kind, message in cases:
        with pytest.raises(kind, match=message):
            make()


def test_the_weight_of_a_line_says_how_often_it_is_visited(tmp_path: Path) -> None:
    rows = rows_of(tmp_path / "s", "s", [1.0, 1.0, 1.0, 0.5])
    weighed = [replace(row, weight=weight) for row, weight in zip(rows, (1.0, 2.5, 0.01, 1.0), strict=True)]
    write_manifest(tmp_path / "a.jsonl", weighed)
    assert '"weight": 2.5' in (tmp_path / "a.jsonl").read_text()
    write_manifest(tmp_path / "b.jsonl", rows)
    assert "weight" not in (tmp_path / "b.jsonl").read_text()
    both = Mixture({"a": str(tmp_path / "a.jsonl"), "b": str(tmp_path / "b.jsonl")}, {"a": 0.5})
    counts = epoch_counts(data(both))[1]
    assert [counts[f"a/{number}"] for number in range(3)] == [2, 5, 1]
    assert sum(counts[f"b/{number}"] for number in range(3)) in (7, 8)
    (tmp_path / "c.csv").write_text("air,split,weight\ns/s0.wav,train,0\ns/s1.wav,train,many\n")
    with pytest.raises(DataError, match=r"weight: 0 is not above 0(.|\n)*weight: 'many' is not a number"):
        Mixture({"a": str(tmp_path / "c.csv"), "b": str(tmp_path / "b.jsonl")}).rows("train")


def test_rows_of_little_weight_are_visited_once_and_count_as_that(tmp_path: Path) -> None:
    rows = rows_of(tmp_path / "s", "s", [1.0] * 20)
    write_manifest(tmp_path / "a.jsonl", [replace(row, weight=0.1) for row in rows])
    write_manifest(tmp_path / "b.jsonl", rows)
    both = Mixture({"a": str(tmp_path / "a.jsonl"), "b": str(tmp_path / "b.jsonl")}, {"a": 0.2})
    counts = epoch_counts(data(both))[1]
    share = sum(count for item, count in counts.items() if item.startswith("a/")) / sum(counts.values())
    assert share == pytest.approx(0.2, abs=0.01)
    weighed = [replace(row, weight=1.0 if number < 10 else 0.1) for number, row in enumerate(rows)]
    write_manifest(tmp_path / "a.jsonl", weighed)
    both = Mixture({"a": str(tmp_path / "a.jsonl"), "b": str(tmp_path / "b.jsonl")}, {"a": 0.9})
    counts = epoch_counts(data(both))[1]
    often, seldom = ([counts[f"a/{number}"] for number in numbers] for numbers in (range(10), range(10, 20)))
    assert (sum(often) + sum(seldom)) / sum(counts.values()) == pytest.approx(0.9, abs=0.01)
    assert sum(often) / sum(seldom) == pytest.approx(10, rel=0.2), "a part that is repeated keeps its weights"
