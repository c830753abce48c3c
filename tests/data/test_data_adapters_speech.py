"""Each adapter on a tiny tree in its corpus' own layout, with its own file names."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torchaudio
from scipy.signal import butter, lfilter

from bcfusion import audio
from bcfusion.data.preparation.adapters import Adapter, Downloads, LayoutError, Recording
from bcfusion.errors import DataError


def make(root: Path, *names: str) -> Path:
    for name in names:
        audio.write(root / name, np.zeros(80), 8000)
    return root


def adapter(name: str) -> Adapter:
    found: Adapter = import_module(f"bcfusion.data.preparation.adapters.{name}").ADAPTER
    return found


def recordings(name: str, root: Path, options: Mapping[str, str] | None = None) -> dict[str, Recording]:
    """By id, with the defaults of the adapter's options, as the command would ask."""
    defaults = {option.name: option.default for option in adapter(name).options if option.default is not None}
    found = list(adapter(name).recordings(root, defaults | dict(options or {}), root / "unpacked"))
    by_id = {recording.id: recording for recording in found}
    assert len(by_id) == len(found)
    assert all(path.is_file() for recording in found for path in recording.paths.values())
    return by_id


def splits(found: Mapping[str, Recording]) -> dict[str, str]:
    return {name: recording.split for name, recording in found.items()}


def speakers(found: Mapping[str, Recording]) -> dict[str, str]:
    return {name: recording.speaker for name, recording in found.items()}


@pytest.mark.parametrize("name", ["folder", "pairs", "stereo", "librispeech", "libritts", "vctk", "common_voice"])
def test_an_adapter_that_finds_nothing_reports_what_it_expects(name: str, tmp_path: Path) -> None:
    assert isinstance(adapter(name), Adapter)
    for root in (tmp_path, tmp_path / "gone"):
        with pytest.raises(LayoutError) as error:
            recordings(name, root)
        assert str(root) in str(error.value)
        assert adapter(name).layout.splitlines()[0] in str(error.value)


# ---------------------------------------------------------------- LibriSpeech and LibriTTS

LIBRISPEECH = (
    "LibriSpeech/train-clean-100/103/1240/103-1240-0000.flac",
    "LibriSpeech/train-clean-100/103/1240/103-1240-0001.flac",
    "LibriSpeech/train-other-500/20/205/20-205-0000.flac",
    "LibriSpeech/dev-clean/84/121123/84-121123-0000.flac",
    "LibriSpeech/dev-other/116/288045/116-288045-0000.flac",
    "LibriSpeech/test-clean/61/70968/61-70968-0000.flac",
)


def test_librispeech_has_its_official_subsets_and_speakers(tmp_path: Path) -> None:
    root = make(tmp_path, *LIBRISPEECH)
    (root / "LibriSpeech/train-clean-100/103/1240/103-1240.trans.txt").write_text("103-1240-0000 CHAPTER ONE\n")
    (root / "LibriSpeech/SPEAKERS.TXT").write_text(";ID\n")
    found = recordings("librispeech", root)
    assert splits(found) == {
        "train-clean-100/103/1240/103-1240-0000": "train",
        "train-clean-100/103/1240/103-1240-0001": "train",
        "train-other-500/20/205/20-205-0000": "train",
        "dev-clean/84/121123/84-121123-0000": "valid",
        "dev-other/116/288045/116-288045-0000": "valid",
        "test-clean/61/70968/61-70968-0000": "test",
    }
    assert set(speakers(found).values()) == {"103", "20", "84", "116", "61"}
    assert found["dev-clean/84/121123/84-121123-0000"].extra == {"subset": "dev-clean"}
    assert recordings("librispeech", root / "LibriSpeech").keys() == found.keys()


def test_librispeech_subsets_can_be_chosen_and_must_be_there(tmp_path: Path) -> None:
    root = make(tmp_path, *LIBRISPEECH)
    found = recordings("librispeech", root, {"subsets": "dev-clean, test-clean"})
    assert set(splits(found).values()) == {"valid", "test"}
    with pytest.raises(LayoutError, match="no folder train-clean-360, which --subsets names"):
        recordings("librispeech", root, {"subsets": "train-clean-360"})
    with pytest.raises(DataError, match="train-clean-1 is none of"):
        recordings("librispeech", root, {"subsets": "train-clean-1"})


def test_a_subset_that_is_not_complete_is_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    recordings("librispeech", make(tmp_path, *LIBRISPEECH[:2]))
    assert "2 of the 28539 utterances of train-clean-100" in caplog.text


@pytest.mark.parametrize("folder", ["LibriTTS", "LibriTTS_R"])
def test_libritts_has_its_own_names(tmp_path: Path, folder: str) -> None:
    root = make(
        tmp_path,
        f"{folder}/train-clean-100/103/1241/103_1241_000000_000001.wav",
        f"{folder}/dev-clean/84/121123/84_121123_000007_000001.wav",
        f"{folder}/test-other/1688/142285/1688_142285_000000_000000.wav",
    )
    (root / folder / "dev-clean/84/121123/84_121123_000007_000001.normalized.txt").write_text("Go.")
    found = recordings("libritts", root)
    assert [(recording.split, recording.speaker) for recording in found.values()] == [
        ("train", "103"),
        ("valid", "84"),
        ("test", "1688"),
    ]


@pytest.mark.parametrize(("name", "kind"), [("librispeech", "LIBRISPEECH"), ("libritts", "LIBRITTS")])
def test_subsets_are_fetched_through_torchaudio(
    name: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def fetch(root: str, url: str, download: bool) -> None:
        if url == "dev-other":
            raise OSError("no route to host")
        asked.append((root, url, download))

    monkeypatch.setattr(torchaudio.datasets, kind, fetch)
    corpus = adapter(name)
    assert isinstance(corpus, Downloads)
    corpus.download(tmp_path / "new", {})
    assert asked == [(str(tmp_path / "new"), url, True) for url in ("train-clean-100", "dev-clean", "test-clean")]
    with pytest.raises(DataError, match=r"cannot fetch dev-other.*no route to host"):
        corpus.download(tmp_path, {"subsets": "dev-other"})


# ---------------------------------------------------------------- VCTK

VCTK = "VCTK-Corpus-0.92/wav48_silence_trimmed"


@pytest.fixture
def vctk(tmp_path: Path) -> Path:
    names = [f"p{number}" for number in (225, 226, 227, 228, 229, 230, 231, 232, 280, 315, 362)] + ["s5"]
    for name in names:
        make(tmp_path, *(f"{VCTK}/{name}/{name}_00{line}_mic1.flac" for line in (1, 2)))
        if name not in ("p280", "p315"):  # they have no second microphone
            make(tmp_path, *(f"{VCTK}/{name}/{name}_00{line}_mic2.flac" for line in (1, 2)))
    (tmp_path / VCTK / "log.txt").write_text("")
    (tmp_path / "VCTK-Corpus-0.92/txt/p225").mkdir(parents=True)
    (tmp_path / "VCTK-Corpus-0.92/txt/p225/p225_001.txt").write_text("Please call Stella.")
    return tmp_path


def test_vctk_is_one_microphone_and_its_speakers_stay_together(vctk: Path) -> None:
    first, second = recordings("vctk", vctk), recordings("vctk", vctk, {"mic": "mic2"})
    assert len(first) == 24
    assert first["p225/p225_001_mic1"].speaker == "p225"
    assert set(speakers(first).values()) - set(speakers(second).values()) == {"p280", "p315"}
    of = {recording.speaker: recording.split for recording in first.values()}
    assert all(recording.split == of[recording.speaker] for recording in first.values())
    assert set(of.values()) == {"train", "valid", "test"}
    assert recordings("vctk", vctk / "VCTK-Corpus-0.92").keys() == first.keys()


def test_vctk_speakers_can_be_named(vctk: Path) -> None:
    found = recordings("vctk", vctk, {"test-speakers": "p362,s5", "valid-speakers": "p225"})
    of = {recording.speaker: recording.split for recording in found.values()}
    assert {name for name, split in of.items() if split == "test"} == {"p362", "s5"}
    assert {name for name, split in of.items() if split == "valid"} == {"p225"}
    found = recordings("vctk", vctk, {"test-speakers": "p362"})
    assert {name.split for name in found.values()} == {"train", "valid", "test"}
    assert {one.speaker for one in found.values() if one.split == "test"} == {"p362"}
    for options, problem in (
        ({"test-speakers": "p1"}, "p1: no recordings of mic1"),
        ({"mic": "mic2", "test-speakers": "p280"}, "p280: no recordings of mic2"),
        ({"valid-speakers": "s5", "test-speakers": "s5"}, "both name s5"),
    ):
        with pytest.raises(DataError, match=problem):
            recordings("vctk", vctk, options)


def test_vctk_is_fetched_through_torchaudio(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(torchaudio.datasets, "VCTK_092", lambda *given, **named: asked.append((given, named)))
    corpus = adapter("vctk")
    assert isinstance(corpus, Downloads)
    corpus.download(tmp_path, {"mic": "mic2"})
    assert asked == [((str(tmp_path),), {"mic_id": "mic2", "download": True})]


# ---------------------------------------------------------------- Common Voice

COLUMNS = (
    "client_id path sentence_id sentence sentence_domain up_votes down_votes age gender accents variant locale segment"
)


@pytest.fixture
def common_voice(tmp_path: Path) -> Path:
    folder = tmp_path / "cv-corpus-17.0-2024-03-15/en"
    (folder / "clips").mkdir(parents=True)
    for split, clips in {"train": ("a1", "a2", "b1"), "dev": ("c1",), "test": ("d1",)}.items():
        lines = [COLUMNS.replace(" ", "\t")]
        for clip in clips:
            path = f"common_voice_en_{clip}.mp3"
            (folder / "clips" / path).touch()
            # a quotation mark that nothing closes
            values = [f"{clip[0]}" * 128, path, "5f", 'He said "go.', "", "2", "0", "", "", "", "", "en", ""]
            lines.append("\t".join(values))
        (folder / f"{split}.tsv").write_text("\n".join(lines) + "\n")
    (folder / "validated.tsv").write_text("client_id\tpath\n")
    return tmp_path


def test_common_voice_keeps_its_lists(common_voice: Path) -> None:
    found = recordings("common_voice", common_voice)
    assert splits(found) == {
        "en/common_voice_en_a1": "train",
        "en/common_voice_en_a2": "train",
        "en/common_voice_en_b1": "train",
        "en/common_voice_en_c1": "valid",
        "en/common_voice_en_d1": "test",
    }
    assert found["en/common_voice_en_a1"].speaker == found["en/common_voice_en_a2"].speaker == "a" * 128
    release = common_voice / "cv-corpus-17.0-2024-03-15"
    for root in (release, release / "en"):
        assert recordings("common_voice", root).keys() == found.keys()


def test_common_voice_of_several_languages_needs_one(common_voice: Path) -> None:
    release = common_voice / "cv-corpus-17.0-2024-03-15"
    (release / "fr/clips").mkdir(parents=True)
    for split in ("train", "dev", "test"):
        (release / f"fr/{split}.tsv").write_text(
            "client_id\tpath\nx\tcommon_voice_fr_1\n" if split == "dev" else "client_id\tpath\n"
        )
    (release / "fr/clips/common_voice_fr_1.mp3").touch()  # an early release: the list has no suffix
    with pytest.raises(DataError, match=r"en, .*fr: give --language"):
        recordings("common_voice", common_voice)
    assert splits(recordings("common_voice", common_voice, {"language": "fr"})) == {"fr/common_voice_fr_1": "valid"}
    with pytest.raises(LayoutError, match=r"no train\.tsv in a folder de"):
        recordings("common_voice", common_voice, {"language": "de"})


def test_files_that_are_no_lists_of_common_voice_are_refused(common_voice: Path) -> None:
    folder = common_voice / "cv-corpus-17.0-2024-03-15/en"
    (folder / "dev.tsv").write_text("path\tsentence\na.mp3\tHello\n")
    with pytest.raises(DataError, match=r"dev\.tsv: no column client_id"):
        recordings("common_voice", common_voice)
    (folder / "dev.tsv").write_text("client_id\tpath\n\ta.mp3\n")
    with pytest.raises(DataError, match=r"dev\.tsv, line 2: no client_id"):
        recordings("common_voice", common_voice)
    (folder / "dev.tsv").unlink()
    with pytest.raises(LayoutError, match=r"no dev\.tsv"):
        recordings("common_voice", common_voice)


# ---------------------------------------------------------------- folders of your own


def test_a_folder_with_splits_in_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = make(tmp_path, "train/ann/1.wav", "dev/x/bob/1.wav", "test/2.flac", "other/eve/1.wav")
    found = recordings("folder", root)
    assert splits(found) == {"dev/x/bob/1": "valid", "test/2": "test", "train/ann/1": "train"}
    assert speakers(found) == {"dev/x/bob/1": "bob", "test/2": "unknown", "train/ann/1": "ann"}
    assert "1 file(s) are in no folder of a split" in caplog.text
    assert recordings("folder", root, {"speaker": "top"})["dev/x/bob/1"].speaker == "x"


def test_a_folder_of_speakers_is_divided(tmp_path: Path) -> None:
    root = make(tmp_path, *(f"s{speaker}/{line}.wav" for speaker in range(10) for line in (1, 2)))
    found = recordings("folder", root)
    of = {recording.speaker: recording.split for recording in found.values()}
    assert sorted(of.values()) == [
        "test",
        "train",
        "train",
        "train",
        "train",
        "train",
        "train",
        "train",
        "train",
        "valid",
    ]
    assert all(recording.split == of[recording.speaker] for recording in found.values())
    assert set(splits(recordings("folder", root, {"shares": "1,1,0"})).values()) == {"train", "valid"}
    assert set(splits(recordings("folder", root, {"splits": "test"})).values()) == {"test"}
    with pytest.raises(DataError, match="three numbers"):
        recordings("folder", root, {"shares": "0.8,0.2"})
    with pytest.raises(LayoutError, match="no folder named train"):
        recordings("folder", root, {"splits": "folders"})


def test_files_that_nothing_divides_need_a_split(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="--splits train, valid or test"):
        recordings("folder", make(tmp_path, "1.wav", "2.wav"))


def test_pairs_are_matched_by_name_in_two_formats(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = make(tmp_path, "air/ann/1.wav", "air/ann/2.wav", "throat/ann/1.flac", "throat/bob/9.flac")
    found = recordings("pairs", root, {"body": "throat", "splits": "test"})
    assert list(found) == ["ann/1"]
    assert found["ann/1"].paths == {"air": root / "air/ann/1.wav", "body": root / "throat/ann/1.flac"}
    assert found["ann/1"].speaker == "ann"
    assert caplog.text.count("1 file(s) have no partner") == 2
    assert list(recordings("pairs", root, {"body": str(root / "throat"), "splits": "test"})) == ["ann/1"]


def test_pairs_without_a_folder_or_a_common_name(tmp_path: Path) -> None:
    root = make(tmp_path, "air/1.wav", "body/2.wav")
    with pytest.raises(LayoutError, match="which --body names"):
        recordings("pairs", root, {"body": "throat"})
    with pytest.raises(LayoutError, match="has the name of a file in"):
        recordings("pairs", root, {"splits": "test"})
    make(root, "body/2.flac")
    with pytest.raises(DataError, match="have the same name without suffix"):
        recordings("pairs", root, {"splits": "test"})


def two_channels(file: Path, seed: int, body_first: bool = True) -> None:
    rng = np.random.default_rng(seed)
    syllables = np.repeat(rng.uniform(0, 0.1, 40), 400)  # of 25 ms at 16 kHz
    air = syllables * rng.standard_normal(16000)
    body = lfilter(*butter(4, 800, fs=16000), air)
    audio.write(file, np.stack([body, air] if body_first else [air, body]).clip(-1, 1), 16000)


def test_stereo_channels_are_named_and_checked(tmp_path: Path) -> None:
    for number in range(5):
        two_channels(tmp_path / f"train/ann/{number}.wav", number)
    found = recordings("stereo", tmp_path)
    file = tmp_path / "train/ann/0.wav"
    assert found["train/ann/0"].paths == {"body": file, "air": file}
    assert found["train/ann/0"].channels == {"body": 0, "air": 1}
    with pytest.raises(DataError, match=r"in 5 of 5 checked files.* swap the two with --channels=body,air$"):
        recordings("stereo", tmp_path, {"channels": "air,body"})


def test_stereo_goes_by_most_of_the_files_and_not_by_broken_ones(tmp_path: Path) -> None:
    for number in range(5):
        two_channels(tmp_path / f"train/ann/{number}.wav", number, body_first=number > 1)
    (tmp_path / "train/ann/broken.wav").write_text("no sound")
    make(tmp_path, "train/ann/mono.wav")
    assert len(recordings("stereo", tmp_path)) == 7


def test_stereo_of_more_channels_leaves_some_out(tmp_path: Path) -> None:
    two = tmp_path / "two.wav"
    two_channels(two, 0)
    samples, rate = audio.read(two)
    audio.write(tmp_path / "train/ann/1.wav", np.stack([samples[0], 0 * samples[0], samples[1]]), rate)
    two.unlink()
    found = recordings("stereo", tmp_path, {"channels": "body,-,air"})
    assert found["train/ann/1"].channels == {"body": 0, "air": 2}
    with pytest.raises(DataError, match=r"--channels=body,-,air$"):
        recordings("stereo", tmp_path, {"channels": "air,-,body"})


@pytest.mark.parametrize("channels", ["body", "body,body,air", "", "air,my throat"])
def test_channels_that_name_no_air_or_one_twice_are_refused(tmp_path: Path, channels: str) -> None:
    two_channels(tmp_path / "train/ann/1.wav", 0)
    with pytest.raises(DataError, match="a different sensor for each channel"):
        recordings("stereo", tmp_path, {"channels": channels})


def test_the_readers_log_nothing_if_all_is_well(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        recordings("folder", make(tmp_path, "train/ann/1.wav"))
    assert caplog.text == ""
