from __future__ import annotations

import json
import os
import resource
import time
from collections.abc import Iterator, Mapping
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import odd_sounds
import pytest

from bcfusion import audio
from bcfusion.data.corpora.manifest import read_manifest
from bcfusion.data.preparation.adapters import LayoutError, Option, Recording, missing, split_by_speaker
from bcfusion.data.preparation.journal import Journal
from bcfusion.data.preparation.prepare import Job, prepare, rows_of
from bcfusion.errors import DataError


@dataclass
class Listed:
    """An adapter of recordings that a test has made."""

    found: list[Recording] = field(default_factory=list)
    summary: str = "made by a test"
    source: str = "here"
    layout: str = "ROOT/*.wav"
    kind: str = "speech"
    options: tuple[Option, ...] = ()

    def recordings(self, root: Path, options: Mapping[str, str], unpacked: Path) -> Iterator[Recording]:
        yield from self.found


def make(path: Path, seconds: float = 0.1, channels: int = 1, rate: int = 8000) -> Path:
    audio.write(path, np.zeros((channels, round(seconds * rate))), rate)
    return path


def speech(path: Path, split: str = "train", speaker: str | None = None) -> Recording:
    return Recording(path.stem, split, speaker or path.stem, {"air": path})


def job(folder: Path, *found: Recording, **more: object) -> Job:
    values: dict[str, object] = {"max_unreadable_share": 0.0, **more}
    return replace(Job("listed", Listed(list(found)), folder, {}, folder / "m.jsonl"), **values)  # type: ignore[arg-type]


def test_a_row_combines_the_corpus_and_the_headers(tmp_path: Path) -> None:
    both = make(tmp_path / "a.wav", seconds=2.0, channels=2)
    recordings = [
        Recording(
            "u1",
            "test",
            "s",
            {"air": both, "body": both},
            {"air": 1, "body": 0},
            offset=0.5,
            lag=0.001,
            polarity=-1,
            extra={"text": "oui"},
        ),
        replace(speech(both), id="u2", channels={"air": 0}, offset=0.5, duration=1.0),
    ]
    first, second = prepare(job(tmp_path, *recordings, keep_shared_speakers=True), progress=False).rows
    assert (first.duration, first.offset, first.sample_rate, first.channels) == (1.5, 0.5, 8000, {"air": 1, "body": 0})
    assert (first.lag, first.polarity, first.extra, first.bandwidth) == (
        0.001,
        -1,
        {"corpus": "listed", "text": "oui"},
        None,
    )
    assert (second.duration, second.channels) == (1.0, {"air": 0})
    assert rows_of(job(tmp_path)) == [first, second]


def test_rows_keep_the_order_of_the_adapter_whichever_thread_is_first(tmp_path: Path) -> None:
    recordings = [replace(speech(make(tmp_path / "a.wav")), id=str(number)) for number in range(300)]
    rows = prepare(job(tmp_path, *recordings, workers=4), progress=False).rows
    assert [row.id for row in rows] == [str(number) for number in range(300)]


def test_each_reason_to_leave_a_recording_out_is_counted_and_named(tmp_path: Path) -> None:
    (tmp_path / "text.wav").write_text("no sound")
    good = make(tmp_path / "good.wav")
    stereo = make(tmp_path / "stereo.wav", channels=2)
    recordings = [
        speech(good),
        speech(tmp_path / "text.wav"),
        speech(tmp_path / "gone.wav"),
        speech(stereo),
        replace(speech(good), id="beyond", channels={"air": 1}),
        replace(speech(good), id="long", duration=0.2),
        replace(speech(good), id="late", offset=0.1),
        replace(speech(stereo), id="good"),
        replace(speech(good, "test", speaker="text"), id="other"),
    ]
    done = prepare(job(tmp_path, *recordings, max_unreadable_share=1.0), progress=False)
    assert [row.id for row in done.rows] == ["good", "other"]
    counts, named = done.left_out.lines(done.total)
    assert counts.startswith("7 of 9 recordings are left out: ")
    for kind in (
        "1 unreadable",
        "2 with another number of channels",
        "2 shorter than the corpus says",
        "1 with a repeated id",
        "1 of speakers who are in another split too",
    ):
        assert kind in counts
    assert "stereo.wav has 2 channels, one was expected" in named
    assert "good.wav: 0 s + 0.2 s is past the end of the shortest file, at 0.100 s" in named


def test_thousands_of_missing_files_end_the_run_in_three_lines_and_at_once(tmp_path: Path) -> None:
    for number in range(2000):  # names to search for the nearest, which takes a second for each of them
        (tmp_path / f"recording_{number}.wav").touch()
    recordings = [speech(tmp_path / f"recordin_{number}.wav") for number in range(3000)]
    start = time.process_time()
    with pytest.raises(DataError) as error:
        prepare(job(tmp_path, *recordings), progress=False)
    assert time.process_time() - start < 10
    lines = str(error.value).splitlines()
    assert len(lines) == 3
    assert lines[0] == "3000 of 3000 recordings are left out: 3000 unreadable"
    assert "recordin_0.wav does not exist; did you mean" in lines[1]
    assert lines[1].endswith("and 2997 more")
    assert "--max-unreadable-share 0 allows" in lines[2]
    assert not (tmp_path / "m.jsonl").exists()


def test_speakers_are_never_in_two_splits_and_test_stays_whole(tmp_path: Path) -> None:
    file = make(tmp_path / "a.wav")
    recordings = [
        replace(speech(file, split, speaker), id=f"{speaker}-{split}")
        for speaker, splits in {"p1": ("train", "test"), "p2": ("train", "valid"), "unknown": ("train", "test")}.items()
        for split in splits
    ]
    done = prepare(job(tmp_path, *recordings, max_unreadable_share=0.5), progress=False)
    assert [row.id for row in done.rows] == ["p1-test", "p2-valid", "unknown-train", "unknown-test"]
    with pytest.raises(DataError, match="--keep-shared-speakers"):
        prepare(job(tmp_path, *recordings), progress=False)
    assert len(prepare(job(tmp_path, *recordings, keep_shared_speakers=True), progress=False).rows) == 6


def test_few_shared_speakers_among_many_broken_files_are_not_blamed(tmp_path: Path) -> None:
    file = make(tmp_path / "a.wav")
    shared = [replace(speech(file, split, "p"), id=split) for split in ("train", "valid", "test")]
    broken = [speech(tmp_path / f"none{number}.wav") for number in range(3)]
    whole = [replace(speech(file), id=f"u{number}") for number in range(4)]
    with pytest.raises(DataError, match="no manifest was written") as raised:
        prepare(job(tmp_path, *shared, *broken, *whole, max_unreadable_share=0.3), progress=False)
    assert "--keep-shared-speakers" not in str(raised.value)


def test_a_journal_of_the_same_job_is_used_and_then_removed(tmp_path: Path) -> None:
    recordings = [speech(make(tmp_path / f"{name}.wav")) for name in "abc"]
    broken = tmp_path / "d.wav"
    broken.write_text("soon")
    with pytest.raises(DataError):
        prepare(job(tmp_path, *recordings, speech(broken)), progress=False)
    for recording in recordings:  # so that a header read again would be noticed
        recording.paths["air"].unlink()
    make(broken)
    done = prepare(job(tmp_path, *recordings, speech(broken)), progress=False)
    assert (done.resumed, len(done.rows), done.rows[0].duration) == (3, 4, 0.1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["d.wav", "m.jsonl"]


def test_a_journal_of_another_job_is_not_used(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with Journal(tmp_path / "j", {"measure": False}) as journal:
        journal.add([{"id": "a", "duration": 1.0}])
    with Journal(tmp_path / "j", {"measure": True}) as journal:
        assert journal.done == {}
    assert "starting from scratch" in caplog.text


def test_a_torn_line_of_a_journal_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "j"
    with Journal(path, {"x": 1}) as journal:
        journal.add([{"id": "a"}, {"id": "b", "duration": 2.5}])
    os.truncate(path, path.stat().st_size - 4)
    with Journal(path, {"x": 1}) as journal:
        assert list(journal.done) == ["a"]
        journal.add([{"id": "c"}])
    assert [json.loads(line) for line in path.read_text().splitlines()][1:] == [{"id": "a"}, {"id": "c"}]


def test_a_journal_that_cannot_grow_reports_it_and_keeps_what_it_has(tmp_path: Path) -> None:
    path, limits = tmp_path / "j", resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        with Journal(path, {}) as journal:
            journal.add([{"id": "a"}])
            resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 100, limits[1]))
            with pytest.raises(DataError, match=r"cannot write .*/j: File too large"):
                journal.add([{"id": "b" * 1000}])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    with Journal(path, {}) as journal:
        assert list(journal.done) == ["a"]


def test_two_runs_at_once_are_refused(tmp_path: Path) -> None:
    with Journal(tmp_path / "j", {}), pytest.raises(DataError, match="is in use"):
        Journal(tmp_path / "j", {})


def test_noise_and_room_responses_have_their_own_column(tmp_path: Path) -> None:
    for kind, sensor in (("noise", "noise"), ("rir", "rir")):
        recording = Recording("n", "train", "unknown", {sensor: make(tmp_path / "n.wav")})
        task = replace(job(tmp_path, recording), adapter=Listed([recording], kind=kind))
        prepare(task, progress=False)
        [entry] = read_manifest(task.target, needed=sensor)
        assert entry.paths == {sensor: str(tmp_path / "n.wav")}
        with pytest.raises(DataError, match="no column 'air'"):
            read_manifest(task.target)
        task.target.unlink()


@pytest.mark.slow
def test_a_killed_worker_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*_: Any, **__: Any) -> None:
        raise BrokenProcessPool("a process was killed")

    monkeypatch.setattr("bcfusion.data.preparation.prepare.facts_of", killed)
    with pytest.raises(DataError, match="use fewer --workers"):
        prepare(job(tmp_path, speech(make(tmp_path / "a.wav"))), progress=False)


def test_an_empty_corpus_and_an_adapter_without_air_are_errors(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"listed finds no recordings in it\nexpected layout"):
        prepare(job(tmp_path), progress=False)
    with pytest.raises(DataError, match="no air, or an unknown split"):
        prepare(job(tmp_path, Recording("a", "dev", "s", {"air": tmp_path / "a.wav"})), progress=False)


def test_measuring_fills_bandwidth_lag_and_polarity(tmp_path: Path) -> None:
    pytest.importorskip("bcfusion.data.inspect.alignment")
    rate, lag = 16000, 40
    rng = np.random.default_rng(0)
    # speech-like: syllables of noise, up to 3 kHz
    spectrum = np.fft.rfft(rng.standard_normal(4 * rate) * (np.sin(2 * np.pi * 3 * np.arange(4 * rate) / rate) > 0))
    spectrum[3 * len(spectrum) * 1000 // 8000 :] = 0
    air = np.fft.irfft(spectrum)
    air *= 0.1 / air.std()
    body = -np.roll(air, lag) * 0.5
    audio.write(tmp_path / "s.wav", np.stack([body, air + 1e-5 * rng.standard_normal(len(air))]), rate)
    recording = replace(
        speech(tmp_path / "s.wav"),
        paths=dict.fromkeys(("air", "body"), tmp_path / "s.wav"),
        channels={"body": 0, "air": 1},
    )
    [row] = prepare(job(tmp_path, recording, measure=True, workers=1), progress=False).rows
    assert row.bandwidth == pytest.approx(3000, abs=300)
    assert row.lag == pytest.approx(lag / rate, abs=2e-4)
    assert row.polarity == -1
    assert rows_of(job(tmp_path)) == [row]


# ---------------------------------------------------------------- splits and layouts


def test_speakers_are_divided_by_their_shares_the_same_way_everywhere() -> None:
    names = [f"p{number}" for number in range(225, 335)]
    splits = split_by_speaker(names)
    assert splits == split_by_speaker(reversed(names))
    assert [list(splits.values()).count(split) for split in ("train", "valid", "test")] == [88, 11, 11]
    assert [name for name in names if splits[name] == "test"][:3] == ["p235", "p243", "p265"]  # on every machine
    assert split_by_speaker(names, seed=1) != splits
    assert set(split_by_speaker(names, (9, 1, 0)).values()) == {"train", "valid"}


def test_one_more_speaker_moves_few_others() -> None:
    names = [f"p{number}" for number in range(100)]
    before, after = split_by_speaker(names), split_by_speaker([*names, "another"])
    assert sum(before[name] != after[name] for name in names) <= 3


@pytest.mark.parametrize(
    ("speakers", "splits"), [(1, ["train"]), (2, ["train", "valid"]), (3, ["test", "train", "valid"])]
)
def test_of_few_speakers_no_split_stays_empty(speakers: int, splits: list[str]) -> None:
    assert sorted(split_by_speaker(map(str, range(speakers))).values()) == splits


@pytest.mark.parametrize("shares", [(0.5, -0.1, 0.6), (0.0, 0.0, 0.0), (float("nan"), 1, 1)])
def test_shares_that_divide_nothing_are_refused(shares: tuple[float, float, float]) -> None:
    with pytest.raises(DataError, match="shares"):
        split_by_speaker("ab", shares)


def test_a_wrong_root_is_reported_with_what_is_there_and_what_should_be(tmp_path: Path) -> None:
    (tmp_path / "papers").mkdir()
    message = str(missing(Listed(), tmp_path, "no recordings"))
    assert message == f"{tmp_path}: no recordings; it contains: papers\nexpected layout:\nROOT/*.wav\nsource: here"
    assert "there is no such folder" in str(missing(Listed(), tmp_path / "x", "no recordings"))
    assert issubclass(LayoutError, DataError)


# ---------------------------------------------------------------- examples of the documentation

MANIFESTS = Path(__file__).resolve().parents[2] / "docs/manifests.md"


def test_the_example_lines_of_the_documentation_are_a_manifest(tmp_path: Path) -> None:
    lines = [line for line in MANIFESTS.read_text().splitlines() if line.startswith("{")]
    (tmp_path / "m.jsonl").write_text("\n".join(lines))
    first, second = read_manifest(tmp_path / "m.jsonl")
    assert (first.channels, first.gain, first.bandwidth) == ({"air": 1, "body": 0}, 6.0, 7800.0)
    assert (first.extra, second.id) == ({"text": "bonjour"}, "wav/bob_01")


def test_the_adapter_of_the_documentation_works(tmp_path: Path) -> None:
    namespace: dict[str, Any] = {}
    exec(MANIFESTS.read_text().split("```python\n")[1].split("```")[0], namespace)
    for speaker in ("ann", "eve", "joe"):
        make(tmp_path / speaker / "1.wav", channels=2)
    task = replace(job(tmp_path), adapter=namespace["ADAPTER"])
    rows = prepare(task, progress=False).rows
    assert [(row.id, row.split) for row in rows] == [("ann/1", "test"), ("eve/1", "valid"), ("joe/1", "train")]


def test_the_manifest_states_true_lengths_and_what_was_cut_is_told(tmp_path: Path) -> None:
    frames, rate = 20_000, odd_sounds.RATE
    files = [
        odd_sounds.mp3(tmp_path / "vbr.mp3", frames, header=False),
        odd_sounds.piped_flac(tmp_path / "piped.flac", frames),
        odd_sounds.unfinished(tmp_path / "unfinished.wav", frames, 0),
        odd_sounds.chain(
            tmp_path / "chain.ogg", *(odd_sounds.ogg(tmp_path / f"{n}.ogg", frames, seed=n) for n in range(2))
        ),
        odd_sounds.cut(odd_sounds.ogg(tmp_path / "cut.ogg", 5 * rate), 0.6),
        odd_sounds.cut(make(tmp_path / "short.flac", seconds=9.0), 0.5),
        make(tmp_path / "whole.wav"),
    ]
    prepared = prepare(job(tmp_path, *(speech(file) for file in files), max_unreadable_share=0.2), progress=False)
    durations = {row.id: row.duration for row in rows_of(job(tmp_path))}
    assert durations == {row.id: row.duration for row in prepared.rows}
    assert durations["piped"] == durations["unfinished"] == frames / rate
    assert durations["chain"] == 2 * frames / rate
    assert frames / rate <= durations["vbr"] < (frames + 3 * 1152) / rate
    assert 0 < durations["cut"] < 5.0
    cut, counted = prepared.lengths
    assert cut.startswith("1 file(s) were cut off; what is left of them is listed: ")
    assert f"cut.ogg: its end is missing, {durations['cut']:.3f} s can be read" in cut
    assert counted.startswith("4 file(s) do not state their length: ")
    assert counted.endswith("; and 1 more")
    assert "short.flac is truncated" in "".join(prepared.left_out.lines(7))
    manifest = (tmp_path / "m.jsonl").read_text()
    assert "remark" not in manifest
