from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from fake_sounddevice import FakeSound
from scipy.signal import butter, lfilter

from bcfusion.adaptation.pairs import checked
from bcfusion.cli import main
from bcfusion.commands import adapt, calibrate
from bcfusion.commands.record import Keys
from bcfusion.data.corpora.demo_speech import draw_voice, utterance
from bcfusion.data.corpora.manifest import read_manifest
from bcfusion.data.corpora.pairs import PairsCorpus

RATE = 16000
LAG = 48  # samples


class Wearer:
    """Types the answers of a script and speaks whenever it is recorded: in the place of :class:`Keys`."""

    def __init__(self, sound: FakeSound, answers: list[str], gain: float = 1.0) -> None:
        self.sound, self.answers, self.gain = sound, iter(answers), gain
        self.voice = draw_voice(0.5, np.random.default_rng(3))
        self.seed = 0

    def __call__(self, stream: object) -> Wearer:
        return self

    def line(self, seconds: float | None = None) -> str | None:
        if seconds is not None:
            self.speak()
            return ""
        return next(self.answers)

    def speak(self) -> None:
        self.seed += 1
        rng = np.random.default_rng(self.seed)
        air, _ = utterance(self.voice, 2.5, RATE, rng)
        body = -0.4 * np.roll(lfilter(*butter(2, 900, fs=RATE), air), LAG) + 1e-4 * rng.standard_normal(len(air))
        both = self.gain * np.stack([air, body, air], axis=1)
        [stream] = [stream for stream in self.sound.streams if stream.active]
        for start in range(0, len(both), 500):
            stream.call(np.clip(both[start : start + 500, : stream.settings.channels], -1, 1).astype(np.float32))


@pytest.fixture
def sound(monkeypatch: pytest.MonkeyPatch) -> FakeSound:
    fake = FakeSound(("Interface", 3, 0, RATE), rates=(RATE,))
    monkeypatch.setitem(sys.modules, "sounddevice", fake)
    monkeypatch.setattr("bcfusion.commands.record.BEFORE", 0.0)
    return fake


def record(
    monkeypatch: pytest.MonkeyPatch, sound: FakeSound, answers: list[str], *options: str, gain: float = 1
) -> int:
    monkeypatch.setattr("bcfusion.commands.record.Keys", Wearer(sound, answers, gain))
    return main(["record", "--channels", "body=2,air=1", *options])


def test_sentences_are_recorded_continued_and_read_by_adapt_and_calibrate(
    tmp_path: Path, sound: FakeSound, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("".join(f"Sentence {number}.\n" for number in range(1, 8)))
    folder = tmp_path / "my recordings"
    options = ["--output", str(folder), "--prompts", str(prompts), "--speaker", "anna"]
    # keeps 1; repeats 2 once; skips 3 before and 4 after it is recorded; keeps 5; ends
    assert record(monkeypatch, sound, ["", "", "", "r", "", "", "s", "", "s", "", "", "q"], *options) == 0
    printed = capsys.readouterr().out
    assert "[1/7] Sentence 1." in printed
    assert "3 sentences, 7 s in all; body is +3.0" in printed
    assert "inverted" in printed
    assert "at least 10 s are needed to adapt" in printed
    assert sound.streams[-1].closed
    assert [line.extra["text"] for line in read_manifest(folder / "pairs.jsonl")] == [
        "Sentence 1.",
        "Sentence 2.",
        "Sentence 5.",
    ]

    assert record(monkeypatch, sound, ["", ""] * 4, *options) == 0
    printed = capsys.readouterr().out
    assert "holds 3 recordings; of 7 sentences anna has 4 left" in printed
    assert "[4/4] Sentence 7." in printed
    assert (
        f"bcfusion adapt throat --pairs '{folder}/pairs.jsonl' --output '{tmp_path}/my recordings-adapted'" in printed
    )
    assert record(monkeypatch, sound, [], *options) == 0
    assert "anna has 0 left" in capsys.readouterr().out

    pairs = ["--pairs", str(folder / "pairs.jsonl")]
    rows = adapt._pairs(adapt._parser().parse_args(["throat", *pairs, "--output", "x"]))
    assert len(rows) == 7
    kept, refused = checked(rows, ["body"], RATE)
    assert (len(kept), refused) == (7, [])
    assert {row.polarity for row in kept} == {-1}
    assert all(row.lag == pytest.approx(LAG / RATE, abs=4e-4) for row in (*rows, *kept))
    chosen = calibrate._chosen(calibrate._parser().parse_args([*pairs, "--out", "x.json"]))
    assert [row.id for row in chosen] == [row.id for row in rows]
    folders = PairsCorpus(str(folder / "body"), str(folder / "air")).rows("test")
    assert [row.id for row in folders] == [row.id for row in rows]
    assert {row.speaker for row in folders} == {"anna"}


def test_a_bad_sentence_is_repeated_unless_it_is_kept_on_purpose(
    tmp_path: Path, sound: FakeSound, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "loud"
    # clipped: Enter repeats, k keeps
    assert record(monkeypatch, sound, ["", "", "", "k", "q"], "--output", str(folder), gain=40.0) == 0
    printed = capsys.readouterr().out
    assert printed.count("FAULT: clipped") == 2
    assert "turn its gain down" in printed
    assert printed.count("[1/50]") == 2
    assert len(read_manifest(folder / "pairs.jsonl")) == 1
    silent = tmp_path / "silent"
    assert record(monkeypatch, sound, ["", "", "q"], "--output", str(silent), gain=0.0) == 0
    printed = capsys.readouterr().out
    assert "FAULT: silent" in printed
    assert "nothing is recorded" in printed
    assert not silent.exists()


def test_a_copy_is_found_out(
    tmp_path: Path, sound: FakeSound, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--output", str(tmp_path / "copy"), "--channels", "body=3,air=1"]
    assert record(monkeypatch, sound, ["", "q"], *options) == 0
    assert "FAULT: a sensor's samples are those of air (body)" in capsys.readouterr().out


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_whoever_ends_it_is_told_what_was_kept(
    tmp_path: Path,
    sound: FakeSound,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    number: signal.Signals,
    status: int,
) -> None:
    class Ending(Wearer):
        def line(self, seconds: float | None = None) -> str | None:
            if seconds is not None and self.seed == 1:
                os.kill(os.getpid(), number)
            return super().line(seconds)

    monkeypatch.setattr("bcfusion.commands.record.Keys", Ending(sound, ["", "", ""]))
    try:
        ended = main(["record", "--output", str(tmp_path / "out"), "--channels", "body=2,air=1"])
    except SystemExit as error:
        ended = int(str(error.code))
    assert ended == status
    assert f"{tmp_path}/out/pairs.jsonl: 1 recording, 2 s" in capsys.readouterr().out
    assert len(read_manifest(tmp_path / "out" / "pairs.jsonl")) == 1
    assert sound.streams[0].closed


def test_a_sentence_ends_by_itself_and_a_device_that_is_gone_ends_the_command(
    tmp_path: Path, sound: FakeSound, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Silent(Wearer):
        def line(self, seconds: float | None = None) -> str | None:
            if seconds is None:
                return next(self.answers)
            self.speak()
            if self.seed == 2:
                self.sound.streams[-1].vanish()
            return None

    monkeypatch.setattr("bcfusion.commands.record.Keys", Silent(sound, ["", "", ""]))
    command = ["record", "--output", str(tmp_path / "out"), "--seconds", "2", "--channels", "body=2,air=1"]
    assert main(command) == 2
    printed = capsys.readouterr()
    assert "2.5 s; body" in printed.out  # no key is heard: nothing is cut
    assert "input device 0 (Interface, Fake) has stopped: was it unplugged?" in printed.err
    assert len(read_manifest(tmp_path / "out" / "pairs.jsonl")) == 1


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--channels", "body=1"], "give air and at least one other sensor"),
        (["--channels", "body=1,air=1"], "two sensors have the same channel"),
        (["--channels", "body=1,air=4"], "has 3 channels, channel 4 is needed"),
        (["--channels", "text=1,air=2"], "text cannot be the name of a sensor"),
        (["--channels", "1,2"], "1 cannot be the name of a sensor"),
        (["--channels", "body=x,air=2"], "body=x is not NAME=N"),
        (["--speaker", "../x"], "--speaker ../x: a name of letters and digits"),
        (["--speaker", "train"], "--speaker train: a name of letters and digits"),
        (["--sample-rate", "44100"], "does not take it, but 16000 Hz"),
        (["--prompts", "none.txt"], "cannot read the sentences in none.txt"),
    ],
)
def test_half_a_command_is_refused(
    sound: FakeSound, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], says: str
) -> None:
    try:
        status = main(["record", "--output", str(tmp_path / "out"), *options])
    except SystemExit as error:
        status = int(str(error.code))
    assert status == 2
    assert says in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_without_a_device_nothing_is_advised_that_the_verb_does_not_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for module, says in ((FakeSound(), "PortAudio finds no sound device"), (None, "need the package sounddevice")):
        monkeypatch.setitem(sys.modules, "sounddevice", module)
        assert main(["record", "--output", str(tmp_path / "out")]) == 2
        said = capsys.readouterr().err
        assert says in said
        assert "--file" not in said


@pytest.fixture
def pipe() -> Iterator[tuple[Keys, int]]:
    reading, writing = os.pipe()
    with os.fdopen(reading) as stream:
        yield Keys(stream), writing


def test_keys_are_lines_that_are_waited_for(pipe: tuple[Keys, int]) -> None:
    keys, writing = pipe
    assert keys.line(0.01) is None
    os.write(writing, b"\n R \nhal")
    assert [keys.line(), keys.line(1.0), keys.line(0.01)] == ["", "r", None]
    os.write(writing, b"f\n")
    os.close(writing)
    assert [keys.line(), keys.line(), keys.line(1.0)] == ["half", "q", "q"]
