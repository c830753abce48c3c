"""The recipes of recorded corpora: from parquet files as Hugging Face has them to the table, on miniature corpora."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import shlex
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from hydra import compose, initialize_config_dir
from scipy.signal import butter, sosfilt

from bcfusion.configuration.check import verify
from bcfusion.configuration.compose import bands_up_to, register_resolvers
from bcfusion.configuration.paths import conf_dir
from bcfusion.data.corpora.manifest import read_manifest
from bcfusion.evaluation.sets import read_published

ROOT = Path(__file__).parents[2]
RECIPE = ROOT / "recipes" / "bone_to_air"
BANDS = {
    "forehead_accelerometer": 4,
    "soft_in_ear_microphone": 2,
    "rigid_in_ear_microphone": 2,
    "temple_vibration_pickup": 1,
    "throat_microphone": 2,
}
# A network and discriminators of a few thousand parameters, crops of a quarter of a second.
TINY = [
    *("generator.channels=2", "generator.latent_channels=4", "discriminators.pqmf_bands.min_channels=4"),
    *("discriminators.pqmf_bands.full_band=false", "discriminators.pqmf_bands.dilations=[1]"),
    *("data.segment_seconds=0.25", "data.workers=0", "trainer.accelerator=cpu", "trainer.samples=0"),
]


def say(words: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", *words], env={**os.environ, **environment}, text=True, capture_output=True, check=False, timeout=600
    )


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, and ``bcfusion`` on the path: this package, with a log of what was typed."""
    command(tmp_path, f'echo "$@" >>{tmp_path}/typed\nexec {shlex.quote(sys.executable)} -m bcfusion "$@"')
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}/lib:{ROOT}")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def command(place: Path, body: str) -> None:
    file = place / "bin" / "bcfusion"
    file.parent.mkdir(exist_ok=True)
    file.write_text(f"#!/usr/bin/env bash\n{body}\n")
    file.chmod(file.stat().st_mode | stat.S_IXUSR)


def typed(place: Path) -> list[list[str]]:
    """Return the commands so far, and forget them."""
    lines = (place / "typed").read_text().splitlines()
    (place / "typed").unlink()
    return [line.split() for line in lines]


def lines(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


# ---------------------------------------------------------------- miniature corpora


def wav(samples: np.ndarray, rate: int) -> dict[str, Any]:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format="WAV", subtype="PCM_16")
    return {"bytes": buffer.getvalue(), "path": "sound.wav"}


def syllables(seed: int, rate: int, seconds: float = 1.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    time = np.arange(round(seconds * rate)) / rate
    return 0.1 * rng.standard_normal(time.size) * (np.sin(2 * np.pi * 4 * time) > -0.5)


def sensor(air: np.ndarray, cutoff: float, rate: int) -> np.ndarray:
    muffled: np.ndarray = sosfilt(butter(2, cutoff, fs=rate, output="sos"), air)
    return muffled


def write_parquet(file: Path, rows: list[dict[str, Any]]) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    file.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pyarrow.Table.from_pylist(rows), file, row_group_size=2)


def vibravox(root: Path) -> Path:
    """Two speakers to train on, one per other split, a second each at 48 kHz; the second file of train has two faults.

    The first row of that file has no sound of the throat; in the second its sensor stopped 0.1 s before the headset.
    """
    files = {
        "train-00000-of-00002": [("a1", 1), ("a1", 2)],
        "train-00001-of-00002": [("b2", 1), ("b2", 2)],
        "validation-00000-of-00001": [("c3", 1)],
        "test-00000-of-00001": [("d4", 1), ("d4", 2)],
    }
    for number, (name, utterances) in enumerate(files.items()):
        rows = []
        for position, (speaker, sentence) in enumerate(utterances):
            air = syllables(10 * number + position, 48000)
            row: dict[str, Any] = {"audio.headset_microphone": wav(air, 48000)}
            for body, bands in BANDS.items():
                row[f"audio.{body}"] = wav(sensor(air, 500 * bands, 48000), 48000)
            row |= {"gender": "female", "speaker_id": speaker, "sentence_id": sentence, "duration": 1.0}
            rows.append(row | {"raw_text": "Oui.", "normalized_text": "oui", "phonemized_text": "wi"})
        if number == 1:
            rows[0]["audio.throat_microphone"] = None
            rows[1]["audio.throat_microphone"] = wav(sensor(syllables(11, 48000), 1000, 48000)[:-4800], 48000)
        write_parquet(root / "speech_clean" / f"{name}.parquet", rows)
    return root


def taps(root: Path) -> Path:
    for seed, (split, speaker) in enumerate((("train", "p01"), ("train", "p02"), ("dev", "p41"), ("test", "p51"))):
        rows = []
        for sentence in (0, 1):
            air = syllables(10 * seed + sentence, 16000)
            row = {"audio.acoustic_microphone": wav(air, 16000)}
            row["audio.throat_microphone"] = wav(sensor(air, 1000, 16000), 16000)
            rows.append({**row, "gender": "M", "speaker_id": speaker, "sentence_id": f"u{sentence}", "text": "네"})
        write_parquet(root / "data" / f"{split}-0000{seed % 2}-of-00002.parquet", rows)
    return root


# ---------------------------------------------------------------- end to end


@pytest.mark.slow
def test_vibravox_from_parquet_to_the_table_and_a_second_call_only_makes_the_table_again(place: Path) -> None:
    corpus = vibravox(place / "corpus")
    words = [str(RECIPE / "vibravox.sh"), str(corpus), "out", *TINY]
    settings = {"SENSORS": "throat_microphone forehead_accelerometer", "EPOCHS": "2", "BATCH": "4"}
    done = say(words, **settings)
    assert done.returncode == 0, done.stderr
    verbs = [line[0] for line in typed(place)]
    assert verbs == [*2 * ["prepare", "inspect"], *2 * ["train", "evaluate"], "evaluate"]
    assert "b2/1 is left out: the row holds no sound" in done.stderr

    base = place / "out" / "speech_clean"
    throat, forehead = (read_manifest(base / f"{name}.jsonl") for name in settings["SENSORS"].split())
    assert {e.id for e in forehead} - {e.id for e in throat} == {"speech_clean/b2/1"}
    assert [e.duration for e in throat if e.id == "speech_clean/b2/2"] == [0.9]
    assert len(list((base / "audio").rglob("headset_microphone/*/*.flac"))) == 7
    assert not (base / "downloading").exists()
    for name, bands in (("throat_microphone", 2), ("forehead_accelerometer", 4)):
        bundle = (base / name / "run" / "bundle" / "config.yaml").read_text()
        assert f"input_bands: {bands}" in bundle

    table = lines(base / "table" / "sets.csv")
    assert [(line["set"], line["system"], line["published"]) for line in table] == [
        (name, system, published)
        for name in settings["SENSORS"].split()
        for system, published in (("input", "no"), ("enhanced", "no"), ("input", "yes"), ("EBEN", "yes"))
    ]
    for name in settings["SENSORS"].split():
        scored = [line for line in lines(base / name / "scores" / "scores.csv") if line["system"] == "enhanced"]
        mean = math.fsum(float(line["stoi"]) for line in scored) / len(scored)
        [ours] = [line for line in table if line["set"] == name and line["system"] == "enhanced"]
        assert (float(ours["stoi"]), ours["utterances"]) == (pytest.approx(mean, abs=1e-5), "2")
        assert 1 < float(ours["pesq_wb"]) < 5
    published = {line["set"]: line["stoi"] for line in table if line["system"] == "EBEN"}
    assert published == {"throat_microphone": "0.8338", "forehead_accelerometer": "0.8549"}
    page = (base / "table" / "sets.md").read_text()
    assert "| throat_microphone | 2 | input |" in page
    assert "- throat_microphone, EBEN *: https://huggingface.co/Cnam-LMSSC/EBEN_throat_microphone" in page

    weights = base / "throat_microphone" / "run" / "bundle" / "generator.safetensors"
    before = weights.stat().st_mtime_ns
    again = say(words, **settings)
    assert again.returncode == 0, again.stderr
    assert [line[:2] for line in typed(place)] == [["evaluate", "--sets"]]
    assert weights.stat().st_mtime_ns == before
    assert lines(base / "table" / "sets.csv") == table


HUB = """\
import shutil

import huggingface_hub


def snapshot_download(repo_id, repo_type, allow_patterns, local_dir):
    assert (repo_id, repo_type) == ("yskim3271/Throat_and_Acoustic_Pairing_Speech_Dataset", "dataset")
    shutil.copytree("hub", local_dir, dirs_exist_ok=True)


huggingface_hub.snapshot_download = snapshot_download
"""


@pytest.mark.slow
def test_taps_is_downloaded_and_stands_beside_the_published_networks(place: Path) -> None:
    taps(place / "hub")
    (place / "lib").mkdir()
    (place / "lib" / "sitecustomize.py").write_text(HUB)
    done = say([str(RECIPE / "taps.sh"), "corpus", "out", *TINY], EPOCHS="1", BATCH="4")
    assert done.returncode == 0, done.stderr
    assert (place / "corpus" / "data" / "dev-00000-of-00002.parquet").is_file()
    commands = typed(place)
    assert [line[0] for line in commands] == ["prepare", "inspect", "train", "evaluate", "evaluate"]
    assert "--download" in commands[0]
    assert "input_bands: 2" in (place / "out/throat_microphone/run/bundle/config.yaml").read_text()
    table = lines(place / "out" / "table" / "sets.csv")
    assert [(line["system"], line["published"], line["cer"]) for line in table] == [
        ("input", "no", ""),
        ("enhanced", "no", ""),
        ("input", "yes", "84.4"),
        ("TSTNN", "yes", "32"),
        ("Demucs", "yes", "28.6"),
        ("SE-Conformer", "yes", "24.3"),
    ]
    assert 0 < float(table[1]["stoi"]) < 1


# ---------------------------------------------------------------- what is typed, without training

# Writes what each verb writes, as far as the recipe looks at it; FAIL ends the verb of that name with a status.
FAKE = r"""
echo "$@" >>typed
for word; do case $word in
  hydra.run.dir=* | resume=*) run=${word#*=} ;;
  output=*) output=${word#*=} ;;
esac; done
case $1 in
  prepare)
    while [ "$1" != --out ]; do shift; done
    for split in ${SPLITS:-train train train valid test}; do echo "{\"split\": \"$split\"}"; done >"$2" ;;
  inspect) [ -z "${FOUND:-}" ] || exit "$FOUND"; touch "${2%.jsonl}.inspect.html" ;;
  train)
    mkdir -p "$run/checkpoints" "$run/quality"; touch "$run/checkpoints/last.ckpt"
    [ -z "${KILLED:-}" ] || exit 130
    touch "$run/quality/test.csv" ;;
  evaluate) mkdir -p "$output"; touch "$output/scores.csv" ;;
esac
"""


@pytest.fixture
def faked(place: Path) -> Path:
    command(place, FAKE)
    (place / "corpus" / "speech_clean").mkdir(parents=True)
    (place / "corpus" / "speech_clean" / "train-00000-of-00001.parquet").touch()
    return place


VIBRAVOX = [str(RECIPE / "vibravox.sh"), "corpus", "out"]


def trainings(place: Path) -> dict[str, list[str]]:
    """Return the words of each training, by the sensor of its manifest, and forget what was typed."""
    return {Path(line[3]).stem: line[1:] for line in typed(place) if line[0] == "train"}


def test_each_of_the_five_sensors_is_trained_with_its_bands_for_the_published_number_of_epochs(faked: Path) -> None:
    done = say([*VIBRAVOX, "seed=3"], BATCH="2")
    assert done.returncode == 0, done.stderr
    given = {name: dict(word.split("=", 1) for word in words) for name, words in trainings(faked).items()}
    bands = {name: bands_up_to(float(keys["input_bandwidth"]), 16000, 4) for name, keys in given.items()}
    assert bands == BANDS
    for keys in given.values():  # three rows in batches of two
        assert (keys["trainer.max_steps"], keys["trainer.validate_every"]) == (str(500 * 2), str(15 * 2))
        assert keys["seed"] == "3"


@pytest.mark.slow
@pytest.mark.parametrize("script", ["vibravox", "taps"])
def test_what_is_typed_is_a_valid_configuration_with_the_published_settings(faked: Path, script: str) -> None:
    (faked / "corpus" / "train.parquet").touch()
    assert say([str(RECIPE / f"{script}.sh"), "corpus", "out"]).returncode == 0
    register_resolvers()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        for name, words in trainings(faked).items():
            cfg = compose("train", [word for word in words if not word.startswith("hydra.")])
            assert cfg.generator.input_bands == BANDS[name]
            assert (cfg.data.batch_size, cfg.data.segment_seconds) == (32, 2.5)
            assert (cfg.trainer.max_steps, cfg.trainer.validate_every) == ({"vibravox": 500, "taps": 200}[script], 15)
            assert list(cfg.losses) == ["mr_stft", "feature_matching"]
            assert (cfg.adversarial.start_step, list(cfg.selection)) == (0, ["stoi"])
            assert verify(cfg) == []


def test_a_corpus_of_which_nothing_can_be_trained_on_ends_the_recipe_with_a_message(faked: Path) -> None:
    done = say(VIBRAVOX, SENSORS="throat_microphone", SPLITS="test")
    assert done.returncode == 2
    assert "throat_microphone.jsonl has no utterances to train on" in done.stderr


def test_an_interrupted_training_continues_and_what_exists_is_not_done_again(faked: Path) -> None:
    settings = {"SENSORS": "throat_microphone"}
    assert say(VIBRAVOX, KILLED="1", **settings).returncode == 130
    assert [line[0] for line in typed(faked)] == ["prepare", "inspect", "train"]
    done = say(VIBRAVOX, **settings)
    assert done.returncode == 0, done.stderr
    run = "out/speech_clean/throat_microphone/run"
    assert [line[:2] for line in typed(faked)] == [
        ["train", f"resume={run}"],
        ["evaluate", run],
        ["evaluate", "--sets"],
    ]
    assert say(VIBRAVOX, **settings).returncode == 0
    assert [line[:2] for line in typed(faked)] == [["evaluate", "--sets"]]


def test_a_download_that_was_interrupted_is_continued_though_there_are_files(faked: Path) -> None:
    settings = {"SENSORS": "throat_microphone"}
    (faked / "out" / "speech_clean").mkdir(parents=True)
    (faked / "out" / "speech_clean" / "downloading").touch()
    assert say(VIBRAVOX, **settings).returncode == 0
    assert "--download" in typed(faked)[0]
    (faked / "out" / "speech_clean" / "throat_microphone.jsonl").unlink()
    assert say(VIBRAVOX, MEASURE="1", **settings).returncode == 0
    first = typed(faked)[0]
    assert "--download" not in first
    assert "--measure" in first


@pytest.mark.parametrize(("status", "goes_on"), [("1", True), ("2", False)])
def test_findings_do_not_end_the_recipe_but_an_unusable_manifest_does(faked: Path, status: str, goes_on: bool) -> None:
    done = say(VIBRAVOX, SENSORS="throat_microphone", FOUND=status)
    assert done.returncode == (0 if goes_on else 2)
    assert any(line[0] == "train" for line in typed(faked)) == goes_on


@pytest.mark.parametrize(
    ("words", "settings", "message"),
    [
        (VIBRAVOX[:2], {}, "bash vibravox.sh CORPUS OUT [key=value ...]"),
        ([str(RECIPE / "taps.sh")], {}, "bash taps.sh CORPUS OUT [key=value ...]"),
        (VIBRAVOX, {"SENSORS": "throat"}, "vibravox.sh: SENSORS: there is no throat; there are "),
    ],
)
def test_a_mistake_is_explained_before_anything_is_done(
    faked: Path, words: list[str], settings: dict[str, str], message: str
) -> None:
    done = say(words, **settings)
    assert done.returncode == 2
    assert message in done.stderr
    assert not (faked / "typed").exists()


# ---------------------------------------------------------------- published figures


def test_every_published_figure_names_its_source_and_its_sensor() -> None:
    rows = read_published(RECIPE / "vibravox_published.csv")
    assert {row.set for row in rows} == BANDS.keys()
    rows += read_published(RECIPE / "taps_published.csv")
    assert all(row.source for row in rows)
    assert all("not read" in row.source for row in rows if not row.values)
    assert all(0 < row.values.get("stoi", 0.5) < 1 for row in rows)
    assert json.dumps([row.source for row in rows]).count("https://") == 9
