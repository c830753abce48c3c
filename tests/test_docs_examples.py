"""The examples of the documentation work: its project trains, its tags are logged, its code runs."""

from __future__ import annotations

import csv
import json
import os
import re
import runpy
import subprocess
import sys
from collections.abc import Callable
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from bcfusion.commands.export import main as export
from bcfusion.contracts import ItemMetric, Metric, Skip
from bcfusion.nn.network import WaveformNetwork
from bcfusion.probe import measured_delay
from bcfusion.run.bundle import bundle_of, load_generator, save_bundle

ROOT = Path(__file__).parents[1]
QUICK = [
    "data.batch_size=2",
    "data.segment_seconds=0.256",
    "data.workers=0",
    "trainer.accelerator=cpu",
    "trainer.max_steps=2",
    "trainer.validate_every=2",
    "trainer.max_valid_items=1",
    "trainer.samples=1",
    "trainer.log_every=1",
    "generator.channels=8",
]
# discriminators and a critic too, so that every tag of the page is logged
GAME = [
    "critics=[metric_gan]",
    "critics.metric_gan.delay=1",
    "critics.metric_gan.workers=1",
    "critics.metric_gan.silence_db=-90",
    "critics.metric_gan.network.channels=2",
    "critics.metric_gan.network.n_fft=128",
    "critics.metric_gan.network.hop_length=64",
    "discriminators=[melgan_msd]",
    "discriminators.melgan_msd.channels=2",
    "discriminators.melgan_msd.max_channels=8",
    "adversarial.start_step=0",
    "adversarial.warm_up_losses=[]",
    "balancer=gradient",
]


def blocks(page: str) -> list[tuple[str, str]]:
    """Return the fenced blocks of a page: the words after the opening fence, and the text."""
    text = (ROOT / "docs" / page).read_text()
    return re.findall(r"^```([^\n]*)\n(.*?)^```$", text, flags=re.DOTALL | re.MULTILINE)


def titled(page: str) -> dict[str, str]:
    """Return the titled blocks of code of a page by their titles."""
    titles = [(re.search(r'title="([^"]+)"', head), text) for head, text in blocks(page)]
    return {title[1]: text for title, text in titles if title}


def commands(page: str) -> list[list[str]]:
    """Return the commands of a page, as typed."""
    lines = [line.partition("  #")[0] for head, text in blocks(page) if not head for line in text.splitlines()]
    return [line.split() for line in lines if line.startswith("bcfusion ")]


@pytest.fixture(scope="module")
def bcfusion(project: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
        done = subprocess.run(
            [sys.executable, "-m", "bcfusion", *arguments],
            cwd=project,
            env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done

    return run


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, speech: Path) -> Path:
    """An empty folder with the files of the page, and six takes of three speakers."""
    folder = tmp_path_factory.mktemp("project")
    for name, text in titled("extending.md").items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    (folder / "recordings").mkdir()
    for number, file in enumerate(sorted(speech.rglob("*.flac"))[:6]):
        samples, rate = soundfile.read(file)
        take = f"{('ann', 'bob', 'eve')[number % 3]}-{number}"
        soundfile.write(folder / "recordings" / f"{take}.headset.wav", samples, rate)
        muffled = np.convolve(samples, np.ones(16) / 16, mode="same")
        soundfile.write(folder / "recordings" / f"{take}.helmet.wav", muffled, rate)
    return folder


@pytest.fixture(scope="module")
def run_directory(project: Path, bcfusion: Callable[..., Any]) -> Path:
    """The run that the page's own commands make, of two training steps."""
    typed = {words[1]: words[2:] for words in commands("extending.md")}
    bcfusion("prepare", *typed["prepare"])
    bcfusion("train", *typed["train"], *QUICK, *GAME)
    [run] = (project / "runs" / "bone_to_air" / "helmet").iterdir()
    return run


@pytest.mark.slow
def test_the_project_of_the_page_trains_and_is_measured_by_its_own_metric(run_directory: Path) -> None:
    with (run_directory / "quality" / "test.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["system"] for row in rows} >= {"enhanced", "input"}
    assert all(-10 <= float(row["segmental_snr"]) <= 35 for row in rows)
    assert (run_directory / "bundle" / "generator.safetensors").is_file()


@pytest.mark.slow
def test_the_adapter_of_the_page_splits_by_speaker_and_describes_its_layout(
    project: Path, run_directory: Path, bcfusion: Callable[..., Any]
) -> None:
    lines = (project / "helmet.jsonl").read_text().splitlines()
    assert len(lines) == 6
    assert all('"body"' in line and "headset" in line for line in lines)
    assert "ROOT/SPEAKER-TAKE.headset.wav" in bcfusion("prepare", "helmet.corpus", "--help").stdout


@pytest.mark.slow
def test_the_check_of_the_page_measures_the_network(bcfusion: Callable[..., Any]) -> None:
    [typed] = [words[1:] for words in commands("extending.md") if words[1] == "check"]
    assert "511 samples (31.9 ms), in frames of" in " ".join(bcfusion(*typed).stdout.split())


@pytest.mark.slow
def test_the_metric_that_knows_the_utterance_scores_the_marked_part_of_the_marked_ones(
    project: Path, run_directory: Path, bcfusion: Callable[..., Any]
) -> None:
    ids = [json.loads(line)["id"] for line in (project / "helmet.jsonl").read_text().splitlines()]
    tested = {row["id"] for row in csv.DictReader((run_directory / "quality" / "test.csv").read_text().splitlines())}
    marked, *others = sorted(tested)
    assert tested < set(ids)
    (project / "labels.csv").write_text(f"id,start,end\n{marked},0,1000\n")  # cut at the end: the whole utterance
    [typed] = [words[2:] for words in commands("extending.md") if words[1] == "evaluate"]
    bcfusion("evaluate", *[str(run_directory) if word == "RUN" else word for word in typed], "output=scored")
    rows = list(csv.DictReader((project / "scored" / "scores.csv").read_text().splitlines()))
    assert {row["id"] for row in rows} == tested
    assert others
    for row in rows:
        if row["id"] == marked:
            assert row["labelled_snr"] == row["segmental_snr"]
        else:
            assert row["labelled_snr"] == ""
            assert "nothing marked" in row["skipped"]


# ---------------------------------------------------------------- the classes, by their contracts


@pytest.fixture
def example(project: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], Any]:
    monkeypatch.syspath_prepend(str(project))

    def take(file: str, name: str) -> Any:
        return runpy.run_path(str(project / "helmet" / file))[name]

    return take


def test_the_network_of_the_page_streams_and_declares_its_delay(example: Callable[[str, str], Any]) -> None:
    torch.manual_seed(0)
    network = example("network.py", "FrameMapper")(in_channels=2, n_fft=64, channels=8).eval()
    inputs = 0.1 * torch.randn(2, 2, 640)
    with torch.inference_mode():  # it starts near the last sensor
        assert (network(inputs) - inputs[:, 1:]).square().mean() < 0.1 * inputs[:, 1:].square().mean()
    network(inputs).square().mean().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in network.parameters())
    assert measured_delay(network) == network.delay == 63
    with torch.inference_mode(), network.streaming(2):
        streamed = torch.cat([network(chunk) for chunk in inputs.split(32, dim=-1)], dim=-1)
    with torch.inference_mode():
        whole = network(inputs)
    late = network.lookahead
    torch.testing.assert_close(streamed[..., late:], whole[..., :-late], atol=1e-4, rtol=1e-4)


def test_the_loss_of_the_page_ignores_padding_and_is_finite_on_silence(example: Callable[[str, str], Any]) -> None:
    loss = example("loss.py", "EnvelopeLoss")()
    target = torch.randn(1, 1, 1000, generator=torch.Generator().manual_seed(0))
    twice = loss(2 * target, target, torch.tensor([1000]))
    assert twice.item() == pytest.approx(20 * np.log10(2), abs=0.01)  # dB
    padded = torch.nn.functional.pad(target, (0, 700), value=1.0)
    torch.testing.assert_close(loss(2 * padded, padded, torch.tensor([1000])), twice)
    silence = torch.zeros(1, 1, 1000, requires_grad=True)
    loss(silence, target, torch.tensor([1000])).backward()
    assert silence.grad is not None
    assert torch.isfinite(silence.grad).all()


def test_the_metric_of_the_page_is_the_ratio_in_dB(example: Callable[[str, str], Any]) -> None:
    metric = example("metric.py", "SegmentalSnr")()
    target = np.random.default_rng(0).standard_normal(16000) * 0.1
    assert metric.score(1.1 * target, target, 16000)["segmental_snr"] == pytest.approx(20, abs=0.01)
    assert metric.score(target, target, 16000)["segmental_snr"] == 35
    with pytest.raises(Skip, match="target is silent"):
        metric.score(target, np.zeros(16000), 16000)


def test_the_metric_that_knows_the_utterance_is_asked_by_its_id(
    example: Callable[[str, str], Any], project: Path, tmp_path: Path
) -> None:
    (tmp_path / "labels.csv").write_text("id,start,end\na,0.5,1\n")
    metric = example("labelled.py", "LabelledSnr")(tmp_path / "labels.csv")
    assert isinstance(metric, ItemMetric)
    assert isinstance(metric, Metric)
    target = np.random.default_rng(0).standard_normal(16000) * 0.1
    estimate = np.concatenate([np.zeros(8000), 1.1 * target[8000:]])  # wrong only where nothing is marked
    assert metric.score_item("a", estimate, target, 16000)["labelled_snr"] == pytest.approx(20, abs=0.01)
    with pytest.raises(Skip, match="nothing marked"):
        metric.score_item("b", estimate, target, 16000)


# ---------------------------------------------------------------- curves


@pytest.mark.slow
def test_the_tags_of_the_page_are_those_that_are_logged(run_directory: Path) -> None:
    rows = re.findall(r"^\| `([^`]+)` \|", (ROOT / "docs" / "curves.md").read_text(), flags=re.MULTILINE)
    patterns = [re.sub(r"<\w+>", "*", tag) for tag in rows]
    with (run_directory / "metrics.csv").open() as file:
        logged = next(csv.reader(file))[1:]
    assert not [tag for tag in logged if not any(fnmatchcase(tag, pattern) for pattern in patterns)]
    assert not [pattern for pattern in patterns if not any(fnmatchcase(tag, pattern) for tag in logged)]


@pytest.mark.slow
def test_the_sounds_and_pictures_of_the_page_are_in_tensorboard(run_directory: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run_directory))
    events.Reload()
    tags = events.Tags()
    page = (ROOT / "docs" / "curves.md").read_text()
    for tag in (*tags["audio"], *tags["images"]):
        assert f"`{tag}`" in page
    assert set(re.findall(r"`(sample_0/\w+)`", page)) == {*tags["audio"], *tags["images"]}


# ---------------------------------------------------------------- streaming


@pytest.mark.slow
@pytest.mark.parametrize(
    ("page", "name"), [(page, name) for page in ("streaming.md", "enhance.md") for name in titled(page)]
)
def test_the_code_of_a_page_runs(page: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from bcfusion.generators.seanet import SEANet

    arguments: dict[str, Any] = {
        "in_channels": 2,
        "channels": 2,
        "bottleneck_channels": 4,
        "strides": [2, 4],
        "causal": True,
    }
    torch.manual_seed(0)
    network = SEANet(**arguments)
    config = {"_target_": "bcfusion.generators.seanet.SEANet", **arguments}
    save_bundle(tmp_path / "bundle", network, config, ["body", "noisy"], {})
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).write_text(titled(page)[name])
    if "sherpa_onnx" in titled(page)[name]:
        pytest.importorskip("onnxscript")
        pytest.importorskip("sherpa_onnx")
        mono = {**arguments, "in_channels": 1, "strides": [2, 4, 20]}
        save_bundle(tmp_path / "mono", SEANet(**mono), {**config, **mono}, ["body"], {})
        assert export(["mono", "--runtime", "sherpa-onnx", "--output", "denoiser.onnx"]) == 0
        runpy.run_path(name)
        return
    if "onnxruntime" in titled(page)[name]:
        pytest.importorskip("onnxscript")
        pytest.importorskip("onnxruntime")
        assert export(["bundle", "--output", "model.onnx"]) == 0
        left = runpy.run_path(name)
        with torch.inference_mode():
            whole = network.eval()(torch.from_numpy(left["recording"])[None])
        np.testing.assert_allclose(left["restored"], whole[0, 0].numpy(), atol=1e-4)
        return
    left = runpy.run_path(name)
    bundle = bundle_of(left["generator"])
    assert bundle is not None
    assert bundle.sensors == ["body", "noisy"]
    if "result" in left:
        assert left["result"].target.is_file()
    if "restored" in left:
        assert left["restored"].shape[-1] in (left["recording"].shape[-1] if "recording" in left else 400000,)


@pytest.mark.slow
def test_what_the_streaming_page_lists_for_a_bundle_is_in_it(run_directory: Path, project: Path) -> None:
    text = (ROOT / "docs" / "streaming.md").read_text()
    [row] = re.findall(r"^\| `config.yaml` \| (.*) \|$", text, flags=re.MULTILINE)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(project))
        patch.setenv("BCFUSION_TRUST", "helmet")
        generator = load_generator(run_directory / "bundle")
    for name in re.findall(r"`(\w+)`", row):
        assert hasattr(generator.bundle, name), name
    assert isinstance(generator, WaveformNetwork)
    assert generator.causal
    assert generator.delay == generator.lookahead + generator.hop - 1
