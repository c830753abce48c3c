"""Networks in the stock package sherpa-onnx: its denoisers give what our stream gives, sample by sample."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from bcfusion.contracts import Generator
from bcfusion.errors import ConfigError, ExportError
from bcfusion.export import verification
from bcfusion.export.metadata import Precision, parse_metadata
from bcfusion.export.onnx_stepper import OnnxStepper
from bcfusion.export.sherpa import SherpaStep, default_frame, export_sherpa, takes_spectra
from bcfusion.export.sherpa_stepper import SherpaStepper
from bcfusion.export.verification import speech_of, verify_step
from bcfusion.export.writing import Wishes, export_file
from bcfusion.generators.band_gain import BandGain
from bcfusion.generators.bsrnn import BSRNN
from bcfusion.generators.seanet import SEANet
from bcfusion.inference.blend import blended
from bcfusion.inference.stepping import Frames, TorchStepper, stream_signal

RATE = 16000
SEANET: dict[str, Any] = {"channels": 2, "dilations": [1], "bottleneck_channels": 4, "causal": True}
BANDS: dict[str, Any] = {
    "channels": 8,
    "layers": 1,
    "rnn_channels": 8,
    "mlp_channels": 8,
    "causal": True,
    "window": "sqrt_hann",
}


def seanet(**others: Any) -> nn.Module:
    return SEANet(**{**SEANET, "strides": [2, 4, 20], **others})


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "waveform": seanet,
    "spectrum": lambda: BSRNN(**BANDS),
    "blend of spectra": lambda: blended(BSRNN(**BANDS), 0.6),
    "blend of waveforms": lambda: blended(seanet(), limit_db=12),
    "another window": lambda: BandGain(
        hidden_size=8, n_feature_bands=40, n_bands=20, bidirectional=False, normalisation="running"
    ),
}


@pytest.fixture(scope="module", params=NETWORKS)
def network(request: pytest.FixtureRequest) -> nn.Module:
    torch.manual_seed(0)
    return NETWORKS[request.param]().eval()


@pytest.fixture(scope="module")
def model(network: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    path = tmp_path_factory.mktemp("sherpa") / "model.onnx"
    onnx.save(export_sherpa(network), path)
    return path


def settings(model: Path) -> Any:
    sherpa = pytest.importorskip("sherpa_onnx")
    gtcrn = sherpa.OfflineSpeechDenoiserGtcrnModelConfig(str(model))
    return sherpa.OfflineSpeechDenoiserModelConfig(gtcrn=gtcrn, num_threads=1)


def streamed(network: nn.Module, signal: Frames) -> Frames:
    stepper = TorchStepper(network)
    try:
        return stream_signal(stepper, signal[None])
    finally:
        stepper.close()


@pytest.mark.slow
def test_both_denoisers_of_sherpa_onnx_give_what_our_stream_gives(network: nn.Module, model: Path) -> None:
    sherpa = pytest.importorskip("sherpa_onnx")
    step = SherpaStep(network)
    hop, n_fft = step.hop_length, step.n_fft
    signal = 0.1 * np.random.default_rng(0).standard_normal(RATE + 37).astype(np.float32)

    online = sherpa.OnlineSpeechDenoiser(sherpa.OnlineSpeechDenoiserConfig(model=settings(model)))
    assert (online.sample_rate, online.frame_shift_in_samples) == (RATE, hop)
    chunks = [online(signal[start : start + 700], RATE).samples for start in range(0, len(signal), 700)]
    heard = np.concatenate([*chunks, online.flush().samples]).astype(np.float32)
    assert isinstance(network, Generator)
    assert network.delay is not None
    late = network.delay - network.hop + 1 - hop  # the first frame is left out, or is the overlap of frames
    assert equal_from(0, heard, streamed(network, signal), late, len(signal) - n_fft - hop)

    offline = sherpa.OfflineSpeechDenoiser(sherpa.OfflineSpeechDenoiserConfig(model=settings(model)))
    heard = np.asarray(offline(signal, RATE).samples, np.float32)
    # a file starts with half a frame of its own mirror image; of overlapped frames the first one lies in it as a whole,
    # ours half before it, which a recurrent network has forgotten after half a second
    mirrored = np.pad(signal, n_fft // 2, mode="reflect")
    late += 2 * hop - n_fft - n_fft // 2
    start = 0 if step.kind == "waveform" else RATE // 2
    assert equal_from(start, heard, streamed(network, mirrored), late, len(signal) - 2 * n_fft)


def equal_from(start: int, heard: Frames, wanted: Frames, late: int, stop: int) -> bool:
    """Whether ``heard`` is ``wanted``, ``late`` samples later, between two samples."""
    heard, wanted = heard[max(late, 0) :][start:stop], wanted[max(-late, 0) :][start:stop]
    assert len(heard) > RATE // 4
    assert np.abs(wanted).max() > 0.01
    return np.allclose(heard, wanted, rtol=0, atol=2e-6)


@pytest.mark.slow
def test_our_own_transforms_around_the_graph_give_the_same(network: nn.Module, model: Path) -> None:
    stepper = SherpaStepper(model)
    verified = verify_step(network, stepper, *speech_of(network))
    assert verified.difference < 1e-5
    assert verified.peak > 0.01


@pytest.mark.slow
def test_a_model_is_exported_for_sherpa_onnx_in_each_precision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxscript")
    monkeypatch.setattr(verification, "SECONDS", 1.5)
    torch.manual_seed(0)
    network = seanet(channels=8, bottleneck_channels=64).eval()
    precisions: tuple[Precision, ...] = ("fp32", "fp16", "int8")
    done = {}
    for precision in precisions:
        file = tmp_path / f"{precision}.onnx"
        exported = export_file(network, file, Wishes(runtime="sherpa-onnx", precision=precision, frame=320))
        done[precision] = exported
        assert (exported.metadata.kind, exported.metadata.frame) == ("sherpa-onnx", 320)
        assert (exported.verified.difference < 1e-5) == (precision == "fp32")
        assert settings(file) is not None
        assert SherpaStepper(file).metadata == exported.metadata
    assert done["int8"].size < done["fp16"].size < done["fp32"].size
    plain = export_file(network, tmp_path / "step.onnx", Wishes(precision="int8", frame=320))
    # the transforms around the network are as exact as before
    assert done["int8"].verified.difference == pytest.approx(plain.verified.difference, rel=0.5)
    with pytest.raises(ExportError, match="is not for sherpa-onnx"):
        SherpaStepper(tmp_path / "step.onnx")
    with pytest.raises(ExportError, match="is for sherpa-onnx: export a causal network without --runtime sherpa-onnx"):
        OnnxStepper(tmp_path / "fp32.onnx")


def test_what_does_not_go_with_sherpa_onnx_is_refused_at_once() -> None:
    wishes = Wishes(runtime="sherpa-onnx", whole=True, packed=True, format="torch")
    for option in ("--whole", "--pack", "--format torch"):
        assert f"{option} does not go with --runtime sherpa-onnx" in wishes.problems()


@pytest.mark.slow
def test_the_metadata_holds_what_sherpa_onnx_reads_and_ours(network: nn.Module, model: Path) -> None:
    onnx = pytest.importorskip("onnx")
    stored = {entry.key: entry.value for entry in onnx.load(model).metadata_props}
    assert stored["model_type"] == "gtcrn"
    assert stored["window_type"] == ("hann_sqrt" if takes_spectra(network) else "rectangular")
    shape = [int(each) for each in stored["conv_cache_shape"].split(",")]
    ours = parse_metadata(stored, model)
    assert ours.kind == "sherpa-onnx"
    assert [list(state.shape) for state in ours.states] == [shape, [1], [1]]
    assert ours.frame == int(stored["hop_length"])
    assert ours.strength_share == getattr(network, "share", 0)


def test_networks_that_do_not_fit_are_refused_with_the_reason() -> None:
    with pytest.raises(ExportError, match="takes 2 sensors; the denoiser of sherpa-onnx has one channel"):
        SherpaStep(seanet(in_channels=2).eval())
    with pytest.raises(ExportError, match="SEANet is not causal"):
        SherpaStep(seanet(causal=False).eval())


def test_a_frame_that_does_not_fit_is_refused_with_the_nearest_that_does() -> None:
    network = seanet(strides=[5, 5]).eval()
    assert network.hop == 25
    assert default_frame(network) == 100  # 5 ms, and even
    assert SherpaStep(network).hop_length == 100
    with pytest.raises(ConfigError, match="an even multiple of the network's hop, 25 samples; the nearest is 150"):
        SherpaStep(network, 125 + 15)
    assert SherpaStep(network, 150).n_fft == 150
    spectral = BSRNN(**BANDS).eval()
    assert SherpaStep(spectral).kind == SherpaStep(spectral, 256).kind == "spectrum"
    assert SherpaStep(spectral, 512).kind == "waveform"


def test_additional_look_ahead_needs_waveforms() -> None:
    ahead = BSRNN(**BANDS, lookahead_ms=40).eval()
    assert not takes_spectra(ahead)
    assert SherpaStep(ahead).kind == "waveform"


def test_a_network_whose_hops_are_cheaper_together_gets_the_frame_that_it_declares() -> None:
    network = seanet(strides=[5, 5]).eval()
    network.least_frame = 0.02
    assert default_frame(network) == 350  # of 25, even
