from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor, nn

from bcfusion import audio
from bcfusion.audio.pcm import PlainSound
from bcfusion.errors import AudioError
from bcfusion.generators.seanet import SEANet
from bcfusion.inference.enhance import enhance_file, enhance_signal
from bcfusion.nn.delay import Delay
from bcfusion.nn.network import WaveformNetwork
from bcfusion.nn.recurrent import GRU
from bcfusion.probe import receptive_field
from bcfusion.run.bundle import load_generator, save_bundle

TINY: dict[str, Any] = {"channels": 2, "strides": (2, 4), "dilations": (1, 3), "bottleneck_channels": 4}
RATE = 16000


def seanet(**changes: Any) -> SEANet:
    torch.manual_seed(0)
    network = SEANet(**{**TINY, "init_output_scale": 1.0, **changes})
    return network.eval()


class Simple(nn.Module):
    """``gain`` times the sum of the sensors, sample by sample; keeps the lengths of its inputs."""

    provides: tuple[str, ...] = ()

    def __init__(self, in_channels: int = 1, sample_rate: int = RATE, gain: float = 1.0) -> None:
        super().__init__()
        self.sample_rate, self.in_channels, self.hop, self.causal, self.delay = sample_rate, in_channels, 1, True, 0
        self.gain = gain
        self.lengths: list[int] = []

    def forward(self, inputs: Tensor) -> Tensor:
        if not inputs.isnan().any():  # not the inputs of the probe
            self.lengths.append(inputs.shape[-1])
        return self.gain * inputs.sum(dim=1, keepdim=True)


class FirstSensor(Simple):
    def forward(self, inputs: Tensor) -> Tensor:
        return inputs[:, :1]


class Centred(Simple):
    """Subtract the mean of the input, on which chunks disagree."""

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs - inputs.mean(dim=-1, keepdim=True)


class Recurrent(Simple):
    def __init__(self) -> None:
        super().__init__(sample_rate=1000)
        torch.manual_seed(0)
        self.layer = nn.GRU(1, 4, batch_first=True)
        with torch.no_grad():
            self.layer.bias_ih_l0[4:8] = 4.0  # the update gate stays near one: it remembers about 50 samples

    def forward(self, inputs: Tensor) -> Tensor:
        return self.layer(inputs.transpose(1, 2))[0].transpose(1, 2)[:, :1]


class Broken(Simple):
    def forward(self, inputs: Tensor) -> Tensor:
        return inputs.sum(dim=1, keepdim=True) / 0


def noise(channels: int, samples: int) -> Tensor:
    return 0.1 * torch.randn(channels, samples, generator=torch.Generator().manual_seed(1))


def write(path: Path, samples: Tensor | np.ndarray, rate: int = RATE, subtype: str = "FLOAT") -> Path:
    soundfile.write(path, np.asarray(samples).T, rate, subtype=subtype)
    return path


def error_of(generator: nn.Module, source: Any, target: Path, **options: Any) -> str:
    with pytest.raises(AudioError) as caught:
        enhance_file(generator, source, target, **options)
    assert not target.exists()
    assert not [name for name in os.listdir(target.parent) if name.endswith(".part")]
    assert str(caught.value).count("\n") <= 1
    return str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize("length", [1, 7, 8, 1599, 1600, 1601, 5003])
@pytest.mark.parametrize("changes", [{}, {"causal": True}, {"in_channels": 2}, {"strides": (3, 5)}])
def test_chunks_equal_the_whole(changes: dict[str, Any], length: int) -> None:
    network = seanet(**changes)
    x = noise(network.in_channels, length)
    with torch.no_grad():
        whole = network(x[None])[0]
    assert (whole - x[-1:]).abs().max() > 0.001  # the network does something
    for chunk_seconds in (0.1, 0.004):  # longer and shorter than the receptive field
        torch.testing.assert_close(enhance_signal(network, x, chunk_seconds), whole, rtol=0, atol=1e-5)


def test_training_mode_is_left_and_does_not_matter() -> None:
    network = seanet().train()
    network.register_module("dropout", nn.Dropout(0.5))
    enhance_signal(network, noise(1, 100))
    assert network.training
    assert network.dropout.training


def test_memory_is_that_of_a_chunk() -> None:
    network = Simple()
    enhance_signal(network, noise(1, 100_000), chunk_seconds=0.1)
    assert max(network.lengths[-60:]) <= 1600 + 2 * network.hop


def test_recurrent_network_comes_close_to_one_pass() -> None:
    network, x = Recurrent(), noise(1, 5000)
    with torch.no_grad():
        whole = network(x[None])[0]
    torch.testing.assert_close(enhance_signal(network, x, chunk_seconds=1.0), whole, rtol=0, atol=1e-5)


class Endless(WaveformNetwork):
    """Causal, 7 samples late, in frames of 5, with an unbounded memory."""

    def __init__(self) -> None:
        super().__init__(1000, 2, hop=5, causal=True, lookahead=7)
        torch.manual_seed(0)
        self.layer, self.wait = GRU(2, 4), Delay(7)
        with torch.no_grad():
            self.layer.layers.bias_ih_l0[4:8] = 8.0  # the update gate stays near one

    def body(self, inputs: Tensor) -> Tensor:
        y: Tensor = self.wait(self.layer(inputs.transpose(1, 2)).transpose(1, 2)[:, :1])
        return y


@pytest.mark.slow
@pytest.mark.parametrize("chunk_seconds", [0.005, 0.05, 1.0, 4.0])
@pytest.mark.parametrize("total", [1, 4, 3999, 4000, 9001])
def test_a_causal_network_without_a_bound_streams_to_the_result_of_one_pass(chunk_seconds: float, total: int) -> None:
    network, x = Endless().eval(), torch.randn(2, total, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        whole = network(x[None])[0]
    torch.testing.assert_close(enhance_signal(network, x, chunk_seconds), whole, atol=3e-6, rtol=0)


def test_chunks_that_disagree_are_cross_faded() -> None:
    ramp = torch.linspace(-1, 1, 6 * RATE)[None]
    output = enhance_signal(Centred(), ramp, chunk_seconds=1.0)
    assert output.shape == ramp.shape
    levels = (output - ramp)[0]
    assert levels.max() - levels.min() > 1  # the chunks subtracted very different means
    assert output.diff().abs().max() < 2 * (1 / 3) / (0.25 * RATE)  # yet no sample jumps


def test_signal_that_the_network_cannot_take() -> None:
    with pytest.raises(AudioError, match=r"takes \(1, T\)"):
        enhance_signal(Simple(), noise(2, 10))
    with pytest.raises(AudioError, match=r"takes \(1, T\)"):
        enhance_signal(Simple(), noise(1, 0))
    with pytest.raises(AudioError, match="NaN"):
        enhance_signal(Simple(), torch.full((1, 10), torch.nan))


@pytest.mark.slow
def test_file_equals_signal_and_is_read_piece_by_piece(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network, x = seanet(), noise(1, 3 * 60 * RATE + 5)
    source = write(tmp_path / "long.wav", x)
    reads: list[int] = []
    real = PlainSound.read

    def read(self: PlainSound, start: int, frames: int) -> np.ndarray:
        reads.append(frames)
        return real(self, start, frames)

    monkeypatch.setattr(PlainSound, "read", read)
    lengths: list[int] = []
    network.register_forward_hook(lambda _, inputs, output: lengths.append(inputs[0].shape[-1]))
    result = enhance_file(network, source, tmp_path / "out" / "long.wav", chunk_seconds=2.0, subtype="FLOAT")
    surroundings = sum(receptive_field(network) or ()) + 2 * network.hop
    assert len(reads) == 90  # the surroundings of the 90th chunk contain the five extra samples
    assert max(reads) <= 2 * RATE + surroundings
    assert sum(reads) == x.shape[1]
    assert max(lengths) <= 2 * RATE + surroundings
    assert result.seconds == pytest.approx(180, abs=0.001)
    monkeypatch.undo()
    written, rate = soundfile.read(tmp_path / "out" / "long.wav", dtype="float32", always_2d=True)
    assert rate == RATE
    assert written.shape == (x.shape[1], 1)
    expected = enhance_signal(network, x, chunk_seconds=50.0)
    np.testing.assert_allclose(written.T, expected.numpy(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("rate", [44100, 48000, 22050, 8000, 11025])
def test_resampling_by_blocks_equals_that_of_the_whole(tmp_path: Path, rate: int) -> None:
    x = noise(1, 3 * rate + 11)
    source = write(tmp_path / "in.wav", x, rate)
    result = enhance_file(Simple(), source, tmp_path / "out.wav", chunk_seconds=0.37, subtype="FLOAT")
    expected = audio.resample(x, rate, RATE)
    written, out_rate = soundfile.read(tmp_path / "out.wav", dtype="float32", always_2d=True)
    assert out_rate == RATE
    assert len(written) == math.ceil(x.shape[1] * RATE / rate)
    assert result.seconds == len(written) / RATE
    np.testing.assert_allclose(written.T, expected.numpy(), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("rate", "frames"), [(44100, 397_228), (16001, 32_003)])
def test_a_length_that_single_precision_rounds_down_is_restored_whole(tmp_path: Path, rate: int, frames: int) -> None:
    source = write(tmp_path / "in.wav", 0.1 * torch.ones(1, frames), rate, "PCM_16")
    for chunk_seconds in (100.0, 0.9):
        enhance_file(Simple(), source, tmp_path / "out.wav", chunk_seconds=chunk_seconds)
        assert soundfile.info(tmp_path / "out.wav").frames == -(-frames * RATE // rate)
    span = audio.read_span(source, 0, -(-frames * RATE // rate), RATE)
    assert span.shape[1] == -(-frames * RATE // rate)


@pytest.mark.parametrize("extension", ["flac", "ogg", "mp3"])
def test_compressed_files_are_decoded_as_in_one_piece(tmp_path: Path, extension: str) -> None:
    source = tmp_path / f"in.{extension}"
    soundfile.write(source, noise(1, 2 * RATE + 77)[0].numpy(), RATE)
    enhance_file(Simple(), source, tmp_path / "out.wav", chunk_seconds=0.1, subtype="FLOAT")
    written, _ = soundfile.read(tmp_path / "out.wav", dtype="float32")
    np.testing.assert_allclose(written, soundfile.read(source, dtype="float32")[0], rtol=0, atol=1e-6)


def test_another_rate_is_refused_if_resampling_is_off(tmp_path: Path) -> None:
    source = write(tmp_path / "in.wav", noise(1, 100), 44100)
    text = error_of(Simple(), source, tmp_path / "out.wav", resample=False)
    assert "in.wav" in text
    assert "44100 Hz" in text
    assert "16000 Hz" in text
    assert "--no-resample" in text


def test_channels_and_sensors(tmp_path: Path) -> None:
    body, noisy = noise(1, 4000), noise(1, 4000) + 0.5
    one, two = write(tmp_path / "body.wav", body), write(tmp_path / "noisy.wav", noisy)
    both = write(tmp_path / "both.wav", torch.cat([body, noisy]))
    network = FirstSensor(in_channels=2)
    enhance_file(network, both, tmp_path / "a.wav", subtype="FLOAT", chunk_seconds=0.1)
    enhance_file(network, [one, two], tmp_path / "b.wav", subtype="FLOAT", chunk_seconds=0.1)
    enhance_file(network, [two, one], tmp_path / "c.wav", subtype="FLOAT", chunk_seconds=0.1)
    np.testing.assert_array_equal(soundfile.read(tmp_path / "a.wav")[0], body[0].numpy())
    np.testing.assert_array_equal(soundfile.read(tmp_path / "b.wav")[0], body[0].numpy())
    np.testing.assert_array_equal(soundfile.read(tmp_path / "c.wav")[0], noisy[0].numpy())

    assert "both.wav has 2 channels, the model takes 1" in error_of(Simple(), both, tmp_path / "x.wav")
    assert "body.wav has 1 channel, the model takes 2" in error_of(network, one, tmp_path / "x.wav")
    assert "a mono file for each sensor" in error_of(network, [one, both], tmp_path / "x.wav")
    assert "3 files for a model of 2 sensors" in error_of(network, [one, two, one], tmp_path / "x.wav")


@pytest.mark.parametrize(("apart", "refused"), [(0.01, False), (0.5, False), (0.51, True)])
def test_sensors_that_end_together_are_restored_as_far_as_all_reach(
    tmp_path: Path, apart: float, refused: bool
) -> None:
    short, long = (
        write(tmp_path / "s.wav", noise(1, 800)),
        write(tmp_path / "l.wav", noise(1, 800 + round(RATE * apart))),
    )
    network = FirstSensor(in_channels=2)
    if refused:
        text = error_of(network, [short, long], tmp_path / "x.wav")
        for words in ("l.wav (0.560 s)", "s.wav (0.050 s)", "differ in length by more than 0.5 s"):
            assert words in text
        return
    result = enhance_file(network, [long, short], tmp_path / "x.wav")
    assert (result.seconds, result.cut) == (0.05, pytest.approx(apart))
    assert soundfile.info(tmp_path / "x.wav").frames == 800


def test_sensors_of_a_bundle_are_named(tmp_path: Path) -> None:
    config = {
        "_target_": "bcfusion.generators.seanet.SEANet",
        **TINY,
        "strides": [2, 4],
        "dilations": [1, 3],
        "in_channels": 2,
    }
    network = load_generator(save_bundle(tmp_path / "b", seanet(in_channels=2), config, ["body", "noisy"], {}))
    assert "(body, noisy)" in error_of(network, write(tmp_path / "in.wav", noise(1, 100)), tmp_path / "out.wav")


def test_channels_of_a_file_are_chosen(tmp_path: Path) -> None:
    x = torch.stack([torch.full((4000,), level) for level in (0.1, 0.2, 0.3)])
    x[0, 7] = torch.nan  # in a channel that nobody reads
    three, mono = write(tmp_path / "three.wav", x), write(tmp_path / "mono.wav", x[1:2])
    network = FirstSensor(in_channels=2)
    for channels in ((2, 1), (1, 1)):
        enhance_file(network, three, tmp_path / "a.wav", subtype="FLOAT", channels=channels, chunk_seconds=0.1)
        np.testing.assert_allclose(soundfile.read(tmp_path / "a.wav")[0], x[channels[0]], rtol=1e-6)
    enhance_file(Simple(), three, tmp_path / "a.wav", subtype="FLOAT", channels=[2])
    np.testing.assert_allclose(soundfile.read(tmp_path / "a.wav")[0], x[2], rtol=1e-6)
    target = tmp_path / "x.wav"
    assert "three.wav has 3 channels, and no channel 4" in error_of(network, three, target, channels=[3, 0])
    assert "has 1 channel, and no channel 2" in error_of(network, mono, target, channels=[1, 0])
    assert "1 channels for a model of 2 sensors" in error_of(network, three, target, channels=[1])
    assert "2 files for a model of 2 sensors" in error_of(network, [mono, mono], target, channels=[0, 0])
    assert "--channels NAME=N,... to choose" in error_of(network, three, target)


def test_nan_is_reported_with_its_time(tmp_path: Path) -> None:
    x = noise(1, 2 * RATE)
    x[0, 24000] = torch.nan
    text = error_of(Simple(), write(tmp_path / "in.wav", x), tmp_path / "out.wav", chunk_seconds=0.1)
    assert "in.wav" in text
    assert "1.500 s" in text


def test_file_that_was_cut(tmp_path: Path) -> None:
    source = tmp_path / "in.flac"
    soundfile.write(source, noise(1, 4 * RATE)[0].numpy(), RATE)
    source.write_bytes(source.read_bytes()[:40000])
    text = error_of(Simple(), source, tmp_path / "out.wav", chunk_seconds=0.5)
    assert "in.flac" in text
    assert "truncated" in text or "damaged" in text
    assert "does not exist" in error_of(Simple(), tmp_path / "absent.wav", tmp_path / "out.wav")


def test_samples_beyond_full_scale_are_counted_and_nothing_is_clipped_unless_asked(tmp_path: Path) -> None:
    source = write(tmp_path / "in.wav", np.array([[0.1, 0.6, -0.7, 0.5]]))
    loud, target = Simple(gain=2.0), tmp_path / "out.wav"
    expected = {
        "scale": [0.2 / 1.4, 1.2 / 1.4, -1.0, 1.0 / 1.4],
        "limit": [0.2 / 1.4, 1.2 / 1.4, -1.0, 1.0 / 1.4],  # one gain, for a file shorter than the limiter's window
        "clip": [0.2, 1.0, -1.0, 1.0],
    }
    for peak, samples in expected.items():
        result = enhance_file(loud, source, target, peak=peak)
        assert (result.overs, result.peak) == (2, pytest.approx(1.4))
        assert result.gain == pytest.approx(1 if peak == "clip" else 1 / 1.4, abs=0.01)
        np.testing.assert_allclose(soundfile.read(target)[0], samples, atol=0.01 if peak == "limit" else 1e-4)
    assert enhance_file(loud, source, target).gain == pytest.approx(1 / 1.4)  # the default of PCM_16
    assert soundfile.info(target).subtype == "PCM_16"
    assert enhance_file(loud, source, target, subtype="FLOAT").overs == 2
    np.testing.assert_allclose(soundfile.read(target)[0], [0.2, 1.2, -1.4, 1.0], atol=1e-6)
    assert "--peak keep: PCM_16 cannot hold more than full scale" in error_of(
        loud, source, tmp_path / "x.wav", peak="keep"
    )


def test_target_that_cannot_be_written(tmp_path: Path) -> None:
    source = write(tmp_path / "in.wav", noise(1, 100))
    assert "out.xyz: --format xyz: there is no such format" in error_of(Simple(), source, tmp_path / "out.xyz")
    assert "as FLOAT: FLAC takes PCM_S8, PCM_16, PCM_24" in error_of(
        Simple(), source, tmp_path / "out.flac", subtype="FLOAT"
    )
    with pytest.raises(AudioError, match="cannot write"):
        enhance_file(Simple(), source, source / "below_a_file.wav")


def test_failure_leaves_the_old_output(tmp_path: Path) -> None:
    source, target = write(tmp_path / "in.wav", noise(1, 100)), write(tmp_path / "out.wav", noise(1, 3))
    before = target.read_bytes()
    with pytest.raises(AudioError, match=r"out\.wav was not written: the model gave NaN"):
        enhance_file(Broken(), source, target)
    assert target.read_bytes() == before
    assert sorted(os.listdir(tmp_path)) == ["in.wav", "out.wav"]
