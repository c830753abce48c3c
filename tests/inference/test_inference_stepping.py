from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from bcfusion.errors import ConfigError
from bcfusion.export.onnx_export import export_step
from bcfusion.export.onnx_stepper import OnnxStepper
from bcfusion.generators.seanet import SEANet
from bcfusion.inference.blend import blended
from bcfusion.inference.stepping import Stepper, TorchStepper, stream_signal
from bcfusion.nn.network import WaveformNetwork
from bcfusion.nn.streaming import StreamingError


class Half(WaveformNetwork):
    def __init__(self) -> None:
        super().__init__(8000, 1, 8, causal=True)

    def body(self, inputs: torch.Tensor) -> torch.Tensor:
        return 0.5 * inputs


TINY: dict[str, Any] = {
    "channels": 2,
    "strides": (2, 4),
    "dilations": (1, 3),
    "bottleneck_channels": 4,
    "in_channels": 2,
}


@pytest.fixture(scope="module")
def network() -> SEANet:
    torch.manual_seed(0)
    return SEANet(**TINY, causal=True, init_output_scale=1.0).eval()


def signal(samples: int) -> np.ndarray:
    return np.random.default_rng(samples).standard_normal((2, samples)).astype(np.float32)


@pytest.mark.parametrize("share", [1.0, 0.4])
@pytest.mark.parametrize("hops", [1, 3])
@pytest.mark.parametrize("samples", [1, 7, 8, 9, 203])
def test_frames_of_a_signal_of_any_length_give_what_the_whole_gives(
    network: SEANet, samples: int, hops: int, share: float
) -> None:
    x, generator = signal(samples), blended(network, share)
    with torch.inference_mode():
        whole = generator(torch.from_numpy(x)[None])[0, 0].numpy()
    stepper = TorchStepper(generator, hops * network.hop)
    try:
        for _ in range(2):  # the second time as if it were the first
            output = stream_signal(stepper, x)
            assert output.shape == (samples,)
            assert output.dtype == np.float32
            np.testing.assert_allclose(output, whole, rtol=0, atol=1e-5)
    finally:
        stepper.close()


def test_a_reset_forgets_and_without_it_the_past_matters(network: SEANet) -> None:
    stepper, x = TorchStepper(network), signal(network.hop)
    try:
        first = stepper.step(x)
        assert first.shape == (network.hop,)
        assert not np.array_equal(stepper.step(x), first)
        stepper.reset()
        np.testing.assert_array_equal(stepper.step(x), first)
    finally:
        stepper.close()


def test_while_it_is_open_the_network_streams_and_afterwards_it_takes_files(network: SEANet) -> None:
    stepper = TorchStepper(network)
    assert (stepper.sample_rate, stepper.frame, stepper.sensors) == (16000, 128, ("sensor1", "sensor2"))
    assert stepper.lookahead == network.lookahead
    with pytest.raises(StreamingError, match="streaming already"):
        TorchStepper(network)
    stepper.close()
    assert not network.is_streaming
    TorchStepper(network).close()


@pytest.mark.parametrize("frame", [0, -8, 7, 12])
def test_a_frame_that_is_no_multiple_of_the_hop_is_refused(network: SEANet, frame: int) -> None:
    with pytest.raises(ConfigError, match="is not a multiple of the network's hop, 8 samples"):
        TorchStepper(network, frame)
    assert not network.is_streaming


def test_a_network_that_is_not_causal_is_refused_with_the_layer() -> None:
    with pytest.raises(StreamingError, match="is not causal and cannot stream"):
        TorchStepper(SEANet(**TINY).eval())


@pytest.mark.parametrize("runtime", ["torch", pytest.param("onnxruntime", marks=pytest.mark.slow)])
def test_a_sound_that_has_faded_out_is_computed_as_silence(runtime: str) -> None:
    # numbers below 1.2e-38 take some CPUs twenty times as long
    if runtime == "onnxruntime":
        pytest.importorskip("onnxscript")
        stepper: Stepper = OnnxStepper(export_step(Half().eval(), frame=64).SerializeToString())
    else:
        stepper = TorchStepper(Half().eval(), frame=64)
    one = torch.ones(())
    for level, expected in ((1.0, 0.5), (1e-39, 0.0), (1e-30, 5e-31)):
        assert stepper.step(np.full((1, 64), level, dtype=np.float32)) == pytest.approx(expected, abs=0.0, rel=1e-6)
        assert one * 1e-39 != 0, "the thread computes as before"
    stepper.close()
