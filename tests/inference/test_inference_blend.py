from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bcfusion.errors import ConfigError
from bcfusion.generators.seanet import SEANet
from bcfusion.inference.blend import Blend, blended, input_share
from bcfusion.inference.chunks import is_streamable
from bcfusion.inference.enhance import enhance_signal
from bcfusion.inference.stepping import TorchStepper
from bcfusion.nn.delay import Delay
from bcfusion.nn.network import WaveformNetwork
from bcfusion.nn.recurrent import GRU
from bcfusion.nn.streaming import StreamingError
from bcfusion.run.bundle import bundle_of, load_generator, save_bundle


class Late(WaveformNetwork):
    """Causal, 7 samples late, in frames of 5, with an unbounded memory."""

    def __init__(self, skip_channel: int = -1) -> None:
        super().__init__(1000, 2, hop=5, causal=True, lookahead=7, skip_channel=skip_channel)
        torch.manual_seed(0)
        self.layer, self.wait = GRU(2, 4), Delay(7)

    def body(self, inputs: Tensor) -> Tensor:
        y: Tensor = self.wait(self.layer(inputs.transpose(1, 2)).transpose(1, 2)[:, :1])
        return y


def signal(samples: int, sensors: int = 2) -> Tensor:
    return torch.randn(1, sensors, samples, generator=torch.Generator().manual_seed(samples))


def streamed(network: nn.Module, x: Tensor, frame: int) -> Tensor:
    with torch.inference_mode(), network.streaming(1):  # type: ignore[operator]
        return torch.cat([network(chunk) for chunk in x.split(frame, dim=-1)], dim=-1)


@pytest.mark.parametrize("skip_channel", [0, 1, -1])
@pytest.mark.parametrize("strength", [0.0, 0.3])
def test_a_stream_of_the_mixture_is_the_whole_file_late_by_the_lookahead(skip_channel: int, strength: float) -> None:
    network = Late(skip_channel).eval()
    mixture = blended(network, strength)
    x = signal(9 * 5)
    with torch.inference_mode():
        whole, alone = mixture(x), network(x)
    torch.testing.assert_close(whole, (1 - strength) * x[:, [skip_channel]] + strength * alone)
    for frame in (5, 15):
        stream = streamed(mixture, x, frame)
        torch.testing.assert_close(stream[..., 7:], whole[..., :-7], atol=1e-6, rtol=0)
        assert not (1 - strength) * x[:, [skip_channel]].eq(0).any()
        if strength == 0:
            assert torch.equal(stream, torch.nn.functional.pad(x[:, [skip_channel]], (7, 0))[..., : x.shape[-1]])


@pytest.mark.parametrize("samples", [1, 4, 7, 46, 3001])
def test_any_length_and_files_in_chunks(samples: int) -> None:
    mixture, x = blended(Late().eval(), limit_db=12), signal(samples)
    with torch.inference_mode():
        whole = mixture(x)
    assert whole.shape == (1, 1, samples)
    torch.testing.assert_close(enhance_signal(mixture, x[0], 0.5), whole[0], atol=3e-6, rtol=0)


def test_a_mixture_of_a_network_that_is_not_causal_is_aligned() -> None:
    network = SEANet(channels=2, strides=(2, 4), dilations=(1,), bottleneck_channels=4, in_channels=2).eval()
    x = signal(101)
    with torch.inference_mode():
        assert torch.equal(blended(network, 0)(x), x[:, 1:])


def test_full_strength_is_the_network_itself_and_a_limit_a_share() -> None:
    network = Late()
    assert blended(network) is network
    assert blended(network, 1.0, None) is network
    assert input_share(0.25) == 0.75
    assert input_share(limit_db=12) == pytest.approx(0.2512, abs=1e-4)
    assert input_share(limit_db=0) == 1
    mixture = blended(network, limit_db=20)
    assert isinstance(mixture, Blend)
    silent = torch.zeros(1, 1, 20)
    network.forward = lambda inputs: silent  # type: ignore[method-assign]  # it removes everything
    x = signal(20)
    torch.testing.assert_close(mixture(x), 0.1 * x[:, 1:])  # 20 dB below the sensor, and no less


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"strength": -0.1}, "strength=-0.1 must be from 0 to 1"),
        ({"strength": 1.1}, "strength=1.1"),
        ({"strength": float("nan")}, "strength=nan"),
        ({"limit_db": -1.0}, "limit_db=-1 must be at least 0"),
        ({"limit_db": float("nan")}, "limit_db=nan"),
        ({"strength": 0.5, "limit_db": 12.0}, "either a strength or a limit"),
    ],
)
def test_what_is_no_share_is_refused(options: dict[str, float], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        blended(Late(), **options)


def test_the_mixture_has_what_a_generator_has(tmp_path: Path) -> None:
    tiny: dict[str, Any] = {"channels": 2, "strides": [2, 4], "dilations": [1], "bottleneck_channels": 4}
    config = {"_target_": "bcfusion.generators.seanet.SEANet", **tiny, "in_channels": 2}
    network = SEANet(**tiny, in_channels=2)
    loaded = load_generator(save_bundle(tmp_path / "b", network, config, ["body", "noisy"], {}))
    mixture = blended(loaded, 0.5)
    assert bundle_of(mixture) is bundle_of(loaded) is not None
    assert not mixture.training
    assert blended(Late().train(), 0.5).training
    for name in ("sample_rate", "in_channels", "hop", "causal", "delay"):
        assert getattr(mixture, name) == getattr(loaded, name)
    late = blended(Late(), 0.5)
    assert (late.lookahead, late.delay, late.skip_channel) == (7, 11, 1)


def test_a_network_that_keeps_no_state_is_no_stream_in_a_mixture_either() -> None:
    class Plain(nn.Module):
        sample_rate, in_channels, hop, causal, delay, provides = 1000, 1, 1, True, 0, ()

        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.GRU(1, 1, batch_first=True)

        def forward(self, inputs: Tensor) -> Tensor:
            output: Tensor = self.layer(inputs.transpose(1, 2))[0].transpose(1, 2)
            return output

    mixture = blended(Plain().eval(), 0.5)
    assert not is_streamable(mixture)
    with pytest.raises(StreamingError, match="Plain keeps no state from frame to frame"):
        TorchStepper(Plain().eval())
