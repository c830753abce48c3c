from __future__ import annotations

import io
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import odd_sounds
import pytest
import soundfile
from scipy.signal import butter, sosfilt

from bcfusion import audio
from bcfusion.data.corpora.manifest import read_manifest
from bcfusion.data.preparation.adapters import Adapter, LayoutError, Recording
from bcfusion.data.preparation.adapters.abcs import ADAPTER as ABCS
from bcfusion.data.preparation.adapters.channels import check_channel_order
from bcfusion.data.preparation.adapters.esmb import ADAPTER as ESMB
from bcfusion.data.preparation.adapters.parquet import unpack
from bcfusion.data.preparation.adapters.taps import ADAPTER as TAPS
from bcfusion.data.preparation.adapters.vibravox import ADAPTER as VIBRAVOX
from bcfusion.data.preparation.prepare import Job
from bcfusion.data.preparation.prepare import prepare as run_engine
from bcfusion.errors import DataError

RATE = 16000
SENSORS = ["headset_microphone", "forehead_accelerometer", "soft_in_ear_microphone", "rigid_in_ear_microphone"]
SENSORS += ["temple_vibration_pickup", "throat_microphone"]


def prepare(adapter: Adapter, root: Path, unpacked: Path | None = None, **given: str) -> list[Recording]:
    options = {option.name: option.default for option in adapter.options if option.default is not None}
    options |= {name.replace("_", "-"): value for name, value in given.items()}
    return list(adapter.recordings(root, options, unpacked or root.with_name("unpacked")))


def wav(seed: int, seconds: float = 0.05, rate: int = RATE, subtype: str = "PCM_16") -> bytes:
    """A sound file whose samples encode the seed."""
    buffer = io.BytesIO()
    samples = np.random.default_rng(seed).uniform(-0.5, 0.5, round(seconds * rate))
    soundfile.write(buffer, samples, rate, format="WAV", subtype=subtype)
    return buffer.getvalue()


def write_parquet(file: Path, rows: Sequence[dict[str, Any]], row_group: int = 2) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    file.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pyarrow.Table.from_pylist(list(rows)), file, row_group_size=row_group)


def vibravox_row(speaker: str, sentence: int, seed: int, subtype: str = "PCM_16") -> dict[str, Any]:
    sounds = {
        f"audio.{sensor}": {"bytes": wav(10 * seed + i, rate=48000, subtype=subtype), "path": f"{sensor}.wav"}
        for i, sensor in enumerate(SENSORS)
    }
    text = {"raw_text": "Bonjour.", "normalized_text": "bonjour", "phonemized_text": "bɔ̃ʒuʁ"}
    facts = {"gender": "female", "speaker_id": speaker, "sentence_id": sentence, "duration": 0.05}
    return {**sounds, **facts, **text}


@pytest.fixture
def vibravox(tmp_path: Path) -> Path:
    root = tmp_path / "vibravox"
    train = [vibravox_row("qt4TPMEPwF", sentence, seed=sentence) for sentence in (1, 2, 3)]
    write_parquet(root / "speech_clean/train-00000-of-00002.parquet", train)
    write_parquet(root / "speech_clean/train-00001-of-00002.parquet", [vibravox_row("Nx9SJMsd", 7, seed=4)])
    write_parquet(root / "speech_clean/validation-00000-of-00001.parquet", [vibravox_row("v1", 1, seed=5)])
    write_parquet(root / "speech_clean/test-00000-of-00001.parquet", [vibravox_row("t1", 1, seed=6)])
    return root


def test_vibravox_pairs_a_sensor_with_the_headset_in_the_official_splits(vibravox: Path) -> None:
    recordings = prepare(VIBRAVOX, vibravox)
    assert [(r.id, r.split, r.speaker) for r in recordings] == [
        ("speech_clean/qt4TPMEPwF/1", "train", "qt4TPMEPwF"),
        ("speech_clean/qt4TPMEPwF/2", "train", "qt4TPMEPwF"),
        ("speech_clean/qt4TPMEPwF/3", "train", "qt4TPMEPwF"),
        ("speech_clean/Nx9SJMsd/7", "train", "Nx9SJMsd"),
        ("speech_clean/v1/1", "valid", "v1"),
        ("speech_clean/t1/1", "test", "t1"),
    ]
    assert recordings[1].extra == {"sensor": "throat_microphone", "gender": "female", "raw_text": "Bonjour."}
    for sensor, column in (("air", "headset_microphone"), ("body", "throat_microphone")):
        samples, rate = audio.read(recordings[1].paths[sensor])
        expected, _ = soundfile.read(io.BytesIO(wav(20 + SENSORS.index(column), rate=48000)), dtype="float32")
        assert rate == 48000
        assert recordings[1].paths[sensor].suffix == ".flac"
        np.testing.assert_array_equal(samples[0], expected)


def test_vibravox_all_sensors_are_five_recordings_of_each_utterance_that_share_the_headset(vibravox: Path) -> None:
    recordings = prepare(VIBRAVOX, vibravox, sensor="all")
    assert all(r.extra["session"] == r.extra["sensor"] for r in recordings)
    assert len(recordings) == 6 * 5
    assert len({r.id for r in recordings}) == 6 * 5
    assert {r.extra["sensor"] for r in recordings} == {*SENSORS} - {"headset_microphone"}
    assert len({r.paths["air"] for r in recordings}) == 6


def test_a_manifest_of_vibravox_points_to_what_was_unpacked_beside_it(vibravox: Path, tmp_path: Path) -> None:
    given = {"sensor": "throat_microphone", "subset": "speech_clean"}
    run_engine(Job("vibravox", VIBRAVOX, vibravox, given, tmp_path / "throat.jsonl"), progress=False)
    entries = read_manifest(tmp_path / "throat.jsonl")
    assert [e.split for e in entries] == [*4 * ["train"], "valid", "test"]
    assert {e.sample_rate for e in entries} == {48000}
    body = tmp_path / "throat_audio/speech_clean/train/throat_microphone/qt4TPMEPwF/1.flac"
    assert Path(entries[0].paths["body"]) == body
    assert body.is_file()


def test_manifests_of_several_sensors_share_what_was_unpacked_of_the_headset(vibravox: Path, tmp_path: Path) -> None:
    for sensor in ("throat_microphone", "soft_in_ear_microphone"):
        given = {"sensor": sensor, "subset": "speech_clean"}
        job = Job("vibravox", VIBRAVOX, vibravox, given, tmp_path / f"{sensor}.jsonl", unpack=tmp_path / "audio")
        run_engine(job, progress=False)
    throat, soft = (read_manifest(tmp_path / f"{s}.jsonl") for s in ("throat_microphone", "soft_in_ear_microphone"))
    assert [e.id for e in throat] == [e.id for e in soft]
    assert [e.paths["air"] for e in throat] == [e.paths["air"] for e in soft]
    assert {e.paths["body"] for e in throat}.isdisjoint(e.paths["body"] for e in soft)
    assert len(list((tmp_path / "audio").rglob("*.flac"))) == 3 * 6


def test_a_corpus_of_plain_files_has_nothing_to_unpack(abcs: Path, tmp_path: Path) -> None:
    given = {"air-channel": "0", "body-channel": "1"}
    with pytest.raises(DataError, match=r"--unpack .*: abcs has nothing to unpack"):
        run_engine(Job("abcs", ABCS, abcs, given, tmp_path / "a.jsonl", unpack=tmp_path / "audio"), progress=False)


def test_a_row_without_a_sound_is_left_out_and_a_shorter_sensor_shortens_its_recording(
    vibravox: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [vibravox_row("v2", sentence, seed=sentence) for sentence in (1, 2, 3)]
    rows[0]["audio.throat_microphone"] = None
    rows[1]["audio.throat_microphone"]["bytes"] = wav(7, seconds=0.04, rate=48000)
    rows[2]["audio.soft_in_ear_microphone"] = None
    write_parquet(vibravox / "speech_clean/validation-00000-of-00001.parquet", rows)
    given = {"sensor": "throat_microphone", "subset": "speech_clean"}
    with caplog.at_level(logging.WARNING):
        run_engine(Job("vibravox", VIBRAVOX, vibravox, given, tmp_path / "throat.jsonl"), progress=False)
    entries = [e for e in read_manifest(tmp_path / "throat.jsonl") if e.split == "valid"]
    assert [(e.id, e.duration) for e in entries] == [("speech_clean/v2/2", 0.04), ("speech_clean/v2/3", 0.05)]
    assert "v2/1 is left out: the row holds no sound" in caplog.text


def test_what_is_unpacked_is_not_written_again_and_what_was_interrupted_resumes(vibravox: Path) -> None:
    first = prepare(VIBRAVOX, vibravox)
    lost = first[2].paths["body"]
    lost.unlink()
    written = {path: path.stat().st_mtime_ns for r in first for path in r.paths.values() if path.exists()}
    assert prepare(VIBRAVOX, vibravox) == first
    assert lost.is_file()
    assert {path: path.stat().st_mtime_ns for path in written} == written


def test_if_all_is_unpacked_the_sounds_are_not_read(vibravox: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    first = prepare(VIBRAVOX, vibravox)

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("the sounds were read")

    monkeypatch.setattr(parquet.ParquetFile, "iter_batches", refuse)
    assert prepare(VIBRAVOX, vibravox) == first


def test_the_layout_that_hugging_face_converts_to_is_read_and_24_bits_stay(tmp_path: Path) -> None:
    root = tmp_path / "vibravox"
    rows = [vibravox_row("a", 1, seed=1, subtype="PCM_24"), vibravox_row("b", 1, seed=2, subtype="FLOAT")]
    write_parquet(root / "speechless_noisy/train/0000.parquet", rows)
    first, second = prepare(VIBRAVOX, root, subset="speechless_noisy")
    assert (first.id, second.id) == ("speechless_noisy/a/1", "speechless_noisy/b/1")
    expected, _ = soundfile.read(io.BytesIO(wav(10, rate=48000, subtype="PCM_24")), dtype="float32")
    np.testing.assert_array_equal(audio.read(first.paths["air"])[0][0], expected)
    assert soundfile.info(second.paths["air"]).subtype == "PCM_24"


def test_recordings_without_a_number_of_their_own_get_one(tmp_path: Path) -> None:
    rows = [vibravox_row("a", 1, seed=seed) for seed in (1, 2)]
    for row in rows:
        del row["sentence_id"]
    write_parquet(tmp_path / "root/speechless_clean/test-00000-of-00001.parquet", rows)
    recordings = prepare(VIBRAVOX, tmp_path / "root", subset="speechless_clean")
    assert [r.id for r in recordings] == ["speechless_clean/a/0", "speechless_clean/a/0-2"]


def test_a_sound_without_a_length_in_its_header_is_unpacked_whole(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    content = odd_sounds.mp3(tmp_path / "a.mp3", 20_000, header=False).read_bytes()
    write_parquet(tmp_path / "a.parquet", [{"sound": {"bytes": content, "path": "a.mp3"}, "id": "a"}])
    [(_, files, _)] = unpack([tmp_path / "a.parquet"], {"air": "sound"}, ["id"], lambda row: row["id"], tmp_path)
    expected, _ = audio.read(tmp_path / "a.mp3")
    written, _ = audio.read(files["air"])
    assert written.shape == expected.shape
    assert np.abs(written - expected.clip(-1, 1)).max() < 2**-22
    assert f"{files['air']}: no header states its length: " in caplog.text


def test_a_damaged_sound_costs_its_row_and_a_missing_shard_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [vibravox_row("a", sentence, seed=sentence) for sentence in (1, 2, 3)]
    rows[1]["audio.throat_microphone"]["bytes"] = b"RIFF and no more"
    write_parquet(tmp_path / "root/speech_clean/train-00000-of-00201.parquet", rows)
    with caplog.at_level(logging.WARNING):
        recordings = prepare(VIBRAVOX, tmp_path / "root")
    assert [r.id for r in recordings] == ["speech_clean/a/1", "speech_clean/a/3"]
    assert "a/2 is left out" in caplog.text
    assert "1 of the 00201 files" in caplog.text


def test_a_wrong_root_column_or_file_is_reported(tmp_path: Path) -> None:
    (tmp_path / "root/other").mkdir(parents=True)
    with pytest.raises(LayoutError, match=r"speech_noisy.*it contains: other(?s:.*)train-00000-of-00201"):
        prepare(VIBRAVOX, tmp_path / "root", subset="speech_noisy")
    row = vibravox_row("a", 1, seed=1)
    del row["audio.throat_microphone"]
    write_parquet(tmp_path / "root/speech_clean/train-00000-of-00001.parquet", [row])
    with pytest.raises(DataError, match=r"no column audio\.throat_microphone; its columns: audio\.headset"):
        prepare(VIBRAVOX, tmp_path / "root")
    (tmp_path / "root/speech_noisy").mkdir()
    (tmp_path / "root/speech_noisy/train-00000-of-00001.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match="not a parquet file, or truncated"):
        prepare(VIBRAVOX, tmp_path / "root", subset="speech_noisy")


def test_taps_keeps_its_splits_and_calls_dev_valid(tmp_path: Path) -> None:
    for split, speaker, seed in (("train", "p01", 1), ("dev", "p41", 2), ("test", "p51", 3)):
        sounds = {
            f"audio.{name}": {"bytes": wav(10 * seed + i), "path": f"{name}.wav"}
            for i, name in enumerate(("throat_microphone", "acoustic_microphone"))
        }
        facts = {"gender": "M", "speaker_id": speaker, "sentence_id": "u00", "duration": 0.05, "normalized_text": "네"}
        write_parquet(tmp_path / f"taps/data/{split}-00000-of-00001.parquet", [{**facts, **sounds}])
    recordings = prepare(TAPS, tmp_path / "taps")
    assert [(r.id, r.split, r.speaker) for r in recordings] == [
        ("p01/u00", "train", "p01"),
        ("p41/u00", "valid", "p41"),
        ("p51/u00", "test", "p51"),
    ]
    assert recordings[0].extra == {"gender": "M", "normalized_text": "네"}
    throat, _ = soundfile.read(io.BytesIO(wav(10)), dtype="float32")
    np.testing.assert_array_equal(audio.read(recordings[0].paths["body"])[0][0], throat)
    with pytest.raises(LayoutError, match=r"huggingface\.co/datasets/yskim3271"):
        prepare(TAPS, tmp_path)


def test_without_the_libraries_the_message_says_what_to_install(
    vibravox: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(DataError, match=r"pip install 'bcfusion\[corpora\]'"):
        prepare(VIBRAVOX, vibravox)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(DataError, match=r"speech_clean/\*\.parquet of https://huggingface.co/datasets/Cnam-LMSSC"):
        VIBRAVOX.download(vibravox, {"subset": "speech_clean"})


def test_download_asks_for_the_subset_only_and_reports_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = pytest.importorskip("huggingface_hub")
    asked: list[dict[str, Any]] = []
    monkeypatch.setattr(hub, "snapshot_download", lambda **given: asked.append(given))
    VIBRAVOX.download(tmp_path, {"subset": "speech_noisy"})
    wanted = {"repo_id": "Cnam-LMSSC/vibravox", "repo_type": "dataset", "allow_patterns": ["speech_noisy/*.parquet"]}
    assert asked == [{**wanted, "local_dir": tmp_path}]

    def offline(**given: Any) -> None:
        raise OSError("no\nnetwork")

    monkeypatch.setattr(hub, "snapshot_download", offline)
    with pytest.raises(DataError, match=r"cannot download .* no network"):
        TAPS.download(tmp_path, {})


def two_sensors(seed: int, seconds: float = 0.6, hiss: float = 1e-4, line: float = 0.0) -> np.ndarray:
    """Syllables of noise at an air microphone and, without what is above 800 Hz, at a bone sensor: ``(2, T)``."""
    rng = np.random.default_rng(seed)
    time = np.arange(round(seconds * RATE)) / RATE
    air = 0.1 * rng.standard_normal(time.size) * (np.sin(2 * np.pi * 4 * time) > 0)
    body = sosfilt(butter(4, 800, fs=RATE, output="sos"), air) + line * np.sin(2 * np.pi * 2100 * time)
    return np.clip(np.stack([air, body]) + hiss * rng.standard_normal((2, time.size)), -1, 1)


@pytest.fixture
def abcs(tmp_path: Path) -> Path:
    root = tmp_path / "ABCS"
    for seed, place in enumerate(("train/Speaker8", "train/Speaker12", "dev/Speaker3", "test/Speaker99")):
        for number in (0, 1):
            name = f"{place.split('/')[1]}_C_{number}.wav"
            audio.write(root / "Audio" / place / name, two_sensors(10 * seed + number), RATE)
    audio.write(root / "Audio/test_-5db/Speaker99/Speaker99_C_0.wav", two_sensors(99), RATE)
    (root / "script/train").mkdir(parents=True)
    (root / "script/train/Speaker8_C.txt").write_text("Speaker8_C_0 投资数以亿元计的八五计划工程，\n", encoding="utf-8")
    return root


def test_a_manifest_of_abcs_names_the_channels(abcs: Path) -> None:
    given = {"air-channel": "0", "body-channel": "1"}
    run_engine(Job("abcs", ABCS, abcs, given, abcs.parent / "abcs.jsonl"), progress=False)
    entries = read_manifest(abcs.parent / "abcs.jsonl")
    assert len(entries) == 8
    assert {(e.channels["air"], e.channels["body"], e.duration) for e in entries} == {(0, 1, 0.6)}
    assert all(e.paths["body"] == e.paths["air"] for e in entries)


def test_abcs_has_its_official_splits_and_both_sensors_in_one_file(abcs: Path) -> None:
    recordings = prepare(ABCS, abcs)
    assert [(r.id, r.split, r.speaker) for r in recordings] == [
        ("train/Speaker12/Speaker12_C_0", "train", "Speaker12"),
        ("train/Speaker12/Speaker12_C_1", "train", "Speaker12"),
        ("train/Speaker8/Speaker8_C_0", "train", "Speaker8"),
        ("train/Speaker8/Speaker8_C_1", "train", "Speaker8"),
        ("dev/Speaker3/Speaker3_C_0", "valid", "Speaker3"),
        ("dev/Speaker3/Speaker3_C_1", "valid", "Speaker3"),
        ("test/Speaker99/Speaker99_C_0", "test", "Speaker99"),
        ("test/Speaker99/Speaker99_C_1", "test", "Speaker99"),
    ]
    assert {(r.channels["air"], r.channels["body"], r.paths["air"] == r.paths["body"]) for r in recordings} == {
        (0, 1, True)
    }
    assert prepare(ABCS, abcs.parent) == recordings == prepare(ABCS, abcs / "Audio")
    with pytest.raises(LayoutError, match=r"Audio/train(?s:.*)Speaker8_C_0\.wav"):
        prepare(ABCS, abcs / "script")


def test_the_other_channel_order_is_refused_with_the_options_to_swap(abcs: Path) -> None:
    with pytest.raises(DataError, match=r"in 8 of 8 checked.* the two with --air-channel 0 --body-channel 1"):
        prepare(ABCS, abcs, air_channel="1", body_channel="0")
    with pytest.raises(DataError, match="both 1"):
        prepare(ABCS, abcs, air_channel="1")
    with pytest.raises(DataError, match=r"has 2 channel.*--body-channel asks for channel"):
        prepare(ABCS, abcs, body_channel="2")
    with pytest.raises(DataError, match="--air-channel 'left'"):
        prepare(ABCS, abcs, air_channel="left")


@pytest.mark.parametrize("disturbance", [{"line": 0.05}, {"hiss": 5e-3}])
def test_a_ringing_or_hissing_bone_sensor_is_not_taken_for_the_air_microphone(
    tmp_path: Path, disturbance: dict[str, float]
) -> None:
    files = [tmp_path / f"{seed}.wav" for seed in range(3)]
    for seed, file in enumerate(files):
        audio.write(file, two_sensors(seed, seconds=2, **disturbance), RATE)
    check_channel_order(files, 0, 1)
    with pytest.raises(DataError, match="--air-channel 0 --body-channel 1"):
        check_channel_order(files, 1, 0)


def test_the_message_names_the_options_of_the_caller_and_unreadable_files_have_no_vote(tmp_path: Path) -> None:
    files = [tmp_path / f"{seed}.wav" for seed in range(3)]
    files[0].write_bytes(b"RIFF")
    for seed, file in enumerate(files[1:]):
        audio.write(file, two_sensors(seed), RATE)
    check_channel_order(files, 0, 1)
    with pytest.raises(DataError, match=r"in 2 of 2 checked files.* swap the two with --channels air,body$"):
        check_channel_order(files, 1, 0, "--channels air,body")
    check_channel_order(files[:1], 1, 0)


def test_a_few_contradicting_or_silent_files_are_outvoted_but_one_signal_twice_is_refused(tmp_path: Path) -> None:
    files = [tmp_path / f"{seed}.wav" for seed in range(6)]
    signals = [two_sensors(seed) for seed in range(3)] + [two_sensors(3)[::-1], *2 * [np.zeros((2, RATE))]]
    for file, signal in zip(files, signals, strict=True):
        audio.write(file, signal, RATE)
    check_channel_order(files, 0, 1)
    for file in files:
        audio.write(file, np.repeat(two_sensors(0)[:1], 2, axis=0), RATE)
    with pytest.raises(DataError, match="same signal in 6 of 6"):
        check_channel_order(files, 0, 1)


def test_esmb_leaves_an_unreadable_file_to_prepare(tmp_path: Path) -> None:
    for name in ("a", "b"):
        audio.write(tmp_path / f"{name}/1.wav", two_sensors(1, seconds=1.3), RATE)
    (tmp_path / "a/2.wav").write_bytes(b"no sound")
    found = {r.id: r.duration for r in prepare(ESMB, tmp_path, seconds="0.5")}
    assert len(found) == 5
    assert found["a/2@0"] is None


def test_esmb_cuts_both_earbuds_of_a_speaker_into_rows_of_one_split(tmp_path: Path) -> None:
    root = tmp_path / "ESMB"
    for number in range(10):
        for ear in (3, 6):
            file = root / f"{number:04d}/{number:04d}_{ear}.wav"
            audio.write(file, two_sensors(10 * number + ear, seconds=1.3), RATE)
    recordings = prepare(ESMB, root, seconds="0.5")
    assert [(r.id, r.offset, r.duration) for r in recordings[:2]] == [
        ("0000/0000_3@0", 0.0, 0.5),
        ("0000/0000_3@0.5", 0.5, None),
    ]
    assert len(recordings) == 10 * 2 * 2
    splits = {
        speaker: {r.split for r in recordings if r.speaker == speaker} for speaker in {r.speaker for r in recordings}
    }
    assert len(splits) == 10
    assert all(len(where) == 1 for where in splits.values())
    assert sorted(next(iter(where)) for where in splits.values()) == ["test", *8 * ["train"], "valid"]
    with pytest.raises(DataError, match="--air-channel 0 --body-channel 1"):
        prepare(ESMB, root, air_channel="1", body_channel="0")
    with pytest.raises(DataError, match="--seconds 'soon'"):
        prepare(ESMB, root, seconds="soon")
    with pytest.raises(LayoutError, match="folders of speakers"):
        prepare(ESMB, root / "0000")
