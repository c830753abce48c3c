"""Word error rate by a command, with transcripts from manifests and folders."""

from __future__ import annotations

import json
import pickle
import sys
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import soundfile

from bcfusion.contracts import ItemMetric, Skip
from bcfusion.data.corpora.manifest import read_manifest
from bcfusion.errors import ConfigError, DataError
from bcfusion.evaluation.pool import Scorer
from bcfusion.metrics.si_sdr import SiSdr
from bcfusion.metrics.transcripts import edit_distance, read_transcripts, words_of
from bcfusion.metrics.wer import WordErrorRate

RATE = 16_000
SPEECH = 0.1 * np.random.default_rng(0).standard_normal(RATE // 4)


def recogniser(folder: Path, body: str) -> str:
    """Return the command of a shell script that stands for a recogniser; ``$1`` is the file."""
    script = folder / "asr"
    script.write_text(f"#!/bin/sh\n{body}\n")
    script.chmod(0o755)
    return f"{script} {{wav}}"


def transcripts(folder: Path, **texts: str) -> str:
    for name, text in texts.items():
        (folder / f"{name}.txt").write_text(text)
    return str(folder)


def test_the_rate_counts_substitutions_deletions_and_insertions(tmp_path: Path) -> None:
    texts = transcripts(tmp_path, a="The cat sat on the mat.", b="Stop!", c="...")
    metric = WordErrorRate(recogniser(tmp_path, "echo 'the CAT sit, on mat'"), texts)
    # sat became sit, and one "the" is gone: 2 of 6
    assert metric.score_item("a", SPEECH, SPEECH, RATE) == {"wer": pytest.approx(100 / 3), "wer_words": 6}
    assert metric.score_item("b", SPEECH, SPEECH, RATE) == {"wer": 500, "wer_words": 1}  # 1 wrong, 4 too many
    with pytest.raises(Skip, match="transcript without a word"):
        metric.score_item("c", SPEECH, SPEECH, RATE)
    with pytest.raises(Skip, match="no transcript"):
        metric.score_item("d", SPEECH, SPEECH, RATE)
    exact = WordErrorRate(recogniser(tmp_path, "printf 'the cat\\nsat on the mat\\n'"), texts)
    assert exact.score_item("a", SPEECH, SPEECH, RATE)["wer"] == 0


def test_the_command_is_given_the_estimate_at_its_own_rate(tmp_path: Path) -> None:
    copy = tmp_path / "copy.wav"
    metric = WordErrorRate(recogniser(tmp_path, f'cp "$1" "{copy}"; echo yes'), transcripts(tmp_path, a="yes"), 8_000)
    assert metric.score_item("a", 30 * SPEECH, SPEECH, RATE)["wer"] == 0
    info = soundfile.info(copy)
    assert (info.samplerate, info.channels, info.frames, info.subtype) == (8_000, 1, SPEECH.size // 2, "PCM_16")


def test_silence_has_no_words_and_needs_no_run(tmp_path: Path) -> None:
    metric = WordErrorRate(recogniser(tmp_path, "echo words out of nothing"), transcripts(tmp_path, a="one two"))
    assert metric.score_item("a", 0 * SPEECH, SPEECH, RATE)["wer"] == 100
    with pytest.raises(Skip, match="non-finite estimate"):
        metric.score_item("a", np.full(8, np.nan), SPEECH[:8], RATE)
    with pytest.raises(Skip, match="id of the utterance is not known"):
        metric.score(SPEECH, SPEECH, RATE)


@pytest.mark.parametrize(
    ("body", "timeout", "reason"),
    [("echo no model >&2; exit 3", 60, "recogniser failed with status 3"), ("sleep 5", 0.05, "longer than 0.05 s")],
)
def test_a_command_that_fails_or_hangs_is_a_reason(tmp_path: Path, body: str, timeout: float, reason: str) -> None:
    metric = WordErrorRate(recogniser(tmp_path, f"exec 2>&1; {body}"), transcripts(tmp_path, a="yes"), timeout=timeout)
    with pytest.raises(Skip, match=reason):
        metric.score_item("a", SPEECH, SPEECH, RATE)


def test_the_scorer_passes_the_id_of_the_utterance(tmp_path: Path) -> None:
    metric = WordErrorRate(recogniser(tmp_path, "echo one two"), transcripts(tmp_path, a="one two", b="one too"))
    assert isinstance(metric, ItemMetric)
    assert not isinstance(SiSdr(), ItemMetric)
    for workers in (0, 1):
        with Scorer({"wer": metric, "si_sdr": SiSdr()}, RATE, workers=workers) as scorer:
            for item in ("a", "b", "c"):
                scorer.submit(item, {"enhanced": SPEECH}, SPEECH)
            scores = scorer.collect()
        assert [row.values["wer"] for row in scores.rows[:2]] == [0, 50]
        assert scores.skipped("enhanced") == {"wer": {"no transcript": 1}, "wer_words": {"no transcript": 1}}
        assert scores.count("si_sdr", "enhanced") == 3
    assert pickle.loads(pickle.dumps(metric)).score_item("b", SPEECH, SPEECH, RATE)["wer"] == 50


def test_all_problems_are_reported_when_the_metric_is_made(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as error:
        WordErrorRate("no-such-asr {wav}", str(tmp_path / "none"), sample_rate=0)
    assert [problem.split(":")[0] for problem in error.value.problems] == ["WordErrorRate"] * 3
    assert "no-such-asr is not found" in str(error.value)
    with pytest.raises(ConfigError, match=r"""command="asr 'x \{wav\}" cannot be parsed: no closing quotation"""):
        WordErrorRate("asr 'x {wav}", None)
    with pytest.raises(ConfigError, match=r"lacks \{wav\}.*\n.*transcripts=None must name a manifest"):
        WordErrorRate(sys.executable, None)


def test_the_ids_of_transcripts_are_those_of_the_manifest(tmp_path: Path) -> None:
    lines = [
        {"air": "x/one.wav", "split": "test", "text": "eins"},
        {"air": "x/one.wav", "split": "test", "offset": 1.5, "text": "zwei"},
        {"paths": {"air": "three.flac"}, "split": "test", "text": "drei"},
        {"id": "vier", "air": "/abs/four.wav", "split": "test", "text": "vier"},
        {"air": "five.wav", "split": "test"},
        {"id": 0, "air": "six.wav", "split": "test", "text": "sechs"},
    ]
    manifest = tmp_path / "all.jsonl"
    manifest.write_text("\n".join(json.dumps(line) for line in lines) + "\n\n")
    entries = read_manifest(manifest)
    assert read_transcripts(manifest) == {entry.id: entry.extra["text"] for entry in entries if "text" in entry.extra}
    table = tmp_path / "all.csv"
    table.write_text('air,split,offset,text\nx/one.wav,test,,"eins, zwei"\nx/one.wav,test,2,drei\n')
    assert read_transcripts(table) == {entry.id: entry.extra["text"] for entry in read_manifest(table)}


def test_transcripts_are_found_whatever_the_unicode_form_of_their_names(tmp_path: Path) -> None:
    composed, split = (unicodedata.normalize(form, "Zoé") for form in ("NFC", "NFD"))
    (tmp_path / f"{split}.txt").write_text("oui", encoding="utf-8")
    assert read_transcripts(tmp_path) == {composed: "oui"}
    metric = WordErrorRate(recogniser(tmp_path, "echo oui"), str(tmp_path))
    assert [metric.score_item(name, SPEECH, SPEECH, RATE)["wer"] for name in (composed, split)] == [0, 0]


def test_transcripts_that_cannot_be_read_are_reported(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"air": "x.wav", "split": "test"}\n')
    with pytest.raises(DataError, match="no line with the column 'text'"):
        read_transcripts(tmp_path / "a.jsonl")
    (tmp_path / "b.jsonl").write_text("{")
    with pytest.raises(DataError, match="cannot be read"):
        read_transcripts(tmp_path / "b.jsonl")
    (tmp_path / "c.jsonl").write_text('["x.wav", "hello"]\n')
    with pytest.raises(DataError, match=r"an object in braces, not \[\"x.wav"):
        read_transcripts(tmp_path / "c.jsonl")
    (tmp_path / "d.jsonl").write_text('{"air": "x.wav", "offset": "late", "text": "hello"}\n')
    with pytest.raises(DataError, match="cannot be read: could not convert string to float: 'late'"):
        read_transcripts(tmp_path / "d.jsonl")
    with pytest.raises(DataError, match=r"no file \*.txt"):
        read_transcripts(tmp_path)
    (tmp_path / "speaker").mkdir()
    (tmp_path / "speaker" / "u1.txt").write_text("hello")
    assert read_transcripts(tmp_path) == {"speaker/u1": "hello"}


def test_words_are_compared_in_one_case_without_punctuation() -> None:
    assert words_of("Don’t  STOP — now! 'Quote' well-known e.g. 3,5") == [
        *("don't", "stop", "now", "quote", "well", "known", "e", "g", "3", "5")
    ]
    assert words_of("Don’t STOP!", normalise=False) == ["Don’t", "STOP!"]


def test_edit_distance_has_its_known_values() -> None:
    assert edit_distance("kitten", "sitting") == 3
    assert edit_distance("", "abc") == edit_distance("abc", "") == 3
    assert edit_distance("flaw", "lawn") == edit_distance("lawn", "flaw") == 2


def test_vowel_signs_and_points_belong_to_their_words() -> None:
    assert words_of("नमस्ते, दुनिया!") == ["नमस्ते", "दुनिया"]
    assert words_of("שָׁלוֹם עוֹלָם") == ["שָׁלוֹם", "עוֹלָם"]
