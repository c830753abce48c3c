"""Every verb that reads sound, over every file of :mod:`hostile_files`: read rightly, or named with what is wrong.

A verb works once through the whole corpus, so that what one file does to the others is seen. Each cell of the table of
verbs and files is then a test.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from conftest import TINY
from hostile_files import FILES, NAMES, PLACES, RATE, HostileFile, Subject, chunk, riff, write_corpus
from torch import Tensor, nn

from bcfusion import audio, cli
from bcfusion.audio.formats import MOST_CHUNKS
from bcfusion.audio.opening import open_sound
from bcfusion.audio.pcm import PlainSound
from bcfusion.audio.views import Source
from bcfusion.errors import AudioError
from bcfusion.generators.seanet import SEANet
from bcfusion.inference.recordings import Recording
from bcfusion.run.bundle import save_bundle

SUBJECTS = [*FILES, *NAMES, *PLACES]
SHOWN = {name: name.encode("ascii", "backslashreplace").decode()[:40] for name in SUBJECTS}
READ = "read"
#: what libsndfile does not open and our reader of plain WAV does: it takes the second for the only sound of the file
OURS_ALONE = {"a_second_data_chunk.wav"}
#: what a pipe says of a WAV in other words, or of one that only a file can hold
PIPED: dict[str, str] = {
    **dict.fromkeys(
        ("pcm_8.wav", "pcm_8_odd.wav", "float_64.wav", "double_too_large_for_float.wav"), "a pipe takes integers"
    ),
    **dict.fromkeys(("ulaw.wav", "alaw.wav", "ima_adpcm.wav", "ms_adpcm.wav", "gsm610.wav"), "a pipe takes integers"),
    **dict.fromkeys(
        ("g721_32.wav", "ulaw_cut.wav", "format_unknown.wav", "extensible_unknown.wav"), "a pipe takes integers"
    ),
    **dict.fromkeys(
        ("channels_0.wav", "channels_65535.wav", "bits_0.wav", "bits_13_of_what.wav"), "a pipe takes integers"
    ),
    **dict.fromkeys(("cut_in_fmt.wav", "without_data.wav", "a_chunk_of_4_gb.wav"), "ends within the header of a WAV"),
    "without_fmt.wav": "its samples come before their format",
    "cut.wav": "truncated: its header promises 0.025 s more; what came is restored",
    "no_samples.wav": READ,  # a size of 0 stands for none
}


class Double(nn.Module):
    """Twice the last sensor."""

    provides: tuple[str, ...] = ()

    def __init__(self, in_channels: int = 1) -> None:
        super().__init__()
        self.sample_rate, self.in_channels, self.hop, self.causal, self.delay = RATE, in_channels, 1, True, 0
        self.gain = nn.Parameter(torch.tensor(2.0))

    def forward(self, inputs: Tensor) -> Tensor:
        return self.gain * inputs[:, -1:]


@dataclass(frozen=True)
class Corpus:
    """The files on disk, a model, and a folder for what verbs write."""

    root: Path
    subjects: list[Subject]
    model: Path
    causal: Path

    @property
    def out(self) -> Path:
        return self.root.parents[1] / "out"

    def subject(self, name: str) -> Subject:
        return self.subjects[SUBJECTS.index(name)]


@dataclass
class Told:
    """What a verb said and made of each file.

    Attributes:
        status: exit status.
        outcomes: key to ``read``, or to the message about it; what is missing was neither read nor named.
        samples: key to what it made of a file, ``(T,)`` at 16 kHz.
        text: all that it printed.
    """

    status: int | str | None = 0
    outcomes: dict[str, str] = field(default_factory=dict)
    samples: dict[str, np.ndarray] = field(default_factory=dict)
    text: str = ""


def close(found: np.ndarray, file: HostileFile) -> bool:
    """Return whether samples ``(channels, T)`` are those of the definition."""
    assert file.samples is not None
    if found.shape != file.samples.shape:
        return False
    known = np.isfinite(file.samples)
    return bool(np.abs(found - file.samples)[known].max() <= file.within)


def in_pieces(path: Any, rate: int, size: int) -> np.ndarray:
    """Read a file as long recordings are read."""
    with Recording(path, rate, True) as recording:
        starts = range(0, recording.total, size)
        pieces = [recording.read(start, min(start + size, recording.total)) for start in starts]
    return torch.cat(pieces, dim=1).numpy()


# ---------------------------------------------------------------- the readers


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("where", ["disk", "memory", "archive"])
def test_samples_are_those_of_the_definition_or_the_refusal_says_why(tmp_path: Path, name: str, where: str) -> None:
    file = FILES[name]
    path: Any = file.write(tmp_path)
    if where == "memory":
        path = audio.EncodedAudio(str(path), file.content)
    elif where == "archive":
        (tmp_path / "x.tar").write_bytes(b"before" + file.content + b"after" * 100)
        path = audio.part(tmp_path / "x.tar", 6, len(file.content))
    if not file.readable:
        with pytest.raises(AudioError) as caught:
            audio.read(path)
        text = str(caught.value)
        assert file.says in text
        assert str(tmp_path) in text
        assert "\n" not in text
        with pytest.raises(AudioError):
            in_pieces(path, RATE, 512)
        return
    samples, rate = audio.read(path)
    assert (samples.dtype, rate) == (np.float32, file.rate)
    assert close(samples, file)
    header = audio.info(path)
    assert (header.channels, header.frames, header.sample_rate) == (*samples.shape, rate)
    assert (file.remark in header.remark) if file.remark else not header.remark
    count = samples.shape[1]
    start, length = count // 3, min(200, count - count // 3)
    for begin, size in ((start, length), (count - 1, 1)):
        np.testing.assert_allclose(audio.read(path, begin, size)[0], samples[:, begin : begin + size], atol=1e-6)
    np.testing.assert_allclose(in_pieces(path, rate, 700), samples, atol=1e-6)


@pytest.mark.parametrize("name", [name for name in FILES if FILES[name].content[:4] in (b"RIFF", b"RIFX", b"RF64")])
def test_both_readers_of_wav_agree_or_ours_defers(tmp_path: Path, name: str) -> None:
    path = FILES[name].write(tmp_path)
    try:
        with open_sound(path) as sound:
            own = sound.read(0, sound.frames) if isinstance(sound, PlainSound) else None
            about = (sound.frames, sound.sample_rate, sound.channels, sound.subtype, sound.format)
    except AudioError:
        return  # libsndfile was asked, or the file is shorter than it says, which libsndfile hides
    if own is None:
        return
    if name in OURS_ALONE:
        with pytest.raises(soundfile.LibsndfileError):
            soundfile.info(str(path))
        return
    header = soundfile.info(str(path))
    assert about == (header.frames, header.samplerate, header.channels, header.subtype, header.format)
    np.testing.assert_array_equal(own, soundfile.read(path, dtype="float32", always_2d=True)[0])


@pytest.mark.parametrize("name", PLACES)
def test_what_is_no_file_is_named_and_never_waited_for(tmp_path: Path, name: str) -> None:
    (tmp_path / "deep").mkdir()
    path, place = tmp_path / "deep" / name, PLACES[name]
    place.make(path)
    for read in (audio.info, audio.read, audio.encoded):
        if not place.says:
            read(path)
            continue
        with pytest.raises(AudioError, match=place.says) as caught:
            read(path)
        assert "\n" not in str(caught.value)
        assert str(path) in str(caught.value)


@pytest.mark.parametrize("name", NAMES)
def test_every_name_is_read_by_itself_and_found_in_its_folder(tmp_path: Path, name: str) -> None:
    file = FILES["pcm_16.wav"]
    path = file.write(tmp_path / "x")
    path = path.rename(tmp_path / name)
    assert audio.find_audio(tmp_path) == audio.find_audio(path) == [path]
    assert close(audio.read(path)[0], file)


# ---------------------------------------------------------------- files that change, and files of others


@pytest.mark.parametrize("name", ["pcm_16.wav", "usual.flac", "usual.aiff"])
@pytest.mark.parametrize("change", ["vanish", "grow", "shrink", "become another"])
def test_a_file_that_changes_while_it_is_read_gives_its_samples_or_is_named(
    tmp_path: Path, name: str, change: str
) -> None:
    file = FILES[name]
    path = file.write(tmp_path)
    found: list[np.ndarray] = []

    def read() -> None:
        with Recording(path, RATE, True) as recording:
            found.append(recording.read(0, 100).numpy())
            if change == "vanish":
                path.unlink()
            elif change == "grow":
                path.write_bytes(file.content + bytes(50_000))
            elif change == "shrink":
                os.truncate(path, 300)
            else:
                other = FILES["stereo.wav"].write(tmp_path / "other")
                other.replace(path)  # the file that is open stays as it was
            found.append(recording.read(100, recording.total).numpy())

    if change == "shrink" and name != "usual.flac":  # of which the decoder has read the whole frame before
        with pytest.raises(AudioError, match=f"{name} is (truncated|damaged)"):
            read()
        return
    read()
    assert close(np.concatenate(found, axis=1), file)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become a user who may not read")
def test_what_this_user_may_not_read_is_named(caplog: pytest.LogCaptureFixture) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        root.chmod(0o755)
        for place in ("a/open.wav", "b/closed.wav", "c/hidden.wav"):
            (root / place).parent.mkdir()
            FILES["pcm_16.wav"].write(root / place)
        (root / "b/closed.wav").chmod(0)
        (root / "c").chmod(0)
        os.seteuid(65534)
        try:
            assert audio.find_audio(root) == [root / "a/open.wav", root / "b/closed.wav"]
            assert close(audio.read(root / "a/open.wav")[0], FILES["pcm_16.wav"])
            for place in ("b/closed.wav", "c/hidden.wav"):
                with pytest.raises(AudioError, match=f"cannot read .*{place}: Permission denied"):
                    audio.read(root / place)
        finally:
            os.seteuid(0)
            (root / "c").chmod(0o755)
    assert "c: left out, with all that is in it: Permission denied" in caplog.text


# ---------------------------------------------------------------- bounds, by counting


def silence_with_gaps(count: int) -> bytes:
    """Return pairs of the shortest frames of an MP3 with a byte between the pairs."""
    frame = bytes([0xFF, 0xF3, 0x14, 0xC4]).ljust(24, b"\0")
    return (frame + frame + b"x") * count


@pytest.mark.parametrize(
    ("content", "most"),
    [
        (b"OggS" * 50_000, 10),
        (b"OggS\0" + bytes(25), 10),
        ((b"OggS\0".ljust(26, b"\0") + b"\xff") * 5000, 60_000),
        (silence_with_gaps(3000), 30_000),
        (riff() + bytes(10_000_000), 3 * MOST_CHUNKS),
        (riff(*[chunk(b"LIST", b"")] * 100_000), 3 * MOST_CHUNKS),
        (b"FORM\0\0\0\0AIFF" + b"ABCD\0\0\0\0" * 100_000, 3 * MOST_CHUNKS),
        (b"fLaC" + b"\xff\xf8" * 100_000, 10),
        (b"ID3\4\0\0\0\0\0\0" * 10_000, 30_000),
    ],
)
def test_the_reads_of_a_header_grow_no_faster_than_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, most: int
) -> None:
    counts = [0, 0]
    read = Source.read

    def counted(source: Source, offset: int, count: int) -> bytes:
        got = read(source, offset, count)
        counts[0] += 1
        counts[1] += len(got)
        return got

    monkeypatch.setattr(Source, "read", counted)
    (tmp_path / "x.wav").write_bytes(content)
    with contextlib.suppress(AudioError):  # some are sound
        audio.read(tmp_path / "x.wav")
    assert counts[0] <= most
    assert counts[1] <= 100 * len(content) + (1 << 20)


# ---------------------------------------------------------------- verbs over the whole corpus


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    base = tmp_path_factory.mktemp("hostile")
    root = base / "files" / "train"
    config = {"_target_": f"{__name__}.Double", "in_channels": 1}
    save_bundle(base / "model", Double(), config, ["body"], {})
    (base / "out").mkdir()
    sizes: dict[str, Any] = {
        "channels": 2,
        "strides": [2, 4],
        "dilations": [1],
        "bottleneck_channels": 4,
        "causal": True,
    }
    config = {"_target_": "bcfusion.generators.seanet.SEANet", **sizes}
    causal = save_bundle(base / "causal", SEANet(**sizes), config, ["body"], {"step": 1})
    return Corpus(root, write_corpus(root), base / "model", causal)


def said(*argv: object) -> Told:
    """Run a verb in this process; nothing that it raises but an exit is caught."""
    lines = io.StringIO()
    handler = logging.StreamHandler(lines)
    logging.getLogger("bcfusion").addHandler(handler)
    before = list(sys.path)
    try:
        with contextlib.redirect_stdout(lines), contextlib.redirect_stderr(lines):
            status: int | str | None
            try:
                status = cli.main([os.fspath(each) if isinstance(each, Path) else str(each) for each in argv])
            except SystemExit as end:
                status = end.code
    finally:
        logging.getLogger("bcfusion").removeHandler(handler)
        sys.path[:] = before
    return Told(status, text=lines.getvalue())


def manifest(corpus: Corpus, name: str, *sensors: str, only: Callable[[Subject], bool] = lambda _: True) -> Path:
    """Write a manifest of all subjects, each a line whose id is its key; of several channels the first is used."""
    lines = []
    for subject in corpus.subjects:
        if only(subject):
            paths = dict.fromkeys(sensors, os.fspath(subject.path))
            picked = {f"{sensor}_channel": 0 for sensor in sensors if subject.file.channels > 1}
            lines.append(json.dumps({"id": subject.key, "split": "train", "speaker": subject.key, **paths, **picked}))
    path = corpus.out / name
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def enhance(corpus: Corpus) -> Told:
    out, report = corpus.out / "enhanced", corpus.out / "enhanced.jsonl"
    options = ("--output", out, "--subtype", "FLOAT", "--channels", "body=1", "--report", report)
    told = said("enhance", corpus.model, corpus.root, *options)
    for line in report.read_text().splitlines():
        row = json.loads(line)
        key = Path(row["sources"][0]).parent.name
        told.outcomes[key] = row["error"] or READ
        if row["status"] == "restored":
            told.samples[key] = soundfile.read(row["target"].encode("utf-8", "surrogateescape"))[0] / 2
    return told


def evaluate(corpus: Corpus) -> Told:
    out = corpus.out / "scores"
    folders = ("--enhanced", corpus.root, "--reference", corpus.root)
    told = said("evaluate", *folders, "metrics=[si_sdr]", f"output={out}", f"sample_rate={RATE}")
    with (out / "scores.csv").open(newline="") as table:
        for row in csv.DictReader(table):
            told.outcomes[row["id"].partition("/")[0]] = row["skipped"] or READ
    return told


def inspect(corpus: Corpus) -> Told:
    numbers = corpus.out / "numbers.csv"
    told = said("inspect", manifest(corpus, "inspect.jsonl", "air"), "--csv", numbers)
    with numbers.open(newline="") as table:
        for row in csv.DictReader(table):
            told.outcomes[row["id"]] = row["problem"] or READ
    return told


def prepare(corpus: Corpus) -> Told:
    target = corpus.out / "prepared.jsonl"
    told = said("prepare", "folder", "--root", corpus.root.parent, "--out", target, "--max-unreadable-share", "1")
    for line in target.read_text().splitlines():
        row = json.loads(line)
        told.outcomes[Path(row["air"]).parent.name] = READ
    return told


def pipe(corpus: Corpus) -> Told:
    """Give each file to ``enhance - --raw-format wav``, which takes what comes before a sound is cut off."""
    told = Told(2)
    options = ("--output", "-", "--raw-format", "wav", "--channels", "body=1")
    for subject in corpus.subjects:
        if not subject.path.is_file() or subject.path.name == "nothing.wav":
            continue
        with contextlib.ExitStack() as stack:
            sink = io.TextIOWrapper(io.BytesIO())
            for name, stream in (("stdin", io.TextIOWrapper(io.BytesIO(subject.file.content))), ("stdout", sink)):
                stack.callback(setattr, sys, name, getattr(sys, name))
                setattr(sys, name, stream)
            errors = stack.enter_context(contextlib.redirect_stderr(io.StringIO()))
            status = cli.main(["enhance", os.fspath(corpus.model), "-", *options])
            content = sink.buffer.getvalue()  # type: ignore[attr-defined]
        assert status in (0, 2), errors.getvalue()
        told.outcomes[subject.key] = READ if status == 0 else errors.getvalue().splitlines()[-1]
        if status == 0:
            told.samples[subject.key] = soundfile.read(io.BytesIO(content))[0] / 2
    return told


def stream(corpus: Corpus) -> Told:
    told = Told(2)
    for subject in corpus.subjects:
        target = corpus.out / f"{subject.key}.stream.wav"
        options = ("--output", target, "--subtype", "FLOAT", "--no-pace", "--backend", "torch", "--channels", "body=1")
        found = said("stream", corpus.causal, "--file", subject.path, *options)
        told.outcomes[subject.key] = READ if found.status == 0 else found.text
        told.text += found.text
        assert found.status in (0, 2), found.text
        assert target.exists() == (found.status == 0)
    return told


def calibrate(corpus: Corpus) -> Told:
    """Calibrate with all sounds together, then with each of the others alone."""
    out = corpus.out / "sensor.json"
    fit = manifest(corpus, "fit.jsonl", "air", "body", only=lambda subject: subject.file.seconds > 0.1)
    told = said("calibrate", "--pairs", fit, "--out", out)
    told.outcomes = {json.loads(line)["id"]: READ for line in fit.read_text().splitlines()}
    left_out = (line.partition(" is left out: ") for line in told.text.splitlines())
    told.outcomes |= {key: why for key, _, why in left_out if why and key in told.outcomes}
    for subject in corpus.subjects:
        if subject.key not in told.outcomes:
            alone = manifest(corpus, "alone.jsonl", "air", "body", only=lambda each, own=subject.key: each.key == own)
            found = said("calibrate", "--pairs", alone, "--out", corpus.out / "none.json")
            lines = sorted(
                found.text.splitlines(), key=lambda line: "left out: " not in line and "unreadable" not in line
            )
            told.outcomes[subject.key] = READ if found.status == 0 else "\n".join(lines[:2])
            told.text += found.text
    return told


def adapt(corpus: Corpus) -> Told:
    pairs = manifest(corpus, "adapt.jsonl", "air", "body")
    told = said("adapt", corpus.causal, "--pairs", pairs, "--output", corpus.out / "adapted")
    for line in told.text.splitlines():
        if line.startswith("refused: "):
            key, _, why = line.removeprefix("refused: ").partition(": ")
            told.outcomes[key] = why
    return told


def listen(corpus: Corpus) -> Told:
    run = corpus.out / "run"
    (run / "samples").mkdir(parents=True)
    (run / "run.json").write_text(json.dumps({"recipe": "r", "experiment": "e", "choices": {}, "sessions": []}))
    for number, subject in enumerate(corpus.subjects):
        for label in ("input", "enhanced", "target"):
            path = run / "samples" / f"{number}-{subject.key}.{label}.wav"
            if label == "enhanced":
                path.symlink_to(subject.path)
            else:
                FILES["pcm_16.wav"].write(path)
    page = corpus.out / "listen.html"
    usable = sum(
        subject.file.readable for subject in corpus.subjects
    )  # more are not asked for: a model would make them
    told = said("listen", run, "--output", page, "--utterances", usable)
    for line in told.text.split("left out: ")[1:]:
        for subject in corpus.subjects:
            if f"-{subject.key}." in line or line.startswith(subject.key):
                told.outcomes[subject.key] = line
    content = json.loads(page.read_text("utf-8").partition('id="page">')[2].partition("</script>")[0])
    told.outcomes |= {row["id"]: READ for row in content["rows"]}
    return told


@dataclass(frozen=True)
class Verb:
    """A column of the table.

    Attributes:
        run: works through the corpus once.
        status: exit status, with which the files that cannot be used are told.
        expects: what is to come of a file: ``read``, a part of the message, or nothing if it is not looked at.
        walks: whether it looks for files in folders, and so finds none in the name of a folder.
    """

    run: Callable[[Corpus], Told]
    status: int
    expects: Callable[[HostileFile], str]
    walks: bool = False


def usual(file: HostileFile) -> str:
    return READ if file.readable else file.says


def mono(file: HostileFile) -> str:
    if file.readable and file.seconds < 1e-3:
        return "target is silent"  # without its mean
    return "not mono" if file.channels > 1 else READ if file.readable else "unreadable file"


def mono_by_header(file: HostileFile) -> str:
    hidden = not file.by_header and not file.name.endswith(".flac")  # of a FLAC the last sample is read too
    return READ if file.channels == 1 or hidden else ""


def in_a_pipe(file: HostileFile) -> str:
    """Return what is made of a file in a pipe: plain samples of a WAV are taken, and nothing else."""
    if not file.content:
        return "ends within the header of a WAV" if file.name.startswith("empty") else ""
    if len(file.content) < 12:
        return "ends within the header of a WAV"
    if file.content[:4] not in (b"RIFF", b"RF64") or file.content[8:12] != b"WAVE":
        return "is no WAV: give --raw-format"
    return PIPED.get(file.name) or usual(file)


def measured(file: HostileFile) -> str:
    """Return what calibration makes of it: it needs 0.2 s."""
    return f"{file.seconds:.2f} s of body and air are too short" if 0 < file.seconds < 0.155 else usual(file)


def as_a_pair(file: HostileFile) -> str:
    """Return what is said of a file as a pair with itself; of what no header describes, the number is told."""
    if file.readable:
        return "ms" if file.seconds < 0.1 else "a sensor's samples are those of air"
    return "" if file.by_header else file.says


def long_enough(file: HostileFile) -> str:
    return "short: " if file.readable and file.seconds < 0.1 else file.remark or usual(file)


#: SLOW ones start processes, or take long
FAST: dict[str, Verb] = {
    "enhance": Verb(enhance, 2, usual, walks=True),
    "prepare": Verb(prepare, 0, mono_by_header, walks=True),
}
SLOW: dict[str, Verb] = {
    "inspect": Verb(inspect, 1, long_enough),
    "evaluate": Verb(evaluate, 0, mono, walks=True),
    "pipe": Verb(pipe, 2, in_a_pipe),
    "stream": Verb(stream, 2, usual),
    "calibrate": Verb(calibrate, 0, measured),
    "adapt": Verb(adapt, 2, as_a_pair),
    "listen": Verb(listen, 0, usual),
}


@pytest.fixture(scope="module")
def told(corpus: Corpus) -> Callable[[str], Told]:
    known: dict[str, Told] = {}

    def once(verb: str) -> Told:
        if verb not in known:
            known[verb] = {**FAST, **SLOW}[verb].run(corpus)
        return known[verb]

    return once


@pytest.mark.parametrize("verb", [*FAST, *(pytest.param(verb, marks=pytest.mark.slow) for verb in SLOW)])
def test_a_verb_ends_with_its_status_and_no_traceback(verb: str, told: Callable[[str], Told]) -> None:
    found = told(verb)
    assert found.status == {**FAST, **SLOW}[verb].status, found.text
    assert "Traceback" not in found.text
    assert "\x1b" not in found.text  # the name of a file does not steer the terminal


def wrong(verbs: Mapping[str, Verb], subject: Subject, told: Callable[[str], Told]) -> dict[str, tuple[str, str]]:
    """Return the cells of a row that are not as expected: verb to what came and what was to come."""
    cells = {}
    for verb, column in verbs.items():
        found = told(verb)
        expected = "" if subject.absent and column.walks else column.expects(subject.file)
        outcome = found.outcomes.get(subject.key, "")
        fits = outcome == expected if expected in (READ, "") else expected in outcome
        fits = fits and outcome.count("\n") <= 2 + os.fspath(subject.path).count("\n")
        samples = found.samples.get(subject.key)
        if samples is not None and subject.file.samples is not None and subject.file.rate == RATE:
            first = HostileFile("", b"", subject.file.samples[:1], within=subject.file.within + 1e-4)
            fits = fits and close(samples[None], first)
        if not fits:
            cells[verb] = (outcome, expected)
    return cells


@pytest.mark.parametrize("name", SUBJECTS, ids=SHOWN.values())
def test_each_file_is_read_rightly_or_named(name: str, corpus: Corpus, told: Callable[[str], Told]) -> None:
    assert not wrong(FAST, corpus.subject(name), told)


@pytest.mark.slow
@pytest.mark.parametrize("name", SUBJECTS, ids=SHOWN.values())
def test_each_file_is_read_rightly_or_named_by_slow_verbs(
    name: str, corpus: Corpus, told: Callable[[str], Told]
) -> None:
    assert not wrong(SLOW, corpus.subject(name), told)


@pytest.mark.slow
def test_training_leaves_out_what_cannot_be_read_counts_it_and_ends(corpus: Corpus, tmp_path: Path) -> None:
    lines = []
    for subject in corpus.subjects:
        picked = {"air_channel": 0} if subject.file.channels > 1 else {}
        for split in ("train", "valid"):
            about = {"id": f"{subject.key}.{split}", "split": split, "speaker": f"{subject.key}{split}"}
            lines.append(json.dumps({**about, "air": os.fspath(subject.path), **picked}))
    (tmp_path / "m.jsonl").write_text("\n".join(lines))
    metrics = ("metrics=[si_sdr]", "selection=si_sdr", "trainer.keep_best=[si_sdr]", "trainer.max_valid_items=999")
    words = ("data=manifest", "data.path=m.jsonl", "data.max_unreadable_share=1", "trainer.max_steps=3")
    command = ["train", "experiment=seanet", *words, *TINY, "trainer.validate_every=2", *metrics]
    done = subprocess.run(
        [sys.executable, "-m", "bcfusion", *command],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    refused = sum(not subject.file.readable and subject.file.by_header for subject in corpus.subjects)
    assert f"{refused} of {len(corpus.subjects)} files are unreadable and left out" in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    (table,) = tmp_path.glob("runs/*/*/*/quality/valid.csv")
    rows = list(csv.DictReader(table.open(newline="")))
    scored = {row["id"].partition(".")[0] for row in rows if row["system"] == "enhanced" and row["si_sdr"]}
    usable = {each.key for each in corpus.subjects if each.file.seconds > 1e-3}  # a single sample is silence
    assert scored == usable
