"""Whatever a file holds, each reader gives a result or an error that the user can mend; nothing that it names is run.

Of each reader a few examples are tried, always the same ones. ``BCFUSION_EXAMPLES=2000`` tries more, and other ones.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import struct
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from hostile_files import FILES

pytest.importorskip("hypothesis")
import hostile_content as hostile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bcfusion import audio
from bcfusion.errors import BcfusionError
from bcfusion.files import from_json, from_yaml

MEMORY = 3 << 30  # bytes that all readers together may take: libraries that they load are among them
EXAMPLES = int(os.environ.get("BCFUSION_EXAMPLES", "0"))


def tried(count: int) -> settings:
    """Return how many examples are tried: so many, always the same, or as many as are asked for."""
    return settings(
        max_examples=EXAMPLES or count,
        derandomize=not EXAMPLES,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )


@dataclass(frozen=True)
class Reader:
    """What reads a kind of file.

    Attributes:
        name: of the file.
        strategy: its content.
        read: reads it as verbs do; given the file.
    """

    name: str
    strategy: st.SearchStrategy[bytes]
    read: Callable[[Path], object]


# ---------------------------------------------------------------- valid files, and who reads them

MANIFEST = [
    {"id": "a", "air": "a.wav", "body": "b.wav", "body_channel": 1, "split": "train", "speaker": "ann", "lag": 0.001},
    {
        "id": "b",
        "paths": {"air": "a.wav"},
        "split": "valid",
        "offset": 0.5,
        "duration": 0.5,
        "polarity": -1,
        "gain": 3.0,
    },
    {"air": "a.wav", "split": "test", "sample_rate": 16000, "text": "words", "weight": 2},
]
TABLE = [
    ["id", "air", "body", "split", "speaker", "offset", "duration", "body_channel", "lag", "polarity"],
    ["a", "a.wav", "b.wav", "train", "ann", "0", "1.5", "0", "0.001", "-1"],
    ["b", "a.wav", "b.wav", "valid", "bob", "0.5", "", "1", "", "1"],
]
SCORES = [
    ["id", "system", "speaker", "corpus", "snr", "pesq_wb", "stoi", "skipped"],
    ["u/0", "input", "ann", "c", "5", "1.5", "0.7", ""],
    ["u/0", "enhanced", "ann", "c", "5", "2.5", "", "stoi: estimate is silent"],
]
PUBLISHED = [["set", "system", "source", "pesq_wb"], ["easy", "theirs", "a paper", "2.5"], ["easy", "ours", "", ""]]
HISTORY = [["step", "loss/l1", "valid/stoi", "best/selection"], ["1", "0.5", "", ""], ["2", "0.4", "0.7", "0.7"]]
RATINGS = {
    "format": "bcfusion-ratings",
    "version": 1,
    "session": "s",
    "listener": "ann",
    "page": "p",
    "ratings": [
        {"utterance": "u", "mode": "ab", "a": "x", "b": "y", "choice": "a"},
        {
            "utterance": "u",
            "mode": "mushra",
            "scores": [
                {"system": "x", "score": 50, "role": "system"},
                {"system": "target", "score": 100, "role": "reference"},
            ],
        },
    ],
}
SIZES: dict[str, Any] = {"channels": 2, "strides": [2, 4], "dilations": [1], "bottleneck_channels": 4}
BUNDLE = {
    "format": 1,
    "bcfusion": "0.1",
    "generator": {"_target_": "bcfusion.generators.seanet.SEANet", **SIZES},
    "sample_rate": 16000,
    "sensors": ["body"],
    "hop": 8,
    "delay": None,
    "causal": False,
    "receptive_field": [100, 100],
    "training": {"recipe": "bone_to_air", "experiment": "seanet", "overrides": ["experiment=seanet"], "step": 1},
}
RUN = {
    "recipe": "bone_to_air",
    "experiment": "seanet",
    "choices": {"generator": "seanet"},
    "sessions": [{"overrides": ["optimizer.lr=0.1"], "command": ["bcfusion", "train"]}],
    "relative_paths": {"data.root": "x"},
}
CONFIG = {"generator": BUNDLE["generator"], "trainer": {"max_steps": 10}, "losses": {"l1": {"weight": 1.0}}}


def manifest(path: Path) -> None:
    from bcfusion.data.corpora.listing import ManifestCorpus
    from bcfusion.data.corpora.manifest import read_manifest
    from bcfusion.data.inspect.inspection import main_sensor

    main_sensor(path)
    entries = read_manifest(path)
    for place in range(len(entries)):
        entries[place].row(1.0, 16000)
    corpus = ManifestCorpus(str(path), 1.0)
    for split in ("train", "valid", "test"):
        list(corpus.rows(split))


def transcripts(path: Path) -> None:
    from bcfusion.metrics.transcripts import read_transcripts

    for text in read_transcripts(path).values():
        assert isinstance(text, str)


def scores(path: Path) -> None:
    from bcfusion.evaluation.pooled import pooled

    pooled({"model": [path]}, {"pesq_wb": True})


def listened(path: Path) -> None:
    from bcfusion.report.listening.sounds import read_samples

    read_samples("run", [path.parent])


def published(path: Path) -> None:
    from bcfusion.evaluation.sets import read_published

    read_published(path)


def calibration(path: Path) -> None:
    from bcfusion.commands.calibrate import table
    from bcfusion.data.simulation.calibration import Calibration

    table(Calibration.load(path))


def ratings(path: Path) -> None:
    from bcfusion.report.listening.analysis import analyse
    from bcfusion.report.listening.ratings import read_ratings

    analyse([read_ratings(path)]).markdown()


def run_directory(path: Path) -> None:
    """Read a run as the comparison does, whichever of its files has the content; the others are usual."""
    from bcfusion.report.comparison.run import read_run

    with usual_beside(path, {"run.json": hostile.as_json(RUN), "config.yaml": hostile.as_yaml(CONFIG)}):
        run = read_run(path.parent)
        for look in (
            lambda: (run.settings, run.composed, run.planned_steps, run.is_short),
            lambda: (run.history, run.best, run.best_step, run.step, run.steps_per_second, run.minutes),
            lambda: (run.bundle, run.parameters, run.latency_ms),
            lambda: (run.closing_table, run.means("best"), run.input_means("best")),
        ):
            with contextlib.suppress(BcfusionError):
                look()


def earlier_run(path: Path) -> None:
    from bcfusion.commands.shared.recorded import recorded_overrides

    usual = {
        "run.json": hostile.as_json(RUN),
        "config.yaml": hostile.as_yaml(CONFIG),
        "overrides.yaml": hostile.as_yaml(["experiment=seanet", "data.root=x"]),
    }
    with usual_beside(path, usual):
        assert all(isinstance(each, str) for each in recorded_overrides(path.parent))


def job(path: Path) -> None:
    from bcfusion.run.jobs import read_outcomes

    folder = path.parent / "sweep" / "0"
    (folder / ".hydra").mkdir(parents=True, exist_ok=True)
    (folder / ".hydra" / "overrides.yaml").write_bytes(b"- a=1\n")
    (folder / path.name).write_bytes(path.read_bytes())
    read_outcomes(path.parent / "sweep")


def overrides_of_a_job(path: Path) -> None:
    from bcfusion.run.jobs import read_outcomes

    folder = path.parent / "sweep" / "0" / ".hydra"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "overrides.yaml").write_bytes(path.read_bytes())
    read_outcomes(path.parent / "sweep")


@contextlib.contextmanager
def usual_beside(path: Path, files: dict[str, bytes]) -> Iterator[None]:
    made = [path.parent / name for name in files if name != path.name]
    for file in made:
        file.write_bytes(files[file.name])
    try:
        yield
    finally:
        for file in made:
            file.unlink()


def weights() -> bytes:
    """Return the weights of the network of :data:`BUNDLE`."""
    from safetensors.torch import save

    from bcfusion.generators.seanet import SEANet
    from bcfusion.nn.conv import remove_weight_norm

    torch.manual_seed(0)
    return save(remove_weight_norm(SEANet(**SIZES)).state_dict())


def bundle(path: Path) -> None:
    """Load a bundle, whichever of its two files has the content."""
    from bcfusion.run.bundle import load_generator
    from bcfusion.run.description import count_parameters, read_description
    from bcfusion.run.trust import require_own_code

    with usual_beside(path, {"config.yaml": hostile.as_yaml(BUNDLE), "generator.safetensors": WEIGHTS()}):
        with contextlib.suppress(BcfusionError):
            require_own_code(path.parent, "a stranger's")
        with contextlib.suppress(BcfusionError):
            read_description(path.parent)
        with contextlib.suppress(ValueError):  # told as unknown by who asks for it
            count_parameters(path.parent / "generator.safetensors")
        load_generator(path.parent)


def WEIGHTS(known: list[bytes] = []) -> bytes:  # noqa: B006
    if not known:
        known.append(weights())
    return known[0]


def metadata(path: Path) -> None:
    from bcfusion.export.metadata import parse_metadata

    try:
        content = dict(json.loads(path.read_bytes()))
    except (ValueError, TypeError, RecursionError):  # strings are all that such a file can hold
        return
    parse_metadata({str(key): str(value) for key, value in content.items()}, path)


def sound(path: Path) -> None:
    """Read a sound whole, in part, and as a part of an archive."""
    failed = 0
    for read in (
        audio.info,
        audio.read,
        lambda file: audio.read(file, 7, 5),
        lambda file: audio.read_span(file, 3, 9, 8000),
    ):
        try:
            read(path)
        except BcfusionError:
            failed += 1
    if failed == 4:
        audio.info(audio.part(path, 0, path.stat().st_size))


def wav_in_a_pipe(path: Path) -> None:
    from bcfusion.inference.pcm import decoded
    from bcfusion.inference.wav_stream import opened_wav

    with path.open("rb") as file:
        found = opened_wav(lambda: file.read(997), "stdin")
        for _ in decoded(found.receive, found.how, found.channels, None, "stdin", lambda _: None):
            pass


def index(path: Path) -> None:
    from bcfusion.data.loading.shards.read import ShardCorpus

    root = path.parent / "shards"
    root.mkdir(exist_ok=True)
    (root / "train-000000.tar").write_bytes(SHARD)
    (root / "train-000000.index.jsonl").write_bytes(path.read_bytes())
    for row in ShardCorpus(str(root)).rows("train"):
        assert row.id


def shard(path: Path) -> None:
    from bcfusion.data.loading.shards.read import ShardCorpus

    root = path.parent / "shards"
    root.mkdir(exist_ok=True)
    (root / "train-000000.tar").write_bytes(path.read_bytes())
    with contextlib.suppress(FileNotFoundError):
        os.unlink(root / "train-000000.index.jsonl")
    for row in ShardCorpus(str(root)).rows("train"):
        assert row.id


def prompts(path: Path) -> None:
    from bcfusion.live.prompts import read_prompts

    read_prompts(path)


def report(path: Path) -> None:
    from bcfusion.commands.enhance_report import ReportFile

    with contextlib.closing(ReportFile(path)) as file:
        file.add(status="restored", sources=["a"], target="b")


def journal(path: Path) -> None:
    from bcfusion.data.preparation.journal import Journal

    with Journal(path, {"name": "x"}) as found:
        assert all(isinstance(key, str) for key in found.done)


def own_settings(path: Path) -> None:
    from bcfusion.run.yaml_file import read_yaml

    read_yaml(path)


# ---------------------------------------------------------------- the table


def _calibration() -> dict[str, Any]:
    from bcfusion.data.simulation import calibration as module

    curve = [0.0, -3.0, -6.0, -12.0]
    curves = dict.fromkeys(module._CURVES, curve)
    about = {"id": "ann", "recordings": ["a"], "seconds": 2.0, "lag": 0.001, "polarity": 1, "level_ratio": -3.0}
    return {
        "format": module.FORMAT,
        "version": 2,
        "sensor": "body",
        "sample_rate": 16000,
        "frequencies": [0.0, 1000.0, 4000.0, 8000.0],
        "responses": [{**about, **curves, "noise_swing_db": 1.0}],
        "short_time": None,
    }


def _metadata() -> dict[str, str]:
    from bcfusion.export.metadata import Metadata

    return Metadata("step", 16000, 128, 8, 0, 0, ("body",), 0).strings()


def _shard() -> tuple[bytes, bytes]:
    """Return a shard and its index."""
    from bcfusion.contracts import Row
    from bcfusion.data.loading.shards.index import index_path
    from bcfusion.data.loading.shards.write import write_shards

    with tempfile.TemporaryDirectory() as folder:
        path = FILES["pcm_16.wav"].write(Path(folder))
        write_shards(
            [Row(f"u{n}", {"air": str(path)}, "ann", "train", 16000, 0.15) for n in range(2)], Path(folder, "s")
        )
        (tar,) = Path(folder, "s").glob("*.tar")
        return tar.read_bytes(), index_path(tar).read_bytes()


def sounds() -> st.SearchStrategy[bytes]:
    names = [name for name in FILES if len(FILES[name].content) < 20_000]
    return st.sampled_from(names).flatmap(lambda name: hostile.changed_bytes(FILES[name].content))


SHARD, INDEX = _shard()
READERS: dict[str, Reader] = {
    "manifest": Reader("m.jsonl", hostile.contents(MANIFEST, hostile.as_lines), manifest),
    "manifest as a table": Reader("m.csv", hostile.contents(TABLE, hostile.as_csv), manifest),
    "transcripts": Reader("t.jsonl", hostile.contents(MANIFEST, hostile.as_lines), transcripts),
    "transcripts as a table": Reader(
        "t.csv", hostile.contents([["id", "text"], ["a", "b"]], hostile.as_csv), transcripts
    ),
    "scores": Reader("scores.csv", hostile.contents(SCORES, hostile.as_csv), scores),
    "scores beside sounds": Reader("scores.csv", hostile.contents(SCORES, hostile.as_csv), listened),
    "published figures": Reader("p.csv", hostile.contents(PUBLISHED, hostile.as_csv), published),
    "calibration": Reader("c.json", hostile.contents(_calibration(), hostile.as_json), calibration),
    "ratings": Reader("r.json", hostile.contents(RATINGS, hostile.as_json), ratings),
    "ratings as a table": Reader(
        "r.csv",
        hostile.contents(
            [
                ["session", "listener", "page", "utterance", "mode", "trial", "system", "other", "role", "value"],
                ["s", "ann", "p", "u", "mushra", "1", "x", "", "system", "50"],
                ["s", "ann", "p", "u", "ab", "2", "x", "y", "", "0.5"],
            ],
            hostile.as_csv,
        ),
        ratings,
    ),
    "record of a run": Reader("run.json", hostile.contents(RUN, hostile.as_json), run_directory),
    "configuration of a run": Reader("config.yaml", hostile.contents(CONFIG, hostile.as_yaml), run_directory),
    "history of a run": Reader("metrics.csv", hostile.contents(HISTORY, hostile.as_csv), run_directory),
    "record of an earlier run": Reader("run.json", hostile.contents(RUN, hostile.as_json), earlier_run),
    "configuration of an earlier run": Reader("config.yaml", hostile.contents(CONFIG, hostile.as_yaml), earlier_run),
    "overrides of an earlier run": Reader(
        "overrides.yaml", hostile.contents(["experiment=seanet", "data.root=x"], hostile.as_yaml), earlier_run
    ),
    "objective of a job": Reader("objective.json", hostile.contents([0.5, 1], hostile.as_json), job),
    "end of a job": Reader("failed.txt", st.binary(max_size=100), job),
    "overrides of a job": Reader("o.yaml", hostile.contents(["a=1", "b=2"], hostile.as_yaml), overrides_of_a_job),
    "description of a bundle": Reader("config.yaml", hostile.contents(BUNDLE, hostile.as_yaml), bundle),
    "weights of a bundle": Reader("generator.safetensors", hostile.changed_bytes(WEIGHTS()), bundle),
    "header of weights": Reader(
        "generator.safetensors",
        hostile.changed_trees({"a": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}}).map(
            lambda tree: struct.pack("<Q", len(hostile.as_json(tree))) + hostile.as_json(tree) + bytes(16)
        ),
        bundle,
    ),
    "metadata of an export": Reader("m.json", hostile.changed_trees(_metadata()).map(hostile.as_json), metadata),
    "sound": Reader("x.wav", sounds(), sound),
    "wav in a pipe": Reader("x.wav", sounds(), wav_in_a_pipe),
    "index of a shard": Reader(
        "x.jsonl", hostile.contents([json.loads(line) for line in INDEX.splitlines()], hostile.as_lines), index
    ),
    "shard": Reader("x.tar", hostile.changed_bytes(SHARD), shard),
    "sentences": Reader("p.txt", st.binary(max_size=200), prompts),
    "report of restored files": Reader("r.jsonl", hostile.contents([{"target": "b"}], hostile.as_lines), report),
    "report as a table": Reader("r.csv", hostile.contents([["target"], ["b"]], hostile.as_csv), report),
    "journal": Reader(
        "m.jsonl.partial", hostile.contents([{"job": {"name": "x"}}, {"id": "a", "x": 1}], hostile.as_lines), journal
    ),
    "YAML of a model": Reader("config.yaml", hostile.contents(BUNDLE, hostile.as_yaml), own_settings),
}


@pytest.fixture(scope="module", autouse=True)
def _nothing_is_run() -> Iterator[None]:
    """Note calls of what would run a program, and give the readers a bounded part of memory."""

    def noted(*given: Any, **named: Any) -> int:
        hostile.TOUCHED.append(given)
        return 1

    limits = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, limits[1]))
    patch = pytest.MonkeyPatch()
    for owner, name in ((os, "system"), (os, "popen"), (os, "execv"), (subprocess, "Popen")):
        patch.setattr(owner, name, noted)
    yield
    patch.undo()
    resource.setrlimit(resource.RLIMIT_AS, limits)


@contextlib.contextmanager
def place(reader: Reader, content: bytes) -> Iterator[Path]:
    """Write the content to a folder of its own; nothing but what its reader may write there is found afterwards."""
    with tempfile.TemporaryDirectory() as base:
        folder = Path(base) / "folder"
        folder.mkdir()
        (folder / reader.name).write_bytes(content)
        yield folder / reader.name
        assert os.listdir(base) == ["folder"]  # nothing is written outside


def ends_well(reader: Reader, content: bytes) -> None:
    hostile.TOUCHED.clear()
    with place(reader, content) as path:
        try:
            reader.read(path)
        except BcfusionError as error:
            text = str(error)
            assert text.strip()
            assert len(text) < 20_000
            assert text.count("\n") <= 14
    assert not hostile.TOUCHED


@pytest.mark.parametrize("name", READERS)
def test_any_content_is_read_or_refused(name: str) -> None:
    reader = READERS[name]

    @tried(12)
    @given(reader.strategy)
    def check(content: bytes) -> None:
        ends_well(reader, content)

    check()


@pytest.mark.slow
@pytest.mark.parametrize("name", READERS)
def test_more_content_is_read_or_refused(name: str) -> None:
    reader = READERS[name]

    @tried(150)
    @given(reader.strategy)
    def check(content: bytes) -> None:
        ends_well(reader, content)

    check()


YAML_READERS = [name for name in READERS if READERS[name].name.endswith(".yaml")]


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name in YAML_READERS else []) for name in READERS]
)
def test_small_files_that_cost_much_are_refused(name: str) -> None:
    for content in hostile.BOMBS:
        ends_well(READERS[name], content)


@pytest.mark.parametrize("text", [b"[" * 100_000, b"- " * 20_000, b"? " * 20_000, b'{"a":' * 20_000])
def test_brackets_without_end_neither_fill_the_stack_nor_raise_anything_else(text: bytes) -> None:
    for parsed in (from_json, from_yaml):
        with pytest.raises(ValueError):
            parsed(text)
    assert from_yaml(b"a: [1, {b: c}]") == from_json(b'{"a": [1, {"b": "c"}]}')
