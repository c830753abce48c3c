"""Every entry of conf/generator fulfils the Generator contract, for one sensor and for two."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import Tensor, nn

from bcfusion.contracts import Generator
from bcfusion.nn.streaming import StreamingModule

FILES = sorted((Path(__file__).parents[2] / "conf" / "generator").glob("*.yaml"))
SENSORS = (["body"], ["body", "air"])
SAMPLE_RATE = 16000


def build(path: Path, sensors: list[str]) -> nn.Module:
    registered = OmegaConf.has_resolver("n_sensors")
    if not registered:
        OmegaConf.register_new_resolver("n_sensors", len)
    try:
        root = {"sample_rate": SAMPLE_RATE, "task": {"sensors": sensors}, "generator": OmegaConf.load(path)}
        torch.manual_seed(0)
        model: nn.Module = instantiate(OmegaConf.create(root).generator).eval()
    finally:
        if not registered:
            OmegaConf.clear_resolver("n_sensors")
    return model


@pytest.fixture(scope="module", params=list(product(FILES, SENSORS)), ids=lambda p: f"{p[0].stem}-{len(p[1])}")
def model(request: pytest.FixtureRequest) -> nn.Module:
    path, sensors = request.param
    return build(path, sensors)


def estimate(model: nn.Module, inputs: Tensor) -> Tensor:
    output = model(inputs)
    tensor = output["estimate"] if isinstance(output, dict) else output
    assert isinstance(tensor, Tensor)
    return tensor


def speech_like(model: nn.Module, samples: int, batch: int = 1) -> Tensor:
    assert isinstance(model, Generator)
    noise = torch.randn(batch, model.in_channels, samples, generator=torch.Generator().manual_seed(1))
    return 0.07 * noise  # -23 dBFS


def test_the_group_is_not_empty() -> None:
    assert {"seanet", "seanet_streaming"} <= {path.stem for path in FILES}


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_the_file_opens_with_its_command_and_explains_every_key(path: Path) -> None:
    lines = path.read_text().splitlines()
    assert lines[0].startswith("# bcfusion "), "the first line is the command that uses the file"
    silent = [line for line in lines if ":" in line and not line.startswith(("#", "_target_")) and " #" not in line]
    assert not silent, "keys without a comment"


def test_it_declares_what_the_trainer_needs_to_know(model: nn.Module) -> None:
    assert isinstance(model, Generator)
    assert model.sample_rate == SAMPLE_RATE
    assert model.in_channels in {len(sensors) for sensors in SENSORS}
    assert model.hop >= 1
    assert model.delay >= 0
    assert "estimate" not in model.provides


def test_any_length_comes_back_with_the_same_length(model: nn.Module) -> None:
    assert isinstance(model, Generator)
    with torch.inference_mode():
        for samples in sorted({1, 2, 7, model.hop - 1, model.hop, model.hop + 1, 3 * model.hop + 5} - {0}):
            y = estimate(model, speech_like(model, samples, batch=2))
            assert y.shape == (2, 1, samples)
            assert y.isfinite().all()


def test_it_gives_exactly_what_it_provides(model: nn.Module) -> None:
    assert isinstance(model, Generator)
    output = model(speech_like(model, 2000))
    assert (set(output) if isinstance(output, dict) else {"estimate"}) == {"estimate", *model.provides}


def test_silence_gives_finite_output_and_gradients(model: nn.Module) -> None:
    estimate(model, torch.zeros_like(speech_like(model, 2000))).square().sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
    model.zero_grad()


def test_every_parameter_is_used(model: nn.Module) -> None:
    estimate(model, speech_like(model, 4000)).square().sum().backward()
    dead = [name for name, p in model.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]
    model.zero_grad()
    assert not dead


def test_an_item_does_not_depend_on_its_neighbours_in_the_batch(model: nn.Module) -> None:
    batch = speech_like(model, 3000, batch=3)
    with torch.inference_mode():
        torch.testing.assert_close(estimate(model, batch)[1:2], estimate(model, batch[1:2]), atol=1e-5, rtol=1e-4)


def test_no_output_depends_on_an_input_later_than_the_delay(model: nn.Module) -> None:
    assert isinstance(model, Generator)
    start = -(-2 * model.delay // model.hop) * model.hop + 8 * model.hop
    inputs = speech_like(model, start + model.delay + 4 * model.hop)
    reached = []
    with torch.inference_mode():
        for phase in sorted({0, 1, model.hop // 3, model.hop // 2, model.hop - 1}):
            poisoned = inputs.clone()
            poisoned[..., start + phase :] = torch.nan
            bad = ~estimate(model, poisoned)[0, 0].isfinite()
            assert bad.any()
            reached.append(start + phase - int(bad.int().argmax()))
    assert max(reached) <= model.delay
    assert max(reached) > model.delay - model.hop, "the declared delay is longer than it needs to be"


def test_a_causal_network_streams_to_the_same_output(model: nn.Module) -> None:
    assert isinstance(model, Generator)
    if not (model.causal and isinstance(model, StreamingModule)):
        pytest.skip("not a streaming network")
    inputs = speech_like(model, 12 * model.hop)
    with torch.inference_mode():
        whole = estimate(model, inputs)
        with model.streaming(1):
            chunks = [estimate(model, chunk) for chunk in inputs.split(3 * model.hop, dim=-1)]
    torch.testing.assert_close(torch.cat(chunks, dim=-1), whole, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_weights_carry_over_to_a_new_instance(path: Path) -> None:
    first, second = build(path, ["body"]), build(path, ["body"])
    with torch.no_grad():
        for p in first.parameters():
            p.mul_(1.1)
    inputs = speech_like(first, 1500)
    second.load_state_dict(first.state_dict())
    with torch.inference_mode():
        torch.testing.assert_close(estimate(second, inputs), estimate(first, inputs))
