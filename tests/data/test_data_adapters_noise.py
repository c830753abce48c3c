from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest

from bcfusion import audio
from bcfusion.data.corpora.manifest import read_manifest
from bcfusion.data.preparation.adapters import Adapter, LayoutError, Recording
from bcfusion.data.preparation.adapters.demand import ADAPTER as DEMAND
from bcfusion.data.preparation.adapters.demand import PLACES
from bcfusion.data.preparation.adapters.dns_challenge import ADAPTER as DNS
from bcfusion.data.preparation.adapters.musan import ADAPTER as MUSAN
from bcfusion.data.preparation.adapters.rirs import ADAPTER as RIRS
from bcfusion.data.preparation.adapters.rirs import room_of
from bcfusion.data.preparation.prepare import Job
from bcfusion.data.preparation.prepare import prepare as run_engine
from bcfusion.errors import DataError


def make(file: Path, rate: int = 16000, channels: int = 1) -> None:
    audio.write(file, np.full((channels, 80), 0.1), rate)


def prepare(adapter: Adapter, root: Path, **given: str) -> list[Recording]:
    options = {option.name: option.default for option in adapter.options if option.default is not None}
    return list(adapter.recordings(root, options | given, root / "unpacked"))


def splits_of(recordings: list[Recording], unit: str) -> dict[str, set[str]]:
    splits = defaultdict(set)
    for recording in recordings:
        splits[recording.extra[unit]].add(recording.split)
    return splits


def test_dns_clips_of_one_freesound_recording_are_in_one_split_whatever_their_label(tmp_path: Path) -> None:
    root = tmp_path / "DNS-Challenge"
    folder = root / "datasets_fullband/noise_fullband"
    for number in range(419300, 419320):
        for clip in (0, 1, 12):
            make(folder / f"door_Freesound_validated_{number}_{clip}.wav", rate=48000)
    make(folder / "breath_spit_Freesound_validated_419300_13.wav")
    make(folder / "munching_Freesound_validated_B32_Chips_ebrahim_10.wav")
    make(folder / "-0IsXrZg1T4.wav")
    make(folder / "wntLte49djU.wav")
    recordings = prepare(DNS, root)
    assert prepare(DNS, folder) == prepare(DNS, folder.parent) == recordings
    assert len(recordings) == 64
    splits = splits_of(recordings, "recording")
    assert all(len(where) == 1 for where in splits.values())
    assert len(splits) == 20 + 3
    assert {"freesound:419300", "freesound:B32_Chips_ebrahim", "wntLte49djU", "-0IsXrZg1T4"} <= set(splits)
    assert {split for where in splits.values() for split in where} == {"train", "valid", "test"}
    assert {r.id for r in recordings if r.extra["recording"] == "wntLte49djU"} == {"wntLte49djU"}
    assert recordings[0].paths["noise"].parent == folder


def test_dns_of_the_earlier_challenges_is_found_and_clean_speech_is_not_taken_for_noise(tmp_path: Path) -> None:
    make(tmp_path / "datasets/noise/door_Freesound_validated_437341_3.wav")
    make(tmp_path / "datasets/clean/book_00007_chp_0008_reader_01326_9.wav")
    assert [r.id for r in prepare(DNS, tmp_path)] == ["door_Freesound_validated_437341_3"]
    with pytest.raises(LayoutError, match=r"noise_fullband or noise; it contains: book(?s:.*)layout"):
        prepare(DNS, tmp_path / "datasets/clean")


def test_musan_divides_each_collection_and_takes_noise_by_default(tmp_path: Path) -> None:
    root = tmp_path / "musan"
    for number in range(10):
        make(root / f"noise/free-sound/noise-free-sound-{number:04d}.wav")
        make(root / f"noise/sound-bible/noise-sound-bible-{number:04d}.wav")
        make(root / f"music/fma/music-fma-{number:04d}.wav")
    make(root / "speech/us-gov/speech-us-gov-0000.wav")
    (root / "noise/free-sound/ANNOTATIONS").write_text("")
    recordings = prepare(MUSAN, tmp_path)
    assert recordings == prepare(MUSAN, root)
    assert {r.extra["part"] for r in recordings} == {"noise"}
    for collection in ("free-sound", "sound-bible"):
        splits = sorted(r.split for r in recordings if f"noise/{collection}/" in r.id)
        assert splits == ["test", *8 * ["train"], "valid"]
    assert recordings[0].id == "noise/free-sound/noise-free-sound-0000"
    both = prepare(MUSAN, root, parts="music, noise")
    assert {r.id.split("/")[1] for r in both} == {"free-sound", "sound-bible", "fma"}
    assert len(prepare(MUSAN, root, parts="all")) == 31
    with pytest.raises(DataError, match="--parts 'sound': sound is none of noise, music, speech"):
        prepare(MUSAN, root, parts="sound")
    with pytest.raises(LayoutError, match="no folder noise"):
        prepare(MUSAN, root / "speech")


def test_demand_places_are_divided_with_all_their_microphones(tmp_path: Path) -> None:
    for place in PLACES:
        for channel in range(1, 4):
            make(tmp_path / f"{place}_{'48k' if place == 'SCAFE' else '16k'}/{place}/ch{channel:02d}.wav")
    assert len(PLACES) == 18
    first = prepare(DEMAND, tmp_path)
    assert [r.id for r in first][:2] == ["DKITCHEN/ch01", "DLIVING/ch01"]
    assert len(first) == 18
    every = prepare(DEMAND, tmp_path, channel="all")
    assert len(every) == 18 * 3
    splits = splits_of(every, "place")
    assert all(len(where) == 1 for where in splits.values())
    assert {split for where in splits.values() for split in where} == {"train", "valid", "test"}
    assert [r.id for r in prepare(DEMAND, tmp_path / "TBUS_16k", channel="2,3")] == ["TBUS/ch02", "TBUS/ch03"]
    with pytest.raises(DataError, match="--channel '17'"):
        prepare(DEMAND, tmp_path, channel="17")


def test_demand_at_two_rates_asks_which(tmp_path: Path) -> None:
    make(tmp_path / "a/DKITCHEN_16k/ch01.wav", rate=16000)
    make(tmp_path / "a/DKITCHEN_48k/ch01.wav", rate=48000)
    make(tmp_path / "a/NPARK/ch01.wav", rate=48000)
    with pytest.raises(DataError, match="choose with --rate"):
        prepare(DEMAND, tmp_path)
    recordings = prepare(DEMAND, tmp_path, rate="48k")
    assert [audio.info(r.paths["noise"]).sample_rate for r in recordings] == [48000, 48000]
    assert [r.id for r in prepare(DEMAND, tmp_path, rate="16k")] == ["DKITCHEN/ch01"]
    with pytest.raises(LayoutError, match=r"ch01\.wav"):
        prepare(DEMAND, tmp_path / "a/NPARK", rate="16k")
    (tmp_path / "a/NPARK/ch01.wav").write_bytes(b"no sound")
    assert [r.id for r in prepare(DEMAND, tmp_path, rate="16k")] == ["DKITCHEN/ch01", "NPARK/ch01"]


def rirs_tree(root: Path) -> Path:
    folder = root / "RIRS_NOISES"
    for size in ("smallroom", "mediumroom", "largeroom"):
        lines = []
        for room in range(1, 11):
            for number in (1, 2):
                name = f"simulated_rirs/{size}/Room{room:03d}/Room{room:03d}-{number:05d}.wav"
                make(folder / name)
                identity = f"{size}-Room{room:03d}"
                lines.append(f"--rir-id {identity}-{number:05d} --room-id {identity} RIRS_NOISES/{name}\n")
        (folder / f"simulated_rirs/{size}/rir_list").write_text("".join(lines))
    measured = folder / "real_rirs_isotropic_noises"
    names = ("RVB2014_type1_rir_largeroom1_far_angla", "RVB2014_type1_rir_largeroom1_near_anglb")
    for name in names:
        make(measured / f"{name}.wav", channels=8)
    make(measured / "RVB2014_type1_noise_largeroom1_1.wav")
    make(folder / "pointsource_noises/noise-free-sound-0000.wav")
    return folder


def test_responses_of_one_room_are_in_one_split_and_each_size_has_all_splits(tmp_path: Path) -> None:
    folder = rirs_tree(tmp_path)
    recordings = prepare(RIRS, tmp_path)
    assert recordings == prepare(RIRS, folder)
    assert len(recordings) == 3 * 20 + 2
    splits = splits_of(recordings, "room")
    assert all(len(where) == 1 for where in splits.values())
    for size in ("smallroom", "mediumroom", "largeroom"):
        assert sorted(s for room, where in splits.items() for s in where if room.startswith(size)) == [
            "test",
            *8 * ["train"],
            "valid",
        ]
    assert recordings[0].id == "simulated_rirs/smallroom/Room001/Room001-00001"
    assert recordings[0].channels == {}
    assert [(r.extra["room"], r.channels) for r in recordings[-2:]] == 2 * [("RVB2014_largeroom1", {"rir": 0})]


def test_a_manifest_of_responses_names_their_channel(tmp_path: Path) -> None:
    rirs_tree(tmp_path)
    run_engine(Job("rirs", RIRS, tmp_path, {"rooms": "all"}, tmp_path / "rirs.jsonl"), progress=False)
    entries = read_manifest(tmp_path / "rirs.jsonl", needed="rir")
    assert len(entries) == 62
    assert [dict(e.channels) for e in entries[-3:]] == [{}, {"rir": 0}, {"rir": 0}]
    assert entries[0].extra["room"] == "smallroom/Room001"


def test_a_list_says_which_responses_there_are_and_options_which_rooms(tmp_path: Path) -> None:
    folder = rirs_tree(tmp_path)
    (folder / "real_rirs_isotropic_noises/rir_list").write_text(
        "--rir-id 00001 --room-id 1 RIRS_NOISES/real_rirs_isotropic_noises/RVB2014_type1_rir_largeroom1_far_angla.wav\n"
    )
    measured = prepare(RIRS, tmp_path, rooms="measured")
    assert [r.paths["rir"].name for r in measured] == ["RVB2014_type1_rir_largeroom1_far_angla.wav"]
    assert measured[0].paths["rir"].is_file()
    assert {r.id.split("/")[1] for r in prepare(RIRS, tmp_path, rooms="smallroom,largeroom")} == {
        "smallroom",
        "largeroom",
    }
    with pytest.raises(LayoutError, match=r"no responses in simulated_rirs/smallroom \(--rooms"):
        prepare(RIRS, folder / "pointsource_noises")


@pytest.mark.parametrize(
    ("name", "room"),
    [
        ("RVB2014_type2_rir_simroom1_near_angla", "RVB2014_simroom1"),
        ("RWCP_type1_rir_circle_e1c_imp010", "RWCP_e1c"),
        ("RWCP_type2_rir_cirline_ofc_imp_rev", "RWCP_ofc"),
        ("RWCP_type4_rir_p30r", "RWCP_type4"),
        ("air_type1_air_binaural_aula_carolina_1_7_90_3", "air_aula_carolina"),
        ("air_type1_air_binaural_stairway_1_3_60", "air_stairway"),
        ("air_type1_air_phone_stairway1_hfrp", "air_stairway"),
        ("air_type1_air_phone_bt_stairway_hhp", "air_stairway"),
        ("real_a", "real_a"),
    ],
)
def test_the_room_of_a_measured_response_follows_from_its_name(name: str, room: str) -> None:
    assert room_of(Path(f"RIRS_NOISES/real_rirs_isotropic_noises/{name}.wav")) == room
