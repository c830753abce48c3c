"""Steps of streams as pure functions: every state starts from zeros."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from torch import Tensor

from bcfusion.export.onnx_export import export_step
from bcfusion.export.onnx_stepper import OnnxStepper
from bcfusion.export.step import StreamingStep, ready
from bcfusion.generators.conv_tasnet import ConvTasNet
from bcfusion.generators.tasnet import TasNet
from bcfusion.generators.two_branch import TwoBranch
from bcfusion.inference.blend import blended
from bcfusion.inference.stepping import TorchStepper, stream_signal
from bcfusion.nn.network import WaveformNetwork, usual_frame
from bcfusion.nn.norm import FrameLayerNorm
from bcfusion.nn.stft import InverseStft, Stft


class Levelled(WaveformNetwork):
    """Divides by a level that starts from 1 and counts its frames in integers."""

    def __init__(self) -> None:
        super().__init__(8000, 1, 8, causal=True)
        self.scale = torch.nn.Parameter(torch.tensor(0.5))

    def initial_state(self, batch_size: int, like: Tensor) -> dict[str, Tensor]:
        return {"level": like.new_ones(batch_size, 1, 1), "frames": torch.zeros(batch_size, 1, 1, dtype=torch.int64)}

    def body(self, inputs: Tensor) -> Tensor:
        if not self.is_streaming:
            state = self.initial_state(len(inputs), self.scale)
            level, frames = state["level"], state["frames"]
        else:
            level, frames = self.recall("level"), self.recall("frames")
        outputs = []
        for frame in inputs.split(self.hop, dim=-1):
            level, frames = 0.9 * level + 0.1 * frame.abs().amax(-1, keepdim=True), frames + 1
            outputs.append(self.scale * frame / level + 0.01 * frames)
        if self.is_streaming:
            self.replace(level=level, frames=frames)
        return torch.cat(outputs, dim=-1)


@pytest.mark.slow
@pytest.mark.parametrize("packed", [False, True])
def test_a_state_that_starts_elsewhere_is_stored_as_the_difference(packed: bool) -> None:
    pytest.importorskip("onnxscript")
    network = Levelled().eval()
    step = StreamingStep(ready(network), packed)
    assert all(not tensor.any() and tensor.dtype == torch.float32 for tensor in step.zeros())
    x = np.random.default_rng(0).standard_normal((1, 803)).astype(np.float32)
    ours = TorchStepper(network)
    expected = stream_signal(ours, x)
    ours.close()
    with torch.inference_mode():
        whole = network(torch.from_numpy(x)[None])
    assert isinstance(whole, Tensor)
    np.testing.assert_allclose(expected, whole[0, 0], atol=1e-6)
    exported = OnnxStepper(export_step(network, packed=packed).SerializeToString())
    for _ in range(2):  # stream_signal starts anew
        np.testing.assert_allclose(stream_signal(exported, x), expected, atol=1e-5)


def operators(network: torch.nn.Module) -> Counter[str]:
    return Counter(node.op_type for node in export_step(network.eval()).graph.node)


@pytest.mark.slow
def test_a_step_has_one_operator_for_a_normalisation_and_none_for_squares() -> None:
    pytest.importorskip("onnxscript")
    network = TwoBranch(channels=(2, 2), hidden_size=2, num_layers=2, compression=1.0)
    counts = operators(network)
    norms = sum(isinstance(module, FrameLayerNorm) for module in network.modules())
    assert counts["LayerNormalization"] == norms > 0
    assert counts["GRU"] == 2  # one per layer, not one per gate
    assert counts["Pow"] == 2  # the compression of the air's and of the body's spectrum


@pytest.mark.slow
def test_the_transform_of_few_frames_is_a_product() -> None:
    pytest.importorskip("onnxscript")

    class Transformed(WaveformNetwork):
        def __init__(self) -> None:
            super().__init__(16000, 1, 64, causal=True, lookahead=64)
            self.analysis, self.synthesis = Stft(128, 64, 128), InverseStft(128, 64, 128)

        def body(self, inputs: Tensor) -> Tensor:
            real, imag = self.analysis(inputs)
            y: Tensor = self.synthesis(real[:, 0], imag[:, 0])
            return y

    counts = operators(Transformed())  # two frames in a step of 8 ms
    assert (counts["MatMul"], counts["Conv"], counts["ConvTranspose"]) == (1, 0, 1)


def test_a_frame_that_is_not_given_lasts_8_ms_or_what_the_network_declares() -> None:
    assert usual_frame(Levelled()) == 64
    assert usual_frame(TasNet(filters=2, hidden_size=2, num_layers=1, causal=True)) == 640
    small = ConvTasNet(
        filters=4, bottleneck_channels=2, hidden_channels=2, blocks=1, repeats=1, norm="cLN", causal=True
    )
    assert (small.hop, usual_frame(small), usual_frame(blended(small, 0.5, None))) == (8, 512, 512)
    stepper = TorchStepper(small.eval())
    assert (stepper.frame, stepper.lookahead) == (512, 8)
    stepper.close()
