"""scripts/manifest_fold.py: folds of a manifest that may lie elsewhere."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import ModuleType

import pytest
from script_loading import load_script

from bcfusion.data.corpora.manifest import read_manifest

LINES = [
    {"id": str(n), "split": "train", "air": f"air/{n}.wav", "body": f"/far/{n}.wav", "note": "é"} for n in range(5)
]


@pytest.fixture
def script() -> ModuleType:
    return load_script("manifest_fold")


def test_a_line_without_an_id_keeps_the_one_of_its_path_and_empty_lines_of_a_table_are_none(
    script: ModuleType, tmp_path: Path
) -> None:
    (tmp_path / "pairs.csv").write_text("air, body ,split\nair/a.wav,/far/a.wav,test\n,,\nair/b.wav,/far/b.wav,test\n")
    assert script.main([str(tmp_path / "pairs.csv"), str(tmp_path / "out" / "all.jsonl")]) == 0
    before, after = (read_manifest(tmp_path / name) for name in ("pairs.csv", "out/all.jsonl"))
    assert [entry.id for entry in after] == [entry.id for entry in before] == ["air/a", "air/b"]
    assert [entry.paths for entry in after] == [entry.paths for entry in before]


@pytest.fixture(params=["lines", "nested", "table"])
def manifest(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    folder = tmp_path / "corpus"
    folder.mkdir()
    if request.param == "table":
        rows = [",".join(line.values()) for line in LINES]
        (folder / "pairs.csv").write_text("\n".join(["id,split,air,body,note", *rows]) + "\n", "utf-8")
        return folder / "pairs.csv"
    records = LINES
    if request.param == "nested":
        records = [
            {"id": line["id"], "split": "train", "note": "é", "paths": {name: line[name] for name in ("air", "body")}}
            for line in LINES
        ]
    (folder / "pairs.jsonl").write_text("\n".join(map(json.dumps, records)), "utf-8")
    return folder / "pairs.jsonl"


@pytest.mark.parametrize(
    ("words", "ids", "split"),
    [
        ([], "01234", "train"),
        (["--count", "2", "--fold", "1", "--split", "test"], "13", "test"),
        (["--count", "2", "--without", "1"], "024", "train"),
    ],
)
def test_chosen_lines_have_their_files_and_columns(
    script: ModuleType, manifest: Path, tmp_path: Path, words: list[str], ids: str, split: str
) -> None:
    output = tmp_path / "out" / "fold" / "part.jsonl"
    assert script.main([os.path.relpath(manifest), str(output), *words]) == 0
    records = [json.loads(line) for line in output.read_text("utf-8").splitlines()]
    assert [record["id"] for record in records] == list(ids)
    for record in records:
        files = record.get("paths", record)
        assert files["air"] == str(manifest.parent / "air" / f"{record['id']}.wav")
        assert files["body"] == f"/far/{record['id']}.wav"
        assert (record["split"], record["note"]) == (split, "é")


def test_a_fold_that_is_not_there_and_a_damaged_manifest_are_refused(
    script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bad.jsonl").write_text("{")
    assert script.main([str(tmp_path / "bad.jsonl"), str(tmp_path / "out.jsonl")]) == 2
    assert "bad.jsonl" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        script.main([str(tmp_path / "bad.jsonl"), "out.jsonl", "--count", "4", "--fold", "4"])
    assert "there is no fold 4 of 4" in capsys.readouterr().err
    assert not (tmp_path / "out.jsonl").exists()
