"""The consumers in recipes/deploy, where neither torch nor bcfusion can be imported.

BCFUSION_BARE_PYTHON may name the Python of an environment that has numpy and onnxruntime alone, and
BCFUSION_NODE_MODULES a node_modules with onnxruntime-node; ``.ci/run`` makes both. Without the first, this Python runs
with both packages blocked.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from bcfusion.generators.seanet import SEANet
from bcfusion.inference.enhance import enhance_signal
from bcfusion.inference.stepping import Frames

RECIPE = Path(__file__).parents[2] / "recipes" / "deploy"
RATE = 16000
BLOCKED = """
import runpy, sys
class Refuse:
    def find_spec(self, name, *_):
        if name.split(".")[0] in ("torch", "bcfusion"):
            raise ImportError(name)
sys.meta_path.insert(0, Refuse())
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
CASES = {"PCM_16": 61 * RATE + 1237, "PCM_24": 5001, "PCM_32": 1, "FLOAT": 159, "DOUBLE": 4800}  # subtype to length


@pytest.fixture(scope="module")
def network() -> SEANet:
    torch.manual_seed(0)
    return SEANet(
        in_channels=2, channels=2, strides=[2, 4, 20], dilations=[1], bottleneck_channels=4, causal=True
    ).eval()


@pytest.fixture(scope="module", params=[False, True], ids=["named states", "packed"])
def model(network: SEANet, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    return exported(network, tmp_path_factory.mktemp("deploy") / "model.onnx", packed=request.param)


def exported(network: SEANet, path: Path, packed: bool) -> Path:
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    from bcfusion.export.metadata import parse_metadata
    from bcfusion.export.onnx_export import export_step

    program = export_step(network, packed=packed)
    onnx.save(program, path)
    metadata = parse_metadata({entry.key: entry.value for entry in program.metadata_props}, path)
    path.with_suffix(".json").write_text(json.dumps(metadata.plain()))
    return path


def python(*arguments: object) -> list[str]:
    bare = os.environ.get("BCFUSION_BARE_PYTHON")
    start = [bare, "-I"] if bare else [sys.executable, "-I", "-c", BLOCKED]
    return [*start, str(RECIPE / "stream_onnx.py"), *map(str, arguments)]


def node(folder: Path, *arguments: object) -> list[str]:
    modules = os.environ.get("BCFUSION_NODE_MODULES")
    if not modules or shutil.which("node") is None:
        pytest.skip("needs Node.js, and BCFUSION_NODE_MODULES with onnxruntime-node")
    script = folder / "stream_onnx.mjs"  # modules are looked up from where a script lies
    script.write_bytes((RECIPE / script.name).read_bytes())
    if not (folder / "node_modules").exists():
        (folder / "node_modules").symlink_to(Path(modules).resolve())
    return ["node", str(script), *map(str, arguments)]


def recorded(path: Path, subtype: str, channels: int = 2, rate: int = RATE) -> Frames:
    sound = 0.1 * np.random.default_rng(0).standard_normal((CASES[subtype], channels))
    soundfile.write(path, sound, rate, subtype, format="WAVEX" if subtype == "PCM_24" else "WAV")
    read, _ = soundfile.read(path, dtype="float32", always_2d=True)
    return np.asarray(read, np.float32).T


@pytest.mark.slow
@pytest.mark.parametrize("language", ["Python", "JavaScript"])
def test_a_consumer_gives_what_the_whole_file_gives(
    network: SEANet, model: Path, tmp_path: Path, language: str
) -> None:
    for subtype in CASES:
        source, target = tmp_path / f"{subtype}.wav", tmp_path / f"{subtype}.restored.wav"
        sound = torch.from_numpy(recorded(source, subtype))
        command = python(model, source, target) if language == "Python" else node(tmp_path, model, source, target)
        subprocess.run(command, check=True, timeout=300)
        restored, rate = soundfile.read(target, dtype="float32", always_2d=True)
        assert rate == RATE
        with torch.inference_mode():
            wanted = enhance_signal(network, sound)
        assert wanted.abs().max() > 0.01 or len(restored) < 9
        np.testing.assert_allclose(restored.T, wanted.numpy(), rtol=0, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("language", ["Python", "JavaScript"])
@pytest.mark.parametrize(
    ("channels", "rate", "message"),
    [(1, RATE, "has 16000 Hz and 1 channels"), (2, 8000, "has 8000 Hz and 2 channels"), (0, 0, "is not a WAV file")],
)
def test_a_recording_that_does_not_fit_is_refused_and_nothing_is_written(
    model: Path, tmp_path: Path, language: str, channels: int, rate: int, message: str
) -> None:
    source, target = tmp_path / "source.wav", tmp_path / "target.wav"
    if channels:
        recorded(source, "PCM_16", channels, rate)
    else:
        source.write_bytes(b"no sound at all")
    command = python(model, source, target) if language == "Python" else node(tmp_path, model, source, target)
    done = subprocess.run(command, check=False, timeout=300, capture_output=True, text=True)
    assert done.returncode == 1
    assert message in done.stderr
    assert not target.exists()


@pytest.fixture(scope="module")
def plain(network: SEANet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported(network, tmp_path_factory.mktemp("plain") / "model.onnx", packed=False)


@pytest.mark.slow
@pytest.mark.parametrize("language", ["Python", "JavaScript"])
def test_headers_that_lie_and_a_source_that_is_the_target(
    network: SEANet, plain: Path, tmp_path: Path, language: str
) -> None:
    source = tmp_path / "source.wav"
    x = recorded(source, "DOUBLE")  # 4800 samples of 16 bytes
    whole = source.read_bytes()
    place = whole.index(b"data") + 4
    assert len(whole) - place - 4 == 16 * 4800

    def stated(size: int, riff: int) -> bytes:
        head = whole[:4] + riff.to_bytes(4, "little") + whole[8:place]
        return head + size.to_bytes(4, "little") + whole[place + 4 :]

    for content, length, says in (
        (whole, 4800, ""),
        (stated(0xFFFFFFFF, 0xFFFFFFFF), 4800, ""),
        (stated(0x7FFFF000, 0x7FFFF024), 4800, ""),
        (stated(0, 0), 4800, ""),
        (stated(0, len(whole) - 8), 0, ""),
        (whole[:-5], 4799, "source.wav is truncated: 76795 of 76800 bytes of sound are there\n"),
    ):
        source.write_bytes(content)
        command = python(plain, source, source) if language == "Python" else node(tmp_path, plain, source, source)
        done = subprocess.run(command, check=True, timeout=300, capture_output=True, text=True)
        assert done.stderr.removeprefix(f"{tmp_path}/") == says
        restored, _ = soundfile.read(source, dtype="float32", always_2d=True)
        assert restored.shape == (length, 1)
        if length:
            with torch.inference_mode():
                wanted = enhance_signal(network, torch.from_numpy(x[:, :length]))
            np.testing.assert_allclose(restored.T, wanted.numpy(), rtol=0, atol=1e-4)
        assert not source.with_name("source.wav.part").exists()


@pytest.mark.parametrize("script", sorted(RECIPE.glob("stream_*")), ids=lambda path: path.name)
def test_a_consumer_is_short(script: Path) -> None:
    assert len(script.read_text().splitlines()) < 150
