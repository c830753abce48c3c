"""Steps of streams as pure functions: every state starts from zeros."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from torch import Tensor

from bcfusion.export.onnx_export import ELEMENTWISE, export_step
from bcfusion.export.onnx_stepper import OnnxStepper
from bcfusion.export.step import StreamingStep, ready
from bcfusion.generators.bsrnn import BSRNN
from bcfusion.generators.conv_tasnet import ConvTasNet
from bcfusion.generators.dccrn import DCCRN
from bcfusion.generators.eben import EBEN
from bcfusion.generators.tasnet import TasNet
from bcfusion.generators.two_branch import TwoBranch
from bcfusion.inference.blend import blended
from bcfusion.inference.stepping import TorchStepper, stream_signal
from bcfusion.nn.conv import Conv1d, ConvTranspose1d, remove_weight_norm
from bcfusion.nn.conv2d import Conv2d, ConvTranspose2d
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

    step = export_step(Transformed().eval())  # two frames in a step of 8 ms
    counts = Counter(node.op_type for node in step.graph.node)
    assert (counts["MatMul"], counts["Conv"], counts["ConvTranspose"]) == (4, 0, 0)  # two steps of each transform
    assert sum(np.prod(each.dims) for each in step.graph.initializer) < 128 * 130 / 2, "no matrix of the transform"


class Layered(WaveformNetwork):
    """A layer for each ``hop`` of the waveform, whose values are its channels."""

    def __init__(self, *layers: torch.nn.Module, hop: int = 64, frames: int = 8) -> None:
        super().__init__(8000, 1, hop, causal=True)
        self.layers, self.least_frame = torch.nn.Sequential(*layers), frames * hop / 8000

    def body(self, inputs: Tensor) -> Tensor:
        x = inputs.unflatten(2, (-1, self.hop)).transpose(2, 3).squeeze(1)  # (B, hop, frames)
        y: Tensor = self.layers(x)
        return y.transpose(1, 2).flatten(1).unsqueeze(1)


def assert_the_step_is_the_stream(network: WaveformNetwork) -> Counter[str]:
    """Compare 20 frames, and return the operators of the step."""
    network = network.eval()
    exported, ours = export_step(network), TorchStepper(network)
    signal = np.random.default_rng(0).standard_normal((1, 20 * ours.frame)).astype(np.float32)
    expected = stream_signal(ours, signal)
    ours.close()
    found = stream_signal(OnnxStepper(exported.SerializeToString()), signal)
    np.testing.assert_allclose(found, expected, atol=1e-5 * float(np.abs(expected).max()))
    return Counter(node.op_type for node in exported.graph.node)


@pytest.mark.slow
@pytest.mark.parametrize("frames", [1, 2, 8, 9])
def test_a_wide_layer_of_few_frames_is_a_product(frames: int) -> None:
    pytest.importorskip("onnxscript")
    torch.manual_seed(0)
    layers = (
        Conv1d(64, 128, 3, dilation=3, causal=True),
        Conv1d(128, 64, 7, causal=True),
        Conv1d(64, 192, 1, causal=True),
        Conv1d(192, 64, 1, causal=True),
    )
    counts = assert_the_step_is_the_stream(Layered(*layers, frames=frames))
    products = counts["MatMul"] + counts["Gemm"]
    assert (counts["Conv"], products) == ((0, 4) if frames <= 8 else (4, 0))


@pytest.mark.slow
@pytest.mark.parametrize("frames", [1, 2, 8, 9])
def test_strides_and_overlaps_of_few_frames_are_products(frames: int) -> None:
    pytest.importorskip("onnxscript")
    torch.manual_seed(0)
    layers = (
        ConvTranspose1d(64, 64, 8, 4, causal=True),
        Conv1d(64, 64, 8, 4, causal=True),
        ConvTranspose1d(64, 64, 8, 4, causal=True),
        Conv1d(64, 64, 4, 4, causal=True),  # without a context
    )
    counts = assert_the_step_is_the_stream(Layered(*layers, frames=frames))
    assert (counts["ConvTranspose"], counts["Conv"]) == ((0, 0) if frames <= 8 else (2, 2))


@pytest.mark.slow
@pytest.mark.parametrize("frames", [1, 2])
@pytest.mark.parametrize(
    ("kernel", "padding"), [((5, 2), (2, 2)), ((5, 2), (2, 1)), ((3, 1), (1, 1)), ((3, 3), (1, 1))]
)
def test_layers_over_spectra_of_one_frame_and_of_two(
    frames: int, kernel: tuple[int, int], padding: tuple[int, int]
) -> None:
    pytest.importorskip("onnxscript")
    torch.manual_seed(0)

    class Spectral(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.down = Conv2d(2, 6, kernel, 32, (2, 1), padding=padding, groups=2, causal=True)
            cut = (self.down.out_bins - 1) * 2 + kernel[0] - padding[0] - 32
            self.up = ConvTranspose2d(6, 2, kernel, self.down.out_bins, 2, (padding[0], cut), causal=True)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.up(self.down(x.unflatten(1, (2, 32)))).flatten(1, 2)
            return y

    counts = assert_the_step_is_the_stream(Layered(Spectral(), frames=frames))
    assert counts["Conv"] == counts["ConvTranspose"] == 1
    if frames == 1 and kernel[1] <= 2:
        assert counts["Concat"] == kernel[1] - 1, "the frame before is joined as channels, and is not cut out again"


@pytest.mark.slow
def test_elu_is_one_operator_of_few_values_and_made_of_fast_ones_of_many() -> None:
    pytest.importorskip("onnxscript")
    few, many = (assert_the_step_is_the_stream(Layered(torch.nn.ELU(), frames=frames)) for frames in (1, 64))
    assert (few["Elu"], few["Exp"], few["Mul"]) == (1, 0, 0)
    assert (many["Elu"], many["Min"], many["Exp"], many["Sub"], many["Max"]) == (0, 1, 1, 1, 1)
    scaled = assert_the_step_is_the_stream(Layered(torch.nn.SELU(), frames=64))
    assert scaled["Exp"] == 0


@pytest.mark.slow
def test_constants_have_the_rank_of_what_they_are_combined_with() -> None:
    """A constant of lower rank beside a tensor of one frame takes fifty times as long in onnxruntime."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    model = export_step(TwoBranch(channels=(2, 2), hidden_size=2, num_layers=2).eval())
    assert not [node for node in model.graph.node if node.op_type == "Constant"], "all of them are seen"
    inferred = onnx.shape_inference.infer_shapes(model).graph
    ranks = {each.name: len(each.type.tensor_type.shape.dim) for each in [*inferred.value_info, *inferred.input]}
    constants = {each.name: len(each.dims) for each in model.graph.initializer}
    pairs = [
        (constants[name], max(ranks[other] for other in node.input if other not in constants))
        for node in model.graph.node
        if node.op_type in ELEMENTWISE
        for name in node.input
        if name in constants
    ]
    assert len(pairs) > 5
    assert all(own == other for own, other in pairs)


@pytest.mark.slow
def test_two_convolutions_without_an_activation_between_them_become_one() -> None:
    pytest.importorskip("onnxscript")
    torch.manual_seed(0)
    network = EBEN(bands=2, channels=4, taps=16, strides=(2, 2), dilations=(1, 3), latent_channels=4, causal=True)
    network = remove_weight_norm(network)
    before = sum(isinstance(module, Conv1d) for module in network.modules())
    weights = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    assert_the_step_is_the_stream(network)
    assert all(torch.equal(tensor, weights[name]) for name, tensor in network.state_dict().items()), "left unchanged"
    once = ready(network)
    merged = sum(isinstance(module, Conv1d) for module in once.modules())
    assert merged == before - 8  # of the two residual units of each of four blocks
    x = torch.randn(1, 1, 40 * network.hop)
    with torch.inference_mode():
        for again in (once, ready(once)):
            torch.testing.assert_close(again(x), network(x), atol=1e-6, rtol=1e-5)


@pytest.mark.slow
def test_the_bands_of_bsrnn_are_batched_products() -> None:
    pytest.importorskip("onnxscript")
    torch.manual_seed(0)
    network = BSRNN(channels=4, layers=1, rnn_channels=4, mlp_channels=4, causal=True)
    counts = assert_the_step_is_the_stream(network)
    assert counts["Einsum"] == 0
    assert counts["LSTM"] == 2


def test_a_frame_that_is_not_given_lasts_8_ms_or_what_the_network_declares() -> None:
    assert usual_frame(Levelled()) == 64
    assert usual_frame(TasNet(filters=2, hidden_size=2, num_layers=1, causal=True)) == 640
    small = ConvTasNet(
        filters=4, bottleneck_channels=2, hidden_channels=2, blocks=1, repeats=1, norm="cLN", causal=True
    )
    assert (small.hop, usual_frame(small), usual_frame(blended(small, 0.5, None))) == (8, 512, 512)
    spectral = DCCRN(channels=(2, 2), lstm_units=2, causal=True)
    assert (spectral.hop, usual_frame(spectral), spectral.lookahead) == (100, 300, 300)  # 37.5 ms together
    stepper = TorchStepper(small.eval())
    assert (stepper.frame, stepper.lookahead) == (512, 8)
    stepper.close()
