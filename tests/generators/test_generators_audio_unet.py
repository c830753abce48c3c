from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bcfusion.errors import ConfigError
from bcfusion.generators.audio_unet import AudioUNet, DownsamplingBlock, SubPixelShuffle, UpsamplingBlock
from bcfusion.nn.conv import Conv1d

PAPERS_FORMULA = (128, 256, 512, 512)
TINY: dict[str, Any] = {"channels": (4, 6), "kernel_sizes": (5, 3)}


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def test_it_has_the_published_numbers_of_parameters() -> None:
    """The 71.0 M in the table of the EBEN paper need a second width of 384, as in the authors' later training; the
    formula in the paper has 256 there and makes 56.4 M, to which the LSTMs of TFiLM add 11.8 M."""
    with torch.device("meta"):
        assert parameters(AudioUNet()) == 70_977_154
        plain = parameters(AudioUNet(channels=PAPERS_FORMULA))
        tfilm = parameters(AudioUNet(channels=PAPERS_FORMULA, tfilm_block=256))
        assert plain == 56_411_394
        # torch's LSTM: four gates, from input and from state, with two biases
        assert tfilm - plain == sum(8 * c * c + 8 * c for c in (*PAPERS_FORMULA, 512, *PAPERS_FORMULA))
        assert tfilm == 68_234_498


def test_the_look_ahead_of_the_published_sizes() -> None:
    with torch.device("meta"):
        plain, tfilm = AudioUNet(), AudioUNet(channels=PAPERS_FORMULA, tfilm_block=256)
        whole_file = AudioUNet(channels=PAPERS_FORMULA, tfilm_block=256, tfilm_bidirectional=True)
    assert (plain.hop, plain.delay) == (32, 712)
    assert (tfilm.hop, tfilm.delay) == (256, 2342)
    assert whole_file.delay is None


@pytest.mark.parametrize("tfilm_block", [None, 8, 24])
def test_the_delay_is_exactly_how_far_a_nan_reaches(tfilm_block: int | None) -> None:
    model = AudioUNet(**TINY, tfilm_block=tfilm_block).eval()
    assert model.delay is not None
    start = model.hop * (2 + model.delay // model.hop)
    x = torch.zeros(model.hop, 1, start + 2 * model.hop)
    for phase in range(model.hop):
        x[phase, 0, start + phase] = torch.nan
    with torch.inference_mode():
        first_bad = model(x).isnan()[:, 0].int().argmax(dim=1)
    assert int((start + torch.arange(model.hop) - first_bad).max()) == model.delay


def test_a_bidirectional_network_depends_on_the_end_of_the_file() -> None:
    torch.manual_seed(0)
    x = 0.07 * torch.randn(1, 1, 160, dtype=torch.float64)
    other = torch.cat([x[..., :-8], -x[..., -8:]], dim=-1)
    for bidirectional in (True, False):
        model = AudioUNet(**TINY, tfilm_block=8, tfilm_bidirectional=bidirectional).double().eval()
        with torch.inference_mode():
            assert torch.equal(model(x)[..., :8], model(other)[..., :8]) == (not bidirectional)


def convolve(layer: Conv1d, x: Tensor) -> Tensor:
    return F.conv1d(F.pad(x, (layer.kernel_size // 2,) * 2), layer.weight, layer.bias)


@pytest.mark.parametrize("tfilm_block", [None, 8])
def test_it_matches_the_network_of_the_paper(tfilm_block: int | None) -> None:
    torch.manual_seed(0)
    model = AudioUNet(**TINY, in_channels=2, tfilm_block=tfilm_block).double().eval()
    x = 0.07 * torch.randn(2, 2, 64, dtype=torch.float64)

    def modulate(block: DownsamplingBlock | UpsamplingBlock, h: Tensor) -> Tensor:
        return block.film(h) if block.film is not None else h

    h, skips = x / 0.07, []
    for block in (*model.encoder, model.bottleneck):
        assert isinstance(block, DownsamplingBlock)
        h = modulate(block, F.leaky_relu(convolve(block.conv, h)[..., ::2], 0.2))
        skips.append(h)
    skips.pop()
    for block in model.decoder:
        assert isinstance(block, UpsamplingBlock)
        even, odd = F.relu(convolve(block.conv, h)).chunk(2, dim=1)
        h = torch.cat([modulate(block, torch.stack([even, odd], -1).flatten(2)), skips.pop()], dim=1)
    even, odd = convolve(model.last, h).chunk(2, dim=1)
    expected = x[:, -1:] + 0.07 * torch.stack([even, odd], -1).flatten(2)
    with torch.inference_mode():
        torch.testing.assert_close(model(x), expected, atol=1e-12, rtol=0)


def test_the_shuffle_interleaves_without_copying() -> None:
    even, odd = torch.randn(2, 3, 5), torch.randn(2, 3, 5)
    x = torch.cat([even, odd], dim=1).transpose(1, 2).contiguous().transpose(1, 2)  # channels last
    y = SubPixelShuffle()(x)
    assert torch.equal(y[..., ::2], even)
    assert torch.equal(y[..., 1::2], odd)
    assert y.data_ptr() == x.data_ptr()


def test_half_of_the_decoders_features_are_dropped_in_training_only() -> None:
    torch.manual_seed(0)
    model, x = AudioUNet(channels=(16, 16), kernel_sizes=(5, 3)), 0.07 * torch.randn(1, 1, 4096)
    shares: list[float] = []
    model.decoder[-1].register_forward_hook(lambda *seen: shares.append(float((seen[2] == 0).float().mean())))
    with torch.inference_mode():
        first, second = model.train()(x), model(x)
        assert not torch.equal(first, second)
        assert torch.equal(model.eval()(x), model(x))
    # ReLU sets half of the remaining ones to zero
    assert abs(shares[0] - 0.75) < 0.1
    assert abs(shares[2] - 0.5) < 0.15


def test_the_output_starts_from_the_chosen_sensor() -> None:
    x = 0.07 * torch.randn(1, 2, 700)
    for skip in (0, -1):
        model = AudioUNet(**TINY, in_channels=2, skip_channel=skip, init_output_scale=1e-6)
        torch.testing.assert_close(model(x), x[:, skip].unsqueeze(1), atol=1e-5, rtol=0)


@pytest.mark.parametrize("tfilm_block", [None, 256])
def test_an_untrained_network_is_the_input_and_a_small_correction(tfilm_block: int | None) -> None:
    torch.manual_seed(0)
    model = AudioUNet(channels=(16, 32, 32, 32), tfilm_block=tfilm_block).eval()
    decay = 0.95 ** torch.arange(199, -1, -1.0)
    x = F.conv1d(torch.randn(1, 1, 8192 + 199), decay.view(1, 1, -1))  # falls by 6 dB per octave, as speech does
    x = 0.07 * x / x.std()
    with torch.inference_mode():
        correction = model(x) - x
    assert 0.01 < correction.square().mean().sqrt() / 0.07 < 0.5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"channels": (4, 4)}, "one per entry of channels"),
        ({"kernel_sizes": (65, 33, 17, 8)}, "must be odd"),
        ({"dropout": 1.0}, "dropout=1.0"),
        ({"tfilm_block": 100}, "tfilm_block=100 must be a multiple of 32"),
        ({"tfilm_bidirectional": True}, "without tfilm_block"),
        ({"speech_level": 0.0}, "speech_level=0.0"),
    ],
    ids=str,
)
def test_invalid_sizes_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        AudioUNet(**arguments)
