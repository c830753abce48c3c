from __future__ import annotations

import json
import logging
import os
import unicodedata
from pathlib import Path

import numpy as np
import odd_sounds
import pytest

from bcfusion import audio
from bcfusion.audio import AudioFormatError
from bcfusion.contracts import UNKNOWN_SPEAKER, Corpus
from bcfusion.data.corpora.folder import FolderCorpus
from bcfusion.data.corpora.listing import ManifestCorpus
from bcfusion.data.corpora.pairs import PairsCorpus
from bcfusion.errors import ConfigError, DataError


def make(path: Path, frames: int = 800, rate: int = 8000, channels: int = 1) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    audio.write(path, np.zeros((channels, frames)), rate)
    return path


def test_a_folder_gives_speakers_splits_and_ids_that_do_not_depend_on_its_place(tmp_path: Path) -> None:
    make(tmp_path / "train/part/anna/2.flac", frames=1600)
    make(tmp_path / "train/bob/1.wav", rate=16000)
    make(tmp_path / "valid/eve/1.wav")
    corpus = FolderCorpus(str(tmp_path))
    assert isinstance(corpus, Corpus)
    rows = corpus.rows("train")
    assert [(row.id, row.speaker, row.split, row.sample_rate, row.duration) for row in rows] == [
        ("train/bob/1", "bob", "train", 16000, 0.05),
        ("train/part/anna/2", "anna", "train", 8000, 0.2),
    ]
    assert rows[0].paths == {"air": str(tmp_path / "train/bob/1.wav")}
    assert [row.id for row in corpus.rows("valid")] == ["valid/eve/1"]
    assert corpus.rows("test") == []


def test_a_file_in_the_folder_of_a_split_has_no_speaker(tmp_path: Path) -> None:
    """Not one named "train", who would be the only wearer of a whole corpus."""
    make(tmp_path / "train/1.wav")
    make(tmp_path / "train/anna/2.wav")
    rows = FolderCorpus(str(tmp_path)).rows("train")
    assert {row.id: row.speaker for row in rows} == {"train/1": UNKNOWN_SPEAKER, "train/anna/2": "anna"}


def test_split_folders_may_have_other_names(tmp_path: Path) -> None:
    make(tmp_path / "dev-clean/eve/1.wav")
    corpus = FolderCorpus(str(tmp_path), splits={"valid": "dev-clean"})
    assert [row.split for row in corpus.rows("valid")] == ["valid"]


def test_a_missing_training_folder_is_reported_with_what_is_there(tmp_path: Path) -> None:
    make(tmp_path / "training/bob/1.wav")
    with pytest.raises(DataError, match="folders there: training"):
        FolderCorpus(str(tmp_path)).rows("train")
    with pytest.raises(DataError, match="nowhere"):
        FolderCorpus(str(tmp_path / "nowhere"))


def test_unreadable_files_are_named_and_counted_up_to_the_share(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(8):
        make(tmp_path / f"train/s/{number}.wav")
    for number in range(2):
        (tmp_path / f"train/s/broken{number}.wav").write_bytes(b"not sound")
    with caplog.at_level(logging.WARNING):
        assert len(FolderCorpus(str(tmp_path), max_unreadable_share=0.2).rows("train")) == 8
    assert "2 of 10 files are unreadable" in caplog.text
    assert "broken0.wav" in caplog.text
    with pytest.raises(DataError, match=r"2 of 10 files are unreadable.*broken0\.wav"):
        FolderCorpus(str(tmp_path), max_unreadable_share=0.1).rows("train")


def test_a_file_of_two_channels_is_refused_before_training(tmp_path: Path) -> None:
    make(tmp_path / "train/s/a.wav", channels=2)
    make(tmp_path / "train/s/b.wav", channels=2)
    with pytest.raises(AudioFormatError, match=r"a\.wav has 2 channels \(and 1 more"):
        FolderCorpus(str(tmp_path)).rows("train")


def test_a_speaker_of_two_splits_is_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("train/anna/1.wav", "valid/anna/2.wav", "train/bob/1.wav", "test/eve/1.wav"):
        make(tmp_path / name)
    corpus = FolderCorpus(str(tmp_path))
    for split in ("train", "test"):
        corpus.rows(split)
    assert not caplog.records
    corpus.rows("valid")
    assert "1 speaker(s) are both in train and in valid (anna)" in caplog.text


def test_pairs_are_matched_by_name_and_as_long_as_the_shorter(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    make(tmp_path / "air/01.flac", frames=1600)
    make(tmp_path / "body/01.wav", frames=800)
    make(tmp_path / "air/alone.flac")
    corpus = PairsCorpus(str(tmp_path / "body"), str(tmp_path / "air"))
    [row] = corpus.rows("test")
    assert dict(row.paths) == {"air": str(tmp_path / "air/01.flac"), "body": str(tmp_path / "body/01.wav")}
    assert (row.id, row.duration, row.speaker, row.split) == ("01", 0.1, "unknown", "test")
    assert "1 of its files have no partner" in caplog.text
    assert "alone" in caplog.text
    assert corpus.rows("train") == []


@pytest.mark.parametrize(
    ("apart", "kept", "words"),
    [
        (0.0005, True, None),
        (0.010, True, "the files of 1 of 2 recordings differ in length, by up to 10.0 ms; their common part is used"),
        (0.5, True, "by up to 500.0 ms"),
        (
            0.6,
            False,
            "1 of 2 recordings differ in length by more than 0.5 s, as two takes do: a (0.600 s)",
        ),
    ],
)
def test_pairs_use_the_common_part_of_files_that_end_together_and_leave_out_two_takes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, apart: float, kept: bool, words: str | None
) -> None:
    for side, frames in (("air", 8000), ("body", 8000 + round(8000 * apart))):
        make(tmp_path / side / "a.wav", frames)
        make(tmp_path / side / "b.wav")
    lenient = PairsCorpus(str(tmp_path / "body"), str(tmp_path / "air"), max_unreadable_share=0.5)
    assert {row.id: row.duration for row in lenient.rows("test")} == ({"a": 1.0} if kept else {}) | {"b": 0.1}
    assert (words is None and not caplog.records) or (words is not None and words in caplog.text)
    if not kept:
        with pytest.raises(DataError, match="differ in length by more than"):
            PairsCorpus(str(tmp_path / "body"), str(tmp_path / "air")).rows("test")


def test_names_that_differ_in_their_unicode_form_only_are_the_same(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    composed, split = (unicodedata.normalize(form, "Zoé") for form in ("NFC", "NFD"))
    make(tmp_path / f"body/train/{composed}/{split}.wav")
    make(tmp_path / f"air/train/{split}/{composed}.flac")
    [pair] = PairsCorpus(str(tmp_path / "body"), str(tmp_path / "air")).rows("train")
    assert (pair.id, pair.speaker) == (f"train/{composed}/{composed}", composed)
    assert all(os.path.isfile(path) for path in pair.paths.values())

    make(tmp_path / f"speech/train/{composed}/1.wav")
    make(tmp_path / f"speech/test/{split}/2.wav")
    folder = FolderCorpus(str(tmp_path / "speech"))
    assert [row.id for split in ("train", "test") for row in folder.rows(split)] == [
        f"train/{composed}/1",
        f"test/{composed}/2",
    ]
    assert "1 speaker(s) are both in train and in test" in caplog.text

    typed = [{"air": f"speech/train/{split}/1.wav", "split": "train", "speaker": split}]
    [row] = ManifestCorpus(manifest(tmp_path / "m.jsonl", *typed)).rows("train")
    assert (row.id, row.speaker) == (f"speech/train/{composed}/1", composed)
    assert row.paths["air"] == str(tmp_path / f"speech/train/{composed}/1.wav")


def test_split_folders_of_pairs_are_honoured(tmp_path: Path) -> None:
    for side in ("air", "body"):
        for name in ("train/anna/1.wav", "valid/2.wav", "3.wav"):
            make(tmp_path / side / name)
    corpus = PairsCorpus(str(tmp_path / "body"), str(tmp_path / "air"), split="valid")
    assert [(row.id, row.speaker) for row in corpus.rows("train")] == [("train/anna/1", "anna")]
    assert [(row.id, row.speaker) for row in corpus.rows("valid")] == [("3", "unknown"), ("valid/2", "unknown")]


def test_pairs_without_a_common_name_or_with_a_doubled_one_are_refused(tmp_path: Path) -> None:
    make(tmp_path / "air/1.wav")
    make(tmp_path / "body/2.wav")
    with pytest.raises(DataError, match=r"no file in .*body \(1 files\)"):
        PairsCorpus(str(tmp_path / "body"), str(tmp_path / "air")).rows("test")
    make(tmp_path / "air/1.flac")
    with pytest.raises(DataError, match="same name"):
        PairsCorpus(str(tmp_path / "body"), str(tmp_path / "air")).rows("test")
    with pytest.raises(DataError, match="no such folder"):
        PairsCorpus(str(tmp_path / "bodies"), str(tmp_path / "air"))
    with pytest.raises(ConfigError, match="split='dev' must be one of train, valid, test"):
        PairsCorpus(str(tmp_path / "body"), str(tmp_path / "air"), split="dev")


def manifest(path: Path, *records: dict[str, object]) -> str:
    path.write_text("\n".join(json.dumps({"split": "train", **record}) for record in records))
    return str(path)


def test_a_manifest_is_completed_from_the_headers(tmp_path: Path) -> None:
    make(tmp_path / "a.wav", frames=4000)
    make(tmp_path / "b.wav", frames=3000)
    path = manifest(
        tmp_path / "m.jsonl",
        {"air": "a.wav", "body": "b.wav", "offset": 0.125, "lag": 0.001, "polarity": -1},
        {"air": "a.wav", "id": "rounded", "duration": 0.501},
        {"air": "a.wav", "id": "other", "split": "valid", "duration": 0.25},
    )
    whole, rounded = ManifestCorpus(path).rows("train")
    assert (whole.id, whole.duration, whole.sample_rate, whole.lag, whole.polarity) == (
        "a@0.125",
        0.25,
        8000,
        0.001,
        -1,
    )
    assert rounded.duration == 0.5
    assert [row.id for row in ManifestCorpus(path).rows("valid")] == ["other"]


def test_a_manifest_that_contradicts_its_files_is_refused_with_all_of_them(tmp_path: Path) -> None:
    make(tmp_path / "a.wav", frames=4000)
    path = manifest(
        tmp_path / "m.jsonl",
        {"air": "a.wav", "id": "long", "duration": 0.6},
        {"air": "a.wav", "id": "late", "offset": 0.5},
        {"air": "a.wav", "id": "fast", "sample_rate": 16000},
        {"air": "a.wav", "id": "fine"},
    )
    with pytest.raises(DataError) as error:
        ManifestCorpus(path).rows("train")
    lines = str(error.value).splitlines()
    assert [line.split(":")[0] for line in lines[1:]] == ["long", "late", "fast"]


def test_missing_files_of_a_manifest_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    make(tmp_path / "a.wav")
    path = manifest(tmp_path / "m.jsonl", {"air": "a.wav"}, {"air": "gone.wav"})
    assert [row.id for row in ManifestCorpus(path, max_unreadable_share=0.5).rows("train")] == ["a"]
    assert "gone.wav does not exist" in caplog.text
    with pytest.raises(DataError, match=r"1 of 2 files are unreadable.*gone\.wav"):
        ManifestCorpus(path).rows("train")


@pytest.mark.corpora
@pytest.mark.skipif("BCFUSION_CORPORA" not in os.environ, reason="BCFUSION_CORPORA is not set")
def test_real_corpora_are_found() -> None:
    root = Path(os.environ["BCFUSION_CORPORA"])
    corpus = FolderCorpus(str(root / "librispeech_clips"))
    rows = corpus.rows("train")
    assert (len(rows), len({row.speaker for row in rows}), len(corpus.rows("valid"))) == (220, 220, 31)
    assert {row.sample_rate for row in rows} == {16000}
    pairs = PairsCorpus(str(root / "throat_pairs/throat"), str(root / "throat_pairs/air")).rows("test")
    assert len(pairs) == 8


def test_files_whose_length_is_not_that_of_their_header_are_used_whole_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "train/s"
    folder.mkdir(parents=True)
    odd_sounds.cut(odd_sounds.ogg(folder / "cut.ogg", 5 * odd_sounds.RATE), 0.6)
    odd_sounds.piped_flac(folder / "piped.flac", 20_000)
    odd_sounds.unfinished(folder / "unfinished.wav", 20_000, 0)
    make(folder / "whole.wav")
    rows = {Path(row.paths["air"]).name: row for row in FolderCorpus(str(tmp_path)).rows("train")}
    assert rows["piped.flac"].duration == rows["unfinished.wav"].duration == 20_000 / odd_sounds.RATE
    assert 0 < rows["cut.ogg"].duration < 5.0
    first, second = (record.getMessage() for record in caplog.records)
    assert "1 file(s) were cut off and are used as far as they go: " in first
    assert f"cut.ogg: its end is missing, {rows['cut.ogg'].duration:.3f} s can be read" in first
    assert "2 file(s) have a header that does not state their length; all of them is used: " in second
    assert "whole.wav" not in first + second
