"""Steps of streams as pure functions: every state starts from zeros."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from bcfusion.export.onnx_export import export_step
from bcfusion.export.onnx_stepper import OnnxStepper
from bcfusion.export.step import StreamingStep, ready
from bcfusion.inference.stepping import TorchStepper, stream_signal
from bcfusion.nn.network import WaveformNetwork


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
