from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import odd_sounds
import pytest
import soundfile
from scipy import signal

from bcfusion.data.corpora.listing import ManifestCorpus
from bcfusion.data.corpora.manifest import read_manifest
from bcfusion.data.inspect.alignment import ENOUGH, alignment
from bcfusion.data.inspect.checks import Severity
from bcfusion.data.inspect.criteria import TOP_ACTIVITY
from bcfusion.data.inspect.findings import Finding, findings
from bcfusion.data.inspect.fix import fix
from bcfusion.data.inspect.inspection import inspect_manifest, main_sensor
from bcfusion.data.loading.reader import SensorReader
from bcfusion.data.preparation.adapters import Option, Recording
from bcfusion.data.preparation.prepare import Job, prepare
from bcfusion.errors import DataError

RATE = 16000


@pytest.fixture(scope="module")
def voice(speech: Path) -> np.ndarray:
    return soundfile.read(sorted(speech.rglob("*.flac"))[0])[0]


class Takes:
    """An adapter of given recordings."""

    summary, source, layout, kind = "made by a test", "here", "", "speech"
    options: tuple[Option, ...] = ()

    def __init__(self, found: list[Recording]) -> None:
        self.found = found

    def recordings(self, root: Path, options: Mapping[str, str], unpacked: Path) -> Iterator[Recording]:
        yield from self.found


def body_of(air: np.ndarray, late: int = 0, polarity: int = 1) -> np.ndarray:
    low = signal.sosfilt(signal.butter(2, 800, fs=RATE, output="sos"), air)
    noise = 1e-4 * np.random.default_rng(len(air)).standard_normal(len(air))
    return polarity * np.roll(low, late) + noise


def store(folder: Path, name: str, samples: np.ndarray, rate: int = RATE) -> str:
    soundfile.write(folder / name, samples, rate)
    return name


def manifest(folder: Path, *records: dict[str, Any], name: str = "m.jsonl") -> Path:
    path = folder / name
    path.write_text("".join(json.dumps({"split": "train"} | record) + "\n" for record in records), encoding="utf-8")
    return path


def look(path: Path, **options: Any) -> dict[str, Finding]:
    found = findings(inspect_manifest(path, workers=1, progress=False, **options))
    assert [finding.severity for finding in found] == sorted(finding.severity for finding in found)
    return {finding.what: finding for finding in found}


def test_a_sound_pair_has_no_findings(tmp_path: Path, voice: np.ndarray) -> None:
    air = store(tmp_path, "air.wav", voice)
    body = store(tmp_path, "body.wav", body_of(voice, late=32, polarity=-1))
    record = {"air": air, "body": body, "lag": 0.002, "polarity": -1, "sample_rate": RATE, "speaker": "s"}
    assert look(manifest(tmp_path, record)) == {}


def test_files_that_cannot_be_used_are_errors_of_their_own_kind(tmp_path: Path, voice: np.ndarray) -> None:
    air = store(tmp_path, "air.wav", voice)
    store(tmp_path, "stereo.wav", np.stack([voice, voice], axis=1))
    store(tmp_path, "short.wav", voice[:800])
    (tmp_path / "empty.wav").write_bytes(b"")
    whole = (tmp_path / "air.wav").read_bytes()
    (tmp_path / "cut.wav").write_bytes(whole[: len(whole) // 2])
    flac = tmp_path / "cut.flac"
    soundfile.write(flac, voice, RATE)
    flac.write_bytes(flac.read_bytes()[: flac.stat().st_size // 2])  # its header is whole
    names = ("gone.wav", "empty.wav", "cut.wav", "cut.flac", "stereo.wav", "short.wav")
    found = look(
        manifest(
            tmp_path,
            *({"air": name, "id": name} for name in names),
            {"air": air, "duration": 60.0, "id": "long"},
            {"air": air, "sample_rate": 8000, "id": "rate"},
        )
    )
    counts = {what: finding.count for what, finding in found.items() if finding.severity == Severity.ERROR}
    assert counts == {
        "unreadable or empty files": 4,
        "channels that do not exist": 1,
        "shorter than 0.1 s": 1,
        "files shorter than the manifest says": 1,
        "sample_rate is not the file's": 1,
    }
    assert found["unreadable or empty files"].examples[0].startswith("gone.wav: ")


def test_levels_clipping_and_offset(tmp_path: Path, voice: np.ndarray) -> None:
    top = np.quantile(np.abs(voice), 0.995)
    records = [
        {"air": store(tmp_path, "silent.wav", np.zeros(RATE))},
        {"air": store(tmp_path, "clipped.wav", 0.9 / top * voice.clip(-top, top))},
        {"air": store(tmp_path, "offset.wav", 0.5 * voice + 0.2)},
        {"air": store(tmp_path, "quiet.wav", 1e-2 * voice)},
        {"air": store(tmp_path, "noisy.wav", voice + 0.03 * np.random.default_rng(0).standard_normal(len(voice)))},
    ]
    found = look(manifest(tmp_path, *records))
    named = {what: [example.split(":")[0] for example in finding.examples] for what, finding in found.items()}
    assert named["silent"] == ["silent"]
    assert named["clipped"] == ["clipped"]
    assert named["DC offset"] == ["offset"]
    assert named["very quiet"] == ["quiet"]
    assert named["air is noisy: SNR under 15 dB"] == ["noisy"]
    assert found["silent"].severity == found["clipped"].severity == Severity.ERROR


def test_upsampled_air_swapped_channels_and_different_takes(tmp_path: Path, voice: np.ndarray) -> None:
    both = store(tmp_path, "both.wav", np.stack([body_of(voice), voice], axis=1))
    low = signal.resample(signal.resample(voice, len(voice) // 2), len(voice))
    other = store(tmp_path, "b.wav", body_of(voice)[:-9600])
    stereo = {"air": both, "body": both, "speaker": "a"}
    found = look(
        manifest(
            tmp_path,
            stereo | {"id": "right", "air_channel": 1, "body_channel": 0},
            stereo | {"id": "wrong", "air_channel": 0, "body_channel": 1, "speaker": "b"},
            {"id": "upsampled", "air": store(tmp_path, "low.wav", low)},
            {
                "id": "takes",
                "air": store(tmp_path, "a.wav", voice),
                "body": other,
            },
        )
    )
    named = {what: [example.split(":")[0] for example in finding.examples] for what, finding in found.items()}
    assert named["body is wider than air: the channels are swapped"] == ["wrong"]
    # the other of the two is the low-passed channel, which is swapped for air
    assert "upsampled" in named["air was upsampled: it holds no speech in the upper part of its band"]
    assert named["sensors' files differ in length by 0.5 s or more"] == ["takes"]


def test_what_is_swapped_for_air_is_not_blamed_for_its_bandwidth(tmp_path: Path, voice: np.ndarray) -> None:
    air, body = store(tmp_path, "a.wav", voice), store(tmp_path, "b.wav", body_of(voice))
    assert set(look(manifest(tmp_path, {"air": body, "body": air}))) == {
        "body is wider than air: the channels are swapped"
    }


def test_a_silent_sensor_is_silent_and_not_swapped(tmp_path: Path, voice: np.ndarray) -> None:
    air, body = store(tmp_path, "a.wav", voice), store(tmp_path, "b.wav", np.zeros(len(voice)))
    assert set(look(manifest(tmp_path, {"air": air, "body": body}))) == {"silent", "lag and polarity are uncertain"}


def test_air_taken_for_the_sensor(tmp_path: Path, voice: np.ndarray) -> None:
    air, body = store(tmp_path, "a.wav", voice), store(tmp_path, "b.wav", body_of(voice))
    both = store(tmp_path, "both.wav", np.stack([voice, body_of(voice)], axis=1))
    found = look(
        manifest(
            tmp_path,
            {"id": "file", "air": air, "body": air},
            {"id": "channel", "air": both, "air_channel": 0, "body": both, "body_channel": 0, "offset": 0.5},
            {"id": "right", "air": air, "body": body, "offset": 1.0},
        )
    )
    examples = found["a sensor's samples are those of air"].examples
    assert [example.split(":")[0] for example in examples] == ["file", "channel"]


def test_samples_beyond_full_scale(tmp_path: Path, voice: np.ndarray) -> None:
    soundfile.write(tmp_path / "integers.wav", voice * 2**15, RATE, subtype="FLOAT")
    soundfile.write(tmp_path / "overshoot.wav", voice * 1.03 / np.abs(voice).max(), RATE, subtype="FLOAT")
    found = look(manifest(tmp_path, {"air": "integers.wav"}, {"air": "overshoot.wav", "offset": 0.1}))
    assert [example.split(":")[0] for example in found["above full scale"].examples] == ["integers"]


def test_at_48_khz_only_fricatives_need_to_reach_the_top(tmp_path: Path, voice: np.ndarray) -> None:
    rate, rng = 48000, np.random.default_rng(0)
    air = signal.resample(voice, 3 * len(voice))
    level = np.where(np.arange(len(air)) % 24000 < 2400, 5e-3, 1e-3)  # a tenth of the time 14 dB over the floor
    store(tmp_path, "a.wav", air + level * rng.standard_normal(len(air)), rate)
    path = manifest(tmp_path, {"air": "a.wav"})
    measured = inspect_manifest(path, workers=1, progress=False).lines[0].measured.sensors["air"]
    assert measured.bandwidth > 20000
    assert measured.top_activity < TOP_ACTIVITY
    assert look(path) == {}


def test_speakers_and_samples_in_two_splits(tmp_path: Path, voice: np.ndarray) -> None:
    store(tmp_path, "a.wav", voice)
    store(tmp_path, "copy.wav", voice)
    store(tmp_path, "other.wav", voice[::-1])
    found = look(
        manifest(
            tmp_path,
            {"air": "a.wav", "speaker": "s1"},
            {"air": "copy.wav", "speaker": "s2", "split": "test"},
            {"air": "other.wav", "speaker": "s1", "split": "valid"},
        )
    )
    assert found["speakers in several splits"].examples == ("s1: train, valid",)
    assert found["the same samples under several names, of different splits"].examples == ("a (train) = copy (test)",)
    assert "the same samples under several names, of different splits" not in look(
        manifest(tmp_path, {"air": "a.wav"}, {"air": "other.wav"})
    )


def test_several_sensors_against_one_air_file_are_no_repetition(tmp_path: Path, voice: np.ndarray) -> None:
    air = store(tmp_path, "air.wav", voice)
    common = {"air": air, "sample_rate": RATE, "speaker": "s"}
    bodies = [store(tmp_path, f"{late}.wav", body_of(voice, late=late)) for late in (0, 32)]
    records = [{**common, "id": body, "body": body, "session": body} for body in bodies]
    assert not [what for what in look(manifest(tmp_path, *records)) if "the same" in what]
    again = {**records[0], "id": "again"}
    assert "the same part of a file in several lines" in look(manifest(tmp_path, *records, again))
    split = [{**record, "split": name} for record, name in zip(records, ("train", "test"), strict=True)]
    assert "the same part of air, of different splits" in look(manifest(tmp_path, *split))


def test_unknown_speakers_may_be_in_several_splits(tmp_path: Path, voice: np.ndarray) -> None:
    store(tmp_path, "a.wav", voice)
    store(tmp_path, "b.wav", voice[::-1])
    path = manifest(tmp_path, {"air": "a.wav"}, {"air": "b.wav", "split": "test"})
    assert "speakers in several splits" not in look(path)


# ---------------------------------------------------------------- sessions and --fix


@pytest.fixture
def session(tmp_path: Path, speech: Path) -> Path:
    """Four takes of one wearer, late by 48 samples and inverted; in the fourth body is another's voice."""
    files = sorted(speech.rglob("*.flac"))[:5]
    records = []
    for place, file in enumerate(files[:4]):
        air = soundfile.read(file)[0]
        other = soundfile.read(files[4])[0]
        body = body_of(air, 48, -1) if place < 3 else body_of(other[::-1])
        store(tmp_path, f"a{place}.wav", air)
        store(tmp_path, f"b{place}.wav", body)
        records.append(
            {"id": f"u{place}", "air": f"a{place}.wav", "body": f"b{place}.wav", "speaker": "s", "text": "ü"}
        )
    return manifest(tmp_path, *records)


def test_a_session_resolves_what_a_single_take_cannot(session: Path) -> None:
    inspection = inspect_manifest(session, workers=1, progress=False)
    unsure = inspection.lines[3]
    assert unsure.measured.alignment is not None
    assert unsure.resolved is not None
    assert unsure.measured.alignment.confidence < 0.5
    assert unsure.resolved.lag_seconds == pytest.approx(0.003, abs=0.2e-3)
    assert unsure.resolved.polarity == -1


@pytest.mark.parametrize("speaker", ["s", "unknown"])
def test_prepare_believes_what_inspect_believes(session: Path, speaker: str) -> None:
    takes = [
        Recording(line.id, "train", speaker, {sensor: Path(path) for sensor, path in line.paths.items()})
        for line in read_manifest(session)
    ]
    made = session.with_name("made.jsonl")
    job = Job("made", Takes(takes), session.parent, {}, made, measure=True, workers=1)
    prepared = prepare(job, progress=False).rows
    inspection = inspect_manifest(made, workers=1, progress=False)
    certain = [line.resolved is not None for line in inspection.lines]
    assert certain == [True, True, True, speaker == "s"]
    assert [row.extra["lag_confidence"] >= ENOUGH for row in prepared] == certain
    for row, line in zip(prepared, inspection.lines, strict=True):
        if line.resolved is not None:
            assert (row.lag, row.polarity) == (round(line.resolved.lag_seconds, 6), line.resolved.polarity)
    before = made.read_text()
    fix(inspection)
    assert [json.loads(line) for line in made.read_text().splitlines()] == [
        {**json.loads(line), "lag_confidence": pytest.approx(json.loads(line)["lag_confidence"], abs=1e-3)}
        for line in before.splitlines()
    ]


def test_takes_of_unknown_speakers_are_no_session(session: Path) -> None:
    records = [json.loads(line) for line in session.read_text().splitlines()]
    for record in records:
        del record["speaker"]
    found = look(manifest(session.parent, *records, name="unknown.jsonl"))
    assert found["lag and polarity are uncertain"].examples[0].startswith("u3: ")


def test_fix_writes_what_is_certain_and_keeps_the_rest(session: Path) -> None:
    records = [json.loads(line) for line in session.read_text().splitlines()]
    for record in records:
        del record["speaker"]
    records[3]["lag"] = 0.25
    path = manifest(session.parent, *records, name="unknown.jsonl")
    fixed = fix(inspect_manifest(path, workers=1, progress=False))
    assert (fixed.aligned, fixed.uncertain, fixed.bandwidths) == (3, 1, 4)
    written = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    for before, after in zip(records[:3], written[:3], strict=True):
        assert after["lag"] == pytest.approx(0.003, abs=0.2e-3)
        assert after["polarity"] == -1
        assert after["lag_confidence"] >= 0.5
        assert before.items() <= after.items()
    assert written[3] == records[3] | {"bandwidth": written[3]["bandwidth"]}
    after = look(path)
    assert "polarity of body is not the manifest's" not in after
    assert not any(what.startswith("lag of body") for what in after)
    assert sorted(os.listdir(session.parent)) == sorted(
        [*(f"{side}{place}.wav" for side in "ab" for place in range(4)), "m.jsonl", "unknown.jsonl"]
    )


def test_after_fix_body_is_read_aligned_with_air_and_not_inverted(session: Path) -> None:
    fix(inspect_manifest(session, workers=1, progress=False))
    reader = SensorReader(("body",), sample_rate=RATE)
    for row in ManifestCorpus(str(session)).rows("train")[:3]:
        item = reader.read(row, 0, reader.total(row), (0,), training=False)
        found = alignment(item["inputs"][0].numpy(), item["target"][0].numpy(), RATE)
        assert found.lag_seconds == pytest.approx(0.0, abs=0.1e-3)
        assert found.polarity == 1


def test_fix_of_a_sample_leaves_the_other_lines_alone(session: Path) -> None:
    before = session.read_text().splitlines()
    fixed = fix(inspect_manifest(session, limit=2, workers=1, progress=False))
    after = session.read_text().splitlines()
    assert after[1:3] == before[1:3]  # the first and the last were measured
    assert len(after) == 4
    assert fixed.inspection.entries[1] == read_manifest(session)[1]


def test_fix_of_a_csv_keeps_cells_and_adds_columns(session: Path) -> None:
    path = session.with_name("m.csv")
    path.write_text('id,air,body,split,note\nu0,a0.wav,b0.wav,train,"one, two"\nu1,a1.wav,,train,\n')
    fix(inspect_manifest(path, workers=1, progress=False))
    head, first, second = path.read_text().splitlines()
    assert head == "id,air,body,split,note,lag,polarity,lag_confidence,bandwidth"
    assert first.startswith('u0,a0.wav,b0.wav,train,"one, two",0.00')
    assert second.startswith("u1,a1.wav,,train,,,,,")
    entries = read_manifest(path)
    assert [entry.polarity for entry in entries] == [-1, 1]
    assert entries[0].lag == pytest.approx(0.003, abs=0.2e-3)


def test_fix_refuses_a_manifest_that_changed_meanwhile(session: Path) -> None:
    inspection = inspect_manifest(session, workers=1, progress=False)
    changed = "\n".join(session.read_text().splitlines()[1:])
    session.write_text(changed)
    with pytest.raises(DataError, match="has changed while it was inspected"):
        fix(inspection)
    assert session.read_text() == changed


def test_a_jump_within_a_session_is_reported(session: Path, voice: np.ndarray) -> None:
    store(session.parent, "a3.wav", voice)
    store(session.parent, "b3.wav", body_of(voice, 100, -1))
    found = look(session)
    assert found["lag or polarity changes within a session"].examples[0].startswith("u3: +3.2")


# ---------------------------------------------------------------- other manifests


def test_noise_and_rooms_are_not_held_to_what_speech_must_be(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    store(tmp_path, "n.wav", 0.1 * rng.standard_normal(RATE))
    response = rng.standard_normal(RATE) * np.exp(-np.arange(RATE) / 800)
    store(tmp_path, "r.wav", 0.5 * response / np.abs(response).max())
    noise = manifest(tmp_path, {"noise": "n.wav"}, name="noise.jsonl")
    rooms = manifest(tmp_path, {"rir": "r.wav"}, name="rooms.jsonl")
    assert (main_sensor(noise), main_sensor(rooms)) == ("noise", "rir")
    assert look(noise) == {}
    assert look(rooms) == {}
    assert fix(inspect_manifest(noise, workers=1, progress=False)).bandwidths == 1


def test_processes_measure_what_one_thread_does(tmp_path: Path, voice: np.ndarray) -> None:
    for place in range(20):
        store(tmp_path, f"{place}.wav", np.roll(voice, 997 * place))
    path = manifest(tmp_path, *({"air": f"{place}.wav"} for place in range(20)))
    alone = inspect_manifest(path, workers=1, progress=False)
    together = inspect_manifest(path, workers=2, progress=False)
    assert [line.entry for line in alone.lines] == [line.entry for line in together.lines]
    for mine, theirs in zip(alone.lines, together.lines, strict=True):
        assert mine.measured.sensors["air"].levels == theirs.measured.sensors["air"].levels
    assert alone.spectra[("air", RATE)].count == together.spectra[("air", RATE)].count == 20


def test_a_limit_is_spread_over_the_manifest(tmp_path: Path, voice: np.ndarray) -> None:
    store(tmp_path, "a.wav", voice[:RATE])
    path = manifest(tmp_path, *({"air": "a.wav", "offset": 0.01 * place} for place in range(9)))
    assert inspect_manifest(path, limit=3, workers=1, progress=False).places == [0, 4, 8]


def test_a_file_beyond_a_minute_is_read_to_its_end(tmp_path: Path, voice: np.ndarray) -> None:
    long = np.tile(voice, 25)
    assert len(long) > 60 * RATE
    flac = tmp_path / "long.flac"
    soundfile.write(flac, long, RATE)
    assert look(manifest(tmp_path, {"air": "long.flac"})) == {}
    flac.write_bytes(flac.read_bytes()[: int(0.95 * flac.stat().st_size)])
    assert "unreadable or empty files" in look(manifest(tmp_path, {"air": "long.flac"}))


def test_files_that_were_cut_and_headers_without_a_length_are_findings(tmp_path: Path) -> None:
    odd_sounds.cut(odd_sounds.ogg(tmp_path / "cut.ogg", 5 * RATE), 0.6)
    odd_sounds.mp3(tmp_path / "vbr.mp3", 2 * RATE, header=False)
    odd_sounds.piped_flac(tmp_path / "piped.flac", 2 * RATE)
    records = [{"air": name, "speaker": name} for name in ("cut.ogg", "vbr.mp3", "piped.flac")]
    found = look(manifest(tmp_path, *records))
    cut, counted = found["files that were cut off"], found["files whose header does not state their length"]
    assert (cut.severity, cut.count, counted.severity, counted.count) == (Severity.ERROR, 1, Severity.WARNING, 2)
    assert "cut.ogg: its end is missing, " in cut.examples[0]
    assert "frames were counted" in counted.examples[0]
