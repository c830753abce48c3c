from __future__ import annotations

import json
import re
import signal
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import yaml
from torch import Tensor, nn

from bcfusion.commands import exit_status
from bcfusion.commands import export as commands_export
from bcfusion.commands.export import main
from bcfusion.errors import AudioError, ExportError
from bcfusion.export import verification, writing
from bcfusion.export.metadata import Metadata
from bcfusion.export.onnx_stepper import OnnxStepper, open_session
from bcfusion.export.step import ready
from bcfusion.export.torch_program import ProgramStepper, load_program
from bcfusion.inference.stepping import TorchStepper, stream_signal
from bcfusion.nn.network import WaveformNetwork, estimate_of
from bcfusion.nn.recurrent import GRU, LSTM
from bcfusion.nn.stft import InverseStft, Stft
from bcfusion.report.table import size_text
from bcfusion.run.bundle import load_generator, save_bundle

pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")

RATE, HOP = 16000, 64


class Gains(WaveformNetwork):
    """A gain for each bin of the last sensor, from the logarithms of all sensors."""

    def __init__(self, in_channels: int = 1, causal: bool = True) -> None:
        super().__init__(RATE, in_channels, HOP, causal, lookahead=HOP)
        self.stft = Stft(2 * HOP, HOP, 2 * HOP, "sqrt_hann", in_channels)
        self.istft = InverseStft(2 * HOP, HOP, 2 * HOP, "sqrt_hann")
        self.lstm = LSTM(in_channels * (HOP + 1), 24, bidirectional=not causal, causal=causal)
        self.gru = GRU(self.lstm.output_size, 16)
        self.linear = nn.Linear(16, HOP + 1)

    def body(self, inputs: Tensor) -> Tensor:
        real, imag = self.stft(inputs)
        levels = (real.square() + imag.square() + 1e-8).log().flatten(1, 2)
        gains = self.linear(self.gru(self.lstm(levels.transpose(1, 2)))).sigmoid().transpose(1, 2)
        result: Tensor = self.istft(gains * real[:, -1], gains * imag[:, -1])
        return result


@pytest.fixture(autouse=True)
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(verification, "SECONDS", 1.5)
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    for name, count, causal in (("model", 1, True), ("two", 2, True), ("files", 1, False)):
        config = {"_target_": f"{__name__}.Gains", "in_channels": count, "causal": causal}
        save_bundle(tmp_path / name, Gains(count, causal), config, ["body", "noisy"][:count], {"recipe": "mine"})
    return tmp_path


def run(*argv: str) -> int:
    return exit_status(main, list(argv))


def speech(sensors: int, samples: int = 1000) -> np.ndarray:
    noise = 0.1 * np.random.default_rng(3).standard_normal((sensors, samples))
    noise[:, 400:700] = 0
    return noise.astype(np.float32)


def whole(model: str, x: np.ndarray) -> np.ndarray:
    with torch.inference_mode():
        y: np.ndarray = estimate_of(load_generator(model)(torch.from_numpy(x)[None]))[0, 0].numpy()
    return y


@pytest.mark.slow
def test_a_causal_network_becomes_a_step_that_onnxruntime_runs(
    workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    card = {"format": 1, "summary": "A test.", "licence": "MIT", "data": [{"name": "Speech", "licence": "CC BY 4.0"}]}
    (workplace / "two" / "card.yaml").write_text(yaml.safe_dump(card))
    assert run("two", "--sidecar") == 0
    stepper = OnnxStepper("two.onnx")
    assert (stepper.sample_rate, stepper.sensors, stepper.frame, stepper.lookahead) == (
        RATE,
        ("body", "noisy"),
        128,
        64,
    )
    x = speech(2)
    np.testing.assert_allclose(stream_signal(stepper, x), whole("two", x), atol=1e-5)
    np.testing.assert_allclose(stream_signal(stepper, x), whole("two", x), atol=1e-5)  # it starts anew
    stored = open_session("two.onnx")[0].get_modelmeta().custom_metadata_map
    assert stored["bcfusion.kind"] == "stream"
    assert stored["bcfusion.delay"] == str(2 * HOP - 1)
    assert json.loads(stored["bcfusion.origin"]) == {"recipe": "mine"}
    assert [each["licence"] for each in json.loads(stored["bcfusion.licence"])] == ["MIT", "CC BY 4.0"]
    sidecar = json.loads(Path("two.json").read_text())
    assert sidecar["states"] == json.loads(stored["bcfusion.states"])
    assert [state["input"] for state in sidecar["states"]] == state_names("two")
    report = capsys.readouterr().out
    assert "Gains, fp32" in report
    assert "PESQ of the network" in report
    assert "loss 0.000; the reference is the speech itself" in report
    assert "STOI of the network" in report
    assert "real-time factor" in report


def state_names(model: str) -> list[str]:
    generator = load_generator(model)
    assert isinstance(generator, WaveformNetwork)
    with generator.streaming(1):
        return list(generator.get_state())


@pytest.mark.slow
def test_a_packed_state_is_one_vector_and_a_frame_may_be_several_hops() -> None:
    assert run("model", "--pack", "--frame", "192", "--output", "packed.onnx") == 0
    session, metadata = open_session("packed.onnx")
    assert [each.name for each in session.get_inputs()] == ["x", "state"]
    assert [each.name for each in session.get_outputs()] == ["y", "state.next"]
    assert metadata.packed
    assert metadata.states[0].shape == (1, HOP + HOP + 24 + 24 + 16)
    x = speech(1)
    np.testing.assert_allclose(stream_signal(OnnxStepper("packed.onnx"), x), whole("model", x), atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("model", ["model", "files"])
def test_whole_files_of_any_length(model: str) -> None:
    assert run(model, "--whole", "--output", "whole.onnx") == 0
    session, metadata = open_session("whole.onnx")
    assert (metadata.kind, metadata.frame, metadata.states) == ("whole", 0, ())
    for length in (1, 63, 64, 1000):
        x = speech(1)[:, :length]
        np.testing.assert_allclose(session.run(["y"], {"x": x[None]})[0][0, 0], whole(model, x), atol=1e-5)


@pytest.mark.slow
def test_smaller_weights_make_a_smaller_file_that_sounds_alike(capsys: pytest.CaptureFixture[str]) -> None:
    x, sizes = speech(1), {}
    for precision in ("fp32", "fp16", "int8"):
        assert run("model", "--precision", precision, "--output", f"{precision}.onnx") == 0
        stepper = OnnxStepper(f"{precision}.onnx")
        assert stepper.metadata.precision == precision
        error = stream_signal(stepper, x) - whole("model", x)
        assert np.abs(error).max() < (1e-5 if precision == "fp32" else 0.02)
        sizes[precision] = Path(f"{precision}.onnx").stat().st_size
        report = capsys.readouterr().out
        assert f"Gains, {precision}, {size_text(sizes[precision])}" in report
        if precision != "fp32":
            assert f" (fp32: {size_text(sizes['fp32'])})" in report
            assert re.search(r"real-time factor [\d.]+ \(fp32: [\d.]+\) in onnxruntime", report)
    assert sizes["fp16"] < sizes["fp32"]
    assert sizes["int8"] < sizes["fp32"]


def test_smaller_weights_that_gain_nothing_are_called_so() -> None:
    def exported(size: int, factor: float, float32: tuple[int, float] | None = (1000, 0.1)) -> bool:
        verified = verification.Verified(0.0, 1.0, factor)
        return writing.Exported(Path("a.onnx"), size, METADATA, verified, float32).gains_nothing

    assert exported(990, 0.1)
    assert not exported(500, 0.2)
    assert not exported(1000, 0.05)
    assert not exported(1000, 0.1, None)


METADATA = Metadata("stream", RATE, HOP, HOP, 0, HOP - 1, ("body",), 0)


@pytest.mark.slow
def test_strength_and_limit_are_part_of_the_graph() -> None:
    x = speech(1)
    assert run("model", "--strength", "0.25", "--output", "weak.onnx") == 0
    weak = OnnxStepper("weak.onnx")
    np.testing.assert_allclose(stream_signal(weak, x), 0.75 * x[0] + 0.25 * whole("model", x), atol=1e-5)
    assert weak.metadata.strength_share == 0.75
    assert weak.metadata.network == "Gains"
    assert run("model", "--limit-db", "20", "--whole", "--output", "limited.onnx") == 0
    session, metadata = open_session("limited.onnx")
    assert metadata.strength_share == pytest.approx(0.1)
    limited = session.run(["y"], {"x": x[None]})[0][0, 0]
    np.testing.assert_allclose(limited, 0.1 * x[0] + 0.9 * whole("model", x), atol=1e-5)


@pytest.mark.slow
def test_a_program_of_torch_runs_without_the_network() -> None:
    assert run("model", "--format", "torch", "--output", "model.pt2") == 0
    module, metadata = load_program(Path("model.pt2"))
    assert metadata.sensors == ("body",)
    x = speech(1)
    np.testing.assert_allclose(stream_signal(ProgramStepper(module, metadata), x), whole("model", x), atol=1e-5)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--whole", "--frame", "64"], "--whole has no frame"),
        (["--whole", "--pack"], "--whole has no state to pack"),
        (["--whole", "--format", "torch"], "--whole is for ONNX files"),
        (["--precision", "int8", "--format", "torch"], "--precision int8 is for ONNX files"),
        (["--opset", "999"], "--opset 999 is not known: give 18 to "),
        (["--opset", "17"], "--opset 17 lacks what networks need: give 18 or a later one"),
        (["--whole", "--runtime", "sherpa-onnx"], "--whole does not go with --runtime sherpa-onnx"),
    ],
)
def test_what_does_not_go_together_is_refused(
    options: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("model", *options) == 2
    assert reason in capsys.readouterr().err


@pytest.mark.slow
def test_a_later_opset_gives_the_same() -> None:
    assert run("model", "--opset", "20", "--output", "later.onnx") == 0
    x = speech(1)
    np.testing.assert_allclose(stream_signal(OnnxStepper("later.onnx"), x), whole("model", x), atol=1e-5)


@pytest.mark.slow
def test_a_file_that_does_not_do_what_the_network_does_is_not_written(
    workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("model.onnx").write_bytes(b"before")
    monkeypatch.setattr(writing, "TOLERANCE", 1e-12)
    assert run("model", "--overwrite", "--sidecar") == 2
    assert "differs from the network by" in capsys.readouterr().err
    assert Path("model.onnx").read_bytes() == b"before"
    assert sorted(path.name for path in workplace.iterdir()) == ["files", "model", "model.onnx", "two"]


@pytest.mark.slow
def test_an_opset_that_cannot_be_reached_is_refused_without_a_traceback(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writing, "newest_opset", lambda: 999)
    assert run("model", "--opset", "999") == 2
    printed = "".join(capsys.readouterr())
    assert "Traceback" not in printed
    assert "opset" in printed
    assert not Path("model.onnx").exists()


def test_neither_file_is_replaced_unless_wished(capsys: pytest.CaptureFixture[str]) -> None:
    Path("model.json").write_text("mine")
    assert run("model", "--sidecar") == 2
    assert "model.json exists: give another --output, or --overwrite" in capsys.readouterr().err
    assert Path("model.json").read_text() == "mine"
    assert not Path("model.onnx").exists()


def test_both_files_appear_or_none(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def program(network: nn.Module, part: Path, *others: object) -> tuple[object, ...]:
        part.write_bytes(b"whole")
        return METADATA, verification.Verified(0.0, 1.0, 0.1), None

    monkeypatch.setattr(writing, "_write_onnx", program)
    Path("model.json").mkdir()
    assert run("model", "--sidecar", "--overwrite") == 2  # a folder cannot be replaced by a file
    assert sorted(path.name for path in workplace.iterdir()) == ["files", "model", "model.json", "two"]
    Path("model.json").rmdir()
    monkeypatch.setattr(commands_export, "_lines", lambda *_: [])
    assert run("model", "--sidecar") == 0
    assert json.loads(Path("model.json").read_text())["hop"] == HOP
    assert run("model", "--overwrite") == 0
    assert not Path("model.json").exists(), "it would describe an earlier model"
    Path("model.json").write_text('{"mine": 1}')
    assert run("model", "--overwrite") == 0
    assert Path("model.json").read_text() == '{"mine": 1}'
    save_bundle(workplace / "run.v2", Gains(), {"_target_": f"{__name__}.Gains"}, ["body"], {})
    assert run("run.v2") == 0
    assert Path("run.v2.onnx").is_file(), "the name is cut at a dot"


def test_it_leaves_nothing_when_it_is_ended(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def program(network: nn.Module, part: Path, *others: object) -> tuple[object, ...]:
        part.write_bytes(b"half")
        signal.raise_signal(signal.SIGTERM)
        return METADATA, verification.Verified(0.0, 1.0, 0.1), None

    monkeypatch.setattr(writing, "_write_onnx", program)
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        with pytest.raises(SystemExit) as ended:
            main(["model"])
    finally:
        signal.signal(signal.SIGTERM, before)
    assert ended.value.code == 128 + signal.SIGTERM
    assert sorted(path.name for path in workplace.iterdir()) == ["files", "model", "two"]


def test_strength_and_limit_are_not_given_together(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("model", "--strength", "0.5", "--limit-db", "12") == 2
    assert "give either a strength or a limit in dB" in capsys.readouterr().err


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_network_of_nan_or_infinity_is_compared_without_warnings(value: float) -> None:
    class Broken(nn.Module):
        sample_rate, in_channels, hop = RATE, 1, HOP

        def forward(self, x: Tensor) -> Tensor:
            return torch.full_like(x, value)

    def restore(x: np.ndarray) -> np.ndarray:
        return np.full(x.shape[-1], value, dtype=np.float32)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        same = verification.verify_whole(Broken(), restore, speech(1))
        other = verification.verify_whole(Broken(), lambda x: -x[0], speech(1))
    assert (same.difference, same.peak) == (0, 0)
    assert other.difference == np.inf
    with pytest.raises(ExportError, match="not finite"):
        other.require(1)


def test_a_reference_is_the_clean_speech_of_a_recording(capsys: pytest.CaptureFixture[str]) -> None:
    generator = load_generator("model")
    soundfile.write("clean.wav", np.sin(np.arange(8000) / 9), 8000)
    assert verification.check_reference(Path("clean.wav"), generator, 16000).shape == (16000,)
    for length, channels, reason in ((4000, 1, "clean.wav has 0.500 s, the recording 1.000 s"), (8000, 2, "is mono")):
        soundfile.write("clean.wav", np.zeros((length, channels)), 8000)
        with pytest.raises(AudioError, match=reason):
            verification.check_reference(Path("clean.wav"), generator, 16000)
    with pytest.raises(SystemExit):
        run("model", "--reference", "clean.wav")
    assert "give --check, too" in capsys.readouterr().err


@pytest.mark.parametrize("clean", [None, "clean"])
def test_the_scores_of_network_and_file_have_the_same_reference(clean: str | None) -> None:
    class Same(nn.Module):
        sample_rate, in_channels, hop = RATE, 1, HOP

        def forward(self, x: Tensor) -> Tensor:
            return x

    noisy, target = verification.speech_of(Same())
    noisy += (0.01 * np.random.default_rng(0).standard_normal(noisy.shape)).astype(np.float32)
    noise = 0.02 * np.random.default_rng(1).standard_normal(noisy.shape[1:], np.float32)

    def restore(x: np.ndarray) -> np.ndarray:
        return x[0] + noise[: x.shape[-1]]

    found = verification.verify_whole(Same(), restore, noisy, target if clean else None)
    assert found.reference == (clean or "network")
    assert (found.own_scores["pesq_wb"] > 4.6) == (clean is None)
    assert found.scores["pesq_wb"] < found.own_scores["pesq_wb"]
    assert found.scores["stoi"] < found.own_scores["stoi"]


@pytest.mark.slow
def test_the_comparison_uses_a_recording_of_the_user(capsys: pytest.CaptureFixture[str]) -> None:
    soundfile.write("mine.wav", speech(1, 8000).T, 8000)
    assert run("two", "--check", "mine.wav") == 2
    assert "mine.wav has 1 channels, the model takes 2" in capsys.readouterr().err
    assert run("model", "--check", "mine.wav") == 0
    report = capsys.readouterr().out
    assert "noise and mine.wav" in report
    assert "the reference is the network's own output" in report


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["files"], "Gains is not causal and cannot stream: export it as a graph for whole files (--whole)"),
        (["model", "--frame", "100"], "a frame of 100 samples is not a multiple of the network's hop, 64 samples"),
        (["model", "--whole", "--pack"], "--whole has no state to pack"),
        (["model", "--format", "torch", "--precision", "int8"], "--precision int8 is for ONNX files"),
        (["model", "--output", "taken.onnx"], "taken.onnx exists: give another --output, or --overwrite"),
        (["nothing"], "nothing"),
    ],
)
def test_what_cannot_be_exported_is_refused_with_the_reason(
    argv: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("taken.onnx").touch()
    assert run(*argv) == 2
    assert message in capsys.readouterr().err
    assert [path.name for path in Path().glob("*.onnx")] == ["taken.onnx"]


def test_the_network_itself_is_left_as_it_was() -> None:
    generator = load_generator("model")
    before = {name: tensor.clone() for name, tensor in generator.state_dict().items()}
    stepper = TorchStepper(ready(generator))
    stepper.close()
    after = generator.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
